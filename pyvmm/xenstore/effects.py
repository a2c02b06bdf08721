"""What the store asks of the world around it.

The core moves no event channel and maps no page: where the protocol demands that, it calls the host through this
interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .connection import Connection


class Effects(Protocol):
    """What a host implements."""

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """INTRODUCE: serve the domain `connection.domid` through its frame `gfn` and its unbound event channel `port`.
        Called again when an introduced domain is introduced once more: bind the new port, empty the ring. Raises
        XsError to refuse."""

    def release(self, domid: int) -> None:
        """The domain is gone or was released: unbind its port, unmap its page."""

    def resume(self, domid: int) -> None:
        """RESUME: the domain runs again after a suspend."""

    def domain_exists(self, domid: int) -> bool:
        """Whether the hypervisor has such a domain: SET_PERMS may not give a node to one that is not there."""

    def log(self, text: str) -> None:
        """CONTROL print and memreport."""


class NoEffects:
    """A world without hypervisor: every domain exists and nothing happens."""

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Nothing to map."""

    def release(self, domid: int) -> None:
        """Nothing to unmap."""

    def resume(self, domid: int) -> None:
        """Nothing to do."""

    def domain_exists(self, domid: int) -> bool:
        """Yes."""
        return True

    def log(self, text: str) -> None:
        """Not kept."""
