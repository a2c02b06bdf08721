"""What a hypercall costs the host: `python bench/bench_hypercalls.py [--json] [--engine fast|pure]`.

A guest makes the same hypercall over and over in a loop of four instructions; the figure is microseconds of CPU time a
round, from the `syscall` instruction through the table and back into the guest, with what the loop itself takes. Each
is the best of several repetitions, since disturbances only add. Those marked with * leave the engine by their nature.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import engine
from pyvmm.abi import event_channel as ec
from pyvmm.abi import sched, vcpu, xen
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import BASE, DATA, L1, PAGE, SPARE, CodeGuest

# loop: mov %r14d,%eax; syscall; (optional: movq $0,(%r13)); dec %ebx; jmp loop. The guest is stopped by its budget.
LOOP = bytes.fromhex("4489f0 0f05 ffcb ebf7")
LOOP_CLEARING = bytes.fromhex("4489f0 0f05 49c7450000000000 ffcb ebef")
SHARED = BASE + SPARE * PAGE  # where the guest maps its shared page
ARGUMENTS = (Reg.RDI, Reg.RSI, Reg.RDX, Reg.R10, Reg.R8)
Prepare = Callable[[CodeGuest], tuple[int, ...]]


def put(guest: CodeGuest, data: bytes, at: int = 0) -> int:
    """The guest address of `data`."""
    guest.poke(DATA + at, data)
    return DATA + at


def own_port(guest: CodeGuest) -> int:
    """An IPI port of the guest's, whose events it masks (the upcall, not the port)."""
    va = put(guest, ec.evtchn_bind_ipi.pack(vcpu=0), 0x800)
    assert guest.call(xen.HYPERVISOR_event_channel_op, ec.EVTCHNOP_bind_ipi, va) == 0
    port = int.from_bytes(guest.machine.ram.read(guest.pa(va) + ec.evtchn_bind_ipi.port.offset, 4), "little")
    guest.mask = 1
    return put(guest, ec.evtchn_send.pack(port=port))


def entry(guest: CodeGuest) -> tuple[int, int]:
    """Machine address and value of the page-table entry of a page of the guest's."""
    index = (BASE >> 12) + SPARE + 1
    pa = (guest.mfns[L1] << 12) + index * 8
    return pa, guest.machine.ram.read_u64(pa)


def mmu_update(guest: CodeGuest) -> tuple[int, ...]:
    """mmu_update of one entry to the value it has."""
    return put(guest, struct.pack("<QQ", *entry(guest))), 1, 0, xen.DOMID_SELF


def multicall(guest: CodeGuest) -> tuple[int, ...]:
    """Four entries, which cost one call of the guest's."""
    call = xen.multicall_entry.pack(op=xen.HYPERVISOR_xen_version, args=[0] * 6)
    return put(guest, call * 4), 4


# name: (hypercall, arguments, clear the word of pending bits in every round)
CASES: dict[str, tuple[int, Prepare, bool]] = {
    "xen_version version": (xen.HYPERVISOR_xen_version, lambda g: (0, 0), False),
    "event_channel_op send, new event": (
        xen.HYPERVISOR_event_channel_op, lambda g: (ec.EVTCHNOP_send, own_port(g)), True,
    ),
    "event_channel_op send, still pending": (
        xen.HYPERVISOR_event_channel_op, lambda g: (ec.EVTCHNOP_send, own_port(g)), False,
    ),
    "event_channel_op unmask": (
        xen.HYPERVISOR_event_channel_op, lambda g: (ec.EVTCHNOP_unmask, own_port(g)), False,
    ),
    "vcpu_op is_up": (xen.HYPERVISOR_vcpu_op, lambda g: (vcpu.VCPUOP_is_up, 0, 0), False),
    "vcpu_op get_runstate_info": (
        xen.HYPERVISOR_vcpu_op, lambda g: (vcpu.VCPUOP_get_runstate_info, 0, put(g, bytes(64))), False,
    ),
    "set_timer_op": (xen.HYPERVISOR_set_timer_op, lambda g: (1 << 45,), False),
    "mmu_update, one": (xen.HYPERVISOR_mmu_update, mmu_update, False),
    "update_va_mapping": (
        xen.HYPERVISOR_update_va_mapping, lambda g: (BASE + (SPARE + 1) * PAGE, entry(g)[1], 0), False,
    ),
    "stack_switch": (xen.HYPERVISOR_stack_switch, lambda g: (0xE02B, DATA), False),
    "multicall of 4": (xen.HYPERVISOR_multicall, multicall, False),
    "unknown": (60, lambda g: (), False),
    "sched_op yield *": (xen.HYPERVISOR_sched_op, lambda g: (sched.SCHEDOP_yield, 0), False),
}  # fmt: skip


def measure(name: str, engine: str, rounds: int = 4000, times: int = 7) -> float:
    """Microseconds a round."""
    number, prepare, clearing = CASES[name]
    guest = CodeGuest(LOOP_CLEARING if clearing else LOOP, engine=engine)
    length = 5 if clearing else 4
    arguments = prepare(guest)
    guest.ready()
    if clearing:
        shared = guest.domain.shared_info_mfn << 12 | 0x67
        assert guest.call(xen.HYPERVISOR_update_va_mapping, SHARED, shared, 2) == 0
        guest.set(r13=SHARED + xen.shared_info.evtchn_pending.offset)
    guest.set(r14=number, **{reg.name: value for reg, value in zip(ARGUMENTS, arguments, strict=False)})
    guest.run(length * 100)
    best = float("inf")
    for _ in range(times):
        before = guest.domain.counters.hypercalls.copy()
        start = time.process_time()
        guest.run(length * rounds)
        best = min(best, time.process_time() - start)
        assert sum(guest.domain.counters.hypercalls.values()) - sum(before.values()) >= rounds
        assert guest.domain.shutdown_code is None
    return best / rounds * 1e6


def main() -> None:
    """Measure all cases and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", default="auto", choices=("auto", "fast", "pure"))
    parser.add_argument("--case", help="only those whose name contains this")
    options = parser.parse_args()
    engine.tell()
    results = {name: measure(name, options.engine) for name in CASES if (options.case or "") in name}
    if options.json:
        print(json.dumps({"unit": "us", **results}, indent=2))
        return
    for name, microseconds in results.items():
        print(f"{name:40} {microseconds:8.2f} us")


if __name__ == "__main__":
    main()
