"""What a configuration file says of a guest, whatever its syntax."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pyvmm.toolstack.devices import Device

MIB = 1 << 20
DEFAULT_MEMORY = 32 * MIB  # as libxl gives a domain whose configuration names no size


class Action(Enum):
    """What the toolstack does with a domain that has ended. Values are xl.cfg(5)'s words."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"


@dataclass(frozen=True)
class Actions:
    """What to do when a domain ends, by how it ended; the defaults are xl's."""

    poweroff: Action = Action.DESTROY
    reboot: Action = Action.RESTART
    crash: Action = Action.DESTROY
    watchdog: Action = Action.DESTROY


@dataclass(frozen=True)
class GuestConfig:
    """One guest. `memory` and `maxmem` in bytes; `kernel` a shipped guest's name or a file; `source` the file it was
    read from. `design`: how its devices meet their back ends, "xenstore" or "noxs"; None leaves it to the host."""

    name: str
    kernel: str
    ramdisk: str | None = None
    memory: int = DEFAULT_MEMORY
    maxmem: int = DEFAULT_MEMORY
    vcpus: int = 1
    maxvcpus: int = 1
    cmdline: str = ""
    uuid: uuid.UUID | None = None
    actions: Actions = field(default_factory=Actions)
    devices: tuple[Device, ...] = ()
    paused: bool = False
    design: str | None = None
    source: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    """On which line of `source` a setting stands, or (by its label) a device."""

    def where(self, about: str) -> str:
        """File and line of a setting or a device, for messages; the file alone when it is not there."""
        line = self.lines.get(about)
        return self.source if line is None else f"{self.source}:{line}"


@dataclass(frozen=True)
class Loaded:
    """A file's guest, and what its author should know: one line each, with file and line."""

    guest: GuestConfig
    warnings: tuple[str, ...] = ()
