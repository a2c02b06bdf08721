"""Asking a guest to power off, restart or suspend over the XenStore: its node control/shutdown. There is no device and
no state: the guest watches the node, and empties it when it has understood.

Facts: Xen 4.17 docs/misc/xenstore-paths, libxl_domain_shutdown.
"""

from __future__ import annotations

from pyvmm.backends.sysctl import REASONS
from pyvmm.xenstore import Client, XsError

WORDS = (*REASONS, "halt")


def node(domid: int) -> str:
    """The node."""
    return f"/local/domain/{domid}/control/shutdown"


def ask(client: Client, domid: int, reason: str) -> None:
    """Ask a guest to do `reason`."""
    assert reason in WORDS
    client.write(node(domid), reason)


def acknowledged(client: Client, domid: int) -> bool:
    """Whether the guest has taken what it was asked last."""
    try:
        return client.read(node(domid)) == b""
    except XsError:
        return False


class ShutdownWatch:
    """The guest's side, for native guests. `client` is a client of the guest's."""

    def __init__(self, client: Client, domid: int) -> None:
        self.client = client
        self.path = node(domid)
        client.watch(self.path, "shutdown")

    def take(self) -> str | None:
        """After a watch event: the word that was written, acknowledged; None when there is none."""
        try:
            word = self.client.read(self.path).decode("latin-1")
        except XsError:
            return None
        if not word:
            return None
        self.client.write(self.path, "")
        return word


__all__ = ["ShutdownWatch", "acknowledged", "ask", "node"]
