"""Traps, callbacks and iret: what the guest kernel finds on its stack, and what crashes a domain."""

from __future__ import annotations

import struct

import pytest

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import callback, errno, xen
from pyvmm.hypervisor.bounce import CS32, CS64, SS
from pyvmm.hypervisor.vcpu import Trap
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import (
    CODE,
    DATA,
    HANDLER,
    KERNEL_STACK,
    NON_CANONICAL,
    NOP,
    READ_ONLY,
    STACK,
    SYSCALL,
    UNMAPPED,
    USER_STACK,
    WILD,
    XEN_TEXT,
    CodeGuest,
    load,
    store,
)

ENTRY = HANDLER + 0x800
IF, TF, DF, RF = 0x200, 0x100, 0x400, 0x10000


def trap(g: CodeGuest, vector: int, *, dpl: int = 0, mask: bool = False, address: int = ENTRY) -> None:
    g.v.traps[vector] = Trap(CS64, address, dpl, mask)


# -- exception frames ------------------------------------------------------------------------------------------------


def test_page_fault_in_the_kernel() -> None:
    g = CodeGuest(load(UNMAPPED))
    g.run(1)  # the first instruction of the handler
    assert g.reg(Reg.RIP) == ENTRY + 1
    assert g.reg(Reg.RSP) == STACK - 64
    assert g.frame(error=True) == {
        "rcx": 0xC, "r11": 0x11, "error": 0, "rip": CODE, "cs": 0xE030, "rflags": 2 | RF | IF, "rsp": STACK, "ss": SS,
    }  # fmt: skip
    assert g.v.ctrlreg[2] == UNMAPPED == g.machine.ram.read_u64(g.v.info_pa + 0x10)
    assert g.domain.counters.exceptions == 1
    assert g.domain.counters.instructions == 1  # the faulting load counts nothing


def test_entry_is_by_sysret() -> None:
    g = CodeGuest(load(UNMAPPED))
    g.run(1)
    assert g.reg(Reg.RCX) == ENTRY and g.reg(Reg.R11) == g.reg(Reg.RFLAGS) == 0x202


@pytest.mark.parametrize(
    ("code", "error"), [(load(UNMAPPED), 0), (store(UNMAPPED), 2), (store(READ_ONLY), 3), (load(XEN_TEXT), 1)]
)
def test_page_fault_error_codes(code: bytes, error: int) -> None:
    g = CodeGuest(code)
    g.run(1)
    assert g.frame(error=True)["error"] == error
    user = CodeGuest(code, user=True)
    user.run(1)
    assert user.frame(error=True)["error"] == error | 4


def test_fault_in_user_mode_goes_to_the_kernel_stack() -> None:
    g = CodeGuest(load(UNMAPPED), user=True, gs_base_kernel=0x1000, gs_base_user=0x2000)
    g.run(1)
    assert not g.in_user_mode()
    assert g.reg(Reg.RSP) == KERNEL_STACK - 64
    frame = g.frame(error=True)
    assert frame["cs"] == 0xE033 and frame["rsp"] == USER_STACK
    assert g.reg(Reg.GS_BASE) == 0x1000 and g.v.gs_base_user == 0x2000
    assert g.machine.cr3 == g.v.l4_kernel << 12


def test_stack_is_aligned_before_the_pushes() -> None:
    g = CodeGuest(NOP + load(UNMAPPED))
    g.run(1)
    g.set(rsp=STACK - 9)
    g.run(1)
    assert g.reg(Reg.RSP) == STACK - 16 - 64
    assert g.frame(error=True)["rsp"] == STACK - 9


def test_upcall_mask_is_saved_and_set() -> None:
    for mask, wanted in ((0, True), (1, True), (0, False), (1, False)):
        g = CodeGuest(load(UNMAPPED))
        trap(g, 14, mask=wanted)
        g.mask = mask
        g.run(1)
        frame = g.frame(error=True)
        assert frame["cs"] == 0xE030 | mask << 32
        assert bool(frame["rflags"] & IF) == (not mask)
        assert g.mask == (1 if wanted else mask)


