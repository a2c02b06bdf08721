"""What becomes of a vCPU whose data selectors can no longer be loaded: the failsafe callback.

Xen loads ds, es, fs and gs of a vCPU when it gets the CPU after another one. If a descriptor has changed meanwhile so
that one cannot be loaded, it becomes NUL and the guest's failsafe callback is entered, its frame having the four
selectors between r11 and rip: rcx, r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss.

Facts: xen/arch/x86/domain.c (load_segments) of Xen 4.17.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.hypervisor import descriptors, trace
from pyvmm.hypervisor.bounce import (
    ALWAYS_SET,
    CLEARED_ON_ENTRY,
    CS64,
    ENTRY,
    IF,
    IOPL_MASK,
    IOPL_SHIFT,
    SS,
    STATE,
    UPCALL_MASK,
    VMASST_ARCHITECTURAL_IOPL,
    toggle_guest_mode,
)
from pyvmm.hypervisor.errors import DomainCrash, XenError
from pyvmm.machine import Reg, SegmentFault

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

_FRAME = struct.Struct("<11Q")
_DATA_SEGMENTS = (Reg.DS, Reg.ES, Reg.FS, Reg.GS)
_BASES = (Reg.FS_BASE, Reg.GS_BASE)


def reload_segments(v: VCpu) -> None:
    """A vCPU gets the CPU after another one: its data selectors are loaded afresh; one that no longer can be leads to
    the failsafe callback.

    The bases of FS and GS are registers of their own and are kept.
    """
    machine = v.hv.machine
    selectors = machine.get_many(_DATA_SEGMENTS)
    if max(selectors) < 4:
        return
    bases = machine.get_many(_BASES)
    bad = False
    for name, selector in zip(("ds", "es", "fs", "gs"), selectors, strict=True):
        if selector >= 4:
            try:
                descriptors.load_segments(v, **{name: selector})
            except SegmentFault:
                bad = True
                machine.load_segments(**{name: 0})
    machine.set_many(_BASES, bases)
    if bad:
        failsafe(v, selectors)


def failsafe(v: VCpu, selectors: list[int]) -> None:
    """Enter the failsafe callback; `selectors` are the ds, es, fs, gs that could not all be loaded."""
    machine, ram = v.hv.machine, v.hv.machine.ram
    rip, rsp, flags, cs, ss, rcx, r11 = machine.get_many(STATE)
    flat = cs == CS64 and ss == SS
    sp = (v.kernel_sp if v.user_mode else rsp) & ~0xF
    mask = ram.read_u8(v.info_pa + UPCALL_MASK)
    saved = flags & ~(IF | IOPL_MASK) | (0 if mask else IF)
    if v.domain.vm_assist & VMASST_ARCHITECTURAL_IOPL:
        saved |= v.iopl << IOPL_SHIFT
    if v.user_mode:
        toggle_guest_mode(v)
    else:
        cs &= ~3
    ds, es, fs, gs = selectors
    sp = (sp - _FRAME.size) & 0xFFFF_FFFF_FFFF_FFFF
    try:
        v.copy_out(sp, _FRAME.pack(rcx, r11, ds, es, fs, gs, rip, cs | mask << 32, saved, rsp, ss))
    except XenError:
        raise DomainCrash("error while creating failsafe callback frame") from None
    if v.failsafe_masks_events:
        ram.write_u8(v.info_pa + UPCALL_MASK, 1)
    flags = flags & ~(CLEARED_ON_ENTRY | IOPL_MASK) | ALWAYS_SET
    address = v.failsafe_callback
    machine.set_many(ENTRY, (address, sp, flags, address, flags))
    if not flat:
        machine.load_segments(cs=CS64, ss=SS)
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.BOUNCE, v.domain.domid, v.vcpu_id, -1, address)
