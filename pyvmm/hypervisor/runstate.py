"""What a vCPU is doing: its RUNSTATE_* account, blocking and waking, and the guest's own copy of the account.

Facts from Xen 4.17: xen/common/sched/core.c (vcpu_runstate_change, vcpu_runstate_get, vcpu_block, vcpu_unblock),
xen/arch/x86/domain.c (update_runstate_area), public/vcpu.h.
"""

from __future__ import annotations

import struct
from bisect import insort
from operator import attrgetter
from typing import TYPE_CHECKING

from pyvmm.abi import vcpu as abi
from pyvmm.abi import xen
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.vcpu import Runstate

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

_BY_ORDER = attrgetter("order")
_ENTRY_TIME = abi.vcpu_runstate_info.state_entry_time.offset
_INFO = struct.Struct("<i4xQ4Q")  # struct vcpu_runstate_info, packed at every switch
assert _INFO.size == abi.vcpu_runstate_info.size
_FLAG_BYTE = _ENTRY_TIME + 7  # the byte that holds XEN_RUNSTATE_UPDATE (bit 63)


def set_runstate(v: VCpu, state: Runstate) -> None:
    """Account the time since the last change to the state that ends, and enter `state`. No change, no new entry
    time."""
    old = v.runstate
    if old == state:
        return
    now = v.hv.machine.now
    v.runstate_times[old] += now - v.runstate_entered
    v.runstate = state
    v.runstate_entered = now


def waiting_state(v: VCpu) -> Runstate:
    """The state of `v` while it does not have the CPU: what it waits for."""
    if v.runnable:
        return Runstate.RUNNABLE
    return Runstate.BLOCKED if v.blocked else Runstate.OFFLINE


def list_ready(v: VCpu) -> None:
    """Something that kept `v` off the CPU went: the run loop looks at it again. (It takes those that cannot run off
    its list by itself.)"""
    if not v.listed:
        v.listed = True
        insort(v.hv.ready, v, key=_BY_ORDER)


def refresh(v: VCpu) -> None:
    """Something that keeps `v` off the CPU came or went: a pause, a shutdown, an event. While it has the CPU, nothing
    changes yet."""
    list_ready(v)
    if v.runstate != Runstate.RUNNING:
        set_runstate(v, waiting_state(v))


def stop_running(v: VCpu) -> None:
    """`v` loses the CPU, if it has it: another one gets it, or `v` cannot go on."""
    if v.runstate == Runstate.RUNNING:
        set_runstate(v, waiting_state(v))
        if v.periodic_period:
            v.hv.timers.cancel(("periodic", v))  # it ticks only for a vCPU that has the CPU
        if not v.domain.dying:
            update_area(v)


def block(v: VCpu) -> None:
    """Take `v` off the CPU until `wake`."""
    if not v.blocked:
        v.blocked = True
        v.hv.leave = True
        if v.hv.trace.on:
            v.hv.trace.emit(trace.BLOCK, v.domain.domid, v.vcpu_id)


def wake(v: VCpu) -> None:
    """End `v`'s block or poll, if it is in one; whoever runs is asked to make room for it."""
    if v.blocked:
        v.blocked = False
        if v.poll_ports is not None:
            v.poll_ports = None
            v.hv.timers.cancel(("poll", v))
        refresh(v)
        v.hv.leave = True
        if v.hv.trace.on:
            v.hv.trace.emit(trace.WAKE, v.domain.domid, v.vcpu_id)


def info(v: VCpu, *, current: bool = True) -> bytes:
    """struct vcpu_runstate_info of `v`. `current` adds the time spent so far in the state it is in
    (VCPUOP_get_runstate_info)."""
    times, state = v.runstate_times, v.runstate
    if current:
        times = times.copy()
        times[state] += v.hv.machine.now - v.runstate_entered
    return _INFO.pack(state, v.runstate_entered, *times)


def update_area(v: VCpu) -> None:
    """Bring the memory that VCPUOP_register_runstate_memory_area named up to date; done at every switch to or from `v`.

    With the runstate_update_flag assist the entry time carries XEN_RUNSTATE_UPDATE while the rest is being written,
    so that another vCPU of the guest can see that it reads a record in flux. A guest that took the memory away loses
    the update, nothing else.
    """
    va = v.runstate_va
    if not va:
        return
    data = info(v, current=False)
    try:
        if v.domain.vm_assist >> xen.VMASST_TYPE_runstate_update_flag & 1:
            flagged = bytearray(data)
            flagged[_FLAG_BYTE] |= 0x80
            v.copy_out(va + _FLAG_BYTE, bytes(flagged[_FLAG_BYTE : _FLAG_BYTE + 1]))
            v.copy_out(va, bytes(flagged))
            v.copy_out(va + _FLAG_BYTE, data[_FLAG_BYTE : _FLAG_BYTE + 1])
        else:
            v.copy_out(va, data)
    except XenError:
        pass  # Xen ignores the fault, too
