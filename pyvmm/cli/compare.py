"""``pyvmm compare``: the toolstack designs beside each other, instruction by instruction."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pyvmm.cli.numbers import CURVE, numbers_option, parse
from pyvmm.cli.output import open_output, wide_console
from pyvmm.cli.sweeps import Kept, Sweep, directory, run, workers
from pyvmm.errors import UsageError

COLUMNS = ("config", "hypervisor", "xenstore", "devices", "load", "toolstack", "boot")
CROSSINGS = ("hypercalls", "events", "switches", "store_messages")


@click.command("compare")
@click.option("--designs", metavar="A,B", help="The designs to compare (default: all).")
@click.option(
    "--design", "own_files", metavar="FILE", multiple=True, help="A design of your own: C, Python, or a dom0."
)
@click.option("--guest", default="daytime", show_default=True, help="The guest that is made: noop, hello or daytime.")
@numbers_option("1,10,100", "Which creations to show.")
@click.option("--json", "json_file", metavar="FILE", help="Write the rows to FILE ('-' for stdout), and growth.")
@click.option(
    "--profile", "profile_dir", metavar="DIR", help="Write each creation's call paths (folded stacks) to DIR."
)
@click.option("--flame", "flame_dir", metavar="DIR", help="Write flame graphs of the last creations to DIR (SVG).")
@click.option("--growth", is_flag=True, help=f"Show which functions grow, and by what law (default -n {CURVE}).")
@click.option("--resume", "resume_dir", metavar="DIR", help="Keep finished designs in DIR, and go on from there.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Designs measured at a time.")
@click.option("--store", default="c", show_default=True, type=click.Choice(["c", "o"]), help="The XenStore's design.")
@click.option("--charged/--no-charged", default=True, help="Show what Xen's own work costs, in a column of its own.")
@click.option(
    "--hypercalls", is_flag=True, help="Show what Xen was asked for, by name: how often, and what it costs Xen."
)
@click.option("--seed", default=0, show_default=True, help="Goes into all that is chosen freely.")
@click.option("--engine", default="auto", hidden=True)
@click.pass_context
def command(
    context: click.Context,
    designs: str | None,
    own_files: tuple[str, ...],
    guest: str,
    numbers: tuple[int, ...],
    json_file: str | None,
    profile_dir: str | None,
    flame_dir: str | None,
    growth: bool,
    resume_dir: str | None,
    jobs: int,
    store: str,
    charged: bool,
    hypercalls: bool,
    seed: int,
    engine: str,
) -> None:
    """Make guests with each toolstack design, one after the other, and show what the n-th creation took.

    Everything is executed as x86 code on the emulated machine: dom0 with its toolstack and back ends, and the guest.
    The counts are instructions and are the same on every machine.
    """
    from pyvmm import compare
    from pyvmm.cli.growth import TWO, growth_of, show
    from pyvmm.cli.work import show as show_work
    from pyvmm.report.stacks import folded

    if growth and context.get_parameter_source("numbers") is ParameterSource.DEFAULT:
        numbers = parse(CURVE)
    with ExitStack() as stack:
        own = {}
        if own_files:
            from pyvmm.designs import load

            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            own = {one.name: one for one in load(own_files, work)}
        names = list(compare.DESIGNS) if designs is None else designs.split(",")
        if "" in names:
            raise UsageError(f"--designs {designs!r}: expected names with commas between, such as xl,lightvm")
        chosen = dict.fromkeys(names) | dict.fromkeys(own)
        compare.check((design for design in chosen if design not in own), guest)
        wanted = [Sweep(design, guest, numbers, store, seed, engine, own.get(design)) for design in chosen]
        out = open_output(stack, json_file, "json", sys.stdout)
        profiles = None if profile_dir is None else directory(profile_dir, "profile")
        pictures = None if flame_dir is None else directory(flame_dir, "flame graphs'")
        pool = stack.enter_context(workers(min(jobs, len(chosen))))
        found = run(pool, wanted, Kept(resume_dir))
        rows = [one.row for measured in found.values() for one in measured]
        growths = [growth_of(measured) for measured in found.values()] if growth else []
        if out is not None:
            data = {"rows": rows, "growth": [one.to_json() for one in growths]} if growth else rows
            json.dump(data, out, indent=1)
            out.write("\n")
        if out is not sys.stdout:
            _show(rows, guest, charged)
            show(growths)
            if hypercalls:
                show_work(rows, charged)
        elif growth and len(numbers) == 2:
            print(f"pyvmm: {TWO}", file=sys.stderr)
        if profiles is not None:
            for sweep, measured in found.items():
                for one in measured:
                    for kind, stacks in zip(("", ".prepare"), one.stacks(), strict=True):
                        file = profiles / f"{sweep.name}-{one.row['n']}{kind}.folded"
                        if stacks:
                            file.write_text(folded(stacks), encoding="utf-8")
        if pictures is not None:
            from pyvmm.cli.flames import flames_of

            for flame in flames_of({sweep.design: measured[-1] for sweep, measured in found.items()}):
                (pictures / f"{flame.name}-{guest}-{numbers[-1]}.svg").write_text(flame.svg, encoding="utf-8")


def _show(rows: list[dict[str, Any]], guest: str, charged: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("design", no_wrap=True)
    columns = [*COLUMNS, *(["charged"] if charged else [])]
    for name in ("n", "total", *columns, "prepare", *CROSSINGS):
        table.add_column(name.replace("store_messages", "messages"), justify="right", no_wrap=True)
    last = None
    for row in rows:
        if last is not None and row["design"] != last:
            table.add_section()
        figures = [
            row["total"],
            *(row[name] if name == "charged" else row["classes"][name] for name in columns),
            row["prepare"],
            *(row[c] for c in CROSSINGS),
        ]
        shown = row["design"] if row["design"] != last else ""
        table.add_row(shown, str(row["n"]), *(f"{value:,}" for value in figures))
        last = row["design"]
    console = wide_console()
    console.print(f"instructions to create and boot the n-th {guest}", markup=False)
    console.print(table)
    if native := list(dict.fromkeys(row["design"] for row in rows if row.get("native"))):
        console.print(f"{', '.join(native)}: dom0 is Python; nothing but the guest is executed here", markup=False)


__all__ = ["command"]
