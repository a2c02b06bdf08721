"""The public API: a host, the domains on it, and what a run did.

    >>> from pyvmm.host import Host
    >>> host = Host(memory=256 << 20)
    >>> guest = host.create("hello", memory=32 << 20, cmdline="example")
    >>> result = host.run()
    >>> result.exit
    'poweroff'
    >>> guest.console.text.splitlines()[0]
    'Hello from a PV guest.'
    >>> host.close()

`create` makes a domU, as `xl create` does: a native dom0 on the host runs the XenStore and the console daemon for
it. `create_dom0` gives a
kernel dom0's place and rights instead; such a host has no other domains but those that this dom0 makes. `run` runs
all of them until
every guest has shut down. Same images, configuration and seed: the same result, to the bit.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pyvmm import kernels
from pyvmm.abi import xen
from pyvmm.backends.console import Activity, Console
from pyvmm.backends.pcap import PcapPort
from pyvmm.backends.ports import HostPort
from pyvmm.backends.switch import Switch
from pyvmm.backends.tap import TapPort
from pyvmm.errors import ConfigError, EngineError, MemoryShortage, PyvmmError
from pyvmm.hypervisor import event_channel, lifecycle, subsystems
from pyvmm.hypervisor import trace as events
from pyvmm.hypervisor.charging import Charging
from pyvmm.hypervisor.crash import Recent, Symbols
from pyvmm.hypervisor.digest import Digest
from pyvmm.hypervisor.dom0_build import Kernel, construct_dom0
from pyvmm.hypervisor.domain import Domain as XenDomain
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypervisor import Hypervisor, Outcome
from pyvmm.hypervisor.scheduler import Policy
from pyvmm.machine import Machine, MachineError
from pyvmm.outside import Keyboard, Outside, Typing, Waiting
from pyvmm.result import EXITS, DomainResult, Result, exit_of, result_of
from pyvmm.services import Services
from pyvmm.toolstack.attach import NEGOTIATIONS
from pyvmm.toolstack.build import PAGE, Built, DomainConfig
from pyvmm.toolstack.config import GuestConfig
from pyvmm.toolstack.design import Design
from pyvmm.toolstack.devices import DEFAULT_BRIDGE, Device, Vbd, Vif, check_device
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.xenbus.devices import Key
from pyvmm.xenstore import Client

MIB = 1 << 20
DEFAULT_HOST_MEMORY = 512 * MIB
DEFAULT_GUEST_MEMORY = 128 * MIB
LARGEST_MEMORY = 60 << 30
SMALLEST_MEMORY = 16 * MIB
HOST_RESERVE = 32 * MIB

_DETERMINISTIC = uuid.UUID("7c2f9a4e-5b0d-5d52-9a41-5f0c6d1f7a10")  # namespace of domains' UUIDs


def host_memory(*guests: int) -> int:
    """How much memory a host needs for guests of these sizes (all in bytes), with what Xen and dom0 keep."""
    total = sum(guests)
    return min(-(-(total + total // 256 + HOST_RESERVE) // (4 * MIB)) * 4 * MIB, LARGEST_MEMORY)


class Domain:
    """A guest on a host: a handle made by `Host.create` and `Host.create_dom0`."""

    def __init__(
        self, host: Host, domain: XenDomain, built: Built | None = None, negotiation: str = "xenstore"
    ) -> None:
        self._host = host
        self._domain = domain
        self.built = built  # what the toolstack made; None for a dom0
        self.negotiation = negotiation
        self.console = Console()

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    @property
    def domid(self) -> int:
        """Its number."""
        return self._domain.domid

    @property
    def name(self) -> str:
        """Its name."""
        return self._domain.name

    @property
    def xen(self) -> XenDomain:
        """The hypervisor's own record of it."""
        return self._domain

    @property
    def exit(self) -> str | None:
        """How it ended: poweroff, reboot, suspend or crash; None while it runs."""
        return exit_of(self._domain)

    @property
    def crash_report(self) -> str | None:
        """If the hypervisor crashed it: why, and in which state it was."""
        return self._domain.crash_report

    def shutdown(self, reason: str = "poweroff") -> None:
        """Ask the guest to power off ("poweroff", "halt") or to "reboot", as `xl shutdown` does."""
        self._host.shutdown(self, reason)

    def attach(self, device: Device) -> None:
        """Add a device, also while the guest runs, in the way the domain has its devices. `ConfigError`."""
        self._host.attach(self, device)

    def detach(self, device: Device, *, force: bool = False) -> None:
        """Remove a device: its front end is asked to close, and when it has, the device goes. `force`: it goes now,
        whatever the guest does. `ConfigError`."""
        self._host.detach(self, device, force=force)

    def result(self) -> DomainResult:
        """What it has done so far."""
        return result_of(self._domain, self.console.text)

    def destroy(self) -> None:
        """End it and give back everything it holds. Doing it again does nothing."""
        self._host.destroy(self)


