"""What commands that run a host have in common: the files they write, and what they say at the end."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from pyvmm.errors import UsageError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from pyvmm.result import Result
    from pyvmm.xenbus.devices import Key, Report

REPORTS_TOLD = 10  # of one device
WIDEST = 10_000  # columns, more than any table has


def open_output(stack: ExitStack, name: str | None, what: str, standard: TextIO) -> TextIO | None:
    """The file to write: `standard` for "-", None for None. `UsageError` when it cannot be written."""
    if name is None:
        return None
    if name == "-":
        return standard
    try:
        return stack.enter_context(open(name, "w", encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write the {what} file {name}: {error.strerror}") from None


def wide_console() -> Console:
    """For tables of numbers: a line is as long as it needs to be. A terminal that is narrower breaks it; nothing is
    ever shortened."""
    from rich.console import Console

    return Console(width=WIDEST, highlight=False)


def write_figures(result: Result, out: TextIO | None) -> None:
    """The run's figures as JSON, if they were asked for."""
    if out is not None:
        json.dump(result.to_json(), out, indent=2)
        out.write("\n")
        out.flush()


def tell(message: str) -> None:
    """One line on stderr, whatever names and values are in it."""
    print(f"pyvmm: {one_line(message)}", file=sys.stderr, flush=True)


class Reports:
    """Tells of devices that were closed because of something wrong, a line each (`Services.listeners`). `name(report)`
    says what a device is called. Of one that fails again and again the first reports are told: a guest can do that."""

    def __init__(self, name: Callable[[Report], str] = lambda report: str(report.device)) -> None:
        self._name = name
        self._told: Counter[Key] = Counter()

    def __call__(self, report: Report) -> None:
        """One more report."""
        self._told[report.device] += 1
        if self._told[report.device] <= REPORTS_TOLD:
            last = " (no more is told of it)" if self._told[report.device] == REPORTS_TOLD else ""
            tell(f"{self._name(report)}: {report.cause}{last}")


def explain_crash(domid: int, name: str, report: str | None) -> None:
    """A crashed domain, on stderr."""
    print(f"pyvmm: domain {domid} ({name}) crashed", file=sys.stderr)
    if report:
        print(report.rstrip(), file=sys.stderr)


def explain_end(exit: str) -> None:
    """Why a run ended that no guest ended, on stderr."""
    if exit == "deadlock":
        print(
            "pyvmm: deadlock: no vCPU can ever run again: none is runnable, no timer is set, no input is left",
            file=sys.stderr,
        )
    elif exit == "budget":
        print("pyvmm: the instruction budget is used up", file=sys.stderr)
