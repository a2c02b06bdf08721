"""XENMEM_exchange: a domain gives frames back and gets as many others, usually contiguous ones, for their place in its
p2m.

Facts: memory_exchange() in xen/common/memory.c of Xen 4.17. Work goes in chunks, of the larger of the two extent
sizes: within a chunk all or nothing is done, and `nr_exchanged` tells how many input extents were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno, memory
from pyvmm.hypervisor import permissions
from pyvmm.hypervisor.continuation import share
from pyvmm.hypervisor.errors import Preempted, XenError
from pyvmm.hypervisor.reservation import address_limit, max_order, wanted_node

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

_ULONG_BITS = 64


def exchange(v: VCpu, arg: int) -> int:
    """0 or -errno; nr_exchanged in the caller's structure is brought up to date either way."""
    layout = memory.xen_memory_exchange
    request = layout.unpack(v.copy_in(arg, layout.size))
    exchanged = request.nr_exchanged
    result, more = 0, False
    try:
        domain = _check(v, request)
        if exchanged == request.in_.nr_extents:
            return 0
        shift = max(0, request.out.extent_order - request.in_.extent_order)
        order = request.in_.extent_order + shift  # of a chunk
        first, last = exchanged >> shift, request.in_.nr_extents >> shift
        end = first + max(share(v, last - first << order) >> order, 1)
        for chunk in range(first, min(end, last)):
            exchanged = chunk << shift
            _exchange_chunk(v, domain, request, chunk)
        more = end < last
        exchanged = end << shift if more else request.in_.nr_extents
    except XenError as error:
        result = -error.errno
    v.copy_out(arg + layout.nr_exchanged.offset, exchanged.to_bytes(8, "little"))
    if more:
        raise Preempted(rest=(memory.XENMEM_exchange, arg), served=(memory.XENMEM_exchange, arg))
    return result


def _check(v: VCpu, request: Any) -> Domain:
    """The domain it is about; XenError for arguments that are refused before anything is done."""
    in_, out = request.in_, request.out
    if max(in_.extent_order, out.extent_order) > max_order(v.domain):
        raise XenError(errno.EPERM)
    if (
        request.nr_exchanged > in_.nr_extents
        or in_.domid != out.domid
        or in_.nr_extents << in_.extent_order >> _ULONG_BITS
        or in_.nr_extents << in_.extent_order != out.nr_extents << out.extent_order
    ):
        raise XenError(errno.EINVAL)
    if request.nr_exchanged != in_.nr_extents:
        done = request.nr_exchanged << in_.extent_order >> out.extent_order
        for address in (in_.extent_start + request.nr_exchanged * 8, out.extent_start + done * 8):
            if not permissions.access_ok(address):
                raise XenError(errno.EFAULT)
        wanted_node(v.domain, out.mem_flags)
        domain = permissions.find_or_esrch(v.domain, in_.domid)
        permissions.require_target(v.domain, domain)
        return domain
    return v.domain


def _exchange_chunk(v: VCpu, domain: Domain, request: Any, chunk: int) -> None:
    frames = v.hv.frames
    in_, out = request.in_, request.out
    n_in = 1 << max(0, out.extent_order - in_.extent_order)
    n_out = 1 << max(0, in_.extent_order - out.extent_order)
    bits = out.mem_flags & 0xFF
    below = 0 if 0 < bits <= 12 else address_limit(frames.total, out.mem_flags)
    stolen: list[int] = []
    new: list[int] = []
    try:
        for j in range(n_in):
            first = _read(v, in_.extent_start, chunk * n_in + j)
            for mfn in range(first, first + (1 << in_.extent_order)):
                if not frames.steal(mfn, domain):
                    raise XenError(errno.EINVAL)
                stolen.append(mfn)
        if wanted_node(v.domain, out.mem_flags):
            raise XenError(errno.ENOMEM)
        for _ in range(n_out):
            new.append(frames.alloc_xen_order(out.extent_order, below))
    except XenError:
        for mfn in stolen:
            frames.give(mfn, 1, domain)
        for start in new:
            for mfn in range(start, start + (1 << out.extent_order)):
                frames.free_xen(mfn)
        raise
    for start in new:
        frames.give(start, 1 << out.extent_order, domain)
    for mfn in stolen:
        frames.free_xen(mfn)
    _hand_over(v, out, chunk * n_out, new)


def _hand_over(v: VCpu, out: Any, first: int, new: list[int]) -> None:
    """Give the new frames the places that the guest's list names, and tell it which they are. XenError(EFAULT) when
    the list cannot be read or written: the frames are the domain's all the same."""
    failed = False
    for j, start in enumerate(new):
        try:
            gpfn = _read(v, out.extent_start, first + j)
            v.hv.xen_area.set_m2p_list(range(start, start + (1 << out.extent_order)), gpfn)
            v.copy_out(out.extent_start + (first + j) * 8, start.to_bytes(8, "little"))
        except XenError:
            failed = True
    if failed:
        raise XenError(errno.EFAULT)


def _read(v: VCpu, address: int, i: int) -> int:
    return int.from_bytes(v.copy_in(address + i * 8, 8), "little")
