"""Call paths as plain data: what a profile found, packed small for files and other processes.

A packed profile is a dictionary of lists, as JSON has them: `frames`, each (function, file); `stacks`, each (domain,
role, frames' numbers from the outermost on, instructions retired in the innermost one itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Frame = tuple[str, str]  # function, file
Stack = tuple[str, str, tuple[Frame, ...], int]  # domain, role, the call path, instructions
Packed = dict[str, Any]


def pack(stacks: Iterable[Stack]) -> Packed:
    """Stacks as plain data (`Profile.paths()` has them)."""
    frames: dict[Frame, int] = {}
    packed = [
        [domain, role, [frames.setdefault(frame, len(frames)) for frame in path], n] for domain, role, path, n in stacks
    ]
    return {"frames": [list(frame) for frame in frames], "stacks": packed}


def unpack(packed: Packed) -> Iterator[Stack]:
    """The stacks again, in their order."""
    frames: list[Frame] = [(name, file) for name, file in packed["frames"]]
    for domain, role, path, n in packed["stacks"]:
        yield domain, role, tuple(frames[i] for i in path), n


def folded(stacks: Iterable[Stack]) -> str:
    """A line a call path, as flame graph tools read it: names with semicolons between, a space, the count."""
    lines = sorted(";".join((domain, *(name for name, _ in path))) + f" {n}" for domain, _, path, n in stacks)
    return "".join(f"{line}\n" for line in lines)


__all__ = ["Frame", "Packed", "Stack", "folded", "pack", "unpack"]
