"""All orders in which two processes can run, when each may lose the CPU in front of everything that the other can see.

A process is a function; it runs in a thread, but only while it holds the baton. `pause` is where it may lose it. A run
is repeated with other decisions until there are none that were not tried: a search through all schedules, or through
those with at most so many preemptions (decisions that take the CPU from one that could go on)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Over(BaseException):
    """The run is over, the process is to end."""


def always() -> bool:
    return True


class Process:
    """One of them, in one run."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.ready: Callable[[], bool] = always
        self.what = "begins"
        self.done = self.over = False
        self.error: BaseException | None = None
        self._body = body
        self._go, self._back = threading.Lock(), threading.Lock()  # as semaphores: held is 0
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _here.process = self
        self._go.acquire()
        try:
            if not self.over:
                self._body()
        except Over:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self._back.release()

    def step(self) -> None:
        """Let it run up to its next pause."""
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def pause(self, what: str, ready: Callable[[], bool]) -> None:
        """In the process: what it is about to do, and whether it can already."""
        self.what, self.ready = what, ready
        self._back.release()
        self._go.acquire()
        if self.over:
            raise Over

    def end(self) -> None:
        if not self.done:
            self.over = True
            self._go.release()
        self._thread.join()


_here = threading.local()


def pause(what: str, ready: Callable[[], bool] = always) -> None:
    """A decision point, if a process is what calls."""
    process = getattr(_here, "process", None)
    if process is not None:
        process.pause(what, ready)


@dataclass
class Found:
    """What a search has found: how many schedules there are, the longest one, and those after which somebody waits for
    ever, as what was done by whom."""

    schedules: int = 0
    longest: int = 0
    stuck: list[list[str]] = field(default_factory=list)


Bodies = Sequence[tuple[str, Callable[[], None]]]


def explore(
    begin: Callable[[], Bodies], end: Callable[[], None], preemptions: int | None = None, *, first: bool = False
) -> Found:
    """Run what `begin` returns in all orders; with `first`, until somebody is found that waits for ever."""
    found = Found()
    decisions: list[int] = []
    while True:
        taken, log, stuck = _once(begin(), decisions, preemptions)
        end()
        found.schedules += 1
        found.longest = max(found.longest, len(log))
        if stuck:
            found.stuck.append(log)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken or (first and found.stuck):
            return found
        decisions = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def _once(
    bodies: Bodies, decisions: list[int], preemptions: int | None
) -> tuple[list[tuple[int, int]], list[str], bool]:
    processes = [Process(name, body) for name, body in bodies]
    taken: list[tuple[int, int]] = []
    log: list[str] = []
    last: Process | None = None
    left = preemptions
    try:
        while able := [p for p in processes if not p.done and p.ready()]:
            if last in able:
                able.sort(key=lambda p: p is not last)  # who ran goes on, by the first decision
            choices = 1 if left == 0 and last in able else len(able)
            choice = 0
            if choices > 1:
                choice = decisions[len(taken)] if len(taken) < len(decisions) else 0
                taken.append((choice, choices))
            if choice and last in able and left is not None:
                left -= 1
            last = able[choice]
            log.append(f"{last.name}: {last.what}")
            last.step()
        return taken, log, not all(p.done for p in processes)
    finally:
        for process in processes:
            process.end()
