"""The FXSAVE image of the x87 and SSE state (Intel SDM volume 1, 10.5.1, 64-bit format)."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from unicorn import x86_const as x86

from pyvmm.machine.cpu import Cpu

SIZE: Final = 512
#: The bits of MXCSR that may be set on the CPU model used.
MXCSR_MASK: Final = 0xFFFF
#: The state after FNINIT, with MXCSR as after a reset (Intel SDM volume 1, 8.1.5 and 10.2.3).
RESET: Final = struct.pack("<HHBBHQQII", 0x37F, 0, 0, 0, 0, 0, 0, 0x1F80, MXCSR_MASK).ljust(SIZE, b"\0")

#: What `load` writes, in this order, in one call.
_LOADED: Final = (
    *range(x86.UC_X86_REG_FP0, x86.UC_X86_REG_FP0 + 8),
    x86.UC_X86_REG_FPCW, x86.UC_X86_REG_FPSW, x86.UC_X86_REG_FPTAG, x86.UC_X86_REG_FOP, x86.UC_X86_REG_FIP,
    x86.UC_X86_REG_FDP, x86.UC_X86_REG_MXCSR,
    *range(x86.UC_X86_REG_XMM0, x86.UC_X86_REG_XMM0 + 16),
)  # fmt: skip
_NUMBERS: Final = (ctypes.c_int * len(_LOADED))(*_LOADED)
_STRIDE: Final = 16


def _read(cpu: Cpu, reg: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(32)
    cpu.check(cpu.lib.uc_reg_read(cpu.handle, reg, ctypes.byref(buffer)))
    return buffer.raw[:size]


def _word(cpu: Cpu, reg: int) -> int:
    return int.from_bytes(_read(cpu, reg, 2), "little")


def save(cpu: Cpu) -> bytes:
    """The current FPU and SSE state."""
    status = _word(cpu, x86.UC_X86_REG_FPSW)
    tags = _word(cpu, x86.UC_X86_REG_FPTAG)
    valid = sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3)
    mxcsr = int.from_bytes(_read(cpu, x86.UC_X86_REG_MXCSR, 4), "little")
    fop, fip, fdp = (int.from_bytes(_read(cpu, r, n), "little") for r, n in (
        (x86.UC_X86_REG_FOP, 2), (x86.UC_X86_REG_FIP, 8), (x86.UC_X86_REG_FDP, 8)))  # fmt: skip
    control = _word(cpu, x86.UC_X86_REG_FPCW)
    head = struct.pack("<HHBBHQQII", control, status, valid, 0, fop, fip, fdp, mxcsr, MXCSR_MASK)
    top = status >> 11 & 7
    stack = b"".join(_read(cpu, x86.UC_X86_REG_FP0 + (top + i & 7), 10).ljust(16, b"\0") for i in range(8))
    vectors = b"".join(_read(cpu, x86.UC_X86_REG_XMM0 + i, 16) for i in range(16))
    return (head + stack + vectors).ljust(SIZE, b"\0")


def load(cpu: Cpu, image: bytes) -> None:
    """Loads an image. Bits of MXCSR outside the mask are ignored. Raises ValueError when it is not 512 bytes."""
    if len(image) != SIZE:
        raise ValueError(f"an FXSAVE image has {SIZE} bytes")
    control, status, valid, _, fop, fip, fdp, mxcsr, _ = struct.unpack_from("<HHBBHQQII", image)
    top = status >> 11 & 7
    tags = sum((0 if valid >> i & 1 else 3) << 2 * i for i in range(8))
    # The image has the stack's order, FP0 to FP7 are the registers'.
    stack = b"".join(image[32 + 16 * (i - top & 7) : 48 + 16 * (i - top & 7)] for i in range(8))
    head = (v.to_bytes(16, "little") for v in (control, status, tags, fop, fip, fdp, mxcsr & MXCSR_MASK))
    data = ctypes.create_string_buffer(b"".join((stack, *head, image[160:416])), _STRIDE * len(_LOADED))
    at = ctypes.addressof(data)
    pointers = (ctypes.c_void_p * len(_LOADED))(*range(at, at + _STRIDE * len(_LOADED), _STRIDE))
    cpu.check(cpu.lib.uc_reg_write_batch(ctypes.c_void_p(cpu.handle), _NUMBERS, pointers, len(_LOADED)))
