"""multicall: many hypercalls for the price of one entry.

Facts from Xen 4.17: public/xen.h (multicall_entry), xen/common/multicall.c, xen/arch/x86/pv/hypercall.c.

Between two entries Xen looks whether something more urgent is to do (the vCPU lost the CPU, an upcall can be
delivered). If so, it sets the guest back to its `syscall` with the arguments moved on, so the rest is done by a
second multicall (`continuation`). An entry that was done in part has the arguments of what is left.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import continuation
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.event_channel import needs_delivery

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

_ENTRY = struct.Struct("<8Q")  # struct multicall_entry: op, result, six arguments, of which five are passed on
assert _ENTRY.size == xen.multicall_entry.size
_RESULT: int = xen.multicall_entry.result.offset
_ARGS: int = xen.multicall_entry.args.offset
_U64 = (1 << 64) - 1


@hc.hypercall(xen.HYPERVISOR_multicall, "call_list", "nr_calls")
def multicall(v: VCpu, call_list: int, nr_calls: int) -> int:
    """Serve `nr_calls` entries, storing each result. 0, -EFAULT (the list itself), -EINVAL (a multicall in a
    multicall)."""
    if v.in_multicall:
        return -errno.EINVAL
    v.in_multicall, v.share = True, continuation.SHARE
    try:
        return _serve(v, call_list, nr_calls & 0xFFFF_FFFF)
    finally:
        v.in_multicall = False


def _serve(v: VCpu, call_list: int, nr_calls: int) -> int:
    hv = v.hv
    unpack = _ENTRY.unpack
    for i in range(nr_calls):
        if i and v.native is None and (hv.leave or not v.runnable or needs_delivery(v) or v.share <= 0):
            hv.leave = hv.leave or v.share <= 0
            continuation.enter_again(v, xen.HYPERVISOR_multicall, (call_list, nr_calls - i))
            return 0
        v.share -= 1
        try:
            op, _, a1, a2, a3, a4, a5, _ = unpack(v.copy_in(call_list, _ENTRY.size))
        except XenError:
            return -errno.EFAULT
        number = op  # all 64 bits count, as in a syscall
        result = hc.call(v, number, a1, a2, a3, a4, a5)
        rest, v.unfinished = v.unfinished, None
        try:
            if rest is not None:
                v.copy_out(call_list + _ARGS, struct.pack(f"<{len(rest)}Q", *rest))
                continuation.enter_again(v, xen.HYPERVISOR_multicall, (call_list, nr_calls - i))
                return 0
            v.copy_out(call_list + _RESULT, (result & _U64).to_bytes(8, "little"))
        except XenError:
            return -errno.EFAULT
        if number == xen.HYPERVISOR_iret:
            return result  # it replaces the registers, and ends the multicall
        call_list += _ENTRY.size
    return 0
