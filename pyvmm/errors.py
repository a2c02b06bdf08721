"""The errors a person sees: one line of text each, and the exit status of a command that ends with it.

What a guest does wrong is no error here: it gets an errno or crashes, and the run goes on to report that.
"""

from __future__ import annotations

from typing import Self

SHOWN = 60  # characters of a value that a message repeats


def one_line(text: str) -> str:
    """`text` with all that is not printable escaped: a message stays on its line, whatever it repeats."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cut(text: str) -> str:
    """A value for a message: the beginning of a long one."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


class PyvmmError(Exception):
    """A mistake in what was asked for. `str(error)` is one line, without a full stop, fit to follow `pyvmm: `.
    `about`: which setting of a guest it is about ("kernel", or a device's label), where that is known."""

    exit_status = 2
    """What a command that ends with this error returns to the shell."""
    usually = ""
    """What errors of this kind are about, unless they say so."""

    def __init__(self, message: str, *, about: str = "") -> None:
        super().__init__(one_line(message))
        self.about = about or self.usually

    def at(self, where: str) -> Self:
        """The same error of what stands there: a file, and its line if that is known."""
        return type(self)(f"{where}: {self}", about=self.about) if where else self


class UsageError(PyvmmError):
    """Options or arguments that do not make sense, or not together."""


class ConfigError(PyvmmError):
    """A domain's or a host's configuration cannot be used: unknown key, impossible size, name taken."""


class ImageError(PyvmmError):
    """A kernel or ramdisk cannot be booted: unreadable, not an ELF, no PV64 kernel, wild or overlapping segments."""

    usually = "kernel"


class MemoryShortage(PyvmmError):
    """The machine's or the domain's memory is too small for what should go into it."""

    usually = "memory"


class EngineError(PyvmmError):
    """The CPU engine that was asked for is not available here, or does not start."""


class ReplayError(PyvmmError):
    """A recorded run cannot be repeated: the record is damaged, or belongs to other images or another version."""
