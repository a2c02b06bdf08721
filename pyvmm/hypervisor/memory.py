"""memory_op: how much memory a domain has and gets, and what the machine's memory looks like.

Facts: xen/common/memory.c, arch_memory_op() and subarch_memory_op() of Xen 4.17, and public/memory.h. Reservations are
lists of *extents* of 2**order frames; those operations return how many extents they did, whatever went wrong, and take
where to go on in the bits of `cmd` above the sixth.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno, memory, xen
from pyvmm.abi.layout import Struct
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor import memory_map, permissions
from pyvmm.hypervisor.continuation import share
from pyvmm.hypervisor.errors import Preempted, XenError
from pyvmm.hypervisor.frames import MAX_ORDER
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.memory_exchange import exchange
from pyvmm.hypervisor.reservation import DOMU_MAX_ORDER, Reservation, max_order

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

EXTENT_SHIFT = 6
COMMAND_MASK = (1 << EXTENT_SHIFT) - 1
_MOST_EXTENTS = 0xFFFF_FFFF >> EXTENT_SHIFT  # more could not be encoded in a continuation
_STATUS_FRAMES_PER_GRANT_FRAME = 8
__all__ = ["DOMU_MAX_ORDER", "memory_op"]


@hypercall(xen.HYPERVISOR_memory_op, "cmd", "arg")
def memory_op(v: VCpu, cmd: int, arg: int) -> int:
    """Serve the XENMEM_* operation in the low six bits of `cmd`, from extent `cmd >> 6` on, with the structure at
    `arg`."""
    op, start = cmd & COMMAND_MASK, cmd >> EXTENT_SHIFT
    adjust = _RESERVATIONS.get(op)
    if adjust is not None:
        return _adjust_reservation(v, adjust, op, start, arg)
    if op in _RESUMABLE:
        return _RESUMABLE[op](v, start, arg)
    if op in _PLAIN:
        return -errno.EINVAL if start else _PLAIN[op](v, arg)
    # What is left is known by its whole number.
    handler = memory_map.OPERATIONS.get(cmd)
    return -errno.ENOSYS if handler is None else handler(v, arg)


def _read(v: VCpu, layout: Struct, address: int) -> Any:
    return layout.unpack(v.copy_in(address, layout.size))


# -- reservations ----------------------------------------------------------------------------------------------------


def _adjust_reservation(
    v: VCpu, adjust: Callable[[VCpu, Reservation, int], bool], op: int, start: int, arg: int
) -> int:
    """Do extents from `start` on until one fails; the number of extents done. Bad arguments mean that none was."""
    try:
        request = _read(v, memory.xen_memory_reservation, arg)
    except XenError:
        return start
    if request.nr_extents > _MOST_EXTENTS or start >= request.nr_extents:
        return start
    domain = permissions.find(v.domain, request.domid)
    if domain is None:
        return start
    try:
        reservation = Reservation.parse(v, domain, request)
    except XenError:
        return start
    if not permissions.may_target(v.domain, domain):
        return start
    on_demand = adjust is _populate_physmap and request.mem_flags & memory.XENMEMF_populate_on_demand
    limit = MAX_ORDER if on_demand else max_order(v.domain)
    optional = adjust is _increase_reservation and not request.extent_start
    if request.extent_order > limit or not (optional or permissions.access_ok(request.extent_start + start * 8)):
        return start
    if on_demand:  # means something for translated domains only; on oneself it is refused
        return start if domain is v.domain else int(request.nr_extents)
    pages = share(v, request.nr_extents - start << request.extent_order)
    end: int = start + max(pages >> request.extent_order, 1)
    for done in range(start, end):
        try:
            if not adjust(v, reservation, done):
                return done
        except XenError:
            return done
    if end < request.nr_extents:
        raise Preempted(rest=(op | end << EXTENT_SHIFT, arg), served=(op | start << EXTENT_SHIFT, arg), result=end)
    return end


def _increase_reservation(v: VCpu, r: Reservation, i: int) -> bool:
    mfn = r.alloc()
    if r.extents:
        r.write_extent(i, mfn)
    return True


def _populate_physmap(v: VCpu, r: Reservation, i: int) -> bool:
    gpfn = r.read_extent(i)
    mfn = r.alloc()
    v.hv.xen_area.set_m2p_list(range(mfn, mfn + (1 << r.order)), gpfn)
    r.write_extent(i, mfn)
    return True


def _decrease_reservation(v: VCpu, r: Reservation, i: int) -> bool:
    frames = v.hv.frames
    first = r.read_extent(i)
    for mfn in range(first, first + (1 << r.order)):
        if not frames.get_page(mfn, r.domain):
            return False
        if not frames.is_special(mfn):  # the hypervisor's own frames stay, whatever the domain says
            frames.free_domain_page(mfn)
        frames.put_page(mfn)
    return True


_RESERVATIONS: dict[int, Callable[[VCpu, Reservation, int], bool]] = {
    memory.XENMEM_increase_reservation: _increase_reservation,
    memory.XENMEM_decrease_reservation: _decrease_reservation,
    memory.XENMEM_populate_physmap: _populate_physmap,
}


# -- queries ---------------------------------------------------------------------------------------------------------


def _maximum_ram_page(v: VCpu, arg: int) -> int:
    return v.hv.frames.total


def _about_domain(query: Callable[[Domain], int]) -> Callable[[VCpu, int], int]:
    """A number about the domain that the argument names."""

    def handler(v: VCpu, arg: int) -> int:
        domain = permissions.find_or_esrch(v.domain, _read(v, memory.xen_memory_domain, arg).domid)
        permissions.require_target(v.domain, domain)
        return query(domain)

    return handler


def _maximum_gpfn(domain: Domain) -> int:
    """What the guest says its p2m holds (arch.max_pfn of its shared page), less one."""
    from pyvmm.abi import arch_x86_64

    offset = xen.shared_info.arch.offset + arch_x86_64.arch_shared_info.max_pfn.offset
    return hc.signed((domain.hv.machine.ram.read_u64(domain.shared_info_pa + offset) or 1) - 1)


# -- what only translated domains have --------------------------------------------------------------------------------


def _add_to_physmap(v: VCpu, start: int, arg: int) -> int:
    if start > 0xFFFF:
        return -errno.EDOM
    request = _read(v, memory.xen_add_to_physmap, arg)
    if request.space == memory.XENMAPSPACE_gmfn_foreign:
        return -errno.ENOSYS
    permissions.find_or_esrch(v.domain, request.domid)
    return -errno.EACCES


def _add_to_physmap_batch(v: VCpu, start: int, arg: int) -> int:
    if start > 0xFFFF:
        return -errno.EDOM
    request = _read(v, memory.xen_add_to_physmap_batch, arg)
    if request.space == memory.XENMAPSPACE_gmfn_range:
        return -errno.EOPNOTSUPP
    permissions.find_or_esrch(v.domain, request.domid)
    return -errno.EACCES


def _remove_from_physmap(v: VCpu, arg: int) -> int:
    permissions.find_or_esrch(v.domain, _read(v, memory.xen_remove_from_physmap, arg).domid)
    return -errno.EACCES


def _access_op(v: VCpu, start: int, arg: int) -> int:
    """xen_mem_access_op: its domid is the third member, after op and access; the domain must be another, and
    translated."""
    (domid,) = struct.unpack("<2xH", v.copy_in(arg, 32)[:4])
    _find_remote(v, domid)
    return -errno.EINVAL


def _find_remote(v: VCpu, domid: int) -> Domain:
    """Another domain, by its number: DOMID_SELF is no domain here (ESRCH), and one's own is refused (EPERM)."""
    domain = v.hv.domains.get(domid)
    if domain is None or domain is v.domain:
        raise XenError(errno.ESRCH if domain is None else errno.EPERM)
    return domain