class Host:
    """One emulated machine with Xen on it.

    `memory` in bytes; `engine`: "fast", "pure", "step" or "auto"; `seed` goes into all that a host chooses freely
    (domains' UUIDs). `policy` replaces the round-robin scheduler. `digest=False` saves the time of hashing every event;
    the result's digest is then empty. With `profile` the machine can log the blocks it enters (`pyvmm.report.profile`).
    With `charge` the clock runs on by what the hypervisor's own work costs (`charging`).
    """

    def __init__(
        self,
        memory: int = DEFAULT_HOST_MEMORY,
        *,
        engine: str = "auto",
        seed: int = 0,
        policy: Policy | None = None,
        digest: bool = True,
        profile: bool = False,
        charge: bool = False,
    ) -> None:
        if not SMALLEST_MEMORY <= memory <= LARGEST_MEMORY or memory % PAGE:
            limits = f"from {SMALLEST_MEMORY // MIB} MiB to {LARGEST_MEMORY // MIB} MiB"
            raise ConfigError(f"a host of {memory} bytes: it needs whole pages, {limits}")
        assert subsystems  # imported for the hypercalls it registers
        self.seed = seed
        try:
            self.machine = Machine(memory=memory, engine=engine, profile=profile)
        except MachineError as error:
            raise EngineError(str(error)) from None
        self.hypervisor = Hypervisor(self.machine, policy=policy)
        self.charging = Charging(self.hypervisor, clock=True) if charge else None
        self.images: dict[str, str] = {}
        self.domains: list[Domain] = []
        self._digest = Digest()
        if digest:
            self.hypervisor.trace.listen(self._digest)
            self.hypervisor.recent = Recent(self.hypervisor.trace)
        self._seconds = 0.0
        self._services: Services | None = None
        self._ended: list[DomainResult] = []
        self._ports: list[HostPort] = []
        self._dom0_activity = Activity()
        self.hypervisor.console_sinks.append(self._console_io)

    # -- making domains

    def create(
        self,
        image: str | Path,
        *,
        name: str | None = None,
        memory: int = DEFAULT_GUEST_MEMORY,
        vcpus: int = 1,
        cmdline: str = "",
        ramdisk: str | Path | None = None,
        maxmem: int | None = None,
        maxvcpus: int | None = None,
        devices: Sequence[Device] = (),
        vifs: Sequence[Vif] = (),
        disks: Sequence[Vbd] = (),
        negotiation: str = "xenstore",
        identity: uuid.UUID | None = None,
        paused: bool = False,
    ) -> Domain:
        """A domU booting `image` (a shipped name or a file), ready to run. `identity`: its UUID; `devices`: those of
        kinds that this host has no back end for (`Design.device_kinds`) are left out; `vifs` and `disks` are
        more of them; `negotiation`: how devices meet their back ends, "xenstore" or "noxs"; the rest is
        `DomainConfig`'s.
        `ImageError`, `MemoryShortage`, `ConfigError`: nothing is left."""
        if negotiation not in NEGOTIATIONS:
            raise ConfigError(f"devices are found by {' or '.join(NEGOTIATIONS)}, not by {negotiation}")
        data, shown = kernels.load(image)
        module = kernels.read(Path(ramdisk), "ramdisk") if ramdisk is not None else b""
        every, noxs = (*devices, *vifs, *disks), negotiation == "noxs"
        for device in every:
            _check_device(device)
        if self._services is None and self.hypervisor.domains:
            raise ConfigError("domain 0 is a guest here: it makes the other domains, not the host")
        config = DomainConfig(
            name=name or self._unused(Path(shown).name),
            image=data,
            image_path=shown,
            memory=memory,
            vcpus=vcpus,
            cmdline=cmdline,
            ramdisk=module,
            ramdisk_path=str(ramdisk or ""),
            maxmem=maxmem,
            maxvcpus=maxvcpus,
            devices=() if noxs else every,
            paused=paused or noxs,
        )
        if any(domain.name == config.name for domain in self.domains):
            raise ConfigError(f"there is a domain called {config.name} already", about="name")
        if memory > self.machine.ram.size:
            raise MemoryShortage(f"{config.name}: {memory // MIB} MiB of memory: {self._memory_told()}")
        toolstack = self.services.toolstack
        plan = toolstack.prepare(config)
        if identity is None:
            identity = uuid.uuid5(_DETERMINISTIC, _utf8(f"{self.seed} {self.hypervisor.last_domid} {config.name}"))
        built: object = toolstack.create(plan, identity)
        if not isinstance(built, Built):  # a design of the user's
            raise ConfigError(f"{toolstack.name}: its create gave {built!r:.60}: expected what was built, a Built")
        self._note(shown, data)
        if ramdisk is not None:
            self._note(str(ramdisk), module)
        xen_domain = self.hypervisor.domains[built.domid]
        xen_domain.name = config.name
        xen_domain.symbols = Symbols.of_elf(data)
        domain = Domain(self, xen_domain, built, negotiation)
        self.domains.append(domain)
        served = [device for device in every if device.kind in toolstack.device_kinds]
        if noxs:
            self._add_pages(domain, served, paused)
        elif served:
            self._probe(domain, served)
        return domain

    def _memory_told(self) -> str:
        return f"expected at most the host's {self.machine.ram.size // MIB} MiB"

    def _probe(self, domain: Domain, devices: Sequence[Device]) -> None:
        """Let the back ends look at the devices of a new domain. If one cannot be served it is destroyed again."""
        causes = {report.device: report.cause for report in self.services.probe()}
        for device in devices:
            cause = causes.get(Key(device.kind, domain.domid, device.devid))
            is_empty = isinstance(device, Vbd) and not device.target  # a drive without a medium is no mistake
            if cause is not None and not is_empty:
                self.destroy(domain)
                raise ConfigError(f"{device.label}: {cause}", about=device.label)

    def _add_pages(self, domain: Domain, devices: Sequence[Device], paused: bool) -> None:
        """Give a new domain its devices over noxs, before it runs. On an error it is destroyed again."""
        services, built = self.services, domain.built
        assert built is not None
        try:
            services.attach.add_sysctl(built.domid)
            for device in devices:
                services.attach.add(built, device, "noxs")
        except ConfigError:
            self.destroy(domain)
            raise
        if not paused:
            services.xc.domctl("unpausedomain", built.domid)
            services.changed()

    def create_from(self, config: GuestConfig, *, identity: uuid.UUID | None = None) -> Domain:
        """The domU that a configuration file asks for (`pyvmm.toolstack.config.load`). Errors as for `create`, with
        the file and, where it is known, its line."""
        try:
            return self._create_from(config, identity)
        except PyvmmError as error:
            raise error.at(config.where(error.about)) from None

    def _create_from(self, config: GuestConfig, identity: uuid.UUID | None) -> Domain:
        return self.create(
            config.kernel,
            name=config.name,
            memory=config.memory,
            maxmem=config.maxmem,
            vcpus=config.vcpus,
            maxvcpus=config.maxvcpus,
            cmdline=config.cmdline,
            ramdisk=config.ramdisk,
            devices=config.devices,
            negotiation=config.design or "xenstore",
            identity=identity or config.uuid,
            paused=config.paused,
        )

    def create_dom0(
        self,
        image: str | Path,
        *,
        name: str | None = None,
        memory: int | None = None,
        vcpus: int = 1,
        cmdline: str = "",
        ramdisk: str | Path | None = None,
    ) -> Domain:
        """Domain 0 booting `image`, with its rights. `memory`: None gives what Xen gives by default, nearly all.
        Errors as for `create`."""
        if self.hypervisor.domains:
            raise ConfigError("there is a domain 0 already")
        data, shown = kernels.load(image)
        module = kernels.read(Path(ramdisk), "ramdisk") if ramdisk is not None else b""
        if memory is not None and (memory < PAGE or memory % PAGE):
            raise ConfigError(f"{memory} bytes of memory: a domain has whole pages of {PAGE} bytes")
        if not 1 <= vcpus <= 128:
            raise ConfigError(f"{vcpus} vCPUs: a domain has 1 to 128")
        if len(os.fsencode(cmdline)) >= xen.start_info.cmd_line.size:
            raise ConfigError(f"the command line is longer than {xen.start_info.cmd_line.size - 1} bytes")
        kernel = Kernel(data, shown, os.fsencode(cmdline), module)
        built = construct_dom0(
            self.hypervisor,
            kernel,
            name=name or Path(shown).name,
            nr_pages=None if memory is None else memory // PAGE,
            vcpus=vcpus,
        )
        self._note(shown, data)
        if ramdisk is not None:
            self._note(str(ramdisk), module)
        domain = Domain(self, built)
        self.domains.append(domain)
        return domain

    def _note(self, shown: str, data: bytes) -> None:
        self.images[shown] = hashlib.sha256(data).hexdigest()

    def _unused(self, name: str) -> str:
        taken = {domain.name for domain in self.domains}
        found, number = name, 1
        while found in taken:
            number += 1
            found = f"{name}-{number}"
        return found

    @property
    def services(self) -> Services:
        """The native dom0 with its toolstack, XenStore and console daemon; made when first asked for."""
        if self._services is None:
            try:
                self._services = Services(self.hypervisor, self._console)
            except (HypercallError, XenError) as error:
                raise MemoryShortage(f"the host is too small for its own services ({error})") from None
        return self._services

    def _console(self, domid: int) -> Console:
        """The console of a domain; one that nobody reads for a domain that is no guest of ours."""
        return next((domain.console for domain in self.domains if domain.domid == domid), None) or Console()

    @property
    def toolstack(self) -> Design:
        """What makes and ends the domains of this host."""
        return self.services.toolstack

    @property
    def xenstore(self) -> Client:
        """A client of the host's XenStore, with dom0's rights."""
        return self.services.tools

    # -- the network

    @property
    def switch(self) -> Switch:
        """The switch that interfaces are on which do not ask for another one."""
        return self.services.switch(DEFAULT_BRIDGE)

    def attach_port(self, port: HostPort, bridge: str = DEFAULT_BRIDGE) -> None:
        """Connect `port` to the switch called `bridge`, which is made if there is none. It is closed with the host.
        `ConfigError`: it is connected already, or there is one of that name."""
        if isinstance(port, PcapPort) and port.wallclock is None:
            port.wallclock = self._wallclock
        port.settled = self.services.settled
        port.plug(self.services.switch(bridge))
        self._ports.append(port)

    def _wallclock(self) -> int:
        seconds, nanoseconds = self.hypervisor.wallclock
        return seconds * 1_000_000_000 + nanoseconds + self.machine.now

    # -- running

    def run(
        self,
        max_instructions: int | None = None,
        *,
        keyboard: Keyboard | None = None,
        typing_to: Callable[[], Domain | None] | None = None,
        outside: Sequence[Outside] = (),
        serve: bool = False,
    ) -> Result:
        """Run until every guest has shut down, `max_instructions` more have retired, nothing can ever run again (exit
        "deadlock"), or it is told to end from outside (exit "left"): by the person at the `keyboard`, who types on the
        newest guest's console or on that of `typing_to()`, or by one of `outside`. With `serve` the end of all guests
        does not end the run. May be called again."""
        hv = self.hypervisor
        watched: list[Outside] = [*outside]
        watched += [port for port in self._ports if isinstance(port, TapPort) and port.switch is not None]
        if keyboard is not None:
            target = typing_to or (lambda: self.domains[-1] if self.domains else None)
            watched.append(Typing(keyboard, lambda data: self._type(guest, data) if (guest := target()) else 0))
        idle: list[Callable[[], bool]] = [self._idle, Waiting(hv, watched)]
        hv.idle_sources += idle
        started = time.perf_counter()
        told = False

        def between_slices() -> bool:
            nonlocal told
            if self._services is not None:
                self._services.consoled.poll()
            else:
                self._poll_dom0()
            for one in watched:
                told |= one.poll()
            return told or (not serve and self._all_ended())

        try:
            outcome = hv.run(between_slices, max_instructions)
        finally:
            self._seconds += time.perf_counter() - started
            for source in idle:
                hv.idle_sources.remove(source)
        return self.result("left" if told and (serve or not self._all_ended()) else self._exit(outcome))

    def settle(self, max_instructions: int | None = None) -> str | None:
        """Run until nobody can run, before time is skipped to a timer: None. The exit of `run` when it ends before."""
        hv = self.hypervisor
        idle = False

        def nobody_runs() -> bool:
            nonlocal idle
            idle = not self._idle()
            return True

        hv.idle_sources.append(nobody_runs)
        try:
            outcome = hv.run(lambda: idle or self._all_ended(), max_instructions)
        finally:
            hv.idle_sources.remove(nobody_runs)
        return None if idle and not self._all_ended() else self._exit(outcome)

    def _all_ended(self) -> bool:
        """Every guest has ended, and the services have done what followed from that."""
        if not all(domain.xen.is_shut_down or domain.xen.dying for domain in self.domains):
            return False
        return self._services is None or not self._services.api.v.runnable

    def _exit(self, outcome: Outcome) -> str:
        if outcome is Outcome.DEADLOCK:
            return "deadlock"
        if outcome is Outcome.BUDGET:
            return "budget"
        ends = {domain.exit for domain in self.domains}
        return next((end for end in EXITS if end in ends), "poweroff")

    def result(self, exit: str) -> Result:
        """What was done so far; `exit` says why it is looked at now."""
        guests = {domain.domid: domain for domain in self.domains}
        services = [result_of(d, None) for d in self.hypervisor.domains.values() if d.domid not in guests]
        live = [*services, *(guest.result() for guest in guests.values())]
        return Result(
            exit=exit,
            digest=self._digest.hexdigest() if self._digest.events else "",
            host_seconds=round(self._seconds, 6),
            images=dict(self.images),
            domains=tuple(sorted([*self._ended, *live], key=lambda d: d.domid)),
        )

    def shutdown(self, domain: Domain, reason: str) -> None:
        """Ask a guest to power off or reboot: over noxs with its sysctl device, else in the XenStore."""
        if domain.negotiation == "noxs" and self.services.attach.ask(
            domain.domid, "poweroff" if reason == "halt" else reason
        ):
            self.services.changed()
        else:
            self.toolstack.shutdown(domain.domid, reason)

    def attach(self, domain: Domain, device: Device) -> None:
        """See `Domain.attach`."""
        if domain.built is None or device.kind not in self.toolstack.device_kinds:
            raise ConfigError(f"{domain.name} cannot have a {device.kind}")
        _check_device(device)
        self.services.attach.add(domain.built, device, domain.negotiation)
        for report in self.services.probe():
            if report.device == (device.kind, domain.domid, device.devid):
                self.services.attach.remove(domain.domid, device.kind, device.devid, force=True)
                raise ConfigError(f"{device.label}: {report.cause}", about=device.label)
        self.services.changed()

    def detach(self, domain: Domain, device: Device, *, force: bool = False) -> None:
        """See `Domain.detach`."""
        self.services.attach.remove(domain.domid, device.kind, device.devid, force=force)
        self.services.changed()

    def destroy(self, domain: Domain) -> None:
        """End `domain`: it is off the CPU, out of the XenStore, and all it held is back."""
        if domain not in self.domains:
            return
        if self._services is None:
            lifecycle.destroy_domain(domain.xen)
        else:
            self._services.page_backends.drop_domain(domain.domid)
            self._services.toolstack.destroy(domain.domid)
            self._services.resources.collect()  # control pages that the guest had mapped
        self._ended.append(domain.result())
        self.domains.remove(domain)

    def _idle(self) -> bool:
        if self._services is not None:
            return self._services.consoled.idle()
        return self._type_dom0()

    def _poll_dom0(self) -> None:
        """A dom0 guest that only polls its console, by CONSOLEIO_read, gets its next line."""
        if not self.domains or self.hypervisor.console_input or not self.domains[0].console.has_input:
            return
        guest = self.domains[0]
        if self._dom0_activity.is_polling(guest.xen, len(guest.console.output), "console_io"):
            self._dom0_activity = Activity()
            self._type_dom0()

    def _type_dom0(self) -> bool:
        """A dom0 guest reads its console by CONSOLEIO_read when VIRQ_CONSOLE tells it to."""
        hv = self.hypervisor
        if hv.console_input or not self.domains:
            return False
        return self._type(self.domains[0], self.domains[0].console.next_line(1 << 20)) > 0

    def _type(self, domain: Domain, data: bytes) -> int:
        """Hand `data` to the domain's console now; returns how much of it was taken."""
        if not data:
            return 0
        if self._services is not None:
            return self._services.consoled.type(domain.domid, data)
        hv = self.hypervisor
        hv.console_input += data
        if hv.trace.on:
            hv.trace.emit(events.CONSOLE_INPUT, domain.domid, 0, data)
        event_channel.send_global_virq(hv, event_channel.VIRQ_CONSOLE)
        return len(data)

    def _console_io(self, domain: XenDomain, data: bytes) -> None:
        for handle in self.domains:
            if handle.xen is domain:
                handle.console.printed(data)

    # -- the end

    def close(self) -> None:
        """Destroy all guests and end the services. Nothing can be run afterwards."""
        for domain in list(self.domains):
            self.destroy(domain)
        self._end()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # whatever was interrupted is not taken apart in an orderly way
            self._end()

    def _end(self) -> None:
        for port in self._ports:
            port.close()
        if self._services is not None:
            self._services.api.close()


def _check_device(device: Device) -> None:
    try:
        check_device(device)
    except ValueError as error:
        raise ConfigError(f"{device.label}: expected {error}", about=device.label) from None


def _utf8(text: str) -> str:
    """`text` with what is not UTF-8 in it (a file's name can hold anything) made readable."""
    return text.encode("utf-8", "backslashreplace").decode()


__all__ = ["Domain", "DomainResult", "Host", "Keyboard", "Outside", "Result", "host_memory"]
