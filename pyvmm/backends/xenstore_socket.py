"""The XenStore daemon's socket on a running host: clients of the outside, and virtual time while nobody runs.

Requests are taken between two slices, and while nobody can run; each arrival is an event of the trace (XS_SOCKET)
before the store acts on it. What a client sends changes nothing else: not how long slices are, nor, on an idle host, at
which virtual time its requests are answered; guests and daemons wake only for what they watch. So a record of the
arrivals is enough to repeat a run, and an idle host gives the same requests in the same order the same trace.

While nobody can run and a timer is set, virtual time does not rush there: the wait lasts as long on the host's clock,
so that a guest that sleeps for a second lets the host sleep for one, and listen. The timer fires at its virtual time
all the same.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pyvmm.backends.xenstored import Xenstored
from pyvmm.errors import UsageError
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.runstate import wake
from pyvmm.xenstore.socket import SocketError, SocketServer

LINGER = 0.0003  # seconds for which the next request of a client in a dialogue is waited for
DIALOGUE = 0.02  # seconds of a dialogue after which guests run again
SECOND = 1_000_000_000


class XenstoreSocket:
    """Serves `xenstored`'s store at `path` while the host runs (`pyvmm.host.Outside`). `UsageError`: the socket cannot
    be made."""

    def __init__(self, xenstored: Xenstored, path: str | Path) -> None:
        self._xenstored = xenstored
        self._hv = xenstored.api.v.hv
        self.stopped = False
        try:
            self.server = SocketServer(xenstored.store, path, self)
        except SocketError as error:
            raise UsageError(str(error)) from None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.server.wake_on(self._wake_read)
        # Where virtual and host time went apart: instructions retired, virtual time, host time. Of one idle period.
        self._idle_since: tuple[int, int, float] | None = None

    @property
    def wake_fd(self) -> int:
        """A byte written here ends a wait: for `signal.set_wakeup_fd`."""
        return self._wake_write

    def stop(self) -> None:
        """End the run at the next opportunity. May be called by a signal handler."""
        self.stopped = True

    def close(self) -> None:
        """Disconnect the clients and remove the socket."""
        self.server.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- pyvmm.host.Outside ---

    def poll(self) -> bool:
        """See `pyvmm.host.Outside.poll`."""
        self._attend(0)
        return self.stopped

    def idle(self) -> bool:
        """See `pyvmm.host.Outside.idle`."""
        hv = self._hv
        if any(v.runnable for domain in hv.domains.values() for v in domain.vcpus):
            return True
        machine, deadline = hv.machine, hv.timers.next()
        if deadline is None:
            self._idle_since = None
            self._attend(None)
            return True
        if self._idle_since is None or self._idle_since[0] != machine.instructions:
            self._idle_since = (machine.instructions, machine.now, time.monotonic())
        _, since, began = self._idle_since
        left = (deadline - since) / SECOND - (time.monotonic() - began)
        if left <= 0:
            return False
        self._attend(left)
        return True

    def _attend(self, seconds: float | None) -> None:
        """Wait for clients, and carry on a dialogue for a moment: a client that reads a tree asks again and again."""
        heard = again = self.server.poll(seconds)
        end = time.monotonic() + DIALOGUE
        while again and time.monotonic() < end:
            again = self.server.poll(LINGER)
        if heard:
            self._xenstored.pump()
            if self._xenstored.api.has_work:
                wake(self._xenstored.api.v)

    # --- pyvmm.xenstore.socket.Observer ---

    def _record(self, client: int, what: str, data: bytes = b"") -> None:
        bus = self._hv.trace
        if bus.on:
            bus.emit(trace.XS_SOCKET, 0, 0, client, what, data)

    def connected(self, client: int) -> None:
        """A client has come."""
        self._record(client, "connected")

    def received(self, client: int, data: bytes) -> None:
        """It has sent these bytes."""
        self._record(client, "data", data)

    def disconnected(self, client: int, reason: str) -> None:
        """It is gone."""
        self._record(client, reason)


__all__ = ["XenstoreSocket"]
