"""The person's terminal as a guest's console: raw keys in, bytes out, Ctrl-] leaves."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ESCAPE = b"\x1d"  # Ctrl-]


class Keyboard:
    """Keys typed on a terminal (`pyvmm.outside.Keyboard`). `left` is true once Ctrl-] was typed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.left = False
        self.closed = False

    def fileno(self) -> int:
        """Readable when something was typed."""
        return self._fd

    def read(self) -> bytes:
        """What was typed since the last call."""
        if self.left or self.closed or not select.select([self._fd], [], [], 0)[0]:
            return b""
        data = os.read(self._fd, 512)
        if not data:
            self.closed = True
        before, found, _ = data.partition(ESCAPE)
        self.left = bool(found)
        return before


@contextmanager
def raw_keyboard(fd: int) -> Iterator[Keyboard]:
    """The terminal at `fd` in raw mode (keys arrive one by one, nothing is echoed), restored at the end."""
    import termios
    import tty

    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        # Output keeps its newline translation, so that the guest's "\n" starts a line at the left edge.
        mode = termios.tcgetattr(fd)
        mode[1] |= termios.OPOST | termios.ONLCR
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        yield Keyboard(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def write_bytes(data: bytes) -> None:
    """Guest output to stdout, at once and unchanged; nowhere if there is no stdout (`>&-`)."""
    if sys.stdout is None:
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
