"""The hypercall table: number, name, arguments and handler, and the way from a guest's registers to a handler.

A subsystem registers its handlers with `@hypercall`; the table is the only way in, for x86 and for native vCPUs alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.continuation import enter_again
from pyvmm.hypervisor.errors import Preempted, XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

Handler = Callable[..., int]
H = TypeVar("H", bound=Handler)
MAX_ARGS = 5  # Xen 4.17 passes rdi, rsi, rdx, r10, r8
_U64 = (1 << 64) - 1


class Entry(NamedTuple):
    """One hypercall: its number and name, the names of the arguments it takes (at most five) and what serves it."""

    number: int
    name: str
    args: tuple[str, ...]
    handler: Handler


TABLE: dict[int, Entry] = {}


def hypercall(number: int, *args: str, name: str | None = None) -> Callable[[H], H]:
    """Register the decorated ``handler(v, *args)`` under `number`; it returns what goes to RAX. `name`: of one that is
    not Xen's."""

    def register(handler: H) -> H:
        assert number not in TABLE and len(args) <= MAX_ARGS
        TABLE[number] = Entry(number, name or xen.HYPERCALL_NAMES[number], args, handler)
        return handler

    return register


def call(v: VCpu, number: int, a1: int = 0, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """Serve one hypercall of `v`; the result as a signed integer (negative: an errno). An unknown number is -ENOSYS."""
    entry = TABLE.get(number)
    if entry is None:
        # One name for all that do not exist: a guest could make up any number of them.
        name, result = xen.HYPERCALL_NAMES.get(number, "unknown"), -errno.ENOSYS
    else:
        _, name, args, handler = entry
        count = len(args)
        try:
            # Spelled out, because slicing the arguments for a star costs as much as all the rest of this function.
            if count == 2:
                result = handler(v, a1, a2)
            elif count == 3:
                result = handler(v, a1, a2, a3)
            elif count == 4:
                result = handler(v, a1, a2, a3, a4)
            elif count == 1:
                result = handler(v, a1)
            elif count == 0:
                result = handler(v)
            else:
                result = handler(v, a1, a2, a3, a4, a5)
        except XenError as error:
            result = -error.errno
        except Preempted as part:
            v.hv.leave = True  # others have a turn
            if v.in_multicall:
                v.unfinished = part.rest
            else:
                enter_again(v, number, part.rest)
            a1, a2, a3, a4, a5 = (*part.served, a1, a2, a3, a4, a5)[:MAX_ARGS]
            result = part.result
    v.domain.counters.hypercalls[name] += 1
    bus = v.hv.trace
    if bus.on:
        bus.emit(trace.HYPERCALL, v.domain.domid, v.vcpu_id, name, a1, a2, a3, a4, a5, result)
    return result


def signed(value: int, bits: int = 64) -> int:
    """`value` read as a two's complement number of `bits` bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
