"""A front end of a vif for tests: a native guest that writes its rings itself, rightly or wrongly, and the vif it talks
to. No negotiation: the data path is given its connection."""

from __future__ import annotations

import struct
from typing import Any

from pyvmm.abi import event_channel as evtchn
from pyvmm.abi import grant_table as gnt
from pyvmm.abi.io import netif as abi
from pyvmm.abi.io.ring import needs_notify, sring
from pyvmm.backends.switch import Switch
from pyvmm.backends.vif import Network, Vif, VifConfig
from pyvmm.hypervisor import event_channel
from pyvmm.toolstack.libxc import Libxc
from pyvmm.xenbus.backend import Connection, DeviceError, Site
from pyvmm.xenbus.resources import Resources
from tests.hypervisor.native_host import PAGE, Guest, NativeHost

TX_PAGE, RX_PAGE, FIRST_PAGE = 20 * PAGE, 21 * PAGE, 22 * PAGE
TX_REF, RX_REF, FIRST_REF = 8, 9, 16
SLOTS = 256
FEATURES: dict[str, int | str | bytes] = {"request_rx_copy": 1, "rx_notify": 1, "sg": 1}


class Bench:
    """dom0 with a network and two guests, each with a vif on one switch."""

    def __init__(self) -> None:
        self.host = NativeHost(memory=32 << 20)
        self.hv = self.host.hv
        self.xc = Libxc(self.host.dom0.api)
        self.xc.allow_memory(0, 4 << 20)
        self.resources = Resources(self.xc)
        self.seen: list[tuple[str, bytes]] = []
        self.switch = Switch(
            "xenbr0", lambda: self.hv.machine.now, observe=lambda port, frame: self.seen.append((port.name, frame.data))
        )
        self.network = Network(self.resources, lambda name: self.switch)
        self.failures: list[str] = []

    def front(self, guest: Guest, **config: Any) -> Front:
        """A front end in `guest`, not connected yet."""
        return Front(self, guest, **config)

    def free(self) -> tuple[int, int]:
        """What is left of frames, and how many ports dom0 has open."""
        ports = self.host.dom0.domain.evtchn.ports
        return self.hv.frames.free_count, sum(1 for port in ports if port is not None)


