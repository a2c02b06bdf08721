"""The devices that one control domain serves: which there are, whom an event concerns, and letting go of them.

`StoreBackends` (xenstore.py) and `PageBackends` (noxs.py) are such collections; each is one task of the domain, so an
exception in the work for one device would end that of all. `guarded` keeps it to that device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pyvmm.xenbus.backend import LAST_REPORTS, BackChannel, Backend, Driver, Site, cause_of
from pyvmm.xenbus.resources import Resources
from pyvmm.xenbus.states import State


class Key(NamedTuple):
    """Which device: its kind, the front end's domain, its number there."""

    kind: str
    domid: int
    devid: int

    def __str__(self) -> str:
        return f"{self.kind} {self.devid} of d{self.domid}"


@dataclass(frozen=True)
class Report:
    """A device was closed because of something wrong: which, and why."""

    device: Key
    cause: str


class Devices:
    """All back ends of one negotiation. `on_change` is called when a device was made, changed its state or went."""

    def __init__(self, resources: Resources, on_report: Callable[[Report], None] | None = None) -> None:
        self.resources = resources
        self.api = resources.api
        self.devices: dict[Key, Backend] = {}
        self.reports: list[Report] = []
        self._on_report = on_report

    def make(self, key: Key, driver: Driver, channel: BackChannel, config: object, state: State) -> Backend:
        """A back end for a new device; it has not looked at anything yet. On an error `channel` is let go of."""
        try:
            backend = Backend(
                channel,
                lambda fail: driver.make(Site(self.resources, key.domid, key.devid, config, fail)),
                state=state,
                on_report=lambda cause: self._report(Report(key, cause)),
            )
        except Exception:
            channel.release()
            raise
        self.devices[key] = backend
        return backend

    def guarded(self, key: Key, work: Callable[[Key], None]) -> None:
        """Do `work` for one device. Whatever is raised there is reported, and the device is let go of."""
        try:
            work(key)
        except Exception as error:
            self._report(Report(key, cause_of(error)))
            self._forget(key)

    def _forget(self, key: Key) -> None:
        """Let go of a device whose state nobody can be sure of any more."""
        try:
            self.drop(key)
        except Exception as error:
            self._report(Report(key, cause_of(error)))

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        del self.reports[:-LAST_REPORTS]
        if self._on_report is not None:
            self._on_report(report)

    def drop(self, key: Key) -> None:
        """Let go of a device without a word to its front end: the front end's domain, or the device, is gone."""
        backend = self.devices.pop(key, None)
        if backend is not None:
            backend.release()

    def drop_domain(self, domid: int) -> None:
        """Let go of all devices of a domain."""
        for key in [key for key in self.devices if key.domid == domid]:
            self.guarded(key, self.drop)

    def close(self) -> None:
        """The back ends die, as a daemon does that is killed: everything is let go of, nobody is told."""
        for key in list(self.devices):
            self.guarded(key, self.drop)

    def serve(self) -> bool:
        """Take the events of all data paths and let those work that have some. Whether one had."""
        busy = False
        for key, backend in list(self.devices.items()):
            if self.api.take_fired(*backend.path.ports()):
                self.guarded(key, self._serve)
                busy = True
        return busy

    def _serve(self, key: Key) -> None:
        if key in self.devices:
            self.devices[key].serve()

    def data_ports(self) -> tuple[int, ...]:
        """The ports of all data paths."""
        return tuple(port for backend in self.devices.values() for port in backend.path.ports())


__all__ = ["Devices", "Key", "Report"]
