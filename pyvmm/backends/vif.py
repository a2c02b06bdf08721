"""The data path of a network interface: frames between a guest's two rings and a switch. It knows no negotiation.

From the guest: all requests on the tx ring are copied out of its pages in one hypercall, answered, and the frames go
into the switch. To the guest: frames wait in a bounded queue for rx requests, and are copied into the guest's pages in
one hypercall. Nothing of the guest is mapped but the two ring pages.

Checksums are offloaded truthfully: a frame that came with a blank checksum goes to another guest as it is, if that
guest takes such, and has it computed before it goes anywhere else.

What the front end gets wrong is one of two things, as in Linux's netback: a packet that cannot be sent is answered with
an error; a broken rule of the ring (`DeviceError`) closes the device. Facts: Xen 4.17 public/io/netif.h; Linux's
drivers/net/xen-netback/{netback,rx,interface}.c for what that header leaves open.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pyvmm.abi import grant_table as gnttab_abi
from pyvmm.abi import xen
from pyvmm.abi.io import netif as abi
from pyvmm.backends import checksum
from pyvmm.backends.switch import BROADCAST, DEFAULT_MTU, HEADER, LARGEST_MTU, SMALLEST_MTU, TAG, Frame, Switch
from pyvmm.backends.vif_ring import BackRing
from pyvmm.backends.vif_tx import Packet, Piece, packets
from pyvmm.errors import ConfigError
from pyvmm.toolstack.devices import check_mac
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.xenbus.backend import Connection, DeviceError, Features, Site, cause_of
from pyvmm.xenbus.resources import Mapping as GrantMapping
from pyvmm.xenbus.resources import Page, Resources

PAGE = 4096
BUFFER_PAGES = 32  # that frames of all interfaces are copied through
QUEUE_BYTES = 128 * PAGE  # that wait for rx requests: half a ring of whole pages, as netback has it
QUEUE_TIME = 10 * 1_000_000_000  # virtual nanoseconds after which a frame that waited is of no use any more
MOST_GROUPS = 64  # entries of the multicast filter
NO_RING = 0xFFFF_FFFF  # a grant reference that says that there is none yet

OFFER: Mapping[str, int] = {
    "sg": 1,
    "gso_tcpv4": 0,
    "gso_tcpv6": 0,
    "ipv6_csum_offload": 1,
    "rx_copy": 1,
    "rx_flip": 0,
    "multicast_control": 1,
    "split_event_channels": 1,
    "multi_queue_max_queues": 1,
    "ctrl_ring": 0,
}
"""What every interface offers."""

# struct gnttab_copy, flat: a grant or a frame on each side.
_COPY = struct.Struct("<QHH4xQHH4xHHh2x")
assert _COPY.size == gnttab_abi.gnttab_copy.size


@dataclass(frozen=True)
class VifConfig:
    """What the toolstack says of an interface. `mac`: the guest's address; `name`: of the switch's port."""

    mac: str
    bridge: str = "xenbr0"
    ip: str | None = None
    mtu: int = DEFAULT_MTU
    name: str | None = None
    handle: int = 0

    @property
    def mac_bytes(self) -> bytes:
        """The address as it stands in a frame. `DeviceError` when it is none."""
        try:
            return bytes.fromhex(check_mac(self.mac).replace(":", ""))
        except ValueError as error:
            raise DeviceError(f"mac: expected {error}") from None

    @property
    def ip_number(self) -> int:
        """The IPv4 address (without the length of its network) as in_addr_t: its first byte comes first in memory. 0
        when there is none, or one that is not IPv4."""
        with suppress(ValueError):
            return int.from_bytes(IPv4Address((self.ip or "").partition("/")[0]).packed, "little")
        return 0


@dataclass
class Counts:
    """What an interface has moved, seen from the guest: `tx` is what it sent. `refused`, `dropped`: frames by cause,
    of those that it sent and of those for it."""

    tx_frames: int = 0
    tx_bytes: int = 0
    rx_frames: int = 0
    rx_bytes: int = 0
    notified: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


class CopyBuffer:
    """Pages of the back end's domain through which grants are copied, in batches: one for all interfaces."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._pages: list[Page] = []

    def prepare(self) -> None:
        """Get the pages, before they are needed. `HypercallError`: there is no memory."""
        while len(self._pages) < BUFFER_PAGES:
            self._pages.append(self._resources.page())

    def from_guest(self, domid: int, pieces: list[Piece]) -> list[bytes | None]:
        """The bytes of each piece; None where the grant cannot be read."""
        found: list[bytes | None] = []
        for batch in self._batches([piece.size for piece in pieces]):
            operations = []
            for number, page, at in batch:
                piece = pieces[number]
                ours = (page.mfn, xen.DOMID_SELF, at)
                flags = gnttab_abi.GNTCOPY_source_gref
                operations.append(_COPY.pack(piece.ref, domid, piece.offset, *ours, piece.size, flags, 0))
            for (number, page, at), status in zip(batch, self._resources.xc.grant_copy(operations), strict=True):
                size = pieces[number].size
                found.append(None if status else self._resources.api.read(page.va + at, size))
        return found

    def to_guest(self, domid: int, pieces: list[tuple[int, bytes]]) -> list[bool]:
        """Copy each (grant reference, data) to the start of the granted page; which of them could be."""
        done: list[bool] = []
        for batch in self._batches([len(data) for _, data in pieces]):
            operations = []
            for number, page, at in batch:
                ref, data = pieces[number]
                self._resources.api.write(page.va + at, data)
                flags = gnttab_abi.GNTCOPY_dest_gref
                operations.append(_COPY.pack(page.mfn, xen.DOMID_SELF, at, ref, domid, 0, len(data), flags, 0))
            done += [status == gnttab_abi.GNTST_okay for status in self._resources.xc.grant_copy(operations)]
        return done

    def _batches(self, sizes: list[int]) -> Iterable[list[tuple[int, Page, int]]]:
        """Places for data of these sizes, none larger than a page and none across two: (number, page, offset). Each
        list is as much as there is room for at once."""
        batch: list[tuple[int, Page, int]] = []
        page, at = 0, 0
        for number, size in enumerate(sizes):
            if at + size > PAGE:
                page, at = page + 1, 0
            if page == BUFFER_PAGES:
                yield batch
                batch, page, at = [], 0, 0
            batch.append((number, self._pages[page], at))
            at += -(-size // 16) * 16
        if batch:
            yield batch

    def close(self) -> None:
        """Give the pages back."""
        for page in self._pages:
            self._resources.free(page)
        self._pages = []


class Network:
    """What all interfaces of a back end's domain share. `switch(name)` gives the switch that an interface asks for by
    name, or raises `ConfigError`."""

    def __init__(self, resources: Resources, switch: Callable[[str], Switch]) -> None:
        self.resources = resources
        self.switch = switch
        self.buffer = CopyBuffer(resources)
        self.vifs: dict[tuple[int, int], Vif] = {}

    def make(self, site: Site) -> Vif:
        """The data path of one device (`Driver.make`)."""
        return Vif(site, self)

    def close(self) -> None:
        """Give back what is kept for speed."""
        self.buffer.close()


@dataclass
class Rings:
    """What a connected interface holds. `rx_port` is `tx_port` where there is one event channel for both."""

    tx: BackRing
    rx: BackRing
    tx_port: int
    rx_port: int


class Vif:
    """One interface: a data path (`pyvmm.xenbus.backend.DataPath`) and a port of a switch."""

    monitor = False
    outside = False

    def __init__(self, site: Site, network: Network) -> None:
        config = site.config
        assert isinstance(config, VifConfig)
        self.config = config
        self.name = config.name or f"vif{site.domid}.{site.devid}"
        self.domid = site.domid
        self.devid = site.devid
        self.counts = Counts()
        self._site = site
        self._network = network
        self._xc = site.resources.xc
        self._switch: Switch | None = None
        self._mappings: list[GrantMapping] = []
        self._bound: list[int] = []
        self._rings: Rings | None = None
        self._features: Mapping[str, int | str | bytes] = {}
        self._groups: set[bytes] | None = None  # of the multicast filter; None: no filter
        self._queue: deque[tuple[int, Frame]] = deque()  # (when it came, frame)
        self._queued = 0  # bytes

    def __repr__(self) -> str:
        return f"<Vif {self.name}>"

    # -- the life of a data path

    def probe(self) -> Features:
        """Find the switch; what is offered. `DeviceError`: there is no such switch."""
        if not SMALLEST_MTU <= self.config.mtu <= LARGEST_MTU:
            raise DeviceError(f"mtu: expected a number from {SMALLEST_MTU} to {LARGEST_MTU}")
        try:
            self._switch = self._network.switch(self.config.bridge)
        except ConfigError as error:
            raise DeviceError(str(error)) from None
        if self._name_is_taken(self._switch):
            raise DeviceError(f"{self.config.bridge} has a port {self.name} already")
        self._network.vifs[self.domid, self.devid] = self
        return {
            **OFFER,
            "hotplug_status": "connected",
            "num_queues": 1,
            "no_tx_ring": NO_RING,
            "no_rx_ring": NO_RING,
            "handle": self.config.handle,
            "mac": self.config.mac_bytes,
            "ip": self.config.ip_number,
            "bridge": self.config.bridge,
        }

    def _name_is_taken(self, switch: Switch) -> bool:
        """Another port has the name, or another interface will have it once it is connected."""
        others = (vif for vif in self._network.vifs.values() if vif.config.bridge == self.config.bridge)
        return any(port is not self and port.name == self.name for port in (*switch.ports, *others))

    def connect(self, connection: Connection) -> Features:
        """Map the two rings, bind one port or two, become a port of the switch. `DeviceError` for what cannot be."""
        features = self._features = connection.features
        if not features.get("request_rx_copy"):
            raise DeviceError("the front end does not ask for rx-copy; flipping pages was not offered")
        queues = features.get("num_queues", 1)
        if queues != 1:
            raise DeviceError(f"{queues!r} queues, of 1 that was offered")
        if len(connection.rings) != 2 or any(len(refs) != 1 for refs in connection.rings):
            raise DeviceError("not one page for each of two rings")
        if len(connection.ports) not in (1, 2):
            raise DeviceError("neither one event channel nor two")
        try:
            self._network.buffer.prepare()
            for refs in connection.rings:
                self._mappings.append(self._site.resources.map(self.domid, refs))
            for port in connection.ports:
                self._bound.append(self._xc.bind_interdomain(self.domid, port))
        except HypercallError as error:
            raise DeviceError(f"cannot connect: {error}") from None
        api = self._xc.api
        self._rings = Rings(
            BackRing(api, self._mappings[0].va, "tx", abi.netif_tx_request, abi.netif_tx_response),
            BackRing(api, self._mappings[1].va, "rx", abi.netif_rx_request, abi.netif_rx_response),
            self._bound[0],
            self._bound[-1],
        )
        self._groups = set() if features.get("request_multicast_control") else None
        assert self._switch is not None
        try:
            self._switch.attach(self)
        except ConfigError as error:
            raise DeviceError(str(error)) from None
        return {}

    def ports(self) -> tuple[int, ...]:
        """Our ends of the event channels."""
        return tuple(self._bound)

    def serve(self) -> None:
        """Look at both rings. `DeviceError`: a rule of theirs was broken."""
        self._serve_tx()
        self._serve_rx()

    def stop(self) -> None:
        """Leave the switch, unmap, close. Frames that waited for the guest are dropped."""
        self._rings = None
        if self._switch is not None:
            self._switch.detach(self)
        if self._queue:
            self.counts.dropped["disconnected"] += len(self._queue)
        self._queue.clear()
        self._queued = 0
        for port in self._bound:
            with suppress(HypercallError):
                self._xc.close_port(port)
        self._bound = []
        for mapping in self._mappings:
            self._site.resources.unmap(mapping)
        self._mappings = []

    def close(self) -> None:
        """The device is gone."""
        self._network.vifs.pop((self.domid, self.devid), None)
        self._switch = None

    # -- from the guest

    def _serve_tx(self) -> None:
        while self._rings is not None:
            rings = self._rings
            count = rings.tx.waiting()
            if not count:
                rings.tx.ask(1)
                if not rings.tx.waiting():
                    return
                continue
            frames = self._take(rings, packets(rings.tx.take(count)))
            # Answered before they are forwarded: what the frames set in motion may come back to this interface.
            if rings.tx.push():
                self._notify(rings.tx_port)
            if self._switch is not None:
                self._switch.input_all(self, frames)

    def _take(self, rings: Rings, found: list[Packet]) -> list[Frame]:
        """Copy the packets' data, put the answers into the ring; the frames to forward."""
        wanted = [piece for packet in found if not packet.refused for piece in packet.pieces]
        data = iter(self._network.buffer.from_guest(self.domid, wanted))
        frames: list[Frame] = []
        for packet in found:
            status = [abi.NETIF_RSP_OKAY] * len(packet.ids)
            if packet.group is not None:
                if not self._change_filter(*packet.group):
                    status[0] = abi.NETIF_RSP_ERROR
            else:
                parts: list[bytes] = []
                if not packet.refused:
                    for piece in packet.pieces:
                        part = next(data)
                        if part is None:
                            status[piece.slot] = abi.NETIF_RSP_ERROR
                            packet.refused = "a grant that cannot be read"
                        else:
                            parts.append(part)
                    if not packet.refused and packet.size > self._most(b"".join(parts[:1])):
                        packet.refused = "longer than the MTU"
                        status = [abi.NETIF_RSP_ERROR] * len(status)
                else:
                    status = [abi.NETIF_RSP_ERROR] * len(status)
                self._count(packet, b"".join(parts), frames)
            rings.tx.answer(
                [
                    abi.netif_tx_response.pack(id=0, status=abi.NETIF_RSP_NULL)
                    if number is None
                    else abi.netif_tx_response.pack(id=number, status=one)
                    for number, one in zip(packet.ids, status, strict=True)
                ]
            )
        return frames

    def _count(self, packet: Packet, data: bytes, frames: list[Frame]) -> None:
        blank = bool(packet.flags & abi.NETTXF_csum_blank)
        if not packet.refused and blank and checksum.transport(data) is None:
            packet.refused = "a blank checksum where there can be none"  # it was taken all the same, as netback does
        if packet.refused:
            self.counts.refused[packet.refused] += 1
            return
        self.counts.tx_frames += 1
        self.counts.tx_bytes += len(data)
        frames.append(Frame(data, blank, blank or bool(packet.flags & abi.NETTXF_data_validated)))

    def _most(self, data: bytes) -> int:
        return self.config.mtu + HEADER + (TAG if data[12:14] == b"\x81\x00" else 0)

    def _change_filter(self, address: bytes, add: bool) -> bool:
        if self._groups is None:
            return True  # allowed, and of no consequence
        if not add:
            self._groups.discard(address)
        elif len(self._groups) < MOST_GROUPS or address in self._groups:
            self._groups.add(address)
        else:
            return False
        return True

    # -- to the guest

    def deliver(self, frame: Frame) -> None:
        """See `switch.Port`."""
        size = len(frame.data)
        if self._rings is None:
            self.counts.dropped["disconnected"] += 1
        elif size > self._most(frame.data):
            self.counts.dropped["longer than the MTU"] += 1
        elif size > PAGE and not self._features.get("sg"):
            self.counts.dropped["larger than a page"] += 1
        elif self._is_filtered(frame.data[:6]):
            self.counts.dropped["of another group"] += 1
        else:
            if self._queued + size > QUEUE_BYTES:
                self.flush()
            if self._queued + size > QUEUE_BYTES:
                self.counts.dropped["too many wait"] += 1
                return
            self._queue.append((self._xc.api.v.hv.machine.now, frame))
            self._queued += size

    def flush(self) -> None:
        """See `switch.Port`. A broken ring closes this device, and is no concern of who sent the frame."""
        try:
            self._serve_rx()
        except Exception as error:
            self._site.fail(cause_of(error))

    def _is_filtered(self, address: bytes) -> bool:
        groups = self._groups
        return groups is not None and bool(address[0] & 1) and address != BROADCAST and address not in groups

    def _serve_rx(self) -> None:
        rings = self._rings
        if rings is None:
            return
        self._drop_old()
        ready: list[tuple[Frame, list[bytes]]] = []
        while self._queue:
            frame = self._queue[0][1]
            need = -(-len(frame.data) // PAGE)
            if rings.rx.waiting() < need:
                rings.rx.ask(need)
                if rings.rx.waiting() < need:
                    break
            ready.append((self._for_guest(frame), rings.rx.take(need)))
            self._queue.popleft()
            self._queued -= len(frame.data)
        if not self._features.get("rx_notify") and self._queue:
            # It will not say when there are more requests, so nothing can wait for them.
            self.counts.dropped["no rx request"] += len(self._queue)
            self._queue.clear()
            self._queued = 0
        if ready:
            self._put(rings, ready)
            if rings.rx.push():
                self._notify(rings.rx_port)

    def _put(self, rings: Rings, ready: list[tuple[Frame, list[bytes]]]) -> None:
        """Copy the frames to the pages of the requests taken for them, and answer these."""
        slots: list[tuple[int, int, bytes, int]] = []  # (id, grant, data, flags)
        for frame, taken in ready:
            flags = (abi.NETRXF_csum_blank if frame.blank else 0) | (
                abi.NETRXF_data_validated if frame.blank or frame.validated else 0
            )
            for i, slot in enumerate(taken):
                request = abi.netif_rx_request.unpack(slot)
                more = abi.NETRXF_more_data if i + 1 < len(taken) else 0
                data = frame.data[i * PAGE : (i + 1) * PAGE]
                slots.append((request.id, request.gref, data, (flags if i == 0 else 0) | more))
            self.counts.rx_frames += 1
            self.counts.rx_bytes += len(frame.data)
        copied = self._network.buffer.to_guest(self.domid, [(ref, data) for _, ref, data, _ in slots])
        answers = []
        for (number, _, data, flags), done in zip(slots, copied, strict=True):
            status = len(data) if done else abi.NETIF_RSP_ERROR
            if not done:
                self.counts.dropped["a grant that cannot be written"] += 1
            answers.append(abi.netif_rx_response.pack(id=number, offset=0, flags=flags, status=status))
        rings.rx.answer(answers)

    def _for_guest(self, frame: Frame) -> Frame:
        """With its checksum as this guest takes it."""
        if not frame.blank:
            return frame
        part = checksum.transport(frame.data)
        version = part.version if part is not None else 0
        takes = self._features.get("ipv6_csum_offload") if version == 6 else not self._features.get("no_csum_offload")
        return frame if takes else frame.completed()

    def _drop_old(self) -> None:
        limit = self._xc.api.v.hv.machine.now - QUEUE_TIME
        while self._queue and self._queue[0][0] < limit:
            self._queued -= len(self._queue.popleft()[1].data)
            self.counts.dropped["waited too long"] += 1

    def _notify(self, port: int) -> None:
        self.counts.notified += 1
        self._xc.notify(port)


__all__ = ["OFFER", "CopyBuffer", "Counts", "Network", "Vif", "VifConfig"]
