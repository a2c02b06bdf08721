"""Disassembly, by capstone: for reports and for the emulators above.

capstone is imported at the first use: most runs disassemble nothing, and the import takes a tenth of a short run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand. `kind` is "reg", "imm" or "mem"; the names are capstone's lower-case register names, "" for none."""

    kind: str
    size: int
    reg: str = ""
    imm: int = 0
    segment: str = ""
    base: str = ""
    index: str = ""
    scale: int = 1
    disp: int = 0
    read: bool = False
    write: bool = False


@dataclass(frozen=True, slots=True)
class Insn:
    """One decoded instruction. `size` is in bytes; `op_str` is in Intel syntax."""

    address: int
    size: int
    code: bytes
    mnemonic: str
    op_str: str
    operands: tuple[Operand, ...]
    groups: frozenset[str]
    writes_memory: bool

    @property
    def memory(self) -> Operand | None:
        """The explicit memory operand, if there is one."""
        return next((o for o in self.operands if o.kind == "mem"), None)

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.op_str}".rstrip()


@cache
def _detailed() -> Any:
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine


#: Instructions that store to memory although no explicit operand says so.
_IMPLICIT_STORES = ("push", "call", "stos", "movs", "ins", "enter", "fxsave", "fnsave", "fnstenv", "fnstcw", "fnstsw",
                    "stmxcsr", "maskmov", "sgdt", "sidt", "sldt", "str", "smsw", "cmpxchg8b", "cmpxchg16b")  # fmt: skip


def _insn(raw: Any) -> Insn:
    import capstone
    from capstone import x86_const

    def name(reg: int) -> str:
        return str(raw.reg_name(reg)) if reg else ""

    operands = []
    for op in raw.operands:
        read, write = bool(op.access & capstone.CS_AC_READ), bool(op.access & capstone.CS_AC_WRITE)
        if op.type == x86_const.X86_OP_REG:
            operands.append(Operand("reg", op.size, reg=name(op.reg), read=read, write=write))
        elif op.type == x86_const.X86_OP_IMM:
            operands.append(Operand("imm", op.size, imm=op.imm, read=read, write=write))
        else:
            mem = op.mem
            operands.append(
                Operand("mem", op.size, segment=name(mem.segment), base=name(mem.base), index=name(mem.index),
                        scale=mem.scale, disp=mem.disp, read=read, write=write)
            )  # fmt: skip
    mnemonic = str(raw.mnemonic)
    bare = mnemonic.split()[-1]
    writes = any(o.kind == "mem" and o.write for o in operands) or bare.startswith(_IMPLICIT_STORES)
    groups = frozenset(str(raw.group_name(g)) for g in raw.groups)
    return Insn(raw.address, raw.size, bytes(raw.bytes), mnemonic, str(raw.op_str), tuple(operands), groups, writes)


def decode(code: bytes, va: int) -> Insn | None:
    """The instruction at the start of `code`, which lies at linear address `va`; None when it is not one."""
    for raw in _detailed().disasm(code[:15], va, 1):
        return _insn(raw)
    return None


def disassemble(code: bytes, va: int, n: int = 0) -> list[Insn]:
    """At most `n` (0: all) instructions; stops at the first byte that is not an instruction."""
    return [_insn(raw) for raw in _detailed().disasm(code, va, n)]
