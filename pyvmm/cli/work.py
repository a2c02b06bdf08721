"""What Xen was asked for, as text: for ``pyvmm compare --hypercalls``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

SMALL = 0.005  # a kind of work that is less in every design is shown with the others
WIDTH = 170  # columns where there is no terminal


def show(rows: Sequence[dict[str, Any]], charged: bool) -> None:
    """Each design's last creation: how often each kind of work was done, and with `charged` what it costs Xen."""
    from rich.console import Console
    from rich.table import Table

    last = {row["design"]: row for row in rows}
    by = {design: row["charged_by"] for design, row in last.items()}
    most: dict[str, float] = {}
    for design, work in by.items():
        for name, one in work.items():
            most[name] = max(most.get(name, 0.0), one["instructions"] / max(last[design]["charged"], 1))
    named = [name for name in sorted(most, key=lambda name: (-most[name], name)) if most[name] >= SMALL]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"Xen's work, n = {next(iter(last.values()))['n']}", no_wrap=True)
    for design in by:
        table.add_column(design, justify="right", no_wrap=True)
        if charged:
            table.add_column("", justify="right", no_wrap=True)
    others = [name for name in most if most[name] < SMALL]
    lines = [(name, [name]) for name in named] + ([(f"{len(others)} others", others)] if others else [])
    for shown, names in [*lines, ("all", list(most))]:
        cells = []
        for work in by.values():
            found = [work[name] for name in names if name in work]
            cells.append(f"{sum(one['times'] for one in found):,}" if found else "")
            if charged:
                cells.append(f"{sum(one['instructions'] for one in found):,}" if found else "")
        table.add_row(shown, *cells)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print()
    console.print(table)


__all__ = ["show"]
