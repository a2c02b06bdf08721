"""Privileged instructions of a guest kernel: what Xen carries out, what becomes #GP or #UD, how they count."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.abi import physdev, xen
from pyvmm.hypervisor import cpuid, debugreg, emulate
from pyvmm.hypervisor.vcpu import Trap
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import (
    BASE,
    CODE,
    DATA,
    HANDLER,
    NON_CANONICAL,
    NOP,
    PAGE,
    STACK,
    UNMAPPED,
    CodeGuest,
)

ENTRY = HANDLER + 0x800
CS64 = 0xE033
GP, UD, PF = 13, 6, 14
HANDLERS = {vector: HANDLER + 16 * vector for vector in (UD, GP, PF, 1)}


def probe(g: CodeGuest, code: bytes, **registers: int) -> int | None:
    """Run one instruction; the vector it raised, None if it was done. Registers are kept as it left them."""
    for vector, address in HANDLERS.items():
        g.v.traps[vector] = Trap(CS64, address, 0, False)
    g.poke(CODE, code + NOP * 16)
    g.ready()
    g.set(rip=CODE, rsp=STACK, **registers)
    before = g.machine.instructions
    g.run(1)
    rip = g.reg(Reg.RIP)
    assert g.machine.instructions == before + 1
    if rip == CODE + len(code):
        return None
    return next(vector for vector, address in HANDLERS.items() if rip == address + 1)


CASES = {  # instruction: what a guest kernel gets for it
    "clts": (b"\x0f\x06", None),
    "invd": (b"\x0f\x08", None),
    "wbinvd": (b"\x0f\x09", None),
    "mov rax, cr0": (b"\x0f\x20\xc0", None),
    "mov rax, cr2": (b"\x0f\x20\xd0", None),
    "mov rax, cr3": (b"\x0f\x20\xd8", None),
    "mov rax, cr4": (b"\x0f\x20\xe0", None),
    "mov rax, cr1": (b"\x0f\x20\xc8", UD),
    "lock cli": (b"\xf0\xfa", UD),
    "mov rax, cr8": (b"\x44\x0f\x20\xc0", GP),
    "mov cr8, rax": (b"\x44\x0f\x22\xc0", GP),
    "mov rax, dr0": (b"\x0f\x21\xc0", None),
    "mov rax, dr4": (b"\x0f\x21\xe0", None),
    "cli": (b"\xfa", GP),
    "sti": (b"\xfb", GP),
    "hlt": (b"\xf4", GP),
    "in al, 0x80": (b"\xe4\x80", GP),
    "out 0x80, al": (b"\xe6\x80", GP),
    "in eax, dx": (b"\xed", GP),
    "outsb": (b"\x6e", GP),
    "lgdt [rsp]": (b"\x0f\x01\x14\x24", GP),
    "lidt [rsp]": (b"\x0f\x01\x1c\x24", GP),
    "lldt ax": (b"\x0f\x00\xd0", GP),
    "ltr ax": (b"\x0f\x00\xd8", GP),
    "lmsw ax": (b"\x0f\x01\xf0", GP),
    "invlpg [rsp]": (b"\x0f\x01\x3c\x24", GP),
    "swapgs": (b"\x0f\x01\xf8", GP),
    "sysretq": (b"\x48\x0f\x07", GP),
    "rdpmc": (b"\x0f\x33", GP),
    "xgetbv": (b"\x0f\x01\xd0", UD),
    "xsetbv": (b"\x0f\x01\xd1", UD),
    "vmcall": (b"\x0f\x01\xc1", UD),
    "rdtscp": (b"\x0f\x01\xf9", UD),
    "ud2": (b"\x0f\x0b", UD),
    "forced cpuid": (b"\x0f\x0bxen\x0f\xa2", None),
    "forced rdtsc": (b"\x0f\x0bxen\x0f\x31", UD),
}


@pytest.mark.parametrize("name", CASES)
def test_in_the_kernel(name: str) -> None:
    code, vector = CASES[name]
    g = CodeGuest()
    assert probe(g, code) == vector
    if vector == GP:
        assert g.frame(error=True)["error"] == 0 and g.frame(error=True)["rip"] == CODE


@pytest.mark.parametrize("name", CASES)
def test_in_user_mode(name: str) -> None:
    code, vector = CASES[name]
    g = CodeGuest(user=True)
    expected = UD if vector == UD else None if name == "forced cpuid" else GP
    assert probe(g, code) == expected


def test_control_registers_read_as_xen_shows_them() -> None:
    g = CodeGuest()
    probe(g, b"\x0f\x20\xc0")
    assert g.reg(Reg.RAX) == 0x80050033
    probe(g, b"\x41\x0f\x20\xd8")  # mov r8, cr3
    assert g.reg(Reg.R8) == g.mfns[0] << 12
    probe(g, b"\x0f\x20\xe0")
    assert g.reg(Reg.RAX) == 0x660


def test_cr0_only_ts_can_change() -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x22\xc0", rax=0x8005003B) is None and g.v.ctrlreg[0] & 8
    probe(g, b"\x0f\x20\xc0")
    assert g.reg(Reg.RAX) == 0x8005003B
    assert probe(g, b"\x0f\x06") is None and not g.v.ctrlreg[0] & 8
    assert probe(g, b"\x0f\x22\xc0", rax=0x80040033) == GP


def test_cr2_cr3_cr4_can_be_written() -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x22\xd0", rax=0x123456) is None
    assert g.machine.ram.read_u64(g.v.info_pa + 0x10) == 0x123456
    assert probe(g, b"\x0f\x22\xd8", rax=g.mfns[4] << 12) is None and g.v.l4_kernel == g.mfns[4]
    assert probe(g, b"\x0f\x22\xd8", rax=0xFFFFF000) == GP
    assert probe(g, b"\x0f\x22\xe0", rax=0x7FFFF) is None and g.v.ctrlreg[4] == 0x66C


def test_debug_registers() -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x23\xc0", rax=CODE) is None and g.v.debugreg[0] == CODE
    assert probe(g, b"\x0f\x23\xc0", rax=0xFFFF_8200_0000_0000) == GP
    assert probe(g, b"\x0f\x23\xf8", rax=0x1_0000_0000) == GP  # dr7
    assert probe(g, b"\x0f\x23\xf8", rax=0x2000) == GP  # GD
    assert probe(g, b"\x0f\x23\xf8", rax=0x101) is None and g.v.debugreg[7] == 0x501
    probe(g, b"\x0f\x21\xf0")
    assert g.reg(Reg.RAX) == 0xFFFF0FF0
    g.v.ctrlreg[4] |= debugreg.CR4_DE
    assert probe(g, b"\x0f\x21\xe0") == UD  # no dr4 with CR4.DE
    assert probe(g, b"\x0f\x23\xe0", rax=0) == UD
    assert probe(g, b"\x0f\x23\xf8", rax=0x20001) is None  # break on I/O: kept, but not armed
    assert g.v.debugreg[7] == 0x20400 and debugreg.read(g.v, 7) == 0x20401


def test_set_debugreg() -> None:
    g = CodeGuest()
    call = xen.HYPERVISOR_set_debugreg
    assert g.call(call, 0, NON_CANONICAL) == -1 and g.call(call, 8, 0) == -19 and g.call(call, 6, 1 << 32) == -22
    assert g.call(call, 3, 0x1234) == 0 and g.call(xen.HYPERVISOR_get_debugreg, 3) == 0x1234
    assert g.call(xen.HYPERVISOR_get_debugreg, 9) == -19


READABLE = {
    0x1B: 0xFEE00900, 0x8B: 0x1000065, 0xCE: 0, 0x140: 0, 0x179: 2, 0x17A: 0, 0x277: 0x50100070406, 0x40000000: 0,
    0xC0000080: 0xD01, 0xC0010015: 0, 0xC0011029: 2, 0x400: (1 << 64) - 1, 0x401: 0,
}  # fmt: skip


@pytest.mark.parametrize("index", READABLE)
def test_rdmsr(index: int) -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x32", rcx=index) is None
    assert g.reg(Reg.RAX) | g.reg(Reg.RDX) << 32 == READABLE[index]


@pytest.mark.parametrize(
    "index", [0x174, 0x1D9, 0x2FF, 0x3A, 0x35, 0x48, 0xC0000081, 0xC0000103, 0x12345678, 0x40000001]
)
def test_rdmsr_refused(index: int) -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x32", rcx=index) == GP
    assert probe(g, b"\x0f\x30", rcx=index) == GP


def test_rdmsr_without_a_handler_reads_zero() -> None:
    g = CodeGuest(b"\x0f\x32" + NOP)
    g.v.traps[GP] = None
    g.run(1)
    g.set(rcx=0x174, rip=CODE, rax=5)
    g.run(1)
    assert g.domain.shutdown_code is None and g.reg(Reg.RAX) == 0


def test_only_dom0_reads_the_memory_layout() -> None:
    assert probe(CodeGuest(), b"\x0f\x32", rcx=0xC0010010) == GP
    assert probe(CodeGuest(privileged=True), b"\x0f\x32", rcx=0xC0010010) is None


def test_wrmsr() -> None:
    g = CodeGuest()
    for index, reg in ((0xC0000100, Reg.FS_BASE), (0xC0000101, Reg.GS_BASE)):
        assert probe(g, b"\x0f\x30", rcx=index, rax=0x5000, rdx=0x7F00) is None and g.reg(reg) == 0x7F00_0000_5000
        assert probe(g, b"\x0f\x30", rcx=index, rax=0, rdx=0x8000) == GP
    assert probe(g, b"\x0f\x30", rcx=0xC0000102, rax=0x77, rdx=0) is None and g.v.gs_base_user == 0x77
    assert probe(g, b"\x0f\x30", rcx=0xC0000080, rax=0xD01, rdx=0) is None
    assert probe(g, b"\x0f\x30", rcx=0xC0000080, rax=0xD00, rdx=0) == GP
    assert probe(g, b"\x0f\x30", rcx=0x277, rax=0, rdx=0) == GP


def test_hypercall_page_by_wrmsr() -> None:
    g = CodeGuest()
    ma = g.pa(DATA)
    assert probe(g, b"\x0f\x30", rcx=0x40000000, rax=ma & 0xFFFFFFFF, rdx=ma >> 32) is None
    assert g.machine.ram.read(ma + 32, 14) == bytes.fromhex("514153b8010000000f05415b59c3")
    assert probe(g, b"\x0f\x30", rcx=0x40000000, rax=ma + 1, rdx=0) == GP
    table = g.mfns[3] << 12
    assert probe(g, b"\x0f\x30", rcx=0x40000000, rax=table, rdx=0) == GP


def test_cpuid() -> None:
    g = CodeGuest()
    assert probe(g, b"\x0f\x0bxen\x0f\xa2", rax=0x40000000) is None
    regs = [g.reg(r) for r in (Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX)]
    assert regs[0] == 0x40000005 and struct.pack("<3I", *regs[1:]) == b"XenVMMXenVMM"
    assert probe(g, b"\x0f\xa2", rax=0) is None
    assert struct.pack("<3I", *(g.reg(r) for r in (Reg.RBX, Reg.RDX, Reg.RCX))) == b"AuthenticAMD"
    assert cpuid.guest(g.v, 0x40000001, 0) == (0x40011, 0, 0, 0)
    assert cpuid.guest(g.v, 0x40000005, 0) == (0, 24, 0, 0)  # 16 MiB of memory
    assert cpuid.guest(g.v, 1, 0)[3] == 0x0789C3F5
    assert cpuid.guest(CodeGuest(privileged=True).v, 1, 0)[3] == 0x0789D3F5
    assert cpuid.guest(g.v, 0x40000006, 0) == (0, 0, 0, 0)


def test_forced_prefix_across_an_unmapped_page() -> None:
    end = BASE + 48 * PAGE
    g = CodeGuest()
    g.v.traps[PF] = Trap(CS64, ENTRY, 0, False)
    for keep in (4, 6):
        g.poke(end - keep, (b"\x0f\x0bxen\x0f\xa2")[:keep])
        g.run(1)
        g.set(rip=end - keep, rsp=STACK)
        g.run(1)
        assert g.reg(Reg.RIP) == ENTRY + 1 and g.v.ctrlreg[2] == end


# -- ports
# ---------------------------------------------------------------------------------------------------------------


def set_iopl(g: CodeGuest, iopl: int) -> None:
    g.poke(DATA, physdev.physdev_set_iopl.pack(iopl=iopl))
    assert g.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iopl, DATA) == 0


def test_iopl_lets_the_kernel_do_io_and_sti() -> None:
    g = CodeGuest()
    set_iopl(g, 1)
    assert probe(g, b"\xe4\x80", rax=0x1234) is None and g.reg(Reg.RAX) == 0x12FF
    assert probe(g, b"\x66\xed", rax=0x1_0000_0000, rdx=0x100) is None and g.reg(Reg.RAX) == 0x1_0000_FFFF
    assert probe(g, b"\xed", rax=0, rdx=0x100) is None and g.reg(Reg.RAX) == 0xFFFFFFFF
    assert probe(g, b"\xe6\x80") is None
    for flag, code in ((0, b"\xfb"), (1, b"\xfa")):
        g.mask = flag
        assert probe(g, code) is None and g.mask == flag  # neither touches the mask


def test_user_mode_needs_iopl_3() -> None:
    for iopl, vector in ((2, GP), (3, None)):
        g = CodeGuest(user=True)
        set_iopl(g, iopl)
        assert probe(g, b"\xe4\x80") == vector


def test_io_bitmap() -> None:
    g = CodeGuest()
    g.poke(DATA + 64, bytes([0xFF] * 16 + [0xFE] + [0xFF] * 100))  # only port 0x80
    g.poke(DATA, physdev.physdev_set_iobitmap.pack(bitmap=DATA + 64, nr_ports=512))
    assert g.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iobitmap, DATA) == 0
    assert probe(g, b"\xe4\x80") is None
    assert probe(g, b"\xe4\x81") == GP
    assert probe(g, b"\xe5\x80") == GP  # four bytes
    g.v.iobitmap_va = UNMAPPED
    assert probe(g, b"\xe4\x80") == GP


def test_string_io() -> None:
    g = CodeGuest()
    set_iopl(g, 1)
    before = g.machine.rep_iterations
    assert probe(g, b"\xf3\x6c", rcx=5, rdi=DATA, rdx=0x80) is None  # rep insb
    assert g.reg(Reg.RCX) == 0 and g.reg(Reg.RDI) == DATA + 5
    assert g.machine.ram.read(g.pa(DATA), 6) == b"\xff" * 5 + b"\0"
    assert g.machine.rep_iterations == before + 5
    assert probe(g, b"\x6f", rsi=DATA, rdx=0x80) is None and g.reg(Reg.RSI) == DATA + 4  # outsd
    end = BASE + 48 * PAGE
    assert probe(g, b"\xf3\x66\x6d", rcx=9, rdi=end - 4, rdx=0x80) == PF  # rep insw into nothing
    assert g.reg(Reg.RCX) != 9 and g.frame(error=True)["error"] == 2 and g.frame(error=True)["rcx"] == 7
    assert g.v.ctrlreg[2] == end


def test_configuration_address_is_a_latch() -> None:
    g = CodeGuest()
    set_iopl(g, 1)
    assert probe(g, b"\xef", rax=0x80001234, rdx=0xCF8) is None
    assert probe(g, b"\xed", rax=0, rdx=0xCF8) is None and g.reg(Reg.RAX) == 0x80001234
    assert probe(g, b"\xec", rax=0, rdx=0xCF8) is None and g.reg(Reg.RAX) == 0xFF


# -- the rest
# ------------------------------------------------------------------------------------------------------------


def test_emulated_instruction_is_a_single_step() -> None:
    g = CodeGuest(NOP + b"\x0f\x20\xc0" + NOP)
    g.run(1)
    g.set(rflags=0x302)
    g.run(2)
    assert g.frame()["rip"] == CODE + 4 and g.v.debugreg[6] & 1 << 14


def test_popf_never_changes_if() -> None:
    g = CodeGuest(b"\x6a\x00\x9d" + NOP)  # push 0; popf
    g.run(2)
    assert g.reg(Reg.RFLAGS) & 0x200 and g.mask == 0


@given(st.binary(max_size=15), st.booleans())
def test_decoding_anything_is_safe(code: bytes, long_mode: bool) -> None:
    decoded = emulate.decode(code, CODE, long_mode)
    if decoded is not None:
        assert CODE < decoded[1].end <= CODE + len(code)
