"""One catalogue of typed events for every boundary crossing, and the bus that carries them.

An event is emitted as ``if trace.on: trace.emit(KIND, domid, vcpu_id, *values)``: when nobody listens, the cost is
one attribute test. Values are ints, strings or bytes, never objects, so that text, digest and other sinks need no
knowledge of the emitter. Times are virtual nanoseconds. The order of `CATALOGUE` is part of the digest: append, do
not reorder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

Value = int | str | bytes


class Kind(NamedTuple):
    """One kind of event: its number in the catalogue, its name, the names of its values and what it means."""

    number: int
    name: str
    fields: tuple[str, ...]
    meaning: str


class Event(NamedTuple):
    """Something that crossed a boundary at virtual time `time`, in vCPU `vcpu` of domain `domid`."""

    time: int
    kind: Kind
    domid: int
    vcpu: int
    values: tuple[Value, ...]

    def __str__(self) -> str:
        pairs = " ".join(f"{n}={_text(n, v)}" for n, v in zip(self.kind.fields, self.values, strict=True))
        return f"{self.time:>14} d{self.domid}v{self.vcpu} {self.kind.name} {pairs}".rstrip()


PLAIN = re.compile(r"[\w./:@+-]+")  # strings that need no quotes to stay one word
HEX_FIELDS = frozenset({"rip", "address", "error", "a1", "a2", "a3", "a4", "a5", "mfn", "cr3"})


def _text(name: str, value: Value) -> str:
    if isinstance(value, int):
        return hex(value) if name in HEX_FIELDS else str(value)
    return value if isinstance(value, str) and PLAIN.fullmatch(value) else repr(value)


CATALOGUE: list[Kind] = []


def _kind(name: str, fields: str, meaning: str) -> Kind:
    kind = Kind(len(CATALOGUE), name, tuple(fields.split()), meaning)
    CATALOGUE.append(kind)
    return kind


HYPERCALL = _kind("hypercall", "name a1 a2 a3 a4 a5 result", "a hypercall returned to its caller")
EXCEPTION = _kind(
    "exception", "vector error rip address", "the guest raised an exception (error -1: the vector has none)"
)
BOUNCE = _kind("bounce", "vector rip", "an exception frame was pushed and the guest's handler entered")
EMULATED = _kind("emulated", "mnemonic rip", "a privileged instruction was emulated for the guest")
UPCALL = _kind("upcall", "rip", "the event callback was entered")
EVTCHN_SEND = _kind("evtchn_send", "port remote remote_port", "an interdomain or IPI notification was sent")
EVTCHN_PENDING = _kind("evtchn_pending", "port", "a port of this vCPU's domain became pending")
VIRQ = _kind("virq", "virq port", "a virtual interrupt was raised")
SWITCH = _kind("switch", "from_domid from_vcpu", "the CPU went to this vCPU from another")
BLOCK = _kind("block", "", "the vCPU waits for an event")
WAKE = _kind("wake", "", "the vCPU can run again")
TIMER = _kind("timer", "deadline", "the vCPU's one-shot or periodic timer fired")
DOMAIN_CREATE = _kind("domain_create", "name", "a domain was created")
DOMAIN_SHUTDOWN = _kind("domain_shutdown", "reason", "a domain shut down")
DOMAIN_CRASH = _kind("domain_crash", "cause", "a domain was crashed by the hypervisor")
DOMAIN_DESTROY = _kind("domain_destroy", "", "a domain was destroyed and everything it held is back")
CONSOLE = _kind("console", "data", "text arrived from the domain's console")
CONSOLE_INPUT = _kind("console_input", "data", "input was handed to the domain's console")
NEW_BASEPTR = _kind("new_baseptr", "mfn user", "the vCPU switched its kernel (user=0) or user (user=1) page tables")
PAGE_TABLE = _kind("page_table", "op mfn", "a page table was pinned, unpinned, validated or devalidated")
GRANT = _kind("grant", "op ref remote result", "a grant was mapped, unmapped or copied")
XS_REQUEST = _kind("xs_request", "op tx path result", "a XenStore request was answered")
XS_WATCH = _kind("xs_watch", "path token", "a XenStore watch event was sent")
XS_SOCKET = _kind(
    "xs_socket", "client what data", "a client of the XenStore's socket connected, sent data, or disconnected"
)
NET_FRAME = _kind(
    "net_frame", "switch port flags data", "a guest's frame came into a switch (1: checksum blank, 2: good)"
)
NET_INPUT = _kind("net_input", "switch port data", "a frame came into a switch from the host's side")


class Bus:
    """Carries events from the emitters to whoever listens. `on` is true while somebody does."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._listeners: list[Callable[[Event], None]] = []
        self.on = False

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener(event)` for every event from now on; returns a function that ends it."""
        self._listeners.append(listener)
        self.on = True

        def stop() -> None:
            self._listeners.remove(listener)
            self.on = bool(self._listeners)

        return stop

    def emit(self, kind: Kind, domid: int, vcpu: int, *values: Value) -> None:
        """Send one event to all listeners, in the order in which they began to listen."""
        event = Event(self._now(), kind, domid, vcpu, values)
        for listener in self._listeners:
            listener(event)
