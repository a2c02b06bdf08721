"""A vCPU's whole state as struct vcpu_guest_context: how toolstacks and guests set up vCPUs, and how their state is
read.

Registers can only be changed while the vCPU's context is current, which it rarely is when somebody sets them: they
are kept in `VCpu.pending_context` until the vCPU is loaded next.

Facts: xen/arch/x86/domain.c (arch_set_info_guest), domctl.c (arch_get_info_guest) of Xen 4.17; public/arch-x86/xen.h.
Registers at the start of day: pv/dom0_build.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import errno
from pyvmm.abi.layout import Struct, u8
from pyvmm.hypervisor import debugreg, descriptors, runstate
from pyvmm.hypervisor.bounce import (
    ALWAYS_SET,
    CS64,
    IOPL_MASK,
    IOPL_SHIFT,
    LOADABLE_FLAGS,
    SS,
    UPCALL_MASK,
    is_canonical,
    is_guest_address,
)
from pyvmm.hypervisor.callbacks import make_trap
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.failsafe import failsafe
from pyvmm.hypervisor.frames import PGT_l4_page_table
from pyvmm.hypervisor.iret import load_code_and_stack
from pyvmm.hypervisor.vm_assist import VALID_TYPES
from pyvmm.machine import Reg, SegmentFault

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

VALID_ASSISTS = sum(1 << type_ for type_ in VALID_TYPES)
MAX_GDT_FRAMES = 16
# (field of cpu_user_regs, register)
GENERAL: tuple[tuple[str, Reg], ...] = tuple(
    (reg.name.lower(), reg)
    for reg in (
        Reg.R15, Reg.R14, Reg.R13, Reg.R12, Reg.RBP, Reg.RBX, Reg.R11, Reg.R10, Reg.R9, Reg.R8, Reg.RAX, Reg.RCX,
        Reg.RDX, Reg.RSI, Reg.RDI, Reg.RIP, Reg.RFLAGS, Reg.RSP,
    )
)  # fmt: skip
DATA_SEGMENTS = ("ds", "es", "fs", "gs")
# The structure with its 256 traps left packed: a toolstack gives none, and then there is nothing to decode.
_PACKED_TRAPS = Struct(
    arch.vcpu_guest_context.name,
    *((n, u8 * f.size if n == "trap_ctxt" else f.type) for n, f in arch.vcpu_guest_context.fields.items()),
)
assert _PACKED_TRAPS.size == arch.vcpu_guest_context.size
_NO_TRAPS = bytes(arch.vcpu_guest_context.trap_ctxt.size)


class Pending(NamedTuple):
    """Registers to be loaded: general ones by register, then selectors, FS base, FXSAVE image (None: the initial
    state).
    """

    general: dict[Reg, int]
    cs: int
    ss: int
    data: tuple[int, int, int, int]
    fs_base: int
    fpu: bytes | None


def _traps(packed: bytes) -> list[tuple[int, int, int, int]]:
    """(vector, flags, cs, address) of each struct trap_info; [] when all are zero."""
    if packed == _NO_TRAPS:
        return []
    return arch.trap_info.unpack_array(packed, 256)


def _check(v: VCpu, c: Any, traps: list[tuple[int, int, int, int]]) -> None:
    """Addresses and limits (EINVAL), before anything is changed."""
    regs = c.user_regs
    addresses = [
        regs.rip, regs.rsp, c.kernel_sp, c.fs_base, c.gs_base_kernel, c.gs_base_user, c.event_callback_eip,
        c.syscall_callback_eip, c.failsafe_callback_eip, *(address for _, _, _, address in traps),
    ]  # fmt: skip
    if not all(is_canonical(a) for a in addresses):
        raise XenError(errno.EINVAL)
    if not is_guest_address(c.ldt_base) or c.ldt_base & 0xFFF or c.ldt_ents > descriptors.MAX_LDT_ENTRIES:
        raise XenError(errno.EINVAL)
    if v.vcpu_id == 0 and c.vm_assist & ~VALID_ASSISTS:
        raise XenError(errno.EINVAL)
    if -(-c.gdt_ents // 512) > MAX_GDT_FRAMES:
        raise XenError(errno.EINVAL)


def _cr3_to_mfn(cr3: int) -> int:
    return cr3 >> 12


def _check_unchanged(v: VCpu, c: Any, in_kernel: bool) -> None:
    """What cannot change once the vCPU was initialised must be given as it is (EOPNOTSUPP)."""
    n = -(-c.gdt_ents // 512)
    same = (
        c.ctrlreg[3] == v.l4_kernel << 12
        and c.ctrlreg[1] == v.l4_user << 12
        and (v.l4_user or in_kernel)
        and c.gdt_ents == v.gdt_entries
        and tuple(c.gdt_frames[:n]) == tuple(v.gdt_frames)
        and c.ldt_ents == v.ldt_entries
        and (not c.ldt_ents or c.ldt_base == v.ldt_base)
    )
    if not same:
        raise XenError(errno.EOPNOTSUPP)


def _take_tables(v: VCpu, c: Any) -> None:
    """First initialisation: GDT, then the page-table bases, each held as such."""
    frames = v.hv.frames
    descriptors.replace_gdt(v, list(c.gdt_frames[: -(-c.gdt_ents // 512)]), c.gdt_ents)
    kernel, user = _cr3_to_mfn(c.ctrlreg[3]), _cr3_to_mfn(c.ctrlreg[1])
    result = frames.take_page_and_type(kernel, v.domain, PGT_l4_page_table)
    if not result and user:
        result = frames.take_page_and_type(user, v.domain, PGT_l4_page_table)
        if result:
            frames.put_page_and_type(kernel)
    if result:
        descriptors.drop_gdt(v)
        raise XenError(-result)
    strict = v.domain.vm_assist & 1 << 32
    if not strict:
        v.hv.xen_area.show_m2p(kernel, True)
    elif user:
        v.hv.xen_area.show_m2p(user, False)
    v.l4_kernel, v.l4_user = kernel, user
    v.ldt_entries, v.ldt_base = c.ldt_ents, c.ldt_base if c.ldt_ents else 0


def set_context(v: VCpu, context: bytes) -> None:
    """Give `v` the state in `context` (a packed struct vcpu_guest_context): VCPUOP_initialise, setvcpucontext.

    XenError: EINVAL for addresses, limits or page tables that cannot be, EOPNOTSUPP for an initialised vCPU whose
    tables would change. The vCPU is up afterwards if VGCF_online is set.
    """
    c = _PACKED_TRAPS.unpack(context)
    in_kernel = bool(c.flags & arch.VGCF_in_kernel)
    traps = _traps(c.trap_ctxt)
    _check(v, c, traps)
    if v.initialised:
        _check_unchanged(v, c, in_kernel)
    elif not in_kernel and not c.ctrlreg[1]:
        raise XenError(errno.EINVAL)
    else:
        if v.vcpu_id == 0:
            v.domain.vm_assist = c.vm_assist
        _take_tables(v, c)
    v.traps = [None] * 256
    for i, (_, flags, cs, address) in enumerate(traps):
        if address or flags or cs:
            v.traps[i] = make_trap(flags, cs, address)
    v.user_mode = not in_kernel
    v.iopl = (c.user_regs.rflags & IOPL_MASK) >> IOPL_SHIFT
    v.kernel_ss, v.kernel_sp = c.kernel_ss | 3, c.kernel_sp
    v.event_callback, v.failsafe_callback, v.syscall_callback = (
        c.event_callback_eip, c.failsafe_callback_eip, c.syscall_callback_eip,
    )  # fmt: skip
    v.failsafe_masks_events = bool(c.flags & arch.VGCF_failsafe_disables_events)
    v.syscall_masks_events = bool(c.flags & arch.VGCF_syscall_disables_events)
    v.gs_base_kernel, v.gs_base_user = c.gs_base_kernel, c.gs_base_user
    v.ctrlreg = list(c.ctrlreg)
    v.ctrlreg[0] &= debugreg.CR0_TS
    v.ctrlreg[4] = debugreg.guest_cr4(c.ctrlreg[4])
    _set_debug_registers(v, c.debugreg)
    regs = c.user_regs
    general = {reg: int(getattr(regs, name)) for name, reg in GENERAL}
    general[Reg.RFLAGS] = regs.rflags & LOADABLE_FLAGS | ALWAYS_SET
    v.pending_context = Pending(
        general, regs.cs | 3, regs.ss | 3, (regs.ds, regs.es, regs.fs, regs.gs), c.fs_base,
        bytes(c.fpu_ctxt.x) if c.flags & arch.VGCF_I387_VALID else None,
    )  # fmt: skip
    v.initialised = True
    v.down = not c.flags & arch.VGCF_online
    runstate.list_ready(v)
    v.hv.leave = True


def _set_debug_registers(v: VCpu, values: Any) -> None:
    """Those that the guest may not have are left at their defaults."""
    v.debugreg = [0, 0, 0, 0, 0, 0, debugreg.DR6_DEFAULT, debugreg.DR7_DEFAULT]
    v.debug_io_enables = 0
    for number in (0, 1, 2, 3, 6, 7):
        debugreg.write(v, number, values[number])


# The FPU as a vCPU finds it that was given no state: FCW 0x37f, MXCSR 0x1f80 (Xen's FCW_DEFAULT and MXCSR_DEFAULT).
_FPU_INITIAL = bytes([0x7F, 0x03]) + bytes(22) + bytes([0x80, 0x1F]) + bytes(2) + bytes([0xFF, 0xFF]) + bytes(482)


def apply_pending(v: VCpu) -> None:
    """`v`'s context is current: load the registers `set_context` gave it. Selectors that cannot be loaded lead where
    they do in Xen.
    """
    machine = v.hv.machine
    pending, v.pending_context = v.pending_context, None
    assert pending is not None
    descriptors.load_tables(v)
    v.hv.mmu.set_cr3(v)
    machine.set_many(list(pending.general), list(pending.general.values()))
    machine.task_switched = bool(v.ctrlreg[0] & debugreg.CR0_TS)
    machine.set_fpu(pending.fpu or _FPU_INITIAL)
    bad = False
    if any(pending.data):
        for name, selector in zip(DATA_SEGMENTS, pending.data, strict=True):
            try:
                descriptors.load_segments(v, **{name: selector})
            except SegmentFault:
                bad = True
                machine.load_segments(**{name: 0})
    else:
        machine.load_segments(ds=0, es=0, fs=0, gs=0)
    machine.set_many((Reg.FS_BASE, Reg.GS_BASE), (pending.fs_base, v.gs_base_user if v.user_mode else v.gs_base_kernel))
    load_code_and_stack(v, pending.cs, pending.ss)
    if bad:
        failsafe(v, list(pending.data))


def start_of_day(v: VCpu, *, rip: int, rsp: int, rsi: int) -> None:
    """The first vCPU of a domain that the hypervisor builds itself: entry point, boot stack, start_info; the rest as
    `set_context` begins.

    The page-table base must be in `v.l4_kernel` already, with its references held.
    """
    general = dict.fromkeys((reg for _, reg in GENERAL), 0)
    general |= {Reg.RIP: rip, Reg.RSP: rsp, Reg.RSI: rsi, Reg.RFLAGS: ALWAYS_SET}
    v.pending_context = Pending(general, CS64, SS, (0, 0, 0, 0), 0, None)
    v.user_mode = False
    v.kernel_ss, v.kernel_sp = SS, rsp
    v.ctrlreg[4] = debugreg.guest_cr4(0)
    v.hv.machine.ram.write_u8(v.info_pa + UPCALL_MASK, 1)
    v.initialised = True
    v.down = False
    runstate.list_ready(v)


def _registers(v: VCpu) -> Pending:
    """The registers, from the CPU or from what waits to be loaded."""
    if v.pending_context is not None:
        return v.pending_context
    machine = v.hv.machine
    assert v.context is not None
    before = machine.current
    machine.switch(v.context)
    regs = [reg for _, reg in GENERAL]
    general = dict(zip(regs, machine.get_many(regs), strict=True))
    cs, ss, ds, es, fs, gs, fs_base, gs_base = machine.get_many(
        (Reg.CS, Reg.SS, Reg.DS, Reg.ES, Reg.FS, Reg.GS, Reg.FS_BASE, Reg.GS_BASE)
    )
    if v.user_mode:
        v.gs_base_user = gs_base
    else:
        v.gs_base_kernel = gs_base
    fpu = machine.get_fpu()
    machine.switch(before)
    return Pending(general, cs, ss, (ds, es, fs, gs), fs_base, fpu)


def get_context(v: VCpu) -> bytes:
    """`v`'s state as a packed struct vcpu_guest_context (getvcpucontext). `v` must not be running."""
    r = _registers(v)
    flags = 0 if v.user_mode else arch.VGCF_in_kernel
    flags |= arch.VGCF_I387_VALID
    flags |= 0 if v.down else arch.VGCF_online
    flags |= arch.VGCF_failsafe_disables_events if v.failsafe_masks_events else 0
    flags |= arch.VGCF_syscall_disables_events if v.syscall_masks_events else 0
    regs: dict[str, int] = {name: r.general[reg] for name, reg in GENERAL}
    regs["rflags"] |= v.iopl << IOPL_SHIFT
    regs |= {"cs": r.cs, "ss": r.ss} | dict(zip(DATA_SEGMENTS, r.data, strict=True))
    traps = [
        {"vector": i, "flags": t.dpl | (4 if t.mask_events else 0), "cs": t.cs, "address": t.address}
        if t is not None
        else {"vector": i if v.initialised else 0, "flags": 0, "cs": 0, "address": 0}
        for i, t in enumerate(v.traps)
    ]
    ctrlreg = list(v.ctrlreg)
    ctrlreg[0] |= 0x80050033
    ctrlreg[1], ctrlreg[3] = v.l4_user << 12, v.l4_kernel << 12
    dr = list(v.debugreg)
    dr[7] |= v.debug_io_enables
    packed: bytes = arch.vcpu_guest_context.pack(
        fpu_ctxt={"x": r.fpu or _FPU_INITIAL}, flags=flags, user_regs=regs, trap_ctxt=traps, ldt_base=v.ldt_base,
        ldt_ents=v.ldt_entries, gdt_frames=[*v.gdt_frames, *[0] * (MAX_GDT_FRAMES - len(v.gdt_frames))],
        gdt_ents=v.gdt_entries, kernel_ss=v.kernel_ss, kernel_sp=v.kernel_sp, ctrlreg=ctrlreg, debugreg=dr,
        event_callback_eip=v.event_callback, failsafe_callback_eip=v.failsafe_callback,
        syscall_callback_eip=v.syscall_callback, vm_assist=v.domain.vm_assist, fs_base=r.fs_base,
        gs_base_kernel=v.gs_base_kernel, gs_base_user=v.gs_base_user,
    )  # fmt: skip
    return packed


def reset(v: VCpu) -> None:
    """Take an initialised vCPU back to where `set_context` can initialise it (setvcpucontext with no context): what
    it held goes back.
    """
    hv = v.hv
    hv.mmu.drop_ldt(v)
    v.ldt_entries = v.ldt_base = 0
    descriptors.drop_gdt(v)
    for mfn in (v.l4_user, v.l4_kernel):
        if mfn:
            hv.frames.put_page_and_type(mfn)
    v.l4_user = v.l4_kernel = 0
    v.pending_context = None
    v.initialised = False
    v.down = True
    hv.leave = True


def release(v: VCpu) -> None:
    """The vCPU goes away: `reset`, and its CPU context is dropped. May be called again."""
    hv = v.hv
    if hv.loaded is v:
        hv.loaded = None
    reset(v)
    if v.context is not None and hv.machine.current is not v.context:
        hv.machine.drop_context(v.context)
        v.context = None
