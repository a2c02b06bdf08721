"""The trace as text, one line an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from pyvmm.hypervisor.trace import Bus, Event


def write_trace(bus: Bus, out: TextIO) -> Callable[[], None]:
    """Write each event of `bus` to `out`: ``TIME dDOMIDvVCPU KIND name=value ...``; returns what ends it."""

    def line(event: Event) -> None:
        out.write(f"{event}\n")

    return bus.listen(line)
