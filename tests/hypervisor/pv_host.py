"""A machine with the frame table, page tables and a few PV domains on it, for tests of the memory subsystems.

No code runs here: a domain's tables are built by hand, and the hypercalls are called as the guest would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor import subsystems, trace  # noqa: F401 (subsystems registers the hypercalls)
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.frames import ALLOCATED, DOMID_IO, PINNED, SPECIAL, FrameTable
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.mmu import Mmu
from pyvmm.hypervisor.native import NativeSpace
from pyvmm.hypervisor.space import PageTableSpace
from pyvmm.hypervisor.vcpu import VCpu
from pyvmm.hypervisor.xen_area import XenArea
from pyvmm.machine import Machine, PageFault

KERNEL_BASE = 0x10_0000  # where a guest's pages are mapped, in order of pfn
TABLE_FLAGS = P.PRESENT | P.RW | P.USER | P.ACCESSED
RW_FLAGS = P.PRESENT | P.RW | P.USER | P.ACCESSED | P.DIRTY
RO_FLAGS = P.PRESENT | P.USER | P.ACCESSED


class Host:
    """The parts of a `Hypervisor` that the memory subsystems use."""

    def __init__(self, memory: int = 32 << 20) -> None:
        self.machine = Machine(memory, engine="pure")
        self.trace = trace.Bus(lambda: self.machine.now)
        self.domains: dict[int, Domain] = {}
        self.current: VCpu | None = None
        hv = self.hv
        self.frames = FrameTable(hv)
        self.xen_area = XenArea(hv)
        self.mmu = Mmu(hv)

    @property
    def hv(self) -> Hypervisor:
        """Itself, as what it stands for."""
        return cast(Hypervisor, self)

    def domain(self, domid: int, *, privileged: bool = False, pages: int = 1024) -> Domain:
        """A domain that owns nothing yet."""
        d = Domain(self.hv, domid, name=f"d{domid}", privileged=privileged)
        d.max_pages = pages
        if privileged:
            d.iomem.add(0, (1 << 28) - 1)
            d.iomem.remove(0xFEE00, 0xFEE00)
        self.domains[domid] = d
        return d


class Guest:
    """A PV domain with one vCPU. Its `pages` frames are mapped from KERNEL_BASE on, page tables among them read-only.

    pfn 0: L4, 1: L3, 2: L2, 3: L1; the rest are data.
    """

    def __init__(self, host: Host, domid: int, *, pages: int = 32, privileged: bool = False, spare: int = 1024) -> None:
        self.host = host
        self.domain = host.domain(domid, privileged=privileged, pages=pages + spare)
        self.mfns = host.frames.alloc(self.domain, pages)
        host.xen_area.set_m2p_list(self.mfns, 0)
        self.l4, self.l3, self.l2, self.l1 = self.mfns[:4]
        self.v = VCpu(host.hv, self.domain, 0)
        self.v.context = host.machine.new_context()
        self.v.space = PageTableSpace(self.v)
        self.domain.vcpus.append(self.v)
        self.raw(self.l4, 0, self.l3, TABLE_FLAGS)
        self.raw(self.l3, 0, self.l2, TABLE_FLAGS)
        self.raw(self.l2, 0, self.l1, TABLE_FLAGS)
        for pfn, mfn in enumerate(self.mfns):
            self.raw(self.l1, (KERNEL_BASE >> 12) + pfn, mfn, RO_FLAGS if pfn < 4 else RW_FLAGS)

    def start(self) -> Guest:
        """Pin its top-level table and run on it."""
        assert self.host.mmu.pin(self.l4, 4, self.domain.domid) == 0
        assert self.host.mmu.new_kernel_base(self.v, self.l4) == 0
        self.host.current = self.v
        return self

    def raw(self, table: int, index: int, mfn: int, flags: int) -> None:
        """Store an entry behind everybody's back."""
        self.host.machine.ram.write_u64((table << 12) + index * 8, mfn << 12 | flags)

    def entry(self, table: int, index: int) -> int:
        """An entry of a table."""
        return self.host.machine.ram.read_u64((table << 12) + index * 8)

    def va(self, pfn: int) -> int:
        """Where page `pfn` is mapped."""
        return KERNEL_BASE + (pfn << 12)

    def l1_entry(self, pfn: int) -> int:
        """The L1 entry that maps page `pfn`."""
        return self.entry(self.l1, self.va(pfn) >> 12)

    def call(self, number: int, *args: int) -> int:
        """A hypercall of its vCPU."""
        previous, self.host.current = self.host.current, self.v
        try:
            return hc.call(self.v, number, *args)
        finally:
            self.host.current = previous

    # Hypercall arguments go to the page of pfn 8 (and `done` to its last words).

    def update(self, *requests: tuple[int, int], foreigndom: int = xen.DOMID_SELF) -> tuple[int, int]:
        """mmu_update with (ptr, val) pairs; its result and how many it says were done."""
        data = b"".join(xen.mmu_update.pack(ptr=ptr, val=val) for ptr, val in requests)
        self.v.copy_out(self.va(8), data)
        return self._batch(xen.HYPERVISOR_mmu_update, len(requests), foreigndom)

    def set_entry(self, table: int, index: int, value: int, **options: int) -> int:
        """mmu_update of one entry."""
        return self.update(((table << 12) + index * 8, value), **options)[0]

    def ext(self, *ops: tuple[int, int, int], foreigndom: int = xen.DOMID_SELF) -> tuple[int, int]:
        """mmuext_op with (cmd, arg1, arg2) triples."""
        layout = xen.mmuext_op.choose(arg1="mfn", arg2="src_mfn")
        self.v.copy_out(self.va(8), b"".join(layout.pack(cmd=cmd, arg1=a1, arg2=a2) for cmd, a1, a2 in ops))
        return self._batch(xen.HYPERVISOR_mmuext_op, len(ops), foreigndom)

    def _batch(self, number: int, count: int, foreigndom: int) -> tuple[int, int]:
        pdone = self.va(8) + 0xFF8
        self.v.copy_out(pdone, b"\xff" * 4)
        result = self.call(number, self.va(8), count, pdone, foreigndom)
        return result, int.from_bytes(self.v.copy_in(pdone, 4), "little")

    def map(self, pfn: int, mfn: int, flags: int = RW_FLAGS, flush: int = 0) -> int:
        """update_va_mapping of the address of page `pfn`."""
        return self.call(xen.HYPERVISOR_update_va_mapping, self.va(pfn), mfn << 12 | flags if flags else 0, flush)


