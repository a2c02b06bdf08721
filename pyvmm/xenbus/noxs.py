"""Negotiation over a noxs control page: one granted page and one event channel a device. Knows no device; a device's
words are a `PageWords`.

The page is the back end's; it starts with `ctrl_hdr`, in which each end has a state and a *watch word*. The rule for
notifications, kept by all code here: the writer stores its state, then looks at the peer's watch word, and if that is
`requested` sets it to `updated` and notifies; the waiter sets its watch word to `requested`, then reads the state,
then sleeps. (LightVM's front end reads before it arms, and can sleep through a change.) A front end notifies always, as
LightVM's does: an original back end arms nothing.

Everything in the page can be written by the guest: our own state is kept outside of it, and each word is read once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from pyvmm.abi import devctl as abi
from pyvmm.abi import xen
from pyvmm.toolstack.libxc import HypercallError, Libxc
from pyvmm.xenbus.backend import Connection, DeviceError, Driver, Features
from pyvmm.xenbus.devices import Devices, Key, Report
from pyvmm.xenbus.resources import Mapping, Page, Resources
from pyvmm.xenbus.states import Negotiation, State
from pyvmm.xenbus.words import PageWords

PAGE = 4096
NONE, REQUESTED, UPDATED = abi.noxs_watch_none, abi.noxs_watch_requested, abi.noxs_watch_updated
_HDR = abi.ctrl_hdr
DEVID, BE_STATE, FE_STATE = _HDR.devid.offset, _HDR.be_state.offset, _HDR.fe_state.offset
FE_WATCH, BE_WATCH = _HDR.fe_watch_state.offset, _HDR.be_watch_state.offset


class ControlPage:
    """A control page as one end sees it."""

    def __init__(self, resources: Resources, va: int) -> None:
        self.api = resources.api
        self.va = va

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the page, read now."""
        return self.api.read(self.va + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of the page."""
        self.api.write(self.va + offset, data)

    def word(self, offset: int) -> int:
        """A 32-bit word, read now."""
        return int.from_bytes(self.read(offset, 4), "little")

    def set_word(self, offset: int, value: int) -> None:
        """Store a 32-bit word."""
        self.write(offset, struct.pack("<I", value))

    def state(self, offset: int) -> State:
        """A state, read now; a number that is none is UNKNOWN."""
        value = self.word(offset)
        return State(value) if value <= max(State) else State.UNKNOWN


class PageBack:
    """The back end's side of one device: owns the page, the grant of it and the port."""

    negotiation = Negotiation.NOXS

    def __init__(self, resources: Resources, words: PageWords, key: Key) -> None:
        self.resources = resources
        self.words = words
        self.key = key
        with ExitStack() as undo:
            self.memory = resources.page()
            undo.callback(resources.free, self.memory)
            self.port = resources.xc.alloc_unbound(xen.DOMID_SELF, key.domid)
            undo.callback(resources.xc.close_port, self.port)
            self.ref = resources.grant(key.domid, self.memory)
            undo.pop_all()
        self.page = ControlPage(resources, self.memory.va)
        self.page.set_word(DEVID, key.devid)
        self.page.set_word(FE_STATE, words.fe_state)
        self.page.set_word(BE_WATCH, REQUESTED)

    def other(self) -> State:
        """See `BackChannel`: armed first, then read."""
        self.page.set_word(BE_WATCH, REQUESTED)
        return self.page.state(FE_STATE)

    def enter(self, state: State, say: Features) -> None:
        """See `BackChannel`."""
        self._say(say)
        self.page.set_word(BE_STATE, state)
        self.notify()

    def tell(self, say: Features) -> None:
        """See `BackChannel`."""
        self._say(say)
        self.notify()

    def _say(self, say: Features) -> None:
        for field in (*self.words.offer, *self.words.details):
            if field.feature in say:
                self.page.write(field.offset, field.put(self.page.read, say[field.feature]))

    def notify(self) -> None:
        """Tell the front end that something has changed in the page, if it waits for that."""
        if self.page.word(FE_WATCH) == REQUESTED:
            self.page.set_word(FE_WATCH, UPDATED)
            self.resources.xc.notify(self.port)

    def published(self) -> Connection:
        """See `BackChannel`."""
        return self.words.read(self.page.read, self.key.domid)

    def report(self, cause: str) -> None:
        """See `BackChannel`: there is no place for it in the page."""

    def release(self) -> None:
        """See `BackChannel`. The page is free once the guest has unmapped it."""
        self.resources.xc.close_port(self.port)
        self.resources.revoke_and_free(self.ref, self.memory)


class PageBackends(Devices):
    """Serves the devices that it is told to make. `create` and `destroy` are what the ioctls of LightVM's kernel module
    are; entering a device into the guest's device page is part of both here."""

    def __init__(
        self,
        resources: Resources,
        drivers: Iterable[Driver] = (),
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        super().__init__(resources, on_report)
        self.drivers = {driver.kind: driver for driver in drivers if driver.page is not None}

    def add_driver(self, driver: Driver) -> None:
        """Serve one more kind of devices."""
        self.drivers[driver.kind] = driver

    def create(self, kind: str, domid: int, devid: int, config: Any) -> PageBack:
        """Make a device: control page, port, back end in InitWait; then enter it into `domid`'s device page, so that it
        is found from now on (the guest may be running). `HypercallError`, `DeviceError`: nothing is left."""
        driver, key = self.drivers[kind], Key(kind, domid, devid)
        assert driver.page is not None
        if key in self.devices:
            raise DeviceError(f"{key} is there already")
        channel = PageBack(self.resources, driver.page, key)
        backend = self.make(key, driver, channel, config, State.UNKNOWN)
        try:
            backend.run()
            if backend.broken:
                raise DeviceError(backend.reports[-1])
            comm = {"grant": channel.ref, "evtchn": channel.port}
            dev = {"type": driver.page.type, "id": devid, "be_id": self.api.domid, "comm": comm}
            devctl(self.resources.xc, "dev_add", domid, dev_add={"dev": dev})
        except Exception:
            self.drop(key)
            raise
        return channel

    def remove(self, kind: str, domid: int, devid: int) -> None:
        """Hot-remove: ask the front end to close; the device goes when it has. `DeviceError`: there is none."""
        key = Key(kind, domid, devid)
        if key not in self.devices:
            raise DeviceError(f"there is no {key}")
        self.devices[key].remove()
        self._step(key)

    def destroy(self, kind: str, domid: int, devid: int) -> None:
        """Remove a device now, whatever its front end does. `DeviceError`: there is none."""
        key = Key(kind, domid, devid)
        if key not in self.devices:
            raise DeviceError(f"there is no {key}")
        self.drop(key)

    def drop(self, key: Key) -> None:
        """See `Devices`; the guest's device page forgets it first."""
        if key in self.devices:
            page = self.drivers[key.kind].page
            assert page is not None
            which = {"type": page.type, "be_id": self.api.domid, "fe_id": key.domid, "devid": key.devid}
            with suppress(HypercallError):  # the domain is gone, or the device was not entered yet
                devctl(self.resources.xc, "dev_rem", key.domid, dev_rem={"key": which})
        super().drop(key)

    def _step(self, key: Key) -> None:
        backend = self.devices.get(key)
        if backend is None:
            return
        backend.run()
        if backend.closed_for_good:
            self.drop(key)

    def channels(self) -> Iterator[tuple[Key, PageBack]]:
        """All devices with their control pages."""
        for key, backend in list(self.devices.items()):
            assert isinstance(backend.channel, PageBack)
            yield key, backend.channel

    def check(self) -> None:
        """Look at the devices whose control ports have fired."""
        for key, channel in self.channels():
            if self.api.take_fired(channel.port):
                self.guarded(key, self._step)

    def _due(self) -> bool:
        return self.api.fired(*(channel.port for _, channel in self.channels()), *self.data_ports())

    async def run(self) -> None:
        """The task that serves them."""
        while True:
            self.serve()
            self.check()
            await self.api.wait_until(self._due)


def devctl(xc: Libxc, cmd: str, domid: int, **u: Any) -> Any:
    """XEN_DEVCTL_`cmd`; the structure as it came back. `HypercallError`."""
    data = abi.xen_devctl.pack(
        version=abi.XEN_DEVCTL_VERSION,
        cmd=getattr(abi, f"XEN_DEVCTL_{cmd}"),
        domain=domid,
        u=u or {"get": {"mfn": 0}},
    )
    va = xc.api.scratch(data)
    xc.call(f"devctl {cmd}", abi.HYPERVISOR_devctl, va, 0, 0)
    return abi.xen_devctl.unpack(xc.api.read(va, len(data)))


@dataclass(frozen=True)
class Found:
    """A device as the device page names it."""

    type: int
    id: int
    be_id: int
    grant: int
    evtchn: int


class DevicePage:
    """The device page as a native guest sees it. `changed` is the port that fires when a device comes or goes."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        xc = resources.xc
        address = devctl(xc, "get", xen.DOMID_SELF).u.get.mfn
        self.va = xc.map_foreign(xen.DOMID_SELF, address // PAGE, writable=False)
        self.changed = xc.bind_virq(abi.VIRQ_NOXS)

    def scan(self) -> list[Found]:
        """All devices, in the order of their slots."""
        page = abi.dev_page.unpack(self.resources.api.read(self.va, abi.dev_page.size))
        return [
            Found(dev.type, dev.id, dev.be_id, dev.comm.grant, dev.comm.evtchn)
            for dev in page.devs
            if dev.type != abi.noxs_dev_none
        ]

    def close(self) -> None:
        """Unmap it."""
        self.resources.xc.close_port(self.changed)
        self.resources.xc.unmap(self.va)


class PageFront:
    """The front end's side of one device, for `frontend.Frontend`."""

    negotiation = Negotiation.NOXS
    published_state = State.CONNECTED

    def __init__(self, resources: Resources, words: PageWords, devices: DevicePage, found: Found) -> None:
        self.resources = resources
        self.words = words
        self.devices = devices
        self.found = found
        self.backend_domid = found.be_id
        try:
            self.mapping: Mapping = resources.map(found.be_id, [found.grant])
        except HypercallError as error:
            raise DeviceError(f"the control page cannot be mapped: {error}") from None
        try:
            self.port = resources.xc.bind_interdomain(found.be_id, found.evtchn)
        except HypercallError as error:
            resources.unmap(self.mapping)
            raise DeviceError(f"the control port cannot be bound: {error}") from None
        self.page = ControlPage(resources, self.mapping.va)

    def other(self) -> State:
        """See `FrontChannel`: armed first, then read. A device that is not listed any more has no back end."""
        if self.found not in self.devices.scan():
            return State.UNKNOWN
        self.page.set_word(FE_WATCH, REQUESTED)
        return self.page.state(BE_STATE)

    def enter(self, state: State, connection: Connection | None = None) -> None:
        """See `FrontChannel`."""
        if connection is not None:
            for offset, data in self.words.write(connection):
                self.page.write(offset, data)
        self.page.set_word(FE_STATE, state)
        self.page.set_word(BE_WATCH, UPDATED)
        self.resources.xc.notify(self.port)

    def hear(self) -> Features:
        """See `FrontChannel`."""
        return {field.feature: field.get(self.page.read) for field in (*self.words.offer, *self.words.details)}

    def release(self) -> None:
        """See `FrontChannel`."""
        self.resources.xc.close_port(self.port)
        self.resources.unmap(self.mapping)


__all__ = ["ControlPage", "DevicePage", "Found", "Page", "PageBack", "PageBackends", "PageFront", "devctl"]
