"""The lengths of x86 instructions in code of 64, 32 and 16 bits, as the CPU engine decodes them.

A disassembler does not do: it refuses encodings that the engine (like hardware) executes, and one refusal in the
middle of a
block would make its count wrong. A length needs few facts: Intel SDM volume 2, chapter 2 and appendix A (opcode
maps); in 64-bit mode,
where Intel and AMD differ (0x66 before a near branch) the engine does as AMD.
"""

from __future__ import annotations

from typing import Final

LEGACY_PREFIXES: Final = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
LONGEST: Final = 16  # an instruction of more than 15 bytes is invalid; the engine looks at one more

# What follows an opcode: flags that add up.
_MODRM: Final = 1
_IB: Final = 2
_IZ: Final = 4  # 4 bytes, 2 with an operand-size prefix
_IW: Final = 8
_MOFFS: Final = 16
_IV: Final = 32  # as _IZ, but 8 bytes with REX.W
_GROUP3: Final = 64  # an immediate only for /0 and /1
_BARE_MODRM: Final = 128  # no SIB, no displacement whatever ModRM says
_EXTRQ: Final = 256  # two bytes of immediates with 0x66 or 0xF2
_FAR: Final = 512  # a selector behind the offset


def _one_byte() -> tuple[int, ...]:
    table = [0] * 256
    for op in range(0x40):
        table[op] = (_MODRM, _MODRM, _MODRM, _MODRM, _IB, _IZ, 0, 0)[op & 7]
    for op in (0x62, 0x63, *range(0x84, 0x90), *range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xFE, 0xFF):
        table[op] = _MODRM
    for op in (0x6B, 0x80, 0x82, 0x83, 0xC0, 0xC1, 0xC6):
        table[op] = _MODRM | _IB
    for op in (0x69, 0x81, 0xC7):
        table[op] = _MODRM | _IZ
    for op in (0x6A, *range(0x70, 0x80), 0xA8, *range(0xB0, 0xB8), 0xCD, 0xD4, 0xD5, *range(0xE0, 0xE8), 0xEB):
        table[op] = _IB
    for op in (0x68, 0xA9, 0xE8, 0xE9):
        table[op] = _IZ
    table[0xC2] = table[0xCA] = _IW
    table[0xC8] = _IW | _IB
    table[0x9A] = table[0xEA] = _IZ | _FAR
    for op in range(0xA0, 0xA4):
        table[op] = _MOFFS
    for op in range(0xB8, 0xC0):
        table[op] = _IV
    table[0xF6] = _MODRM | _GROUP3 | _IB
    table[0xF7] = _MODRM | _GROUP3 | _IZ
    return tuple(table)


def _two_bytes() -> tuple[int, ...]:
    table = [_MODRM] * 256
    singles = (0x0E, 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA)
    for op in (*range(0x04, 0x0C), *range(0x30, 0x38), *range(0xC8, 0xD0), *singles):
        table[op] = 0
    for op in range(0x80, 0x90):
        table[op] = _IZ
    for op in (0x0F, *range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6):
        table[op] = _MODRM | _IB
    for op in range(0x20, 0x28):
        table[op] = _BARE_MODRM
    table[0x78] = _MODRM | _EXTRQ
    table[0x50] = _BARE_MODRM
    return tuple(table)


#: Opcodes that are invalid in 64-bit mode; 0x62 is EVEX, which the CPU model lacks. (Of VEX the engine does some.)
_INVALID: Final = frozenset(b"\x06\x07\x0e\x16\x17\x1e\x1f\x27\x2f\x37\x3f\x60\x61\x62\x82\x9a\xce\xd4\xd5\xd6\xea")
#: Shifts by an immediate. Of these, and of extrq, insertq, movdq2q and movq2dq, the engine looks at no ModRM.mod: all
#: operands are registers.
_SHIFTS: Final = frozenset({0x71, 0x72, 0x73})
_ONE: Final = _one_byte()
_TWO: Final = _two_bytes()


