"""``pyvmm serve``: a host that goes on until it is told to end, with its XenStore on a Unix socket."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyvmm.cli.output import open_output, write_figures
from pyvmm.cli.sizes import Size

if TYPE_CHECKING:
    from types import FrameType

    from pyvmm.backends.xenstore_socket import XenstoreSocket

ENDING = (signal.SIGINT, signal.SIGTERM)


@click.command("serve")
@click.argument("configs", metavar="[CONFIG]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--xenstore-socket",
    "path",
    metavar="PATH",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the XenStore listens: what xenstore-ls and libxenstore take as XENSTORED_PATH.",
)
@click.option(
    "--host-memory", type=Size(), default=None, help="The machine's memory (default: 512M, or what the guests need)."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides all that the host may choose freely.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "fast", "pure", "step"]),
    default="auto",
    show_default=True,
    help="How the CPU is driven; all give the same results.",
)
@click.option("--json", "json_file", metavar="FILE", default=None, help="At the end, write the figures to FILE (or -).")
@click.option("--trace", "trace_file", metavar="FILE", default=None, help="Write every event to FILE (- for stderr).")
def command(
    configs: tuple[Path, ...],
    path: Path,
    host_memory: int | None,
    seed: int,
    engine: str,
    json_file: str | None,
    trace_file: str | None,
) -> None:
    """Keep a host running, with the guests of the CONFIG files, and let other programs at its XenStore.

    What guests print is on stdout, with their names before it. SIGINT or SIGTERM ends it: the guests are destroyed, the
    socket is removed, the exit status is 0. It is 2 for bad usage, a bad configuration or image, or a socket that
    somebody else serves.
    """
    from pyvmm.backends.xenstore_socket import XenstoreSocket
    from pyvmm.cli.guests import Guests, load_all, memory_for
    from pyvmm.host import Host

    guests = load_all(configs)
    with ExitStack() as stack:
        trace = open_output(stack, trace_file, "trace", sys.stderr)
        figures = open_output(stack, json_file, "json", sys.stdout)
        host = stack.enter_context(Host(host_memory or memory_for(guests), engine=engine, seed=seed))
        if trace is not None:
            from pyvmm.report.text import write_trace

            write_trace(host.hypervisor.trace, trace)
        store = stack.enter_context(closing(XenstoreSocket(host.services.xenstored, path)))
        stack.enter_context(_ended_by_signals(store))
        supervisor = Guests(host, guests, endless=True)
        names = ", ".join(supervisor.guests) or "none"
        print(f"pyvmm: the XenStore is at {path}; guests: {names}", file=sys.stderr, flush=True)
        result = host.run(outside=[supervisor, store], serve=True)
        supervisor.finish()
        write_figures(result, figures)


@contextmanager
def _ended_by_signals(store: XenstoreSocket) -> Iterator[None]:
    """SIGINT and SIGTERM end the run cleanly; a second one does what it did before."""
    before = {number: signal.getsignal(number) for number in ENDING}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        store.stop()
        restore()

    wake = signal.set_wakeup_fd(store.wake_fd, warn_on_full_buffer=False)
    for number in ENDING:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
        signal.set_wakeup_fd(wake)
