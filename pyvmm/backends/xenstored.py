"""The XenStore daemon: `pyvmm.xenstore`'s core on a native domain's shared pages and event channels.

Each introduced domain has a page, mapped through the grant that its toolstack seeded, and a port. One task serves
them all, round robin, a
bounded number of requests at each visit. Tools in the same process are clients of their own (`client`); after they
have
changed something, `pump` sends what guests are due to see.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pyvmm.abi import domctl, errno, xen
from pyvmm.abi import grant_table as gnttab_abi
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.native import Native
from pyvmm.toolstack.libxc import HypercallError, Libxc
from pyvmm.xenstore import Client, Connection, Ring, Store, XsError

LOG_LINES = 1000  # of CONTROL print that are kept
XENSTORE_REF: int = gnttab_abi.GNTTAB_RESERVED_XENSTORE


@dataclass
class MappedPage:
    """A page mapped into the native domain, as `Ring` wants to see it."""

    api: Native
    va: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the page."""
        return self.api.read(self.va + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of the page."""
        self.api.write(self.va + offset, data)


@dataclass
class Served:
    """One introduced domain: its ring, our port, and the grant mapping to give back."""

    ring: Ring
    port: int
    va: int
    handle: int


class Xenstored:
    """The daemon. It is the store's `Effects`: introduce maps and binds, release lets go."""

    def __init__(self, xc: Libxc) -> None:
        self.xc = xc
        self.api = xc.api
        self.store = Store(effects=self, observer=self._observe)
        self.served: dict[int, Served] = {}
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES)
        self._virq = xc.bind_virq(xen.VIRQ_DOM_EXC)

    def client(self) -> Client:
        """A new client for a tool in this process, with dom0's rights."""
        return Client(self.store.connect_privileged())

    def _observe(self, operation: str, domid: int, tx: int, path: str, outcome: str) -> None:
        hv = self.api.v.hv
        if hv.trace.on:
            hv.trace.emit(trace.XS_REQUEST, domid, 0, operation, tx, path, outcome)

    # -- Effects

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        """Map the domain's ring and bind its port. The page comes through its grant, so `gfn` is only what is
        granted there."""
        domid = connection.domid
        self.release(domid)
        if domid == self.api.domid:
            return  # our own tools come through `client`
        try:
            va, handle = self.xc.map_grant(domid, XENSTORE_REF)
        except HypercallError:
            raise XsError("EINVAL") from None
        try:
            local = self.xc.bind_interdomain(domid, port)
        except HypercallError:
            self.xc.unmap_grant(va, handle)
            raise XsError("EINVAL") from None
        ring = Ring(MappedPage(self.api, va), connection, lambda: self.xc.notify(local))
        self.served[domid] = Served(ring, local, va, handle)
        ring.attach()

    def release(self, domid: int) -> None:
        """Let go of the domain's page and port."""
        served = self.served.pop(domid, None)
        if served is not None:
            self.xc.close_port(served.port)
            self.xc.unmap_grant(served.va, served.handle)

    def resume(self, domid: int) -> None:
        """The domain keeps its page and port."""

    def domain_exists(self, domid: int) -> bool:
        """Whether Xen has such a domain that is not dying."""
        return self._state(domid) is not None

    def log(self, text: str) -> None:
        """CONTROL print: the last ones are kept in `log_lines`."""
        self.log_lines.append(text)

    # -- service

    def _state(self, domid: int) -> int | None:
        """The domain's XEN_DOMINF_* flags; None when it is gone or going."""
        try:
            flags = int(self.xc.get_info(domid).flags)
        except HypercallError as error:
            if error.errno != errno.ESRCH:
                raise
            return None
        return None if flags & domctl.XEN_DOMINF_dying else flags

    def check_domains(self) -> None:
        """After VIRQ_DOM_EXC: which of the served domains has shut down, which is gone?"""
        for domid in sorted(self.store.domains):
            flags = self._state(domid)
            if flags is None:
                self.store.domain_released(domid)
            elif flags & domctl.XEN_DOMINF_shutdown:
                self.store.domain_shutdown(domid)

    def pump(self) -> None:
        """Visit every ring until none has anything to do."""
        busy = True
        while busy:
            busy = False
            for domid in sorted(self.served):
                served = self.served.get(domid)
                if served is not None and served.ring.service():
                    busy = True

    def _ports(self) -> tuple[int, ...]:
        return (self._virq, *(served.port for served in self.served.values()))

    def _due(self) -> bool:
        """Events have come, or back ends and tools here have done something that a domain is to hear of."""
        # Looked up anew each time: domains are introduced while the task waits.
        return self.api.fired(*self._ports()) or any(served.ring.can_send for served in self.served.values())

    async def run(self) -> None:
        """The daemon's task."""
        while True:
            await self.api.wait_until(self._due)
            if self._virq in self.api.take_fired(*self._ports()):
                self.check_domains()
            self.pump()
