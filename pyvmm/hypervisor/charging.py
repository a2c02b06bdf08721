"""The hypervisor's own work, charged: for every hypercall, trap, event and switch what it costs the real Xen.

A listener on the trace: it hears what crosses a boundary, looks up the kind of work in the table `costs` and counts
pages, entries and bytes as the arguments say. Nothing that is executed depends on it, unless the clock runs on with it.
What each cost stands for, and what is not charged, is told in docs/costs.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyvmm.abi import callback, domctl, event_channel, grant_table, memory, nmi, sched, sysctl, vcpu, version, xen
from pyvmm.hypervisor import costs, trace
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.trace import Event
    from pyvmm.hypervisor.vcpu import VCpu

UNKNOWN = "unknown"  # a call that Xen does not know is refused at once
MOST = 1 << 16  # entries of one call that are looked at
_U32 = 0xFFFF_FFFF
_XEN_SLOTS = slice(256, 272)  # of an L4 table: not the guest's
_VECTORS = {14: "bounce.page_fault", 13: "bounce.general_protection"}
_MNEMONICS = {"cpuid": "emulated.cpuid", "rdmsr": "emulated.rdmsr", "wrmsr": "emulated.rdmsr"}
_NAMES: dict[str, Mapping[int, str]] = {
    "xen_version": version.XENVER_NAMES,
    "memory_op": memory.XENMEM_NAMES,
    "sched_op": sched.SCHEDOP_NAMES,
    "event_channel_op": event_channel.EVTCHNOP_NAMES,
    "grant_table_op": grant_table.GNTTABOP_NAMES,
    "vcpu_op": vcpu.VCPUOP_NAMES,
    "console_io": {0: "write", 1: "read"},
    "callback_op": {callback.CALLBACKOP_register: "register", callback.CALLBACKOP_unregister: "unregister"},
    "nmi_op": {
        nmi.XENNMI_register_callback: "register_callback",
        nmi.XENNMI_unregister_callback: "unregister_callback",
    },
}
Arguments = tuple[int, int, int, int, int]
Work = list[tuple[str, int]]  # names of costs, and how much of each beside its fixed part


def _read(v: VCpu, at: int, size: int) -> bytes:
    """Of the guest's memory, after the call; nothing if it cannot be read (any more)."""
    try:
        return v.copy_in(at, size)
    except XenError:
        return b""


def _mmu_update(v: VCpu, a: Arguments, result: int) -> Work:
    data = _read(v, a[0], 16 * min(a[1] & 0x7FFF_FFFF, MOST))
    pairs = np.frombuffer(data, np.uint64).reshape(-1, 2)
    m2p = (pairs[:, 0] & 3) == xen.MMU_MACHPHYS_UPDATE
    present = (pairs[:, 1] & 1).astype(bool) & ~m2p
    foreign = a[3] & 0xFFFF not in (xen.DOMID_SELF, v.domain.domid)
    counts = {
        "mmu_update.foreign" if foreign else "mmu_update.map": int(present.sum()),
        "mmu_update.clear": int((~present & ~m2p).sum()),
        "mmu_update.machphys": int(m2p.sum()),
    }
    return [("mmu_update", 0), *((name, n) for name, n in counts.items() if n)]


def _update_va_mapping(v: VCpu, a: Arguments, result: int) -> Work:
    return [("update_va_mapping.map" if a[1] & 1 else "update_va_mapping.clear", 0)]


def _mmuext_op(v: VCpu, a: Arguments, result: int) -> Work:
    work = [("mmuext_op", 0)]
    data = _read(v, a[0], xen.mmuext_op.size * min(a[1] & 0x7FFF_FFFF, MOST))
    for at in range(0, len(data), xen.mmuext_op.size):
        name = xen.MMUEXT_NAMES.get(int.from_bytes(data[at : at + 4], "little"), "").lower()
        name = "pin" if name.startswith("pin_") or name == "unpin_table" else name
        work.append((f"mmuext_op.{name}" if f"mmuext_op.{name}" in costs.COSTS else "mmuext_op.set_ldt", 0))
    return work


