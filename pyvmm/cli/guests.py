"""The guests of some configuration files on one host: made, looked after, and done with what their files say."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvmm.abi import sched
from pyvmm.cli.consoles import Lines
from pyvmm.cli.output import Reports, explain_crash, tell
from pyvmm.cli.terminal import write_bytes
from pyvmm.errors import ConfigError, MemoryShortage, PyvmmError, one_line
from pyvmm.host import DEFAULT_HOST_MEMORY, LARGEST_MEMORY, MIB, Domain, Host, host_memory
from pyvmm.result import EXITS
from pyvmm.toolstack.config import Action, Actions, GuestConfig, load
from pyvmm.xenbus.devices import Report

KEPT_OUTPUT = 1 << 20  # bytes of each guest's console that a host keeps that has no end
HOW = {  # SHUTDOWN_*: the member of `Actions` that says what follows; None: nothing does
    sched.SHUTDOWN_poweroff: "poweroff",
    sched.SHUTDOWN_reboot: "reboot",
    sched.SHUTDOWN_suspend: None,
    sched.SHUTDOWN_crash: "crash",
    sched.SHUTDOWN_watchdog: "watchdog",
    sched.SHUTDOWN_soft_reset: "reboot",
}


def action_for(actions: Actions, code: int) -> Action:
    """What is to be done with a domain that has shut down with this SHUTDOWN_* code. One that has suspended is kept."""
    how = HOW.get(code, "crash")
    if how is None:
        return Action.PRESERVE
    action: Action = getattr(actions, how)
    return action


def load_all(paths: tuple[Path, ...]) -> list[GuestConfig]:
    """The files' guests; their warnings go to stderr. `ConfigError`, also when two have one name."""
    found: list[GuestConfig] = []
    for path in paths:
        loaded = load(path)
        for warning in loaded.warnings:
            tell(f"warning: {warning}")
        for other in found:
            if other.name == loaded.guest.name:
                raise ConfigError(f"{path}: a guest called {other.name} is in {other.source} already")
        found.append(loaded.guest)
    return found


def memory_for(configs: list[GuestConfig]) -> int:
    """How much memory a host for these guests needs, in bytes. `MemoryShortage`: no host has as much for one."""
    for config in configs:
        if config.memory > LARGEST_MEMORY:
            where, most = config.where("memory"), LARGEST_MEMORY // MIB
            raise MemoryShortage(f"{where}: memory: expected at most the {most} MiB that a host can have")
    return max(DEFAULT_HOST_MEMORY, host_memory(*(config.maxmem for config in configs)))


@dataclass
class Guest:
    """One configured guest: its domain of now, and how the last one ended."""

    config: GuestConfig
    domain: Domain
    exit: str | None = None
    done: bool = False


class Guests:
    """Makes the guests and looks after them while the host runs (`pyvmm.outside.Outside`): who has ended is destroyed,
    started again or kept, as its configuration says.

    `foreground`: whose console is also typed on; with `endless`, only the last of what is printed is remembered.
    `PyvmmError`: a guest cannot be made."""

    def __init__(
        self, host: Host, configs: list[GuestConfig], *, foreground: str | None = None, endless: bool = False
    ) -> None:
        self._host = host
        self._endless = endless
        self._lines = Lines(foreground) if len(configs) > 1 or endless else None
        self._configs: dict[int, GuestConfig] = {}  # of the domains that there are
        self._held: list[Report] | None = None  # reports that came while a guest was being made
        self._reports = Reports(self._name)
        host.services.listeners.append(self._heard)
        self.guests: dict[str, Guest] = {}
        for config in configs:
            for device in config.devices:
                if device.kind not in host.toolstack.device_kinds:
                    where = config.where(device.label)
                    tell(
                        f"warning: {where}: {config.name} goes without {device.label}: this host has no back end for it"
                    )
            self.guests[config.name] = Guest(config, self._make(config))

    def _make(self, config: GuestConfig, identity: uuid.UUID | None = None) -> Domain:
        held: list[Report] = []
        self._held = held
        try:
            domain = self._host.create_from(config, identity=identity)
            self._configs[domain.domid] = config
        except PyvmmError as error:
            held = [report for report in held if one_line(report.cause) not in str(error)]
            raise
        finally:
            self._held = None
            for report in held:
                self._reports(report)
        domain.console.listen(write_bytes if self._lines is None else self._lines.listener(config.name))
        if self._endless:
            domain.console.keep = KEPT_OUTPUT
        return domain

    def _heard(self, report: Report) -> None:
        """Of a guest that is just being made it is not known yet whether this is why it cannot be."""
        if self._held is None:
            self._reports(report)
        else:
            self._held.append(report)

    def _name(self, report: Report) -> str:
        """A device, with the file and line that ask for it."""
        kind, domid, devid = report.device
        config = self._configs.get(domid)
        if config is None:
            return str(report.device)
        for device in config.devices:
            if (device.kind, device.devid) == (kind, devid):
                return f"{config.where(device.label)}: {config.name}: {device.label}"
        return f"{config.source}: {config.name}: {kind} {devid}"

    def domain(self, name: str) -> Domain | None:
        """The domain that bears this guest's name now; None when it is gone."""
        guest = self.guests.get(name)
        return None if guest is None or guest.done else guest.domain

    def worst_exit(self) -> str:
        """How the run ends when all guests have: by the last end of each, the one that should worry most."""
        ends = {guest.exit for guest in self.guests.values()}
        return next((end for end in EXITS if end in ends), "poweroff")

    def poll(self) -> bool:
        """See `pyvmm.outside.Outside.poll`: do what follows from a guest's end, once the services have seen it."""
        for guest in self.guests.values():
            if not guest.done and guest.domain.exit is not None and not self._host.services.api.v.runnable:
                self._ended(guest)
        return False

    pause: float | None = 0

    def filenos(self) -> Sequence[int]:
        """See `pyvmm.outside.Outside.filenos`: nothing comes from there."""
        return ()

    def finish(self) -> None:
        """The run is over: unfinished lines are ended."""
        if self._lines is not None:
            for name in self.guests:
                self._lines.ended(name)

    def _ended(self, guest: Guest) -> None:
        config, domain = guest.config, guest.domain
        guest.exit = domain.exit
        guest.done = True
        if guest.exit == "crash":
            explain_crash(domain.domid, domain.name, domain.crash_report)
        code = domain.xen.shutdown_code
        action = action_for(config.actions, sched.SHUTDOWN_poweroff if code is None else code)
        if action is not Action.PRESERVE:
            if self._endless:
                domain.console.output.clear()  # it was shown; the host keeps the figures of all that ever ran
            self._host.destroy(domain)
            del self._configs[domain.domid]
        if self._lines is not None:
            self._lines.ended(config.name)
        if action is not Action.RESTART:
            return
        identity = uuid.UUID(bytes=bytes(domain.xen.handle))
        try:
            guest.domain = self._make(config, identity)
        except PyvmmError as error:
            tell(f"{config.name} cannot be started again: {error}")
            return
        guest.done = False
        guest.domain.console.take_input_of(domain.console)


__all__ = ["Guests", "action_for", "load_all", "memory_for"]
