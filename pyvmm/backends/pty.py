"""A console on a pseudo-terminal, to which any terminal program can be attached (`screen /dev/pts/7`).

It is a keyboard for `Host.run(keyboard=...)` and shows what its console prints. While nobody reads, output is kept,
the newest `LIMIT` bytes
of it. What is typed there depends on a person, so it is handed over when it comes and stands in the trace.
"""

from __future__ import annotations

import os
import select
import tty

from pyvmm.backends.console import Console

LIMIT = 1 << 20  # bytes of output kept for a reader that is slow; xl's limit for its console daemon


class Pty:
    """`Pty(domain.console)`: `name` is the device to attach to. `close` it when done."""

    def __init__(self, console: Console) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.name = os.ttyname(self._slave)
        self.left = False
        self.closed = False
        self._waiting = bytearray()
        console.listen(self._printed)

    def _printed(self, data: bytes) -> None:
        if self.closed:
            return
        self._waiting += data
        del self._waiting[: max(len(self._waiting) - LIMIT, 0)]
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                del self._waiting[: os.write(self._master, self._waiting)]
            except BlockingIOError:
                return

    def fileno(self) -> int:
        """Readable when something was typed."""
        return self._master

    def read(self) -> bytes:
        """What was typed; does not wait for it."""
        if self.closed:
            return b""
        self._flush()
        if not select.select([self._master], [], [], 0)[0]:
            return b""
        return os.read(self._master, 512)

    def leave(self) -> None:
        """End the run that has this terminal as its keyboard."""
        self.left = True

    def close(self) -> None:
        """Give the terminal back. What was printed and never read is lost."""
        if not self.closed:
            self.closed = True
            os.close(self._master)
            os.close(self._slave)
