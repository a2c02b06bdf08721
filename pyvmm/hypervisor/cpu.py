"""A vCPU's way through the CPU: what the run loop calls, gathered from the modules that do it.

`before_guest` makes the registers of a vCPU that got the CPU ready and delivers what is due; `handle_exit` deals with
what stopped the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.hypervisor import bounce, cpuid, traps
from pyvmm.hypervisor.context import apply_pending, get_context, release, reset, set_context, start_of_day
from pyvmm.hypervisor.crash import crash_report
from pyvmm.hypervisor.failsafe import reload_segments
from pyvmm.machine import Exit, Fault, SoftInt, Syscall

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

__all__ = [
    "before_guest",
    "crash_report",
    "get_context",
    "handle_exit",
    "native_cpuid",
    "release",
    "reset",
    "set_context",
    "start_of_day",
]

native_cpuid = cpuid.native


def before_guest(v: VCpu) -> None:
    """`v`'s context is current and it is about to run: load what is not loaded yet, deliver a pending NMI or event."""
    hv = v.hv
    if hv.loaded is not v or v.pending_context is not None:
        hv.loaded = v
        load(v)
    if v.nmi_pending or 0 < hv.machine.ram.read_u16(v.info_pa) < 0x100:
        bounce.deliver_pending(v)


def load(v: VCpu) -> None:
    """`v` gets the CPU after another vCPU: base pointer, registers that `set_context` left for now, data segments."""
    v.hv.mmu.set_cr3(v)
    if v.pending_context is not None:
        apply_pending(v)
    reload_segments(v)


def handle_exit(v: VCpu, event: Exit) -> None:
    """What stopped `v`: a `syscall` in guest user mode, an exception, a software interrupt."""
    if isinstance(event, Fault):
        traps.fault(v, event)
    elif isinstance(event, SoftInt):
        traps.software_interrupt(v, event)
    elif isinstance(event, Syscall):
        traps.user_syscall(v)