def test_flags_are_cleared_on_entry() -> None:
    g = CodeGuest(NOP + load(UNMAPPED))
    g.run(1)
    g.set(rflags=0x244FD7)  # with DF, NT, AC, ID and the arithmetic flags, TF not
    g.set(rflags=g.reg(Reg.RFLAGS) & ~TF)
    g.run(1)
    assert g.reg(Reg.RFLAGS) & (TF | RF | 1 << 14 | 1 << 18) == 0
    assert g.reg(Reg.RFLAGS) & DF
    assert g.frame(error=True)["rflags"] & (1 << 14 | 1 << 18) == 1 << 14 | 1 << 18


def test_divide_error_has_no_error_code() -> None:
    g = CodeGuest(b"\x31\xc9\xf7\xf1")  # xor ecx, ecx; div ecx
    g.run(2)
    assert g.frame()["rip"] == CODE + 2 and g.reg(Reg.RSP) == STACK - 56


def test_single_step() -> None:
    g = CodeGuest(NOP * 4)
    g.run(1)
    g.set(rflags=0x302)
    g.run(2)
    frame = g.frame()
    assert frame["rip"] == CODE + 2 and frame["rflags"] & TF and not frame["rflags"] & RF
    assert g.v.debugreg[6] == 0xFFFF4FF0
    assert not g.reg(Reg.RFLAGS) & TF


def test_device_not_available() -> None:
    g = CodeGuest(NOP + b"\x0f\x57\xc0")  # xorps xmm0, xmm0
    g.run(1)
    assert g.call(xen.HYPERVISOR_fpu_taskswitch, 1) == 0 and g.v.ctrlreg[0] & 8
    g.run(1)
    assert g.reg(Reg.RIP) == ENTRY + 1 and g.frame()["rip"] == CODE + 1
    assert not g.v.ctrlreg[0] & 8  # delivering #NM clears TS
    g.set(rip=CODE + 1)
    g.run(1)
    assert g.reg(Reg.RIP) == CODE + 4


def test_general_protection_for_a_bad_selector() -> None:
    g = CodeGuest(b"\xb8\x08\xe0\x00\x00\x8e\xd8")  # mov eax, 0xe008; mov ds, eax
    g.run(2)
    assert g.frame(error=True)["error"] == 0xE008


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_no_handler_crashes() -> None:
    g = CodeGuest(store(UNMAPPED))
    g.v.traps[14] = None
    g.run(1)
    assert g.report.startswith("Unhandled: vec 14, #PF[0002]")


@pytest.mark.parametrize("rsp", [UNMAPPED, XEN_TEXT, 0xFFFF_8000_0000_0040, READ_ONLY + 256, NON_CANONICAL + 64, 16])
def test_frame_cannot_be_written(rsp: int) -> None:
    g = CodeGuest(NOP + load(UNMAPPED))
    g.run(1)
    g.set(rsp=rsp)
    g.run(1)
    assert g.report.startswith("domain_crash_sync called from entry.S")


def test_pending_event_without_a_callback_crashes() -> None:
    g = CodeGuest(event_callback_eip=0)
    g.mask = 0
    g.raise_event()
    g.run(1)
    assert g.report.startswith("domain_crash_sync called from entry.S")


# -- software interrupts
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "dpl", "allowed"), [(False, 0, False), (False, 1, True), (True, 1, False), (True, 3, True)]
)
def test_int_n_obeys_the_dpl(user: bool, dpl: int, allowed: bool) -> None:
    g = CodeGuest(b"\xcd\x21", user=user)
    trap(g, 0x21, dpl=dpl, address=HANDLER)
    g.run(2 if allowed else 1)
    if allowed:
        assert g.frame()["rip"] == CODE + 2 and g.reg(Reg.RIP) == HANDLER + 1
        assert g.domain.counters.instructions == 2
    else:
        frame = g.frame(error=True)
        assert frame["rip"] == CODE and frame["error"] == 0x21 * 8 + 2
        assert g.domain.counters.instructions == 1  # the refused int counts nothing


