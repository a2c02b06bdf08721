"""A learning Ethernet switch: what a bridge is to a real host. It knows ports and frames, nothing of Xen.

What it does, as a Linux bridge without spanning tree does: it learns behind which port a station is from the frames
that come from there, sends a frame for a known station there only, one for an unknown station or a group to all ports
but the one it came from, and forgets a station that was silent for `AGEING`. All of it is in the order in which ports
were attached, in virtual time and in bounded memory, so runs repeat.

Facts: IEEE 802.1D-2004 7.8 to 7.10 (learning, ageing, reserved group addresses); Linux's net/bridge (limits).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pyvmm.backends import checksum
from pyvmm.errors import ConfigError

ADDRESS = 6
HEADER = 14  # two addresses and a type
TAG = 4  # one VLAN tag may come on top
DEFAULT_MTU = 1500
SMALLEST_MTU = 68  # IPv4's
LARGEST_MTU = 65535 - HEADER
AGEING = 300 * 1_000_000_000  # virtual nanoseconds
MOST_STATIONS = 4096
MOST_PORTS = 1024
MOST_WAITING = 4096  # frames inside the switch at once: more than the largest ring holds
BROADCAST = b"\xff" * ADDRESS
# 01-80-C2-00-00-01 to -0F are never forwarded; -00 is spanning tree's, which a bridge that has none forwards.
RESERVED = frozenset(b"\x01\x80\xc2\x00\x00" + bytes([last]) for last in range(1, 16))


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame without its frame check sequence. `blank`: its TCP or UDP checksum is still to be computed,
    which also means that its data is as its sender meant it; `validated`: its checksum was found right."""

    data: bytes
    blank: bool = False
    validated: bool = False

    def completed(self) -> Frame:
        """The frame as it goes onto a wire, with its checksum. `ValueError` for a blank frame that can have none."""
        return replace(self, data=checksum.complete(self.data), blank=False, validated=False) if self.blank else self


class Port(Protocol):
    """What the switch sends frames to."""

    name: str
    monitor: bool
    """It gets all frames that come into the switch, and is not a station's port."""
    outside: bool
    """What comes from there depends on something else than the run: it is recorded as input."""
    domid: int
    """The domain behind it."""

    def deliver(self, frame: Frame) -> None:
        """Take a frame. It may send others, they are forwarded after this one."""

    def flush(self) -> None:
        """No more frames will come for now: hand over those that were delivered."""


class Station(NamedTuple):
    """Where a station is, and when it was last heard of."""

    port: Port
    seen: int


class Statistics(NamedTuple):
    """What a switch has done. `dropped`: frames by cause. `not_learned`: stations for which there was no room."""

    frames: int
    forwarded: int
    flooded: int
    dropped: dict[str, int]
    not_learned: int
    stations: int
    ports: int


