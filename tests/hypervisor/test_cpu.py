"""A vCPU's state as a whole: how it is set, checked, read back and taken away."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import errno, xen
from pyvmm.hypervisor import cpu, lifecycle
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_l4_page_table, PGT_none
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import (
    CODE,
    DATA,
    GDT,
    HANDLER,
    L1,
    L4,
    NON_CANONICAL,
    NOP,
    STACK,
    USER_L4,
    CodeGuest,
)

CS64, SS = 0xE033, 0xE02B
FPU = bytes([0x7F, 0x02]) + bytes(22) + bytes([0x80, 0x1F]) + bytes(6) + bytes(range(16)) * 30


def context(g: CodeGuest, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "flags": arch.VGCF_in_kernel | arch.VGCF_online,
        "user_regs": {"rip": CODE, "rsp": STACK, "rflags": 0, "cs": 0xE030, "ss": 0xE028, "rdi": 7},
        "kernel_sp": STACK, "kernel_ss": SS, "event_callback_eip": HANDLER,
        "ctrlreg": [0, 0, 0, g.mfns[L4] << 12, 0, 0, 0, 0],
    } | changes  # fmt: skip
    packed: bytes = arch.vcpu_guest_context.pack(**fields)
    return packed


def second(g: CodeGuest) -> Any:
    return lifecycle.add_vcpu(g.domain)


def set_context(v: Any, data: bytes) -> int:
    try:
        cpu.set_context(v, data)
    except XenError as error:
        return -error.errno
    return 0


def test_second_vcpu_runs() -> None:
    g = CodeGuest(NOP * 8)
    v = second(g)
    assert set_context(v, context(g)) == 0
    assert v.initialised and not v.down
    g.v.down = True
    g.run(3)
    assert g.machine.current is v.context
    assert g.reg(Reg.RIP) == CODE + 3 and g.reg(Reg.RDI) == 7 and g.reg(Reg.RSP) == STACK
    assert g.reg(Reg.CS) == CS64 and g.reg(Reg.SS) == SS and g.reg(Reg.RFLAGS) & 0x202 == 0x202
    assert g.hv.frames.type_count(g.mfns[L4]) == 2


def test_offline_without_the_flag() -> None:
    g = CodeGuest()
    v = second(g)
    assert set_context(v, context(g, flags=arch.VGCF_in_kernel)) == 0 and v.down


BAD: dict[str, dict[str, Any]] = {
    "rip": {"user_regs": {"rip": NON_CANONICAL}},
    "rsp": {"user_regs": {"rsp": NON_CANONICAL}},
    "kernel_sp": {"kernel_sp": NON_CANONICAL},
    "fs_base": {"fs_base": NON_CANONICAL},
    "gs_base_kernel": {"gs_base_kernel": NON_CANONICAL},
    "gs_base_user": {"gs_base_user": NON_CANONICAL},
    "event": {"event_callback_eip": NON_CANONICAL},
    "failsafe": {"failsafe_callback_eip": NON_CANONICAL},
    "syscall": {"syscall_callback_eip": NON_CANONICAL},
    "ldt in Xen": {"ldt_base": 0xFFFF_8200_0000_0000, "ldt_ents": 1},
    "ldt odd": {"ldt_base": 8, "ldt_ents": 1},
    "ldt size": {"ldt_ents": 8193},
    "gdt size": {"gdt_ents": 8193},
    "gdt frame": {"gdt_ents": 1, "gdt_frames": [0xFFFFFF] + [0] * 15},
    "no cr3": {"ctrlreg": [0] * 8},
    "user mode without tables": {"flags": arch.VGCF_online},
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    g = CodeGuest()
    v = second(g)
    counts = g.hv.frames.counts.copy()
    assert set_context(v, context(g, **BAD[name])) == -errno.EINVAL
    assert not v.initialised and v.down
    assert (g.hv.frames.counts == counts).all()


def test_bad_trap_table_address() -> None:
    g = CodeGuest()
    traps = [{"vector": 0, "flags": 0, "cs": 0, "address": 0}] * 255 + [
        {"vector": 255, "flags": 0, "cs": CS64, "address": NON_CANONICAL}
    ]
    assert set_context(second(g), context(g, trap_ctxt=traps)) == -errno.EINVAL


def test_user_tables_are_given_back_when_something_is_wrong() -> None:
    g = CodeGuest()
    v = second(g)
    before = g.hv.frames.type_count(g.mfns[L4])
    bad = [0, g.mfns[L1] << 12, 0, g.mfns[L4] << 12, 0, 0, 0, 0]
    assert (
        set_context(v, context(g, ctrlreg=bad, gdt_ents=512, gdt_frames=[g.pa(GDT) >> 12] + [0] * 15)) == -errno.EINVAL
    )
    assert g.hv.frames.type_count(g.mfns[L4]) == before
    assert g.hv.frames.type_of(g.pa(GDT) >> 12) == PGT_none and v.gdt_frames == []


def test_initialised_vcpu_keeps_its_tables() -> None:
    g = CodeGuest()
    v = second(g)
    assert set_context(v, context(g)) == 0
    assert set_context(v, context(g, kernel_sp=DATA)) == 0 and v.kernel_sp == DATA
    for change in ({"ctrlreg": [0, 0, 0, g.mfns[USER_L4] << 12, 0, 0, 0, 0]}, {"gdt_ents": 1}, {"ldt_ents": 1}):
        assert set_context(v, context(g, **change)) == -errno.EOPNOTSUPP
    assert g.hv.frames.type_count(g.mfns[L4]) == 2


FIELDS = (
    "trap_ctxt gdt_frames gdt_ents kernel_sp debugreg event_callback_eip failsafe_callback_eip syscall_callback_eip "
    "fs_base gs_base_kernel gs_base_user flags"
).split()


def test_round_trip() -> None:
    g = CodeGuest()
    v = second(g)
    traps = [{"vector": i, "flags": i % 8, "cs": CS64, "address": i + 1} for i in range(256)]
    names = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()
    regs = {name: 0x1000 + i for i, name in enumerate(names)}
    regs |= {"rip": CODE, "rsp": STACK, "rflags": 0x3246, "cs": CS64, "ss": SS, "ds": SS, "fs": SS}
    data = context(
        g, flags=arch.VGCF_in_kernel | arch.VGCF_I387_VALID | arch.VGCF_syscall_disables_events, user_regs=regs,
        fpu_ctxt={"x": FPU}, trap_ctxt=traps, fs_base=0x1000, gs_base_kernel=0x2000, gs_base_user=0x3000,
        gdt_ents=512, gdt_frames=[g.pa(GDT) >> 12] + [0] * 15, failsafe_callback_eip=1, syscall_callback_eip=2,
        ctrlreg=[8, g.mfns[USER_L4] << 12, 5, g.mfns[L4] << 12, 0x660, 0, 0, 0],
        debugreg=[1, 2, 3, 4, 0, 0, 0xFFFF0FF0, 0x400],
    )  # fmt: skip
    assert set_context(v, data) == 0
    want = arch.vcpu_guest_context.unpack(data)
    for attempt in range(2):
        got = arch.vcpu_guest_context.unpack(cpu.get_context(v))
        for field in FIELDS:
            assert getattr(got, field) == getattr(want, field), field
        assert got.user_regs == want.user_regs
        assert got.ctrlreg == (0x8005003B, *want.ctrlreg[1:])
        if not attempt:  # then once more, from the CPU's registers
            before = g.machine.current
            g.machine.switch(v.context)
            cpu.before_guest(v)
            g.machine.switch(before)
            assert v.pending_context is None


def test_fpu_state() -> None:
    g = CodeGuest(b"\x0f\x11\x07" + NOP)  # movups [rdi], xmm0
    v = second(g)
    regs = {"rip": CODE, "rsp": STACK, "rdi": DATA, "cs": CS64, "ss": SS}
    data = context(
        g, flags=arch.VGCF_in_kernel | arch.VGCF_online | arch.VGCF_I387_VALID, fpu_ctxt={"x": FPU}, user_regs=regs
    )
    assert set_context(v, data) == 0
    g.v.down = True
    g.run(1)
    assert g.machine.ram.read(g.pa(DATA), 16) == FPU[160:176]


def test_vcpuop_initialise() -> None:
    g = CodeGuest()
    v = second(g)
    data = context(g)
    g.poke(DATA, data[:4096])
    g.poke(DATA + 4096, data[4096:])
    assert g.call(xen.HYPERVISOR_vcpu_op, 0, 1, DATA) == 0 and v.initialised
    assert g.call(xen.HYPERVISOR_vcpu_op, 0, 1, DATA) == -errno.EEXIST
    assert g.call(xen.HYPERVISOR_vcpu_op, 0, 0, DATA) == -errno.EEXIST


def test_reset_gives_everything_back() -> None:
    g = CodeGuest()
    v = second(g)
    counts, types = g.hv.frames.counts.copy(), g.hv.frames.type_counts.copy()
    tables = [0, g.mfns[USER_L4] << 12, 0, g.mfns[L4] << 12, 0, 0, 0, 0]
    assert set_context(v, context(g, ctrlreg=tables, gdt_ents=512, gdt_frames=[g.pa(GDT) >> 12] + [0] * 15)) == 0
    cpu.reset(v)
    assert (g.hv.frames.counts == counts).all() and (g.hv.frames.type_counts == types).all()
    assert set_context(v, context(g)) == 0
    cpu.release(v)
    cpu.release(v)
    assert v.context is None and (g.hv.frames.counts == counts).all()


def test_start_of_day() -> None:
    g = CodeGuest()
    v = second(g)
    assert g.hv.frames.get_page_and_type(g.mfns[L4], g.domain, PGT_l4_page_table)
    v.l4_kernel = g.mfns[L4]
    cpu.start_of_day(v, rip=CODE, rsp=STACK, rsi=DATA)
    g.machine.switch(v.context)
    cpu.before_guest(v)
    got = {r.name: g.reg(r) for r in Reg if r is not Reg.CR2}
    expected = dict.fromkeys(got, 0)
    expected |= {"RIP": CODE, "RSP": STACK, "RSI": DATA, "RFLAGS": 0x202, "CS": CS64, "SS": SS}
    assert got == expected
    assert g.machine.ram.read_u8(v.info_pa + 1) == 1 and v.kernel_sp == STACK