def test_int3_is_for_everybody() -> None:
    for user in (False, True):
        g = CodeGuest(b"\xcc", user=user)
        g.run(2)
        frame = g.frame()
        assert frame["rip"] == CODE + 1 and not frame["rflags"] & RF


def test_icebp_is_a_debug_trap() -> None:
    g = CodeGuest(b"\xf1")
    g.run(2)
    frame = g.frame()
    assert frame["rip"] == CODE + 1 and not frame["rflags"] & RF and g.v.debugreg[6] == 0xFFFF0FF0
    assert g.domain.counters.instructions == 2


def test_int_0x80_is_for_everybody_if_there_is_a_handler() -> None:
    g = CodeGuest(b"\xcd\x80", user=True)
    g.run(2)
    assert g.frame()["rip"] == CODE + 2
    g = CodeGuest(b"\xcd\x80", user=True)
    g.v.traps[0x80] = None
    g.run(1)
    assert g.frame(error=True)["error"] == 0x402


def test_int_to_a_permitted_null_handler_crashes() -> None:
    g = CodeGuest(b"\xcd\x30")
    g.v.traps[0x30] = Trap(CS64, 0, 3, False)
    g.run(2)
    assert g.report.startswith("Unhandled: vec 48, ???[ffffffff]")


# -- system calls from user mode
# -----------------------------------------------------------------------------------------


def test_user_syscall() -> None:
    g = CodeGuest(NOP + SYSCALL, user=True)
    g.run(1)
    g.set(rflags=0x602)
    g.run(2)
    assert g.reg(Reg.RIP) == HANDLER + 0x101 and not g.in_user_mode()
    frame = g.frame()
    assert frame == {
        "rcx": CODE + 3, "r11": 0x602, "rip": CODE + 3, "cs": 0xE033, "rflags": 0x602, "rsp": USER_STACK,
        "ss": SS,
    }  # fmt: skip
    assert not g.reg(Reg.RFLAGS) & DF  # cleared as by SFMASK, but not in the frame


def test_user_syscall_without_a_callback_is_an_invalid_opcode() -> None:
    g = CodeGuest(SYSCALL, user=True, syscall_callback_eip=0)
    g.run(2)
    assert g.reg(Reg.RIP) == ENTRY + 1 and g.frame()["rip"] == CODE


def test_syscall_callback_may_mask_events() -> None:
    for masks in (False, True):
        g = CodeGuest(SYSCALL, user=True)
        g.mask = 0
        g.v.syscall_masks_events = masks
        g.run(2)
        assert g.mask == masks


# -- events
# --------------------------------------------------------------------------------------------------------------


def test_event_upcall() -> None:
    g = CodeGuest(NOP * 8)
    g.run(2)
    g.mask = 0
    g.raise_event()
    g.run(1)
    assert g.reg(Reg.RIP) == HANDLER + 1 and g.mask == 1
    assert g.frame() == {
        "rcx": 0xC, "r11": 0x11, "rip": CODE + 2, "cs": 0xE030, "rflags": 0x202, "rsp": STACK, "ss": SS,
    }  # fmt: skip


def test_masked_event_waits() -> None:
    g = CodeGuest(NOP * 8)
    g.mask = 1
    g.raise_event()
    g.run(3)
    assert g.reg(Reg.RIP) == CODE + 3


def test_nmi_is_not_nested_until_iret() -> None:
    g = CodeGuest(NOP * 8)
    trap(g, 2, mask=True)
    g.run(1)
    g.v.nmi_pending = True
    g.run(1)
    assert g.reg(Reg.RIP) == ENTRY + 1 and g.v.nmi_masked and not g.v.nmi_pending
    g.v.nmi_pending = True
    g.run(1)
    assert g.reg(Reg.RIP) == ENTRY + 2
    g.iret(0, 0, 0, 0, CODE, CS64, IF, STACK, SS)
    assert g.in_user_mode()
    g.run(1)
    assert not g.v.nmi_pending and g.frame()["rsp"] == STACK