def _modrm_length(code: bytes, i: int, short: bool) -> int:
    """ModRM, SIB and displacement; `short`: a 16-bit address."""
    modrm = code[i]
    mod, rm = modrm >> 6, modrm & 7
    if mod == 3:
        return 1
    if short:
        return 3 if mod == 0 and rm == 6 else 1 + mod
    n = 1 + (0, 1, 4)[mod]
    if rm == 4:
        n += 1
        if mod == 0 and i + 1 < len(code) and code[i + 1] & 7 == 5:
            n += 4
    elif rm == 5 and mod == 0:
        n += 4
    return n


def length(code: bytes, start: int = 0, bits: int = 64) -> int:
    """The length of the instruction at `code[start:]` in code of 64, 32 or 16 bits; may reach past the end of `code`
    when bytes are missing.

    An invalid instruction gets a number that is not too small: it ends its block, all the rest of which it is.
    """
    end = len(code)
    i = start
    narrow = short_address = wide = repne = repeat = False
    while i < end:
        byte = code[i]
        if byte in LEGACY_PREFIXES:
            narrow |= byte == 0x66
            short_address |= byte == 0x67
            repne |= byte == 0xF2
            repeat |= byte == 0xF3
        elif bits == 64 and byte & 0xF0 == 0x40:
            wide = byte & 8 != 0
        else:
            break
        i += 1
    if i >= end:
        return max(1, i - start)
    opcode = i
    follows = _ONE[code[i]]
    i += 1
    if code[i - 1] == 0x0F and i < end:
        op = code[i]
        i += 1
        follows = _TWO[op]
        if op in (0x38, 0x3A):
            i += 1
            follows = _MODRM if op == 0x38 else _MODRM | _IB
        elif (
            (op == 0x78 and (narrow or repne))
            or (op == 0xD6 and (repne or repeat) and not narrow)
            or (op in _SHIFTS and i < end and code[i] >> 3 & 7 >= 2)
        ):
            follows = follows & ~_MODRM | _BARE_MODRM
    elif code[i - 1] in (0xC4, 0xC5) and bits != 64 and i < end and code[i] < 0xC0:  # les, lds
        follows = _MODRM
    elif code[i - 1] in (0xC4, 0xC5) and i + 1 >= end:  # VEX that is cut off: the engine gave up there
        return LONGEST
    elif code[i - 1] in (0xC4, 0xC5):  # VEX
        space = 1 if code[i - 1] == 0xC5 else code[i] & 0x1F
        i += 1 if code[i - 1] == 0xC5 else 2
        follows = _TWO[code[i]] if i < end and space == 1 else _MODRM if space == 2 else _MODRM | _IB
        i += 1
    if follows & _BARE_MODRM:
        i += 1
    if follows & _MODRM:
        if i >= end:
            return i + 1 - start
        reg = code[i] >> 3 & 7
        i += _modrm_length(code, i, bits != 64 and (bits == 16) != short_address)
        if follows & _GROUP3 and reg > 1:
            follows = 0
    if follows & _IB:
        i += 1
    if follows & _IW:
        i += 2
    if follows & (_IZ | _IV):
        i += 8 if wide and follows & _IV else 2 if (bits == 16) != narrow and not wide else 4
    if follows & _FAR:
        i += 2
    if follows & _MOFFS:
        i += {64: (8, 4), 32: (4, 2), 16: (2, 4)}[bits][short_address]
    if follows & _EXTRQ and (narrow or repne):
        i += 2
    if bits == 64 and code[opcode] in _INVALID:
        return max(LONGEST, i - start)
    return i - start


def boundaries(code: bytes, n: int = 0, bits: int = 64) -> tuple[int, ...]:
    """The lengths of the instructions of a translated block, in order; they add up to `len(code)`.

    `n` is their number if the engine told it. Only the last instruction of a block can be an invalid one, of which
    the engine
    may have read more or fewer bytes than are counted here: it gets the rest.
    """
    sizes: list[int] = []
    at = 0
    end = len(code)
    while at < end and len(sizes) != n - 1:
        size = min(length(code, at, bits), end - at)
        sizes.append(size)
        at += size
    if at < end:
        sizes.append(end - at)
    return tuple(sizes)
