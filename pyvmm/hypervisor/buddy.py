"""The heap of page frames: a buddy allocator (Knuth, The Art of Computer Programming, vol. 1, 2.5).

Blocks of 2**order frames, aligned to their size. Deterministic: which block is handed out depends on the calls made,
nothing else. As in Xen, memory goes out from the top of the machine downwards, and a block that came back goes out
again first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Buddy:
    """Free frames, in blocks up to 2**max_order."""

    def __init__(self, max_order: int) -> None:
        self._max_order = max_order
        # By order: the first frames of the free blocks. A dict keeps the order of insertion; the last one in is the
        # first one out.
        self._free: list[dict[int, None]] = [{} for _ in range(max_order + 1)]
        self.free_count = 0

    def alloc(self, order: int, below: int | None = None) -> int | None:
        """The first frame of a block of 2**order, all of it under frame `below` if given; None if there is none."""
        if not 0 <= order <= self._max_order:
            return None
        for have in range(order, self._max_order + 1):
            free = self._free[have]
            if below is None:
                start = next(reversed(free), None)
            else:
                start = next((s for s in reversed(free) if s + (1 << order) <= below), None)
            if start is not None:
                del free[start]
                break
        else:
            return None
        # Keep the upper half at each step (the lower one, where the upper would be too high); the other goes back.
        while have > order:
            have -= 1
            middle = start + (1 << have)
            if below is None or middle + (1 << order) <= below:
                start, other = middle, start
            else:
                other = middle
            self._free[have][other] = None
        self.free_count -= 1 << order
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
        while order < self._max_order:
            buddy = start ^ (1 << order)
            if buddy not in self._free[order]:
                break
            del self._free[order][buddy]
            start &= ~(1 << order)
            order += 1
        self._free[order][start] = None

    def frames(self) -> npt.NDArray[np.int64]:
        """All free frames (for consistency checks)."""
        blocks = [np.arange(s, s + (1 << order), dtype=np.int64) for order, free in enumerate(self._free) for s in free]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)
