"""The grant_table_op hypercall: what concerns the tables themselves, and the way to `grant_map` and `grant_copy`.

Facts from Xen 4.17: public/grant_table.h, xen/common/grant_table.c (do_grant_table_op). GNTTABOP_dump_table is no
longer known there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.abi import grant_table as abi
from pyvmm.hypervisor import grant_copy, grant_map
from pyvmm.hypervisor.continuation import share
from pyvmm.hypervisor.errors import Preempted, XenError
from pyvmm.hypervisor.grant_table import ENTRY_SIZE, PAGE
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import access_ok, find, find_or_esrch, may_target, require_target

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

CMD_MASK = 0xFFF  # the bits above are a continuation's, and none of a guest's business


def _status(value: int) -> bytes:
    return value.to_bytes(2, "little", signed=True)


def _target(v: VCpu, domid: int) -> tuple[Domain | None, int]:
    """The domain that a table operation is about, and GNTST_okay or why not."""
    domain = find(v.domain, domid)
    if domain is None:
        return None, abi.GNTST_bad_domain
    return (domain, abi.GNTST_okay) if may_target(v.domain, domain) else (None, abi.GNTST_permission_denied)


def _setup_table(v: VCpu, uop: int, count: int) -> int:
    """Let the table have at least so many frames, and tell which they are."""
    if count != 1:
        raise XenError(errno.EINVAL)
    op = abi.gnttab_setup_table.unpack(v.copy_in(uop, abi.gnttab_setup_table.size))
    if not access_ok(op.frame_list):
        raise XenError(errno.EFAULT)
    domain, status = _target(v, op.dom)
    if domain is not None:
        table = domain.grants
        if op.nr_frames > table.max_frames:
            status = abi.GNTST_general_error
        else:
            try:
                table.grow(op.nr_frames)
                status = _put_frames(v, op.frame_list, table.frames[: op.nr_frames])
            except XenError:
                status = abi.GNTST_general_error
    v.copy_out(uop + abi.gnttab_setup_table.status.offset, _status(status))
    return 0


def _get_status_frames(v: VCpu, uop: int, count: int) -> int:
    if count != 1:
        raise XenError(errno.EINVAL)
    op = abi.gnttab_get_status_frames.unpack(v.copy_in(uop, abi.gnttab_get_status_frames.size))
    if not access_ok(op.frame_list):
        raise XenError(errno.EFAULT)
    domain, status = _target(v, op.dom)
    if domain is not None:
        mfns = domain.grants.status_frames
        if op.nr_frames > len(mfns):
            status = abi.GNTST_general_error
        else:
            status = _put_frames(v, op.frame_list, mfns[: op.nr_frames])
    v.copy_out(uop + abi.gnttab_get_status_frames.status.offset, _status(status))
    return 0


def _put_frames(v: VCpu, address: int, mfns: list[int]) -> int:
    try:
        v.copy_out(address, b"".join(mfn.to_bytes(8, "little") for mfn in mfns))
    except XenError:
        return abi.GNTST_bad_virt_addr
    return abi.GNTST_okay


def _query_size(v: VCpu, uop: int, count: int) -> int:
    if count != 1:
        raise XenError(errno.EINVAL)
    op = abi.gnttab_query_size.unpack(v.copy_in(uop, abi.gnttab_query_size.size))
    domain, status = _target(v, op.dom)
    values = {**op._asdict(), "status": status}
    if domain is not None:
        values.update(nr_frames=len(domain.grants.frames), max_nr_frames=domain.grants.max_frames)
    v.copy_out(uop, abi.gnttab_query_size.pack(**values))
    return 0


def _set_version(v: VCpu, uop: int, count: int) -> int:
    """The version in force is told in any case."""
    op = abi.gnttab_set_version.unpack(v.copy_in(uop, abi.gnttab_set_version.size))
    table, result = v.domain.grants, 0
    try:
        table.set_version(op.version)
    except XenError as error:
        result = -error.errno
    v.copy_out(uop, abi.gnttab_set_version.pack(version=table.version))
    return result


def _get_version(v: VCpu, uop: int, count: int) -> int:
    op = abi.gnttab_get_version.unpack(v.copy_in(uop, abi.gnttab_get_version.size))
    domain = find_or_esrch(v.domain, op.dom)
    require_target(v.domain, domain)
    v.copy_out(uop + abi.gnttab_get_version.version.offset, domain.grants.version.to_bytes(4, "little"))
    return 0


def _swap_grant_ref(v: VCpu, uop: int, count: int) -> int:
    """Exchange two entries of the caller's table, neither of them in use."""
    size = abi.gnttab_swap_grant_ref.size
    for i in range(count):
        address = uop + i * size
        op = abi.gnttab_swap_grant_ref.unpack(v.copy_in(address, size))
        status = _swap(v, op.ref_a, op.ref_b)
        v.copy_out(address + abi.gnttab_swap_grant_ref.status.offset, _status(status))
    return 0


