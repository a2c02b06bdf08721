"""Flame graphs of whole creations, across all domains, as one self-contained SVG: no script, no font, no network.

From the bottom up: the creation, its domains, their call paths. A frame is as wide as what is executed in it and in
what it calls; its colour is its class (`pyvmm.report.classes`). Pointed at, it tells its name, file, class and count.
The difference of two designs has the frames of both, each as wide as the larger; red is more in the second, blue less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from pyvmm.report.classes import CLASSES, PREPARE, class_of
from pyvmm.report.colours import COLOURS
from pyvmm.report.stacks import Frame, Stack

WIDTH, SIDE = 1200, 10  # pixels: the picture, what is left free at its sides
LINE = 17  # a level
LETTER = 6.4  # pixels a letter is wide, at most: names are cut to fit
NARROW = 0.3  # pixels: what is narrower is left out, and only counted
HEAD = 60  # title and legend
EDGE = ' stroke="#ffffff" stroke-width=".5"'

MORE, LESS, SAME = (232, 112, 98), (112, 164, 228), (240, 238, 232)  # of a difference


@dataclass(frozen=True)
class Flame:
    """A flame graph: file name without its end, what it shows, the SVG."""

    name: str
    heading: str
    svg: str


@dataclass
class Node:
    """A frame: `own` is what is executed in it itself, for the first and the second creation; `all` includes what it
    calls."""

    name: str
    file: str
    kind: str  # its class
    own: list[int] = field(default_factory=lambda: [0, 0])
    children: dict[tuple[str, str], Node] = field(default_factory=dict)
    all: list[int] = field(default_factory=lambda: [0, 0])
    width: int = 0

    def child(self, name: str, file: str, kind: str) -> Node:
        """The frame of that name on top of this one; made when it is new."""
        return self.children.setdefault((name, file), Node(name, file, kind))

    def sum(self) -> None:
        """Fill in `all` and `width`, from the leaves down."""
        self.all, self.width = list(self.own), max(self.own)
        for child in self.children.values():
            child.sum()
            self.all = [a + b for a, b in zip(self.all, child.all, strict=True)]
            self.width += child.width

    def depth(self) -> int:
        """Levels, this one with them."""
        return 1 + max((child.depth() for child in self.children.values()), default=0)


DOMAINS = {"guest": "the guest", "dom0": "dom0", "xenstored": "the XenStore's domain"}


def tree(first: Iterable[Stack], second: Iterable[Stack] = ()) -> Node:
    """The frames of a creation, or of two. Domains of one role are one."""
    root = Node("all", "", "")
    for which, stacks in enumerate((first, second)):
        for _, role, path, n in stacks:
            at = root.child(DOMAINS.get(role, role), "", _domain_class(role))
            for level, (name, file) in enumerate(path):
                at = at.child(name, file, class_of(role, path[: level + 1]))
            at.own[which] += n
    root.sum()
    return root


def _domain_class(role: str) -> str:
    nowhere: tuple[Frame, ...] = ()
    return class_of(role, nowhere) if role != "dom0" else ""


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _mixed(share: float) -> str:
    """A difference's colour, from -1 (only in the first) to 1 (only in the second)."""
    end = MORE if share > 0 else LESS
    return _hex(tuple(round(s + (e - s) * abs(share)) for s, e in zip(SAME, end, strict=True)))  # type: ignore[arg-type]


@dataclass
class _Picture:
    """An SVG in the making."""

    title: str
    difference: tuple[str, str] | None
    levels: int
    total: int
    parts: list[str] = field(default_factory=list)
    left_out: int = 0

    def draw(self, node: Node, x: float, level: int) -> None:
        """The frame and all above it, its left side at `x`."""
        wide = node.width * (WIDTH - 2 * SIDE) / self.total
        if wide < NARROW:
            self.left_out += 1
            return
        y = HEAD + (self.levels - 1 - level) * LINE
        letters = int((wide - 6) / LETTER)
        shown = node.name if len(node.name) <= letters else node.name[: letters - 1] + "…" if letters > 3 else ""
        fill = self._fill(node)
        self.parts.append(
            f'<g><title>{escape(self._told(node))}</title><rect x="{x:.1f}" y="{y}" width="{wide:.1f}" '
            f'height="{LINE - 1}" fill="{fill}"{EDGE if wide > 2 else ""}/>'
            + (f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(shown)}</text>' if shown else "")
            + "</g>\n"
        )
        for child in sorted(node.children.values(), key=lambda c: (c.name, c.file)):
            self.draw(child, x, level + 1)
            x += child.width * (WIDTH - 2 * SIDE) / self.total

    def _fill(self, node: Node) -> str:
        if self.difference is None:
            return COLOURS.get(node.kind, "#e4e1d8")
        before, after = node.all
        return _mixed((after - before) / max(before, after, 1))

    def _told(self, node: Node) -> str:
        where = f" ({node.file})" if node.file else ""
        kind = f", {node.kind}" if node.kind else ""
        if self.difference is None:
            return f"{node.name}{where}{kind}: {node.all[0]:,} instructions, {node.all[0] / self.total:.2%}"
        (a, b), (before, after) = self.difference, node.all
        return f"{node.name}{where}{kind}: {a} {before:,}, {b} {after:,}: {after - before:+,}"

    def svg(self, legend: str) -> str:
        """The whole picture."""
        height = HEAD + self.levels * LINE + 24
        said = f"{self.left_out:,} frames too narrow to be seen are left out. " if self.left_out else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="10">\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
            f'<text x="{SIDE}" y="22" font-size="15" font-family="sans-serif">{escape(self.title)}</text>\n'
            f"{legend}{''.join(self.parts)}"
            f'<text x="{SIDE}" y="{height - 8}" fill="#666666" font-family="sans-serif">{said}'
            f"Point at a frame to read its counts.</text>\n</svg>\n"
        )


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    x, parts = float(SIDE), []
    for colour, text in entries:
        parts.append(f'<rect x="{x:.1f}" y="34" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15:.1f}" y="43" font-family="sans-serif" font-size="11">{escape(text)}</text>\n')
        x += 30 + 6.1 * len(text)
    return "".join(parts)


def flame(title: str, stacks: Iterable[Stack]) -> str:
    """The flame graph of one creation."""
    kept = list(stacks)
    root = tree(kept)
    sums = dict.fromkeys(CLASSES, 0)
    for _, role, path, n in kept:
        sums[class_of(role, path)] += n
    picture = _Picture(f"{title}: {root.width:,} instructions", None, root.depth(), max(root.width, 1))
    picture.draw(root, SIDE, 0)
    return picture.svg(_legend((COLOURS[name], f"{name} {n:,}") for name, n in sums.items() if n or name != PREPARE))


def difference(title: str, first: str, stacks: Iterable[Stack], second: str, others: Iterable[Stack]) -> str:
    """The flame graph of two designs' creations: what the second does more, and what it does less."""
    root = tree(stacks, others)
    before, after = root.all
    picture = _Picture(
        f"{title}: {first} {before:,}, {second} {after:,} instructions",
        (first, second),
        root.depth(),
        max(root.width, 1),
    )
    picture.draw(root, SIDE, 0)
    legend = ((_hex(LESS), f"only in {first}"), (_hex(SAME), "the same"), (_hex(MORE), f"only in {second}"))
    return picture.svg(_legend(legend))


__all__ = ["Flame", "Node", "difference", "flame", "tree"]
