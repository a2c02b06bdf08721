"""The numbers of the figures as tables: ratios of ours, each beside the paper's.

An instruction is no time. What can be compared is a ratio of two counts with the ratio of two times: of designs to each
other, and of the last guest to the first. The paper's last is the 1000th: where fewer were made it is reckoned
(`pyvmm.report.creations`) and marked ≈. Where a number is not known there is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyvmm.report.classes import BOOT, CLASSES, DEVICES, PREPARE, XENSTORE
from pyvmm.report.creations import Count, Creations
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


def nth(n: int) -> str:
    """As "3rd"."""
    return f"{n}{ordinal(n)}"


def _text(count: Count | None) -> str:
    return NONE if count is None else str(count)


def _of(above: Count | None, below: Count | None) -> str:
    """Their ratio, marked where one of them is reckoned."""
    if above is None or below is None or not below.instructions:
        return NONE
    sign = "" if above.measured and below.measured else "≈ "
    return sign + ratio(above.instructions, below.instructions)


def _only(heads: Sequence[str], lines: Sequence[Sequence[str]], numbers: int = 1) -> Table:
    """A table without the columns that say again what one before them says: of one head, or of nothing but dashes."""
    kept = [i for i, head in enumerate(heads) if head not in heads[:i]]
    kept = [i for i in kept if any(line[i] != NONE for line in lines)]
    return Table(tuple(heads[i] for i in kept), tuple(tuple(line[i] for i in kept) for line in lines), numbers)


def table_4(every: Mapping[tuple[str, str], Creations]) -> Table:
    """Guests under xl: create, boot, and what becomes of the sum."""
    lines = []
    measured = max(c.last for (design, _), c in every.items() if design == "xl")
    for (design, guest), c in every.items():
        if design != "xl":
            continue
        first, last, end = c.rows[0], c.rows[-1], c.at(LAST, True)
        create, boot = _created(first), _class(first, BOOT)
        line = [f"{guest}, here", f"{create:,}", f"{boot:,}", ratio(create, boot), f"{_count(first, 'total'):,}"]
        lines.append([*line, f"{_count(last, 'total'):,}", _text(end), _of(end, c.at(1, True))])
    for series in (DEBIAN, TINYX, UNIKERNEL, DOCKER, PROCESS):
        begin, start = (paper(4, series, 1, what) for what in ("create", "boot"))
        both, late = paper(4, series, 1, "total"), paper(4, series, LAST, "total")
        line = [f"{series}, paper", _ms(begin), _ms(start), ratio(begin, start), _ms(both)]
        lines.append([*line, _ms(late) if measured == LAST else NONE, _ms(late), ratio(late, both)])
    heads = ["guest", "create, 1st", "boot, 1st", "create / boot", "both, 1st", f"both, {nth(measured)}"]
    return _only([*heads, f"both, {nth(LAST)}", f"{nth(LAST)} / 1st"], lines)


def table_5(c: Creations) -> Table:
    """xl's classes, and the two that the paper gives numbers of."""
    first, last = c.rows[0], c.rows[-1]
    lines = []
    for name in CLASSES:
        if name in (BOOT, PREPARE):
            continue
        end = c.part(name, LAST)
        line = [name, f"{_class(first, name):,}", f"{_class(last, name):,}"]
        line += [f"{_class(row, name) / _created(row):.1%}" for row in (first, last)]
        line += [_text(end), _of(end, c.part(name, 1)), *(_ms(paper(5, "xl", n, name)) for n in (1, LAST))]
        lines.append(line)
    if any(_count(row, "charged") for row in c.rows):
        ends = [f"{_count(row, 'charged'):,}" for row in (first, last)]
        grown = ratio(_count(last, "charged"), _count(first, "charged")) if c.last == LAST else NONE
        known = ends[1] if c.last == LAST else NONE
        lines.append(["charged: Xen itself", *ends, NONE, NONE, known, grown, NONE, NONE])
    shares = [ratio(_class(row, XENSTORE), _class(row, DEVICES)) for row in (first, last)]
    then = _of(c.part(XENSTORE, LAST), c.part(DEVICES, LAST))
    theirs = ratio(paper(5, "xl", LAST, XENSTORE), paper(5, "xl", LAST, DEVICES))
    lines.append(["xenstore / devices", *shares, NONE, NONE, then, NONE, NONE, theirs])
    measured = nth(c.last)
    heads = ["class", "1st", measured, "part of the 1st", f"part of the {measured}", nth(LAST), f"{nth(LAST)} / 1st"]
    return _only([*heads, "paper's 1st", f"paper's {nth(LAST)}"], lines)


