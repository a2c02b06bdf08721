"""What grows, as text: for `pyvmm compare --growth` and `pyvmm figures`."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.cli.output import wide_console
from pyvmm.cli.sweeps import Measured
from pyvmm.report.growth import Counts, Fit, Growth, growth

TOP = 12  # functions of a design that are shown
TWO = "two creations: a line goes through any two counts and they contradict no law; three would, such as -n 1,10,100"


def growth_of(measured: Sequence[Measured]) -> Growth:
    """What grows in one sweep."""
    from pyvmm.report.classes import prepares
    from pyvmm.report.stacks import unpack

    return growth([one.row for one in measured], [unpack(one.paths) for one in measured], prepares)


def show(growths: Sequence[Growth]) -> None:
    """A sentence a design; and for those that grow, a table of functions, the most first. Of two creations no law is
    told, and why."""
    from rich.table import Table

    console = wide_console()
    if any(len(one.points) == 2 for one in growths):
        console.print(f"\n{TWO}", markup=False)
    for one in growths:
        console.print(f"\n{one.sentence()}", markup=False)
        if one.relative <= 0.01:
            continue
        table = Table(box=None, pad_edge=False)
        for name in ("domain", "function", "mostly for"):
            table.add_column(name, no_wrap=True)
        table.add_column("part", justify="right", no_wrap=True)
        table.add_column("law", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("off by", justify="right", no_wrap=True)
        for n in (one.points[0][0], one.points[-1][0]):
            table.add_column(f"n = {n}", justify="right", no_wrap=True)
        for name, points, fit, part in one.classes:
            if part >= 0.01:
                table.add_row("all", f"class {name}", "", f"{part:.1%}", *_law(points, fit))
        for f in one.top(TOP):
            table.add_row(f.role, f"{f.function} ({f.file})", f.caller, f"{f.part:.1%}", *_law(f.points, f.fit))
        for name, points, fit in one.crossings:
            if fit.law not in ("constant", "first only"):
                table.add_row("all", f"number of {name.replace('_', ' ')}", "", "", *_law(points, fit))
        console.print(table)


def _law(points: Counts, fit: Fit) -> tuple[str, ...]:
    """The last columns: the law, which nothing says of two points, and the first and the last count."""
    law = ("", "", "") if len(points) == 2 else (fit.law, str(fit), f"{fit.residual:.1%}")
    return *law, f"{points[0][1]:,}", f"{points[-1][1]:,}"


__all__ = ["TWO", "growth_of", "show"]
