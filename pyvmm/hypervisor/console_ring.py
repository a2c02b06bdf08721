"""What was last written to the host's console, for XEN_SYSCTL_readconsole (`xl dmesg`)."""

from __future__ import annotations

CONRING_SIZE = 16384  # bytes kept; 4.17's default on one processor


class ConsoleRing:
    """Keeps the last `size` bytes. Positions count all bytes ever written."""

    def __init__(self, size: int = CONRING_SIZE) -> None:
        self._size = size
        self._data = bytearray()
        self.start = 0  # position of the oldest byte kept

    @property
    def end(self) -> int:
        """Position after the newest byte."""
        return self.start + len(self._data)

    def write(self, data: bytes) -> None:
        """Add text; the oldest goes."""
        self._data += data
        excess = len(self._data) - self._size
        if excess > 0:
            del self._data[:excess]
            self.start += excess

    def read(self, position: int, limit: int) -> bytes:
        """Up to `limit` bytes from `position` on, or from the oldest kept."""
        offset = max(position - self.start, 0)
        return bytes(self._data[offset : offset + limit])

    def clear(self) -> None:
        """Forget everything."""
        self.start = self.end
        self._data.clear()
