"""``pyvmm run``: boot one PV kernel, be its console, tell what it did."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyvmm.cli.output import Reports, explain_crash, explain_end, open_output, write_figures
from pyvmm.cli.sizes import Count, Size
from pyvmm.cli.terminal import raw_keyboard, write_bytes

if TYPE_CHECKING:
    from pyvmm.host import Domain, Host, Result


@click.command("run")
@click.argument("image")
@click.option(
    "--memory",
    type=Size(),
    default=None,
    help="The domain's memory, for example 64M (default 128M; of a dom0: nearly all of the host's).",
)
@click.option(
    "--host-memory", type=Size(), default=None, help="The machine's memory (default: 512M, or what the domain needs)."
)
@click.option("--vcpus", type=click.IntRange(1, 128), default=1, show_default=True, help="Virtual CPUs.")
@click.option("--cmdline", default="", help="The kernel's command line.")
@click.option("--ramdisk", type=click.Path(path_type=Path), default=None, help="A file the kernel gets as its module.")
@click.option("--dom0", is_flag=True, help="Boot the image as domain 0, with its privileges.")
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
    image: str,
    memory: int | None,
    host_memory: int | None,
    vcpus: int,
    cmdline: str,
    ramdisk: Path | None,
    dom0: bool,
    max_instructions: int | None,
    seed: int,
    engine: str,
    json_file: str | None,
    trace_file: str | None,
) -> None:
    """Boot IMAGE: the name of a shipped guest (see `pyvmm images`) or the file of any PV64 kernel.

    The guest's console is stdin and stdout; Ctrl-] leaves. Exit status: 0 the guest powered off, 3 it rebooted,
    4 it crashed, 5 the instruction budget is used up, 6 nothing can ever run again, 2 bad usage or image.
    """
    from pyvmm.host import DEFAULT_GUEST_MEMORY, DEFAULT_HOST_MEMORY, Host
    from pyvmm.host import host_memory as host_memory_for

    with ExitStack() as stack:
        # Files first: a run that cannot be written down is not begun.
        trace = open_output(stack, trace_file, "trace", sys.stderr)
        figures = open_output(stack, json_file, "json", sys.stdout)
        wanted = memory if memory is not None else DEFAULT_GUEST_MEMORY
        if host_memory is None:
            host_memory = max(DEFAULT_HOST_MEMORY, host_memory_for(wanted))
        host = stack.enter_context(Host(host_memory, engine=engine, seed=seed))
        if trace is not None:
            from pyvmm.report.text import write_trace

            write_trace(host.hypervisor.trace, trace)
        if dom0:
            domain = host.create_dom0(image, memory=memory, vcpus=vcpus, cmdline=cmdline, ramdisk=ramdisk)
        else:
            domain = host.create(image, memory=wanted, vcpus=vcpus, cmdline=cmdline, ramdisk=ramdisk)
            host.services.listeners.append(Reports())
        domain.console.listen(write_bytes)
        result = _run(host, domain, max_instructions)
        for ended in result.domains:
            if ended.exit == "crash":
                explain_crash(ended.domid, ended.name, ended.crash_report)
        explain_end(result.exit)
        write_figures(result, figures)
    raise click.exceptions.Exit(result.exit_status)


def _run(host: Host, domain: Domain, max_instructions: int | None) -> Result:
    """The run itself, with the terminal as keyboard, or a file or pipe as typed-ahead input."""
    if sys.stdin is None or sys.stdin.closed:
        return host.run(max_instructions)
    if sys.stdin.isatty():
        with raw_keyboard(sys.stdin.fileno()) as keyboard:
            return host.run(max_instructions, keyboard=keyboard)
    domain.console.feed_from(sys.stdin.buffer)
    return host.run(max_instructions)
