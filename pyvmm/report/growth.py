"""Which functions take more the more guests there are, and by what law.

Counts are exact, so that a law is fitted to them by exact least squares (rational numbers), and what it leaves over is
the law's fault alone. The simplest law that leaves little is taken; how much it leaves is always told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pyvmm.report.stacks import Stack

Points = Sequence[tuple[int, int]]  # (n, count), n rising
Counts = tuple[tuple[int, int], ...]  # the same, kept

CONSTANT, ONCE, LOGARITHMIC, LINEAR, QUADRATIC, IRREGULAR = LAWS = (
    "constant", "first only", "logarithmic", "linear", "quadratic", "irregular",
)  # fmt: skip
TERMS: dict[str, tuple[tuple[str, Callable[[int], Fraction]], ...]] = {
    LOGARITHMIC: (("log2 n", lambda n: Fraction(math.log2(n))),),
    LINEAR: (("n", Fraction),),
    QUADRATIC: (("n", Fraction), ("n²", lambda n: Fraction(n * n))),
}
"""The terms of each law besides the constant one."""
FLAT = Fraction(1, 100)  # what changes by less is constant
GOOD = Fraction(1, 20)  # what leaves less of the whole change is not tried to be bettered by a law with more terms
BETTER = Fraction(1, 2)  # such a law has to leave at most this part of what the shorter one leaves
LOST = Fraction(1, 4)  # what leaves more of the whole change than this is no law


@dataclass(frozen=True)
class Fit:
    """A law with its numbers. `terms`: (what it is multiplied with, the factor), the constant one ("") first.
    `residual`: the largest distance of a count from it, as a part of the whole change, or of the largest count when
    that is called constant."""

    law: str
    terms: tuple[tuple[str, float], ...]
    residual: float

    def at(self, n: int) -> float:
        """What the law says of the n-th."""
        factors = {"": 1.0, "n": float(n), "n²": float(n * n), "log2 n": math.log2(n)}
        return sum(factor * factors[what] for what, factor in self.terms)

    def __str__(self) -> str:
        """As "a + b n"."""
        text = ""
        for what, factor in self.terms:
            number = f"{abs(factor):,.0f}" if abs(factor) >= 100 else f"{abs(factor):.3g}"
            sign = (" + " if factor >= 0 else " - ") if text else ("" if factor >= 0 else "-")
            text += f"{sign}{number}{' ' if what else ''}{what}"
        return text


def _solve(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """The solution of linear equations, each a row with its right side last; None when there is not just one."""
    size = len(rows)
    for i in range(size):
        pivot = next((r for r in range(i, size) if rows[r][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(size):
            if r != i and rows[r][i]:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] for row in rows]


def _least_squares(points: Points, law: str) -> tuple[list[Fraction], Fraction] | None:
    """The law's factors, and the largest distance of a point; None when there are too few points to contradict it."""
    columns = [[Fraction(1)] * len(points)] + [[term(n) for n, _ in points] for _, term in TERMS[law]]
    if len(points) <= len(columns):
        return None
    values = [Fraction(count) for _, count in points]

    def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
        return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))

    factors = _solve([[dot(a, b) for b in columns] + [dot(a, values)] for a in columns])
    if factors is None:
        return None
    fitted = (sum((f * c[i] for f, c in zip(factors, columns, strict=True)), Fraction(0)) for i in range(len(points)))
    return factors, max(abs(v - f) for v, f in zip(values, fitted, strict=True))


def _constant(points: Points) -> bool:
    counts = [count for _, count in points]
    return max(counts) - min(counts) <= FLAT * max(counts)


def fit(points: Points) -> Fit:
    """The law of these counts. Two points say only whether there is a change: it is then called linear."""
    counts = [count for _, count in points]
    spread = max(counts) - min(counts)
    if _constant(points):
        apart = spread / max(counts) if spread else 0.0
        return Fit(CONSTANT, (("", float(Fraction(sum(counts), len(counts)))),), apart)
    if len(points) > 2 and counts[0] > counts[1] and _constant(points[1:]):
        return Fit(ONCE, (("", float(Fraction(sum(counts[1:]), len(counts) - 1))),), 0.0)
    if len(points) == 2:
        each = Fraction(counts[1] - counts[0], points[1][0] - points[0][0])
        return Fit(LINEAR, (("", float(counts[0] - each * points[0][0])), ("n", float(each))), 0.0)
    rise = counts[-1] - counts[0]
    best: tuple[Fraction, str, list[Fraction]] | None = None
    for law in TERMS:  # those with fewer terms first
        found = _least_squares(points, law)
        if found is None:
            continue
        factors, left = found
        if best is None:
            best = left, law, factors
        elif len(factors) == len(best[2]):
            best = min(best, (left, law, factors), key=lambda one: one[0])
        elif best[0] > GOOD * spread and left < best[0] * BETTER and factors[-1] * rise > 0:
            best = left, law, factors  # and not a square that bends a line down
    assert best is not None, "three points contradict a law of two terms"
    left, law, factors = best
    names = ("", *(name for name, _ in TERMS[law]))
    return Fit(
        law if left <= LOST * spread else IRREGULAR,
        tuple((name, float(factor)) for name, factor in zip(names, factors, strict=True)),
        float(left / spread),
    )


@dataclass(frozen=True)
class Grown:
    """A function and its counts. `caller`: the function that calls it where it grows most; `part`: of the design's
    whole growth from the first to the last creation."""

    role: str
    file: str
    function: str
    caller: str
    points: Counts
    fit: Fit
    part: float

    @property
    def growth(self) -> int:
        """From the first of the creations to the last, in instructions."""
        return self.points[-1][1] - self.points[0][1]