# -- others ----------------------------------------------------------------------------------------------------------


def _claim_pages(v: VCpu, arg: int) -> int:
    request = _read(v, memory.xen_memory_reservation, arg)
    domain = v.hv.domains.get(request.domid)  # not DOMID_SELF
    if request.extent_start or request.extent_order or request.mem_flags or domain is None:
        return -errno.EINVAL
    permissions.require_privileged(v.domain)
    frames, pages = v.hv.frames, request.nr_extents
    if not pages:
        frames.claim(domain, 0)
        return 0
    if domain.outstanding_pages or not domain.tot_pages < pages <= domain.max_pages:
        return -errno.EINVAL
    if pages - domain.tot_pages > frames.free_count - frames.claimed:
        return -errno.ENOMEM
    frames.claim(domain, pages - domain.tot_pages)
    return 0


def _get_vnumainfo(v: VCpu, arg: int) -> int:
    request = _read(v, memory.xen_vnuma_topology_info, arg)
    if request.pad:
        return -errno.EINVAL
    permissions.require_target(v.domain, permissions.find_or_esrch(v.domain, request.domid))
    return -errno.EOPNOTSUPP  # no domain has a virtual NUMA topology


def _reserved_device_memory_map(v: VCpu, arg: int) -> int:
    layout = memory.xen_reserved_device_memory_map
    request = _read(v, layout, arg)
    if not permissions.access_ok(request.buffer):
        return -errno.EFAULT
    if request.flags & ~memory.XENMEM_RDM_ALL:
        return -errno.EINVAL
    v.copy_out(arg + layout.nr_entries.offset, bytes(4))  # no device reserves any
    return 0


