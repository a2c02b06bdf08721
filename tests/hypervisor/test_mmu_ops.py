"""The MMU hypercalls: arguments, permissions, results, how many requests were done; and grant mappings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.abi import errno, grant_table, xen
from pyvmm.hypervisor import mmu_ops, trace
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.frames import PGT_none, PGT_writable_page
from pyvmm.hypervisor.native import NativeSpace
from pyvmm.hypervisor.vcpu import VCpu

from .pv_host import KERNEL_BASE, RO_FLAGS, RW_FLAGS, TABLE_FLAGS, Guest, Host, audit, no_leak

UPDATE = xen.HYPERVISOR_mmu_update
EXT = xen.HYPERVISOR_mmuext_op
OTHER = xen.HYPERVISOR_update_va_mapping_otherdomain
PT, MACHPHYS, KEEP_AD = xen.MMU_NORMAL_PT_UPDATE, xen.MMU_MACHPHYS_UPDATE, xen.MMU_PT_UPDATE_PRESERVE_AD


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


def slot(g: Guest, pfn: int) -> int:
    """Machine address of the L1 entry that maps page `pfn`."""
    return (g.l1 << 12) + (g.va(pfn) >> 12) * 8


# -- mmu_update


def test_update_counts_what_was_done(host: Host) -> None:
    g = Guest(host, 1).start()
    good = (slot(g, 20), g.mfns[20] << 12 | RO_FLAGS)
    bad = (slot(g, 21), g.l4 << 12 | RW_FLAGS)
    assert g.update(good, good, bad, good) == (-errno.EBUSY, 2)
    assert g.update(good, good) == (0, 2)
    assert g.update() == (0, 0)
    # What was done before the call was continued is added.
    g.v.copy_out(g.va(8), xen.mmu_update.pack(ptr=good[0], val=good[1]))
    g.v.copy_out(g.va(9), (5).to_bytes(4, "little"))
    assert g.call(UPDATE, g.va(8), 1 | mmu_ops.MMU_UPDATE_PREEMPTED, g.va(9), xen.DOMID_SELF) == 0
    assert g.v.copy_in(g.va(9), 4) == (6).to_bytes(4, "little")
    # The last step of a continued call only says how it ended.
    for number in (UPDATE, EXT):
        assert g.call(number, 0, mmu_ops.MMU_UPDATE_PREEMPTED, 0, -errno.EBUSY & 0xFFFF_FFFF) == -errno.EBUSY
    # A count that cannot be stored is not stored.
    assert g.call(UPDATE, g.va(8), 1, 0, xen.DOMID_SELF) == 0
    assert g.call(UPDATE, g.va(8), 1, g.va(0), xen.DOMID_SELF) == 0


def test_update_bad_addresses(host: Host) -> None:
    g = Guest(host, 1).start()
    for address in (0xFFFF800000000000, 1 << 47, 0x5000_0000_0000):
        assert g.call(UPDATE, address, 1, 0, xen.DOMID_SELF) == -errno.EFAULT
    assert g.call(UPDATE, 0x5000_0000_0000, 0, 0, xen.DOMID_SELF) == 0
    for ptr in (0x7FFF_FFFF_F000, (host.xen_area.zero_mfn << 12)):
        assert g.update((ptr, 0)) == (-errno.EINVAL, 0)
    assert g.update((slot(g, 20) + 4, 0)) == (-errno.ENOSYS, 0)


def test_update_of_a_frame_that_is_no_table(host: Host) -> None:
    g = Guest(host, 1).start()
    assert g.update(((g.mfns[20] << 12) + 16, 0x1234_5678_9ABC_DEF1)) == (0, 1)
    assert g.v.copy_in(g.va(20) + 16, 8) == (0x1234_5678_9ABC_DEF1).to_bytes(8, "little")
    assert g.map(21, 0, 0) == 0  # not mapped, of no type: still a word of memory
    assert g.update((g.mfns[21] << 12, 7)) == (0, 1)


def test_update_preserving_accessed_and_dirty(host: Host) -> None:
    g = Guest(host, 1).start()
    g.raw(g.l1, g.va(20) >> 12, g.mfns[20], RW_FLAGS | P.GLOBAL)
    value = g.mfns[20] << 12 | P.PRESENT | P.RW | P.USER
    assert g.update((slot(g, 20) + KEEP_AD, value)) == (0, 1)
    assert g.l1_entry(20) & (P.ACCESSED | P.DIRTY) == P.ACCESSED | P.DIRTY
    assert g.update((slot(g, 20), value)) == (0, 1)
    assert g.l1_entry(20) & (P.ACCESSED | P.DIRTY) == 0


def test_update_of_xen_slots(host: Host) -> None:
    g = Guest(host, 1).start()
    assert g.set_entry(g.l4, 5, 0) == 0
    for i in (256, 271):
        before = g.entry(g.l4, i)
        assert g.set_entry(g.l4, i, 0) == -errno.EINVAL and g.entry(g.l4, i) == before
    assert g.set_entry(g.l4, 272, 0) == 0


def test_machphys(host: Host) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2).start()
    assert g.update((g.mfns[20] << 12 | MACHPHYS, 77)) == (0, 1) and host.xen_area.m2p(g.mfns[20]) == 77
    assert g.update((other.mfns[20] << 12 | MACHPHYS, 77)) == (-errno.EINVAL, 0)
    assert g.update((other.mfns[20] << 12 | MACHPHYS, 77), foreigndom=2) == (-errno.EPERM, 0)
    d0 = Guest(host, 0, privileged=True).start()
    assert d0.update((other.mfns[20] << 12 | MACHPHYS, 78), foreigndom=2) == (0, 1)
    assert host.xen_area.m2p(other.mfns[20]) == 78
    # The other's tables (upper half of foreigndom) and the M2P do not go together.
    assert d0.update((other.mfns[20] << 12 | MACHPHYS, 1), foreigndom=3 << 16 | 2) == (-errno.EPERM, 0)


def test_foreign_domains(host: Host) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2).start()
    d0 = Guest(host, 0, privileged=True).start()
    entry = (slot(other, 20), other.mfns[20] << 12 | RO_FLAGS)
    assert g.update(entry, foreigndom=3 << 16 | 2) == (-errno.EPERM, 0)
    assert g.call(UPDATE, g.va(8), 1, 0, 9 << 16 | 2) == -errno.ESRCH
    assert g.call(UPDATE, g.va(8), 1, 0, 9) == -errno.ESRCH
    assert g.call(UPDATE, g.va(8), 1, 0, 1) == -errno.ESRCH  # oneself by number
    # dom0 updates d2's tables with d2's frames.
    assert d0.update(entry, foreigndom=3 << 16 | 2) == (0, 1)
    assert other.l1_entry(20) & P.RW == 0
    # Tables above L1 map frames of their owner only.
    assert d0.update(((other.l3 << 12) + 72, other.l2 << 12 | TABLE_FLAGS), foreigndom=3 << 16 | 2) == (0, 1)
    assert d0.update(((other.l3 << 12) + 80, other.l2 << 12 | TABLE_FLAGS), foreigndom=3 << 16 | xen.DOMID_SELF) == (
        -errno.EINVAL,
        0,
    )
    empty = host.domain(4)
    assert d0.call(UPDATE, d0.va(8), 1, 0, 5 << 16 | 4) == -errno.EINVAL and not empty.vcpus


# -- mmuext_op


def test_pinning(host: Host) -> None:
    g = Guest(host, 1).start()
    assert g.ext((xen.MMUEXT_PIN_L4_TABLE, g.l4, 0)) == (-errno.EINVAL, 0)  # is pinned already
    assert g.ext((xen.MMUEXT_PIN_L1_TABLE, g.mfns[20], 0)) == (-errno.EINVAL, 0)  # is writable
    assert g.map(20, g.mfns[20], RO_FLAGS) == 0
    m = g.mfns[20]
    assert g.ext((xen.MMUEXT_PIN_L1_TABLE, m, 0), (xen.MMUEXT_PIN_L2_TABLE, m, 0)) == (-errno.EINVAL, 1)
    assert g.ext((xen.MMUEXT_UNPIN_TABLE, m, 0), (xen.MMUEXT_UNPIN_TABLE, m, 0)) == (-errno.EINVAL, 1)
    assert g.ext((xen.MMUEXT_UNPIN_TABLE, 0x7777777, 0)) == (-errno.EINVAL, 0)
    assert host.frames.type_of(m) == PGT_none


def test_unknown_and_refused_operations(host: Host) -> None:
    g, d0 = Guest(host, 1).start(), Guest(host, 0, privileged=True).start()
    assert g.ext((99, 0, 0)) == (-errno.ENOSYS, 0)
    assert g.ext((14, 0, 0)) == (-errno.ENOSYS, 0)
    for cmd in (xen.MMUEXT_MARK_SUPER, xen.MMUEXT_UNMARK_SUPER):
        assert g.ext((cmd, 0, 0)) == (-errno.EOPNOTSUPP, 0)
    assert g.ext((xen.MMUEXT_FLUSH_CACHE, 0, 0)) == (-errno.EACCES, 0)
    assert g.ext((xen.MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0)) == (-errno.EINVAL, 0)
    assert d0.ext((xen.MMUEXT_FLUSH_CACHE, 0, 0), (xen.MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0)) == (0, 2)
    for cmd in (xen.MMUEXT_NEW_BASEPTR, xen.MMUEXT_TLB_FLUSH_LOCAL, xen.MMUEXT_SET_LDT, xen.MMUEXT_FLUSH_CACHE):
        assert d0.ext((cmd, 0, 0), foreigndom=1) == (-errno.EPERM, 0)
        assert g.ext((cmd, 0, 0), foreigndom=0) == (-errno.EPERM, 0xFFFF_FFFF)  # refused as a whole
    assert g.ext((xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0), foreigndom=1) == (-errno.ESRCH, 0xFFFF_FFFF)


def test_flushes(host: Host) -> None:
    g = Guest(host, 1).start()
    ops = [xen.MMUEXT_TLB_FLUSH_LOCAL, xen.MMUEXT_TLB_FLUSH_ALL, xen.MMUEXT_INVLPG_LOCAL, xen.MMUEXT_INVLPG_ALL]
    assert g.ext(*((cmd, 0xFFFF800000000000, 0) for cmd in ops)) == (0, 4)
    for cmd in (xen.MMUEXT_TLB_FLUSH_MULTI, xen.MMUEXT_INVLPG_MULTI):
        assert g.ext((cmd, 0, g.va(9)), (cmd, 0, 0x5000_0000_0000)) == (-errno.EINVAL, 1)


def test_set_ldt_arguments(host: Host) -> None:
    g = Guest(host, 1).start()
    for base, entries in ((g.va(9) + 8, 1), (g.va(9), 8193), (0xFFFF800000000000, 1)):
        assert g.ext((xen.MMUEXT_SET_LDT, base, entries)) == (-errno.EINVAL, 0)
    assert g.ext((xen.MMUEXT_SET_LDT, 0xFFF, 0)) == (0, 1)


def test_clear_and_copy(host: Host) -> None:
    g = Guest(host, 1).start()
    g.v.copy_out(g.va(20), b"\xaa" * 4096)
    assert g.ext((xen.MMUEXT_COPY_PAGE, g.mfns[21], g.mfns[20])) == (0, 1)
    assert g.v.copy_in(g.va(21), 4096) == b"\xaa" * 4096
    assert g.ext((xen.MMUEXT_CLEAR_PAGE, g.mfns[20], 0)) == (0, 1) and not any(g.v.copy_in(g.va(20), 4096))
    other = Guest(host, 2)
    for cmd, a1, a2 in (
        (xen.MMUEXT_CLEAR_PAGE, g.l1, 0),
        (xen.MMUEXT_CLEAR_PAGE, other.mfns[5], 0),
        (xen.MMUEXT_COPY_PAGE, g.l1, g.mfns[20]),
        (xen.MMUEXT_COPY_PAGE, g.mfns[20], other.mfns[5]),
    ):
        assert g.ext((cmd, a1, a2)) == (-errno.EINVAL, 0)
    assert g.ext((xen.MMUEXT_COPY_PAGE, g.mfns[20], g.l1)) == (0, 1)  # a table can be read
    assert g.v.copy_in(g.va(20), 4096) == host.machine.ram.read(g.l1 << 12, 4096)


def test_new_base_pointers(host: Host) -> None:
    g = Guest(host, 1).start()
    events: list[trace.Event] = []
    host.trace.listen(events.append)
    assert g.map(12, g.mfns[12], RO_FLAGS) == 0
    assert g.ext((xen.MMUEXT_NEW_USER_BASEPTR, g.mfns[12], 0)) == (0, 1)
    assert g.ext((xen.MMUEXT_NEW_BASEPTR, g.mfns[20], 0)) == (-errno.EINVAL, 0)
    assert g.ext((xen.MMUEXT_NEW_BASEPTR, g.l4, 0)) == (0, 1)  # as it is
    assert g.v.l4_user == g.mfns[12]
    kinds = [(e.kind.name, *e.values) for e in events if e.kind in (trace.NEW_BASEPTR, trace.PAGE_TABLE)]
    assert kinds == [("page_table", "validate l4", g.mfns[12]), ("new_baseptr", g.mfns[12], 1)]


# -- update_va_mapping


def test_update_va_mapping(host: Host) -> None:
    g = Guest(host, 1).start()
    call = xen.HYPERVISOR_update_va_mapping
    assert g.map(20, g.mfns[21], RW_FLAGS) == 0
    g.v.copy_out(g.va(20), b"twice")
    assert g.v.copy_in(g.va(21), 5) == b"twice"
    for va in (0x5000_0000_0000, 0x4000_0000, 0xFFFF800000000000, 1 << 47):
        assert g.call(call, va, 0, 0) == -errno.EINVAL
    for flush in (xen.UVMF_TLB_FLUSH | xen.UVMF_ALL, xen.UVMF_INVLPG | xen.UVMF_LOCAL, xen.UVMF_TLB_FLUSH | g.va(9)):
        assert g.map(20, g.mfns[20], RW_FLAGS, flush) == 0
    assert g.map(20, g.mfns[21], RW_FLAGS, xen.UVMF_INVLPG | 0x5000_0000_0000) == -errno.EFAULT
    assert P.frame_of(g.l1_entry(20)) == g.mfns[21]  # done nevertheless
    assert g.map(20, 0, 0) == 0
    with pytest.raises(Exception, match=str(errno.EFAULT)):
        g.v.copy_in(g.va(20), 1)


def native(host: Host, domid: int, *, privileged: bool = False) -> VCpu:
    d = host.domain(domid, privileged=privileged)
    v = VCpu(host.hv, d, 0)
    v.native = object()  # type: ignore[assignment]  # something that is not None
    v.space = NativeSpace(v)
    d.vcpus.append(v)
    return v


def test_native_vcpus_map_with_the_same_checks(host: Host) -> None:
    v, g = native(host, 0, privileged=True), Guest(host, 1).start()
    poor = native(host, 5)
    (own,) = host.frames.alloc(v.domain)
    with no_leak(host):
        assert mmu_ops.update_va_mapping(v, 0x5000, own << 12 | RW_FLAGS, 0) == 0
        v.copy_out(0x5000, b"own")
        assert mmu_ops.update_va_mapping(v, 0x6000, own << 12 | RO_FLAGS, 0) == 0
        assert v.copy_in(0x6000, 3) == b"own"
        with pytest.raises(Exception, match=str(errno.EFAULT)):
            v.copy_out(0x6000, b"x")
        mine = (host.frames.count(own), host.frames.type_count(own))
        assert mine == (3, 1)
        other = mmu_ops.update_va_mapping_otherdomain
        assert other(v, 0x5000, g.mfns[20] << 12 | RW_FLAGS, 0, 1) == 0
        v.copy_out(0x5000, b"hello guest")
        assert g.v.copy_in(g.va(20), 11) == b"hello guest"
        assert other(v, 0x7000, g.l4 << 12 | RW_FLAGS, 0, 1) == -errno.EBUSY
        assert mmu_ops.update_va_mapping(v, 0x7000, g.mfns[20] << 12 | RO_FLAGS, 0) == -errno.EBUSY
        assert other(poor, 0x7000, g.mfns[20] << 12 | RO_FLAGS, 0, 1) == -errno.EPERM
        assert mmu_ops.update_va_mapping(v, 1 << 47, own << 12 | RO_FLAGS, 0) == -errno.EINVAL
        for va in (0x5000, 0x6000, 0x6000):
            assert mmu_ops.update_va_mapping(v, va, 0, 0) == 0
        assert (host.frames.count(own), host.frames.type_count(own)) == (1, 0)
        assert mmu_ops.mmuext_op(v, 0x1000, 0, 0, xen.DOMID_SELF) == 0
    host.mmu.native_map(v, 0x5000, g.mfns[21], True, 1)
    host.mmu.release_domain(g.domain)
    assert host.frames.pages_of(g.domain) == [g.mfns[21]]
    host.mmu.release_domain(v.domain)
    assert not host.frames.holds_frames(1)


# -- grants


def grant(host: Host, mfn: int, owner: int, writable: bool) -> int:
    """What the grant table takes for a mapping; the entry's flags."""
    assert host.frames.get_page(mfn, owner)
    assert not writable or host.frames.get_page_type(mfn, PGT_writable_page)
    return mmu_ops.grant_pte_flags(0 if writable else grant_table.GNTMAP_readonly)


