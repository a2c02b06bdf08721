"""The hypervisor's part of every PV address space: top-level slots 256 to 271.

    slot 256  0xffff800000000000  M2P: the pfn of every frame, u64 each, read-only for guests; unowned frames: ~0
    slot 258  0xffff810000000000  the top-level table itself (linear page table)
    slot 260  0xffff820000000000  per-domain: for each vCPU 32 pages, 16 for its GDT and 16 for its LDT
    slot 261  0xffff828000000000  the M2P again, writable; 0xffff82d040200000 Xen's text: the machine's firmware page
    slot 262  0xffff830000000000  all physical memory

Only slot 256 is open to CPL 3. Addresses: xen/arch/x86/include/asm/config.h of Xen 4.17; the flat descriptors: those
of its boot_gdt, part of the ABI (FLAT_RING3_* of public/arch-x86/xen-x86_64.h).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyvmm.hypervisor.frames import CHUNK_ORDER, Array
from pyvmm.hypervisor.pte import ACCESSED, DIRTY, NX, PRESENT, PSE, RW, USER, frame_of

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

FIRST_XEN_SLOT, LAST_XEN_SLOT = 256, 271
HYPERVISOR_VIRT_START = 0xFFFF_8000_0000_0000
HYPERVISOR_VIRT_END = 0xFFFF_8800_0000_0000
M2P_VIRT_START = HYPERVISOR_VIRT_START
M2P_VIRT_END = 0xFFFF_8040_0000_0000
LINEAR_SLOT = 258
PERDOMAIN_SLOT = 260
PERDOMAIN_VIRT_START = 0xFFFF_8200_0000_0000
XEN_SLOT = 261
VMAP_VIRT_START = 0xFFFF_82C0_0000_0000
XEN_TEXT_START = 0xFFFF_82D0_4020_0000
FRAMETABLE_VIRT_START = 0xFFFF_82E0_0000_0000
DIRECTMAP_SLOT = 262

# The GDT as the CPU sees it: 14 pages of the guest's, then Xen's own, of which the first is there.
GDT_PAGES = LDT_PAGES = 16
FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_PAGE * 512
GDT_LIMIT = GDT_PAGES * 4096 - 1
WINDOW_PAGES = GDT_PAGES + LDT_PAGES  # a vCPU's stride
_FLAT_DESCRIPTORS = {
    0xE008: 0x00AF_9B00_0000_FFFF,  # ring 0 code, 64 bits
    0xE010: 0x00CF_9300_0000_FFFF,  # ring 0 data
    0xE020: 0x00CF_FB00_0000_FFFF,  # 0xe023: ring 3 code, 32 bits
    0xE028: 0x00CF_F300_0000_FFFF,  # 0xe02b: ring 3 data
    0xE030: 0x00AF_FB00_0000_FFFF,  # 0xe033: ring 3 code, 64 bits
}

TABLE = PRESENT | RW | ACCESSED | DIRTY
_DATA = PRESENT | RW | ACCESSED | DIRTY | NX
_READ_ONLY = PRESENT | ACCESSED | NX
_BIG = 1 << CHUNK_ORDER  # frames in a 2 MiB page


def _slot(va: int, level: int) -> int:
    """Index of `va` in a table of `level`."""
    return (va >> (3 + 9 * level)) & 511


class XenArea:
    """Builds the shared tables once, and keeps M2P and the descriptor windows."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._machine = hv.machine
        self._ram = hv.machine.ram
        self._frames = frames = hv.frames
        self._perdomain: dict[int, list[int]] = {}  # domid: every frame of its slot-260 tree
        self.zero_mfn = frames.alloc_xen()[0]
        self._flat_gdt = self._make_flat_gdt()
        # The M2P, in 2 MiB pages (they need not follow each other).
        self._m2p: list[int] = []
        for _ in range(-(-frames.total * 8 // (_BIG << 12))):
            mfn = frames.alloc_xen_order(CHUNK_ORDER)
            self._ram.fill(mfn << 12, _BIG << 12, 0xFF)
            self._m2p.append(mfn)
            frames.share_with_privileged(range(mfn, mfn + _BIG))
        self._slots = {
            256: self._big_pages(M2P_VIRT_START, self._m2p, PRESENT | USER | ACCESSED | NX) | _READ_ONLY | USER,
            XEN_SLOT: self._xen_slot(),
        }
        chunks = list(range(0, frames.total, _BIG))
        for first in range(0, len(chunks), 512 * 512):
            slot = DIRECTMAP_SLOT + first // (512 * 512)
            self._slots[slot] = self._big_pages(slot << 39, chunks[first : first + 512 * 512], _DATA) | _DATA
        frames.on_free = self._clear_m2p
        if not hv.machine.firmware_va:
            hv.machine.firmware_va = XEN_TEXT_START

    # -- building ------------------------------------------------------------------------------------------------

    def _table(self, entries: dict[int, int] | None = None) -> int:
        """A new page table of the hypervisor's own; returns its frame."""
        mfn = self._frames.alloc_xen()[0]
        for index, entry in (entries or {}).items():
            self._ram.write_u64((mfn << 12) + index * 8, entry)
        return mfn

    def _big_pages(self, va: int, chunks: Sequence[int], flags: int) -> int:
        """Map 2 MiB pages from `va` on; the address of the L3 table."""
        l3 = self._table()
        for i in range(0, len(chunks), 512):
            l2 = self._frames.alloc_xen()[0]
            part = chunks[i : i + 512]
            self._ram.write(l2 << 12, struct.pack(f"<{len(part)}Q", *(m << 12 | flags | PSE for m in part)))
            self._ram.write_u64((l3 << 12) + _slot(va + (i << 21), 3) * 8, l2 << 12 | TABLE | (flags & USER))
        return l3 << 12

    def _xen_slot(self) -> int:
        """Slot 261: the read-write M2P, and the beginnings of what else Xen has there."""
        l3 = self._big_pages(0xFFFF_8280_0000_0000, self._m2p, _DATA)
        data = self._table(dict.fromkeys(range(512), self.zero_mfn << 12 | _READ_ONLY))
        text = self._table(dict.fromkeys(range(512), self.zero_mfn << 12 | _READ_ONLY))
        self._ram.write_u64(text << 12, self._machine.firmware_frame | PRESENT | ACCESSED)
        for va, l1 in ((VMAP_VIRT_START, data), (XEN_TEXT_START, text), (FRAMETABLE_VIRT_START, data)):
            l2 = self._table({_slot(va, 2): l1 << 12 | TABLE})
            self._ram.write_u64(l3 + _slot(va, 3) * 8, l2 << 12 | TABLE)
        return l3 | TABLE

    def _make_flat_gdt(self) -> int:
        """The page with Xen's own descriptors. (The page after it is no vCPU's: selectors that reach it fault.)"""
        mfn = self._frames.alloc_xen()[0]
        for selector, descriptor in _FLAT_DESCRIPTORS.items():
            self._ram.write_u64((mfn << 12) + (selector - FIRST_RESERVED_GDT_ENTRY * 8), descriptor)
        return mfn

    # -- address spaces ------------------------------------------------------------------------------------------

    def init_l4_slots(self, l4_mfn: int, domain: Domain, *, m2p: bool = True) -> None:
        """Fill the hypervisor's slots of the top-level table `l4_mfn` of `domain`, clobbering what was there. `m2p`:
        with slot 256."""
        entries = [0] * (LAST_XEN_SLOT + 1 - FIRST_XEN_SLOT)
        for slot, entry in self._slots.items():
            entries[slot - FIRST_XEN_SLOT] = entry
        if not m2p:
            entries[0] = 0
        entries[LINEAR_SLOT - FIRST_XEN_SLOT] = l4_mfn << 12 | _DATA
        entries[PERDOMAIN_SLOT - FIRST_XEN_SLOT] = self.perdomain(domain) << 12 | TABLE | NX
        self._ram.write((l4_mfn << 12) + FIRST_XEN_SLOT * 8, struct.pack(f"<{len(entries)}Q", *entries))
        self._machine.flush_tlb()

    def show_m2p(self, l4_mfn: int, show: bool) -> None:
        """Put slot 256 in or take it out of one top-level table (the m2p_strict assist)."""
        self._machine.write_pte((l4_mfn << 12) + FIRST_XEN_SLOT * 8, self._slots[256] if show else 0)

    # -- machine to physical -------------------------------------------------------------------------------------

    def _m2p_pa(self, mfn: int) -> int:
        return (self._m2p[mfn >> 18] << 12) + (mfn & 0x3FFFF) * 8

    def m2p_frames(self) -> list[int]:
        """First frames of the 2 MiB pages that make up the M2P, in order."""
        return list(self._m2p)

    def m2p(self, mfn: int) -> int:
        """The pfn its owner knows `mfn` by; ~0: none."""
        return self._ram.read_u64(self._m2p_pa(mfn))

    def set_m2p(self, mfn: int, pfn: int) -> None:
        """Record that `mfn` is its owner's `pfn`."""
        self._ram.write_u64(self._m2p_pa(mfn), pfn)

    def set_m2p_list(self, mfns: Sequence[int], first_pfn: int) -> None:
        """Record that `mfns` are `first_pfn` and those after it."""
        # Modulo 2^64: the number is whatever a guest made up.
        pfns = np.arange(len(mfns), dtype=np.uint64) + np.uint64(first_pfn & 0xFFFF_FFFF_FFFF_FFFF)
        if isinstance(mfns, range) and mfns.step == 1 and mfns and mfns[0] >> 18 == mfns[-1] >> 18:
            # A run within one piece of table: what a domain gets when it is made.
            self._ram.write(self._m2p_pa(mfns[0]), pfns.tobytes())
        else:
            self._write_m2p(np.asarray(mfns, np.int64), pfns)

    def _clear_m2p(self, first: int, n: int) -> None:
        end = first + n
        while first < end:  # in one piece of table at a time
            n = min(end, (first | 0x3FFFF) + 1) - first
            self._ram.fill(self._m2p_pa(first), n * 8, 0xFF)
            first += n

    def _write_m2p(self, mfns: Array, pfns: np.typing.NDArray[np.uint64]) -> None:
        # Runs of consecutive frames in one write each; a run must not leave its 2 MiB of table.
        breaks = (np.diff(mfns, prepend=-2) != 1) | (mfns & 0x3FFFF == 0)
        starts = np.flatnonzero(breaks)
        ends = np.append(starts[1:], len(mfns))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self._ram.write(self._m2p_pa(int(mfns[start])), pfns[start:end].tobytes())

    # -- descriptor windows --------------------------------------------------------------------------------------

    def gdt_va(self, v: VCpu) -> int:
        """Where `v`'s 16 GDT pages are (from now on; Xen's own is there at once)."""
        self._window_pte(v, 0)
        return PERDOMAIN_VIRT_START + v.vcpu_id * WINDOW_PAGES * 4096

    def ldt_va(self, v: VCpu) -> int:
        """Where `v`'s 16 LDT pages are."""
        return self.gdt_va(v) + GDT_PAGES * 4096

    def clear_ldt(self, v: VCpu) -> list[int]:
        """Empty `v`'s LDT window; the guest's frames that were in it."""
        if not v.domain.perdomain_l3_mfn:
            return []
        if not any(self._ram.read(self._window_pte(v, GDT_PAGES), 8 * LDT_PAGES)):
            return []  # as nearly always: few guests have an LDT
        found = [self.map_ldt_page(v, i, None) for i in range(LDT_PAGES)]
        return [mfn for mfn in found if mfn is not None]

    def perdomain(self, domain: Domain) -> int:
        """The L3 frame of `domain`'s slot 260, made when first asked for."""
        if not domain.perdomain_l3_mfn:
            domain.perdomain_l3_mfn = self._table()
            l2 = self._table()
            self._ram.write_u64(domain.perdomain_l3_mfn << 12, l2 << 12 | TABLE)
            self._perdomain[domain.domid] = [domain.perdomain_l3_mfn, l2]
        return domain.perdomain_l3_mfn

    def _window_pte(self, v: VCpu, page: int) -> int:
        """Physical address of the L1 entry of page `page` of `v`'s windows."""
        l2 = self._ram.read_u64(self.perdomain(v.domain) << 12) & ~0xFFF
        slot = l2 + (v.vcpu_id // 16) * 8
        l1 = self._ram.read_u64(slot) & ~0xFFF
        if not l1:
            l1 = self._table() << 12
            self._perdomain[v.domain.domid].append(l1 >> 12)
            self._ram.write_u64(slot, l1 | TABLE)
        base = l1 + (v.vcpu_id % 16) * WINDOW_PAGES * 8
        # A window that was never used holds Xen's own GDT page at its end, and zero pages before them.
        if not self._ram.read_u64(base + FIRST_RESERVED_GDT_PAGE * 8):
            pages = [self.zero_mfn << 12 | _READ_ONLY] * FIRST_RESERVED_GDT_PAGE
            self._ram.write(base, struct.pack("<15Q", *pages, self._flat_gdt << 12 | _DATA))
            self._machine.flush_tlb()
        return base + page * 8

    def map_gdt_page(self, v: VCpu, index: int, mfn: int | None) -> int | None:
        """Show frame `mfn` as page `index` (0 to 13) of `v`'s GDT, None: a page of zeroes. Returns the frame it
        replaces."""
        assert 0 <= index < FIRST_RESERVED_GDT_PAGE
        pte = self._window_pte(v, index)
        old = frame_of(self._ram.read_u64(pte))
        self._machine.write_pte(pte, self.zero_mfn << 12 | _READ_ONLY if mfn is None else mfn << 12 | _DATA)
        return None if old == self.zero_mfn else old

    def map_ldt_page(self, v: VCpu, index: int, mfn: int | None) -> int | None:
        """Show frame `mfn` as page `index` (0 to 15) of `v`'s LDT, None: nothing. Returns the frame it replaces."""
        assert 0 <= index < LDT_PAGES
        pte = self._window_pte(v, GDT_PAGES + index)
        old = frame_of(self._ram.read_u64(pte))
        self._machine.write_pte(pte, 0 if mfn is None else mfn << 12 | _DATA)
        return old or None

    def clear_windows(self, v: VCpu) -> list[int]:
        """Empty `v`'s windows; the guest's frames that were in them."""
        if not v.domain.perdomain_l3_mfn:
            return []
        found = [self.map_gdt_page(v, i, None) for i in range(FIRST_RESERVED_GDT_PAGE)]
        return [mfn for mfn in found if mfn is not None] + self.clear_ldt(v)

    def release(self, domain: Domain) -> None:
        """Free the tables of `domain`'s slot 260. Its address spaces must not be used any more."""
        for mfn in self._perdomain.pop(domain.domid, []):
            self._frames.free_xen(mfn)
        domain.perdomain_l3_mfn = 0