# -- iret
# ----------------------------------------------------------------------------------------------------------------


def test_iret_to_the_kernel() -> None:
    g = CodeGuest()
    g.iret(1, 2, 3, 0, CODE + 5, 0xE030, 0x47, STACK - 8, 0xE028)
    assert not g.in_user_mode()
    assert [g.reg(r) for r in (Reg.RAX, Reg.R11, Reg.RCX, Reg.RIP, Reg.RSP)] == [1, 2, 3, CODE + 5, STACK - 8]
    assert g.reg(Reg.RFLAGS) == 0x247 and g.mask == 1
    assert g.reg(Reg.CS) == CS64 and g.reg(Reg.SS) == SS


def test_iret_to_user_mode_and_event() -> None:
    g = CodeGuest(NOP * 4, gs_base_kernel=0x1000, gs_base_user=0x2000)
    g.mask = 1
    g.raise_event()
    g.iret(1, 2, 3, 0, CODE, CS64, IF, USER_STACK, SS)
    assert g.in_user_mode() and g.mask == 0
    assert g.reg(Reg.GS_BASE) == 0x2000
    assert g.machine.cr3 == g.v.l4_user << 12
    g.run(1)
    assert g.reg(Reg.RIP) == HANDLER + 1 and g.frame()["rsp"] == USER_STACK and g.mask == 1


def test_iret_in_syscall_keeps_rcx_r11_and_selectors_to_sysret() -> None:
    g = CodeGuest()
    g.iret(1, 2, 3, arch.VGCF_in_syscall, CODE + 5, 0x13, 0x202, USER_STACK, 0x1B)
    assert g.in_user_mode()
    assert g.reg(Reg.RCX) == CODE + 5 and g.reg(Reg.R11) == 0x202
    assert g.reg(Reg.CS) == CS64 and g.reg(Reg.SS) == SS


def test_single_step_into_a_sysret() -> None:
    g = CodeGuest()
    g.iret(1, 2, 3, arch.VGCF_in_syscall, CODE + 5, 0xE030, IF | TF, STACK, SS)
    assert g.reg(Reg.RIP) == ENTRY and g.frame()["rip"] == CODE + 5 and g.v.debugreg[6] & 1 << 14
    g.iret(1, 2, 3, 0, CODE, 0xE030, IF | TF, STACK, SS)  # IRETQ: one instruction is executed first
    g.run(2)
    assert g.reg(Reg.RIP) == ENTRY + 1 and g.frame()["rip"] == CODE + 1


def test_iret_to_compatibility_mode() -> None:
    g = CodeGuest(b"\x40" + NOP)  # inc eax in 32-bit code, a REX prefix in 64-bit code
    g.iret(1, 2, 3, 0, CODE, CS32, IF, USER_STACK, SS)
    g.run(1)
    assert g.reg(Reg.RAX) == 2 and g.reg(Reg.RIP) == CODE + 1 and g.reg(Reg.CS) == CS32


@pytest.mark.parametrize(
    ("cs", "ss", "error"), [(0xE02B, SS, 0xE028), (CS64, 0xE033, 0xE030), (0x1003, SS, 0x1000), (CS64, 3, 0)]
)
def test_iret_to_bad_selectors_is_a_fault_there(cs: int, ss: int, error: int) -> None:
    g = CodeGuest()
    g.iret(1, 2, 3, 0, CODE + 7, cs, IF, USER_STACK, ss)
    frame = g.frame(error=True)
    assert g.reg(Reg.RIP) == ENTRY and g.reg(Reg.CS) == CS64
    assert frame["error"] == error and frame["rip"] == CODE + 7 and frame["rsp"] == USER_STACK
    assert frame["cs"] & 0xFFFF == cs and frame["ss"] == ss


def test_iret_to_a_non_canonical_address() -> None:
    g = CodeGuest()
    g.iret(1, 2, 3, 0, NON_CANONICAL, CS64, IF, USER_STACK, SS)
    assert g.reg(Reg.RIP) == ENTRY and g.frame(error=True)["rip"] == NON_CANONICAL


