"""The heap of page frames: a buddy allocator (Knuth, The Art of Computer Programming, vol. 1, 2.5).

Blocks of 2**order frames, aligned to their size. Deterministic: which block is handed out depends on the calls made,
nothing else. As in Xen, memory goes out from the top of the machine downwards, and a block that came back goes out
again first. Also as in Xen (page_alloc.c: zones), what lies below 4 GiB is only touched when there is nothing else or
it is asked for: every domain needs a little of it, and the first ones must not use it up. (A block of up to 1 GiB is
on one side.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Frames from here on are above 4 GiB.
HIGH = 1 << (32 - 12)


class Buddy:
    """Free frames, in blocks up to 2**max_order, which is at most 2**20 (4 GiB)."""

    def __init__(self, max_order: int) -> None:
        self._max_order = max_order
        # Below 4 GiB and above, by order: the first frames of the free blocks. A dict keeps the order of insertion; the
        # last one in is the first one out.
        self._free: tuple[list[dict[int, None]], list[dict[int, None]]] = (
            [{} for _ in range(max_order + 1)],
            [{} for _ in range(max_order + 1)],
        )
        self.free_count = 0

    def alloc(self, order: int, below: int | None = None) -> int | None:
        """The first frame of a block of 2**order, all of it under frame `below` if given; None if there is none."""
        if not 0 <= order <= self._max_order:
            return None
        for zone in reversed(self._free) if below is None or below > HIGH else self._free[:1]:
            for have in range(order, self._max_order + 1):
                free = zone[have]
                if not free:
                    continue
                if below is None:
                    start = next(reversed(free))
                else:
                    found = next((s for s in reversed(free) if s + (1 << order) <= below), None)
                    if found is None:
                        continue
                    start = found
                del free[start]
                self.free_count -= 1 << order
                return self._split(zone, start, have, order, below)
        return None

    @staticmethod
    def _split(zone: list[dict[int, None]], start: int, have: int, order: int, below: int | None) -> int:
        """Keep the upper half at each step (the lower one, where the upper would be too high); the other goes back."""
        while have > order:
            have -= 1
            middle = start + (1 << have)
            if below is None or middle + (1 << order) <= below:
                start, other = middle, start
            else:
                other = middle
            zone[have][other] = None
        return start

    def free_range(self, start: int, n: int) -> None:
        """Frames `start` .. `start + n - 1` come back."""
        self.free_count += n
        end = start + n
        while start < end:
            aligned = (start & -start).bit_length() - 1 if start else self._max_order
            order = min(self._max_order, aligned, (end - start).bit_length() - 1)
            self._free_block(start, order)
            start += 1 << order

    def _free_block(self, start: int, order: int) -> None:
        zone = self._free[start >= HIGH]
        while order < self._max_order:
            buddy = start ^ (1 << order)
            if buddy not in zone[order]:
                break
            del zone[order][buddy]
            start &= ~(1 << order)
            order += 1
        zone[order][start] = None

    def frames(self) -> npt.NDArray[np.int64]:
        """All free frames (for consistency checks)."""
        blocks = [
            np.arange(s, s + (1 << order), dtype=np.int64)
            for zone in self._free
            for order, free in enumerate(zone)
            for s in free
        ]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)
