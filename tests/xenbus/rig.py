"""A control domain with back ends and a native guest with front ends: all of it shipped code, real hypercalls, a real
store and real pages; what runs when is the test's."""

from __future__ import annotations

from typing import Any

from pyvmm.hypervisor import event_channel, lifecycle, subsystems
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.native import Native
from pyvmm.machine import Machine
from pyvmm.toolstack.libxc import Libxc
from pyvmm.xenbus.backend import Driver
from pyvmm.xenbus.devices import Report
from pyvmm.xenbus.frontend import Frontend, FrontPath
from pyvmm.xenbus.noxs import DevicePage, PageBackends, PageFront
from pyvmm.xenbus.resources import Resources
from pyvmm.xenbus.states import State
from pyvmm.xenbus.xenstore import StoreBackends, StoreFront
from pyvmm.xenstore import Client, Store

assert subsystems  # imported for the hypercalls it registers
MEMORY = 16 << 20


class Side:
    """One native domain."""

    def __init__(self, hv: Hypervisor, domid: int, *, privileged: bool = False) -> None:
        self.domain: Domain
        self.api: Native
        self.domain, self.api = lifecycle.create_native(hv, domid, name=f"d{domid}", privileged=privileged)
        self.xc = Libxc(self.api)
        self.resources = Resources(self.xc)

    def take_events(self) -> bool:
        """What the vCPU's loop does before it lets tasks run. Whether anything came."""
        ports = event_channel.take_pending(self.domain.vcpus[0])
        for port in ports:
            self.api.notify(port)
        return bool(ports)

    def open_ports(self) -> int:
        """How many ports it has."""
        return len(self.domain.evtchn.ports)


class Rig:
    """dom0 with a store and back ends of both kinds; domain 1 with clients for front ends."""

    def __init__(self, *drivers: Driver) -> None:
        self.hv = Hypervisor(Machine(memory=MEMORY, engine="pure"))
        self.dom0 = Side(self.hv, 0, privileged=True)
        self.dom0.xc.allow_memory(0, MEMORY)
        self.store = Store()
        self.tools = Client(self.store.connect_privileged())
        self.reports: list[Report] = []
        store_client = Client(self.store.connect_privileged())
        self.over_store = StoreBackends(self.dom0.resources, store_client, drivers, self.reports.append)
        self.over_page = PageBackends(self.dom0.resources, drivers, self.reports.append)
        self.guest = Side(self.hv, 1)
        self.client = Client(self.store.connect_domain(1))
        self.fronts: list[Frontend] = []
        self._page: DevicePage | None = None

    # -- the toolstack's part

    def add_to_store(self, kind: str, devid: int, **back: str) -> None:
        """Make both directories, as xl does."""
        front_path = f"/local/domain/1/device/{kind}/{devid}"
        back_path = f"/local/domain/0/backend/{kind}/1/{devid}"

        def make(t: Client) -> None:
            for path, permissions in ((front_path, ["n1", "r0"]), (back_path, ["n0", "r1"])):
                t.mkdir(path)
                t.set_permissions(path, permissions)
            for key, value in {"backend": back_path, "backend-id": "0", "state": "1"}.items():
                t.write(f"{front_path}/{key}", value)
            about = {"frontend": front_path, "frontend-id": "1", "online": "1", "state": "1", **back}
            for key, value in about.items():
                t.write(f"{back_path}/{key}", value)

        self.tools.transact(make)

    def store_front(self, driver: Driver, devid: int, path: FrontPath) -> Frontend:
        """The guest's front end over the store."""
        assert driver.store is not None
        channel = StoreFront(self.client, driver.store, f"/local/domain/1/device/{driver.kind}/{devid}")
        return self._front(Frontend(channel, path))

    def page_front(self, driver: Driver, devid: int, path: FrontPath) -> Frontend:
        """The guest's front end over a control page, found in its device page."""
        assert driver.page is not None
        found = [one for one in self.page.scan() if (one.type, one.id) == (driver.page.type, devid)]
        channel = PageFront(self.guest.resources, driver.page, self.page, found[0])
        return self._front(Frontend(channel, path, channel.page.state(8)))

    def _front(self, front: Frontend) -> Frontend:
        self.fronts.append(front)
        return front

    @property
    def page(self) -> DevicePage:
        """The guest's device page."""
        if self._page is None:
            self._page = DevicePage(self.guest.resources)
        return self._page

    # -- running

    def settle(self, rounds: int = 50) -> None:
        """Let both sides run until neither has anything to do."""
        for _ in range(rounds):
            busy = self.dom0.take_events()
            busy |= self.over_store.serve() | self.over_page.serve()
            self.over_store.check()
            self.over_page.check()
            busy |= self.guest.take_events()
            self.guest.api.take_fired(*self.guest.domain.evtchn.ports)
            self.client.events()
            for front in self.fronts:
                while front.step():
                    busy = True
                serve = getattr(front.path, "serve", None)
                if serve is not None and front.state is State.CONNECTED:
                    serve()
            if not busy:
                return
        raise AssertionError("it does not come to rest")

    def states(self, front: Frontend) -> tuple[State, State]:
        """(front, back) as each knows its own."""
        (backend,) = (*self.over_store.devices.values(), *self.over_page.devices.values())
        return front.state, backend.state

    def held(self) -> tuple[Any, ...]:
        """All that a device could leave behind."""
        self.hv.frames.check()
        zero, one = self.dom0, self.guest
        for side in (zero, one):
            side.resources.collect()
        return (
            self.hv.frames.free_count,
            zero.open_ports(),
            one.open_ports(),
            len(zero.domain.grants.maptrack),
            len(one.domain.grants.maptrack),
            dict(zero.domain.grants.active),
            dict(one.domain.grants.active),
            len(zero.resources._free_pages) + len(zero.resources._bounce),
            len(one.resources._free_pages),
            zero.resources.lingering,
            one.resources.lingering,
            sorted(self.store.nodes()),
            self.store.statistics().watches,
        )