@dataclass(frozen=True)
class Growth:
    """A design's growth. `points`: all of it, without shells made afterwards; `classes`: those that grow, and their
    parts of the whole growth; `functions`: those that grow, the most first; `crossings`: the fits of other counts of
    the rows (messages, hypercalls, ...)."""

    design: str
    guest: str
    points: Counts
    fit: Fit
    classes: tuple[tuple[str, Counts, Fit, float], ...]
    functions: tuple[Grown, ...]
    crossings: tuple[tuple[str, Counts, Fit], ...]

    @property
    def relative(self) -> float:
        """The growth from the first to the last, as a part of the first."""
        return self.points[-1][1] / self.points[0][1] - 1

    def top(self, most: int, least: float = 0.01) -> list[Grown]:
        """The functions to be shown: `most` at most, each at least `least` of the growth."""
        return [f for f in self.functions if f.part >= least][:most]

    def sentence(self) -> str:
        """What is to be said of it, in one sentence."""
        (first, least), (last, most) = self.points[0], self.points[-1]
        if first == last:
            return f"{self.design}: one creation says nothing about growth"
        change = most - least
        said = (
            f"{self.design}: the {last}{ordinal(last)} creation takes {most:,}, the {first}{ordinal(first)} {least:,}"
        )
        if change <= least * FLAT:
            said += f" ({self.relative:+.2%}): "
            most_growing = self.functions[0] if self.functions else None
            if most_growing is None or most_growing.growth <= least * FLAT:
                return said + "nothing grows over 1 %"
            return (
                said + f"no growth over 1 % as a whole, though {most_growing.function} grows by {most_growing.growth:,}"
            )
        if len(self.points) == 2:
            return said + f" ({self.relative:+.1%}), and two counts contradict no law"
        return said + f" ({self.relative:+.1%}): {self.fit.law}, {self.fit}, off by {self.fit.residual:.1%} at most"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "design": self.design,
            "guest": self.guest,
            "total": _plain(self.points, self.fit),
            "classes": {name: {"part": part, **_plain(points, fit)} for name, points, fit, part in self.classes},
            "functions": [
                {
                    "domain": f.role,
                    "file": f.file,
                    "function": f.function,
                    "caller": f.caller,
                    "part": f.part,
                    **_plain(f.points, f.fit),
                }
                for f in self.functions
            ],
            "crossings": {name: _plain(points, fit) for name, points, fit in self.crossings},
        }


def ordinal(n: int) -> str:
    """What follows a number that counts: "st", "nd", "rd", "th"."""
    return "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")


def _plain(points: Points, fit: Fit) -> dict[str, Any]:
    found: dict[str, Any] = {"points": [list(point) for point in points]}
    if len(points) < 3:  # contradict no law
        return found | {"law": None, "formula": None, "terms": {}, "residual": None}
    return found | {
        "law": fit.law,
        "formula": str(fit),
        "terms": {name or "1": factor for name, factor in fit.terms},
        "residual": fit.residual,
    }


CROSSINGS = {name: name for name in ("store_messages", "transactions", "hypercalls", "events", "switches")} | {
    "charged_instructions": "charged"
}
"""Other counts whose laws are told: what they are called there, and in a row."""

_Key = tuple[str, str, str]  # role, file, function


def growth(
    rows: Sequence[Mapping[str, Any]], stacks: Sequence[Iterable[Stack]], prepared: Callable[[Stack], bool]
) -> Growth:
    """What grows in a sweep: its rows (`pyvmm.compare.Row` as data), and the stacks of each. Stacks that are `prepared`
    are for later guests and are left out, as they are of a row's total."""
    numbers = [int(row["n"]) for row in rows]
    counts: dict[_Key, Counter[int]] = {}
    callers: dict[_Key, dict[str, Counter[int]]] = {}
    for n, every in zip(numbers, stacks, strict=True):
        for stack in every:
            if prepared(stack):
                continue
            _, role, path, retired = stack
            key = (role, path[-1][1], path[-1][0])
            caller = path[-2][0] if len(path) > 1 else ""
            counts.setdefault(key, Counter())[n] += retired
            callers.setdefault(key, {}).setdefault(caller, Counter())[n] += retired
    whole = tuple((n, int(row["total"])) for n, row in zip(numbers, rows, strict=True))
    change = whole[-1][1] - whole[0][1]
    functions = []
    for key, by_n in counts.items():
        points = tuple((n, by_n[n]) for n in numbers)
        risen = points[-1][1] - points[0][1]
        if risen <= 0:
            continue
        grown = {name: c[numbers[-1]] - c[numbers[0]] for name, c in callers[key].items()}
        caller = min(grown, key=lambda name: (-grown[name], name))
        functions.append(Grown(*key, caller, points, fit(points), risen / change if change > 0 else 0.0))
    functions.sort(key=lambda f: (-f.growth, f.role, f.file, f.function))
    crossings = []
    for name, column in CROSSINGS.items():
        points = tuple((n, int(row[column])) for n, row in zip(numbers, rows, strict=True))
        crossings.append((name, points, fit(points)))
    classes = []
    for name in rows[0]["classes"]:
        points = tuple((n, int(row["classes"][name])) for n, row in zip(numbers, rows, strict=True))
        if (risen := points[-1][1] - points[0][1]) > 0 and change > 0:
            classes.append((name, points, fit(points), risen / change))
    classes.sort(key=lambda one: -one[3])
    first = rows[0]
    return Growth(
        first["design"], first["guest"], whole, fit(whole), tuple(classes), tuple(functions), tuple(crossings)
    )


__all__ = ["LAWS", "Fit", "Grown", "Growth", "fit", "growth", "ordinal"]
