"""Who runs next and for how long, and the timers of virtual time.

The scheduler is a policy object that is asked at every decision point; round robin is the default. A policy sees only
runnable vCPUs, in creation order, so its choice can be recorded and replayed as a small integer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

SLICE = 1_000_000  # instructions (virtual ns) a vCPU may run before the others get their turn


class Policy(Protocol):
    """Chooses among runnable vCPUs."""

    def pick(self, runnable: Sequence[VCpu], last: VCpu | None) -> VCpu:
        """One of `runnable` (never empty); `last` is the vCPU that ran before."""


class RoundRobin:
    """The vCPU after the last one, by domid and number."""

    def pick(self, runnable: Sequence[VCpu], last: VCpu | None) -> VCpu:
        """See `Policy.pick`."""
        if last is None or len(runnable) == 1:
            return runnable[0]
        key = _key(last)
        # By domid and not by position: a domid that was used again must not be passed over.
        return min((v for v in runnable if _key(v) > key), key=_key, default=None) or min(runnable, key=_key)


def _key(v: VCpu) -> tuple[int, int]:
    return v.domain.domid, v.vcpu_id


class Timers:
    """Callbacks due at virtual times. One deadline a key; equal deadlines fire in the order they were set."""

    def __init__(self) -> None:
        # A heap in which entries that were replaced or cancelled stay until they come up or there are too many of them.
        self._heap: list[tuple[int, int, Hashable, Callable[[], None]]] = []
        self._live: dict[Hashable, int] = {}
        self._sequence = 0

    def set(self, key: Hashable, deadline: int, action: Callable[[], None]) -> None:
        """Call `action()` at virtual time `deadline`; replaces what `key` had."""
        self._sequence = sequence = self._sequence + 1
        self._live[key] = sequence
        heap = self._heap
        heapq.heappush(heap, (deadline, sequence, key, action))
        if len(heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in heap if self._live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, key: Hashable) -> None:
        """Forget `key`'s deadline, if it has one."""
        self._live.pop(key, None)

    def next(self) -> int | None:
        """The earliest deadline, or None."""
        heap = self._heap
        while heap and self._live.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def fire(self, now: int) -> None:
        """Run every action whose deadline is not after `now`, earliest first."""
        while (deadline := self.next()) is not None and deadline <= now:
            _, _, key, action = heapq.heappop(self._heap)
            del self._live[key]
            action()
