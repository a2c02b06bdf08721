"""Copying through grants, and giving frames away.

Facts from Xen 4.17: xen/common/grant_table.c (gnttab_copy_one, acquire_grant_for_copy, release_grant_for_copy,
gnttab_transfer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.abi import grant_table as abi
from pyvmm.abi import xen
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.hypervisor.grant_table import COUNTER_LIMIT, PAGE, Active, GrantFailure, GrantTable
from pyvmm.hypervisor.permissions import find

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

_COPY, _TRANSFER = abi.gnttab_copy, abi.gnttab_transfer
_SUB_PAGE = abi.grant_entry_v2.sub_page.type
_TRANSITIVE = abi.grant_entry_v2.transitive.type


@dataclass(slots=True)
class _Side:
    """One side of a copy, held: the frame and the part of it that may be touched."""

    domain: Domain
    mfn: int
    start: int
    length: int
    ref: int  # -1: the caller's own frame
    readonly: bool
    typed: bool = False


def copy(v: VCpu, uop: int, count: int) -> int:
    """GNTTABOP_copy on an array; only `status` is written back."""
    for i in range(count):
        address = uop + i * _COPY.size
        op = _COPY.unpack(v.copy_in(address, _COPY.size))
        status = _copy_one(v, op)
        if v.hv.trace.on:
            ref, domid = (
                (op.source.u.ref, op.source.domid)
                if op.flags & abi.GNTCOPY_source_gref
                else (op.dest.u.ref, op.dest.domid)
            )
            v.hv.trace.emit(trace.GRANT, v.domain.domid, v.vcpu_id, "copy", ref, domid, status)
        v.copy_out(address + _COPY.status.offset, status.to_bytes(2, "little", signed=True))
    return 0


def _copy_one(v: VCpu, op: Any) -> int:
    sides: list[_Side] = []
    try:
        source = _domain(v, op.source.domid, op.flags & abi.GNTCOPY_source_gref)
        dest = _domain(v, op.dest.domid, op.flags & abi.GNTCOPY_dest_gref)
        sides.append(_claim(v, source, op.source, bool(op.flags & abi.GNTCOPY_source_gref), readonly=True))
        sides.append(_claim(v, dest, op.dest, bool(op.flags & abi.GNTCOPY_dest_gref), readonly=False))
        _move(v, op, *sides)
        counters = v.domain.counters
        counters.grants_copied += 1
        counters.grant_bytes += op.len
        return abi.GNTST_okay
    except GrantFailure as failure:
        return failure.status
    finally:
        for side in sides:
            _let_go(side)


def _domain(v: VCpu, domid: int, by_ref: int) -> Domain:
    domain = find(v.domain, domid)
    if domain is None:
        raise GrantFailure(abi.GNTST_bad_domain)
    if domid != xen.DOMID_SELF and not by_ref:
        raise GrantFailure(abi.GNTST_permission_denied)
    return domain


def _claim(v: VCpu, domain: Domain, pointer: Any, by_ref: bool, *, readonly: bool) -> _Side:
    frames = v.hv.frames
    if by_ref:
        ref = pointer.u.ref
        active = acquire(domain.grants, ref, v.domain.domid, readonly=readonly)
        side = _Side(domain, active.mfn, active.start, active.length, ref, readonly)
    else:
        mfn = pointer.u.gmfn
        if not frames.get_page(mfn, domain):
            raise GrantFailure(abi.GNTST_bad_page)
        side = _Side(domain, mfn, 0, PAGE, -1, readonly)
    if not readonly:
        if not frames.get_page_type(side.mfn, PGT_writable_page):
            _let_go(side)
            raise GrantFailure(abi.GNTST_general_error)
        side.typed = True
    return side


def _let_go(side: _Side) -> None:
    frames = side.domain.hv.frames
    if side.typed:
        frames.put_page_type(side.mfn)
    if side.ref >= 0:
        release(side.domain.grants, side.ref, readonly=side.readonly)
    frames.put_page(side.mfn)


def _move(v: VCpu, op: Any, source: _Side, dest: _Side) -> None:
    if op.source.offset + op.len > PAGE or op.dest.offset + op.len > PAGE:
        raise GrantFailure(abi.GNTST_bad_copy_arg)
    for pointer, side in ((op.source, source), (op.dest, dest)):
        if pointer.offset < side.start or pointer.offset + op.len > side.start + side.length:
            raise GrantFailure(abi.GNTST_general_error)
    if op.len:
        v.hv.machine.ram.copy(dest.mfn * PAGE + op.dest.offset, source.mfn * PAGE + op.source.offset, op.len)


def acquire(table: GrantTable, ref: int, domid: int, *, readonly: bool, transitive: bool = True) -> Active:
    """Pin entry `ref` of `table` for a copy by `domid`, with a reference to its frame; `release` and a put_page undo
    it.

    A transitive entry (version 2) stands for an entry of a third domain, which is pinned, too; only one step is
    followed.
    """
    if ref >= table.entries:
        raise GrantFailure(abi.GNTST_bad_gntref)
    active = table.active.get(ref)
    if active is not None and active.pinned:
        uses = active.host_read if readonly else active.host_write
        if active.domid != domid or uses >= COUNTER_LIMIT:
            raise GrantFailure(abi.GNTST_general_error)
    flags, _ = table.header(ref)
    if table.version == 2 and flags & abi.GTF_type_mask == abi.GTF_transitive:
        active = _acquire_transitive(table, ref, domid, active, readonly=readonly, allowed=transitive)
    else:
        active = _acquire_direct(table, ref, domid, active, readonly=readonly)
    if readonly:
        active.host_read += 1
    else:
        active.host_write += 1
    return active


def _acquire_direct(table: GrantTable, ref: int, domid: int, active: Active | None, *, readonly: bool) -> Active:
    domain, frames = table.domain, table.domain.hv.frames
    if active is not None and (readonly or active.writable):
        if domain.dying or not frames.get_page(active.mfn, domain):
            table.reduce(ref, readonly=readonly)
            raise GrantFailure(abi.GNTST_bad_domain)
        return active
    table.use(ref, domid, readonly=readonly, mapping=False)
    mfn, start, length, sub_page = table.frame_of(ref), 0, PAGE, False
    if table.version == 2 and table.header(ref)[0] & abi.GTF_sub_page:
        entry = _SUB_PAGE.unpack(domain.hv.machine.ram.read(table.entry_pa(ref), _SUB_PAGE.size))
        start, length, sub_page = entry.page_off, entry.length, True
    if not frames.get_page(mfn, domain):
        table.reduce(ref, readonly=readonly)
        raise GrantFailure(abi.GNTST_bad_page)
    if active is None:
        table.v2_operations += sub_page
        active = table.active[ref] = Active(
            domid=domid, mfn=mfn, start=start, length=length, is_sub_page=sub_page, trans_domain=domain, trans_ref=ref
        )
    elif (active.mfn, active.trans_domain, active.trans_ref) != (mfn, domain, ref) or (
        active.is_sub_page and (not sub_page or (active.start, active.length) != (start, length))
    ):
        frames.put_page(mfn)  # the guest changed the entry under a use of it
        table.reduce(ref, readonly=readonly)
        raise GrantFailure(abi.GNTST_general_error)
    return active


def _acquire_transitive(
    table: GrantTable, ref: int, domid: int, active: Active | None, *, readonly: bool, allowed: bool
) -> Active:
    domain = table.domain
    if active is None or (not readonly and not active.writable):
        table.use(ref, domid, readonly=readonly, mapping=False)
    try:
        entry = _TRANSITIVE.unpack(domain.hv.machine.ram.read(table.entry_pa(ref), _TRANSITIVE.size))
        target = domain.hv.domains.get(entry.trans_domid)
        if not allowed or target is None or target is domain:
            raise GrantFailure(abi.GNTST_general_error)
        inner = acquire(target.grants, entry.gref, domain.domid, readonly=readonly, transitive=False)
    except GrantFailure:
        table.reduce(ref, readonly=readonly)
        raise
    if active is None:
        table.v2_operations += 1
        # Treated as a part of a page, whatever it is, because such an entry cannot be mapped.
        active = table.active[ref] = Active(
            domid=domid,
            mfn=inner.mfn,
            start=inner.start,
            length=inner.length,
            is_sub_page=True,
            trans_domain=target,
            trans_ref=entry.gref,
        )
    elif (active.mfn, active.start, active.length, active.trans_domain, active.trans_ref) != (
        inner.mfn,
        inner.start,
        inner.length,
        target,
        entry.gref,
    ):
        mfn = inner.mfn
        release(target.grants, entry.gref, readonly=readonly)
        domain.hv.frames.put_page(mfn)
        table.reduce(ref, readonly=readonly)
        raise GrantFailure(abi.GNTST_general_error)
    return active


def release(table: GrantTable, ref: int, *, readonly: bool) -> None:
    """Undo the pinning of `acquire` (not the reference to the frame)."""
    active = table.active[ref]
    if readonly:
        active.host_read -= 1
    else:
        active.host_write -= 1
    target, trans_ref = active.trans_domain, active.trans_ref
    if not active.pinned and active.is_sub_page:
        table.v2_operations -= 1
    table.reduce(ref, readonly=readonly)
    if target is not None and target is not table.domain:
        release(target.grants, trans_ref, readonly=readonly)


def transfer(v: VCpu, uop: int, count: int) -> int:
    """GNTTABOP_transfer on an array: a frame of the caller becomes another domain's, which has said that it will take
    one."""
    for i in range(count):
        address = uop + i * _TRANSFER.size
        op = _TRANSFER.unpack(v.copy_in(address, _TRANSFER.size))
        try:
            _transfer_one(v, op.mfn, op.domid, op.ref)
            status = abi.GNTST_okay
            v.domain.counters.grants_transferred += 1
        except GrantFailure as failure:
            status = failure.status
        if v.hv.trace.on:
            v.hv.trace.emit(trace.GRANT, v.domain.domid, v.vcpu_id, "transfer", op.ref, op.domid, status)
        v.copy_out(address + _TRANSFER.status.offset, status.to_bytes(2, "little", signed=True))
    return 0


def _transfer_one(v: VCpu, mfn: int, domid: int, ref: int) -> None:
    """As in Xen the caller has lost the frame even where the receiver then cannot have it."""
    hv, domain = v.hv, v.domain
    frames = hv.frames
    if frames.owner(mfn) != domain.domid or frames.is_special(mfn):
        raise GrantFailure(abi.GNTST_bad_page)
    if not frames.steal(mfn, domain):
        raise GrantFailure(abi.GNTST_general_error)
    domain.tot_pages -= 1
    try:
        receiver = hv.domains.get(domid)
        if receiver is None:
            raise GrantFailure(abi.GNTST_bad_domain)
        if receiver.dying or receiver.tot_pages >= receiver.max_pages:
            raise GrantFailure(abi.GNTST_general_error)
        table = receiver.grants
        if ref >= table.entries or table.header(ref) != (abi.GTF_accept_transfer, domain.domid):
            raise GrantFailure(abi.GNTST_general_error)
    except GrantFailure:
        frames.free_xen(mfn)
        raise
    ram, pa = hv.machine.ram, table.entry_pa(ref)
    ram.write_u16(pa, abi.GTF_accept_transfer | abi.GTF_transfer_committed)
    frames.give(mfn, 1, receiver)
    receiver.tot_pages += 1
    hv.xen_area.set_m2p(mfn, table.frame_of(ref))
    if table.version == 1:
        ram.write_u32(pa + 4, mfn)
    else:
        ram.write_u64(pa + 8, mfn)
    ram.write_u16(pa, ram.read_u16(pa) | abi.GTF_transfer_completed)
