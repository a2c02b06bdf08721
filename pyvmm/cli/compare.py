"""``pyvmm compare``: the toolstack designs beside each other, instruction by instruction."""

from __future__ import annotations

import json
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from pyvmm.cli.output import open_output
from pyvmm.errors import UsageError

COLUMNS = ("config", "hypervisor", "xenstore", "devices", "load", "toolstack", "boot")
CROSSINGS = ("hypercalls", "events", "switches", "store_messages")


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers like 1,10,100") from None
    if not 1 <= found[0] <= found[-1] <= 8000:
        raise click.BadParameter("creations are numbered from 1 to 8000")
    return tuple(found)


@click.command("compare")
@click.option("--designs", metavar="A,B", help="The designs to compare (default: all).")
@click.option("--guest", default="daytime", show_default=True, help="The guest that is made: noop, hello or daytime.")
@click.option(
    "-n", "numbers", default="1,10,100", show_default=True, callback=_numbers, help="Which creations to show."
)
@click.option("--json", "json_file", metavar="FILE", help="Write the rows to FILE ('-' for stdout).")
@click.option(
    "--profile", "profile_dir", metavar="DIR", help="Write each creation's call paths (folded stacks) to DIR."
)
@click.option("--resume", "resume_dir", metavar="DIR", help="Keep finished designs in DIR, and go on from there.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Designs measured at a time.")
@click.option("--store", default="c", show_default=True, type=click.Choice(["c", "o"]), help="The XenStore's design.")
@click.option("--seed", default=0, show_default=True, help="Goes into all that is chosen freely.")
@click.option("--engine", default="auto", hidden=True)
def command(
    designs: str | None,
    guest: str,
    numbers: tuple[int, ...],
    json_file: str | None,
    profile_dir: str | None,
    resume_dir: str | None,
    jobs: int,
    store: str,
    seed: int,
    engine: str,
) -> None:
    """Make guests with each toolstack design, one after the other, and show what the n-th creation took.

    Everything is executed as x86 code on the emulated machine: dom0 with its toolstack and back ends, and the guest.
    The counts are instructions and are the same on every machine.
    """
    from pyvmm import compare

    chosen = tuple(designs.split(",")) if designs else tuple(compare.DESIGNS)
    compare.check(chosen, guest)
    key = {"guest": guest, "numbers": list(numbers), "seed": seed, "store": store, **compare.provenance(guest)}
    kept = _Kept(resume_dir, key)
    rows: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        out = open_output(stack, json_file, "json", sys.stdout)
        if profile_dir is not None:
            _directory(profile_dir, "profile")
        pool: Executor = stack.enter_context(ProcessPoolExecutor(min(jobs, len(chosen))))
        running = {}
        for design in chosen:
            found = None if profile_dir else kept.load(design)
            if found is not None:
                rows[design] = found
            else:
                running[design] = pool.submit(compare.measure, design, guest, numbers, engine, seed, store)
        for design, future in running.items():
            result = future.result()
            rows[design] = [row for row, _ in result]
            kept.save(design, rows[design])
            print(f"pyvmm: {design}: {numbers[-1]} guests made", file=sys.stderr, flush=True)
            for row, folded in result if profile_dir else ():
                (Path(str(profile_dir)) / f"{design}-{guest}-{row['n']}.folded").write_text(folded, encoding="utf-8")
        everything = [row for design in chosen for row in rows[design]]
        if out is not None:
            json.dump(everything, out, indent=1)
            out.write("\n")
        if out is not sys.stdout:
            _show(everything, guest)


def _directory(name: str, what: str) -> Path:
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the {what} directory {name}: {error.strerror}") from None
    return path


class _Kept:
    """Finished designs of a sweep, in a directory, with what they depend on: others are measured anew."""

    def __init__(self, directory: str | None, key: dict[str, Any]) -> None:
        self._path = _directory(directory, "resume") if directory is not None else None
        self._key = key

    def load(self, design: str) -> list[dict[str, Any]] | None:
        """Its rows, if they were measured under the same conditions."""
        file = self._path / f"{design}.json" if self._path is not None else None
        if file is None or not file.exists():
            return None
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # cut off in the middle: measured again
        return list(kept["rows"]) if kept.get("run") == self._key else None

    def save(self, design: str, rows: list[dict[str, Any]]) -> None:
        """Keep them; a half-written file never has the name."""
        if self._path is not None:
            new = self._path / f".{design}.new"
            new.write_text(json.dumps({"run": self._key, "rows": rows}, indent=1), encoding="utf-8")
            new.rename(self._path / f"{design}.json")


def _show(rows: list[dict[str, Any]], guest: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"instructions to create and boot the n-th {guest}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("design", no_wrap=True)
    for name in ("n", "total", *COLUMNS, "prepare", *CROSSINGS):
        table.add_column(name.replace("store_messages", "messages"), justify="right", no_wrap=True)
    last = None
    for row in rows:
        if last is not None and row["design"] != last:
            table.add_section()
        figures = [
            row["total"],
            *(row["classes"][name] for name in COLUMNS),
            row["prepare"],
            *(row[c] for c in CROSSINGS),
        ]
        shown = row["design"] if row["design"] != last else ""
        table.add_row(shown, str(row["n"]), *(f"{value:,}" for value in figures))
        last = row["design"]
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)


__all__ = ["command"]
