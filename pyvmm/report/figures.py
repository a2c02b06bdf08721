"""The paper's Figs 4, 5, 9 and 10 for our guests, with the paper's own beside them, as SVG.

Left is what was executed here, in instructions; right what the paper measured, in milliseconds. They never share an
axis: only ratios can be compared, and the tables (`pyvmm.report.figures_tables`) do that. Same rows, same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pyvmm.report.classes import BOOT, CLASSES, PREPARE
from pyvmm.report.colours import COLOURS, DESIGN_COLOURS
from pyvmm.report.figures_paper import DEBIAN, DOCKER, PROCESS, TINYX, UNIKERNEL, curve, paper

Row = Mapping[str, Any]  # pyvmm.compare.Row as plain data
Rows = Mapping[tuple[str, str], Sequence[Row]]  # by design and guest, by rising n

STYLE: Any = {
    "svg.hashsalt": "pyvmm",  # names within the file come from it
    "svg.fonttype": "path",  # looks the same whatever fonts there are
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
SIZE = (9.6, 3.7)  # inches of a figure with two panels
OURS, THEIRS = "executed instructions", "milliseconds (the paper's machine)"
CHARGED = "and Xen's own, charged"
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # a legend, right of its panel
# Nothing is known between the points.
BETWEEN: dict[str, Any] = {"linestyle": (0, (4, 3)), "marker": "o", "markerfacecolor": "white"}


def instructions(count: float, _: Any = None) -> str:
    """A count as an axis shows it: 1.2 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:.3g}"


def _milliseconds(ms: float, _: Any = None) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _number(n: float, _: Any = None) -> str:
    return f"{n:g}"


def created(row: Row) -> int:
    """Instructions to create the guest: all but its own boot."""
    return int(row["total"]) - int(row["classes"][BOOT])


def _panels(left: str, right: str) -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    ours.set_title(left)
    theirs.set_title(right)
    ours.set_ylabel(OURS)
    theirs.set_ylabel(THEIRS)
    for axes in (ours, theirs):
        axes.set_xlabel("n: the n-th guest")
    return figure, ours, theirs


def _scales(ours: Axes, theirs: Axes, x: str, y: str) -> None:
    """Both panels have the same kinds of axes, "log" or "linear": on logarithmic ones equal ratios are equally high."""
    for axes, show in ((ours, instructions), (theirs, _milliseconds)):
        axes.set_xscale(x)
        axes.set_yscale(y)
        low, high = axes.get_ylim()
        if y == "log":
            axes.set_ylim(min(low, high / 30), high * 1.3)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(0, high * 1.05)
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.yaxis.set_major_formatter(FuncFormatter(show))


def _svg(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode("utf-8")
    return text[text.index("<svg") :]  # without the XML declaration: it stands within a page, too


def _charged(axes: Axes, numbers: Sequence[int], counts: Sequence[int], rows: Sequence[Row], colour: str) -> None:
    """What the hypervisor itself takes, on top of what was executed, where it is known."""
    if any(row["charged"] for row in rows):
        total = [count + int(row["charged"]) for count, row in zip(counts, rows, strict=True)]
        first = not any(line.get_linestyle() == ":" for line in axes.get_lines())
        axes.plot(numbers, total, color=colour, linewidth=0.9, linestyle=":", label=CHARGED if first else None)


def _entries(axes: Axes) -> tuple[Any, ...]:
    """What a legend shows, the dotted line last."""
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == CHARGED)
    return tuple(zip(*entries, strict=True))


def figure_4(rows: Rows) -> str:
    """Instantiation of the n-th guest with stock Xen's toolstack: create and boot."""
    with rc_context(STYLE):
        figure, ours, theirs = _panels("pyvmm: xl, create + boot", "paper, Fig. 4: create + boot")
        guests = [guest for design, guest in rows if design == "xl"]
        for colour, guest in zip(DESIGN_COLOURS[1:], guests, strict=False):
            found = rows["xl", guest]
            numbers, counts = [row["n"] for row in found], [row["total"] for row in found]
            ours.plot(numbers, counts, marker="o", color=colour, label=guest)
            _charged(ours, numbers, counts, found, colour)
        for colour, series in zip(DESIGN_COLOURS, (DEBIAN, TINYX, UNIKERNEL, DOCKER, PROCESS), strict=False):
            points = curve(4, series, "total")
            theirs.plot(*zip(*points, strict=True), color=colour, label=series, **BETWEEN)
        _scales(ours, theirs, "log", "log")
        ours.legend(*_entries(ours), loc="lower right")
        theirs.legend(**BESIDE)
        return _svg(figure)


