"""The back end's life, whatever the device and however its ends talk.

A `Backend` is one device. It looks at the other end's state, takes the row of `states.TABLE` that fits, does the row's
action with its `DataPath` and enters the row's state through its `BackChannel`; that is all. A kind of device is a
`Driver`: how to make a data path, and the words that each negotiation uses for what the data path says and hears.

What a front end writes is read once (`BackChannel.published`), checked, and then used. Whatever it gets wrong is a
`DeviceError`: the device is closed, the cause reported once, everything held is given back, and nobody else notices.
An exception that nobody expected (a mistake of ours) ends in the same way, and its report says what and where it was.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyvmm.xenbus.resources import Resources
from pyvmm.xenbus.states import OPENING, Action, End, Negotiation, Row, State, Why, find
from pyvmm.xenbus.words import PageWords, StoreWords

Value = int | str | bytes
Features = Mapping[str, Value]
"""What one end tells the other: the negotiations know which node or field stands for which name."""

LAST_REPORTS = 256  # that are kept: a guest that breaks its device again and again must not fill the host's memory


class DeviceError(Exception):
    """This device cannot go on: the cause, for people, in one line."""


def cause_of(error: Exception) -> str:
    """What to report of an exception that came out of a device's work. One that is no `DeviceError` is a mistake of
    ours: its kind and its place are needed to find it."""
    if isinstance(error, DeviceError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())}"


@dataclass(frozen=True)
class Connection:
    """What both negotiations end with. `rings`: for each ring the grant references of its pages; `ports`: the front
    end's unbound event channels; `features`: what else the front end said."""

    domid: int
    rings: tuple[tuple[int, ...], ...] = ()
    ports: tuple[int, ...] = ()
    features: Features = field(default_factory=dict)


class DataPath(Protocol):
    """One device's data, as its back end moves it. Raises `DeviceError`, and nothing else, for what the front end (or
    the disk, the network) does wrong; the life cycle then calls `stop`."""

    def probe(self) -> Features:
        """Get hold of what is behind the device; what to offer. Called again each time the front end begins anew."""

    def connect(self, connection: Connection) -> Features:
        """Map the rings, bind the ports; the details to tell. May raise halfway: `stop` is called then."""

    def ports(self) -> tuple[int, ...]:
        """Our ends of the bound ports, while connected."""

    def serve(self) -> None:
        """An event has come on one of `ports`, or may have: do what there is to do."""

    def stop(self) -> None:
        """Unmap, close, forget; what front ends still wait for is answered no more. May be called at any time."""

    def close(self) -> None:
        """The device goes away: let go of what `probe` got hold of."""


@dataclass(frozen=True)
class Site:
    """Where a data path works: what it is made with. `fail(cause)` closes the device from outside of the data path's
    own methods (a switch that delivers a frame, a timer)."""

    resources: Resources
    domid: int
    devid: int
    config: Any
    fail: Callable[[str], None]


@dataclass(frozen=True)
class Driver:
    """A kind of device: "vbd", how to make its data path, and its words in each negotiation."""

    kind: str
    make: Callable[[Site], DataPath]
    store: StoreWords | None
    page: PageWords | None


class BackChannel(Protocol):
    """The back end's side of a negotiation about one device."""

    negotiation: Negotiation

    def other(self) -> State:
        """The front end's state, read now. A number that is no state is UNKNOWN."""

    def enter(self, state: State, say: Features) -> None:
        """Say `say`, then enter `state`, then tell the front end."""

    def tell(self, say: Features) -> None:
        """Say `say` in the state that we are in, then tell the front end."""

    def published(self) -> Connection:
        """What the front end has published, each word read once. `DeviceError` when that is no connection."""

    def report(self, cause: str) -> None:
        """Leave the cause of a failure where people look for it."""

    def release(self) -> None:
        """The back end is gone: give back what the negotiation itself held."""