@pytest.mark.parametrize("by_pte", [False, True])
@pytest.mark.parametrize("writable", [False, True])
def test_grant_mappings(host: Host, by_pte: bool, writable: bool) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2).start()
    m = other.mfns[20]
    address = slot(g, 22) if by_pte else g.va(22)
    with no_leak(host):
        count = host.frames.count(g.mfns[22])
        flags = grant(host, m, 2, writable)
        assert mmu_ops.map_grant(g.v, address, flags, m, by_pte)
        assert host.frames.count(g.mfns[22]) == count - 1  # what was mapped there
        audit(host)
        entry = g.l1_entry(22)
        assert P.frame_of(entry) == m and bool(entry & P.RW) == writable and entry & P.GUEST_KERNEL and entry & P.NX
        other_flags = flags ^ P.RW
        assert not mmu_ops.unmap_grant(g.v, address, other_flags, m, by_pte)
        assert not mmu_ops.unmap_grant(g.v, address, flags, m + 1, by_pte)
        assert mmu_ops.unmap_grant(g.v, address, flags, m, by_pte) and not g.l1_entry(22)
        assert not mmu_ops.unmap_grant(g.v, address, flags, m, by_pte)
        if writable:
            host.frames.put_page_type(m)
        host.frames.put_page(m)
        assert g.map(22, g.mfns[22]) == 0


