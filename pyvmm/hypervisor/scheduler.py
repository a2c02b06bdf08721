"""Who runs next and for how long, and the timers of virtual time.

The scheduler is a policy object that is asked at every decision point; round robin is the default. A policy sees only
runnable vCPUs, in creation order, so its choice can be recorded and replayed as a small integer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from pyvmm.abi.vcpu import RUNSTATE_running

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


class Credit:
    """As credit2, the scheduler of stock Xen, chooses among vCPUs of equal weight on one CPU: the one with the most
    credit, which is used up by running and renewed for all when who comes next has none left. Who woke somebody up goes
    on for `RATE` ns after it got the CPU, whoever that was. A yield is no exception here.

    Facts: docs/designs and xen/common/sched/credit2.c of Xen 4.17 (CSCHED2_CREDIT_INIT, CSCHED2_CARRYOVER_MAX,
    sched_ratelimit_us).
    """

    RATE = 1_000_000
    INITIAL = 10_000_000
    CARRY = 500_000  # of what is left when credit is renewed

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._since = 0
        self._limits: WeakKeyDictionary[VCpu, int] = WeakKeyDictionary()  # running time at which the credit is used up

    def _credit(self, v: VCpu) -> int:
        used = v.runstate_times[RUNSTATE_running]
        if v.runstate == RUNSTATE_running:
            used += self._now() - v.runstate_entered
        return self._limits.setdefault(v, used + self.INITIAL) - used

    def pick(self, runnable: Sequence[VCpu], last: VCpu | None) -> VCpu:
        """See `Policy.pick`."""
        if len(runnable) == 1 or (last in runnable and self._now() - self._since < self.RATE):
            chosen = last if last is not None and last in runnable else runnable[0]
        else:
            order = runnable if last is None or last not in runnable else [last, *runnable]
            chosen = max(order, key=self._credit)  # the first of several
            self._since = self._now()
        if chosen is not last:
            self._since = self._now()
        if self._credit(chosen) <= 0:
            for v in list(self._limits):
                credit = self._credit(v)
                self._limits[v] += min(credit, self.CARRY) + self.INITIAL - credit
        return chosen


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
