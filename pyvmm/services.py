"""What runs in the native dom0 of a host: toolstack, XenStore, console daemon, back ends, switches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pyvmm.backends import sysctl_noxs, vif_noxs, vif_xenstore
from pyvmm.backends.console import Console, Xenconsoled
from pyvmm.backends.switch import Frame, Port, Switch
from pyvmm.backends.vbd_xenstore import VBD
from pyvmm.backends.vif import Network
from pyvmm.backends.xenstored import Xenstored
from pyvmm.hypervisor import lifecycle
from pyvmm.hypervisor import trace as events
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.runstate import wake
from pyvmm.toolstack.attach import Attach
from pyvmm.toolstack.design import Daemons, Design
from pyvmm.toolstack.libxc import Libxc
from pyvmm.toolstack.xl import Xl
from pyvmm.xenbus.backend import LAST_REPORTS, Driver
from pyvmm.xenbus.devices import Report
from pyvmm.xenbus.noxs import PageBackends
from pyvmm.xenbus.resources import Resources
from pyvmm.xenbus.xenstore import StoreBackends
from pyvmm.xenstore import Client

DOM0_PAGES = 64


class Services:
    """The native dom0: toolstack, XenStore daemon, console daemon and back ends. `console(domid)` is the host's side of
    a guest's console."""

    def __init__(self, hv: Hypervisor, console: Callable[[int], Console]) -> None:
        self._hv = hv
        self.console = console
        _, self.api = lifecycle.create_native(hv, 0, name="dom0", memory_pages=DOM0_PAGES, privileged=True)
        self.xc = Libxc(self.api)
        self.xenstored = Xenstored(self.xc)
        self.tools = self.xenstored.client()
        self.xenstored.store.introduce(0, 0, 0)
        self.tools.write("/local/domain/0/domid", "0")
        self.tools.write("/local/domain/0/name", "Domain-0")
        self.consoled = Xenconsoled(self.xc, self.xenstored.client(), console)
        self.toolstack: Design = Xl(self.xc, self.tools, self)
        self.xc.allow_memory(0, hv.machine.ram.size)  # a control domain has no limit
        self.resources = Resources(self.xc)
        self.switches: dict[str, Switch] = {}
        self.network = Network(self.resources, self.switch)
        self.reports: list[Report] = []  # devices that were closed because of something wrong; the last ones
        self.listeners: list[Callable[[Report], None]] = []  # are told of each report
        store = self.xenstored.client()
        self.store_backends = StoreBackends(self.resources, store, (), self._report)
        self.page_backends = PageBackends(self.resources, (), self._report)
        self.api.spawn(self.xenstored.run())
        self.api.spawn(self.consoled.run())
        self.api.spawn(self.store_backends.run())
        self.api.spawn(self.page_backends.run())
        self.attach = Attach(self.tools, self.store_backends, self.page_backends)
        self.page_backends.add_driver(sysctl_noxs.SYSCTL)
        self.add_driver(VBD)
        self.add_driver(Driver("vif", self.network.make, vif_xenstore.WORDS, vif_noxs.WORDS))

    def use(self, make: Callable[[Libxc, Client, Daemons], Design]) -> None:
        """Another toolstack instead of stock Xen's, before it has made a domain; it has the same kinds of devices."""
        kinds = self.toolstack.device_kinds
        self.toolstack = make(self.xc, self.tools, self)
        self.toolstack.device_kinds.update(kinds)

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        del self.reports[:-LAST_REPORTS]
        for listener in list(self.listeners):
            listener(report)

    def probe(self) -> list[Report]:
        """Let the back ends look now at what the toolstack has written, as its caller waits for them on a real host;
        what they have to report."""
        found: list[Report] = []
        self.listeners.append(found.append)
        try:
            self.store_backends.check()
        finally:
            self.listeners.remove(found.append)
        return found

    def add_driver(self, driver: Driver) -> None:
        """Serve devices of one more kind."""
        self.store_backends.add_driver(driver)
        self.page_backends.add_driver(driver)
        self.toolstack.device_kinds.add(driver.kind)

    def switch(self, name: str) -> Switch:
        """The switch called `name`; made when first asked for."""
        found = self.switches.get(name)
        if found is None:
            machine = self._hv.machine
            found = self.switches[name] = Switch(name, lambda: machine.now, observe=partial(self._observe, name))
        return found

    def _observe(self, switch: str, port: Port, frame: Frame) -> None:
        bus = self._hv.trace
        if bus.on and port.outside:
            bus.emit(events.NET_INPUT, port.domid, 0, switch, port.name, frame.data)
        elif bus.on:
            flags = int(frame.blank) | int(frame.validated) << 1
            bus.emit(events.NET_FRAME, port.domid, 0, switch, port.name, flags, frame.data)

    def released(self) -> None:
        """A domain was taken out of the store: the console daemon reads what is left and lets go, so do back ends."""
        self.consoled.check_domains()
        self.store_backends.check()

    def settled(self) -> None:
        """Something came from outside the run loop: the services go on, if that concerns them."""
        if self.api.has_work:
            wake(self.api.v)

    def changed(self) -> None:
        """Something was done from outside the run loop: guests hear of the store's changes, the daemons look."""
        self.xenstored.pump()
        wake(self.api.v)