def _acquire_resource(v: VCpu, start: int, arg: int) -> int:
    layout = memory.xen_mem_acquire_resource
    request = _read(v, layout, arg)
    if request.pad or request.frame + request.nr_frames >> 32:
        return -errno.EINVAL
    domain = _find_remote(v, request.domid)
    if not permissions.may_serve(v.domain, domain):
        return -errno.EPERM
    limit = _resource_size(domain, request.type, request.id)
    if not limit:
        return -errno.EINVAL
    if not request.frame_list:
        if request.nr_frames or start:
            return -errno.EINVAL
        v.copy_out(arg + layout.nr_frames.offset, limit.to_bytes(4, "little"))
        return 0
    if start >= request.nr_frames or request.nr_frames > _MOST_EXTENTS:
        return -errno.EINVAL
    mfns = _resource_frames(domain, request.type, request.id, request.frame, request.nr_frames)
    v.copy_out(request.frame_list + start * 8, struct.pack(f"<{len(mfns) - start}Q", *mfns[start:]))
    return 0


def _resource_size(domain: Domain, type_: int, id_: int) -> int:
    """How many frames the whole resource has; 0: there is none. (An unknown type counts as one so large that only
    taking it fails.)"""
    grants = domain.grants
    if type_ == memory.XENMEM_resource_grant_table:
        if id_ == memory.XENMEM_resource_grant_table_id_shared:
            return grants.max_frames
        if id_ == memory.XENMEM_resource_grant_table_id_status:
            return grants.status_frames_for(grants.max_frames)
        return 0
    if type_ in (memory.XENMEM_resource_ioreq_server, memory.XENMEM_resource_vmtrace_buf):
        return 0
    return 0xFFFF_FFFF & -errno.EOPNOTSUPP


def _resource_frames(domain: Domain, type_: int, id_: int, first: int, n: int) -> list[int]:
    grants = domain.grants
    if type_ != memory.XENMEM_resource_grant_table:
        raise XenError(errno.EOPNOTSUPP)
    shared = id_ == memory.XENMEM_resource_grant_table_id_shared
    end = first + n
    if end > _resource_size(domain, type_, id_) or not (shared or grants.version == 2):
        raise XenError(errno.EINVAL)
    grants.grow(end if shared else min(end * _STATUS_FRAMES_PER_GRANT_FRAME, grants.max_frames))
    return (grants.frames if shared else grants.status_frames)[first:end]


_PLAIN: dict[int, Callable[[VCpu, int], int]] = {
    memory.XENMEM_exchange: exchange,
    memory.XENMEM_maximum_ram_page: _maximum_ram_page,
    memory.XENMEM_current_reservation: _about_domain(lambda domain: domain.tot_pages),
    memory.XENMEM_maximum_reservation: _about_domain(lambda domain: domain.max_pages),
    memory.XENMEM_maximum_gpfn: _about_domain(_maximum_gpfn),
    memory.XENMEM_remove_from_physmap: _remove_from_physmap,
    memory.XENMEM_claim_pages: _claim_pages,
    memory.XENMEM_get_vnumainfo: _get_vnumainfo,
    memory.XENMEM_reserved_device_memory_map: _reserved_device_memory_map,
}
_RESUMABLE: dict[int, Callable[[VCpu, int, int], int]] = {
    memory.XENMEM_add_to_physmap: _add_to_physmap,
    memory.XENMEM_add_to_physmap_batch: _add_to_physmap_batch,
    memory.XENMEM_access_op: _access_op,
    memory.XENMEM_acquire_resource: _acquire_resource,
}
