"""Ports of a switch that are no guest's: one for Python code, and what such ports have in common.

>>> from pyvmm.backends.switch import Switch
>>> switch = Switch("xenbr0", now=lambda: 0)
>>> a, b = PythonPort("a"), PythonPort("b")
>>> a.plug(switch); b.plug(switch)
>>> a.send(b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\1" + b"\\x08\\x06" + bytes(46))
>>> b.receive()[:6].hex()
'ffffffffffff'
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pyvmm.backends.switch import Frame, Switch
from pyvmm.errors import ConfigError

KEPT = 4096  # frames that a port keeps for code that does not fetch them


class HostPort:
    """A port with the host at its other end: it is plugged into at most one switch."""

    monitor = False
    outside = True
    domid = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.switch: Switch | None = None
        self.settled: Callable[[], None] = lambda: None
        """Called after frames came in from here: services may have something to do because of them."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def plug(self, switch: Switch) -> None:
        """Connect it. `ConfigError`: it is connected already, or the switch has one of that name or no room."""
        if self.switch is not None:
            raise ConfigError(f"{self.name} is in {self.switch.name} already")
        switch.attach(self)
        self.switch = switch

    def unplug(self) -> None:
        """Disconnect it. Nothing if it is not connected."""
        if self.switch is not None:
            self.switch.detach(self)
            self.switch = None

    def close(self) -> None:
        """Disconnect it and give back what it holds."""
        self.unplug()

    def deliver(self, frame: Frame) -> None:
        """See `Port.deliver`."""
        raise NotImplementedError

    def flush(self) -> None:
        """See `Port.flush`."""


class PythonPort(HostPort):
    """A station that is Python code: `send` and `receive`, or `listen`. Frames are bytes, without frame check
    sequence; their checksums have been computed. `KEPT` frames wait for `receive`, later ones are `lost`."""

    def __init__(self, name: str = "python") -> None:
        super().__init__(name)
        self.received: deque[bytes] = deque()
        self.lost = 0
        self._listener: Callable[[bytes], None] | None = None

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Call `listener(frame)` for every frame that comes, instead of keeping them. It may `send`."""
        self._listener = listener

    def send(self, data: bytes) -> None:
        """Send a frame to the switch, now. `ConfigError` when it is connected to none."""
        if self.switch is None:
            raise ConfigError(f"{self.name} is connected to no switch")
        self.switch.input(self, Frame(bytes(data)))
        self.settled()

    def receive(self) -> bytes | None:
        """The next frame that came, None when there is none."""
        return self.received.popleft() if self.received else None

    def deliver(self, frame: Frame) -> None:
        """See `Port.deliver`."""
        data = frame.completed().data
        if self._listener is not None:
            self._listener(data)
        elif len(self.received) < KEPT:
            self.received.append(data)
        else:
            self.lost += 1


__all__ = ["HostPort", "PythonPort"]
