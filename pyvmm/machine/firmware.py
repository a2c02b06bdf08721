"""The CPL-0 code: one page, assembled from `firmware/entry.S` into `firmware.bin` beside this file.

Entry points, a fixed distance apart. The selector to load is in EAX; each ends in `int3`, which the engine reports.
`ENTRY_IRETQ` pops RIP, CS, RFLAGS, RSP, SS from the stack.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from pyvmm.machine.paging import PAGE_SIZE

ENTRY: Final = {"ds": 0x00, "es": 0x10, "fs": 0x20, "gs": 0x30}
ENTRY_IRETQ: Final = 0x40
#: Where the frame for `iretq` is put.
FRAME: Final = 0x800


@cache
def page() -> bytes:
    """The page of firmware, padded with `int3`."""
    return files("pyvmm.machine").joinpath("firmware.bin").read_bytes().ljust(PAGE_SIZE, b"\xcc")
