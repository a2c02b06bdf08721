"""Who executed what: every instruction of a stretch of a run, by domain, function and call path, exactly.

It is made from the machine's log of blocks (`Machine.log_start`) and the images' symbols, with nothing in the guests
that would take part: the sum over all paths is the machine's own count. Calls are seen by a function's first block
being entered with a lower stack, returns by the stack being back; a guest's thread switch by the one function that does
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pyvmm.machine.context import Context
from pyvmm.machine.machine import BlockLog
from pyvmm.report.classes import CLASSES, class_of
from pyvmm.report.symbols import Functions

THREAD_SWAP = "thread_swap"  # guests/kernel/entry.S: leaves one thread's stack for another's


class Owner(NamedTuple):
    """Whose a context is: the domain's name, its role ("dom0", "xenstored", "guest"), and its kernel's functions."""

    domain: str
    role: str
    functions: Functions


@dataclass
class _Frame:
    function: int
    rsp: int
    node: int


@dataclass
class _Stacks:
    """The stacks of one vCPU's threads: the one in use, and those left by `thread_swap`, by where they will go on."""

    current: list[_Frame] = field(default_factory=list)
    left: dict[int, list[_Frame]] = field(default_factory=dict)


class Profile:
    """Counts by call path. `owner_of(context)` says whose a context is; it is asked once for each. May be `add`ed to
    several times: stacks go on where the last log ended."""

    def __init__(self, owner_of: Callable[[Context], Owner]) -> None:
        self._owner_of = owner_of
        self._owners: dict[int, tuple[Context, Owner]] = {}
        self._stacks: dict[int, _Stacks] = {}
        self._nodes: list[tuple[int, str, int]] = []  # parent (-1: none), domain, function
        self._index: dict[tuple[int, str, int], int] = {}
        self._counts: list[int] = []

    # -- making it

    def add(self, log: BlockLog) -> None:
        """Count what `log` has."""
        if not len(log.pc):
            first = last = 0
        for (first, at, context), (last, end, _) in zip(log.marks, log.marks[1:], strict=False):
            owner = self._owner(context)
            stacks = self._stacks.setdefault(id(context), _Stacks())
            if first == last:
                self._count(stacks, owner, end - at)
                continue
            before = log.before[first:last].astype(np.int64)
            self._count(stacks, owner, int(before[0]) - at)
            counts = np.diff(before, append=end)
            found = owner.functions.find(log.pc[first:last])
            starts = owner.functions.starts[found] == log.pc[first:last]
            changes = np.flatnonzero(starts | (np.diff(found, prepend=-1) != 0))
            sums = np.add.reduceat(counts, changes)
            rsps = log.rsp[first:last][changes]
            rows = zip(found[changes].tolist(), starts[changes].tolist(), rsps.tolist(), sums.tolist(), strict=True)
            for function, start, rsp, n in rows:
                self._enter(stacks, owner, function, start, rsp)
                self._counts[stacks.current[-1].node] += n

    def _owner(self, context: Context) -> Owner:
        if id(context) not in self._owners:
            self._owners[id(context)] = (context, self._owner_of(context))
        return self._owners[id(context)][1]

    def _count(self, stacks: _Stacks, owner: Owner, n: int) -> None:
        """What was retired before the first block of a slice: an emulated instruction belongs to the last one."""
        if n:
            if not stacks.current:
                self._push(stacks.current, owner, 0, 0)
            self._counts[stacks.current[-1].node] += n

    def _push(self, stack: list[_Frame], owner: Owner, function: int, rsp: int) -> None:
        key = (stack[-1].node if stack else -1, owner.domain, function)
        node = self._index.get(key)
        if node is None:
            node = self._index[key] = len(self._nodes)
            self._nodes.append(key)
            self._counts.append(0)
        stack.append(_Frame(function, rsp, node))

    def _enter(self, stacks: _Stacks, owner: Owner, function: int, start: bool, rsp: int) -> None:
        """Control is in `function`, at its beginning or after a return, with this stack pointer."""
        stack = stacks.current
        if stack and owner.functions.names[stack[-1].function] == THREAD_SWAP and function != stack[-1].function:
            stacks.left[stack[-1].rsp] = stack[:-1]
            stack = stacks.current = stacks.left.pop(rsp - 8, [])
        if start:
            while stack and stack[-1].rsp <= rsp:
                stack.pop()
            self._push(stack, owner, function, rsp)
            return
        while stack and stack[-1].function != function and stack[-1].rsp < rsp:
            stack.pop()
        if not stack or stack[-1].function != function:
            self._push(stack, owner, function, rsp)

    # -- asking it

    def _owner_named(self, domain: str) -> Owner:
        return next(owner for _, owner in self._owners.values() if owner.domain == domain)

    def paths(self) -> Iterator[tuple[str, str, tuple[tuple[str, str], ...], int]]:
        """(domain, role, ((function, file), ...) from the outermost, instructions retired there itself), none of them
        0, in the order in which they were first met."""
        for node, n in enumerate(self._counts):
            if not n:
                continue
            owner = self._owner_named(self._nodes[node][1])
            path: list[tuple[str, str]] = []
            at = node
            while at >= 0:
                at, _, function = self._nodes[at]
                path.append((owner.functions.names[function], owner.functions.files[function]))
            yield owner.domain, owner.role, tuple(reversed(path)), n

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self._counts)

    def classes(self) -> dict[str, int]:
        """Instructions of each class of `pyvmm.report.classes`."""
        sums = dict.fromkeys(CLASSES, 0)
        for _, role, path, n in self.paths():
            sums[class_of(role, path)] += n
        return sums

    def functions(self) -> Counter[tuple[str, str, str]]:
        """Instructions of each (role, file, function) itself."""
        sums: Counter[tuple[str, str, str]] = Counter()
        for _, role, path, n in self.paths():
            sums[role, path[-1][1], path[-1][0]] += n
        return sums

    def domains(self) -> Counter[str]:
        """Instructions of each domain."""
        sums: Counter[str] = Counter()
        for domain, _, _, n in self.paths():
            sums[domain] += n
        return sums

    def folded(self) -> str:
        """A line a call path, as flame graph tools read it: names with semicolons between, a space, the count."""
        lines = sorted(";".join((domain, *(name for name, _ in path))) + f" {n}" for domain, _, path, n in self.paths())
        return "".join(f"{line}\n" for line in lines)


__all__ = ["Owner", "Profile"]
