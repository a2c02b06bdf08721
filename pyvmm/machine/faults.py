"""Where the CPU engine reports another exception than the manual says.

A non-canonical address raises #SS, not #GP, when the access goes through the stack segment: the base register is RSP
or RBP (without
an FS or GS prefix), or the instruction uses the stack implicitly (Intel SDM volume 1, 3.3.7.1; volume 3, 6.15,
interrupt 12).
QEMU, and so Unicorn, raises #GP for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyvmm.machine.decode import Insn, Operand, decode
from pyvmm.machine.paging import is_canonical
from pyvmm.machine.registers import RBP, RSP, Reg

_MASK64: Final = (1 << 64) - 1
_NEAR: Final = (1 << 32) + 8  # a displacement has 32 bits
_LOW: Final = (1 << 47) - _NEAR
_HIGH: Final = (1 << 64) - (1 << 47) + _NEAR
_STACK_BASES: Final = frozenset({"rsp", "rbp", "esp", "ebp"})
_STORES_ON_STACK: Final = ("push", "call", "enter")
_LOADS_FROM_STACK: Final = ("pop", "ret", "iret")

Read = Callable[[int], int]


def near_the_border(read: Read) -> bool:
    """RSP or RBP is so near to the non-canonical addresses that `is_stack_fault` has to look."""
    return _LOW <= read(RSP) < _HIGH or _LOW <= read(RBP) < _HIGH


def is_stack_fault(code: bytes, va: int, read: Read) -> bool:
    """Whether the #GP(0) of the instruction at `va` must be a #SS(0). `read` gives a register."""
    rsp, rbp = read(RSP), read(RBP)
    insn = decode(code, va)
    if insn is None:
        return False
    memory = insn.memory
    if memory is not None and insn.mnemonic != "lea":
        address = _address(memory, insn, read)
        if not is_canonical(address):
            return memory.base in _STACK_BASES and memory.segment not in ("fs", "gs")
    if insn.mnemonic.startswith(_STORES_ON_STACK):
        return not is_canonical(rsp - 8 & _MASK64)
    if insn.mnemonic.startswith(_LOADS_FROM_STACK):
        return not is_canonical(rsp)
    return insn.mnemonic == "leave" and not is_canonical(rbp)


def _address(operand: Operand, insn: Insn, read: Read) -> int:
    """The linear address of a memory operand, without an FS or GS base."""

    def value(name: str) -> int:
        if name in ("rip", "eip"):
            return insn.address + insn.size
        return read(Reg[name.upper()]) if name.upper() in Reg.__members__ else 0

    address = value(operand.base) + value(operand.index) * operand.scale + operand.disp
    if operand.segment in ("fs", "gs"):
        address += read(Reg.FS_BASE if operand.segment == "fs" else Reg.GS_BASE)
    return address & _MASK64
