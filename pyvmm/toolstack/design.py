"""What a toolstack is: one Protocol, whichever way it makes a domain and lets its devices meet their back ends.

A design is a module with a class that fits `Design`; a host has one. The first is `xl.Xl`: XenStore, everything at
`create`. What differs between designs is what happens when (`prepare` or `create`) and who is told of a device (the
XenStore, or a device page); domains are built by `build.py` and the records of devices are those of `devices.py` for
all of them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from pyvmm.toolstack.build import Built, DomainConfig, Plan

if TYPE_CHECKING:
    from pyvmm.backends.console import Console


@dataclass(frozen=True)
class Listed:
    """A domain as `xl list` shows it: `memory` in bytes, `state` six letters or dashes (r b p s c d)."""

    domid: int
    name: str
    uuid: uuid.UUID
    memory: int
    vcpus: int
    state: str


class Daemons(Protocol):
    """The control domain's services, as a toolstack meets them."""

    def console(self, domid: int) -> Console:
        """The host's side of a domain's console."""

    def released(self) -> None:
        """A domain was taken out of the store: let go of what is mapped of it, after a last look."""

    def changed(self) -> None:
        """The store or a domain was changed from outside the run loop: tell who is due to hear of it."""


class Design(Protocol):
    """A way to make and end domains."""

    name: str
    device_kinds: set[str]
    """The kinds of devices ("vif", "vbd", ...) that this host has back ends for."""

    def prepare(self, config: DomainConfig) -> Plan:
        """All that can be done without a domain of its own. `ImageError`, `MemoryShortage`, `ConfigError`."""

    def create(self, plan: Plan, identity: uuid.UUID) -> Built:
        """Make the domain and its devices, and let it run unless it is to be paused. On an error nothing is left.
        `ImageError`, `MemoryShortage`."""

    def destroy(self, domid: int) -> None:
        """End the domain; all it held is back."""

    def list(self) -> list[Listed]:
        """All domains, by number; the control domain is the first."""

    def console(self, domid: int) -> Console:
        """The host's side of the domain's console."""

    def shutdown(self, domid: int, reason: str = "poweroff") -> None:
        """Ask the guest to power off, or to reboot: it is its own decision. `ConfigError` for another reason."""


class Migratable(Design, Protocol):
    """A design whose domains can be taken away and brought back."""

    def save(self, domid: int, out: BinaryIO) -> None:
        """Suspend the guest and write it down; the domain is gone afterwards."""

    def restore(self, source: BinaryIO) -> Built:
        """Make a domain of what `save` wrote, and let it go on."""


__all__ = ["Daemons", "Design", "Listed", "Migratable"]
