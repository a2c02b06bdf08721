"""Asking a guest to power off, restart or suspend: what there is to ask. How it is carried is the business of
`sysctl_xenstore` (the node control/shutdown) and `sysctl_noxs` (a pseudo-device with a control page of its own).

A guest decides itself what it does and when; that it has understood is told, too (`Sysctl.acknowledged`).
"""

from __future__ import annotations

from pyvmm.xenbus.backend import Connection, Features, Site

REASONS = ("poweroff", "reboot", "suspend", "crash", "watchdog")
FRONT_FEATURES = ("poweroff", "reboot", "suspend", "platform_multiprocessor_suspend")


class Sysctl:
    """The pseudo-device's data path: no ring, one command. See `DataPath`."""

    def __init__(self, site: Site) -> None:
        self.asked: str | None = None
        self.acknowledged: list[str] = []  # commands upon which the front end has closed the device
        self.understands: Features = {}

    def ask(self, reason: str) -> Features:
        """What is to be said so that the guest does `reason`."""
        assert reason in REASONS
        self.asked = reason
        return self._command()

    def _command(self) -> dict[str, int | str | bytes]:
        return {reason: int(reason == self.asked) for reason in REASONS}

    def probe(self) -> Features:
        """See `DataPath`: no command stands."""
        return self._command()

    def connect(self, connection: Connection) -> Features:
        """See `DataPath`. A command that was given before the guest listened is said now."""
        self.understands = connection.features
        return self._command()

    def ports(self) -> tuple[int, ...]:
        """See `DataPath`: none."""
        return ()

    def serve(self) -> None:
        """See `DataPath`: nothing comes."""

    def stop(self) -> None:
        """See `DataPath`. The front end closes when it has taken the command."""
        if self.asked is not None:
            self.acknowledged.append(self.asked)
            self.asked = None

    def close(self) -> None:
        """See `DataPath`."""


__all__ = ["FRONT_FEATURES", "REASONS", "Sysctl"]
