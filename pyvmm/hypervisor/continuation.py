"""Continuations: a hypercall that asks for very much is done in parts, so that no guest holds the host.

As in Xen (hypercall_create_continuation, xen/arch/x86/hypercall.c of 4.17) a call that has done its share sets the
guest back to its `syscall`, with the arguments of what is left: the guest, none the wiser, enters it again when it next
has the CPU. Xen looks at the clock; here the share is a number of operations, so that runs repeat. Each part executes
the guest's `syscall` once more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyvmm.machine import Reg

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

SHARE = 4096  # operations (entries, pages, pieces of text) that one entry into the hypervisor may do
SYSCALL_LENGTH = 2
ARGUMENTS = (Reg.RDI, Reg.RSI, Reg.RDX, Reg.R10, Reg.R8)


def share(v: VCpu, wanted: int) -> int:
    """How many of `wanted` operations may be done before others have a turn: at least one, and for all calls of a
    multicall together not many more than `SHARE`. A native vCPU is the host's own: it may do all."""
    if v.native is not None:
        return wanted
    if not v.in_multicall:
        return min(wanted, SHARE)
    n = min(wanted, max(v.share, 1))
    v.share -= n
    return n


def enter_again(v: VCpu, number: int, arguments: tuple[int, ...]) -> None:
    """Once the engine has stopped, set `v` back to its `syscall` of hypercall `number`, with these first arguments."""
    v.after_stop = partial(_set_back, v, number, arguments)
    v.hv.look = True


def _set_back(v: VCpu, number: int, arguments: tuple[int, ...]) -> None:
    machine = v.hv.machine
    rip = machine.get(Reg.RIP) - SYSCALL_LENGTH
    machine.set_many([Reg.RIP, Reg.RAX, *ARGUMENTS[: len(arguments)]], [rip, number, *arguments])
