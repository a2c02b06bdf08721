"""``pyvmm figures``: the paper's Figs 4, 5, 9 and 10 for our guests, as one page and as SVG files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from pyvmm.cli.numbers import CURVE, numbers_option
from pyvmm.cli.sweeps import Kept, Sweep, directory, run, workers
from pyvmm.errors import PyvmmError, UsageError

if TYPE_CHECKING:
    from pyvmm.cli.sweeps import Measured
    from pyvmm.report.creations import Creations
    from pyvmm.report.figures_page import Section
    from pyvmm.report.flame import Flame
    from pyvmm.report.growth import Growth

FIG_4 = ("noop", "daytime")  # guests that go on running
DOTS = (1, 2, 5)  # where a curve has points: these, and tens of them


def _dots(most: int) -> tuple[int, ...]:
    every = {d * 10**e for e in range(5) for d in DOTS} | {most}
    return tuple(sorted(n for n in every if n <= most))


@click.command("figures")
@click.option("--design", "own_files", metavar="FILE", multiple=True, help="A design of your own in C, in Fig. 9 too.")
@click.option("--guest", default="daytime", show_default=True, help="The guest of Figs 5 and 9.")
@numbers_option(CURVE, "Which creations are points of the curves.")
@click.option(
    "--many", default=1000, show_default=True, type=click.IntRange(1, 8000), help="How many noop guests Fig. 10 has."
)
@click.option("--out", "out_dir", default="figures", show_default=True, metavar="DIR", help="Where the files go.")
@click.option("--resume", "resume_dir", metavar="DIR", help="Keep finished sweeps in DIR, and go on from there.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Sweeps at a time.")
@click.option(
    "--store", default="o", show_default=True, type=click.Choice(["c", "o"]), help="The XenStore's design (paper: o)."
)
@click.option("--seed", default=0, show_default=True, help="Goes into all that is chosen freely.")
@click.option("--engine", default="auto", hidden=True)
def command(
    own_files: tuple[str, ...],
    guest: str,
    numbers: tuple[int, ...],
    many: int,
    out_dir: str,
    resume_dir: str | None,
    jobs: int,
    store: str,
    seed: int,
    engine: str,
) -> None:
    """Redraw the LightVM paper's Figs 4, 5, 9 and 10 with what is executed here, the paper's own numbers beside.

    Writes one page, DIR/index.html, that needs nothing else to be read, each figure and flame graph as SVG, and all
    numbers as JSON.
    """
    from pyvmm import compare
    from pyvmm.cli.flames import flames_of
    from pyvmm.cli.growth import growth_of

    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise PyvmmError(f"figures are drawn with {error.name}, and it is not installed: pip install pyvmm") from None
    assert jinja2 and matplotlib  # before an hour of sweeps, not after
    compare.check(compare.DESIGNS, guest)
    numbers = tuple(sorted({1, *numbers}))  # ratios are to the first
    out = directory(out_dir, "output")
    titles = {name: facts.title for name, facts in compare.DESIGNS.items()}
    most = Sweep("lightvm", "noop", _dots(many), store, seed, engine)
    with ExitStack() as stack:
        own = {}
        if own_files:
            from pyvmm.designs import load

            own = {one.name: one for one in load(own_files, Path(stack.enter_context(TemporaryDirectory())))}
            for one in own.values():
                if one.dom0 is None:
                    raise UsageError(f"{one.source}: {one.name} is Python: there are no instructions of it to draw")
                titles[one.name] = one.name
        pairs = [(design, guest) for design in titles]
        pairs += [("xl", other) for other in FIG_4 if other != guest]
        wanted = {(d, g): Sweep(d, g, numbers, store, seed, engine, own.get(d)) for d, g in pairs}
        pool = stack.enter_context(workers(jobs))
        done = run(pool, list(dict.fromkeys([most, *wanted.values()])), Kept(resume_dir))
    found = {pair: done[sweep] for pair, sweep in wanted.items()}
    made = {pair: _creations(measured) for pair, measured in found.items()}
    sections = _sections(made, _creations(done[most]), guest, titles)
    provenance = compare.provenance(guest)
    for other in FIG_4:
        provenance["images"] |= compare.provenance(other)["images"]
    provenance |= {f"design {one.name}": one.sha256 for one in own.values()}
    growths = [growth_of(found[design, guest]) for design in titles]
    flames = flames_of({design: found[design, guest][-1] for design in titles})
    every = [one.row for measured in (*found.values(), done[most]) for one in measured]
    _write(out, sections, growths, flames, every, {"store": store, "seed": seed}, provenance)
    for g in growths:
        print(g.sentence())
    print(f"pyvmm: {out / 'index.html'}", file=sys.stderr)


def _creations(measured: Sequence[Measured]) -> Creations:
    from pyvmm.report.creations import Creations
    from pyvmm.report.stacks import unpack

    return Creations.of([one.row for one in measured], [unpack(one.paths) for one in measured])


def _sections(
    made: dict[tuple[str, str], Creations], many: Creations, guest: str, titles: dict[str, str]
) -> list[Section]:
    from pyvmm.report import differences as differ
    from pyvmm.report import figures as draw
    from pyvmm.report import figures_tables as tables
    from pyvmm.report.figures_page import Section

    rows = {pair: c.rows for pair, c in made.items()}
    four = {("xl", g): made["xl", g] for g in dict.fromkeys((*FIG_4, guest))}
    nine = {design: made[design, guest] for design in titles}
    papers = guest == differ.GUEST
    other = "" if papers else f" The paper's guest is {differ.GUEST}: no difference to {guest} is explained."
    return [
        Section(
            "figure-4",
            "Fig. 4: create and boot of the n-th guest, stock toolstack",
            "Guests made by xl one after the other, all kept running. The paper's guests are a Debian, a Tinyx and a "
            "unikernel; Docker containers and processes beside them.",
            "Our guests have no Linux among them: Debian, Tinyx, containers and processes have no counterpart here. "
            "noop does nothing but say that it is there: its create / boot has no counterpart there, either.",
            draw.figure_4({pair: rows[pair] for pair in four}),
            tables.table_4(four),
            differ.differences_4(made["xl", differ.GUEST]),
        ),
        Section(
            "figure-5",
            f"Fig. 5: what xl's creation of {guest} is made of",
            "Executed instructions by class. The paper's text gives two of its classes in numbers.",
            f"The paper's hypervisor class includes Xen's own work, which here is charged apart.{other}",
            draw.figure_5(rows["xl", guest]),
            tables.table_5(made["xl", guest]),
            differ.differences_5(made["xl", guest]) if papers else [],
        ),
        Section(
            "figure-9",
            f"Fig. 9: creation of {guest} by all designs",
            "All that is executed for the n-th guest but the guest's own boot; dotted, and with charged: with Xen's "
            "own work for all of it, the boot's hypercalls, too. The paper's first chaos [XS+split] is not known.",
            tables.order_9(nine, titles) + other,
            draw.figure_9(rows, guest, titles),
            tables.table_9(nine, titles),
            differ.differences_9(nine, titles) if papers else [],
        ),
        Section(
            "figure-10",
            "Fig. 10: many noop guests by LightVM",
            "A guest without devices, create and boot.",
            "The paper's containers end at about 3000, where the machine's memory does.",
            draw.figure_10(many.rows),
            tables.table_10(many.rows),
            differ.differences_10(many),
        ),
    ]


def _write(
    out: Path,
    sections: Sequence[Section],
    growths: Sequence[Growth],
    flames: Sequence[Flame],
    rows: Sequence[dict[str, Any]],
    conditions: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    from pyvmm.report.figures_page import page
    from pyvmm.report.figures_tables import table_rows

    images = {f"image {name}": sha for name, sha in provenance["images"].items()}
    made_of = {**{k: v for k, v in provenance.items() if k != "images"}, **conditions, **images}
    texts = {f"{section.name}.svg": section.svg for section in sections}
    texts |= {f"{flame.name}.svg": flame.svg for flame in flames}
    texts["index.html"] = page(sections, growths, flames, table_rows(rows), made_of)
    differences = {section.name: [vars(d) for d in section.differences] for section in sections}
    data = {"run": {**conditions, **provenance}, "rows": rows, "growth": [g.to_json() for g in growths]}
    data["differences"] = differences
    texts["figures.json"] = json.dumps(data, indent=1) + "\n"
    for name, text in texts.items():
        try:
            (out / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {out / name}: {error.strerror}") from None


__all__ = ["command"]
