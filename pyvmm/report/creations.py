"""Creations that were measured, to be set beside the paper's: what each took, where, and what a later one would take.

The paper's last guest mostly is the 1000th. Where that many were not made, its count is reckoned: of each function by
the law that its own counts follow (`pyvmm.report.growth`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyvmm.report.classes import BOOT, PREPARE, XENSTORE, class_of
from pyvmm.report.growth import CONSTANT, IRREGULAR, LOST, Fit, fit
from pyvmm.report.stacks import Stack

FEWEST = 4  # points from which a law is reckoned with
REACH = 10  # how many times the last n that was measured, at most
DAEMON, CLIENTS = "the XenStore's domain", "the XenStore's clients in dom0"


class Place(NamedTuple):
    """Where instructions were executed: the class, of `XENSTORE` which side; the function; its file."""

    part: str
    function: str
    file: str


class Count(NamedTuple):
    """A number of instructions, and whether it was measured or reckoned by laws."""

    instructions: float
    measured: bool

    def __str__(self) -> str:
        return f"{self.instructions:,.0f}" if self.measured else f"≈ {_rounded(self.instructions):,}"


def _rounded(count: float) -> int:
    """To three digits: what is reckoned is not known better."""
    return int(float(f"{count:.3g}"))


@dataclass
class Creations:
    """What a design's creations of one guest took. `rows`: of `pyvmm.compare.Row`, by rising n; `places`: of each, the
    instructions of every function itself; `under`: of each, those of every function of dom0 with all that it called."""

    rows: Sequence[Mapping[str, Any]]
    places: Sequence[Counter[Place]]
    under: Sequence[Counter[str]]
    _laws: dict[Place, Fit | None] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], stacks: Iterable[Iterable[Stack]]) -> Creations:
        """From rows and the call paths of each; shells made for later guests are left out, as they are of a total."""
        places, under = [], []
        for every in stacks:
            own: Counter[Place] = Counter()
            whole: Counter[str] = Counter()
            for _, role, path, n in every:
                part = class_of(role, path)
                if part == PREPARE:
                    continue
                if part == XENSTORE:
                    part = DAEMON if role == "xenstored" else CLIENTS
                own[Place(part, *path[-1])] += n
                if role == "dom0":
                    whole.update(dict.fromkeys({name for name, _ in path}, n))
            places.append(own)
            under.append(whole)
        return cls(rows, places, under)

    @property
    def last(self) -> int:
        """The n of the last that was measured."""
        return int(self.rows[-1]["n"])

    def points(self, place: Place) -> list[tuple[int, int]]:
        """A function's own instructions by n."""
        return [(int(row["n"]), counts[place]) for row, counts in zip(self.rows, self.places, strict=True)]

    def index(self, n: int) -> int | None:
        """Which of them the n-th is; None where it was not measured."""
        return next((i for i, row in enumerate(self.rows) if row["n"] == n), None)

    def at(self, n: int, boot: bool = False) -> Count | None:
        """What the n-th takes, with or without its own boot; None where what was measured does not reach so far."""
        i = self.index(n)
        if i is not None:
            row = self.rows[i]
            return Count(row["total"] - (0 if boot else row["classes"][BOOT]), True)
        if not self._reaches(n):
            return None
        return Count(sum(self._law(place, n) for place in self._every() if boot or place.part != BOOT), False)

    def part(self, name: str, n: int) -> Count | None:
        """The same of one class (`XENSTORE`: of both sides)."""
        i = self.index(n)
        if i is not None:
            return Count(self.rows[i]["classes"][name], True)
        if not self._reaches(n):
            return None
        parts = (DAEMON, CLIENTS) if name == XENSTORE else (name,)
        return Count(sum(self._law(place, n) for place in self._every() if place.part in parts), False)

    def _reaches(self, n: int) -> bool:
        """Whether laws say anything of the n-th: of one between two that were measured nobody knows which holds."""
        return len(self.rows) >= FEWEST and self.last < n <= REACH * self.last

    def _every(self) -> list[Place]:
        return sorted(set().union(*self.places))

    def _law(self, place: Place, n: int) -> float:
        """One function's count at a later n: by its law if it grows by one, else as it was last."""
        last = self.places[-1][place]
        if place not in self._laws:
            self._laws[place] = _foretold(self.points(place))
        law = self._laws[place]
        return last if law is None else max(law.at(n), last)


def _foretold(points: list[tuple[int, int]]) -> Fit | None:
    """The law of counts that grow by one: those before the last must have foretold the last to a quarter. What only
    jumps at the end, as when a heap takes more pages, has none."""
    n, last = points[-1]
    if last <= points[0][1]:
        return None
    before, law = fit(points[:-1]), fit(points)
    jumps = before.law == CONSTANT or abs(before.at(n) - last) > LOST * last
    return None if jumps or law.law == IRREGULAR else law


__all__ = ["CLIENTS", "DAEMON", "Count", "Creations", "Place"]
