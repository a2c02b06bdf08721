"""Page tables of PV guests: validation and references, after the rules of Xen 4.17 (xen/arch/x86/mm.c).

A guest owns its page tables but cannot write them. A frame becomes a table of level 1 to 4 when it is used as one:
every present entry is then checked and takes what it needs (a data page: a reference, and the writable type if mapped
RW; a table: a reference and the type of the next level), so that a table that is in use refers only to what the guest
may have. Functions return 0 or -errno, as their namesakes in Xen do; what fails leaves no reference behind, though
entries looked at before may already carry the bits that Xen adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyvmm.abi import errno
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.frames import (
    DOMID_IO,
    PINNED,
    TYPE_NAMES,
    Array,
    PGT_l1_page_table,
    PGT_l4_page_table,
    PGT_none,
    PGT_writable_page,
)
from pyvmm.hypervisor.native import NativeSpace
from pyvmm.hypervisor.permissions import may_target
from pyvmm.hypervisor.space import PageTableSpace
from pyvmm.hypervisor.xen_area import FIRST_XEN_SLOT, LAST_XEN_SLOT

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

VMASST_M2P_STRICT = 1 << 32
# Device memory that even who may map it maps read-only (mmio_ro_ranges): the I/O APIC.
READ_ONLY_IO = frozenset({0xFEC00})
_NEEDS_LOOK = ~P.HARMLESS
# For arrays of entries: what `pte.adjust_l1` does, and what it looks at.
_PRESENT, _RW, _USER, _CACHE_ATTRS, _GUEST_KERNEL, _FRAME_MASK, _PAGE_SHIFT, _NOTHING = (
    np.uint64(x) for x in (P.PRESENT, P.RW, P.USER, P.CACHE_ATTRS, P.GUEST_KERNEL, P.FRAME_MASK, 12, 0)
)
_MADE_KERNEL, _MADE_USER = np.uint64(P.GUEST_KERNEL | P.USER), np.uint64(P.GLOBAL | P.USER)
_LINEAR_LIMIT = 0x7FFF  # linear_pt_count is an int16_t


class Mmu:
    """The rules, over one machine's frames."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self.machine = hv.machine
        self.ram = hv.machine.ram
        self.frames = hv.frames
        self.frames.validator = self
        # Counts changes of tables above L1 (and of base pointers); address-space caches compare it.
        self.generation = 0
        # Xen's linear_pt_count, where it is not 0: how many tables of its own level a table maps (> 0), or by how many
        # it is mapped (< 0).
        self._linear: dict[int, int] = {}

    # -- entries -------------------------------------------------------------------------------------------------

    def write_entry(self, pa: int, value: int) -> None:
        """Store an entry that may be in use."""
        self.machine.write_pte(pa, value)

    def l1_disallowed(self, domain: Domain) -> int:
        """The bits of L1 entries that `domain` may not set: cache attributes, unless it has a device."""
        return 0 if domain.iomem or domain.ioports else P.L1_DISALLOWED

    def get_page_from_l1e(self, pte: int, owner: Domain, pg_owner: int) -> int:
        """Take what the present L1 entry `pte` of a table of `owner` needs, its page belonging to domid `pg_owner`. 0;
        -errno; or, positive, the flags to be flipped in the entry (I/O memory is mapped uncached)."""
        frames = self.frames
        mfn = (pte & P.FRAME_MASK) >> 12
        if not pte & P.L1_DISALLOWED and frames.take_data_page(mfn, pg_owner, bool(pte & P.RW)):
            return 0  # nearly always; all that follows finds out why not
        if pte & P.L1_DISALLOWED and pte & self.l1_disallowed(owner):
            return -errno.EINVAL
        real = frames.take_reference(mfn)
        if mfn >= frames.total or real == DOMID_IO:
            if real is not None:
                frames.put_page(mfn)
            return self._get_io_page(pte, mfn, owner, pg_owner)
        if real is None:
            return -errno.EBUSY
        if real != pg_owner and (pg_owner == owner.domid or not self._may_map_for(pg_owner, real)):
            frames.put_page(mfn)
            return -errno.EBUSY
        if pte & P.RW and frames.take_type(mfn, PGT_writable_page):
            frames.put_page(mfn)
            return -errno.EBUSY
        if pte & P.CACHE_ATTRS and frames.is_special(mfn):
            self.put_page_from_l1e(pte)
            return -errno.EACCES
        return 0

    def _get_io_page(self, pte: int, mfn: int, owner: Domain, pg_owner: int) -> int:
        current = self.hv.current.domain if self.hv.current else owner
        asker = current if pg_owner == DOMID_IO else self.hv.domains.get(pg_owner)
        for domain in (asker, owner):
            if domain is None or mfn not in domain.iomem:
                return -errno.EINVAL if mfn == P.INVALID_FRAME else -errno.EPERM
        flip = pte & P.RW if mfn in READ_ONLY_IO else 0
        cache = pte & P.CACHE_ATTRS
        if cache == 0:
            return flip | P.PWT | P.PCD
        if cache in (P.PWT, P.PWT | P.PAT):
            return flip | P.PCD | pte & P.PAT
        return flip

    def _may_map_for(self, pg_owner: int, real: int) -> bool:
        """A device model's domain may hand on its right to map its target's pages (xsm_priv_mapping)."""
        source, target = self.hv.domains.get(pg_owner), self.hv.domains.get(real)
        return source is not None and (source.privileged or (target is not None and may_target(source, target)))

    def put_page_from_l1e(self, pte: int) -> None:
        """Give back what an L1 entry holds."""
        if not pte & P.PRESENT:
            return
        frames, mfn = self.frames, (pte & P.FRAME_MASK) >> 12
        if mfn >= frames.total or frames.owner(mfn) == DOMID_IO:
            return
        frames.put_data_page(mfn, bool(pte & P.RW))

    def _get_from_upper(self, pte: int, table: int, level: int, domid: int) -> int:
        """Take what a present entry of `table`, of level 2 to 4, needs."""
        if pte & P.UPPER_DISALLOWED:
            return -errno.EINVAL
        result = self.frames.take_page_and_type(P.frame_of(pte), domid, level - 1)
        if result == -errno.EINVAL and self._get_linear(pte, table, level, domid):
            return 0
        return result

    def _put_from_upper(self, pte: int, table: int) -> None:
        if pte & P.PRESENT and P.frame_of(pte) != table:
            self.frames.put_page_and_type(P.frame_of(pte), table)

    def _get_linear(self, pte: int, table: int, level: int, domid: int) -> bool:
        """A table may map tables of its own level, read-only: itself, or one that is valid and maps none such
        itself."""
        if pte & P.RW:
            return False
        mfn = P.frame_of(pte)
        if mfn == table:
            return True
        frames, linear = self.frames, self._linear
        if frames.owner(table) != domid or not frames.get_page(mfn, domid):
            return False
        entries, uses = linear.get(table, 0), linear.get(mfn, 0)
        if not 0 <= entries < _LINEAR_LIMIT or not -_LINEAR_LIMIT <= uses <= 0 or frames.type_of(mfn) != level:
            # Not in use as that at all; a validated table has a use, so that nothing is missed here.
            frames.put_page(mfn)
            return False
        frames.take_type(mfn, level)
        linear[table], linear[mfn] = entries + 1, uses - 1
        return True

    def put_linear(self, mfn: int, table: int) -> None:
        """See `Validator.put_linear`."""
        for key, step in ((mfn, 1), (table, -1)):
            count = self._linear.get(key, 0) + step
            if count:
                self._linear[key] = count
            else:
                self._linear.pop(key, None)

    # -- tables --------------------------------------------------------------------------------------------------

    def promote(self, mfn: int, level: int) -> int:
        """See `Validator.promote`."""
        self._linear.pop(mfn, None)
        self.generation += level != PGT_l1_page_table
        domid = self.frames.owner(mfn)
        domain = None if domid is None else self.frames.domain_of(domid)
        if domain is None:  # DOMID_IO and the like have no page tables
            return -errno.EINVAL
        if level == PGT_l1_page_table:
            result = self._promote_l1(mfn, domain)
        else:
            result = self._promote_upper(mfn, level, domain)
        if result == 0:
            self._event(domain, f"validate {TYPE_NAMES[level]}", mfn)
        return result

    def _promote_l1(self, mfn: int, domain: Domain) -> int:
        entries = self._entries(mfn)
        present = np.flatnonzero(entries & _PRESENT)
        if not len(present):
            return 0
        chosen = entries[present]
        # All at once if nothing is special; else one by one, for the right errno and flags.
        mfns, writable = _data_pages(chosen)
        if not (chosen & _CACHE_ATTRS).any() and self.frames.get_data_pages(mfns, writable, domain.domid):
            chosen |= np.where(chosen & _USER, _NOTHING, _MADE_KERNEL)
            chosen |= np.where(chosen & _GUEST_KERNEL, _NOTHING, _MADE_USER)
            entries[present] = chosen
            self._write_entries(mfn, entries)
            return 0
        done: list[int] = []
        for i in present.tolist():
            entry = int(entries[i])
            result = self.get_page_from_l1e(entry, domain, domain.domid)
            if result < 0:
                for taken in reversed(done):
                    self.put_page_from_l1e(taken)
                self._write_entries(mfn, entries)
                return result
            entry = P.adjust_l1(entry ^ result)
            entries[i] = entry
            done.append(entry)
        self._write_entries(mfn, entries)
        return 0

    def _promote_upper(self, mfn: int, level: int, domain: Domain) -> int:
        done: list[int] = []
        for i, entry in self._present(mfn, level):
            result = self._get_from_upper(entry, mfn, level, domain.domid)
            if result < 0:
                for taken in reversed(done):
                    self._put_from_upper(taken, mfn)
                return result
            adjusted = P.adjust_upper(entry, level)
            if adjusted != entry:
                self.ram.write_u64((mfn << 12) + i * 8, adjusted)
            done.append(adjusted)
        self.machine.flush_tlb()
        if level == PGT_l4_page_table:
            # Without m2p_strict the M2P appears when the table first becomes a kernel's.
            self.hv.xen_area.init_l4_slots(mfn, domain, m2p=bool(domain.vm_assist & VMASST_M2P_STRICT))
        return 0

    def demote(self, mfn: int, level: int) -> None:
        """See `Validator.demote`."""
        self.generation += level != PGT_l1_page_table
        if level == PGT_l1_page_table:
            entries = self._entries(mfn)
            mfns, writable = _data_pages(entries[(entries & _PRESENT) != 0])
            owners = self.frames.owners
            mfns, writable = (a[a < self.frames.total] for a in (mfns, writable))
            self.frames.put_data_pages(mfns[owners[mfns] != DOMID_IO], writable[owners[writable] != DOMID_IO])
        else:
            for _, entry in reversed(self._present(mfn, level)):
                self._put_from_upper(entry, mfn)
        domid = self.frames.owner(mfn)
        if self.hv.trace.on and domid is not None:
            self.hv.trace.emit(trace.PAGE_TABLE, domid, 0, f"devalidate {TYPE_NAMES[level]}", mfn)

    def _entries(self, mfn: int) -> np.typing.NDArray[np.uint64]:
        return np.frombuffer(self.ram.read(mfn << 12, 4096), np.uint64).copy()

    def _write_entries(self, mfn: int, entries: np.typing.NDArray[np.uint64]) -> None:
        self.ram.write(mfn << 12, entries.tobytes())
        self.machine.flush_tlb()

    def _present(self, mfn: int, level: int) -> list[tuple[int, int]]:
        """(slot, entry) of the guest's present entries of a table."""
        entries = self._entries(mfn)
        slots = np.flatnonzero(entries & _PRESENT).tolist()
        if level == PGT_l4_page_table:
            slots = [i for i in slots if not FIRST_XEN_SLOT <= i <= LAST_XEN_SLOT]
        return [(i, int(entries[i])) for i in slots]

    def _event(self, domain: Domain, op: str, mfn: int) -> None:
        bus = self.hv.trace
        if bus.on:
            current = self.hv.current
            bus.emit(
                trace.PAGE_TABLE, domain.domid, current.vcpu_id if current and current.domain is domain else 0, op, mfn
            )

    # -- changing one entry ----------------------------------------------------------------------------------------

    def mod_l1_entry(self, pa: int, new: int, domain: Domain, pg_owner: int, *, preserve_ad: bool = False) -> int:
        """Replace the L1 entry at `pa`, in a valid table of `domain`, by `new`, whose page belongs to domid
        `pg_owner`."""
        ram = self.ram
        old = ram.u64[pa >> 3]
        unchanged = False
        if new & P.PRESENT:
            if new & P.L1_DISALLOWED and new & self.l1_disallowed(domain):
                return -errno.EINVAL
            new = P.adjust_l1(new)
            unchanged = not (old ^ new) & _NEEDS_LOOK
            if not unchanged:
                result = self.get_page_from_l1e(new, domain, pg_owner)
                if result < 0:
                    return result
                new ^= result
        if preserve_ad:
            new |= old & (P.ACCESSED | P.DIRTY)
        ram.write_u64(pa, new)
        if old & P.PRESENT:
            self.machine.flush_tlb()
            if not unchanged:
                self.put_page_from_l1e(old)
        return 0

    def mod_upper_entry(self, pa: int, new: int, level: int, domain: Domain, *, preserve_ad: bool = False) -> int:
        """Replace the entry at `pa`, in a valid table of level 2 to 4 of `domain`, by `new`."""
        table = pa >> 12
        if level == PGT_l4_page_table and FIRST_XEN_SLOT <= (pa & 0xFFF) >> 3 <= LAST_XEN_SLOT:
            return -errno.EINVAL
        old = self.ram.read_u64(pa)
        if new & P.PRESENT:
            if new & P.UPPER_DISALLOWED:
                return -errno.EINVAL
            new = P.adjust_upper(new, level)
            if not (old ^ new) & ~P.HARMLESS:
                self.generation += 1
                self._update(pa, old, new, preserve_ad)
                return 0
            result = self._get_from_upper(new, table, level, domain.domid)
            if result < 0:
                return result
        self.generation += 1
        self._update(pa, old, new, preserve_ad)
        self._put_from_upper(old, table)
        return 0

    def _update(self, pa: int, old: int, new: int, preserve_ad: bool) -> None:
        if preserve_ad:
            new |= old & (P.ACCESSED | P.DIRTY)
        self.write_entry(pa, new)

    def find_l1_entry(self, v: VCpu, va: int, *, kernel: bool = False) -> int | None:
        """Physical address of the L1 entry that maps `va` in `v`'s current tables (or its kernel's); None if there is
        none. What is found need not lie in an L1 table: with linear page tables the walk can end in any."""
        assert isinstance(v.space, PageTableSpace)
        mode = v.user_mode
        v.user_mode = mode and not kernel
        table = v.space.l1_table(va)
        v.user_mode = mode
        return None if table is None else (table + P.index(va, 1)) * 8

    def change_l1_entry(self, v: VCpu, va: int, new: int, pg_owner: int) -> int:
        """`mod_l1_entry` of the entry that maps `va` for `v`; -EINVAL if there is none."""
        assert isinstance(v.space, PageTableSpace)
        table = v.space.l1_table(va)
        if table is None or not self.is_l1_table(table >> 9, v.domain):
            return -errno.EINVAL
        return self.mod_l1_entry((table + (va >> 12 & 511)) * 8, new, v.domain, pg_owner)

    def is_l1_table(self, mfn: int, domain: Domain) -> bool:
        """`mfn` is `domain`'s and in use as an L1 table."""
        return self.frames.in_use_as(mfn, domain.domid, PGT_l1_page_table)

    # -- base pointers and pinning -----------------------------------------------------------------------------------

    def set_cr3(self, v: VCpu) -> None:
        """Load the base pointer of `v`'s mode into the CPU if `v`'s context is the current one (to be called again
        when it becomes that)."""
        machine = self.machine
        if v.context is not None and machine.current is v.context:
            cr3 = (v.l4_user if v.user_mode else v.l4_kernel) << 12
            if machine.cr3 != cr3:
                machine.cr3 = cr3

    def new_kernel_base(self, v: VCpu, mfn: int) -> int:
        """`v`'s kernel runs on the top-level table `mfn` from now on (MMUEXT_NEW_BASEPTR, mov to cr3). 0 or -errno."""
        old = v.l4_kernel
        if old != mfn:
            result = self.frames.take_page_and_type(mfn, v.domain, PGT_l4_page_table)
            if result:
                return result
            self.drop_ldt(v)
            if not v.domain.vm_assist & VMASST_M2P_STRICT:
                self.hv.xen_area.show_m2p(mfn, True)
            v.l4_kernel = mfn
            self._switched(v, mfn, user=False)
            if old:
                self.frames.put_page_and_type(old)
        else:
            self.machine.flush_tlb()
        return 0

    def new_user_base(self, v: VCpu, mfn: int) -> int:
        """`v`'s user mode runs on `mfn` from now on; 0: it has none (MMUEXT_NEW_USER_BASEPTR). 0 or -errno."""
        old = v.l4_user
        if old == mfn:
            return 0
        if mfn:
            result = self.frames.take_page_and_type(mfn, v.domain, PGT_l4_page_table)
            if result:
                return result
            if v.domain.vm_assist & VMASST_M2P_STRICT:
                self.hv.xen_area.show_m2p(mfn, False)
        v.l4_user = mfn
        self._switched(v, mfn, user=True)
        if old:
            self.frames.put_page_and_type(old)
        return 0

    def _switched(self, v: VCpu, mfn: int, *, user: bool) -> None:
        self.generation += 1
        self.set_cr3(v)
        if self.hv.trace.on:
            self.hv.trace.emit(trace.NEW_BASEPTR, v.domain.domid, v.vcpu_id, mfn, int(user))

    def drop_ldt(self, v: VCpu) -> None:
        """Unmap the pages of `v`'s LDT that were mapped on demand."""
        for mfn in self.hv.xen_area.clear_ldt(v):
            self.frames.put_page_and_type(mfn)

    def pin(self, mfn: int, level: int, domid: int) -> int:
        """Keep `mfn`, a frame of `domid`, valid as a table of `level` until it is unpinned. 0 or -errno."""
        result = self.frames.take_page_and_type(mfn, domid, level)
        if result:
            return result
        if not self.frames.set_pinned(mfn, True):
            self.frames.put_page_and_type(mfn)
            return -errno.EINVAL
        domain = self.frames.domain_of(domid)
        if domain is not None:
            self._event(domain, f"pin {TYPE_NAMES[level]}", mfn)
        return 0

    def unpin(self, mfn: int, domid: int) -> int:
        """Undo `pin`. 0 or -errno."""
        if not self.frames.get_page(mfn, domid):
            return -errno.EINVAL
        result = 0 if self.frames.set_pinned(mfn, False) else -errno.EINVAL
        if not result:
            domain = self.frames.domain_of(domid)
            if domain is not None:
                self._event(domain, "unpin", mfn)
            self.frames.put_page_and_type(mfn)
        self.frames.put_page(mfn)
        return result

    # -- native domains ------------------------------------------------------------------------------------------

    def native_map(self, v: VCpu, va: int, mfn: int, writable: bool, pg_owner: int | None = None) -> int:
        """Map frame `mfn` of domid `pg_owner` (default: `v`'s own) at `va` of a native vCPU, in place of what is
        there. 0 or -errno."""
        if mfn >= self.frames.total:
            return -errno.EPERM  # there is no device memory to give to Python
        entry = mfn << 12 | P.PRESENT | (P.RW if writable else 0)
        result = self.get_page_from_l1e(entry, v.domain, v.domain.domid if pg_owner is None else pg_owner)
        if result < 0:
            return result
        self.native_unmap(v, va)
        self._native_pages(v)[va >> 12] = (mfn, writable)
        return 0

    def native_unmap(self, v: VCpu, va: int) -> None:
        """Unmap what a native vCPU has at `va`, if anything."""
        entry = self._native_pages(v).pop(va >> 12, None)
        if entry is not None:
            self.put_page_from_l1e(entry[0] << 12 | P.PRESENT | (P.RW if entry[1] else 0))

    def _native_pages(self, v: VCpu) -> dict[int, tuple[int, bool]]:
        assert isinstance(v.space, NativeSpace)
        return v.space.pages

    # -- the end of a domain ---------------------------------------------------------------------------------------

    def release_domain(self, domain: Domain) -> None:
        """Drop all that `domain` maps and owns. Frames that others still refer to go back with the last reference. May
        be called again."""
        frames = self.frames
        for v in domain.vcpus:
            if v.native is not None and isinstance(getattr(v, "space", None), NativeSpace):
                for page in list(self._native_pages(v)):
                    self.native_unmap(v, page << 12)
            for mfn in (v.l4_kernel, v.l4_user):
                if mfn:
                    frames.put_page_and_type(mfn)
            v.l4_kernel = v.l4_user = 0
            for mfn in self.hv.xen_area.clear_windows(v):
                frames.put_page_and_type(mfn)
            v.gdt_frames, v.gdt_entries, v.ldt_entries = [], 0, 0
            if v.info_mfn:
                frames.put_page_and_type(v.info_mfn)
                v.info_mfn = 0
        self.generation += 1
        frames.claim(domain, 0)
        mfns = frames.pages_array(domain)
        for mfn in mfns[(frames.flags[mfns] & PINNED) != 0].tolist():
            self.unpin(mfn, domain.domid)
        # What is still valid is held by a cycle of linear tables: break it from the top.
        for level in (4, 3, 2):
            tables = mfns[(frames.types[mfns] == level) & (frames.type_counts[mfns] > 0)]
            for mfn in tables.tolist():
                if frames.type_of(mfn) != PGT_none and frames.invalidate(mfn):
                    self.demote(mfn, level)
        frames.release_pages(frames.pages_array(domain))
        self.hv.xen_area.release(domain)


def _data_pages(entries: np.typing.NDArray[np.uint64]) -> tuple[Array, Array]:
    """The frames of present L1 entries, and of those that are writable."""
    mfns = ((entries & _FRAME_MASK) >> _PAGE_SHIFT).astype(np.int64)
    return mfns, mfns[(entries & _RW) != 0]
