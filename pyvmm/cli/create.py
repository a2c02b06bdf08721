"""``pyvmm create``: several guests on one host, with their consoles, until all have ended."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyvmm.cli.output import explain_end, open_output, write_figures
from pyvmm.cli.sizes import Count, Size
from pyvmm.cli.terminal import raw_keyboard
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.cli.guests import Guests
    from pyvmm.host import Host, Result


@click.command("create")
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--console", metavar="NAME", default=None, help="The guest that gets stdin (default: the only one).")
@click.option(
    "--host-memory", type=Size(), default=None, help="The machine's memory (default: 512M, or what the guests need)."
)
@click.option(
    "--max-instructions", type=Count(), default=None, help="Stop after exactly this many instructions (exit status 5)."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides all that the host may choose freely.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "fast", "pure", "step"]),
    default="auto",
    show_default=True,
    help="How the CPU is driven; all give the same results.",
)
@click.option(
    "--json", "json_file", metavar="FILE", default=None, help="Write the run's figures to FILE (- for stdout)."
)
@click.option("--trace", "trace_file", metavar="FILE", default=None, help="Write every event to FILE (- for stderr).")
def command(
    configs: tuple[Path, ...],
    console: str | None,
    host_memory: int | None,
    max_instructions: int | None,
    seed: int,
    engine: str,
    json_file: str | None,
    trace_file: str | None,
) -> None:
    """Boot the guest of each CONFIG, an xl configuration file or chaos's JSON, on one host; run until all have ended.

    What guests print is on stdout, with their names before it when there are several. The configuration's on_poweroff,
    on_reboot, on_crash and on_watchdog are honoured: destroy, restart or preserve. Ctrl-] leaves. Exit status: 0 all
    powered off, 3 one ended with a reboot, 4 with a crash, 5 the instruction budget is used up, 6 nothing can ever run
    again, 2 bad usage, configuration or image.
    """
    from pyvmm.cli.guests import Guests, load_all, memory_for
    from pyvmm.host import Host

    guests = load_all(configs)
    names = [guest.name for guest in guests]
    if console is not None and console not in names:
        raise UsageError(f"--console {console}: there is no such guest; there are: {', '.join(names)}")
    foreground = console or (names[0] if len(names) == 1 else None)
    with ExitStack() as stack:
        # Files first: a run that cannot be written down is not begun.
        trace = open_output(stack, trace_file, "trace", sys.stderr)
        figures = open_output(stack, json_file, "json", sys.stdout)
        host = stack.enter_context(Host(host_memory or memory_for(guests), engine=engine, seed=seed))
        if trace is not None:
            from pyvmm.report.text import write_trace

            write_trace(host.hypervisor.trace, trace)
        supervisor = Guests(host, guests, foreground=foreground)
        result = _run(host, supervisor, foreground, max_instructions)
        if result.exit in ("poweroff", "reboot", "suspend", "crash"):
            result = replace(result, exit=supervisor.worst_exit())
        supervisor.finish()
        explain_end(result.exit)
        write_figures(result, figures)
    raise click.exceptions.Exit(result.exit_status)


def _run(host: Host, guests: Guests, foreground: str | None, max_instructions: int | None) -> Result:
    """The run itself, with the terminal as keyboard, or a file or pipe as typed-ahead input, if a guest gets it."""
    if foreground is None or sys.stdin is None or sys.stdin.closed:
        return host.run(max_instructions, outside=[guests])
    if sys.stdin.isatty():
        with raw_keyboard(sys.stdin.fileno()) as keyboard:
            return host.run(
                max_instructions, outside=[guests], keyboard=keyboard, typing_to=lambda: guests.domain(foreground)
            )
    domain = guests.domain(foreground)
    assert domain is not None
    domain.console.feed_from(sys.stdin.buffer)
    return host.run(max_instructions, outside=[guests])
