"""How Xen enters a guest kernel: exception frames, event upcalls, the failsafe callback, and the two modes of a
64-bit PV vCPU.

A frame is built on the guest kernel's stack, lowest address first: rcx, r11, [error code], rip, cs and
saved_upcall_mask, rflags, rsp, ss. The kernel's entry point then runs with flat selectors, and as Xen gets there by
SYSRET, with rcx = rip and r11 = rflags.

Facts: xen/arch/x86/x86_64/entry.S (create_bounce_frame, restore_all_guest), xen/arch/x86/pv/traps.c,
xen/arch/x86/domain.c (load_segments), xen/arch/x86/pv/domain.c (toggle_guest_mode), all of Xen 4.17;
public/arch-x86/xen-x86_64.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.hypervisor import trace
from pyvmm.hypervisor.errors import DomainCrash, XenError
from pyvmm.machine import Reg

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

# Xen's flat selectors, present in every guest GDT (FLAT_RING3_* of public/arch-x86/xen-x86_64.h).
CS32, SS, CS64 = 0xE023, 0xE02B, 0xE033

TF, IF, DF, NT, RF, VM, AC = 1 << 8, 1 << 9, 1 << 10, 1 << 14, 1 << 16, 1 << 17, 1 << 18
IOPL_SHIFT, IOPL_MASK = 12, 3 << 12
CLEARED_ON_ENTRY = AC | VM | RF | NT | TF
LOADABLE_FLAGS = 0x254FD5  # what IRETQ at CPL 0 loads, without IOPL, VM, VIF and VIP
ALWAYS_SET = IF | 2

DE, DB, NMI, BP, OF, UD, NM, DF_VECTOR, TS, NP, SS_VECTOR, GP, PF, AC_VECTOR = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    10,
    11,
    12,
    13,
    14,
    17,
)
HAVE_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})
VECTOR_NAMES = "#DE #DB NMI #BP #OF #BR #UD #NM #DF CSO #TS #NP #SS #GP #PF SPV #MF #AC #MC #XM #VE #CP".split()

DR6_BS, DR6_ONES = 1 << 14, 0xFFFF0FF0  # of DR6: single step; the bits that are always set
VMASST_ARCHITECTURAL_IOPL = 1 << 4  # VMASST_TYPE_architectural_iopl
XEN_START, XEN_END = 0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000  # HYPERVISOR_VIRT_START and _END for guests
U64 = (1 << 64) - 1
CR2_OFFSET = 0x10  # of arch.cr2 in struct vcpu_info
UPCALL_MASK = 1  # offset of evtchn_upcall_mask in struct vcpu_info

STATE = (Reg.RIP, Reg.RSP, Reg.RFLAGS, Reg.CS, Reg.SS, Reg.RCX, Reg.R11)
ENTRY = (Reg.RIP, Reg.RSP, Reg.RFLAGS, Reg.RCX, Reg.R11)
_FRAME = struct.Struct("<7Q")
_FRAME_WITH_ERROR = struct.Struct("<8Q")


def is_canonical(address: int) -> bool:
    """Bits 63 to 47 of the address are all equal."""
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


def is_guest_address(address: int) -> bool:
    """Canonical and not in Xen's part of the address space (Xen's __addr_ok)."""
    return address < 1 << 47 or address >= XEN_END


def vector_name(vector: int) -> str:
    """The name Xen's messages have for an exception vector."""
    return VECTOR_NAMES[vector] if vector < len(VECTOR_NAMES) else "???"


def toggle_guest_mode(v: VCpu) -> None:
    """Go from guest kernel to guest user mode or back: the other page-table base and the other GS base."""
    machine = v.hv.machine
    base = machine.get(Reg.GS_BASE)
    if v.user_mode:
        v.gs_base_user = base
        machine.set(Reg.GS_BASE, v.gs_base_kernel)
    else:
        v.gs_base_kernel = base
        machine.set(Reg.GS_BASE, v.gs_base_user)
    v.user_mode = not v.user_mode
    v.hv.mmu.set_cr3(v)


