"""What the guest's exceptions and software interrupts become: something Xen handles, or a frame for the guest's
handler.

`RULES` says for each vector who looks at it first; every other one goes to the guest as it is.

Facts: xen/arch/x86/traps.c (do_page_fault, do_general_protection, do_invalid_op, do_device_not_available, do_debug,
do_int3), xen/arch/x86/x86_64/entry.S (int80_direct_trap, switch_to_kernel) of Xen 4.17; public/arch-x86/xen.h
(trap_info).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.hypervisor import debugreg, descriptors, emulate, ptwr, trace
from pyvmm.hypervisor.bounce import (
    BP,
    CS32,
    CS64,
    DB,
    DF,
    GP,
    NM,
    OF,
    PF,
    SS,
    UD,
    XEN_END,
    XEN_START,
    inject,
    inject_page_fault,
    push_frame,
    single_step,
)
from pyvmm.machine import Fault, Reg, SoftInt

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PFEC_PRESENT, PFEC_WRITE, PFEC_RESERVED = 1, 2, 8
LEGACY_SYSCALL_VECTOR = 0x80
RDPMC, ICEBP = b"\x0f\x33", b"\xf1"


def fault(v: VCpu, event: Fault) -> None:
    """An exception that the CPU raised; RIP is at the instruction (after it for #DB)."""
    vector, error, address = event.vector, event.error_code, event.address
    v.domain.counters.exceptions += 1
    bus = v.hv.trace
    if bus.on:
        rip = v.hv.machine.get(Reg.RIP)
        bus.emit(trace.EXCEPTION, v.domain.domid, v.vcpu_id, vector, -1 if error is None else error, rip, address)
    rule = RULES.get(vector)
    if rule is not None:
        rule(v, error or 0, address)
    else:
        inject(v, vector, error)


def page_fault(v: VCpu, error: int, address: int) -> None:
    """#PF: a descriptor table's demand mapping, an update of a read-only page table, else the guest's."""
    if XEN_START <= address < XEN_END:
        if not error & PFEC_RESERVED and descriptors.table_fault(v, error, address):
            return
    elif error & (PFEC_WRITE | PFEC_PRESENT) == PFEC_WRITE | PFEC_PRESENT and ptwr.fault(v, address, error):
        return
    inject_page_fault(v, address, error)


def general_protection(v: VCpu, error: int, _address: int = 0) -> None:
    """#GP: with error code 0 perhaps an instruction that Xen carries out for the guest."""
    if error == 0 and emulate.privileged(v):
        return
    inject(v, GP, error)


def invalid_opcode(v: VCpu, _error: int, _address: int) -> None:
    """#UD: perhaps the forced emulation prefix, or an instruction that a CPU has and the engine has not."""
    if emulate.forced(v):
        return
    machine = v.hv.machine
    rip = machine.get(Reg.RIP)
    code = emulate.fetch(v, rip)
    if code.startswith(RDPMC):  # CR4.PCE is clear
        inject(v, GP, 0)
    elif code.startswith(ICEBP):
        machine.set(Reg.RIP, rip + 1)
        machine.retire(1)
        inject(v, DB, resume=False)
    else:
        inject(v, UD)


def no_device(v: VCpu, _error: int, _address: int) -> None:
    """#NM: the guest's, if it asked for it by setting CR0.TS; delivery clears TS."""
    if v.ctrlreg[0] & debugreg.CR0_TS:
        inject(v, NM)
        debugreg.set_task_switched(v, False)


def debug(v: VCpu, _error: int, _address: int) -> None:
    """#DB: RIP is after the instruction, so RF is not in the frame. What the machine raises is the single-step trap."""
    single_step(v)


Rule = Callable[["VCpu", int, int], None]
RULES: dict[int, Rule] = {
    PF: page_fault,
    GP: general_protection,
    UD: invalid_opcode,
    NM: no_device,
    DB: debug,
}


def software_interrupt(v: VCpu, event: SoftInt) -> None:
    """`int3`, `into` and `int n`; RIP is after the instruction.

    Vectors 3, 4 and 0x80 have gates of their own, so the DPL in the guest's trap table is not looked at. For the
    others Xen sees the #GP that an `int n` raises: where the DPL allows, the handler is entered with RIP two bytes on
    (whatever the prefixes), else the #GP is the guest's.
    """
    machine, vector = v.hv.machine, event.vector
    v.domain.counters.exceptions += 1
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.EXCEPTION, v.domain.domid, v.vcpu_id, vector, -1, machine.get(Reg.RIP), 0)
    trap = v.traps[vector]
    if vector in (BP, OF) or (vector == LEGACY_SYSCALL_VECTOR and trap is not None and trap.address):
        inject(v, vector, resume=False)
        return
    start = machine.get(Reg.RIP) - event.length
    if trap is not None and trap.dpl >= (3 if v.user_mode else 1):
        machine.set(Reg.RIP, start + 2)
        inject(v, vector)
        return
    machine.retire(-1)
    machine.set(Reg.RIP, start)
    inject(v, GP, vector << 3 | 2)


_SYSCALL = (Reg.RIP, Reg.RFLAGS, Reg.CS)


def user_syscall(v: VCpu) -> None:
    """`syscall` in guest user mode: the syscall callback, with the selectors SYSCALL assumes; without a callback, #UD
    at the instruction.
    """
    machine = v.hv.machine
    rip, flags, cs = machine.get_many(_SYSCALL)
    compat = cs != CS64 and not descriptors.is_long_mode(v, cs)
    machine.set_many((Reg.RCX, Reg.R11), (rip, flags))
    selectors = (CS32 if compat else CS64, SS)
    address = v.syscall32_callback if compat else v.syscall_callback
    if address:
        push_frame(v, address, v.syscall_masks_events, selectors=selectors)
        if flags & DF:
            flags = machine.get(Reg.RFLAGS) & ~DF
            machine.set_many((Reg.RFLAGS, Reg.R11), (flags, flags))
        return
    machine.set(Reg.RIP, rip - 2)
    inject(v, UD, resume=False, selectors=selectors)
