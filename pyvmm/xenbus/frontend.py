"""A front end in Python: the other end of `backend`, driven by the same table.

`Frontend` is one device of a native guest. A kind of device is a `FrontPath`: it makes the rings and uses the device.
Nothing here waits: a task of the guest calls `run` whenever something may have changed (a watch event, an event on the
control port, VIRQ_NOXS).
"""

from __future__ import annotations

from typing import Protocol

from pyvmm.xenbus.backend import Connection, DeviceError, Features
from pyvmm.xenbus.states import OPENING, Action, End, Negotiation, Row, State, Why, find


class FrontPath(Protocol):
    """One device's data, as its front end moves it. `DeviceError` for what the back end does wrong."""

    def publish(self, backend_domid: int, offered: Features) -> Connection:
        """Make rings and ports, given what the back end offers. `DeviceError`: `release` follows."""

    def start(self, details: Features) -> None:
        """The back end is connected and has told the details."""

    def stop(self) -> None:
        """Begin nothing new: the connection is going."""

    def release(self) -> None:
        """Take everything back that `publish` made."""


class FrontChannel(Protocol):
    """The front end's side of a negotiation about one device."""

    negotiation: Negotiation
    backend_domid: int
    published_state: State

    def other(self) -> State:
        """The back end's state, read now; UNKNOWN when there is none."""

    def enter(self, state: State, connection: Connection | None = None) -> None:
        """Publish `connection`, if given; then enter `state`, then tell the back end."""

    def hear(self) -> Features:
        """What the back end has said so far."""

    def release(self) -> None:
        """Give back what the negotiation itself holds."""


class Frontend:
    """One device's front end. It wants to be open until `close`, or until the back end closes; `open` makes it want to
    again."""

    def __init__(self, channel: FrontChannel, path: FrontPath, state: State = State.INITIALISING) -> None:
        self.channel = channel
        self.path = path
        self.state = state
        self.wanted = True
        self.started = False
        self.reports: list[str] = []

    def open(self) -> None:
        """Let the device be used (again)."""
        self.wanted = True

    def close(self) -> None:
        """Let the device go: `run` then leads to CLOSED."""
        self.wanted = False

    def step(self) -> bool:
        """Look at the other end once and take the row that fits, if any. Whether one was taken."""
        return self.act(self.channel.other())

    def act(self, other: State) -> bool:
        """Take the row that fits when the other end is seen in the state `other`. Whether there is one."""
        row = self._row(other)
        return row is not None and self._take(row, other)

    def run(self) -> None:
        """`step` as long as something happens."""
        while self.step():
            pass

    def fail(self, cause: str) -> None:
        """The back end did something wrong: stop, and stay closed until `open`."""
        self.reports.append(cause)
        self.wanted = False
        row = find(End.FRONT, self.channel.negotiation, self.state, self.channel.other(), Why.FAILED)
        if row is not None:
            self._enter(row, None)

    def _find(self, other: State, why: Why, to: State | None = None) -> Row | None:
        return find(End.FRONT, self.channel.negotiation, self.state, other, why, to=to)

    def _row(self, other: State) -> Row | None:
        if not self.wanted:
            row = self._find(other, Why.CLOSE)
            if row is not None:
                return row
        row = self._find(other, Why.SEEN)
        if row is not None and row.action is Action.START and self.started:
            row = None
        if row is not None and (self.wanted or row.action not in OPENING):
            return row
        if not self.wanted:
            return None
        published = self.channel.published_state if self.state is State.INITIALISING else None
        return self._find(other, Why.OPEN, published)

    def _take(self, row: Row, other: State) -> bool:
        connection = None
        try:
            if row.action is Action.PUBLISH:
                connection = self.path.publish(self.channel.backend_domid, self.channel.hear())
            elif row.action is Action.START:
                self.path.start(self.channel.hear())
                self.started = True
        except DeviceError as error:
            self.reports.append(str(error))
            self.wanted = False
            failed = self._find(other, Why.FAILED)
            assert failed is not None
            row = failed
        self._enter(row, connection)
        return True

    def _enter(self, row: Row, connection: Connection | None) -> None:
        if row.action is Action.STOP:
            self.started = self.wanted = False
            self.path.stop()
        elif row.action is Action.RELEASE:
            self.path.release()
        changed = self.state is not row.to
        self.state = row.to
        if changed:
            self.channel.enter(row.to, connection)


__all__ = ["FrontChannel", "FrontPath", "Frontend"]
