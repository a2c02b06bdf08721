"""Mapping other domains' granted frames, and unmapping them.

A host mapping is an entry in the mapping domain's page tables (or a native domain's); it holds the references to the
frame, so that they go when the entry goes. A device mapping is only book-keeping here: there is no IOMMU, the bus
address is the machine address. Facts from Xen 4.17: xen/common/grant_table.c (map_grant_ref, unmap_common,
unmap_common_complete, gnttab_release_mappings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import grant_table as abi
from pyvmm.hypervisor import mmu_ops, trace
from pyvmm.hypervisor.errors import DomainCrash, XenError
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.hypervisor.grant_table import COUNTER_LIMIT, Active, GrantFailure, GrantTable, Mapping

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

HOST, DEVICE, READONLY = abi.GNTMAP_host_map, abi.GNTMAP_device_map, abi.GNTMAP_readonly
PAGE = 4096
_MAP, _UNMAP, _REPLACE = abi.gnttab_map_grant_ref, abi.gnttab_unmap_grant_ref, abi.gnttab_unmap_and_replace


def map_grant_ref(v: VCpu, uop: int, count: int) -> int:
    """GNTTABOP_map_grant_ref on an array. 0, or -EFAULT for an element that cannot be read or written."""
    for i in range(count):
        address = uop + i * _MAP.size
        op = _MAP.unpack(v.copy_in(address, _MAP.size))
        values = op._asdict()
        try:
            values["handle"], mfn = _map_one(v, op.host_addr, op.flags, op.ref, op.dom)
            values["dev_bus_addr"], values["status"] = mfn * PAGE, abi.GNTST_okay
            v.domain.counters.grants_mapped += 1
        except GrantFailure as failure:
            values["status"] = failure.status
        _trace(v, "map", op.ref, op.dom, values["status"])
        v.copy_out(address, _MAP.pack(**values))
    return 0


def _map_one(v: VCpu, host_addr: int, flags: int, ref: int, domid: int) -> tuple[int, int]:
    """Map one grant; its handle and machine frame."""
    if not flags & (HOST | DEVICE):
        raise GrantFailure(abi.GNTST_bad_gntref)
    local, remote = v.domain, v.hv.domains.get(domid)
    if remote is None:
        raise GrantFailure(abi.GNTST_bad_domain)
    handle = local.grants.new_handle(v)
    try:
        mfn = _pin(local, remote.grants, ref, flags)
        try:
            _reference(v, remote, host_addr, flags, mfn)
        except GrantFailure:
            _unpin(remote.grants, ref, flags)
            raise
    except GrantFailure:
        local.grants.free_handle(handle, v.vcpu_id)
        raise
    local.grants.maptrack[handle] = Mapping(ref, remote, flags, v.vcpu_id)
    return handle, mfn


def _pin(local: Domain, table: GrantTable, ref: int, flags: int) -> int:
    """Make entry `ref` active for a mapping by `local`; the frame it stands for."""
    if ref >= table.entries:
        raise GrantFailure(abi.GNTST_bad_gntref)
    active, readonly = table.active.get(ref), bool(flags & READONLY)
    if (
        active is not None
        and active.pinned
        and (active.domid != local.domid or _overflows(active, flags) or active.is_sub_page)
    ):
        raise GrantFailure(abi.GNTST_general_error)
    if active is None or not active.pinned or (not readonly and not active.writable):
        table.use(ref, local.domid, readonly=readonly, mapping=True)
        if active is None:
            mfn = table.frame_of(ref)
            if table.domain.hv.frames.owner(mfn) != table.domain.domid:
                table.reduce(ref, readonly=readonly)
                raise GrantFailure(abi.GNTST_bad_page)
            active = table.active[ref] = Active(domid=local.domid, mfn=mfn, trans_domain=table.domain, trans_ref=ref)
    _count(active, flags, 1)
    return active.mfn


def _unpin(table: GrantTable, ref: int, flags: int) -> None:
    _count(table.active[ref], flags, -1)
    table.reduce(ref, readonly=bool(flags & READONLY))


def _count(active: Active, flags: int, step: int) -> None:
    if flags & READONLY:
        active.device_read += step * bool(flags & DEVICE)
        active.host_read += step * bool(flags & HOST)
    else:
        active.device_write += step * bool(flags & DEVICE)
        active.host_write += step * bool(flags & HOST)


def _overflows(active: Active, flags: int) -> bool:
    device, host = (
        (active.device_read, active.host_read) if flags & READONLY else (active.device_write, active.host_write)
    )
    return bool(flags & DEVICE and device >= COUNTER_LIMIT) or bool(flags & HOST and host >= COUNTER_LIMIT)


def _reference(v: VCpu, remote: Domain, host_addr: int, flags: int, mfn: int) -> None:
    """Take the references a mapping holds (one a kind, of the writable type unless read-only) and make the page-table
    entry."""
    if flags & DEVICE:
        _get(remote, mfn, flags)
    if flags & HOST:
        try:
            _get(remote, mfn, flags)
            if not _host_map(v, host_addr, flags, mfn):
                _put(remote, mfn, flags)
                raise GrantFailure(abi.GNTST_general_error)
        except GrantFailure:
            if flags & DEVICE:
                _put(remote, mfn, flags)
            raise


def _host_map(v: VCpu, host_addr: int, flags: int, mfn: int) -> bool:
    contains_pte = bool(flags & abi.GNTMAP_contains_pte)
    return mmu_ops.map_grant(v, host_addr, mmu_ops.grant_pte_flags(flags), mfn, contains_pte)


def _get(owner: Domain, mfn: int, flags: int) -> None:
    frames = owner.hv.frames
    taken = frames.get_page(mfn, owner) if flags & READONLY else frames.get_page_and_type(mfn, owner, PGT_writable_page)
    if not taken:
        raise GrantFailure(abi.GNTST_general_error)


def _put(owner: Domain, mfn: int, flags: int) -> None:
    if flags & READONLY:
        owner.hv.frames.put_page(mfn)
    else:
        owner.hv.frames.put_page_and_type(mfn)


def unmap_grant_ref(v: VCpu, uop: int, count: int) -> int:
    """GNTTABOP_unmap_grant_ref on an array; only `status` is written back."""
    for i in range(count):
        address = uop + i * _UNMAP.size
        op = _UNMAP.unpack(v.copy_in(address, _UNMAP.size))
        status = _unmap_one(v, op.host_addr, op.dev_bus_addr, op.handle, 0)
        v.copy_out(address + _UNMAP.status.offset, status.to_bytes(2, "little", signed=True))
    return 0


def unmap_and_replace(v: VCpu, uop: int, count: int) -> int:
    """GNTTABOP_unmap_and_replace: the entry of `new_addr` moves to the place of the mapping."""
    for i in range(count):
        address = uop + i * _REPLACE.size
        op = _REPLACE.unpack(v.copy_in(address, _REPLACE.size))
        status = _unmap_one(v, op.host_addr, 0, op.handle, op.new_addr)
        v.copy_out(address + _REPLACE.status.offset, status.to_bytes(2, "little", signed=True))
    return 0


def _unmap_one(v: VCpu, host_addr: int, dev_bus_addr: int, handle: int, new_addr: int) -> int:
    """Undo those parts of a mapping whose address is given; GNTST_*. The handle is free once no part is left."""
    table = v.domain.grants
    mapping = table.maptrack.get(handle)
    if mapping is None:
        return abi.GNTST_bad_handle
    remote = mapping.domain
    active = remote.grants.active.get(mapping.ref)
    if active is None:
        raise DomainCrash(f"grant handle {handle:#x} names an entry that is not in use")
    flags, status = mapping.flags, abi.GNTST_okay
    mfn = active.mfn
    try:
        if dev_bus_addr and flags & DEVICE and dev_bus_addr != mfn * PAGE:
            raise GrantFailure(abi.GNTST_bad_dev_addr)
        if host_addr and flags & HOST:
            _host_unmap(v, host_addr, flags, mfn, new_addr)
            _drop(mapping, mfn, HOST)
        if dev_bus_addr and flags & DEVICE:
            _drop(mapping, mfn, DEVICE)
        if not mapping.flags & (HOST | DEVICE):
            table.free_handle(handle, mapping.vcpu)
            v.domain.counters.grants_unmapped += 1
    except GrantFailure as failure:
        status = failure.status
    _trace(v, "unmap", mapping.ref, remote.domid, status)
    return status


def _host_unmap(v: VCpu, host_addr: int, flags: int, mfn: int, new_addr: int) -> None:
    contains_pte = bool(flags & abi.GNTMAP_contains_pte)
    try:
        done = mmu_ops.unmap_grant(v, host_addr, mmu_ops.grant_pte_flags(flags), mfn, contains_pte, new_addr)
    except XenError:
        done = False
    if not done:
        raise GrantFailure(abi.GNTST_general_error)


def _drop(mapping: Mapping, mfn: int, part: int) -> None:
    """One part (HOST or DEVICE) of a mapping is gone: its references, its pin, the busy bits."""
    _put(mapping.domain, mfn, mapping.flags)
    _unpin(mapping.domain.grants, mapping.ref, part | mapping.flags & READONLY)
    mapping.flags &= ~part


def release_mappings(domain: Domain) -> None:
    """Give up all mappings of a dying domain. The references of host mappings go with its page tables, those of
    device mappings here."""
    table = domain.grants
    for handle in sorted(table.maptrack, reverse=True):
        mapping = table.maptrack.pop(handle)
        active = mapping.domain.grants.active.get(mapping.ref)
        if active is None:
            continue
        mfn, readonly = active.mfn, mapping.flags & READONLY
        if mapping.flags & DEVICE:
            _put(mapping.domain, mfn, mapping.flags)
        _unpin(mapping.domain.grants, mapping.ref, mapping.flags & (HOST | DEVICE) | readonly)


def _trace(v: VCpu, what: str, ref: int, domid: int, status: int) -> None:
    if v.hv.trace.on:
        v.hv.trace.emit(trace.GRANT, v.domain.domid, v.vcpu_id, what, ref, domid, status)