def _with_charged(c: Creations, n: int) -> Count | None:
    """With Xen's own work, which follows no function's law: only where it was measured."""
    i = c.index(n)
    return None if i is None else Count(_created(c.rows[i]) + _count(c.rows[i], "charged"), True)


def table_9(every: Mapping[str, Creations], titles: Mapping[str, str]) -> Table:
    """All designs: growth, and how many times the shortest way (LightVM) each takes; once more with what is charged, if
    that is known."""
    base = "lightvm" if "lightvm" in titles else next(iter(titles))
    counts: list[tuple[str, Callable[[Creations, int], Count | None]]] = [("", Creations.at)]
    if any(_count(row, "charged") for c in every.values() for row in c.rows):
        counts.append((", with charged", _with_charged))
    measured = max(c.last for c in every.values())
    lines = []
    for which, count in counts:
        for design, title in titles.items():
            c, b = every[design], every[base]
            first, last, end = (count(c, n) for n in (1, measured, LAST))
            begin, late = (paper(9, design, n, "create") for n in (1, LAST))
            line = [f"{title}{which}", _text(first), _of(first, count(b, 1)), ratio(begin, paper(9, base, 1, "create"))]
            line += [_text(last), _of(last, count(b, measured)), _text(end), _of(end, first), ratio(late, begin)]
            line += [_of(end, count(b, LAST)), ratio(late, paper(9, base, LAST, "create"))]
            lines.append([*line[:8], NONE, NONE, NONE] if which and end is None else line)
    times = f"× {titles[base]}"  # noqa: RUF001
    heads = ["design", "create, 1st", f"{times}, 1st", "paper's, 1st"]
    heads += [f"create, {nth(measured)}", f"{times}, {nth(measured)}"]
    heads += [
        f"create, {nth(LAST)}",
        f"{nth(LAST)} / 1st",
        f"paper's, {nth(LAST)} / 1st",
        f"{times}, {nth(LAST)}",
        f"paper's, {nth(LAST)}",
    ]
    return _only(heads, lines)


def order_9(every: Mapping[str, Creations], titles: Mapping[str, str]) -> str:
    """Whether the designs come in the paper's order."""
    known = [design for design in titles if paper(9, design, LAST, "create") is not None]
    ours = sorted(known, key=lambda design: -_created(every[design].rows[-1]))
    theirs = sorted(known, key=lambda design: -(paper(9, design, LAST, "create") or 0))
    names = ", ".join(titles[design] for design in ours)
    n = nth(_count(every[known[0]].rows[-1], "n"))
    same = "is" if ours == theirs else "is not"
    return (
        f"From the most to the least, at the {n} creation: {names}. This {same} the paper's order, at the {nth(LAST)}."
    )


def table_10(rows: Sequence[Row]) -> Table:
    """Many noop guests by LightVM, and the paper's: neither depends on how many there are."""
    lines = [
        (
            "LightVM, here",
            f"{_count(rows[0], 'total'):,}",
            f"{_count(rows[-1], 'total'):,} ({nth(_count(rows[-1], 'n'))})",
            ratio(_count(rows[-1], "total"), _count(rows[0], "total")),
        )
    ]
    for series, name in (("lightvm", "LightVM, paper"), (DOCKER, "Docker, paper")):
        points = curve(10, series, "total")
        (_, begin), (n, end) = points[0], points[-1]
        lines.append((name, _ms(begin), f"{_ms(end)} ({nth(n)})", ratio(end, begin)))
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


__all__ = [
    "Table",
    "nth",
    "order_9",
    "ratio",
    "table_4",
    "table_5",
    "table_9",
    "table_10",
    "table_rows",
    "table_spawns",
]
