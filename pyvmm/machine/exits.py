"""Why `Machine.run` returned, and the errors of the machine layer.

Exits are immutable and compare by value, so that tests and traces can compare them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Syscall:
    """A `syscall` which the callback declined. RIP is after it; RCX and R11 are untouched; it is counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception of the CPU (Intel SDM volume 3, table 6-1).

    RIP is at the faulting instruction, except for #DB (vector 1), a trap, where it is after it. `error_code` is None
    for
    the vectors that push none. `address` is the faulting linear address for #PF (vector 14), else 0.
    """

    vector: int
    error_code: int | None
    address: int = 0


@dataclass(frozen=True, slots=True)
class SoftInt:
    """`int3` or `int n`, counted as retired. RIP is after the instruction, which is `length` bytes long."""

    vector: int
    length: int


@dataclass(frozen=True, slots=True)
class BudgetUsed:
    """The budget of retired instructions is used up."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """`Machine.request_stop` was called."""


Exit = Syscall | Fault | SoftInt | BudgetUsed | Stopped


class MachineError(Exception):
    """The machine was used wrongly, or the CPU engine failed."""


class PageFault(MachineError):
    """A linear address does not translate. `error_code` has the bits of a #PF error code (P, W, U, RSVD, I)."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


class SegmentFault(MachineError):
    """The CPU refused to load a selector. `vector` and `error_code` say how."""

    def __init__(self, selector: int, vector: int = 13, error_code: int = 0) -> None:
        super().__init__(f"selector {selector:#x} refused: exception {vector}, error code {error_code:#x}")
        self.selector = selector
        self.vector = vector
        self.error_code = error_code


#: Exceptions that push an error code (Intel SDM volume 3, table 6-1).
WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17})
