"""A disk that is a raw image file: sectors of 512 bytes, on the host's disk when `flush` returns.

The file is locked (flock): any number of readers or one writer, whichever process they are in. Errors are `DiskError`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from pathlib import Path

SECTOR = 512
# Not blocking, for a pipe's other end may never come; and what is opened by mistake must not become our terminal.
OPENING = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PUNCH_HOLE_KEEP_SIZE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE of Linux's falloc.h
_ZEROES = 1 << 20


class DiskError(Exception):
    """Why the file cannot be used, or an operation on it failed; one line."""


class RawDisk:
    """An open image. A last part of the file that is no whole sector is not part of the disk."""

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        self.path = Path(path)
        self.readonly = readonly
        try:
            self._fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | OPENING)
        except OSError as error:
            raise DiskError(f"cannot open the disk {path}: {error.strerror}") from None
        except ValueError as error:  # a byte 0 in it, or what is no text
            raise DiskError(f"cannot open the disk {str(path)[:60]!r}: {error}") from None
        try:
            mode = os.fstat(self._fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                os.close(self._fd)
                raise DiskError(f"cannot use the disk {path}: it is neither a regular file nor a block device")
            fcntl.flock(self._fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            self.sectors = os.lseek(self._fd, 0, os.SEEK_END) // SECTOR
        except OSError as error:
            os.close(self._fd)
            busy = isinstance(error, BlockingIOError)
            why = "it is in use, and one of its users writes" if busy else error.strerror
            raise DiskError(f"cannot use the disk {path}: {why}") from None

    def read(self, sector: int, count: int) -> bytes:
        """`count` sectors from `sector` on, which must be inside of the disk."""
        wanted, at, parts = count * SECTOR, sector * SECTOR, []
        try:
            while wanted:
                part = os.pread(self._fd, wanted, at)
                if not part:
                    raise DiskError(f"{self.path} is shorter than it was")
                parts.append(part)
                at, wanted = at + len(part), wanted - len(part)
        except OSError as error:
            raise DiskError(f"{self.path}: {error.strerror}") from None
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """Store whole sectors; they are safe after the next `flush`."""
        view, at = memoryview(data), sector * SECTOR
        try:
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
        except OSError as error:
            raise DiskError(f"{self.path}: {error.strerror}") from None

    def flush(self) -> None:
        """All that was written is on the host's disk when this returns."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise DiskError(f"{self.path}: {error.strerror}") from None

    def discard(self, sector: int, count: int) -> None:
        """These sectors are not needed: they read as zeros, and take no room where the file system can do that."""
        if _fallocate(self._fd, sector * SECTOR, count * SECTOR):
            return
        for first in range(sector, sector + count, _ZEROES // SECTOR):
            self.write(first, bytes(min(_ZEROES, (sector + count - first) * SECTOR)))

    def close(self) -> None:
        """Let go of the file, without a flush: what no flush was asked for need not be safe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _fallocate(fd: int, offset: int, size: int) -> bool:
    """Make a hole; whether that worked."""
    try:
        call = ctypes.CDLL(None).fallocate
    except (OSError, AttributeError):
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return bool(call(fd, _PUNCH_HOLE_KEEP_SIZE, offset, size) == 0)


__all__ = ["SECTOR", "DiskError", "RawDisk"]