def _memory_op(v: VCpu, a: Arguments, result: int) -> Work:
    name = memory.XENMEM_NAMES.get(a[0] & 0x3F, UNKNOWN)
    if name in ("populate_physmap", "decrease_reservation", "increase_reservation") and result > 0:
        result -= a[0] >> 6  # extents done before this call: a continuation's
        data = _read(v, a[1], memory.xen_memory_reservation.size)
        order = memory.xen_memory_reservation.unpack(data).extent_order if data else 0
        if name != "populate_physmap":
            return [(f"memory_op.{name}", result << order)]
        if order == 0:
            return [("memory_op.populate_physmap", result)]
        return [("memory_op.populate_physmap", 0), ("memory_op.populate_physmap.page", result << order)]
    return [(f"memory_op.{name}", 0)]


def _grant_table_op(v: VCpu, a: Arguments, result: int) -> Work:
    name = grant_table.GNTTABOP_NAMES.get(a[0] & _U32, UNKNOWN)
    work = [(f"grant_table_op.{name}", a[2] & _U32)]
    if name == "copy":
        size = grant_table.gnttab_copy.size
        at = grant_table.gnttab_copy.len.offset
        data = _read(v, a[1], size * min(a[2] & _U32, MOST))
        lengths = (int.from_bytes(data[i + at : i + at + 2], "little") for i in range(0, len(data), size))
        work.append(("grant_table_op.copy.byte", sum(lengths)))
    return work


def _set_trap_table(v: VCpu, a: Arguments, result: int) -> Work:
    n = 0
    while a[0] and n < 257 and any(_read(v, a[0] + 16 * n + 8, 8)):
        n += 1
    return [("set_trap_table", n)]


def _console_io(v: VCpu, a: Arguments, result: int) -> Work:
    return [("console_io.read", 0)] if a[0] & _U32 else [("console_io.write", a[1] & _U32)]


def _set_timer_op(v: VCpu, a: Arguments, result: int) -> Work:
    return [("set_timer_op" if a[0] else "set_timer_op.stop", 0)]


def _sysctl(v: VCpu, a: Arguments, result: int) -> Work:
    data = _read(v, a[0], sysctl.xen_sysctl.size)
    name = sysctl.SYSCTL_NAMES.get(int.from_bytes(data[:4], "little"), UNKNOWN)
    if name == "getdomaininfolist" and not result:
        return [("sysctl.getdomaininfolist", sysctl.xen_sysctl.unpack(data).u.getdomaininfolist.num_domains)]
    if name == "numainfo" and not result:
        told = sysctl.xen_sysctl.unpack(data).u.numainfo
        return [("sysctl.numainfo", told.num_nodes if told.meminfo else 0)]
    if name == "cpupool_op" and sysctl.xen_sysctl.unpack(data).u.cpupool_op.op == sysctl.XEN_SYSCTL_CPUPOOL_OP_INFO:
        return [("sysctl.cpupool_op.info", 0)]
    return [(f"sysctl.{name}", 0)]


_SPECIAL: dict[str, Callable[[VCpu, Arguments, int], Work]] = {
    "mmu_update": _mmu_update,
    "update_va_mapping": _update_va_mapping,
    "mmuext_op": _mmuext_op,
    "memory_op": _memory_op,
    "grant_table_op": _grant_table_op,
    "set_trap_table": _set_trap_table,
    "console_io": _console_io,
    "set_timer_op": _set_timer_op,
    "sysctl": _sysctl,
}


class Charged(NamedTuple):
    """Work of one kind: how often, and the instructions for all of it."""

    times: int
    instructions: int


