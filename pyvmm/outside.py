"""What lies outside of the machine while it runs (keyboards, sockets, network devices), and the one place that waits.

Between two slices everything is asked for what has come (`Outside.poll`). When nobody can run, `Waiting` waits for all
of it together: for ever if no timer is set; else no longer than until that timer. How long that is depends on who
listens: for a network or a socket virtual time does not rush, and a guest that sleeps for a second lets the host sleep
for one; a person at a keyboard is waited for a moment only. The timer fires at its virtual time all the same, so what
the host's clock decides is only when things come from outside, and that is recorded.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pyvmm.hypervisor.hypervisor import Hypervisor

KEY_PAUSE = 0.02  # seconds a person at the keyboard is waited for before virtual time goes on to the next timer
SECOND = 1_000_000_000


class Keyboard(Protocol):
    """A person typing. `left` becomes true when the person wants to leave, `closed` when no more can come."""

    left: bool
    closed: bool

    def fileno(self) -> int:
        """Readable when something was typed."""

    def read(self) -> bytes:
        """What was typed; does not wait for it."""


class Outside(Protocol):
    """Something outside of the machine. `pause`: for how many seconds of the host's it is waited for while a timer is
    set; None: for as long as the timer is away in virtual time."""

    pause: float | None

    def filenos(self) -> Sequence[int]:
        """File descriptors that are readable when there is something to take. None: nothing can come any more."""

    def poll(self) -> bool:
        """Take what has come; does not wait. Whether the run is to end."""


class Typing:
    """A person typing on a guest's console (`Outside`). `hand_over` gives it bytes and says how many it took."""

    pause: float | None = KEY_PAUSE

    def __init__(self, keyboard: Keyboard, hand_over: Callable[[bytes], int]) -> None:
        self._keyboard = keyboard
        self._hand_over = hand_over
        self._typed = bytearray()

    def filenos(self) -> Sequence[int]:
        """See `Outside.filenos`."""
        return () if self._keyboard.closed else (self._keyboard.fileno(),)

    def poll(self) -> bool:
        """See `Outside.poll`. Whether the person left."""
        if not self._keyboard.closed:
            self._typed += self._keyboard.read()
        if self._typed:
            del self._typed[: self._hand_over(bytes(self._typed))]
        return self._keyboard.left


class Waiting:
    """Called when no vCPU can run (`Hypervisor.idle_sources`): wait until something comes from one of `sources`, or
    until the next timer is due by the host's clock. Whether the run loop is to look again before it skips time."""

    def __init__(self, hv: Hypervisor, sources: Sequence[Outside]) -> None:
        self._hv = hv
        self._sources = sources
        self._deadline: int | None = None  # the timer that is waited for, and for how many seconds that was done:
        self._waited = 0.0  # what comes meanwhile does not put it off

    def __call__(self) -> bool:
        """See the class."""
        hv = self._hv
        if any(v.runnable for v in hv.ready):
            return True
        listening = [(source.pause, fds) for source in self._sources if (fds := source.filenos())]
        if not listening:
            return False
        deadline = hv.timers.next()
        if deadline != self._deadline:
            self._deadline, self._waited = deadline, 0.0
        seconds: float | None = None
        if deadline is not None:
            left = (deadline - hv.machine.now) / SECOND
            seconds = max(left if pause is None else min(pause, left) for pause, _ in listening) - self._waited
            if seconds <= 0:
                return False
        began = time.monotonic()
        select.select([fd for _, fds in listening for fd in fds], (), (), seconds)
        self._waited += time.monotonic() - began
        return True


__all__ = ["KEY_PAUSE", "Keyboard", "Outside", "Typing", "Waiting"]
