"""Hypercalls by which a guest kernel says where it is to be entered, and with which stack and segment bases.

Facts: xen/arch/x86/pv/callback.c, misc-hypercalls.c (do_stack_switch, do_set_segment_base) of Xen 4.17;
public/callback.h, nmi.h, xen.h.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import callback, errno, nmi, xen
from pyvmm.hypervisor import descriptors
from pyvmm.hypervisor.bounce import CS64, NMI, is_canonical
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.vcpu import Trap
from pyvmm.machine import Reg, SegmentFault

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

TRAP_DPL, TRAP_MASK_EVENTS = 3, 4  # trap_info.flags
NMI_REASON: int = xen.shared_info.arch.offset + arch.arch_shared_info.nmi_reason.offset


def make_trap(flags: int, cs: int, address: int) -> Trap:
    """A trap table entry from the fields of struct trap_info; the selector's RPL becomes the guest kernel's."""
    return Trap(cs | 3, address, flags & TRAP_DPL, bool(flags & TRAP_MASK_EVENTS))


@hypercall(xen.HYPERVISOR_set_trap_table, "traps")
def set_trap_table(v: VCpu, traps: int) -> int:
    """Enter an array of struct trap_info that ends at address 0 into the trap table; NULL clears the table. Entries
    before a bad one stay.
    """
    if not traps:
        v.traps = [None] * 256
        return 0
    size = arch.trap_info.size
    while True:
        entry = arch.trap_info.unpack(v.copy_in(traps, size))
        if not entry.address:
            return 0
        if not is_canonical(entry.address):
            raise XenError(errno.EINVAL)
        v.traps[entry.vector] = make_trap(entry.flags, entry.cs, entry.address)
        traps += size


# -- callbacks ---------------------------------------------------------------------------------------------------------


def _event(v: VCpu, address: int, _mask: bool) -> None:
    v.event_callback = address


def _failsafe(v: VCpu, address: int, mask: bool) -> None:
    v.failsafe_callback, v.failsafe_masks_events = address, mask


def _syscall(v: VCpu, address: int, mask: bool) -> None:
    v.syscall_callback, v.syscall_masks_events = address, mask


def _syscall32(v: VCpu, address: int, mask: bool) -> None:
    v.syscall32_callback, v.syscall32_masks_events = address, mask


def _sysenter(v: VCpu, address: int, mask: bool) -> None:
    # Recorded, never used: this CPU is AMD's kind, where SYSENTER in long mode is #UD.
    v.sysenter_callback, v.sysenter_masks_events = address, mask


def _nmi(v: VCpu, address: int, _mask: bool) -> None:
    v.traps[NMI] = Trap(CS64, address, 0, True)
    if v.vcpu_id == 0 and v.hv.machine.ram.read_u64(v.domain.shared_info_pa + NMI_REASON):
        v.nmi_pending = True  # the edge came before there was a handler


REGISTER: dict[int, Callable[[VCpu, int, bool], None]] = {
    callback.CALLBACKTYPE_event: _event,
    callback.CALLBACKTYPE_failsafe: _failsafe,
    callback.CALLBACKTYPE_syscall: _syscall,
    callback.CALLBACKTYPE_syscall32: _syscall32,
    callback.CALLBACKTYPE_sysenter: _sysenter,
    callback.CALLBACKTYPE_nmi: _nmi,
}


def register(v: VCpu, type_: int, address: int, mask: bool) -> None:
    """Register entry point `type_` (CALLBACKTYPE_*). EINVAL: address not canonical (looked at first); ENOSYS: no such
    type.
    """
    if not is_canonical(address):
        raise XenError(errno.EINVAL)
    if type_ not in REGISTER:
        raise XenError(errno.ENOSYS)
    REGISTER[type_](v, address, mask)


def unregister(v: VCpu, type_: int) -> None:
    """Only the NMI callback can be taken back (EINVAL for the others, ENOSYS for no such type)."""
    if type_ not in REGISTER:
        raise XenError(errno.ENOSYS)
    if type_ != callback.CALLBACKTYPE_nmi:
        raise XenError(errno.EINVAL)
    v.traps[NMI] = None


@hypercall(xen.HYPERVISOR_callback_op, "cmd", "arg")
def callback_op(v: VCpu, cmd: int, arg: int) -> int:
    """Register or unregister one entry point; ENOSYS for another command."""
    cmd &= 0xFFFFFFFF
    if cmd == callback.CALLBACKOP_register:
        reg = callback.callback_register.unpack(v.copy_in(arg, callback.callback_register.size))
        register(v, reg.type, reg.address, bool(reg.flags & callback.CALLBACKF_mask_events))
    elif cmd == callback.CALLBACKOP_unregister:
        unregister(v, callback.callback_unregister.unpack(v.copy_in(arg, callback.callback_unregister.size)).type)
    else:
        raise XenError(errno.ENOSYS)
    return 0


@hypercall(xen.HYPERVISOR_set_callbacks, "event", "failsafe", "syscall")
def set_callbacks(v: VCpu, event: int, failsafe: int, syscall: int) -> int:
    """Register three entry points at once, none of them masking events on entry. Bad addresses are passed over in
    silence, as Xen does.
    """
    addresses = {
        callback.CALLBACKTYPE_event: event,
        callback.CALLBACKTYPE_failsafe: failsafe,
        callback.CALLBACKTYPE_syscall: syscall,
    }
    for type_, address in addresses.items():
        if is_canonical(address):
            register(v, type_, address, False)
    return 0


@hypercall(xen.HYPERVISOR_nmi_op, "cmd", "arg")
def nmi_op(v: VCpu, cmd: int, arg: int) -> int:
    """Register (struct xennmi_callback) or unregister the NMI handler of the calling vCPU."""
    cmd &= 0xFFFFFFFF
    if cmd == nmi.XENNMI_register_callback:
        address = nmi.xennmi_callback.unpack(v.copy_in(arg, nmi.xennmi_callback.size)).handler_address
        register(v, callback.CALLBACKTYPE_nmi, address, True)
    elif cmd == nmi.XENNMI_unregister_callback:
        v.traps[NMI] = None
    else:
        raise XenError(errno.ENOSYS)
    return 0


@hypercall(xen.HYPERVISOR_stack_switch, "ss", "esp")
def stack_switch(v: VCpu, ss: int, esp: int) -> int:
    """Where frames go when the guest is interrupted in user mode."""
    v.kernel_ss = ss | 3
    v.kernel_sp = esp
    return 0


# -- segment bases -----------------------------------------------------------------------------------------------------


def _load_user_gs(v: VCpu, selector: int) -> None:
    """Load a selector as user mode's GS: its base is taken from the descriptor. One that cannot be loaded becomes
    NUL, without an error.
    """
    machine = v.hv.machine
    kernel_base = machine.get(Reg.GS_BASE)
    if selector > 3:
        selector |= 3
    try:
        descriptors.load_segments(v, gs=selector)
    except SegmentFault:
        machine.load_segments(gs=0)
        selector = 0
    v.gs_base_user = descriptors.base_of(v, selector)
    machine.set(Reg.GS_BASE, kernel_base)


@hypercall(xen.HYPERVISOR_set_segment_base, "which", "base")
def set_segment_base(v: VCpu, which: int, base: int) -> int:
    """Set FS's base, user or kernel mode's GS base, or user mode's GS selector. EINVAL: not canonical, or no such
    thing.
    """
    which &= 0xFFFFFFFF
    if which == arch.SEGBASE_GS_USER_SEL:
        v.after_stop = partial(_load_user_gs, v, base & 0xFFFF)  # segments cannot be loaded inside the engine
        v.hv.look = True
        return 0
    if which not in (arch.SEGBASE_FS, arch.SEGBASE_GS_USER, arch.SEGBASE_GS_KERNEL) or not is_canonical(base):
        raise XenError(errno.EINVAL)
    if which == arch.SEGBASE_GS_USER:
        v.gs_base_user = base
    else:
        v.hv.machine.set(Reg.FS_BASE if which == arch.SEGBASE_FS else Reg.GS_BASE, base)
    return 0
