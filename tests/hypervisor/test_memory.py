"""memory_op: reservations, exchanges, maps and queries, as Xen 4.17 answers PV domains."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm.abi import errno, memory, xen
from pyvmm.abi.layout import Struct
from pyvmm.hypervisor import memory_map
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.grant_table import GrantTable

from .pv_host import RO_FLAGS, Guest, Host, audit

OP = xen.HYPERVISOR_memory_op
INVALID = P.U64
LIST = 16  # pfn of the page for lists


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


def op(g: Guest, cmd: int, layout: Struct | None = None, **values: Any) -> tuple[int, Any]:
    """A memory_op; its result and the structure afterwards."""
    if layout is None:
        return g.call(OP, cmd, 0), None
    g.v.copy_out(g.va(8), layout.pack(**values))
    result = g.call(OP, cmd, g.va(8))
    return result, layout.unpack(g.v.copy_in(g.va(8), layout.size))


def put_list(g: Guest, values: list[int], pfn: int = LIST) -> int:
    """Store u64s in the guest; where."""
    g.v.copy_out(g.va(pfn), struct.pack(f"<{len(values)}Q", *values))
    return g.va(pfn)


def get_list(g: Guest, n: int, pfn: int = LIST) -> list[int]:
    return list(struct.unpack(f"<{n}Q", g.v.copy_in(g.va(pfn), n * 8)))


def reserve(g: Guest, cmd: int, values: list[int], *, start: int = 0, **fields: Any) -> int:
    fields = {"extent_start": put_list(g, values), "nr_extents": len(values), "domid": xen.DOMID_SELF} | fields
    return op(g, cmd | start << 6, memory.xen_memory_reservation, **fields)[0]


INCREASE, DECREASE, POPULATE = (
    memory.XENMEM_increase_reservation,
    memory.XENMEM_decrease_reservation,
    memory.XENMEM_populate_physmap,
)


# -- reservations


def test_give_back_and_take(host: Host) -> None:
    g = Guest(host, 1).start()
    mfns = g.mfns[20:24]
    for pfn in range(20, 24):
        assert g.map(pfn, 0, 0) == 0
    free, total = host.frames.free_count, g.domain.tot_pages
    assert reserve(g, DECREASE, mfns) == 4
    assert host.frames.free_count == free + 4 and g.domain.tot_pages == total - 4
    assert all(host.xen_area.m2p(m) == INVALID for m in mfns)
    assert reserve(g, POPULATE, [20, 21, 22, 23]) == 4
    new = get_list(g, 4)
    assert [host.xen_area.m2p(m) for m in new] == [20, 21, 22, 23]
    assert all(host.frames.owner(m) == 1 for m in new) and g.domain.tot_pages == total
    assert reserve(g, INCREASE, [0, 0]) == 2 and host.xen_area.m2p(get_list(g, 1)[0]) == INVALID
    assert reserve(g, INCREASE, [0, 0], extent_start=0) == 2


def test_a_frame_in_use_stays_until_unmapped(host: Host) -> None:
    g = Guest(host, 1).start()
    assert reserve(g, DECREASE, [g.mfns[20]]) == 1
    assert host.frames.owner(g.mfns[20]) == 1
    assert g.map(20, 0, 0) == 0
    assert host.frames.owner(g.mfns[20]) is None


def test_what_fails_is_not_counted(host: Host) -> None:
    g, other = Guest(host, 1, spare=3).start(), Guest(host, 2)
    assert reserve(g, DECREASE, [g.mfns[20], other.mfns[20], g.mfns[21]]) == 1
    assert reserve(g, DECREASE, [1 << 40]) == 0
    assert reserve(g, INCREASE, [0] * 6) == 3  # as much as max_pages allows
    host.domains[1].max_pages += 100
    # Nothing is done, and the starting extent returned, when the arguments are bad.
    for fields in (
        {"extent_order": 10},
        {"domid": 9},
        {"domid": 2},
        {"mem_flags": 12},
        {"mem_flags": 1 << 8 | memory.XENMEMF_exact_node_request},
        {"extent_start": 0xFFFF800000000000},
        {"nr_extents": 1 << 27},
    ):
        assert reserve(g, POPULATE, [1, 2, 3], **fields) == 0
    assert reserve(g, POPULATE, [1, 2, 3], start=3) == 3
    assert reserve(g, POPULATE, [1, 2, 3], start=2) == 3  # one
    assert reserve(g, POPULATE, [1], mem_flags=memory.XENMEMF_populate_on_demand) == 0
    assert g.call(OP, POPULATE | 5 << 6, 0x5000_0000_0000) == 5


def test_large_extents(host: Host) -> None:
    g = Guest(host, 1).start()
    total = g.domain.tot_pages
    assert reserve(g, POPULATE, [512], extent_order=9) == 1
    (mfn,) = get_list(g, 1)
    assert mfn % 512 == 0 and g.domain.tot_pages == total + 512
    assert host.xen_area.m2p(mfn) == 512 and host.xen_area.m2p(mfn + 511) == 1023
    assert reserve(g, DECREASE, [mfn], extent_order=9) == 1
    # Under an address: frames of the first 16 MiB.
    assert reserve(g, POPULATE, [600], mem_flags=24) == 1 and get_list(g, 1)[0] < 4096
    assert reserve(g, POPULATE, [600], mem_flags=63) == 1


def test_on_behalf_of_another(host: Host) -> None:
    d0, g = Guest(host, 0, privileged=True).start(), Guest(host, 2).start()
    total = g.domain.tot_pages
    assert reserve(d0, POPULATE, [7], domid=2) == 1 and g.domain.tot_pages == total + 1
    assert host.frames.owner(get_list(d0, 1)[0]) == 2
    assert reserve(d0, POPULATE, [5 << 9], domid=2, mem_flags=3 << 8) == 1  # a node that is not there is only a wish
    assert reserve(d0, POPULATE, [5], domid=2, mem_flags=3 << 8 | memory.XENMEMF_exact_node_request) == 0
    assert reserve(d0, POPULATE, [5], domid=2, mem_flags=memory.XENMEMF_populate_on_demand) == 1  # means nothing for PV


def test_shared_info_cannot_be_given_up(host: Host) -> None:
    g = Guest(host, 1).start()
    (shared,) = host.frames.alloc_xen()
    host.frames.share_with_guest(shared, g.domain, True)
    assert reserve(g, DECREASE, [shared]) == 1 and host.frames.owner(shared) == 1


# -- exchange


def exchange(g: Guest, mfns: list[int], pfns: list[int], in_order: int = 0, out_order: int = 0, **more: Any) -> Any:
    common = {"domid": more.pop("domid", xen.DOMID_SELF)}
    flags = more.pop("mem_flags", 0)
    layout, one = memory.xen_memory_exchange, memory.xen_memory_reservation
    inside = one.unpack(one.pack(extent_start=put_list(g, mfns), nr_extents=len(mfns), extent_order=in_order, **common))
    outside = one.unpack(
        one.pack(
            extent_start=put_list(g, pfns, LIST + 1),
            nr_extents=len(pfns),
            extent_order=out_order,
            mem_flags=flags,
            **common,
        )
    )
    result, after = op(g, memory.XENMEM_exchange, layout, in_=inside, out=outside, **more)
    return result, after.nr_exchanged


def test_exchange_for_a_contiguous_extent(host: Host) -> None:
    g = Guest(host, 1).start()
    for pfn in range(20, 24):
        assert g.map(pfn, 0, 0) == 0
    total, free = g.domain.tot_pages, host.frames.free_count
    assert exchange(g, g.mfns[20:24], [20], out_order=2) == (0, 4)
    (mfn,) = get_list(g, 1, LIST + 1)
    assert mfn % 4 == 0 and [host.xen_area.m2p(mfn + i) for i in range(4)] == [20, 21, 22, 23]
    assert g.domain.tot_pages == total and host.frames.free_count == free
    host.frames.check()
    # And back to single ones.
    assert exchange(g, [mfn], [20, 21, 22, 23], in_order=2) == (0, 1)
    assert [host.xen_area.m2p(m) for m in get_list(g, 4, LIST + 1)] == [20, 21, 22, 23]


def test_exchange_all_or_nothing_in_a_chunk(host: Host) -> None:
    g = Guest(host, 1).start()
    for pfn in range(20, 23):
        assert g.map(pfn, 0, 0) == 0
    assert exchange(g, g.mfns[20:24], [20, 22], out_order=1) == (-errno.EINVAL, 2)  # the last is still mapped
    assert host.frames.owner(g.mfns[22]) == 1 and host.frames.owner(g.mfns[20]) != 1
    assert exchange(g, g.mfns[22:23], [22], nr_exchanged=1) == (0, 1)
    assert host.frames.owner(g.mfns[22]) == 1


def test_exchange_refused(host: Host) -> None:
    g = Guest(host, 1).start()
    m = g.mfns[20:22]
    assert exchange(g, m, [20], out_order=10) == (-errno.EPERM, 0)
    assert exchange(g, m, [20], out_order=2) == (-errno.EINVAL, 0)
    assert exchange(g, m, [20, 21], nr_exchanged=3) == (-errno.EINVAL, 3)
    assert exchange(g, m, [20, 21], domid=7) == (-errno.ESRCH, 0)
    Guest(host, 7)
    assert exchange(g, m, [20, 21], domid=7) == (-errno.EPERM, 0)
    assert exchange(g, m, [20, 21], mem_flags=1 << 8 | memory.XENMEMF_exact_node_request) == (-errno.EINVAL, 0)
    assert exchange(g, m, [20, 21]) == (-errno.EINVAL, 0)  # mapped
    assert g.map(20, 0, 0) == g.map(21, 0, 0) == 0
    assert exchange(g, m, [20, 21], mem_flags=10) == (-errno.ENOMEM, 0)
    assert exchange(g, m, [20, 21], mem_flags=21)[0] == 0 and max(get_list(g, 2, LIST + 1)) < 512
    assert g.call(OP, memory.XENMEM_exchange | 1 << 6, g.va(8)) == -errno.EINVAL
    assert g.call(OP, memory.XENMEM_exchange, 0x5000_0000_0000) == -errno.EFAULT


# -- queries


def test_sizes(host: Host) -> None:
    g, d0 = Guest(host, 1).start(), Guest(host, 0, privileged=True).start()
    layout = memory.xen_memory_domain
    assert op(g, memory.XENMEM_maximum_ram_page)[0] == host.frames.total
    assert op(g, memory.XENMEM_maximum_ram_page | 1 << 6)[0] == -errno.EINVAL
    for who, domid in ((g, xen.DOMID_SELF), (g, 1), (d0, 1)):
        assert op(who, memory.XENMEM_current_reservation, layout, domid=domid)[0] == 32
        assert op(who, memory.XENMEM_maximum_reservation, layout, domid=domid)[0] == 32 + 1024
    assert op(g, memory.XENMEM_current_reservation, layout, domid=0)[0] == -errno.EPERM
    assert op(d0, memory.XENMEM_current_reservation, layout, domid=5)[0] == -errno.ESRCH


def test_memory_maps(host: Host) -> None:
    g, d0 = Guest(host, 1).start(), Guest(host, 0, privileged=True).start()
    layout = memory.xen_memory_map
    assert op(g, memory.XENMEM_memory_map, layout, nr_entries=5, buffer=g.va(9))[0] == -errno.ENOSYS
    entries = memory_map.ENTRY.pack(0, 0x10000, 1) + memory_map.ENTRY.pack(0x10000, 0x1000, 2)
    d0.v.copy_out(d0.va(9), entries)
    foreign = memory.xen_foreign_memory_map
    one = layout.unpack(layout.pack(nr_entries=2, buffer=d0.va(9)))
    assert op(d0, memory.XENMEM_set_memory_map, foreign, domid=1, map=one)[0] == 0
    result, after = op(g, memory.XENMEM_memory_map, layout, nr_entries=5, buffer=g.va(9))
    assert (result, after.nr_entries) == (0, 2) and g.v.copy_in(g.va(9), 40) == entries
    result, after = op(g, memory.XENMEM_memory_map, layout, nr_entries=1, buffer=g.va(9))
    assert (result, after.nr_entries) == (0, 1)
    assert op(g, memory.XENMEM_set_memory_map, foreign, domid=0, map=one)[0] == -errno.EPERM
    assert op(g, memory.XENMEM_memory_map | 1 << 6, layout)[0] == -errno.ENOSYS

    machine = memory.XENMEM_machine_memory_map
    assert op(g, machine, layout, nr_entries=50, buffer=g.va(9))[0] == -errno.EPERM
    assert op(d0, machine, layout, nr_entries=2, buffer=d0.va(9))[0] == -errno.EINVAL
    result, after = op(d0, machine, layout, nr_entries=50, buffer=d0.va(9))
    assert result == 0
    data = d0.v.copy_in(d0.va(9), after.nr_entries * 20)
    found = list(memory_map.ENTRY.iter_unpack(data))
    assert found[0] == (0, 0x9FC00, 1) and found[3] == (1 << 20, (host.frames.total << 12) - (1 << 20), 1)
    assert (0xFEE00000, 0x1000, 2) in found  # not for dom0
    assert op(d0, machine, layout, nr_entries=0, buffer=0)[1].nr_entries == after.nr_entries


def test_where_the_m2p_is(host: Host) -> None:
    g, d0 = Guest(host, 1).start(), Guest(host, 0, privileged=True).start()
    layout = memory.xen_machphys_mapping
    for who, last in ((g, 0x7FFFFFFFF), (d0, host.frames.total - 1)):
        result, where = op(who, memory.XENMEM_machphys_mapping, layout)
        assert result == 0 and tuple(where) == (0xFFFF800000000000, 0xFFFF804000000000, last)
    lists = memory.xen_machphys_mfn_list
    result, after = op(d0, memory.XENMEM_machphys_mfn_list, lists, max_extents=9, extent_start=d0.va(9))
    assert (result, after.nr_extents) == (0, 1)
    assert get_list(d0, 1, 9) == host.xen_area.m2p_frames()
    # The frames named there can be mapped, and show the table.
    (mfn,) = get_list(d0, 1, 9)
    update = xen.HYPERVISOR_update_va_mapping_otherdomain
    assert d0.call(update, d0.va(10), mfn + (d0.mfns[20] >> 9) << 12 | RO_FLAGS, 0, xen.DOMID_XEN) == 0
    assert d0.v.copy_in(d0.va(10) + d0.mfns[20] % 512 * 8, 8) == (20).to_bytes(8, "little")
    assert op(d0, memory.XENMEM_machphys_compat_mfn_list, lists)[0] == -errno.EOPNOTSUPP


def test_what_is_for_translated_domains(host: Host) -> None:
    g = Guest(host, 1).start()
    add, batch = memory.xen_add_to_physmap, memory.xen_add_to_physmap_batch
    assert op(g, memory.XENMEM_add_to_physmap, add, domid=xen.DOMID_SELF)[0] == -errno.EACCES
    assert op(g, memory.XENMEM_add_to_physmap, add, domid=9)[0] == -errno.ESRCH
    assert op(g, memory.XENMEM_add_to_physmap, add, space=memory.XENMAPSPACE_gmfn_foreign)[0] == -errno.ENOSYS
    assert op(g, memory.XENMEM_add_to_physmap | 1 << 23, add)[0] == -errno.EDOM
    assert op(g, memory.XENMEM_add_to_physmap_batch, batch, domid=xen.DOMID_SELF)[0] == -errno.EACCES
    ranges = memory.XENMAPSPACE_gmfn_range
    assert op(g, memory.XENMEM_add_to_physmap_batch, batch, space=ranges)[0] == -errno.EOPNOTSUPP
    remove = memory.xen_remove_from_physmap
    assert op(g, memory.XENMEM_remove_from_physmap, remove, domid=xen.DOMID_SELF)[0] == -errno.EACCES
    for cmd in (memory.XENMEM_set_pod_target, memory.XENMEM_get_pod_target):
        g.v.copy_out(g.va(8), bytes(32) + struct.pack("<Q", xen.DOMID_SELF))
        assert g.call(OP, cmd, g.va(8)) == -errno.EINVAL
        g.v.copy_out(g.va(8), bytes(32) + struct.pack("<Q", 9))
        assert g.call(OP, cmd, g.va(8)) == -errno.ESRCH
    other = Guest(host, 2)
    for domid, error in ((1, errno.EPERM), (xen.DOMID_SELF, errno.ESRCH), (other.domain.domid, errno.EINVAL)):
        g.v.copy_out(g.va(8), struct.pack("<BBH28x", 0, 0, domid))
        assert g.call(OP, memory.XENMEM_access_op, g.va(8)) == -error
    for cmd in (memory.XENMEM_paging_op, memory.XENMEM_sharing_op, 29, 63):
        assert g.call(OP, cmd, g.va(8)) == -errno.ENOSYS
    assert g.call(OP, memory.XENMEM_get_sharing_shared_pages, 0) == 0
    vnuma = memory.xen_vnuma_topology_info
    assert op(g, memory.XENMEM_get_vnumainfo, vnuma, domid=xen.DOMID_SELF)[0] == -errno.EOPNOTSUPP
    assert op(g, memory.XENMEM_get_vnumainfo, vnuma, domid=xen.DOMID_SELF, pad=1)[0] == -errno.EINVAL


def test_claims(host: Host) -> None:
    g, d0 = Guest(host, 1).start(), Guest(host, 0, privileged=True).start()
    layout = memory.xen_memory_reservation

    def claim(who: Guest, n: int, **fields: int) -> int:
        return op(who, memory.XENMEM_claim_pages, layout, **{"nr_extents": n, "domid": 1, **fields})[0]

    assert claim(g, 100) == -errno.EPERM
    assert claim(d0, 100, extent_order=1) == claim(d0, 100, domid=xen.DOMID_SELF) == -errno.EINVAL
    assert claim(d0, 32) == claim(d0, 2000) == -errno.EINVAL
    assert claim(d0, 132) == 0 and host.frames.claimed == 100
    assert claim(d0, 132) == -errno.EINVAL
    rest = host.frames.free_count - 100
    hungry = host.domain(5, pages=1 << 20)
    with pytest.raises(Exception, match=str(errno.ENOMEM)):
        host.frames.alloc(hungry, rest + 1)
    host.frames.alloc(hungry, rest)
    assert len(host.frames.alloc(g.domain, 60)) == 60 and host.frames.claimed == 40
    assert claim(d0, 0) == 0 and host.frames.claimed == 0


def test_acquire_resource(host: Host) -> None:
    d0, g = Guest(host, 0, privileged=True).start(), Guest(host, 1).start()
    for d in (d0.domain, g.domain):
        d.grants = GrantTable(d)
    layout, cmd = memory.xen_mem_acquire_resource, memory.XENMEM_acquire_resource
    grants, status = memory.XENMEM_resource_grant_table, memory.XENMEM_resource_grant_table_id_status

    def acquire(who: Guest, **fields: Any) -> tuple[int, int]:
        result, after = op(who, cmd, layout, **{"domid": 1, "type": grants, **fields})
        return result, after.nr_frames

    assert acquire(d0) == (0, g.domain.grants.max_frames)
    assert acquire(d0, nr_frames=2, frame_list=d0.va(LIST)) == (0, 2)
    assert get_list(d0, 2) == g.domain.grants.frames[:2]
    update = xen.HYPERVISOR_update_va_mapping_otherdomain
    assert d0.call(update, d0.va(9), get_list(d0, 1)[0] << 12 | RO_FLAGS | P.RW, 0, 1) == 0
    for error, fields in (
        (errno.EINVAL, {"pad": 1}),
        (errno.EINVAL, {"frame": 1 << 32}),
        (errno.EINVAL, {"nr_frames": 1}),
        (errno.EINVAL, {"frame": 64, "nr_frames": 1, "frame_list": d0.va(LIST)}),
        (errno.EINVAL, {"id": status, "nr_frames": 1, "frame_list": d0.va(LIST)}),  # version 1 has none
        (errno.EINVAL, {"id": 2}),
        (errno.EINVAL, {"type": memory.XENMEM_resource_ioreq_server}),
        (errno.EOPNOTSUPP, {"type": 9, "nr_frames": 1, "frame_list": d0.va(LIST)}),
        (errno.ESRCH, {"domid": 7}),
        (errno.ESRCH, {"domid": xen.DOMID_SELF}),
        (errno.EPERM, {"domid": 0}),
    ):
        assert acquire(d0, **fields)[0] == -error, fields
    assert acquire(g, domid=0)[0] == -errno.EPERM
    # With version 2, the status frames; more than there are yet make the table grow.
    g.domain.grants.set_version(2)
    assert acquire(d0, id=status, nr_frames=2, frame_list=d0.va(LIST)) == (0, 2)
    assert get_list(d0, 2) == g.domain.grants.status_frames[:2]
