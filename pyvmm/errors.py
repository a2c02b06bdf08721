"""The errors a person sees: one line of text each, and the exit status of a command that ends with it.

What a guest does wrong is no error here: it gets an errno or crashes, and the run goes on to report that.
"""


class PyvmmError(Exception):
    """A mistake in what was asked for. `str(error)` is one line, without a full stop, fit to follow `pyvmm: `."""

    exit_status = 2
    """What a command that ends with this error returns to the shell."""


class UsageError(PyvmmError):
    """Options or arguments that do not make sense, or not together."""


class ConfigError(PyvmmError):
    """A domain's or a host's configuration cannot be used: unknown key, impossible size, name taken."""


class ImageError(PyvmmError):
    """A kernel or ramdisk cannot be booted: unreadable, not an ELF, no PV64 kernel, wild or overlapping segments."""


class MemoryShortage(PyvmmError):
    """The machine's or the domain's memory is too small for what should go into it."""


class EngineError(PyvmmError):
    """The CPU engine that was asked for is not available here, or does not start."""


class ReplayError(PyvmmError):
    """A recorded run cannot be repeated: the record is damaged, or belongs to other images or another version."""
