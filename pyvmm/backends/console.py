"""The console daemon, and a console as the host's side sees it.

`Xenconsoled` is a client of the XenStore: for each introduced domain with a `console` directory it maps the ring
through its grant, binds
its port, moves output to the domain's `Console` and input from there to the ring.

**When input is handed over.** Input that was typed ahead (a file, a pipe, `feed`) goes to a guest a line at a time,
when the guest has
nothing else to do; so what it prints does not depend on the host's speed, and runs repeat to the bit. A guest has
nothing else to do when
its input ring is empty and
- nobody in the machine can run (`Xenconsoled.idle`, called by the run loop before it skips to the next timer), or
- it polls: since its last sign of life its vCPUs have retired `POLL_INSTRUCTIONS` instructions, or yielded
`POLL_YIELDS` times. Signs of life
  are output, input taken from the ring, events received, exceptions, and hypercalls other than yielding and
  notifying.
Input of a person at a terminal is handed over when it is typed (and recorded as CONSOLE_INPUT in the trace).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from pyvmm.abi import grant_table as gnttab_abi
from pyvmm.abi.io.console import xencons_interface as ring_abi
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.native import Native
from pyvmm.toolstack.libxc import HypercallError, Libxc
from pyvmm.xenstore import Client, XsError, domids_of

CONSOLE_REF: int = gnttab_abi.GNTTAB_RESERVED_CONSOLE
IN, OUT = ring_abi.in_.offset, ring_abi.out.offset
IN_SIZE, OUT_SIZE = ring_abi.in_.size, ring_abi.out.size
IN_CONS, IN_PROD = ring_abi.in_cons.offset, ring_abi.in_prod.offset
OUT_CONS, OUT_PROD = ring_abi.out_cons.offset, ring_abi.out_prod.offset
POLL_INSTRUCTIONS = 2_000_000
POLL_YIELDS = 64
QUIET_HYPERCALLS = ("sched_op", "event_channel_op")


class Console:
    """A domain's console on the host's side: what it printed, and what is to be typed."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.keep: int | None = None
        """How many bytes of `output` are kept at least; None: all."""
        self.listeners: list[Callable[[bytes], None]] = []
        self._pending = bytearray()
        self._file: BinaryIO | None = None

    @property
    def text(self) -> str:
        """Everything printed so far, or the last of it (`keep`). Bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Call `listener(data)` for everything printed from now on."""
        self.listeners.append(listener)

    def printed(self, data: bytes) -> None:
        """The domain has printed `data`. (The daemon calls this.)"""
        self.output += data
        if self.keep is not None and len(self.output) > 2 * self.keep:
            del self.output[: -self.keep]
        for listener in self.listeners:
            listener(data)

    def feed(self, data: bytes) -> None:
        """Type `data` when the guest has nothing else to do."""
        self._pending += data

    def feed_from(self, file: BinaryIO) -> None:
        """Type what `file` holds, after what was fed before. It is read line by line, when the guest wants one: a
        pipe may block then."""
        self._file = file

    def take_input_of(self, other: Console) -> None:
        """Type what was to be typed on `other`, which is done with."""
        self._pending, other._pending = other._pending, bytearray()
        self._file, other._file = other._file, None

    def next_line(self, limit: int) -> bytes:
        """The next line to type, at most `limit` bytes of it; empty when there is none (any more)."""
        if not self._pending and self._file is not None:
            line = self._file.readline()
            if line:
                self._pending += line
            else:
                self._file = None
        end = self._pending.find(b"\n") + 1 or len(self._pending)
        line = bytes(self._pending[: min(end, limit)])
        del self._pending[: len(line)]
        return line

    @property
    def has_input(self) -> bool:
        """There is, or may be, something to type."""
        return bool(self._pending) or self._file is not None


@dataclass
class Activity:
    """Signs of life of a domain at one moment, and how much it had done by then."""

    signs: tuple[int, ...] = ()
    instructions: int = 0
    yields: int = 0

    def is_polling(self, domain: Domain, progress: int, *quiet: str) -> bool:
        """Whether `domain` has only polled for a while. `progress` counts what its console has moved; `quiet` names
        further hypercalls that are no sign of life."""
        counters = domain.counters
        busy = sum(n for name, n in counters.hypercalls.items() if name not in QUIET_HYPERCALLS and name not in quiet)
        signs = (progress, busy, counters.exceptions, counters.events_received)
        yields = counters.hypercalls.get("sched_op", 0)
        if signs != self.signs:
            self.signs, self.instructions, self.yields = signs, counters.instructions, yields
            return False
        return counters.instructions - self.instructions >= POLL_INSTRUCTIONS or yields - self.yields >= POLL_YIELDS


@dataclass
class Attached:
    """One domain's ring: where it is mapped, our port, and the console it belongs to."""

    domid: int
    va: int
    handle: int
    port: int
    console: Console
    moved: int = 0
    activity: Activity = field(default_factory=Activity)


