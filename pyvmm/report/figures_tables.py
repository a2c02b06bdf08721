"""The numbers of the figures as tables: ratios of ours, each beside the paper's.

An instruction is no time. What can be compared is a ratio of two counts with the ratio of two times: of designs to each
other, and of the last guest to the first. Where the paper's number is not known there is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyvmm.report.classes import BOOT, CLASSES, DEVICES, PREPARE, XENSTORE
from pyvmm.report.figures_paper import DEBIAN, DOCKER, LAST, PROCESS, TINYX, UNIKERNEL, curve, paper
from pyvmm.report.growth import ordinal
from pyvmm.toolstack.model import SPAWNS

NONE = "–"  # noqa: RUF001  a dash where a number is missing
Row = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A table: its heads, its rows of texts; columns from `numbers` on stand to the right."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 1


def ratio(a: float | None, b: float | None) -> str:
    """a / b, to three digits; a dash where one of them is not known."""
    if a is None or not b:
        return NONE
    value = a / b
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ms(ms: float | None) -> str:
    return NONE if ms is None else f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _count(row: Row, name: str) -> int:
    value = row[name]
    assert isinstance(value, int)
    return value


def _class(row: Row, name: str) -> int:
    classes = row["classes"]
    assert isinstance(classes, Mapping)
    return int(classes[name])


def _created(row: Row) -> int:
    return _count(row, "total") - _class(row, BOOT)


def _nth(n: int) -> str:
    return f"{n}{ordinal(n)}"


def _last(rows: Sequence[Row]) -> int:
    return _count(rows[-1], "n")


def table_4(rows: Mapping[tuple[str, str], Sequence[Row]]) -> Table:
    """Guests under xl: create, boot, and what becomes of the sum."""
    found = [(guest, rows[design, guest]) for design, guest in rows if design == "xl"]
    lines = []
    for guest, every in found:
        first, last = every[0], every[-1]
        lines.append(
            (
                f"{guest}, here",
                f"{_created(first):,}",
                f"{_class(first, BOOT):,}",
                ratio(_created(first), _class(first, BOOT)),
                f"{_count(first, 'total'):,}",
                f"{_count(last, 'total'):,} ({_nth(_last(every))})",
                ratio(_count(last, "total"), _count(first, "total")),
            )
        )
    for series in (DEBIAN, TINYX, UNIKERNEL, DOCKER, PROCESS):
        create, boot = (paper(4, series, 1, what) for what in ("create", "boot"))
        both, end = paper(4, series, 1, "total"), paper(4, series, LAST, "total")
        lines.append(
            (
                f"{series}, paper",
                _ms(create),
                _ms(boot),
                ratio(create, boot),
                _ms(both),
                f"{_ms(end)} ({_nth(LAST)})",
                ratio(end, both),
            )
        )
    heads = ("guest", "create, 1st", "boot, 1st", "create / boot", "both, 1st", "both, last", "last / first")
    return Table(heads, tuple(lines))


def table_5(rows: Sequence[Row]) -> Table:
    """xl's classes, and the two that the paper gives numbers of."""
    first, last = rows[0], rows[-1]
    lines: list[tuple[str, ...]] = []
    for name in CLASSES:
        if name in (BOOT, PREPARE):
            continue
        known = [paper(5, "xl", n, name) for n in (1, LAST)]
        lines.append(
            (
                name,
                f"{_class(first, name):,}",
                f"{_class(last, name):,}",
                f"{_class(last, name) / _created(last):.1%}",
                ratio(_class(last, name), _class(first, name)),
                _ms(known[0]),
                _ms(known[1]),
            )
        )
    if any(_count(row, "charged") for row in rows):
        ends = [_count(row, "charged") for row in (first, last)]
        lines.append(("charged: Xen itself", *(f"{n:,}" for n in ends), NONE, ratio(ends[1], ends[0]), NONE, NONE))
    shares = [ratio(_class(row, XENSTORE), _class(row, DEVICES)) for row in (first, last)]
    theirs = ratio(paper(5, "xl", LAST, XENSTORE), paper(5, "xl", LAST, DEVICES))
    lines.append(("xenstore / devices", *shares, NONE, NONE, NONE, theirs))
    ends_at = _nth(_last(rows))
    heads = ("class", "1st", ends_at, "part of it", "last / first", "paper, 1st", f"paper, {_nth(LAST)}")
    return Table(heads, tuple(lines))


def _with_charged(row: Row) -> int:
    return _created(row) + _count(row, "charged")