class Backend:
    """One device's back end. `reports` are the causes of failures, one each; `closed_for_good` once a removal is
    through. `step` after every sign of life of the other end, `serve` after events on `path.ports()`."""

    def __init__(
        self,
        channel: BackChannel,
        make: Callable[[Callable[[str], None]], DataPath],
        *,
        state: State,
        on_report: Callable[[str], None] | None = None,
    ) -> None:
        self.channel = channel
        self.state = state
        self.removing = False
        self.broken = False  # there is no device to offer: it is not tried again
        self.reports: list[str] = []
        self._on_report = on_report
        self._released = False
        self.path = make(self.fail)

    # -- what moves it

    def step(self) -> bool:
        """Look at the other end once, and take the row that fits, if any. Whether one was taken."""
        return not self._released and self.act(self.channel.other())

    def act(self, other: State) -> bool:
        """Take the row that fits when the other end is seen in the state `other`. Whether there is one."""
        row = self._row(other)
        return row is not None and self._take(row, other)

    def run(self) -> None:
        """`step` as long as something happens."""
        while self.step():
            pass

    def serve(self) -> None:
        """Events came: the data path works; what it finds wrong closes the device."""
        if self.state is State.CONNECTED and not self._released:
            try:
                self.path.serve()
            except Exception as error:
                self.fail(cause_of(error))

    def tell(self, say: Features) -> None:
        """Say something while connected (a command, a changed size)."""
        if self.state is State.CONNECTED and not self._released:
            self.channel.tell(say)

    def remove(self) -> None:
        """The device is to go (hot-remove): from now on, `step` leads to CLOSED and stays there."""
        self.removing = True

    def fail(self, cause: str) -> None:
        """Something is wrong on this side: report it, stop, and go to Closing. Nothing when that was done already."""
        if self._released or self.state in (State.CLOSING, State.CLOSED):
            return
        self._report(cause)
        row = find(End.BACK, self.channel.negotiation, self.state, self.channel.other(), Why.FAILED)
        if row is not None:
            self._enter(row, {})

    def release(self) -> None:
        """Without a word to the other end (its domain is gone, or we are to die): everything held goes back."""
        if not self._released:
            self._released = True
            with ExitStack() as every:  # each of them is done, whatever becomes of the others
                every.callback(self.channel.release)
                every.callback(self.path.close)
                every.callback(self.path.stop)

    @property
    def closed_for_good(self) -> bool:
        """A removal has been seen through: only `release` is left to do."""
        return self.removing and self.state is State.CLOSED

    # -- rows

    def _row(self, other: State) -> Row | None:
        negotiation = self.channel.negotiation
        if self.removing:
            row = find(End.BACK, negotiation, self.state, other, Why.CLOSE)
            if row is not None:
                return row
        row = find(End.BACK, negotiation, self.state, other, Why.SEEN)
        if row is not None and row.action in OPENING and (self.removing or self.broken):
            return None
        return row

    def _take(self, row: Row, other: State) -> bool:
        say: Features = {}
        try:
            if row.action is Action.PROBE:
                say = self.path.probe()
            elif row.action is Action.CONNECT:
                say = self.path.connect(self.channel.published())
        except Exception as error:
            self.broken |= row.action is Action.PROBE
            self._report(cause_of(error))
            failed = find(End.BACK, self.channel.negotiation, self.state, other, Why.FAILED)
            assert failed is not None
            row, say = failed, {}
        self._enter(row, say)
        return True

    def _enter(self, row: Row, say: Features) -> None:
        if row.action is Action.STOP:
            self.path.stop()
        self.state = row.to
        self.channel.enter(row.to, say)

    def _report(self, cause: str) -> None:
        self.reports.append(cause)
        del self.reports[:-LAST_REPORTS]
        self.channel.report(cause)
        if self._on_report is not None:
            self._on_report(cause)


__all__ = [
    "BackChannel",
    "Backend",
    "Connection",
    "DataPath",
    "DeviceError",
    "Driver",
    "Features",
    "Site",
    "Value",
    "cause_of",
]