class Xenconsoled:
    """The daemon. `console_of(domid)` gives the host's side of a domain's console."""

    def __init__(self, xc: Libxc, client: Client, console_of: Callable[[int], Console]) -> None:
        self.xc = xc
        self.api: Native = xc.api
        self.client = client
        self.console_of = console_of
        self.attached: dict[int, Attached] = {}
        client.watch("@introduceDomain", "introduce")
        client.watch("@releaseDomain", "release")

    # -- domains come and go

    def check_domains(self) -> None:
        """Attach to consoles that are new, drain and leave those whose domain is gone."""
        if not self.client.events():
            return
        for domid in sorted(set(self._domids()) - self.attached.keys()):
            if domid != self.api.domid and self.client.is_introduced(domid):
                self._attach(domid)
        for domid in sorted(self.attached):
            self._drain(self.attached[domid])
            if not self.client.is_introduced(domid):
                self._detach(domid)

    def _domids(self) -> list[int]:
        """The domains that have a directory. Whoever may write there can make others, or remove all of them."""
        try:
            return domids_of(self.client.ls("/local/domain"))
        except XsError:
            return []

    def _attach(self, domid: int) -> None:
        try:
            port = self._port(domid)
            va, handle = self.xc.map_grant(domid, CONSOLE_REF)
        except (XsError, ValueError, HypercallError):
            return  # no console, or one that cannot be served
        try:
            local = self.xc.bind_interdomain(domid, port)
        except HypercallError:
            self.xc.unmap_grant(va, handle)
            return
        self.attached[domid] = Attached(domid, va, handle, local, self.console_of(domid))

    def _port(self, domid: int) -> int:
        """The guest's port, as the store has it. `XsError`, `ValueError`: there is none."""
        text = self.client.read(f"/local/domain/{domid}/console/port")
        port = int(text)
        if not 0 <= port <= 0xFFFF_FFFF:
            raise ValueError(text)
        return port

    def _detach(self, domid: int) -> None:
        entry = self.attached.pop(domid)
        self.xc.close_port(entry.port)
        self.xc.unmap_grant(entry.va, entry.handle)

    # -- rings

    def _index(self, entry: Attached, offset: int) -> int:
        return int(struct.unpack("<I", self.api.read(entry.va + offset, 4))[0])

    def _set_index(self, entry: Attached, offset: int, value: int) -> None:
        self.api.write(entry.va + offset, struct.pack("<I", value & 0xFFFFFFFF))

    def _drain(self, entry: Attached) -> None:
        """Take what the guest has printed. Indices that cannot be true are left alone, as xenconsoled does."""
        cons, prod = self._index(entry, OUT_CONS), self._index(entry, OUT_PROD)
        size = (prod - cons) & 0xFFFFFFFF
        if size == 0 or size > OUT_SIZE:
            return
        start = cons % OUT_SIZE
        first = min(size, OUT_SIZE - start)
        data = self.api.read(entry.va + OUT + start, first) + self.api.read(entry.va + OUT, size - first)
        self._set_index(entry, OUT_CONS, prod)
        self.xc.notify(entry.port)
        entry.moved += size
        hv = self.api.v.hv
        if hv.trace.on:
            hv.trace.emit(trace.CONSOLE, entry.domid, 0, data)
        entry.console.printed(data)

    def type(self, domid: int, data: bytes) -> int:
        """Put as much of `data` as fits into the domain's input ring; returns how much that was."""
        entry = self.attached.get(domid)
        if entry is None:
            return 0
        cons, prod = self._index(entry, IN_CONS), self._index(entry, IN_PROD)
        used = (prod - cons) & 0xFFFFFFFF
        data = data[: max(IN_SIZE - used, 0)]
        if not data:
            return 0
        start = prod % IN_SIZE
        first = min(len(data), IN_SIZE - start)
        self.api.write(entry.va + IN + start, data[:first])
        self.api.write(entry.va + IN, data[first:])
        self._set_index(entry, IN_PROD, prod + len(data))
        entry.moved += len(data)
        hv = self.api.v.hv
        if hv.trace.on:
            hv.trace.emit(trace.CONSOLE_INPUT, domid, 0, data)
        self.xc.notify(entry.port)
        return len(data)

    # -- input that waits for its moment

    def _hand_over(self, entry: Attached) -> bool:
        if self._index(entry, IN_CONS) != self._index(entry, IN_PROD):
            return False
        line = entry.console.next_line(IN_SIZE)
        return bool(line) and self.type(entry.domid, line) > 0

    def idle(self) -> bool:
        """Nobody can run: hand a line to the first console that waits for one. Whether one was."""
        return any(entry.console.has_input and self._hand_over(entry) for entry in self._waiting())

    def poll(self) -> None:
        """Between two slices: hand a line to guests that only poll for one."""
        domains = self.api.v.hv.domains
        for entry in self._waiting():
            domain = domains.get(entry.domid)
            if domain is None or not entry.console.has_input:
                continue
            progress = entry.moved + self._index(entry, IN_CONS)
            if entry.activity.is_polling(domain, progress):
                self._hand_over(entry)

    def _waiting(self) -> list[Attached]:
        return [self.attached[domid] for domid in sorted(self.attached)]

    # -- task

    def _due(self, ports: tuple[int, ...]) -> bool:
        return self.client.connection.wants_write or self.api.fired(*ports)

    async def run(self) -> None:
        """The daemon's task."""
        self.check_domains()
        while True:
            ports = {entry.port: entry for entry in self.attached.values()}
            await self.api.wait_until(partial(self._due, tuple(ports)))
            for port in self.api.take_fired(*ports):
                self._drain(ports[port])
            self.check_domains()
