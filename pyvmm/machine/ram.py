"""Physical memory: one lazily committed anonymous mapping shared by the host and the CPU.

The CPU keeps translations of code it has executed and does not see the host's writes, so every write here drops the
translations that it overlaps. Which pages hold translated code is known from a byte a page that the engine sets.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pyvmm.machine.exits import MachineError
from pyvmm.machine.paging import PAGE_SIZE

MAX_MEMORY = 60 << 30
# From this size on, zeroing by giving pages back is cheaper than by writing. Linux promises that anonymous private
# pages read as zero after it (madvise(2), MADV_DONTNEED); elsewhere they are written.
_DISCARDED = 1 << 16 if sys.platform == "linux" else MAX_MEMORY + 1
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE (mman-common.h), which Python has not got yet
_ZEROES = bytes(PAGE_SIZE)


class Ram:
    """Physical memory of `size` bytes, all zero at first."""

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE or size > MAX_MEMORY:
            raise MachineError(f"memory must be a multiple of {PAGE_SIZE} and at most {MAX_MEMORY >> 30} GiB")
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        try:
            self.map = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            raise MachineError(f"the host gives no {size >> 20} MiB of address space: {error.strerror}") from None
        self.bytes = memoryview(self.map)
        self.u64 = self.bytes.cast("Q")
        self._u32 = self.bytes.cast("I")
        self._u16 = self.bytes.cast("H")
        self._array: npt.NDArray[np.uint8] = np.frombuffer(self.map, dtype=np.uint8)
        #: One byte a page, not 0 where translated code lies.
        self.code = bytearray(size // PAGE_SIZE)
        self._drop: Callable[[int, int], None] = lambda start, end: None

    def on_code_write(self, drop: Callable[[int, int], None]) -> None:
        """`drop(start, end)` is called when the host wrote to [start, end) and a page there holds translated code."""
        self._drop = drop

    def _check(self, pa: int, n: int) -> None:
        if pa < 0 or n < 0 or pa + n > self.size:
            raise MachineError(f"physical range {pa:#x}+{n:#x} is outside memory")

    def written(self, pa: int, n: int) -> None:
        """Somebody wrote `n` bytes at `pa` through `bytes`: translations of code there are dropped."""
        if not n:
            return
        first, last = pa >> 12, (pa + n - 1) >> 12
        if self.code[first] if first == last else any(self.code[first : last + 1]):
            self._drop(pa, pa + n)

    def read(self, pa: int, n: int) -> bytes:
        """`n` bytes from `pa`. Raises `MachineError` outside memory, as all accesses here do."""
        self._check(pa, n)
        return bytes(self.bytes[pa : pa + n])

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `pa`."""
        n = len(data)
        self._check(pa, n)
        self.bytes[pa : pa + n] = data
        self.written(pa, n)

    def fill(self, pa: int, n: int, byte: int) -> None:
        """Sets `n` bytes at `pa`. A large area of zeroes is given back to the host: it is committed again when it is
        used; and a page that is zero already is not committed by writing zeroes to it."""
        self._check(pa, n)
        if byte == 0 and not (pa | n) % PAGE_SIZE:
            if n >= _DISCARDED:
                self.map.madvise(mmap.MADV_DONTNEED, pa, n)
            else:
                for page in range(pa, pa + n, PAGE_SIZE):
                    if self.map[page : page + PAGE_SIZE] != _ZEROES:
                        self.bytes[page : page + PAGE_SIZE] = _ZEROES
        else:
            self._array[pa : pa + n] = byte
        self.written(pa, n)

    def copy(self, dst: int, src: int, n: int) -> None:
        """Copies `n` bytes; the ranges may overlap."""
        self._check(src, n)
        self._check(dst, n)
        self.bytes[dst : dst + n] = bytes(self.bytes[src : src + n])
        self.written(dst, n)

    def read_u8(self, pa: int) -> int:
        """The byte at `pa`."""
        return self.bytes[pa]

    def read_u16(self, pa: int) -> int:
        """The little-endian 16-bit word at `pa`, which need not be aligned."""
        return self._u16[pa >> 1] if not pa & 1 else int.from_bytes(self.read(pa, 2), "little")

    def read_u32(self, pa: int) -> int:
        """The little-endian 32-bit word at `pa`."""
        return self._u32[pa >> 2] if not pa & 3 else int.from_bytes(self.read(pa, 4), "little")

    def read_u64(self, pa: int) -> int:
        """The little-endian 64-bit word at `pa`."""
        return self.u64[pa >> 3] if not pa & 7 else int.from_bytes(self.read(pa, 8), "little")

    def write_u8(self, pa: int, value: int) -> None:
        """Writes a byte."""
        self.bytes[pa] = value
        if self.code[pa >> 12]:
            self._drop(pa, pa + 1)

    def write_u16(self, pa: int, value: int) -> None:
        """Writes a 16-bit word."""
        if pa & 1:
            self.write(pa, value.to_bytes(2, "little"))
            return
        self._u16[pa >> 1] = value
        if self.code[pa >> 12]:
            self._drop(pa, pa + 2)

    def write_u32(self, pa: int, value: int) -> None:
        """Writes a 32-bit word."""
        if pa & 3:
            self.write(pa, value.to_bytes(4, "little"))
            return
        self._u32[pa >> 2] = value
        if self.code[pa >> 12]:
            self._drop(pa, pa + 4)

    def write_u64(self, pa: int, value: int) -> None:
        """Writes a 64-bit word."""
        if pa & 7:
            self.write(pa, value.to_bytes(8, "little"))
            return
        self.u64[pa >> 3] = value
        if self.code[pa >> 12]:
            self._drop(pa, pa + 8)

    def view(self, pa: int, n: int) -> npt.NDArray[np.uint8]:
        """A read-only live view of `n` bytes at `pa`."""
        self._check(pa, n)
        part = self._array[pa : pa + n]
        part.flags.writeable = False
        return part