def table_9(rows: Mapping[tuple[str, str], Sequence[Row]], guest: str, titles: Mapping[str, str]) -> Table:
    """All designs: growth, and how many times the shortest way (LightVM) each takes; once more with what is charged, if
    that is known."""
    every = rows[next(iter(titles)), guest]
    base = "lightvm" if "lightvm" in titles else next(iter(titles))
    counts: list[tuple[str, Callable[[Row], int]]] = [("", _created)]
    if any(_count(row, "charged") for design in titles for row in rows[design, guest]):
        counts.append((", with charged", _with_charged))
    lines = []
    for which, count in counts:
        bases = rows[base, guest]
        for design, title in titles.items():
            first, last = rows[design, guest][0], rows[design, guest][-1]
            begin, end = (paper(9, design, n, "create") for n in (1, LAST))
            line = [f"{title}{which}", f"{count(first):,}", f"{count(last):,}"]
            line += [ratio(count(last), count(first)), ratio(end, begin)]
            line += [ratio(count(first), count(bases[0])), ratio(begin, paper(9, base, 1, "create"))]
            line += [ratio(count(last), count(bases[-1])), ratio(end, paper(9, base, LAST, "create"))]
            lines.append(tuple(line))
    end_n = _nth(_last(every))
    heads = ["design", "create, 1st", f"create, {end_n}", "last / first", f"paper's ({_nth(LAST)})"]
    heads += [f"× {titles[base]}, 1st", "paper's", f"× {titles[base]}, {end_n}", f"paper's ({_nth(LAST)})"]  # noqa: RUF001
    return Table(tuple(heads), tuple(lines))


def order_9(rows: Mapping[tuple[str, str], Sequence[Row]], guest: str, titles: Mapping[str, str]) -> str:
    """Whether the designs come in the paper's order, and how far the first is from the last."""
    known = [design for design in titles if paper(9, design, LAST, "create") is not None]
    ours = sorted(known, key=lambda design: -_created(rows[design, guest][-1]))
    theirs = sorted(known, key=lambda design: -(paper(9, design, LAST, "create") or 0))
    names = ", ".join(titles[design] for design in ours)
    said = f"From the most to the least: {names}. This {'is' if ours == theirs else 'is not'} the paper's order."
    if {"xl", "lightvm"} <= set(titles):
        xl, shortest = rows["xl", guest], rows["lightvm", guest]
        first, last = (ratio(_created(xl[i]), _created(shortest[i])) for i in (0, -1))
        begin, end = (ratio(paper(9, "xl", n, "create"), paper(9, "lightvm", n, "create")) for n in (1, LAST))
        said += f" The 1st guest takes xl {first} times what it takes LightVM (executed), in the paper {begin} times;"
        said += f" the {_nth(_last(xl))} {last} times, in the paper, the {_nth(LAST)}, {end} times."
    return said


def table_10(rows: Sequence[Row]) -> Table:
    """Many noop guests by LightVM, and the paper's."""
    lines = [
        (
            "LightVM, here",
            f"{_count(rows[0], 'total'):,}",
            f"{_count(rows[-1], 'total'):,} ({_nth(_last(rows))})",
            ratio(_count(rows[-1], "total"), _count(rows[0], "total")),
        )
    ]
    for series, name in (("lightvm", "LightVM, paper"), (DOCKER, "Docker, paper")):
        points = curve(10, series, "total")
        (_, begin), (n, end) = points[0], points[-1]
        lines.append((name, _ms(begin), f"{_ms(end)} ({_nth(n)})", ratio(end, begin)))
    return Table(("guests", "create + boot, 1st", "last", "last / first"), tuple(lines))


def table_spawns() -> Table:
    """What stock Xen's toolstack does that is no code on this machine: a model's parameters, with their sources."""
    lines = tuple(
        (
            row.design,
            row.device,
            f"{row.least}" if row.least == row.most else f"{row.least} to {row.most}",
            f"{row.a_disk} for each domain with a disk" if row.a_disk else "",
            row.what,
            row.source,
        )
        for row in SPAWNS
    )
    return Table(("design", "for each", "processes", "and", "which", "by reading"), lines, 6)


COUNTS = ("store_messages", "transactions", "retries", "hypercalls", "events", "switches")


def table_rows(rows: Sequence[Row]) -> Table:
    """Every count there is, exact."""
    classes = [name for name in CLASSES if name != PREPARE]
    lines = tuple(
        (
            str(row["design"]),
            str(row["guest"]),
            f"{_count(row, 'n'):,}",
            f"{_count(row, 'total'):,}",
            *(f"{_class(row, name):,}" for name in classes),
            f"{_count(row, 'prepare'):,}",
            f"{_count(row, 'charged'):,}",
            *(f"{_count(row, name):,}" for name in COUNTS),
        )
        for row in rows
    )
    names = tuple(name.removeprefix("store_") for name in COUNTS)
    return Table(("design", "guest", "n", "total", *classes, "prepare", "charged", *names), lines, 2)


__all__ = ["Table", "order_9", "ratio", "table_4", "table_5", "table_9", "table_10", "table_rows", "table_spawns"]
