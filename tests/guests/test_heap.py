"""The guests' heap when memory ends: what was given back is there for anything else."""

from __future__ import annotations

import ctypes
import random

import pytest

from .heap_native import PAGE, Heap

PAGES = 256
SMALL = [16, 40, 100, 500, 1500, 3000]
LARGE = [PAGE, 3 * PAGE, 20 * PAGE, 50 * PAGE]


def fill(heap: Heap, sizes: list[int], seed: int) -> dict[int, tuple[int, bytes]]:
    """Take pieces of these sizes until there is none of any; by address, what was written into each."""
    rng, held, left = random.Random(seed), {}, list(sizes)
    while left:
        size = rng.choice(left)
        address = heap.take(size)
        if not address:
            left.remove(size)
            continue
        assert address not in held and ctypes.string_at(address, size) == bytes(size)
        held[address] = size, rng.randbytes(size)
        ctypes.memmove(address, held[address][1], size)
    return held


def release(heap: Heap, held: dict[int, tuple[int, bytes]], which: list[int]) -> None:
    for address in which:
        size, data = held.pop(address)
        assert ctypes.string_at(address, size) == data
        heap.release(address)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_given_back_is_there_for_other_sizes(seed: int) -> None:
    heap = Heap(PAGES)
    rng = random.Random(seed)
    for turn in range(6):
        held = fill(heap, [SMALL, LARGE, SMALL + LARGE][turn % 3], turn)
        which = list(held)
        rng.shuffle(which)
        release(heap, held, which)
        assert heap.free == heap.size
    assert heap.take(heap.size // 2 - 16), "half of it in one piece"


@pytest.mark.parametrize("seed", range(4))
def test_what_stays_is_not_touched(seed: int) -> None:
    """A part is given back and taken in other sizes, again and again."""
    heap = Heap(PAGES)
    rng = random.Random(seed)
    held = fill(heap, SMALL + LARGE, seed)
    for turn in range(12):
        release(heap, held, rng.sample(sorted(held), len(held) // 3))
        held |= fill(heap, [SMALL, LARGE, [40]][turn % 3], turn)
        assert heap.free < heap.size // 2
    release(heap, held, sorted(held))
    assert heap.free == heap.size


def test_the_smallest_is_cut_from_what_is_larger() -> None:
    heap = Heap(8)
    held = [address for _ in range(100) if (address := heap.take(1500))]
    assert len(held) == 16 and not heap.take(16)
    heap.release(held[3])
    assert [bool(heap.take(16)) for _ in range(65)] == [True] * 64 + [False]
