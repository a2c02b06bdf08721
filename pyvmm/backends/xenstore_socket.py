"""The XenStore daemon's socket on a running host: clients of the outside, and virtual time while nobody runs.

Requests are taken between two slices, and while nobody can run; each arrival is an event of the trace (XS_SOCKET)
before the store acts on it. What a client sends changes nothing else: not how long slices are, nor, on an idle host, at
which virtual time its requests are answered; guests and daemons wake only for what they watch. So a record of the
arrivals is enough to repeat a run, and an idle host gives the same requests in the same order the same trace.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from pyvmm.backends.xenstored import Xenstored
from pyvmm.errors import UsageError
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.runstate import wake
from pyvmm.xenstore.socket import SocketError, SocketServer

LINGER = 0.0003  # seconds for which the next request of a client in a dialogue is waited for
DIALOGUE = 0.02  # seconds of a dialogue after which guests run again


class XenstoreSocket:
    """Serves `xenstored`'s store at `path` while the host runs (`pyvmm.outside.Outside`). `UsageError`: the socket
    cannot be made."""

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

    # --- pyvmm.outside.Outside ---

    pause: float | None = None

    def filenos(self) -> Sequence[int]:
        """See `Outside.filenos`."""
        return (self.server.fileno(),)

    def poll(self) -> bool:
        """See `Outside.poll`. A dialogue is carried on for a moment: a client that reads a tree asks often."""
        heard = again = self.server.poll()
        end = time.monotonic() + DIALOGUE
        while again and time.monotonic() < end:
            again = self.server.poll(LINGER)
        if heard:
            self._xenstored.pump()
            if self._xenstored.api.has_work:
                wake(self._xenstored.api.v)
        return self.stopped

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