def push_frame(
    v: VCpu,
    address: int,
    mask_events: bool,
    error: int | None = None,
    *,
    resume: bool = False,
    selectors: tuple[int, int] | None = None,
) -> None:
    """Enter the guest kernel at `address` with a frame of the current state.

    `mask_events` sets the upcall mask; `resume` shows RF in the saved flags (faults); `selectors` are cs and ss for
    the frame where the CPU does not hold the ones the guest asked for. Crashes the domain when the frame cannot be
    written, or there is no `address`.
    """
    machine, ram = v.hv.machine, v.hv.machine.ram
    rip, rsp, flags, cs, ss, rcx, r11 = machine.get_many(STATE)
    flat = cs == CS64 and ss == SS
    if selectors is not None:
        cs, ss = selectors
    if v.user_mode:
        toggle_guest_mode(v)
        sp = v.kernel_sp & ~0xF
    else:
        cs &= ~3
        sp = rsp & ~0xF
    if XEN_START < sp < XEN_END + 64:
        raise DomainCrash(f"domain_crash_sync called from entry.S: the stack pointer {sp:#x} is in Xen's address range")
    mask = ram.read_u64(v.info_pa) >> 8 * UPCALL_MASK & 0xFFFF_FFFF  # with the padding after it, as Xen pushes it
    if mask_events and not mask & 1:
        ram.write_u8(v.info_pa + UPCALL_MASK, (mask | 1) & 0xFF)
    saved = flags & 0xFFFF_FFFF & ~(IF | IOPL_MASK)
    if not mask & 0xFF:
        saved |= IF
    if v.iopl and v.domain.vm_assist & VMASST_ARCHITECTURAL_IOPL:
        saved |= v.iopl << IOPL_SHIFT
    if resume:
        saved |= RF
    if error is None:
        sp -= _FRAME.size
        frame = _FRAME.pack(rcx, r11, rip, cs | mask << 32, saved, rsp, ss)
    else:
        sp -= _FRAME_WITH_ERROR.size
        frame = _FRAME_WITH_ERROR.pack(rcx, r11, error, rip, cs | mask << 32, saved, rsp, ss)
    try:
        v.copy_out(sp & U64, frame)
    except XenError:
        raise DomainCrash(
            f"domain_crash_sync called from entry.S: no frame for {address:#x} can be written at {sp & U64:#x}"
        ) from None
    if not address:
        raise DomainCrash("domain_crash_sync called from entry.S: no entry point in the guest is registered")
    flags = flags & ~CLEARED_ON_ENTRY | ALWAYS_SET
    machine.set_many(ENTRY, (address, sp & U64, flags, address, flags))
    if not flat:
        machine.load_segments(cs=CS64, ss=SS)


def inject(
    v: VCpu, vector: int, error: int | None = None, *, resume: bool = True, selectors: tuple[int, int] | None = None
) -> None:
    """Deliver exception or software interrupt `vector` to the guest's handler (pv_inject_event); no handler crashes
    the domain.
    """
    trap = v.traps[vector]
    if trap is None or not trap.address:
        raise DomainCrash(
            f"Unhandled: vec {vector}, {vector_name(vector)}[{0xFFFFFFFF if error is None else error:04x}]"
        )
    push_frame(v, trap.address, trap.mask_events, error, resume=resume, selectors=selectors)
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.BOUNCE, v.domain.domid, v.vcpu_id, vector, trap.address)


def set_cr2(v: VCpu, address: int) -> None:
    """What the guest sees as its CR2, in vcpu_info and in `mov %cr2`."""
    v.ctrlreg[2] = address
    v.hv.machine.ram.write_u64(v.info_pa + CR2_OFFSET, address)


def inject_page_fault(v: VCpu, address: int, error: int) -> None:
    """Deliver #PF for `address`. The U bit of the error code tells the guest's mode, not the CPU's."""
    set_cr2(v, address)
    inject(v, PF, error | 4 if v.user_mode else error & ~4)


def single_step(v: VCpu) -> None:
    """Deliver #DB for an instruction that was executed with TF set."""
    v.debugreg[6] |= DR6_BS | DR6_ONES
    inject(v, DB, resume=False)


def event_due(v: VCpu) -> bool:
    """An upcall is pending (any value but zero) and not masked."""
    return 0 < v.hv.machine.ram.read_u16(v.info_pa) < 0x100


def upcall(v: VCpu) -> None:
    """Enter the event callback, with upcalls masked."""
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.UPCALL, v.domain.domid, v.vcpu_id, v.event_callback)
    push_frame(v, v.event_callback, True)


def deliver_pending(v: VCpu) -> None:
    """Before the guest goes on: an NMI that is pending and not masked, then an event upcall that is due
    (test_all_events).
    """
    if v.nmi_pending and not v.nmi_masked:
        v.nmi_pending = False
        trap = v.traps[NMI]
        if trap is not None and trap.address:
            v.nmi_masked = True
            inject(v, NMI, resume=False)
    if event_due(v):
        upcall(v)
