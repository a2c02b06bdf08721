"""Validation of page tables, against Xen's rules; every test ends with all references counted again."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.frames import (
    PGT_l1_page_table,
    PGT_l2_page_table,
    PGT_l3_page_table,
    PGT_l4_page_table,
    PGT_none,
)
from pyvmm.hypervisor.xen_area import M2P_VIRT_START
from pyvmm.machine import PageFault

from .pv_host import RO_FLAGS, RW_FLAGS, TABLE_FLAGS, Guest, Host, audit, snapshot


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    free = host.frames.free_count
    yield host
    audit(host)
    for d in host.domains.values():
        host.mmu.release_domain(d)
    host.frames.check()
    assert host.frames.free_count == free, "frames leaked"


def test_entries_carry_the_bits_that_xen_adds(host: Host) -> None:
    g = Guest(host, 1)
    g.raw(g.l1, 400, g.mfns[9], P.PRESENT | P.RW)  # a kernel page
    g.raw(g.l1, 401, g.mfns[9], P.PRESENT | P.RW | P.USER)
    g.raw(g.l1, 402, g.mfns[9], P.PRESENT | P.USER | P.GUEST_KERNEL)
    g.raw(g.l1, 403, g.mfns[9], P.RW)  # not present: not looked at
    g.raw(g.l2, 1, g.l1, P.PRESENT | P.RW)
    g.start()
    flags = [g.entry(g.l1, i) & ~P.FRAME_MASK for i in range(400, 404)]
    assert flags == [0x1000_0000_0000_07 | 0, 0x107, 0x1000_0000_0000_05, P.RW]
    assert g.entry(g.l2, 1) & ~P.FRAME_MASK == P.PRESENT | P.RW | P.USER
    assert g.entry(g.l4, 0) & ~P.FRAME_MASK == TABLE_FLAGS


def test_types_after_validation(host: Host) -> None:
    g = Guest(host, 1).start()
    types = [host.frames.type_of(m) for m in g.mfns[:5]]
    assert types[:4] == [PGT_l4_page_table, PGT_l3_page_table, PGT_l2_page_table, PGT_l1_page_table]
    assert host.frames.type_count(g.l4) == 2 and host.frames.is_pinned(g.l4)


def test_hypervisor_slots(host: Host) -> None:
    g = Guest(host, 1)
    for i in range(256, 272):
        g.raw(g.l4, i, 0x123, 7)  # is clobbered
    g.start()
    filled = [i for i in range(256, 272) if g.entry(g.l4, i)]
    assert filled == [256, 258, 260, 261, 262]
    data = P.PRESENT | P.RW | P.ACCESSED | P.DIRTY
    flags = [data | P.NX, data | P.NX, data, data | P.NX]
    assert [g.entry(g.l4, i) & ~P.FRAME_MASK for i in filled[1:]] == flags
    assert g.entry(g.l4, 256) & ~P.FRAME_MASK == P.PRESENT | P.USER | P.ACCESSED | P.NX
    assert P.frame_of(g.entry(g.l4, 258)) == g.l4
    walk = host.machine.translate
    cr3 = g.l4 << 12
    pa = walk(M2P_VIRT_START + g.mfns[7] * 8, cr3=cr3)
    assert host.machine.ram.read_u64(pa) == 7
    assert host.machine.ram.read_u64(walk(M2P_VIRT_START + 0x800 * 8, cr3=cr3)) == P.U64
    present = (M2P_VIRT_START, 0xFFFF82C000000000, 0xFFFF82D040200000, 0xFFFF82E000000000, 0xFFFF830000000000)
    absent = (0xFFFF808000000000, 0xFFFF82D000000000, 0xFFFF82D040000000, 0xFFFF880000000000)
    for va, code in [(va, 7) for va in present] + [(va, 6) for va in absent]:
        with pytest.raises(PageFault) as fault:
            walk(va, cr3=cr3, write=True)
        assert fault.value.error_code == code
    firmware = host.machine.firmware_va
    assert firmware is not None
    assert walk(firmware, cr3=cr3, user=False, execute=True) == host.machine.firmware_frame


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        (RO_FLAGS, 0),
        (RW_FLAGS, -errno.EBUSY),
        (RW_FLAGS | P.PWT, -errno.EINVAL),
        (RO_FLAGS | P.PAT, -errno.EINVAL),
        (RO_FLAGS | P.GLOBAL | P.AVAIL | P.AVAIL_HIGH | P.NX, 0),
    ],
)
def test_page_table_in_an_l1_entry(host: Host, flags: int, result: int) -> None:
    g = Guest(host, 1).start()
    assert g.map(0, g.l4, flags) == result


def test_failed_validation_takes_nothing(host: Host) -> None:
    g = Guest(host, 1)
    g.raw(g.l1, 500, g.l3, RW_FLAGS)  # would be writable
    before = snapshot(host)
    assert host.mmu.pin(g.l4, 4, 1) == -errno.EBUSY
    assert snapshot(host) == before
    assert host.frames.type_of(g.l4) == PGT_none
    g.raw(g.l1, 500, 0, 0)
    g.start()


def test_errno_of_a_bad_l1_table(host: Host) -> None:
    other = Guest(host, 2)
    cases = [
        (None, RW_FLAGS | P.PCD, errno.EINVAL),
        (other.mfns[5], RO_FLAGS, errno.EBUSY),
        (0x10, RO_FLAGS, errno.EPERM),
    ]
    for i, (mfn, flags, error) in enumerate(cases):
        g = Guest(host, 10 + i)
        g.raw(g.l1, 500, g.mfns[5] if mfn is None else mfn, flags)
        assert host.mmu.pin(g.l1, 1, g.domain.domid) == -error
        assert host.frames.count(g.mfns[5]) == 1


@pytest.mark.parametrize("bits", [P.PSE, P.PWT, P.PCD, P.GLOBAL])
@pytest.mark.parametrize("level", [2, 3, 4])
def test_flags_refused_above_l1(host: Host, level: int, bits: int) -> None:
    g = Guest(host, 1).start()
    table, below = {2: (g.l2, g.l1), 3: (g.l3, g.l2), 4: (g.l4, g.l3)}[level]
    assert g.set_entry(table, 7, below << 12 | TABLE_FLAGS | bits) == -errno.EINVAL
    assert g.set_entry(table, 7, below << 12 | TABLE_FLAGS) == 0
    audit(host)


def test_wrong_level_and_foreign_tables_are_refused(host: Host) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2)
    assert g.set_entry(g.l3, 9, g.l1 << 12 | TABLE_FLAGS) == -errno.EINVAL
    assert g.set_entry(g.l2, 9, g.mfns[5] << 12 | TABLE_FLAGS) == -errno.EINVAL  # writable
    assert g.set_entry(g.l2, 9, other.mfns[5] << 12 | TABLE_FLAGS) == -errno.EINVAL
    assert g.set_entry(g.l2, 9, 0x7FFFFFF << 12 | TABLE_FLAGS) == -errno.EINVAL


def test_linear_page_tables(host: Host) -> None:
    g = Guest(host, 1).start()
    for pfn in (10, 11):
        assert g.map(pfn, g.mfns[pfn], RO_FLAGS) == 0
    second, third = g.mfns[10], g.mfns[11]
    assert g.set_entry(g.l4, 300, g.l4 << 12 | TABLE_FLAGS) == -errno.EINVAL  # not writable
    assert g.set_entry(g.l4, 300, g.l4 << 12 | RO_FLAGS) == 0  # itself
    assert g.set_entry(g.l4, 301, second << 12 | RO_FLAGS) == 0  # becomes an L3: it is empty
    assert g.set_entry(g.l4, 301, 0) == 0
    assert host.mmu.pin(second, 4, 1) == host.mmu.pin(third, 4, 1) == 0
    assert g.set_entry(g.l4, 301, second << 12 | RO_FLAGS) == 0
    audit(host)
    # One that is mapped maps none; one that maps is not mapped.
    assert g.set_entry(second, 3, third << 12 | RO_FLAGS) == -errno.EINVAL
    assert g.set_entry(third, 3, g.l4 << 12 | RO_FLAGS) == -errno.EINVAL
    assert g.set_entry(g.l4, 301, 0) == 0
    assert g.set_entry(second, 3, third << 12 | RO_FLAGS) == 0
    assert host.mmu.unpin(second, 1) == 0
    assert host.frames.type_count(third) == 1
    audit(host)


def test_self_map_survives_the_end(host: Host) -> None:
    g = Guest(host, 1)
    g.raw(g.l4, 300, g.l4, RO_FLAGS)
    g.start()
    assert g.entry(g.l4, 300) & P.PRESENT


def test_frames_of_others(host: Host) -> None:
    host0, other = Guest(host, 0, privileged=True).start(), Guest(host, 2).start()
    update = xen.HYPERVISOR_update_va_mapping_otherdomain
    args = (host0.va(9), other.mfns[20] << 12 | RW_FLAGS, 0)
    assert host0.map(9, other.mfns[20]) == -errno.EBUSY
    assert host0.call(update, *args, 2) == 0
    audit(host)
    # The mapping keeps the other's frame after its end.
    host.mmu.release_domain(other.domain)
    assert host.frames.pages_of(other.domain) == [other.mfns[20]]
    assert host0.map(9, 0, 0) == 0
    assert not host.frames.holds_frames(2)
    assert host0.call(update, *args, 7) == -errno.ESRCH
    assert host0.call(update, *args, 0) == -errno.ESRCH  # oneself by number
    guest = Guest(host, 3).start()
    assert guest.call(update, guest.va(9), host0.mfns[20] << 12 | RO_FLAGS, 0, 0) == -errno.EPERM


def test_device_memory(host: Host) -> None:
    d0, guest = Guest(host, 0, privileged=True).start(), Guest(host, 1).start()
    assert guest.map(9, 0x10) == -errno.EPERM
    assert guest.map(9, P.INVALID_FRAME) == -errno.EINVAL
    assert d0.map(9, 0x10) == 0
    assert d0.l1_entry(9) & (P.PWT | P.PCD) == P.PWT | P.PCD  # uncached
    assert d0.map(9, 0xFEE00) == -errno.EPERM
    assert d0.map(9, 0xFED00) == 0
    assert d0.map(9, 0xFEC00) == 0 and not d0.l1_entry(9) & P.RW
    assert d0.map(9, d0.mfns[9]) == 0


def test_xen_frames_are_for_the_privileged_and_read_only(host: Host) -> None:
    d0 = Guest(host, 0, privileged=True).start()
    m2p, update = host.xen_area.m2p_frames()[0], xen.HYPERVISOR_update_va_mapping_otherdomain
    assert d0.call(update, d0.va(9), m2p << 12 | RO_FLAGS, 0, xen.DOMID_XEN) == 0
    assert d0.call(update, d0.va(10), m2p << 12 | RW_FLAGS, 0, xen.DOMID_XEN) == -errno.EBUSY
    assert d0.map(10, host.xen_area.zero_mfn, RO_FLAGS) == -errno.EBUSY
    guest = Guest(host, 1).start()
    assert guest.call(update, guest.va(9), m2p << 12 | RO_FLAGS, 0, xen.DOMID_XEN) == -errno.EPERM


def test_special_frames_keep_their_cache_attributes(host: Host) -> None:
    d0 = Guest(host, 0, privileged=True).start()
    (shared,) = host.frames.alloc_xen()
    host.frames.share_with_guest(shared, d0.domain, True)
    assert d0.map(9, shared, RW_FLAGS | P.PCD) == -errno.EACCES
    assert d0.map(9, shared, RW_FLAGS) == 0


def test_new_base_pointers(host: Host) -> None:
    g = Guest(host, 1).start()
    new = g.mfns[12]
    assert g.map(12, new, RO_FLAGS) == 0
    assert host.mmu.new_kernel_base(g.v, g.mfns[13]) == -errno.EINVAL  # writable
    assert host.mmu.new_user_base(g.v, new) == 0 and g.v.l4_user == new
    assert g.entry(new, 256) == 0  # the user's tables do not show the M2P
    audit(host)
    assert host.mmu.new_user_base(g.v, 0) == 0 and host.frames.type_of(new) == PGT_none
    assert host.mmu.unpin(g.l4, 1) == 0
    assert g.set_entry(g.l3, 2, 0) == 0  # still the base
    assert g.map(14, g.mfns[14], RO_FLAGS) == 0
    host.machine.ram.copy(g.mfns[14] << 12, g.l4 << 12, 8)
    assert host.mmu.new_kernel_base(g.v, g.mfns[14]) == 0
    assert host.frames.type_of(g.l4) == PGT_none and host.frames.type_of(g.l3) == PGT_l3_page_table


def test_cr3_follows_the_mode(host: Host) -> None:
    g = Guest(host, 1).start()
    assert g.v.context is not None
    host.mmu.set_cr3(g.v)
    assert host.machine.cr3 == 0  # not current
    host.machine.switch(g.v.context)
    host.mmu.set_cr3(g.v)
    assert host.machine.cr3 == g.l4 << 12
    assert g.map(12, g.mfns[12], RO_FLAGS) == 0
    assert host.mmu.new_user_base(g.v, g.mfns[12]) == 0
    g.v.user_mode = True
    host.mmu.set_cr3(g.v)
    assert host.machine.cr3 == g.mfns[12] << 12


def test_m2p_strict(host: Host) -> None:
    g = Guest(host, 1)
    g.domain.vm_assist = 1 << xen.VMASST_TYPE_m2p_strict
    g.start()
    assert g.entry(g.l4, 256)
    assert host.mmu.new_user_base(g.v, g.l4) == 0
    assert not g.entry(g.l4, 256)


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_updates_counts_right(host: Host, seed: int) -> None:
    """Random updates of random tables with random entries, most of them nonsense: the counts always agree with the
    tables."""
    rng = random.Random(seed)
    guests = [Guest(host, 0, privileged=True, pages=48).start(), Guest(host, 1, pages=48).start()]
    statuses = set()
    for g in guests:
        for pfn in range(20, 28):
            assert g.map(pfn, g.mfns[pfn], RO_FLAGS) == 0
    for _ in range(400):
        g = rng.choice(guests)
        near = g.mfns[:4] + g.mfns[20:32]
        table = rng.choice(near)
        target = rng.choice([*near, 16, rng.choice(guests).mfns[30], host.frames.total + 5])
        flags = rng.choice([RO_FLAGS, TABLE_FLAGS, 0, P.PRESENT, RW_FLAGS | P.PCD, RO_FLAGS])
        # Slots the test itself needs are left alone.
        slot = rng.randrange(1, 255)
        action = rng.randrange(6)
        if action < 4:
            command = rng.choice([0, 0, 2, 3])
            owner = rng.choice([xen.DOMID_SELF, xen.DOMID_SELF, xen.DOMID_IO, 1 - g.domain.domid])
            result, _ = g.update(((table << 12) + slot * 8 + command, target << 12 | flags), foreigndom=owner)
        elif action == 4:
            result, _ = g.ext((rng.randrange(5), table, 0))
            if table == g.l4 and result == 0:
                host.mmu.pin(g.l4, 4, g.domain.domid)
        else:
            result, _ = g.ext((rng.choice([xen.MMUEXT_NEW_USER_BASEPTR, xen.MMUEXT_CLEAR_PAGE]), table, 0))
        statuses.add(result)
        if rng.random() < 0.1:
            audit(host)
    assert {0, -errno.EINVAL} <= statuses