class Switch:
    """`now` gives virtual nanoseconds; `observe(port, frame)` is called for every frame that comes in."""

    def __init__(
        self,
        name: str,
        now: Callable[[], int],
        *,
        observe: Callable[[Port, Frame], None] | None = None,
        mtu: int = DEFAULT_MTU,
        ageing: int = AGEING,
        stations: int = MOST_STATIONS,
    ) -> None:
        if not SMALLEST_MTU <= mtu <= LARGEST_MTU:
            raise ConfigError(f"an MTU of {mtu}: it is from {SMALLEST_MTU} to {LARGEST_MTU}")
        self.name = name
        self.mtu = mtu
        self._now = now
        self._observe = observe
        self._ageing = ageing
        self._most = stations
        self._ports: list[Port] = []
        self._monitors: list[Port] = []
        self._stations: dict[bytes, Station] = {}  # oldest news first
        self._waiting: deque[tuple[Port, Frame]] = deque()
        self._touched: dict[Port, None] = {}  # delivered to and not flushed yet, in that order
        self._busy = False
        self._frames = self._forwarded = self._flooded = self._not_learned = 0
        self._dropped: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Switch {self.name}, {len(self._ports)} ports>"

    @property
    def ports(self) -> tuple[Port, ...]:
        """All ports, in the order in which they were attached; monitors last."""
        return (*self._ports, *self._monitors)

    @property
    def stations(self) -> MappingProxyType[bytes, Station]:
        """What was learned: address to station. An entry may be too old to count."""
        return MappingProxyType(self._stations)

    def attach(self, port: Port) -> None:
        """Connect a port. `ConfigError`: there is one of that name, or no room."""
        if any(other.name == port.name for other in self.ports):
            raise ConfigError(f"{self.name} has a port {port.name} already")
        if len(self._ports) >= MOST_PORTS:
            raise ConfigError(f"{self.name} has {MOST_PORTS} ports, no more fit")
        (self._monitors if port.monitor else self._ports).append(port)

    def detach(self, port: Port) -> None:
        """Disconnect a port and forget the stations behind it. Nothing if it is not connected."""
        ports = self._monitors if port.monitor else self._ports
        if port in ports:
            ports.remove(port)
        for address in [address for address, station in self._stations.items() if station.port is port]:
            del self._stations[address]

    def statistics(self) -> Statistics:
        """What was done so far."""
        return Statistics(
            self._frames,
            self._forwarded,
            self._flooded,
            dict(sorted(self._dropped.items())),
            self._not_learned,
            len(self._stations),
            len(self.ports),
        )

    # -- forwarding

    def input(self, port: Port, frame: Frame) -> None:
        """A frame comes in from `port`: it is forwarded before this returns, or, when this is called by a port that
        is being delivered to, right after that."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped["too many at once"] += 1
            return
        self._waiting.append((port, frame))
        self._drain()

    def input_all(self, port: Port, frames: Iterable[Frame]) -> None:
        """Several frames in a row: the ports they go to are told once."""
        for frame in frames:
            if len(self._waiting) >= MOST_WAITING:
                self._dropped["too many at once"] += 1
                continue
            self._waiting.append((port, frame))
        self._drain()

    def _drain(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                while self._waiting:
                    self._forward(*self._waiting.popleft())
                touched, self._touched = self._touched, {}
                for port in touched:
                    port.flush()
        finally:
            self._waiting.clear()
            self._touched.clear()
            self._busy = False

    def _forward(self, port: Port, frame: Frame) -> None:
        self._frames += 1
        if self._observe is not None:
            self._observe(port, frame)
        data = frame.data
        if len(data) < HEADER:
            self._dropped["shorter than a header"] += 1
            return
        for monitor in list(self._monitors):
            if monitor is not port:
                self._deliver(monitor, frame)
        # A tag does not count; who sends one longer than that is told by nobody, as on a wire.
        if len(data) > self.mtu + HEADER + (TAG if data[12:14] == b"\x81\x00" else 0):
            self._dropped["longer than the MTU"] += 1
            return
        to, sender = data[:ADDRESS], data[ADDRESS : 2 * ADDRESS]
        if sender[0] & 1 or not any(sender):
            self._dropped["from an address of no station"] += 1
            return
        self._learn(sender, port)
        if to in RESERVED:
            self._dropped["for this switch only"] += 1
            return
        station = self._find(to)
        if station is not None:
            if station.port is port:
                self._dropped["for a station on the same port"] += 1
                return
            self._forwarded += 1
            self._deliver(station.port, frame)
            return
        self._flooded += 1
        for other in list(self._ports):
            if other is not port and other in self._ports:  # a port may go while others are delivered to
                self._deliver(other, frame)

    def _deliver(self, port: Port, frame: Frame) -> None:
        self._touched[port] = None
        port.deliver(frame)

    def _find(self, address: bytes) -> Station | None:
        if address[0] & 1:
            return None
        station = self._stations.get(address)
        if station is not None and self._now() - station.seen > self._ageing:
            del self._stations[address]
            return None
        return station

    def _learn(self, address: bytes, port: Port) -> None:
        if port not in self._ports:
            return
        now = self._now()
        old = self._stations.pop(address, None)
        if old is None and len(self._stations) >= self._most:
            oldest = next(iter(self._stations))
            if now - self._stations[oldest].seen <= self._ageing:
                self._not_learned += 1
                return
            del self._stations[oldest]
        self._stations[address] = Station(port, now)


__all__ = ["AGEING", "DEFAULT_MTU", "Frame", "Port", "Station", "Statistics", "Switch"]
