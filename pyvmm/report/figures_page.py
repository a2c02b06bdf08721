"""The page of `pyvmm figures`: figures, tables, growth and flame graphs in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pyvmm.report.differences import Difference
from pyvmm.report.figures_paper import MACHINE
from pyvmm.report.figures_tables import Table, table_spawns
from pyvmm.report.flame import Flame
from pyvmm.report.growth import Growth

TEMPLATE = Path(__file__).with_name("figures.html")
TOP = 10  # functions shown of each design's growth


@dataclass(frozen=True)
class Section:
    """A figure with its words: `name` ("figure-4"), the heading, what it shows, what differs as a whole, the SVG, the
    numbers, each ratio that differs from the paper's."""

    name: str
    heading: str
    shows: str
    differs: str
    svg: str
    table: Table
    differences: Sequence[Difference]


def page(
    sections: Sequence[Section],
    growths: Sequence[Growth],
    flames: Sequence[Flame],
    everything: Table,
    made_of: Mapping[str, Any],
) -> str:
    """The page's HTML. `made_of`: what the run depends on, a line each."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        growths=growths,
        flames=flames,
        everything=everything,
        spawns=table_spawns(),
        made_of=made_of,
        machine=MACHINE,
        top=TOP,
        svg=Markup,  # what we drew ourselves
    )


__all__ = ["Section", "page"]