def test_iret_crashes() -> None:
    g = CodeGuest(NOP + b"\xb8\x17\x00\x00\x00" + SYSCALL)  # mov eax, 23
    g.run(1)
    g.set(rsp=UNMAPPED)
    g.run(5)
    assert g.report.startswith("Fault while reading IRET context from guest stack")
    g = CodeGuest(b"\xb8\x17\x00\x00\x00" + SYSCALL)
    g.poke(STACK - 72, struct.pack("<9Q", 1, 2, 3, 0, CODE, CS64, IF, USER_STACK, SS))
    g.run(1)
    g.set(rsp=STACK - 72)
    assert g.hv.mmu.new_user_base(g.v, 0) == 0
    g.run(5)
    assert g.report.startswith("Guest switching to user mode with no user page tables")


def test_iret_hypercall_runs_and_counts() -> None:
    g = CodeGuest(b"\xb8\x17\x00\x00\x00" + SYSCALL)
    g.poke(STACK - 72, struct.pack("<9Q", 1, 2, 3, 0, CODE, CS64, IF, USER_STACK, SS))
    g.run(1)
    g.set(rsp=STACK - 72)
    g.run(1)
    assert g.v.after_stop is not None or g.in_user_mode()
    g.run(1)
    assert g.in_user_mode() and g.reg(Reg.RIP) == CODE + 5
    assert g.domain.counters.hypercalls == {"iret": 1} and g.domain.counters.instructions == 3


def test_architectural_iopl() -> None:
    g = CodeGuest()
    g.iret(0, 0, 0, 0, CODE, 0xE030, IF | 3 << 12, STACK, SS)
    assert g.v.iopl == 0
    assert g.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_enable, xen.VMASST_TYPE_architectural_iopl) == 0
    g.iret(0, 0, 0, 0, CODE, 0xE030, IF | 3 << 12, STACK, SS)
    assert g.v.iopl == 3 and g.reg(Reg.RFLAGS) & 3 << 12 == 0
    g.v.traps[6] = Trap(CS64, ENTRY, 0, False)
    g.poke(CODE, b"\x0f\x0b")
    g.run(1)
    assert g.frame()["rflags"] >> 12 & 3 == 3


# -- hypercalls
# ----------------------------------------------------------------------------------------------------------


def trap_table(*entries: tuple[int, int, int, int]) -> bytes:
    return b"".join(
        arch.trap_info.pack(vector=vector, flags=flags, cs=cs, address=address)
        for vector, flags, cs, address in entries
    ) + bytes(16)


def test_set_trap_table() -> None:
    g = CodeGuest()
    g.poke(DATA, trap_table((3, 7, 0xE030, HANDLER), (255, 1, CS64, WILD)))
    assert g.call(xen.HYPERVISOR_set_trap_table, DATA) == 0
    assert g.v.traps[3] == Trap(CS64, HANDLER, 3, True) and g.v.traps[255] == Trap(CS64, WILD, 1, False)
    g.poke(DATA, trap_table((4, 0, CS64, HANDLER), (5, 0, CS64, NON_CANONICAL)))
    assert g.call(xen.HYPERVISOR_set_trap_table, DATA) == -errno.EINVAL
    assert g.v.traps[4] == Trap(CS64, HANDLER, 0, False)
    assert g.call(xen.HYPERVISOR_set_trap_table, UNMAPPED) == -errno.EFAULT
    assert g.call(xen.HYPERVISOR_set_trap_table, 0) == 0
    assert g.v.traps == [None] * 256


