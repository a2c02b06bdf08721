"""The machine: CPU, memory, clock and instruction counter. It knows x86-64 and nothing of Xen."""

from pyvmm.machine.context import Context
from pyvmm.machine.exits import (
    BudgetUsed,
    Exit,
    Fault,
    MachineError,
    PageFault,
    SegmentFault,
    SoftInt,
    Stopped,
    Syscall,
)
from pyvmm.machine.machine import Machine
from pyvmm.machine.paging import PAGE_SIZE
from pyvmm.machine.ram import Ram
from pyvmm.machine.registers import Reg

__all__ = [
    "PAGE_SIZE", "BudgetUsed", "Context", "Exit", "Fault", "Machine", "MachineError", "PageFault", "Ram", "Reg",
    "SegmentFault", "SoftInt", "Stopped", "Syscall",
]  # fmt: skip
