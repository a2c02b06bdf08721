"""What goes to a XenStore that is a domain: every request and its answer, read off the rings as they pass.

Nothing in the domains takes part. A domain tells the store of a message by an event; then the bytes are in the ring's
page, and what called that hypercall is on the domain's stack, as frame pointers. So a message is known with who sent
it: the domain, and the call path within (ring layout: xen/include/public/io/xs_wire.h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pyvmm.abi.io import xs_wire
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.trace import Event
from pyvmm.hypervisor.vcpu import VCpu
from pyvmm.machine.registers import Reg
from pyvmm.report.symbols import Functions
from pyvmm.xenstore.wire import Op, Packet, Parser, ProtocolError

PAGE = 4096
RING = xs_wire.XENSTORE_RING_SIZE
REQUESTS, ANSWERS = 0, RING  # where the two halves of the page begin
COUNTERS = 2 * RING  # req_cons, req_prod, rsp_cons, rsp_prod
DEEPEST = 64  # frames of a stack that are looked at
WORD = 1 << 64


@dataclass
class StoreRequest:
    """One request. `payload` is as it was sent, `frames` the return addresses of the sender's stack (the innermost
    first; none for a native domain), `answer` the reply's packet once there is one."""

    domid: int
    op: int
    transaction: int
    payload: bytes
    frames: tuple[int, ...]
    answer: Packet | None = None

    @property
    def name(self) -> str:
        """The operation, as the protocol's documentation calls it."""
        return Op(self.op).name if self.op in Op._value2member_map_ else f"op {self.op}"

    @property
    def path(self) -> str:
        """The first string of the payload: the node, or the domain that is asked about."""
        return self.payload.partition(b"\0")[0].decode("utf-8", "backslashreplace")

    @property
    def error(self) -> str | None:
        """The error's name when the answer was one."""
        if self.answer is None or self.answer.type != Op.ERROR:
            return None
        return self.answer.payload.rstrip(b"\0").decode("ascii", "replace")


@dataclass
class _Half:
    """One direction of a ring: up to where it has been read, and the message that is coming in."""

    offset: int
    counter: int
    seen: int
    parser: Parser = field(default_factory=Parser)


def _packets(half: _Half, data: bytes) -> Iterator[Packet]:
    while data:
        n = half.parser.missing
        try:
            packet = half.parser.feed(data[:n])
        except ProtocolError:  # a length that cannot be: nothing behind it means anything
            half.parser.clear()
            return
        data = data[n:]
        if packet is not None:
            yield packet


class _Ring:
    def __init__(self, mfn: int) -> None:
        self.base = mfn * PAGE
        self.requests = _Half(REQUESTS, COUNTERS + 4, 0)
        self.answers = _Half(ANSWERS, COUNTERS + 12, 0)
        self.open: dict[int, StoreRequest] = {}  # by request id: those without an answer


