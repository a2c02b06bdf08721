"""What kind of instruction a few bytes are, as far as counting and stepping need to know, and the plan for a block.

Only instructions that the engine cannot be left alone with are told apart: port I/O (which Unicorn lets through at
CPL 3),
`cpuid` and `rdtsc` (which would show the host), string instructions with a `rep` prefix (which run as a loop of
blocks), and
those that store or load RFLAGS.TF (which stepping uses). Encodings: Intel SDM volume 2, chapter 2 and appendix A.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyvmm.machine.lengths import LEGACY_PREFIXES, boundaries


class Op:
    """The kinds of instruction (plain numbers, for speed)."""

    PLAIN = 0
    REP = 1  # rep movs, stos, lods
    REP_COMPARE = 2  # repe/repne cmps, scas: can end early
    PORT = 3  # in, out, ins, outs
    CPUID = 4
    RDTSC = 5
    PUSHF = 6
    LOAD_FLAGS = 7  # popf, iret
    BRANCH = 8
    STACK_SEGMENT = 9  # mov and pop to SS: hold off the trap after them; end a block
    PAUSE = 10  # ends a block; the engine forgets the trap after it
    CALL = 11  # a branch that stores
    ABSENT = 12  # xbegin, xabort: the engine takes them for moves, this CPU has no RTM (Intel SDM volume 2)


_BRANCHES: Final = (*range(0x70, 0x80), *range(0xE0, 0xE4), *b"\xe9\xeb\xc2\xc3\xca\xcb\xcc\xcd\xf1\xf4")
_ONE_BYTE: Final[dict[int, int]] = (
    dict.fromkeys((*range(0xE4, 0xE8), *range(0xEC, 0xF0), *range(0x6C, 0x70)), Op.PORT)
    | dict.fromkeys(_BRANCHES, Op.BRANCH)
    | {0x9C: Op.PUSHF, 0x9D: Op.LOAD_FLAGS, 0xCF: Op.LOAD_FLAGS, 0xE8: Op.CALL}
)
#: What is invalid in 64-bit mode.
_ONE_BYTE_32: Final[dict[int, int]] = {0x17: Op.STACK_SEGMENT, 0x9A: Op.CALL, 0xEA: Op.BRANCH}
_TWO_BYTES: Final[dict[int, int]] = {0xA2: Op.CPUID, 0x31: Op.RDTSC} | dict.fromkeys(
    (0x05, 0x0B, *range(0x80, 0x90)), Op.BRANCH
)
_STRING: Final = frozenset({0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD})
_STRING_COMPARE: Final = frozenset({0xA6, 0xA7, 0xAE, 0xAF})


def classify(code: bytes, start: int = 0, bits: int = 64) -> int:
    """The kind of the instruction at `code[start:]` in code of 64, 32 or 16 bits; incomplete bytes are PLAIN."""
    repeat = pause = False
    rex = 0
    i = start
    end = len(code)
    while i < end and (code[i] in LEGACY_PREFIXES or (bits == 64 and code[i] & 0xF0 == 0x40)):
        if code[i] & 0xF0 == 0x40:
            rex = code[i]
        repeat |= code[i] >= 0xF2
        pause |= code[i] == 0xF3
        i += 1
    if i >= end:
        return Op.PLAIN
    byte = code[i]
    if byte == 0x0F:
        return _TWO_BYTES.get(code[i + 1], Op.PLAIN) if i + 1 < end else Op.PLAIN
    if byte in (0xC4, 0xC5) and (bits == 64 or (i + 1 < end and code[i + 1] >= 0xC0)):
        # VEX: the engine executes some legacy two-byte opcodes behind it.
        at = i + 2 if byte == 0xC5 else i + 3
        first_map = byte == 0xC5 or (i + 1 < end and code[i + 1] & 0x1F == 1)
        return _TWO_BYTES.get(code[at], Op.PLAIN) if first_map and at < end else Op.PLAIN
    if repeat and byte in _STRING:
        return Op.REP
    if repeat and byte in _STRING_COMPARE:
        return Op.REP_COMPARE
    if byte in (0xC6, 0xC7) and code[i + 1 : i + 2] == b"\xf8":
        return Op.ABSENT
    if byte == 0xFF and i + 1 < end:  # groups 5: /2 to /5 are indirect calls and jumps
        return (Op.PLAIN, Op.PLAIN, Op.CALL, Op.CALL, Op.BRANCH, Op.BRANCH, Op.PLAIN, Op.PLAIN)[code[i + 1] >> 3 & 7]
    if byte == 0x8E and i + 1 < end and code[i + 1] >> 3 & 7 == 2:
        return Op.STACK_SEGMENT
    if byte == 0x90 and pause and not rex & 1:
        return Op.PAUSE
    if bits != 64 and byte in _ONE_BYTE_32:
        return _ONE_BYTE_32[byte]
    return _ONE_BYTE.get(byte, Op.PLAIN)


def counter_mask(code: bytes, bits: int = 64) -> int:
    """The part of RCX in which a repeated string instruction counts: the address size decides."""
    other = False
    for byte in code:
        if byte not in LEGACY_PREFIXES:
            break
        other |= byte == 0x67
    size = {64: (64, 32), 32: (32, 16), 16: (16, 32)}[bits][other]
    return (1 << size) - 1


class Kind:
    """How the engine must treat a translated block."""

    PLAIN = 0
    REP = 1  # its last instruction is a repeated string instruction
    STEP = 2  # the first `k` instructions must be executed one at a time
    SINGLE = 3  # one instruction that can store and is not known to jump to itself


class Plan(NamedTuple):
    """A block: number of instructions, kind, `k` (STEP: how many to step; REP: offset of the last instruction; SINGLE:
    1 for a `call`, 2 for one that may be to itself, 3 for `pause`)."""

    n: int
    kind: int
    k: int
    sizes: tuple[int, ...]


def plan(code: bytes, count: int = 0, bits: int = 64, timed: bool = False) -> Plan:
    """The plan for a translated block of these bytes, code of 64, 32 or 16 bits; `count` is the engine's own number of
    instructions, 0 if not known. `timed`: a plain `rdtsc` in 64-bit code needs no stepping."""
    sizes = boundaries(code, count, bits)
    n = len(sizes)
    offset = 0
    op = Op.PLAIN
    for i, size in enumerate(sizes):
        op = classify(code, offset, bits)
        if op == Op.RDTSC and timed and bits == 64 and size == 2:
            op = Op.PLAIN
        if op in (Op.PORT, Op.CPUID, Op.RDTSC, Op.ABSENT):
            return Plan(n, Kind.STEP, i + 1, sizes)
        if op == Op.REP_COMPARE and i == n - 1 and i > 0:
            # RCX at its start must be known; stepping up to it makes it a block of its own.
            return Plan(n, Kind.STEP, i, sizes)
        offset += size
    if op in (Op.REP, Op.REP_COMPARE):
        return Plan(n, Kind.REP, offset - sizes[-1], sizes)
    if op == Op.CALL:
        last = code[offset - sizes[-1] :]
        direct = last[:1] == b"\xe8"
        to_itself = direct and last[1:] == (-len(last) & 0xFFFFFFFF).to_bytes(4, "little")
        if n == 1:
            return Plan(n, Kind.SINGLE, 1 if direct and not to_itself else 2, sizes)
        if to_itself:
            return Plan(n, Kind.STEP, n - 1, sizes)
    elif n == 1 and op != Op.BRANCH:
        return Plan(n, Kind.SINGLE, 3 if op == Op.PAUSE else 0, sizes)
    return Plan(n, Kind.PLAIN, 0, sizes)


def size_before(sizes: tuple[int, ...], offset: int) -> int:
    """The size of the instruction of a block that ends at `offset`, 0 if none does."""
    position = 0
    for size in sizes:
        position += size
        if position == offset:
            return size
    return 0


def not_retired(sizes: tuple[int, ...], offset: int) -> int:
    """How many instructions of a block start at `offset` or later."""
    position = 0
    for i, size in enumerate(sizes):
        if position >= offset:
            return len(sizes) - i
        position += size
    return 0
