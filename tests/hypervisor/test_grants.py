"""grant_table_op: tables, mapping, copying, transfer, and that nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.abi import errno, xen
from pyvmm.abi import grant_table as abi
from pyvmm.hypervisor import lifecycle
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import BASE, DATA, L1, NOP, SPARE, CodeGuest, load
from tests.hypervisor.native_host import PAGE, WILD, Guest, NativeHost

HOST, DEVICE, RO = abi.GNTMAP_host_map, abi.GNTMAP_device_map, abi.GNTMAP_readonly
OKAY, ERROR = abi.GNTST_okay, abi.GNTST_general_error
GRANTED = 40 * PAGE  # the page that guest one grants
HOLE = 100 * PAGE  # where guest two maps it
REF = 9
PERMIT, READONLY = abi.GTF_permit_access, abi.GTF_readonly
BUSY = abi.GTF_reading | abi.GTF_writing


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


@pytest.fixture
def granted(host: NativeHost) -> NativeHost:
    """One has granted its page GRANTED to two, as REF."""
    host.one.write_entry(REF, PERMIT, 2, host.one.mfn(GRANTED))
    host.one.api.write(GRANTED, b"hello from one")
    return host


def map_(guest: Guest, flags: int = HOST, ref: int = REF, dom: int = 1, host_addr: int = HOLE) -> Any:
    result, op = guest.grant(
        abi.GNTTABOP_map_grant_ref, abi.gnttab_map_grant_ref, host_addr=host_addr, flags=flags, ref=ref, dom=dom
    )
    assert result == 0
    return op


def unmap(guest: Guest, handle: int, host_addr: int = HOLE, dev_bus_addr: int = 0) -> int:
    result, op = guest.grant(
        abi.GNTTABOP_unmap_grant_ref,
        abi.gnttab_unmap_grant_ref,
        host_addr=host_addr,
        dev_bus_addr=dev_bus_addr,
        handle=handle,
    )
    assert result == 0
    return int(op.status)


def copy(guest: Guest, source: tuple[int, int, int], dest: tuple[int, int, int], length: int, flags: int) -> int:
    """`source` and `dest`: (domid, ref or frame, offset)."""

    def pointer(domid: int, name: int, offset: int, by_ref: int) -> dict[str, Any]:
        return {"u": {"ref": name} if by_ref else {"gmfn": name}, "domid": domid, "offset": offset}

    result, op = guest.grant(
        abi.GNTTABOP_copy,
        abi.gnttab_copy,
        source=pointer(*source, flags & abi.GNTCOPY_source_gref),
        dest=pointer(*dest, flags & abi.GNTCOPY_dest_gref),
        len=length,
        flags=flags,
    )
    assert result == 0
    return int(op.status)


# -- tables


def test_dispatch(host: NativeHost) -> None:
    def call(cmd: int, count: int = 1, uop: int = WILD) -> int:
        return host.one.call(xen.HYPERVISOR_grant_table_op, cmd, uop, count)

    for cmd in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12):
        assert call(cmd) == -errno.EFAULT, cmd
    assert call(abi.GNTTABOP_dump_table) == -errno.ENOSYS
    assert call(13) == -errno.ENOSYS
    assert call(0, 1 << 31) == -errno.EINVAL
    assert call(0x1000) == -errno.EINVAL  # continuation bits are not a guest's to set
    assert call(0, 0) == 0
    for cmd in (abi.GNTTABOP_setup_table, abi.GNTTABOP_query_size, abi.GNTTABOP_get_status_frames):
        assert call(cmd, 2) == -errno.EINVAL


def query(guest: Guest, dom: int = xen.DOMID_SELF) -> tuple[int, int, int]:
    result, op = guest.grant(abi.GNTTABOP_query_size, abi.gnttab_query_size, dom=dom)
    assert result == 0
    return op.status, op.nr_frames, op.max_nr_frames


def setup(guest: Guest, frames: int, dom: int = xen.DOMID_SELF) -> tuple[int, list[int]]:
    va = guest.api.scratch(8 * max(frames, 1))
    result, op = guest.grant(abi.GNTTABOP_setup_table, abi.gnttab_setup_table, dom=dom, nr_frames=frames, frame_list=va)
    assert result == 0
    data = guest.api.read(va, 8 * frames)
    return op.status, [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


def test_size_grows_on_demand_up_to_the_limit(host: NativeHost) -> None:
    assert query(host.one) == (OKAY, 1, 64)
    status, mfns = setup(host.one, 4)
    assert (status, mfns) == (OKAY, host.one.domain.grants.frames)
    assert all(host.hv.frames.owner(mfn) == 1 and host.hv.frames.is_special(mfn) for mfn in mfns)
    assert query(host.one) == (OKAY, 4, 64)
    assert setup(host.one, 2) == (OKAY, mfns[:2])
    assert setup(host.one, 65)[0] == ERROR
    assert host.one.domain.tot_pages == 64  # the table is the hypervisor's, not the guest's memory


def test_tables_of_others(host: NativeHost) -> None:
    assert query(host.dom0, 1) == (OKAY, 1, 64)
    assert query(host.one, 2)[0] == abi.GNTST_permission_denied
    assert query(host.one, 9)[0] == abi.GNTST_bad_domain
    assert setup(host.dom0, 1, 1) == (OKAY, host.one.domain.grants.frames)
    assert setup(host.one, 1, 2)[0] == abi.GNTST_permission_denied
    assert setup(host.one, 1, 9)[0] == abi.GNTST_bad_domain


def test_frame_list_that_cannot_be_written(host: NativeHost) -> None:
    values = {"dom": xen.DOMID_SELF, "nr_frames": 1, "frame_list": WILD}
    assert host.one.grant(abi.GNTTABOP_setup_table, abi.gnttab_setup_table, **values)[1].status == (
        abi.GNTST_bad_virt_addr
    )
    values["frame_list"] = 0xFFFF_8000_0000_0000
    assert host.one.grant(abi.GNTTABOP_setup_table, abi.gnttab_setup_table, **values)[0] == -errno.EFAULT


# -- mapping


def test_map_read_write_unmap(granted: NativeHost) -> None:
    one, two, frames = granted.one, granted.two, granted.hv.frames
    mfn = one.mfn(GRANTED)
    count, uses = frames.count(mfn), frames.type_count(mfn)
    op = map_(two)
    assert (op.status, op.handle, op.dev_bus_addr) == (OKAY, 0, mfn * PAGE)
    assert one.entry_flags(REF) == PERMIT | BUSY
    assert (frames.count(mfn), frames.type_count(mfn)) == (count + 1, uses + 1)
    assert two.api.read(HOLE, 14) == b"hello from one"
    two.api.write(HOLE, b"HELLO")
    assert one.api.read(GRANTED, 14) == b"HELLO from one"
    assert unmap(two, op.handle) == OKAY
    assert one.entry_flags(REF) == PERMIT
    assert (frames.count(mfn), frames.type_count(mfn)) == (count, uses)
    assert not one.domain.grants.active and not two.domain.grants.maptrack
    assert unmap(two, op.handle) == abi.GNTST_bad_handle


def test_readonly_mapping(granted: NativeHost) -> None:
    op = map_(granted.two, HOST | RO)
    assert op.status == OKAY
    assert granted.one.entry_flags(REF) == PERMIT | abi.GTF_reading
    with pytest.raises(Exception, match=str(errno.EFAULT)):
        granted.two.api.write(HOLE, b"no")
    second = map_(granted.two, HOST, host_addr=HOLE + PAGE)
    assert granted.one.entry_flags(REF) == PERMIT | BUSY
    assert unmap(granted.two, second.handle, HOLE + PAGE) == OKAY
    assert granted.one.entry_flags(REF) == PERMIT | abi.GTF_reading  # the reader stays
    assert unmap(granted.two, op.handle) == OKAY
    assert granted.one.entry_flags(REF) == PERMIT


@pytest.mark.parametrize(
    ("flags", "domid", "request_flags", "status"),
    [
        (abi.GTF_invalid, 2, HOST, ERROR),
        (abi.GTF_accept_transfer, 2, HOST, ERROR),
        (PERMIT, 0, HOST, ERROR),
        (PERMIT | READONLY, 2, HOST, ERROR),
        (PERMIT | READONLY, 2, HOST | RO, OKAY),
        (PERMIT | abi.GTF_sub_page, 2, HOST, ERROR),
        (PERMIT, 2, RO, abi.GNTST_bad_gntref),
        (PERMIT, 2, 0, abi.GNTST_bad_gntref),
        (PERMIT, 2, DEVICE | RO, OKAY),
    ],
)
def test_what_an_entry_allows(granted: NativeHost, flags: int, domid: int, request_flags: int, status: int) -> None:
    granted.one.write_entry(REF, flags, domid, granted.one.mfn(GRANTED))
    op = map_(granted.two, request_flags)
    assert op.status == status
    if status != OKAY:
        assert granted.one.entry_flags(REF) == flags
        assert not granted.one.domain.grants.active and not granted.two.domain.grants.maptrack


def test_bad_domains_refs_frames_and_places(granted: NativeHost) -> None:
    one, two = granted.one, granted.two
    assert map_(two, dom=9).status == abi.GNTST_bad_domain
    assert map_(two, dom=xen.DOMID_SELF).status == abi.GNTST_bad_domain
    assert map_(two, ref=512).status == abi.GNTST_bad_gntref
    one.write_entry(REF, PERMIT, 2, two.mfn(GRANTED))  # not one's to grant
    assert map_(two).status == abi.GNTST_bad_page
    one.write_entry(REF, PERMIT, 2, 0xFFFF_FFFF)
    assert map_(two).status == abi.GNTST_bad_page
    one.write_entry(REF, PERMIT, 2, one.mfn(GRANTED))
    assert map_(two, host_addr=0xFFFF_8000_0000_0000).status == ERROR
    assert one.entry_flags(REF) == PERMIT
    granted.hv.frames.check()


def test_a_busy_entry_is_not_asked_again(granted: NativeHost) -> None:
    one, two = granted.one, granted.two
    first = map_(two)
    one.write_entry(REF, abi.GTF_invalid | BUSY, 0, 0)  # the granter pulls it away under the mapping
    second = map_(two, host_addr=HOLE + PAGE)
    assert second.status == OKAY and two.api.read(HOLE + PAGE, 5) == b"hello"
    assert map_(granted.dom0, host_addr=HOLE).status == ERROR  # pinned for two, not for dom0
    assert (unmap(two, first.handle), unmap(two, second.handle, HOLE + PAGE)) == (OKAY, OKAY)
    assert one.entry_flags(REF) == 0


def test_pin_counter_overflow(granted: NativeHost) -> None:
    for i in range(128):
        assert map_(granted.two, HOST | RO, host_addr=HOLE + i * PAGE).status == OKAY
    assert map_(granted.two, HOST | RO, host_addr=HOLE + 200 * PAGE).status == ERROR
    assert map_(granted.two, HOST, host_addr=HOLE + 200 * PAGE).status == OKAY  # another counter


def test_device_mappings_are_let_go_by_bus_address(granted: NativeHost) -> None:
    one, two, frames = granted.one, granted.two, granted.hv.frames
    mfn = one.mfn(GRANTED)
    count, uses = frames.count(mfn), frames.type_count(mfn)
    op = map_(two, HOST | DEVICE)
    assert (frames.count(mfn), frames.type_count(mfn)) == (count + 2, uses + 2)
    assert unmap(two, op.handle, 0, mfn * PAGE + 1) == abi.GNTST_bad_dev_addr
    assert unmap(two, op.handle, HOLE, 0) == OKAY
    assert one.entry_flags(REF) == PERMIT | BUSY
    assert unmap(two, op.handle, 0, 0) == OKAY  # nothing named, nothing done
    assert unmap(two, op.handle, 0, mfn * PAGE) == OKAY
    assert (frames.count(mfn), frames.type_count(mfn)) == (count, uses)
    assert one.entry_flags(REF) == PERMIT
    assert unmap(two, op.handle, 0, mfn * PAGE) == abi.GNTST_bad_handle


def test_unmap_of_a_place_that_maps_something_else(granted: NativeHost) -> None:
    op = map_(granted.two)
    assert unmap(granted.two, op.handle, HOLE + PAGE) == ERROR
    assert unmap(granted.two, op.handle + 1) == abi.GNTST_bad_handle
    assert unmap(granted.two, op.handle) == OKAY


def test_arrays_stop_at_the_element_that_faults(granted: NativeHost) -> None:
    two, size = granted.two, abi.gnttab_map_grant_ref.size
    end = (two.pages + 1) * PAGE
    va = end - size
    two.api.write(va, abi.gnttab_map_grant_ref.pack(host_addr=HOLE, flags=HOST, ref=REF, dom=1))
    result = two.call(xen.HYPERVISOR_grant_table_op, abi.GNTTABOP_map_grant_ref, va, 2)
    assert result == -errno.EFAULT
    assert abi.gnttab_map_grant_ref.unpack(two.api.read(va, size)).status == OKAY


def test_handles_come_from_a_queue_a_vcpu(granted: NativeHost) -> None:
    handles = [map_(granted.two, HOST | RO, host_addr=HOLE + i * PAGE).handle for i in range(3)]
    assert handles == [0, 1, 2]
    assert unmap(granted.two, 1, HOLE + PAGE) == OKAY
    assert map_(granted.two, HOST | RO, host_addr=HOLE + PAGE).handle == 3  # a freed one goes to the end
    granted.two.domain.grants.max_maptrack_frames = 1
    for ref in (REF + 1, REF + 2, REF + 3):
        granted.one.write_entry(ref, PERMIT, 2, granted.one.mfn(GRANTED))
    statuses = [map_(granted.two, DEVICE | RO, ref=REF + 1 + i // 100).status for i in range(300)]
    # 256 of a frame of the maptrack, of which one is kept back, and three are in use already.
    assert statuses == [OKAY] * 252 + [abi.GNTST_no_space] * 48


def test_unmap_and_replace_moves_a_page(granted: NativeHost) -> None:
    two = granted.two
    op = map_(two)
    two.api.write(20 * PAGE, b"mine")
    result, done = two.grant(
        abi.GNTTABOP_unmap_and_replace,
        abi.gnttab_unmap_and_replace,
        host_addr=HOLE,
        new_addr=20 * PAGE,
        handle=op.handle,
    )
    assert (result, done.status) == (0, OKAY)
    assert two.api.read(HOLE, 4) == b"mine"
    with pytest.raises(Exception, match=str(errno.EFAULT)):
        two.api.read(20 * PAGE, 4)
    assert granted.one.entry_flags(REF) == PERMIT


# -- copying


def test_copy_from_and_to_a_grant(granted: NativeHost) -> None:
    one, two = granted.one, granted.two
    own = two.mfn(GRANTED)
    source = abi.GNTCOPY_source_gref
    assert copy(two, (1, REF, 6), (xen.DOMID_SELF, own, 100), 8, source) == OKAY
    assert two.api.read(GRANTED + 100, 8) == b"from one"
    two.api.write(GRANTED, b"reply")
    assert copy(two, (xen.DOMID_SELF, own, 0), (1, REF, 4000), 5, abi.GNTCOPY_dest_gref) == OKAY
    assert one.api.read(GRANTED + 4000, 5) == b"reply"
    assert one.entry_flags(REF) == PERMIT and not one.domain.grants.active
    granted.hv.frames.check()


@pytest.mark.parametrize(
    ("source", "dest", "length", "flags", "status"),
    [
        ((1, REF, 0), (xen.DOMID_SELF, -1, 4090), 10, 1, abi.GNTST_bad_copy_arg),
        ((1, REF, 4095), (xen.DOMID_SELF, -1, 0), 2, 1, abi.GNTST_bad_copy_arg),
        ((1, REF, 0), (xen.DOMID_SELF, -1, 0), 4096, 1, OKAY),
        ((1, REF, 0), (1, -1, 0), 4, 1, abi.GNTST_permission_denied),
        ((1, 512, 0), (xen.DOMID_SELF, -1, 0), 4, 1, abi.GNTST_bad_gntref),
        ((9, REF, 0), (xen.DOMID_SELF, -1, 0), 4, 1, abi.GNTST_bad_domain),
        ((1, REF + 1, 0), (xen.DOMID_SELF, -1, 0), 4, 1, ERROR),
        ((xen.DOMID_SELF, 1 << 40, 0), (1, REF, 0), 4, 2, abi.GNTST_bad_page),
        ((0, REF, 0), (xen.DOMID_SELF, -1, 0), 4, 0, abi.GNTST_permission_denied),
    ],
)
def test_copies_that_are_refused(
    granted: NativeHost,
    source: tuple[int, int, int],
    dest: tuple[int, int, int],
    length: int,
    flags: int,
    status: int,
) -> None:
    own = granted.two.mfn(GRANTED)
    got = copy(granted.two, source, (dest[0], own if dest[1] < 0 else dest[1], dest[2]), length, flags)
    assert got == status
    assert granted.one.entry_flags(REF) == PERMIT
    granted.hv.frames.check()


def test_copy_respects_readonly_entries_and_page_types(granted: NativeHost) -> None:
    one, two = granted.one, granted.two
    one.write_entry(REF, PERMIT | READONLY, 2, one.mfn(GRANTED))
    own = two.mfn(GRANTED)
    assert copy(two, (xen.DOMID_SELF, own, 0), (1, REF, 0), 4, abi.GNTCOPY_dest_gref) == ERROR
    assert copy(two, (1, REF, 0), (xen.DOMID_SELF, own, 0), 4, abi.GNTCOPY_source_gref) == OKAY


# -- version 2


def set_version(guest: Guest, version: int) -> tuple[int, int]:
    result, op = guest.grant(abi.GNTTABOP_set_version, abi.gnttab_set_version, version=version)
    return result, op.version


def test_version_changes_keep_the_reserved_entries(host: NativeHost) -> None:
    one = host.one
    table = one.domain.grants
    one.write_entry(0, PERMIT | BUSY, 0, 0x123)
    one.write_entry(1, PERMIT, 0, 0x456)
    one.write_entry(8, PERMIT, 2, 0x789)
    assert set_version(one, 3) == (-errno.EINVAL, 1)
    assert set_version(one, 2) == (0, 2)
    assert (table.entries, len(table.status_frames)) == (256, 1)
    assert (table.header(0), table.frame_of(0)) == ((PERMIT, 0), 0x123)
    assert host.hv.machine.ram.read_u16(table.status_pa(0)) == BUSY
    assert (table.header(1), table.frame_of(1)) == ((PERMIT, 0), 0x456)
    assert table.header(8) == (0, 0)
    result, op = host.dom0.grant(abi.GNTTABOP_get_version, abi.gnttab_get_version, dom=1)
    assert (result, op.version) == (0, 2)
    free = host.hv.frames.free_count
    assert set_version(one, 1) == (0, 1)
    assert one.entry_flags(0) == PERMIT | BUSY
    assert host.hv.frames.free_count == free + 1
    assert host.two.grant(abi.GNTTABOP_get_version, abi.gnttab_get_version, dom=1)[0] == -errno.EPERM
    assert host.two.grant(abi.GNTTABOP_get_version, abi.gnttab_get_version, dom=9)[0] == -errno.ESRCH


def test_version_is_fixed_while_entries_are_in_use(granted: NativeHost) -> None:
    op = map_(granted.two)
    assert set_version(granted.one, 2) == (-errno.EBUSY, 1)
    unmap(granted.two, op.handle)
    assert set_version(granted.one, 2) == (0, 2)
    granted.two.domain.grants.max_version = 1
    assert set_version(granted.two, 2) == (-errno.ENOSYS, 1)


def test_back_to_version_1_only_if_it_can_say_the_same(host: NativeHost) -> None:
    set_version(host.one, 2)
    table, ram = host.one.domain.grants, host.hv.machine.ram
    table.seed(2, 0, 1 << 33)
    assert set_version(host.one, 1) == (-errno.ERANGE, 2)
    table.seed(2, 0, 77)
    ram.write_u32(table.entry_pa(3), abi.GTF_transitive)
    assert set_version(host.one, 1) == (-errno.ERANGE, 2)
    ram.write_u32(table.entry_pa(3), 0)
    assert set_version(host.one, 1) == (0, 1)
    assert (host.one.entry_flags(2), table.frame_of(2)) == (PERMIT, 77)


def test_version_2_mapping_keeps_its_busy_bits_apart(host: NativeHost) -> None:
    set_version(host.one, 2)
    table, ram = host.one.domain.grants, host.hv.machine.ram
    table.seed(REF, 2, host.one.mfn(GRANTED))
    op = map_(host.two)
    assert op.status == OKAY
    assert (table.header(REF), ram.read_u16(table.status_pa(REF))) == ((PERMIT, 2), BUSY)
    assert unmap(host.two, op.handle) == OKAY
    assert ram.read_u16(table.status_pa(REF)) == 0
    va = host.one.api.scratch(8)
    _, got = host.one.grant(
        abi.GNTTABOP_get_status_frames, abi.gnttab_get_status_frames, nr_frames=1, dom=xen.DOMID_SELF, frame_list=va
    )
    assert got.status == OKAY
    assert int.from_bytes(host.one.api.read(va, 8), "little") == table.status_frames[0]
    _, got = host.one.grant(
        abi.GNTTABOP_get_status_frames, abi.gnttab_get_status_frames, nr_frames=2, dom=xen.DOMID_SELF, frame_list=va
    )
    assert got.status == ERROR


def sub_page(guest: Guest, domid: int, start: int, length: int) -> None:
    table, entry = guest.domain.grants, abi.grant_entry_v2
    data = entry.sub_page.type.pack(
        hdr={"flags": PERMIT | abi.GTF_sub_page, "domid": domid},
        page_off=start,
        length=length,
        frame=guest.mfn(GRANTED),
    )
    guest.hv.machine.ram.write(table.entry_pa(REF), data)


def test_sub_page_grants_copy_within_their_bounds(granted: NativeHost) -> None:
    set_version(granted.one, 2)
    sub_page(granted.one, 2, 6, 4)
    own = granted.two.mfn(GRANTED)
    flag = abi.GNTCOPY_source_gref
    assert map_(granted.two).status == ERROR
    assert copy(granted.two, (1, REF, 6), (xen.DOMID_SELF, own, 0), 4, flag) == OKAY
    assert granted.two.api.read(GRANTED, 4) == b"from"
    assert copy(granted.two, (1, REF, 5), (xen.DOMID_SELF, own, 0), 4, flag) == ERROR
    assert copy(granted.two, (1, REF, 7), (xen.DOMID_SELF, own, 0), 4, flag) == ERROR
    assert granted.one.domain.grants.v2_operations == 0


def test_transitive_grants_go_one_step(granted: NativeHost) -> None:
    """One grants to two, two lets dom0 use that grant; dom0 copies from one without one knowing of it."""
    one, two, dom0 = granted.one, granted.two, granted.dom0
    set_version(two, 2)

    def transitive(guest: Guest, domid: int, trans_domid: int, gref: int) -> None:
        data = abi.grant_entry_v2.transitive.type.pack(
            hdr={"flags": abi.GTF_transitive, "domid": domid}, trans_domid=trans_domid, gref=gref
        )
        guest.hv.machine.ram.write(guest.domain.grants.entry_pa(5), data)

    own, flag = dom0.mfn(GRANTED), abi.GNTCOPY_source_gref
    transitive(two, 0, 1, REF)
    assert copy(dom0, (2, 5, 0), (xen.DOMID_SELF, own, 0), 5, flag) == OKAY
    assert dom0.api.read(GRANTED, 5) == b"hello"
    assert map_(dom0, ref=5, dom=2).status == ERROR
    transitive(two, 0, 2, REF)
    assert copy(dom0, (2, 5, 0), (xen.DOMID_SELF, own, 0), 5, flag) == ERROR  # to itself
    set_version(one, 2)
    transitive(one, 2, 2, 5)
    transitive(two, 0, 1, 5)
    assert copy(dom0, (2, 5, 0), (xen.DOMID_SELF, own, 0), 5, flag) == ERROR  # two steps
    for guest in (one, two):
        table = guest.domain.grants
        assert not table.active and table.v2_operations == 0
        assert granted.hv.machine.ram.read_u16(table.status_pa(5)) == 0
    granted.hv.frames.check()


# -- the rest


def test_transfer_gives_a_frame_away(host: NativeHost) -> None:
    one, two, hv = host.one, host.two, host.hv
    mfn = two.mfn(GRANTED)

    def transfer(mfn: int, dom: int = 1, ref: int = REF) -> int:
        result, op = two.grant(abi.GNTTABOP_transfer, abi.gnttab_transfer, mfn=mfn, domid=dom, ref=ref)
        assert result == 0
        return int(op.status)

    assert transfer(one.mfn(GRANTED)) == abi.GNTST_bad_page
    assert transfer(mfn) == ERROR  # still mapped by its owner
    hv.mmu.native_unmap(two.v, GRANTED)
    one.domain.max_pages += 1
    one.write_entry(REF, abi.GTF_accept_transfer, 2, 77)
    assert transfer(mfn) == OKAY
    assert hv.frames.owner(mfn) == 1
    assert one.entry_flags(REF) == (abi.GTF_accept_transfer | abi.GTF_transfer_committed | abi.GTF_transfer_completed)
    assert one.domain.grants.frame_of(REF) == mfn
    assert (one.domain.tot_pages, two.domain.tot_pages) == (65, 63)
    # A receiver that wants none: the frame is lost all the same.
    other = two.mfn(GRANTED + PAGE)
    hv.mmu.native_unmap(two.v, GRANTED + PAGE)
    assert transfer(other) == ERROR
    assert hv.frames.owner(other) is None and two.domain.tot_pages == 62
    hv.frames.check()


@pytest.mark.parametrize("version", [1, 2])
def test_swap(host: NativeHost, version: int) -> None:
    one = host.one
    set_version(one, version)
    table = one.domain.grants
    table.seed(3, 2, one.mfn(GRANTED))
    table.seed(4, 0, one.mfn(0))

    def swap(a: int, b: int) -> int:
        result, op = one.grant(abi.GNTTABOP_swap_grant_ref, abi.gnttab_swap_grant_ref, ref_a=a, ref_b=b)
        assert result == 0
        return int(op.status)

    assert swap(3, 4) == OKAY
    assert (table.header(3)[1], table.frame_of(3)) == (0, one.mfn(0))
    assert (table.header(4)[1], table.frame_of(4)) == (2, one.mfn(GRANTED))
    assert swap(3, 3) == OKAY
    assert swap(3, 512) == abi.GNTST_bad_gntref
    op = map_(host.two, ref=4)
    assert swap(3, 4) == abi.GNTST_eagain
    assert unmap(host.two, op.handle) == OKAY


def test_cache_flush(granted: NativeHost) -> None:
    def flush(guest: Guest, mfn: int, **values: Any) -> int:
        values = {"offset": 0, "length": 64, "op": abi.GNTTAB_CACHE_CLEAN, **values}
        return guest.grant(abi.GNTTABOP_cache_flush, abi.gnttab_cache_flush, a={"dev_bus_addr": mfn * PAGE}, **values)[
            0
        ]

    mfn = granted.one.mfn(GRANTED)
    assert flush(granted.one, mfn) == 0
    assert flush(granted.one, mfn, op=abi.GNTTAB_CACHE_INVAL) == -errno.EOPNOTSUPP
    assert flush(granted.one, mfn, offset=4090) == -errno.EINVAL
    assert flush(granted.one, mfn, op=4) == -errno.EINVAL
    assert flush(granted.one, 1 << 40) == -errno.EINVAL
    assert flush(granted.two, mfn) == -errno.EINVAL
    map_(granted.two)
    assert flush(granted.two, mfn) == 0


def test_seeded_entries_look_as_a_toolstack_leaves_them(host: NativeHost) -> None:
    host.one.domain.grants.seed(abi.GNTTAB_RESERVED_CONSOLE, 0, host.one.mfn(GRANTED))
    assert map_(host.dom0, ref=0).status == OKAY
    assert host.one.entry_flags(0) == 0x19  # as measured in a running guest, whose console daemon has it mapped


def test_death_of_the_mapping_domain(granted: NativeHost) -> None:
    mfn = granted.one.mfn(GRANTED)
    count = granted.hv.frames.count(mfn)
    assert map_(granted.two).status == map_(granted.two, HOST | DEVICE | RO, host_addr=HOLE + PAGE).status == OKAY
    lifecycle.destroy_domain(granted.two.domain)
    assert 2 not in granted.hv.domains
    assert granted.hv.frames.count(mfn) == count
    assert granted.one.entry_flags(REF) == PERMIT and not granted.one.domain.grants.active
    granted.hv.frames.check()


def test_death_of_the_granting_domain(granted: NativeHost) -> None:
    free = granted.hv.frames.free_count
    op = map_(granted.two)
    lifecycle.destroy_domain(granted.one.domain)
    assert 1 in granted.hv.domains  # a zombie: its number must not be given to another while its frame is mapped
    assert granted.two.api.read(HOLE, 5) == b"hello"
    assert map_(granted.two, host_addr=HOLE + PAGE).status != OKAY
    assert unmap(granted.two, op.handle) == OKAY
    lifecycle.reap(granted.hv)
    assert 1 not in granted.hv.domains
    assert granted.hv.frames.free_count >= free + granted.one.pages
    granted.hv.frames.check()


def test_grants_in_the_trace(granted: NativeHost) -> None:
    granted.watch()
    unmap(granted.two, map_(granted.two).handle)
    grants = [event.values for event in granted.events if event.kind.name == "grant"]
    assert grants == [("map", REF, 1, 0), ("unmap", REF, 1, 0)]


# -- with real page tables


def paged() -> tuple[CodeGuest, Guest, int]:
    """A guest with page tables, and a native domain that grants it a page; where the guest may map it."""
    guest = CodeGuest(load(BASE + (SPARE + 2) * PAGE) + NOP)
    other = Guest(guest.hv, 7)
    other.write_entry(REF, PERMIT, guest.domain.domid, other.mfn(GRANTED))
    other.api.write(GRANTED, b"GRANTED!")
    return guest, other, BASE + (SPARE + 2) * PAGE


def paged_map(guest: CodeGuest, host_addr: int, flags: int) -> Any:
    op = abi.gnttab_map_grant_ref
    guest.poke(DATA, op.pack(host_addr=host_addr, flags=flags, ref=REF, dom=7))
    assert guest.call(xen.HYPERVISOR_grant_table_op, abi.GNTTABOP_map_grant_ref, DATA, 1) == 0
    return op.unpack(guest.machine.ram.read(guest.pa(DATA), op.size))


@pytest.mark.parametrize("contains_pte", [False, True])
def test_a_guest_reads_what_it_mapped_and_gives_it_back(contains_pte: bool) -> None:
    guest, other, va = paged()
    frames, mfn = guest.hv.frames, other.mfn(GRANTED)
    count, own = frames.count(mfn), frames.count(guest.mfns[SPARE + 2])
    place = (guest.mfns[L1] << 12) + (va >> 12) % 512 * 8 if contains_pte else va
    flags = HOST | (abi.GNTMAP_contains_pte if contains_pte else 0)
    op = paged_map(guest, place, flags)
    assert (op.status, frames.count(mfn)) == (OKAY, count + 1)
    assert frames.count(guest.mfns[SPARE + 2]) == own - 1  # the page it took the place of
    guest.run(1)
    assert guest.reg(Reg.RAX) == int.from_bytes(b"GRANTED!", "little")
    unmap_op = abi.gnttab_unmap_grant_ref
    guest.poke(DATA, unmap_op.pack(host_addr=place, handle=op.handle))
    assert guest.call(xen.HYPERVISOR_grant_table_op, abi.GNTTABOP_unmap_grant_ref, DATA, 1) == 0
    assert guest.machine.ram.read_u16(guest.pa(DATA) + unmap_op.status.offset) == OKAY
    assert (frames.count(mfn), other.entry_flags(REF)) == (count, PERMIT)
    frames.check()


@pytest.mark.parametrize("flags", [HOST, HOST | RO, HOST | DEVICE, DEVICE])
def test_death_with_mappings_in_page_tables(flags: int) -> None:
    guest, other, va = paged()
    frames, mfn = guest.hv.frames, other.mfn(GRANTED)
    count, uses = frames.count(mfn), frames.type_count(mfn)
    assert paged_map(guest, va, flags).status == OKAY
    guest.run(1)
    lifecycle.destroy_domain(guest.domain)
    assert (frames.count(mfn), frames.type_count(mfn), other.entry_flags(REF)) == (count, uses, PERMIT)
    assert guest.domain.domid not in guest.hv.domains
    frames.check()