def test_grant_addresses_that_are_no_entries(host: Host) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2).start()
    flags = mmu_ops.grant_pte_flags(0)
    bad = [(0x5000_0000_0000, False), (0xFFFF800000000000, False), (slot(g, 22) + 4, True), (slot(other, 22), True)]
    bad += [(g.l2 << 12, True), (g.mfns[20] << 12, True)]
    for address, by_pte in bad:
        assert not mmu_ops.map_grant(g.v, address, flags, other.mfns[20], by_pte)


def test_grant_replaced(host: Host) -> None:
    g, other = Guest(host, 1).start(), Guest(host, 2).start()
    m = other.mfns[20]
    flags = grant(host, m, 2, True)
    assert mmu_ops.map_grant(g.v, g.va(22), flags, m, False)
    assert mmu_ops.unmap_grant(g.v, g.va(22), flags, m, False, new_addr=g.va(23))
    assert P.frame_of(g.l1_entry(22)) == g.mfns[23] and not g.l1_entry(23)
    host.frames.put_page_and_type(m)


def test_grant_flags() -> None:
    assert mmu_ops.grant_pte_flags(0) == P.PRESENT | P.RW | P.ACCESSED | P.DIRTY | P.NX
    flags = grant_table.GNTMAP_application_map | grant_table.GNTMAP_readonly | 5 << 16
    assert mmu_ops.grant_pte_flags(flags) == P.PRESENT | P.USER | P.ACCESSED | P.DIRTY | P.NX | 5 << 9
    assert KERNEL_BASE % 4096 == 0
