"""Privileged instructions that Xen carries out for a PV guest, and the forced emulation prefix.

The guest's kernel runs at CPL 3, so these raise #GP(0); Xen decodes the instruction and either does its work or hands
the #GP on. `ONE_BYTE` and `TWO_BYTE` say which opcodes are looked at; whatever is not there reaches the guest as the
fault it is. `cli` and `sti` are accepted where the virtual IOPL allows them, and do nothing: they never touch the
upcall mask.

Facts: xen/arch/x86/pv/emul-priv-op.c (validate and the hooks), emul-inv-op.c, xen/arch/x86/x86_emulate/x86_emulate.c
of Xen 4.17; opcodes: Intel SDM volume 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.hypervisor import cpuid, debugreg, descriptors, msr, portio, trace
from pyvmm.hypervisor.bounce import GP, TF, UD, inject, inject_page_fault, is_guest_address, set_cr2, single_step
from pyvmm.hypervisor.errors import XenError
from pyvmm.machine import Reg

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

MAX_LENGTH = 15
PAGE = 4096
CR0_FIXED, CR0_TS = 0x80050033, 8  # PG AM WP NE ET MP PE: what Xen runs with
CONTROL_REGISTERS = frozenset({0, 2, 3, 4, 8})
FORCED_PREFIX, CPUID_OPCODE = b"\x0f\x0bxen", b"\x0f\xa2"

# General registers in the order in which instructions number them.
GPRS = (
    Reg.RAX, Reg.RCX, Reg.RDX, Reg.RBX, Reg.RSP, Reg.RBP, Reg.RSI, Reg.RDI,
    Reg.R8, Reg.R9, Reg.R10, Reg.R11, Reg.R12, Reg.R13, Reg.R14, Reg.R15,
)  # fmt: skip
# Tuples that are made once: the machine remembers what it needs to read them.
_RAX_RDX = (Reg.RAX, Reg.RDX)
_RCX_RAX_RDX = (Reg.RCX, Reg.RAX, Reg.RDX)
_RAX_RCX = (Reg.RAX, Reg.RCX)
_RAX_RBX_RCX_RDX = (Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX)
_RIP_CS = (Reg.RIP, Reg.CS)
SEGMENT_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}


class Insn(NamedTuple):
    """A decoded instruction: its opcode byte, prefixes and ModRM fields, and where it ends."""

    opcode: int
    modrm: int
    immediate: int
    operand16: bool
    address_size: int  # bytes
    segment: str
    rep: bool
    lock: bool
    rex: int
    end: int

    @property
    def reg(self) -> int:
        """The reg field with REX.R."""
        return (self.modrm >> 3 & 7) | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        """The rm field with REX.B."""
        return (self.modrm & 7) | (self.rex & 1) << 3


def fetch(v: VCpu, address: int) -> bytes:
    """Up to 15 bytes of code at `address`, fewer where the next page is not readable; nothing where this one is not."""
    if not is_guest_address(address):
        return b""
    room = PAGE - address % PAGE
    try:
        code = v.copy_in(address, min(MAX_LENGTH, room))
    except XenError:
        return b""
    if room < MAX_LENGTH:
        with contextlib.suppress(XenError):
            code += v.copy_in(address + room, MAX_LENGTH - room)
    return code


def decode(code: bytes, rip: int, long_mode: bool) -> tuple[bool, Insn] | None:
    """Decode what `privileged` needs to know; (is it a 0F opcode, the instruction). None: the code ends too early or
    has a lock prefix.
    """
    operand16 = rep = lock = False
    address_size, segment, rex = 8 if long_mode else 4, "ds", 0
    at = 0
    try:
        while True:
            byte = code[at]
            if byte == 0x66:
                operand16 = True
            elif byte == 0x67:
                address_size = 4 if long_mode else 2
            elif byte in (0xF2, 0xF3):
                rep = True
            elif byte == 0xF0:
                lock = True
            elif byte in SEGMENT_PREFIXES:
                if not long_mode or byte in (0x64, 0x65):
                    segment = SEGMENT_PREFIXES[byte]
            elif long_mode and byte & 0xF0 == 0x40:
                rex = byte
                at += 1
                continue
            else:
                break
            rex = 0  # REX counts only right before the opcode
            at += 1
        two_byte = byte == 0x0F
        at += 1
        if two_byte:
            byte = code[at]
            at += 1
        modrm = immediate = 0
        if two_byte and byte in HAVE_MODRM:
            modrm = code[at]
            at += 1
        elif not two_byte and byte in HAVE_IMM8:
            immediate = code[at]
            at += 1
    except IndexError:
        return None
    return two_byte, Insn(byte, modrm, immediate, operand16, address_size, segment, rep, lock, rex, rip + at)


def done(v: VCpu, rip: int, mnemonic: str) -> bool:
    """The instruction was carried out: go on at `rip`. It counts one, and is a single step where TF is set."""
    machine = v.hv.machine
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.EMULATED, v.domain.domid, v.vcpu_id, mnemonic, machine.get(Reg.RIP))
    machine.set(Reg.RIP, rip & 0xFFFF_FFFF_FFFF_FFFF)
    machine.retire(1)
    if machine.get(Reg.RFLAGS) & TF:
        single_step(v)
    return True


# -- the instructions --------------------------------------------------------------------------------------------------
# Each returns True when it did its work or delivered an exception of its own, False when the guest gets #GP(0).


def _cli_sti(v: VCpu, insn: Insn) -> bool:
    return portio.iopl_ok(v) and done(v, insn.end, "cli" if insn.opcode == 0xFA else "sti")


def _in_out(v: VCpu, insn: Insn) -> bool:
    machine = v.hv.machine
    rax, rdx = machine.get_many(_RAX_RDX)
    port = rdx & 0xFFFF if insn.opcode & 8 else insn.immediate
    size = 1 if not insn.opcode & 1 else 2 if insn.operand16 else 4
    if not portio.guest_may(v, port, size):
        return False
    if insn.opcode & 2:
        portio.write(v.domain, port, size, rax & ((1 << 8 * size) - 1))
        return done(v, insn.end, "out")
    value = portio.read(v.domain, port, size)
    machine.set(Reg.RAX, value if size == 4 else rax & ~((1 << 8 * size) - 1) | value)
    return done(v, insn.end, "in")


def _strings(v: VCpu, insn: Insn) -> bool:
    return portio.string_io(v, insn)


def _clts(v: VCpu, insn: Insn) -> bool:
    if v.user_mode:
        return False
    debugreg.set_task_switched(v, False)
    return done(v, insn.end, "clts")


def _wbinvd(v: VCpu, insn: Insn) -> bool:
    return not v.user_mode and done(v, insn.end, "wbinvd")


def _from_cr(v: VCpu, insn: Insn) -> bool:
    number = insn.reg
    if number not in CONTROL_REGISTERS:
        inject(v, UD)
        return True
    if v.user_mode or number == 8:
        return False
    if number == 0:
        value = CR0_FIXED | v.ctrlreg[0] & CR0_TS
    elif number == 3:
        value = v.l4_kernel << 12
    else:
        value = v.ctrlreg[number]
    v.hv.machine.set(GPRS[insn.rm], value)
    return done(v, insn.end, "mov_from_cr")


def _to_cr(v: VCpu, insn: Insn) -> bool:
    number = insn.reg
    if number not in CONTROL_REGISTERS:
        inject(v, UD)
        return True
    if v.user_mode or number == 8:
        return False
    value = v.hv.machine.get(GPRS[insn.rm])
    if number == 0:
        if (value ^ CR0_FIXED) & ~CR0_TS:
            return False
        debugreg.set_task_switched(v, bool(value & CR0_TS))
    elif number == 2:
        set_cr2(v, value)
    elif number == 3:
        if v.hv.mmu.new_kernel_base(v, value >> 12 & 0xFFFFFFFFFF):
            return False
    else:
        v.ctrlreg[4] = debugreg.guest_cr4(value)
    return done(v, insn.end, "mov_to_cr")


def _from_dr(v: VCpu, insn: Insn) -> bool:
    if v.user_mode:
        return False
    try:
        value = debugreg.read(v, insn.reg)
    except XenError:
        inject(v, UD)
        return True
    v.hv.machine.set(GPRS[insn.rm], value)
    return done(v, insn.end, "mov_from_dr")


def _to_dr(v: VCpu, insn: Insn) -> bool:
    if v.user_mode:
        return False
    result = debugreg.write(v, insn.reg, v.hv.machine.get(GPRS[insn.rm]))
    if result == 0:
        return done(v, insn.end, "mov_to_dr")
    if result == debugreg.NO_SUCH:
        inject(v, UD)
    else:
        inject(v, GP, 0)
    return True


def _rdmsr(v: VCpu, insn: Insn) -> bool:
    if v.user_mode:
        return False
    machine = v.hv.machine
    value = msr.read(v, machine.get(Reg.RCX) & 0xFFFFFFFF)
    if value is None:
        return False
    machine.set_many(_RAX_RDX, (value & 0xFFFFFFFF, value >> 32))
    return done(v, insn.end, "rdmsr")


def _wrmsr(v: VCpu, insn: Insn) -> bool:
    if v.user_mode:
        return False
    rcx, rax, rdx = v.hv.machine.get_many(_RCX_RAX_RDX)
    value = rax & 0xFFFFFFFF | (rdx & 0xFFFFFFFF) << 32
    return msr.write(v, rcx & 0xFFFFFFFF, value) and done(v, insn.end, "wrmsr")


def _rdtsc(v: VCpu, insn: Insn) -> bool:
    if v.user_mode and v.ctrlreg[4] & debugreg.CR4_TSD:
        return False
    machine = v.hv.machine
    machine.set_many(_RAX_RDX, (machine.now & 0xFFFFFFFF, machine.now >> 32 & 0xFFFFFFFF))
    return done(v, insn.end, "rdtsc")


def _cpuid(v: VCpu, insn: Insn) -> bool:
    return _do_cpuid(v, insn.end)


def _do_cpuid(v: VCpu, end: int) -> bool:
    machine = v.hv.machine
    rax, rcx = machine.get_many(_RAX_RCX)
    leaves = cpuid.guest(v, rax & 0xFFFFFFFF, rcx & 0xFFFFFFFF)
    machine.set_many(_RAX_RBX_RCX_RDX, leaves)
    return done(v, end, "cpuid")


Emulation = Callable[["VCpu", Insn], bool]
ONE_BYTE: dict[int, Emulation] = {
    **dict.fromkeys((0x6C, 0x6D, 0x6E, 0x6F), _strings),
    **dict.fromkeys((0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), _in_out),
    0xFA: _cli_sti,
    0xFB: _cli_sti,
}
TWO_BYTE: dict[int, Emulation] = {
    0x06: _clts,
    0x08: _wbinvd,
    0x09: _wbinvd,
    0x20: _from_cr,
    0x21: _from_dr,
    0x22: _to_cr,
    0x23: _to_dr,
    0x30: _wrmsr,
    0x31: _rdtsc,
    0x32: _rdmsr,
    0xA2: _cpuid,
}
HAVE_MODRM = frozenset({0x20, 0x21, 0x22, 0x23})
HAVE_IMM8 = frozenset({0xE4, 0xE5, 0xE6, 0xE7})


def privileged(v: VCpu) -> bool:
    """At #GP(0): carry out the instruction at RIP if Xen does so. False: the guest gets the #GP."""
    rip, cs = v.hv.machine.get_many(_RIP_CS)
    code_segment = descriptors.code_segment(v, cs)
    if code_segment is None:
        return False
    base, long_mode = code_segment
    code = fetch(v, rip if long_mode else (base + rip) & 0xFFFFFFFF)
    decoded = decode(code, rip, long_mode)
    if decoded is None:
        return False
    two_byte, insn = decoded
    emulation = (TWO_BYTE if two_byte else ONE_BYTE).get(insn.opcode)
    if emulation is not None and insn.lock:
        inject(v, UD)  # none of them can be locked
        return True
    return emulation is not None and emulation(v, insn)


def forced(v: VCpu) -> bool:
    """At #UD: the forced emulation prefix (``ud2; "xen"``) before cpuid. True if that was it, or reading it faulted
    in the guest's place.
    """
    rip = v.hv.machine.get(Reg.RIP)
    code = fetch(v, rip)
    size = len(FORCED_PREFIX)
    if len(code) < size:
        inject_page_fault(v, rip + len(code), 0)
        return True
    if not code.startswith(FORCED_PREFIX):
        return False
    if len(code) < size + 2:
        inject_page_fault(v, rip + len(code), 0)
        return True
    return code[size : size + 2] == CPUID_OPCODE and _do_cpuid(v, rip + size + 2)