def figure_5(rows: Sequence[Row]) -> str:
    """xl's creation split into classes."""
    with rc_context(STYLE):
        figure, ours, theirs = _panels("pyvmm: xl, by class", "paper, Fig. 5: what is known of it")
        names = [name for name in CLASSES if name not in (BOOT, PREPARE)]
        names.sort(key=lambda name: -int(rows[-1]["classes"][name]))
        numbers = [row["n"] for row in rows]
        stacks = [[row["classes"][name] for row in rows] for name in names]
        ours.stackplot(numbers, stacks, labels=names, colors=[COLOURS[name] for name in names], linewidth=0)
        sums = [created(row) for row in rows]
        _charged(ours, numbers, sums, rows, COLOURS["hypervisor"])
        for name in ("xenstore", "devices"):
            points = curve(5, "xl", name)
            theirs.plot(*zip(*points, strict=True), color=COLOURS[name], label=name, **BETWEEN)
        _scales(ours, theirs, "linear", "linear")
        theirs.set_xlim(left=0)
        ours.set_ylim(0, 1.5 * ours.get_ylim()[1])  # room for the legend
        handles, labels = ours.get_legend_handles_labels()
        ours.legend(handles[::-1], labels[::-1], loc="upper left")
        theirs.legend(loc="center left")
        theirs.annotate(
            "superlinear", (1000, paper(5, "xl", 1000, "xenstore") or 0), (-75, -4), textcoords="offset points"
        )
        return _svg(figure)


def figure_9(rows: Rows, guest: str, titles: Mapping[str, str]) -> str:
    """Creation time of all designs."""
    with rc_context(STYLE):
        figure, ours, theirs = _panels(f"pyvmm: create, {guest}", "paper, Fig. 9: create, daytime unikernel")
        for colour, (design, title) in zip(DESIGN_COLOURS, titles.items(), strict=False):
            found = rows[design, guest]
            numbers, counts = [row["n"] for row in found], [created(row) for row in found]
            ours.plot(numbers, counts, marker="o", color=colour, label=title)
            _charged(ours, numbers, counts, found, colour)
            if points := curve(9, design, "create"):
                theirs.plot(*zip(*points, strict=True), color=colour, label=title, **BETWEEN)
        _scales(ours, theirs, "log", "log")
        theirs.legend(*_entries(ours), **BESIDE)  # ours are all designs; the paper has not all
        return _svg(figure)


def figure_10(rows: Sequence[Row]) -> str:
    """Many guests: LightVM's noop, and the paper's containers."""
    with rc_context(STYLE):
        figure, ours, theirs = _panels("pyvmm: LightVM, create + boot of noop", "paper, Fig. 10: LightVM noop, Docker")
        numbers, counts = [row["n"] for row in rows], [row["total"] for row in rows]
        ours.plot(numbers, counts, marker="o", color=DESIGN_COLOURS[4], label="LightVM")
        _charged(ours, numbers, counts, rows, DESIGN_COLOURS[4])
        for colour, series, label in ((DESIGN_COLOURS[4], "lightvm", "LightVM"), (DESIGN_COLOURS[0], DOCKER, DOCKER)):
            points = curve(10, series, "total")
            theirs.plot(*zip(*points, strict=True), color=colour, label=label, **BETWEEN)
        _scales(ours, theirs, "linear", "log")
        ours.legend(loc="center right")
        theirs.legend(loc="center right")
        return _svg(figure)


__all__ = ["Row", "Rows", "created", "figure_4", "figure_5", "figure_9", "figure_10", "instructions"]
