"""The iret hypercall: how a guest kernel leaves a trap, or goes to its user mode.

The guest's stack holds struct iret_context: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss. The RPL of cs says where
to: 3 is the guest's user mode, anything less its kernel. VGCF_in_syscall in flags: the way back is SYSRET's, so rcx,
r11, cs and ss of the frame are ignored.

Facts: xen/arch/x86/pv/iret.c, xen/arch/x86/x86_64/entry.S (restore_all_guest) of Xen 4.17;
public/arch-x86/xen-x86_64.h.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.abi import xen
from pyvmm.hypervisor import descriptors
from pyvmm.hypervisor.bounce import (
    ALWAYS_SET,
    CS32,
    CS64,
    GP,
    IF,
    IOPL_MASK,
    IOPL_SHIFT,
    LOADABLE_FLAGS,
    PF,
    SS,
    TF,
    UPCALL_MASK,
    VMASST_ARCHITECTURAL_IOPL,
    event_due,
    inject,
    is_canonical,
    set_cr2,
    single_step,
    toggle_guest_mode,
)
from pyvmm.hypervisor.errors import DomainCrash, XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.machine import Reg, SegmentFault

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

VGCF_IN_SYSCALL = 1 << 8
U64 = (1 << 64) - 1
_CONTEXT = struct.Struct("<9Q")
_BASIC = (Reg.RAX, Reg.RIP, Reg.RFLAGS, Reg.RSP, Reg.RCX, Reg.R11)
_BEFORE = (Reg.RSP, Reg.CS, Reg.SS)
_FLAT = [CS64, SS]


@hypercall(xen.HYPERVISOR_iret)
def iret(v: VCpu) -> int:
    """Ask for the return. It is carried out by `perform` once the engine has stopped and registers may be changed."""
    v.after_stop = partial(perform, v)
    v.hv.look = True
    return 0


def perform(v: VCpu) -> None:
    """Do what the frame at the guest's RSP says. An unreadable frame, or user mode without page tables, crashes the
    domain.
    """
    machine = v.hv.machine
    at, *selectors = machine.get_many(_BEFORE)
    try:
        frame = v.copy_in(at, _CONTEXT.size)
    except XenError:
        raise DomainCrash("Fault while reading IRET context from guest stack") from None
    rax, r11, rcx, context_flags, rip, cs, rflags, rsp, ss = _CONTEXT.unpack(frame)
    if cs & 3 == 3:
        if not v.l4_user:
            raise DomainCrash("Guest switching to user mode with no user page tables")
        toggle_guest_mode(v)
    if v.domain.vm_assist & VMASST_ARCHITECTURAL_IOPL:
        v.iopl = (rflags & IOPL_MASK) >> IOPL_SHIFT
    flags = rflags & LOADABLE_FLAGS | ALWAYS_SET
    cs, ss = (cs | 3) & 0xFFFF, (ss | 3) & 0xFFFF
    if context_flags & VGCF_IN_SYSCALL:
        rcx, r11 = rip, flags
        if is_canonical(rip):  # else Xen goes by IRETQ after all
            cs, ss = CS32 if cs == CS32 else CS64, SS
    machine.set_many(_BASIC, (rax, rip, flags, rsp, rcx, r11))
    machine.ram.write_u8(v.info_pa + UPCALL_MASK, 0 if rflags & IF else 1)
    v.nmi_masked = False
    if cs != CS64 or ss != SS or selectors != _FLAT:
        load_code_and_stack(v, cs, ss)
    elif not is_canonical(rip):
        inject(v, GP, 0, resume=False)
    elif flags & TF and context_flags & VGCF_IN_SYSCALL and not event_due(v):
        single_step(v)  # SYSRET looks at the TF that it loads


def load_code_and_stack(v: VCpu, cs: int, ss: int) -> None:
    """Load cs and ss as the return to the guest does. What the CPU refuses becomes the exception that IRETQ raises,
    at the place returned to.
    """
    try:
        descriptors.load_segments(v, cs=cs, ss=ss)
    except SegmentFault as fault:
        if fault.vector == PF:  # the LDT page is not there: shown as a fault of the guest's own mapping
            set_cr2(v, (v.ldt_base + (fault.selector & 0xFFF8)) & U64)
        inject(v, fault.vector, fault.error_code, resume=False, selectors=(cs, ss))
    else:
        if not is_canonical(v.hv.machine.get(Reg.RIP)):
            inject(v, GP, 0, resume=False)