def _swap(v: VCpu, a: int, b: int) -> int:
    table, ram = v.domain.grants, v.hv.machine.ram
    if a >= table.entries or b >= table.entries:
        return abi.GNTST_bad_gntref
    if a == b:
        return abi.GNTST_okay
    if table.is_pinned(a) or table.is_pinned(b):
        return abi.GNTST_eagain
    places = [(table.entry_pa(a), table.entry_pa(b), ENTRY_SIZE[table.version])]
    if table.version == 2:
        places.append((table.status_pa(a), table.status_pa(b), 2))
    for first, second, size in places:
        saved = ram.read(first, size)
        ram.write(first, ram.read(second, size))
        ram.write(second, saved)
    return abi.GNTST_okay


def _cache_flush(v: VCpu, uop: int, count: int) -> int:
    """Accepted for frames the caller owns or has mapped; x86 can write caches back, but not drop them."""
    size = abi.gnttab_cache_flush.size
    for i in range(count):
        op = abi.gnttab_cache_flush.unpack(v.copy_in(uop + i * size, size))
        known = abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_CLEAN
        if op.offset >= PAGE or op.length > PAGE or op.offset + op.length > PAGE or op.op & ~known:
            raise XenError(errno.EINVAL)
        if op.length == 0 or op.op == 0:
            continue
        mfn = op.a.dev_bus_addr >> 12
        if mfn >= v.hv.frames.total:
            raise XenError(errno.EINVAL)
        owner = v.hv.frames.owner(mfn)
        domain = v.hv.domains.get(owner) if owner is not None else None
        if domain is None:
            raise XenError(errno.EPERM)
        if domain is not v.domain and not any(
            active.domid == v.domain.domid and active.mfn == mfn for active in domain.grants.active.values()
        ):
            raise XenError(errno.EINVAL)
        if not op.op & abi.GNTTAB_CACHE_CLEAN:
            raise XenError(errno.EOPNOTSUPP)
    return 0


_OPERATIONS: dict[int, Callable[[VCpu, int, int], int]] = {
    abi.GNTTABOP_map_grant_ref: grant_map.map_grant_ref,
    abi.GNTTABOP_unmap_grant_ref: grant_map.unmap_grant_ref,
    abi.GNTTABOP_unmap_and_replace: grant_map.unmap_and_replace,
    abi.GNTTABOP_setup_table: _setup_table,
    abi.GNTTABOP_transfer: grant_copy.transfer,
    abi.GNTTABOP_copy: grant_copy.copy,
    abi.GNTTABOP_query_size: _query_size,
    abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_status_frames: _get_status_frames,
    abi.GNTTABOP_get_version: _get_version,
    abi.GNTTABOP_swap_grant_ref: _swap_grant_ref,
    abi.GNTTABOP_cache_flush: _cache_flush,
}


_ARRAYS = {  # operations on any number of structures, and their size
    abi.GNTTABOP_map_grant_ref: abi.gnttab_map_grant_ref.size,
    abi.GNTTABOP_unmap_grant_ref: abi.gnttab_unmap_grant_ref.size,
    abi.GNTTABOP_unmap_and_replace: abi.gnttab_unmap_and_replace.size,
    abi.GNTTABOP_transfer: abi.gnttab_transfer.size,
    abi.GNTTABOP_copy: abi.gnttab_copy.size,
    abi.GNTTABOP_swap_grant_ref: abi.gnttab_swap_grant_ref.size,
    abi.GNTTABOP_cache_flush: abi.gnttab_cache_flush.size,
}


@hypercall(xen.HYPERVISOR_grant_table_op, "cmd", "uop", "count")
def grant_table_op(v: VCpu, cmd: int, uop: int, count: int) -> int:
    """GNTTABOP_* on `count` structures at `uop`. -EINVAL for a count of 2^31 and more, -ENOSYS for an unknown
    operation."""
    cmd, count = cmd & 0xFFFF_FFFF, count & 0xFFFF_FFFF
    if count >> 31 or (cmd & ~CMD_MASK and cmd & CMD_MASK != abi.GNTTABOP_cache_flush):
        return -errno.EINVAL
    operation = _OPERATIONS.get(cmd & CMD_MASK)
    if operation is None:
        return -errno.ENOSYS
    if not access_ok(uop):
        return -errno.EFAULT
    size = _ARRAYS.get(cmd & CMD_MASK)
    if size is None:
        return operation(v, uop, count)
    n = share(v, count)
    result = operation(v, uop, n)
    if n < count and not result:
        raise Preempted(rest=(cmd, uop + n * size, count - n), served=(cmd, uop, n))
    return result