class StoreTap:
    """Listens on the rings of `store`, the XenStore's domain, from now on until `stop`. `requests` has what was sent,
    in order; `watch_events` (domid, path, token) what the store told by itself."""

    def __init__(self, hv: Hypervisor, store: Domain) -> None:
        self._hv, self._store = hv, store
        self._ram = hv.machine.ram
        self._rings: dict[int, _Ring] = {}
        self.requests: list[StoreRequest] = []
        self.watch_events: list[tuple[int, str, str]] = []
        for mapping in store.grants.maptrack.values():
            if mapping.flags and (ring := self._ring(mapping.domain)) is not None:
                for half in (ring.requests, ring.answers):
                    half.seen = self._ram.read_u32(ring.base + half.counter)
        self.stop: Callable[[], None] = hv.trace.listen(self._take)

    def _ring(self, domain: Domain) -> _Ring | None:
        """The domain's ring, which is the page of it that the store has mapped."""
        ring = self._rings.get(domain.domid)
        if ring is None:
            for mapping in self._store.grants.maptrack.values():
                if mapping.flags and mapping.domain is domain:
                    active = domain.grants.active[mapping.ref]
                    ring = self._rings[domain.domid] = _Ring(active.mfn)
        return ring

    def _take(self, event: Event) -> None:
        if event.kind is trace.DOMAIN_DESTROY:
            self._rings.pop(event.domid, None)
        if event.kind is not trace.EVTCHN_SEND:
            return
        _, remote, _ = event.values
        if remote == self._store.domid:
            sender = self._hv.domains[event.domid]
            ring = self._ring(sender)
            if ring is not None:
                self._sent(ring, sender, sender.vcpus[event.vcpu])
        elif event.domid == self._store.domid:
            ring = self._ring(self._hv.domains[int(remote)])
            if ring is not None:
                self._answered(ring, int(remote))

    def _read(self, ring: _Ring, half: _Half) -> bytes:
        """What is new in one direction."""
        now = self._ram.read_u32(ring.base + half.counter)
        n = (now - half.seen) & 0xFFFFFFFF
        if n > RING:  # whoever overtakes himself has broken his ring; the store will say so
            half.seen, n = now, 0
        at = half.seen % RING
        data = self._ram.read(ring.base + half.offset + at, min(n, RING - at))
        data += self._ram.read(ring.base + half.offset, n - len(data)) if n > len(data) else b""
        half.seen = now
        return data

    def _sent(self, ring: _Ring, sender: Domain, v: VCpu) -> None:
        for packet in _packets(ring.requests, self._read(ring, ring.requests)):
            request = StoreRequest(sender.domid, packet.type, packet.tx_id, packet.payload, self._frames(v))
            ring.open[packet.req_id] = request
            self.requests.append(request)

    def _answered(self, ring: _Ring, domid: int) -> None:
        for packet in _packets(ring.answers, self._read(ring, ring.answers)):
            if packet.type == Op.WATCH_EVENT:
                path, token = (part.decode("utf-8", "backslashreplace") for part in packet.payload.split(b"\0")[:2])
                self.watch_events.append((domid, path, token))
            elif packet.req_id in ring.open:
                ring.open.pop(packet.req_id).answer = packet

    def _frames(self, v: VCpu) -> tuple[int, ...]:
        """The return addresses on the stack of the vCPU, which is in a hypercall."""
        if v.context is None:
            return ()
        frame, found = self._hv.machine.get(Reg.RBP), list[int]()
        try:
            while frame and len(found) < DEEPEST:
                data = v.space.read(frame, 16)
                above = int.from_bytes(data[:8], "little")
                found.append(int.from_bytes(data[8:], "little"))
                if not frame < above < WORD:
                    break
                frame = above
        except XenError:
            pass  # the end of a stack that does not say so
        return tuple(found)


TOOLSTACK, HOTPLUG, BACK_ENDS, CONSOLE, GUESTS, PREPARE = SENDERS = (
    "toolstack", "hotplug", "back ends", "console", "guests", "prepare",
)  # fmt: skip
FILES = (
    ("pool_fill_one", "pool.c", PREPARE),
    ("hotplug_*", "xl_hotplug.c", HOTPLUG),
    ("*", "back_console.c", CONSOLE),
    ("*", "back*.c", BACK_ENDS),
)
"""Whose a request of dom0 is, by what is on the call path: (pattern of the function, pattern of the file, sender), the
first that is found. Whatever is in none is the toolstack's."""


def sender_of(request: StoreRequest, functions: Functions) -> str:
    """Which of `SENDERS` sent it. `functions`: those of dom0's kernel."""
    if request.domid:
        return GUESTS
    path = functions.of(request.frames)
    for function, file, sender in FILES:
        if any(fnmatchcase(name, function) and fnmatchcase(source, file) for name, source in path):
            return sender
    return TOOLSTACK


__all__ = ["SENDERS", "StoreRequest", "StoreTap", "sender_of"]