@contextmanager
def no_leak(host: Host) -> Iterator[None]:
    """What is done inside leaves as many free frames as there were, and a consistent table."""
    audit(host)
    free = host.frames.free_count
    yield
    audit(host)
    assert host.frames.free_count == free


def snapshot(host: Host) -> list[bytes]:
    """All owners, counts, type counts, pins and allocations, to compare."""
    f = host.frames
    return [a.tobytes() for a in (f.owners, f.counts, f.type_counts, f.flags & (ALLOCATED | PINNED))]


def audit(host: Host | Hypervisor) -> None:
    """Count again, from the page tables' contents, every reference and every use that the frame table says there is."""
    f = host.frames
    f.check()
    counts, uses = np.zeros(f.total, int), np.zeros(f.total, int)
    counts += (f.flags & ALLOCATED) != 0
    uses += (f.flags & SPECIAL) != 0
    for d in host.domains.values():
        for v in d.vcpus:
            for base in (v.l4_kernel, v.l4_user):
                counts[base] += base != 0
                uses[base] += base != 0
            for mfn in (v.info_mfn, *v.gdt_frames, *_ldt_frames(host, v)):
                counts[mfn] += mfn != 0
                uses[mfn] += mfn != 0
            if isinstance(v.space, NativeSpace):
                for mfn, writable in v.space.pages.values():
                    counts[mfn] += 1
                    uses[mfn] += writable
    counts += (f.flags & PINNED) != 0
    uses += (f.flags & PINNED) != 0
    for mfn in np.flatnonzero(f.owners < DOMID_IO).tolist():
        level = f.type_of(mfn)
        if not 1 <= level <= 4:
            continue
        for i in range(512):
            entry = host.machine.ram.read_u64((mfn << 12) + i * 8)
            target = P.frame_of(entry)
            if not entry & P.PRESENT or (level == 4 and 256 <= i < 272) or target >= f.total:
                continue
            if level == 1 and f.owner(target) != DOMID_IO:
                counts[target] += 1
                uses[target] += bool(entry & P.RW)
            elif level > 1 and target != mfn:
                counts[target] += 1
                uses[target] += 1
    owned = f.owners < DOMID_IO
    assert (counts == f.counts)[owned].all(), _differences(f.counts, counts, owned)
    assert (uses == f.type_counts)[owned].all(), _differences(f.type_counts, uses, owned)


def _ldt_frames(host: Host | Hypervisor, v: VCpu) -> list[int]:
    """The frames that are mapped in the window of `v`'s LDT."""
    if not v.ldt_entries:
        return []
    found = []
    for page in range(16):
        try:
            pa = host.machine.translate(host.xen_area.ldt_va(v) + page * 4096, user=False, cr3=v.l4_kernel << 12)
        except PageFault:
            continue
        found.append(pa >> 12)
    return found


def _differences(have: Any, should: Any, owned: Any) -> str:
    return ", ".join(f"{i:#x}: {have[i]} is {should[i]}" for i in np.flatnonzero((have != should) & owned)[:5])


__all__ = [
    "KERNEL_BASE",
    "RO_FLAGS",
    "RW_FLAGS",
    "TABLE_FLAGS",
    "Guest",
    "Host",
    "audit",
    "errno",
    "no_leak",
    "snapshot",
]