def test_callback_op() -> None:
    g = CodeGuest()

    def register(type_: int, address: int, flags: int = 0) -> int:
        g.poke(DATA, callback.callback_register.pack(type=type_, flags=flags, address=address))
        return g.call(xen.HYPERVISOR_callback_op, callback.CALLBACKOP_register, DATA)

    def unregister(type_: int) -> int:
        g.poke(DATA, callback.callback_unregister.pack(type=type_))
        return g.call(xen.HYPERVISOR_callback_op, callback.CALLBACKOP_unregister, DATA)

    assert register(callback.CALLBACKTYPE_event, WILD) == 0 and g.v.event_callback == WILD
    assert register(callback.CALLBACKTYPE_failsafe, WILD + 1, callback.CALLBACKF_mask_events) == 0
    assert (g.v.failsafe_callback, g.v.failsafe_masks_events) == (WILD + 1, True)
    assert register(callback.CALLBACKTYPE_syscall, WILD + 2) == 0 and not g.v.syscall_masks_events
    assert register(callback.CALLBACKTYPE_syscall32, 1) == register(callback.CALLBACKTYPE_sysenter, 1) == 0
    assert register(callback.CALLBACKTYPE_nmi, HANDLER) == 0 and g.handler(2) == Trap(CS64, HANDLER, 0, True)
    assert register(callback.CALLBACKTYPE_sysenter_deprecated, 1) == register(6, 1) == -errno.ENOSYS
    assert register(6, NON_CANONICAL) == -errno.EINVAL
    assert unregister(callback.CALLBACKTYPE_nmi) == 0 and g.handler(2) is None
    assert unregister(callback.CALLBACKTYPE_event) == -errno.EINVAL
    assert unregister(3) == -errno.ENOSYS
    assert g.call(xen.HYPERVISOR_callback_op, 2, DATA) == -errno.ENOSYS
    assert g.call(xen.HYPERVISOR_callback_op, 0, WILD) == -errno.EFAULT


def test_set_callbacks_passes_over_bad_addresses() -> None:
    g = CodeGuest()
    assert g.call(xen.HYPERVISOR_set_callbacks, 1, NON_CANONICAL, 3) == 0
    assert (g.v.event_callback, g.v.failsafe_callback, g.v.syscall_callback) == (1, HANDLER + 0x200, 3)


def test_nmi_op() -> None:
    g = CodeGuest()
    g.poke(DATA, struct.pack("<QQ", HANDLER, 0))
    assert g.call(xen.HYPERVISOR_nmi_op, 0, DATA) == 0 and g.handler(2) == Trap(CS64, HANDLER, 0, True)
    assert g.call(xen.HYPERVISOR_nmi_op, 1, 0) == 0 and g.handler(2) is None
    assert g.call(xen.HYPERVISOR_nmi_op, 2, 0) == -errno.ENOSYS
    assert g.call(xen.HYPERVISOR_nmi_op, 0, WILD) == -errno.EFAULT


def test_set_segment_base() -> None:
    g = CodeGuest()
    g.run(1)
    call = xen.HYPERVISOR_set_segment_base
    assert g.call(call, arch.SEGBASE_FS, WILD) == 0 and g.reg(Reg.FS_BASE) == WILD
    assert g.call(call, arch.SEGBASE_GS_KERNEL, WILD + 1) == 0 and g.reg(Reg.GS_BASE) == WILD + 1
    assert g.call(call, arch.SEGBASE_GS_USER, WILD + 2) == 0 and g.v.gs_base_user == WILD + 2
    for which in (0, 1, 2):
        assert g.call(call, which, NON_CANONICAL) == -errno.EINVAL
    assert g.call(call, 4, 0) == -errno.EINVAL


def test_user_gs_selector() -> None:
    g = CodeGuest(NOP * 4)
    g.run(1)
    g.set(gs_base=0x1234)
    assert g.call(xen.HYPERVISOR_set_segment_base, arch.SEGBASE_GS_USER_SEL, 0xE028) == 0
    g.run(1)
    assert g.reg(Reg.GS) == SS and g.v.gs_base_user == 0 and g.reg(Reg.GS_BASE) == 0x1234
    assert g.call(xen.HYPERVISOR_set_segment_base, arch.SEGBASE_GS_USER_SEL, 0x1000) == 0  # no error, but NUL
    g.run(1)
    assert g.reg(Reg.GS) == 0 and g.reg(Reg.GS_BASE) == 0x1234
