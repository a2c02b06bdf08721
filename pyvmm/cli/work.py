"""What Xen was asked for, as text: for ``pyvmm compare --hypercalls``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyvmm.cli.output import wide_console

SMALL = 0.005  # a kind of work that is less than that part in every design is shown with the others
Work = Mapping[str, Mapping[str, int]]  # `Row.charged_by`


def show(rows: Sequence[dict[str, Any]], charged: bool) -> None:
    """Each design's last creation: how often each kind of work was done, and with `charged` what it costs Xen. The
    kinds come in the order of the most that they cost in any design."""
    from rich.table import Table

    last = {row["design"]: row for row in rows}
    by: dict[str, Work] = {design: row["charged_by"] for design, row in last.items()}
    most: dict[str, int] = {}
    part: dict[str, float] = {}
    for design, work in by.items():
        for name, one in work.items():
            most[name] = max(most.get(name, one["instructions"]), one["instructions"])
            part[name] = max(part.get(name, 0.0), one["instructions"] / max(last[design]["charged"], 1))
    order = sorted(most, key=lambda name: (-most[name], name))
    others = [name for name in order if part[name] < SMALL]
    table = Table(box=None, pad_edge=False)
    table.add_column("Xen's work", no_wrap=True)
    for design in by:
        table.add_column(f"{design}, times", justify="right", no_wrap=True)
        if charged:
            table.add_column("instructions", justify="right", no_wrap=True)
    lines = [(name, [name]) for name in order if name not in others]
    lines += [(f"{len(others)} others", others)] if others else []
    for shown, names in [*lines, ("all", order)]:
        cells: list[str] = []
        for work in by.values():
            cells += _cells([work[name] for name in names if name in work], charged)
        table.add_row(shown, *cells)
    console = wide_console()
    console.print(f"\nwhat the creation of number {rows[-1]['n']} asked Xen for", markup=False)
    console.print(table)


def _cells(found: Sequence[Mapping[str, int]], charged: bool) -> list[str]:
    what = ("times", "instructions") if charged else ("times",)
    return [f"{sum(one[name] for one in found):,}" if found else "" for name in what]


__all__ = ["show"]
