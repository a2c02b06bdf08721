"""Flame graphs of measured creations, and of the differences between designs."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.cli.sweeps import Measured
from pyvmm.report.flame import Flame, difference, flame
from pyvmm.report.growth import ordinal
from pyvmm.report.stacks import unpack


def flames_of(creations: Mapping[str, Measured]) -> list[Flame]:
    """One of each design's creation, and of what each does otherwise than the design before it. The creations are of
    the same n and guest."""
    flames, before = [], ""
    for design, one in creations.items():
        what = f"{one.row['n']}{ordinal(one.row['n'])} {one.row['guest']}"
        heading = f"{design}, the {what}"
        flames.append(Flame(f"flame-{design}", heading, flame(heading, unpack(one.paths))))
        if before:
            heading = f"{before} and {design}, the {what}: the difference"
            stacks, others = unpack(creations[before].paths), unpack(one.paths)
            svg = difference(f"The {what}", before, stacks, design, others)
            flames.append(Flame(f"flame-{before}-to-{design}", heading, svg))
        before = design
    return flames


__all__ = ["flames_of"]