class Front:
    """Rings, grants and ports of one front end."""

    def __init__(self, bench: Bench, guest: Guest, devid: int = 0, **config: Any) -> None:
        self.bench = bench
        self.guest = guest
        self.config = VifConfig(mac=f"00:16:3e:00:00:{guest.domid:02x}", **config)
        self.mac = bytes.fromhex(self.config.mac.replace(":", ""))
        site = Site(bench.resources, guest.domid, devid, self.config, self._fail)
        self.vif: Vif = bench.network.make(site)
        self.tx_prod = self.tx_cons = self.rx_prod = self.rx_cons = 0
        self.event_ports: list[int] = []

    def _fail(self, cause: str) -> None:
        self.bench.failures.append(cause)
        self.vif.stop()

    # -- its own memory

    def write(self, va: int, data: bytes) -> None:
        """Write to the guest's memory."""
        self.guest.api.write(va, data)

    def word(self, page: int, offset: int, value: int | None = None) -> int:
        """Read, or set, an index of a ring."""
        if value is not None:
            self.write(page + offset, struct.pack("<I", value & 0xFFFFFFFF))
        (found,) = struct.unpack("<I", self.guest.api.read(page + offset, 4))
        return int(found)

    def grant(self, ref: int, va: int, flags: int = gnt.GTF_permit_access, domid: int = 0) -> int:
        """Grant the page at `va`."""
        self.guest.write_entry(ref, flags, domid, self.guest.mfn(va))
        return ref

    def page(self, number: int) -> int:
        """Address of the front end's data page `number`; it is granted as FIRST_REF + number."""
        va = FIRST_PAGE + number * PAGE
        self.grant(FIRST_REF + number, va)
        return va

    # -- connecting

    def unbound(self) -> int:
        """A port that dom0 may bind."""
        _, answer = self.guest.evtchn(evtchn.EVTCHNOP_alloc_unbound, evtchn.evtchn_alloc_unbound, dom=0x7FF0)
        port: int = answer.port
        return port

    def connection(self, *, split: bool = False, **features: int) -> Connection:
        """Fresh rings, granted; ports."""
        for page in (TX_PAGE, RX_PAGE):
            self.write(page, bytes(PAGE))
            self.word(page, sring.req_event.offset, 1)
            self.word(page, sring.rsp_event.offset, 1)
        self.grant(TX_REF, TX_PAGE)
        self.grant(RX_REF, RX_PAGE)
        self.event_ports = [self.unbound() for _ in range(2 if split else 1)]
        self.tx_prod = self.tx_cons = self.rx_prod = self.rx_cons = 0
        said = {**FEATURES, **features}
        return Connection(self.guest.domid, ((TX_REF,), (RX_REF,)), tuple(self.event_ports), said)

    def connect(self, *, rx: int = 0, split: bool = False, **features: int) -> Front:
        """Probe, connect, and post `rx` buffers."""
        self.vif.probe()
        self.vif.connect(self.connection(split=split, **features))
        self.post(rx)
        return self

    def serve(self) -> None:
        """What the life cycle does after an event."""
        try:
            self.vif.serve()
        except DeviceError as error:
            self._fail(str(error))

    # -- tx

    def put(self, data: bytes) -> Front:
        """One raw slot onto the tx ring, not pushed yet."""
        self.write(TX_PAGE + sring.size + self.tx_prod % SLOTS * 12, data.ljust(12, b"\0"))
        self.tx_prod += 1
        return self

    def request(self, ref: int, size: int, *, offset: int = 0, flags: int = 0, number: int | None = None) -> Front:
        """One tx request."""
        number = self.tx_prod & 0xFFFF if number is None else number
        return self.put(abi.netif_tx_request.pack(gref=ref, offset=offset, flags=flags, id=number, size=size))

    def push(self) -> bool:
        """Make the requests visible; whether the back end wants to be notified."""
        old = self.word(TX_PAGE, sring.req_prod.offset)
        self.word(TX_PAGE, sring.req_prod.offset, self.tx_prod)
        return needs_notify(old, self.tx_prod & 0xFFFFFFFF, self.word(TX_PAGE, sring.req_event.offset))

    def send(self, frame: bytes, flags: int = 0, *, number: int = 0) -> list[tuple[int, int]]:
        """A frame in as many pages as it needs; the responses (id, status)."""
        parts = [frame[i : i + PAGE] for i in range(0, len(frame), PAGE)]
        for i, part in enumerate(parts):
            self.write(self.page(number + i), part)
            more = abi.NETTXF_more_data if i + 1 < len(parts) else 0
            size = len(frame) if i == 0 else len(part)
            self.request(FIRST_REF + number + i, size, flags=(flags if i == 0 else 0) | more)
        self.push()
        self.serve()
        return self.responses()

    def responses(self) -> list[tuple[int, int]]:
        """New tx responses: (id, status)."""
        found = []
        for i in range(self.tx_cons, self.word(TX_PAGE, sring.rsp_prod.offset)):
            slot = self.guest.api.read(TX_PAGE + sring.size + i % SLOTS * 12, 4)
            answer = abi.netif_tx_response.unpack(slot)
            found.append((answer.id, answer.status))
        self.tx_cons += len(found)
        return found

    # -- rx

    def post(self, count: int, *, ref: int | None = None) -> None:
        """Post rx buffers: data pages from number 20 on."""
        for _ in range(count):
            number = 20 + self.rx_prod % 20
            self.page(number)
            request = abi.netif_rx_request.pack(id=self.rx_prod & 0xFFFF, gref=ref or FIRST_REF + number)
            self.write(RX_PAGE + sring.size + self.rx_prod % SLOTS * 8, request)
            self.rx_prod += 1
        self.word(RX_PAGE, sring.req_prod.offset, self.rx_prod)

    def received(self) -> list[tuple[bytes, int]]:
        """New frames: (data, flags of the first response). A response with an error counts as the empty frame."""
        found: list[tuple[bytes, int]] = []
        more = False
        for i in range(self.rx_cons, self.word(RX_PAGE, sring.rsp_prod.offset)):
            answer = abi.netif_rx_response.unpack(self.guest.api.read(RX_PAGE + sring.size + i % SLOTS * 8, 8))
            assert answer.id == i & 0xFFFF and answer.offset == 0
            data = b""
            if answer.status > 0:
                data = self.guest.api.read(FIRST_PAGE + (20 + i % 20) * PAGE, answer.status)
            if more:
                found[-1] = found[-1][0] + data, found[-1][1]
            else:
                found.append((data, answer.flags & ~abi.NETRXF_more_data))
            more = bool(answer.flags & abi.NETRXF_more_data)
            self.rx_cons += 1
        return found

    def events(self) -> list[int]:
        """Which of our ports are pending; they are cleared."""
        return [port for port in event_channel.take_pending(self.guest.v) if port in self.event_ports]


def frame(to: bytes, sender: bytes, payload: bytes = b"", kind: int = 0x88B5) -> bytes:
    """An Ethernet frame; the default type is one for experiments."""
    return to + sender + kind.to_bytes(2, "big") + payload