class Charging:
    """Charges the work of `hv` from now on, until `stop`. `total`: instructions so far; `by`: the same by name of cost.

    With `clock` the machine's clock runs on by what is charged (`Machine.charge`), as it does on the real Xen. Without,
    not even times change: what is executed is the same with charging and without it.
    """

    def __init__(self, hv: Hypervisor, *, clock: bool = False) -> None:
        self._hv = hv
        self._clock = clock
        self._fault = False  # a page fault of which nobody knows yet whose it is
        self._free = hv.frames.free_count
        self._thousandths: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._sum = 0
        self._charged = 0
        self._stop = hv.trace.listen(self._hear)
        self._kinds: dict[int, Callable[[Event], Work]] = {
            trace.HYPERCALL.number: self._hypercall,
            trace.EXCEPTION.number: self._exception,
            trace.BOUNCE.number: self._bounce,
            trace.EMULATED.number: lambda event: [(_MNEMONICS.get(str(event.values[0]), "emulated.cr0"), 0)],
            trace.UPCALL.number: lambda event: [("upcall", 0)],
            trace.EVTCHN_PENDING.number: self._pending,
            trace.WAKE.number: lambda event: [("wake", 0)],
            trace.SWITCH.number: lambda event: [("switch", 0)],
            trace.TIMER.number: lambda event: [("interrupt", 0)],
            trace.PAGE_TABLE.number: self._page_table,
        }

    def stop(self) -> None:
        """Charge nothing more."""
        self._stop()

    @property
    def total(self) -> int:
        """Instructions charged so far."""
        return self._sum // 1000

    @property
    def by(self) -> dict[str, Charged]:
        """Those by name of cost (`costs.COSTS`), the largest first. Instructions are whole; their sum is `total`."""
        found, before = {}, 0
        for name, n in sorted(self._thousandths.items(), key=lambda item: (-item[1], item[0])):
            found[name] = Charged(self._times[name], (before + n) // 1000 - before // 1000)
            before += n
        return found

    def _hear(self, event: Event) -> None:
        if self._fault and event.kind is not trace.BOUNCE:
            self._add([("emulated.page_table_store", 0)])  # no guest heard of it
        self._fault = False
        work = self._kinds.get(event.kind.number)
        if work is not None:
            self._add(work(event))

    def _add(self, work: Work) -> None:
        for name, n in work:
            cost = costs.COSTS.get(name) or costs.COSTS[UNKNOWN]
            amount = cost.fixed + cost.each * n
            self._thousandths[name] += amount
            self._times[name] += 1
            self._sum += amount
        if self._clock and self.total > self._charged:
            self._hv.machine.charge(self.total - self._charged)
            self._charged = self.total
            self._hv.look = True  # a timer may be due earlier than the engine would come back

    def _hypercall(self, event: Event) -> Work:
        values: tuple[Any, ...] = event.values
        name, result = values[0], values[-1]
        domain = self._hv.domains.get(event.domid)
        v = domain.vcpus[event.vcpu] if domain is not None else None
        if v is None:
            return [(UNKNOWN, 0)]
        work = self._call(v, name, values[1:6], result)
        if v.in_multicall and name != "multicall":
            work.append(("multicall.entry", 0))  # the way into Xen was the multicall's
        if name != "multicall":
            self._free = self._hv.frames.free_count
        return work

    def _call(self, v: VCpu, name: str, a: Arguments, result: int) -> Work:
        if name == "domctl":
            return self._domctl(v, a)
        if name in _SPECIAL:
            return _SPECIAL[name](v, a, result)
        if name in _NAMES:
            return [(f"{name}.{_NAMES[name].get(a[0] & _U32, UNKNOWN)}", 0)]
        return [(name, 0)]

    def _domctl(self, v: VCpu, a: Arguments) -> Work:
        name = domctl.DOMCTL_NAMES.get(int.from_bytes(_read(v, a[0], 4), "little"), UNKNOWN)
        if name in ("set_cpu_policy", "scheduler_op"):
            argument = domctl.xen_domctl.unpack(_read(v, a[0], domctl.xen_domctl.size)).u
            if name == "set_cpu_policy":
                return [(f"domctl.{name}", argument.cpu_policy.nr_leaves)]
            if argument.scheduler_op.cmd == domctl.XEN_DOMCTL_SCHEDOP_putinfo:
                return [("domctl.scheduler_op.putinfo", 0)]
        freed = self._hv.frames.free_count - self._free if name == "destroydomain" else 0
        return [(f"domctl.{name}", max(freed, 0))]

    def _pending(self, event: Event) -> Work:
        domain = self._hv.domains.get(event.domid)
        return [("pending" if domain is None or domain.evtchn.fifo is None else "pending.fifo", 0)]

    def _exception(self, event: Event) -> Work:
        self._fault = event.values[0] == 14
        return []

    def _bounce(self, event: Event) -> Work:
        vector: Any = event.values[0]
        return [(_VECTORS.get(vector, "bounce.invalid_opcode"), 0)]

    def _page_table(self, event: Event) -> Work:
        values: tuple[Any, ...] = event.values
        op, mfn = values
        if not op.startswith(("validate", "devalidate")):
            return []
        entries = np.frombuffer(self._hv.machine.ram.read(mfn << 12, 4096), np.uint64) & 1
        present = int(entries.sum()) - (int(entries[_XEN_SLOTS].sum()) if op.endswith("l4") else 0)
        name = op.replace(" ", ".")
        current = self._hv.current
        if name == "validate.l1" and current is not None and current.domain.domid == event.domid:
            name = "validate.l1.own"  # the domain that runs made it, of its own pages
        return [(name, present)]
