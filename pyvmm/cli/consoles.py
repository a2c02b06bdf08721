"""Several guests' consoles on one stdout: whole lines, each with its guest's name before it."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.cli.terminal import write_bytes

LINE_MAX = 4096  # bytes that are kept for the rest of a line


class Lines:
    """Writes what guests print. `foreground` names the guest whose unfinished lines (prompts) are shown at once."""

    def __init__(self, foreground: str | None, write: Callable[[bytes], None] = write_bytes) -> None:
        self._foreground = foreground
        self._write = write
        self._held: dict[str, bytes] = {}
        self._open: str | None = None  # whose unfinished line is on the screen

    def listener(self, name: str) -> Callable[[bytes], None]:
        """What to give to `Console.listen` for the guest called `name`."""

        def printed(data: bytes) -> None:
            self._printed(name, data)

        return printed

    def _printed(self, name: str, data: bytes) -> None:
        data = self._held.pop(name, b"") + data
        whole, newline, rest = data.rpartition(b"\n")
        out = b""
        if newline:
            lines = whole.split(b"\n")
            if self._open == name:
                self._open = None
                out += lines.pop(0) + b"\n"
            for line in lines:
                out += self._begin(name) + line + b"\n"
        if rest and (name == self._foreground or len(rest) > LINE_MAX):
            if self._open != name:
                out += self._begin(name)
            self._open = name
            out += rest
        elif rest:
            self._held[name] = rest
        if out:
            self._write(out)

    def _begin(self, name: str) -> bytes:
        """A new line on the screen, with the name."""
        ended = b"" if self._open is None else b"\n"
        self._open = None
        return ended + name.encode() + b": "

    def ended(self, name: str) -> None:
        """The guest prints no more: its last line is ended for it."""
        held = self._held.pop(name, b"")
        if held:
            self._write(self._begin(name) + held + b"\n")
        elif self._open == name:
            self._open = None
            self._write(b"\n")
