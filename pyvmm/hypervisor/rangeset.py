"""Sets of integers kept as disjoint ranges: which ports, frames or interrupts a domain may use."""

from __future__ import annotations

from bisect import bisect_right


class RangeSet:
    """A set of integers; all bounds are inclusive, as the permission hypercalls give them."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __repr__(self) -> str:
        return f"RangeSet({[(a, b) for a, b in zip(self._starts, self._ends, strict=True)]})"

    def add(self, start: int, end: int) -> None:
        """Put `start` .. `end` in."""
        for i in reversed(range(len(self._starts))):
            if self._starts[i] <= end + 1 and start <= self._ends[i] + 1:  # overlaps or touches
                start, end = min(start, self._starts.pop(i)), max(end, self._ends.pop(i))
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, end)

    def remove(self, start: int, end: int) -> None:
        """Take `start` .. `end` out."""
        kept = []
        for a, b in zip(self._starts, self._ends, strict=True):
            if a < start:
                kept.append((a, min(b, start - 1)))
            if b > end:
                kept.append((max(a, end + 1), b))
        self._starts = [a for a, _ in kept]
        self._ends = [b for _, b in kept]

    def contains(self, start: int, end: int) -> bool:
        """All of `start` .. `end` is in."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __contains__(self, number: int) -> bool:
        return self.contains(number, number)

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of `start` .. `end - 1` is not in, as (first, one past the last)."""
        found = []
        for a, b in zip(self._starts, self._ends, strict=True):
            if start < a and start < end:
                found.append((start, min(a, end)))
            start = max(start, b + 1)
        if start < end:
            found.append((start, end))
        return found
