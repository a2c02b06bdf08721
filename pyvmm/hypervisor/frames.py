"""The frame table: who owns each page frame, how often it is referenced, and what it is being used as.

Xen's rule, kept here for every frame: beside its reference count a frame has a *type* with a count of its own. While
the type count is not zero the type cannot change, so a frame is never writable by a guest and a page table (or a
descriptor table) at the same time. Becoming a page table means being validated, which is left to `Mmu`; this module
knows counts, not page tables.

The type names are those of Xen's struct page_info (xen/arch/x86/include/asm/mm.h); "special" frames are Xen's own
memory that it shares with a guest (shared_info, grant table), which does not count as the guest's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pyvmm.abi import errno, xen
from pyvmm.hypervisor.buddy import Buddy
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor

PGT_none = 0
PGT_l1_page_table = 1
PGT_l2_page_table = 2
PGT_l3_page_table = 3
PGT_l4_page_table = 4
PGT_seg_desc_page = 5
PGT_writable_page = 7
TYPE_NAMES = {0: "none", 1: "l1", 2: "l2", 3: "l3", 4: "l4", 5: "seg_desc", 7: "writable"}

# Flags of a frame.
ALLOCATED = 1  # one of the references stands for "the domain owns it"
SPECIAL = 2  # Xen's memory shared with the owner; not in tot_pages
PINNED = 4
VALIDATED = 8

DOMID_FIRST_RESERVED: int = xen.DOMID_FIRST_RESERVED

# Owners that are not domains. Frames of OWNER_XEN and OWNER_FREE cannot be referenced by anybody.
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
OWNER_XEN = 0xFFFE
OWNER_FREE = 0xFFFF

LOW_MEMORY_FRAMES = 256  # the first MiB is I/O space to Xen (arch_init_memory), whatever the memory map says
MAX_ORDER = 18  # CONFIG_PAGEALLOC_MAX_ORDER: 1 GiB
CHUNK_ORDER = 9  # domains get their memory in 2 MiB pieces where they can
INVALID_M2P = (1 << 64) - 1

Array = npt.NDArray[np.int64]
# Of the arrays' own type: with a plain 1, `add.at` converts and takes twenty times as long.
_ONE = np.uint32(1)


class Validator(Protocol):
    """What turns a frame into a page table and back (`Mmu`)."""

    def promote(self, mfn: int, level: int) -> int:
        """Validate all entries of `mfn` as a table of `level`, taking what they need. 0 or -errno (then nothing is
        held)."""

    def demote(self, mfn: int, level: int) -> None:
        """Give back what the entries of `mfn` hold."""

    def put_linear(self, mfn: int, table: int) -> None:
        """`table`, of the same level as `mfn`, no longer refers to it as a linear page table."""


class FrameTable:
    """One per machine. Frames are named by their machine frame number (`mfn`, physical address >> 12)."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self.ram = hv.machine.ram
        self.total = self.ram.size >> 12
        # Arrays for bulk work and, over the same memory, views for single frames (a view's element is a plain int, and
        # quick).
        self.owners = np.full(self.total, OWNER_FREE, np.uint16)
        self.counts = np.zeros(self.total, np.uint32)
        self.types = np.zeros(self.total, np.uint8)
        self.type_counts = np.zeros(self.total, np.uint32)
        self.flags = np.zeros(self.total, np.uint8)
        self._owner = self.owners.data
        self._count = self.counts.data
        self._type = self.types.data
        self._type_count = self.type_counts.data
        self._flags = self.flags.data
        self.validator: Validator | None = None
        self.validators: dict[int, Callable[[int], bool]] = {}
        # Called when frames go back to the heap, with the first and how many: their M2P entries are cleared there.
        self.on_free: Callable[[int, int], None] | None = None
        # The domains that own frames, by domid, and how many each owns (special frames included).
        self._domains: dict[int, Domain] = {}
        self._held: dict[int, int] = {}
        self.claimed = 0  # free frames that domains have set aside (XENMEM_claim_pages)
        low = min(LOW_MEMORY_FRAMES, self.total)
        self.owners[:low] = DOMID_IO
        self.counts[:low] = 1
        self.flags[:low] = ALLOCATED
        self._buddy = Buddy(MAX_ORDER)
        firmware = min(hv.machine.firmware_frame >> 12, self.total)
        for start, end in ((low, firmware), (max(low, firmware + 1), self.total)):
            if start < end:
                self._buddy.free_range(start, end - start)
        if firmware < self.total:
            self._owner[firmware] = OWNER_XEN

    # -- allocation ----------------------------------------------------------------------------------------------

    @property
    def free_count(self) -> int:
        """Frames nobody owns."""
        return self._buddy.free_count

    def claim(self, domain: Domain, n: int) -> None:
        """Set `n` free frames aside for `domain` alone, in place of what was."""
        self.claimed += n - domain.outstanding_pages
        domain.outstanding_pages = n

    def _check_room(self, domain: Domain, n: int) -> None:
        """XenError(ENOMEM) unless `domain` may have `n` more frames, and they are there and not claimed by others."""
        if domain.tot_pages + n > domain.max_pages or domain.dying:
            raise XenError(errno.ENOMEM)
        if n > self.free_count - self.claimed + domain.outstanding_pages:
            raise XenError(errno.ENOMEM)

    def _take(self, n: int) -> Array:
        """`n` free frames in as large pieces as there are, each piece in ascending order."""
        if n > self._buddy.free_count:
            raise XenError(errno.ENOMEM)
        pieces = []
        order = CHUNK_ORDER
        while n:
            order = min(order, n.bit_length() - 1)
            start = self._buddy.alloc(order)
            while start is None:
                order -= 1
                start = self._buddy.alloc(order)
            pieces.append(np.arange(start, start + (1 << order), dtype=np.int64))
            n -= 1 << order
        return np.concatenate(pieces) if len(pieces) != 1 else pieces[0]

    def _assign(self, domain: Domain, which: Array | slice, n: int, *, counted: bool = True) -> None:
        self.owners[which] = domain.domid
        self.counts[which] = 1
        self.flags[which] = ALLOCATED
        if counted:
            domain.tot_pages += n
            if domain.outstanding_pages:
                self.claim(domain, max(0, domain.outstanding_pages - n))
        self._domains[domain.domid] = domain
        self._held[domain.domid] = self._held.get(domain.domid, 0) + n

    def alloc(self, domain: Domain, n: int = 1) -> list[int]:
        """`n` zeroed frames for `domain`, each with the one reference that says so. XenError(ENOMEM): none left, or
        over max_pages."""
        if n == 0:
            return []
        if n == 1:
            return [self.alloc_order(domain, 0)]
        self._check_room(domain, n)
        mfns = self._take(n)
        self._assign(domain, mfns, n)
        result: list[int] = mfns.tolist()
        return result

    def alloc_order(self, domain: Domain, order: int, below: int | None = None) -> int:
        """The first of 2**order contiguous, aligned frames for `domain`, all under `below` if given. XenError(ENOMEM)
        as `alloc`."""
        self._check_room(domain, 1 << order)
        start = self._buddy.alloc(order, below)
        if start is None:
            raise XenError(errno.ENOMEM)
        self._assign(domain, slice(start, start + (1 << order)), 1 << order)
        return start

    def alloc_xen(self, n: int = 1) -> list[int]:
        """`n` zeroed frames for the hypervisor itself (XenError(ENOMEM))."""
        if n == 1:
            return [self.alloc_xen_order(0)]
        mfns = self._take(n)
        self.owners[mfns] = OWNER_XEN
        result: list[int] = mfns.tolist()
        return result

    def alloc_xen_order(self, order: int, below: int | None = None) -> int:
        """2**order contiguous, aligned, zeroed frames for the hypervisor, all under `below` if given
        (XenError(ENOMEM))."""
        start = self._buddy.alloc(order, below)
        if start is None:
            raise XenError(errno.ENOMEM)
        self.owners[start : start + (1 << order)] = OWNER_XEN
        return start

    def free_xen(self, mfn: int) -> None:
        """Give back a frame of `alloc_xen`; if it is shared with a guest, it goes when the guest's last mapping
        does."""
        if self._flags[mfn] & SPECIAL:
            self.free_domain_page(mfn)
            return
        assert self._owner[mfn] == OWNER_XEN and self._count[mfn] == 0
        self._release_run(mfn, 1)

    def share_with_guest(self, mfn: int, domain: Domain, writable: bool) -> None:
        """Let `domain` map the hypervisor's frame `mfn`: it becomes a special frame of the domain and goes back with
        the domain's frames."""
        assert self._owner[mfn] == OWNER_XEN
        self._owner[mfn] = domain.domid
        self._count[mfn] = 1
        self._flags[mfn] = ALLOCATED | SPECIAL | VALIDATED
        # The type count of one that nobody drops pins the frame as writable, or as nothing that could be written.
        self._type[mfn] = PGT_writable_page if writable else PGT_none
        self._type_count[mfn] = 1
        self._domains[domain.domid] = domain
        self._held[domain.domid] = self._held.get(domain.domid, 0) + 1

    def share_with_privileged(self, mfns: Iterable[int]) -> None:
        """Let privileged domains map the hypervisor's frames read-only, as DOMID_XEN's (the M2P table)."""
        for mfn in mfns:
            self._owner[mfn] = DOMID_XEN
            self._count[mfn] = 1
            self._flags[mfn] = ALLOCATED | SPECIAL | VALIDATED
            self._type[mfn], self._type_count[mfn] = PGT_none, 1

    def free_domain_page(self, mfn: int) -> None:
        """The owner gives `mfn` up; it is free when the last reference to it is gone."""
        if self._flags[mfn] & ALLOCATED:
            self._flags[mfn] &= ~ALLOCATED & 0xFF
            self.put_page(mfn)

    def _release(self, mfns: Array) -> None:
        """Unreferenced frames go back to the heap, scrubbed."""
        mfns = np.sort(mfns)
        starts = np.flatnonzero(np.diff(mfns, prepend=-2) != 1)
        ends = np.append(starts[1:], len(mfns))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self._release_run(int(mfns[start]), end - start)

    def _release_run(self, first: int, n: int) -> None:
        """`_release` of `n` frames from `first` on."""
        if self.on_free is not None:
            self.on_free(first, n)
        end = first + n
        self.owners[first:end] = OWNER_FREE
        self.types[first:end] = PGT_none
        self.type_counts[first:end] = 0
        self.counts[first:end] = 0
        self.flags[first:end] = 0
        self.ram.fill(first << 12, n << 12, 0)
        self._buddy.free_range(first, n)

    def _disown(self, domid: int, n: int, counted: int) -> None:
        domain = self._domains[domid]
        domain.tot_pages -= counted
        self._held[domid] -= n
        if not self._held[domid]:
            del self._held[domid], self._domains[domid]

    def release_pages(self, mfns: Array) -> None:
        """Drop the "allocated" reference of many frames of one domain at once."""
        owned = mfns[(self.flags[mfns] & ALLOCATED) != 0]
        if not len(owned):
            return
        self.flags[owned] &= ~np.uint8(ALLOCATED)
        self.counts[owned] -= 1
        self._drop_unreferenced(owned)

    def _drop_unreferenced(self, mfns: Array) -> None:
        """Free those of `mfns` (distinct, of one owner) whose last reference has just gone."""
        gone = mfns[self.counts[mfns] == 0]
        if not len(gone):
            return
        special = (self.flags[gone] & SPECIAL) != 0
        self._disown(self._owner[int(gone[0])], len(gone), len(gone) - int(special.sum()))
        self._release(gone)

    # -- who owns what -------------------------------------------------------------------------------------------

    def owner(self, mfn: int) -> int | None:
        """The domid that owns `mfn` (DOMID_IO, DOMID_XEN for those); None: free, the hypervisor's own, or no such
        frame."""
        if not 0 <= mfn < self.total:
            return None
        owner = self._owner[mfn]
        return owner if owner < OWNER_XEN else None

    def is_special(self, mfn: int) -> bool:
        """`mfn` is the hypervisor's memory, shared with its owner."""
        return bool(self._flags[mfn] & SPECIAL)

    def is_pinned(self, mfn: int) -> bool:
        """`mfn` is pinned as a page table."""
        return bool(self._flags[mfn] & PINNED)

    def set_pinned(self, mfn: int, on: bool) -> bool:
        """Set or clear the pinned flag; whether that changed it. The references are the caller's business."""
        old = bool(self._flags[mfn] & PINNED)
        self._flags[mfn] = self._flags[mfn] | PINNED if on else self._flags[mfn] & ~PINNED & 0xFF
        return old is not on

    def type_of(self, mfn: int) -> int:
        """The type in use (validated, with a type count), else PGT_none: what Xen's page_lock() and a look at the type
        tell."""
        if self._type_count[mfn] and self._flags[mfn] & VALIDATED:
            return self._type[mfn]
        return PGT_none

    def in_use_as(self, mfn: int, domid: int, type_: int) -> bool:
        """`mfn` belongs to `domid` and is in use as `type_`, validated."""
        return (
            0 <= mfn < self.total
            and self._owner[mfn] == domid
            and self._type[mfn] == type_
            and self._type_count[mfn] > 0
            and self._flags[mfn] & VALIDATED > 0
        )

    def type_count(self, mfn: int) -> int:
        """How many uses keep `mfn`'s type."""
        return self._type_count[mfn]

    def count(self, mfn: int) -> int:
        """How many references `mfn` has."""
        return self._count[mfn]

    def domain_of(self, domid: int) -> Domain | None:
        """The domain that owns frames under `domid`, also when it is no longer in the hypervisor's list."""
        return self._domains.get(domid)

    def pages_of(self, domain: Domain) -> list[int]:
        """All frames `domain` owns, special ones included, ascending."""
        result: list[int] = self.pages_array(domain).tolist()
        return result

    def pages_array(self, domain: Domain) -> Array:
        """`pages_of` as an array."""
        if domain.domid not in self._held:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.owners == domain.domid)

    def holds_frames(self, domid: int) -> bool:
        """Some frame still belongs to `domid`: the domain is not quite gone, its number must not be reused."""
        return domid in self._held

    # -- references ----------------------------------------------------------------------------------------------

    def take_reference(self, mfn: int) -> int | None:
        """Take a reference whoever the owner is, and say who: None (and no reference) if nobody is."""
        if not 0 <= mfn < self.total or not self._count[mfn]:
            return None
        self._count[mfn] += 1
        return self._owner[mfn]

    def get_page(self, mfn: int, domain: Domain | int) -> bool:
        """Take a reference to `mfn` if `domain` (or that domid) owns it."""
        domid = domain if isinstance(domain, int) else domain.domid
        if not 0 <= mfn < self.total or self._owner[mfn] != domid or not self._count[mfn]:
            return False
        self._count[mfn] += 1
        return True

    def put_page(self, mfn: int) -> None:
        """Drop a reference; the frame is freed with the last one."""
        count = self._count[mfn]
        assert count, f"put_page of the unreferenced frame {mfn:#x}"
        self._count[mfn] = count - 1
        if count == 1:
            self._disown(self._owner[mfn], 1, int(not self._flags[mfn] & SPECIAL))
            self._release_run(mfn, 1)

    def get_page_type(self, mfn: int, type_: int) -> bool:
        """Use `mfn` (to which a reference is held) as `type_`; false if it is in use as something else or cannot be
        that."""
        return self.take_type(mfn, type_) == 0

    def take_type(self, mfn: int, type_: int) -> int:
        """`get_page_type` with the reason: 0 or -errno."""
        uses = self._type_count[mfn]
        if not uses:
            if self._type[mfn] != type_:
                self._type[mfn] = type_
                self._flags[mfn] &= ~VALIDATED & 0xFF
        elif self._type[mfn] != type_:
            return -errno.EINVAL
        self._type_count[mfn] = uses + 1
        if self._flags[mfn] & VALIDATED:
            return 0
        result = self._validate(mfn, type_)
        if result == 0:
            self._flags[mfn] |= VALIDATED
        else:
            self._type[mfn] = PGT_none
            self._type_count[mfn] = 0
        return result

    def _validate(self, mfn: int, type_: int) -> int:
        if type_ == PGT_writable_page:
            return 0
        if PGT_l1_page_table <= type_ <= PGT_l4_page_table:
            assert self.validator is not None
            return self.validator.promote(mfn, type_)
        check = self.validators.get(type_)
        return 0 if check is not None and check(mfn) else -errno.EINVAL

    def put_page_type(self, mfn: int, table: int | None = None) -> None:
        """Drop one use of `mfn`'s type. `table`: the page table that referred to it, if that is how it was used."""
        uses, type_ = self._type_count[mfn], self._type[mfn]
        assert uses, f"put_page_type of the unused frame {mfn:#x}"
        linear = table is not None and self._type[table] == type_
        if uses == 1 and PGT_l1_page_table <= type_ <= PGT_l4_page_table and self._flags[mfn] & VALIDATED:
            assert self.validator is not None
            self._flags[mfn] &= ~VALIDATED & 0xFF
            self.validator.demote(mfn, type_)
        if linear:
            assert self.validator is not None and table is not None
            self.validator.put_linear(mfn, table)
        self._type_count[mfn] -= 1

    def get_page_and_type(self, mfn: int, domain: Domain | int, type_: int) -> bool:
        """`get_page` and `get_page_type`, both or none."""
        return self.take_page_and_type(mfn, domain, type_) == 0

    def take_page_and_type(self, mfn: int, domain: Domain | int, type_: int) -> int:
        """`get_page_and_type` with the reason: 0 or -errno."""
        if not self.get_page(mfn, domain):
            return -errno.EINVAL
        result = self.take_type(mfn, type_)
        if result:
            self.put_page(mfn)
        return result

    def put_page_and_type(self, mfn: int, table: int | None = None) -> None:
        """Drop a use and a reference."""
        self.put_page_type(mfn, table)
        self.put_page(mfn)

    def take_data_page(self, mfn: int, domid: int, writable: bool) -> bool:
        """Take a reference to a page of domain `domid`, and the writable type if `writable`, as a mapping does; false,
        and nothing taken, unless that is allowed at once."""
        if mfn >= self.total or self._owner[mfn] != domid or domid >= DOMID_FIRST_RESERVED:
            return False
        count = self._count[mfn]
        if not count:
            return False
        if writable:
            uses = self._type_count[mfn]
            if self._type[mfn] != PGT_writable_page:
                if uses:
                    return False
                self._type[mfn] = PGT_writable_page
            self._flags[mfn] |= VALIDATED
            self._type_count[mfn] = uses + 1
        self._count[mfn] = count + 1
        return True

    def put_data_page(self, mfn: int, writable: bool) -> None:
        """Undo `take_data_page`."""
        if writable:
            uses = self._type_count[mfn]
            assert uses and self._type[mfn] == PGT_writable_page, f"frame {mfn:#x} is not in use as writable"
            self._type_count[mfn] = uses - 1
        count = self._count[mfn]
        if count > 1:
            self._count[mfn] = count - 1
        else:
            self.put_page(mfn)

    def invalidate(self, mfn: int) -> bool:
        """Take a page table's validity away whatever its count (end of a domain: breaks cycles of linear tables);
        false if it has none."""
        if not self._flags[mfn] & VALIDATED:
            return False
        self._flags[mfn] &= ~VALIDATED & 0xFF
        return True

    def steal(self, mfn: int, domain: Domain) -> bool:
        """Take `mfn` from `domain` if nothing but the domain's ownership refers to it; it is then the hypervisor's
        (tot_pages is not changed)."""
        if (
            self.owner(mfn) != domain.domid
            or self._count[mfn] != 1
            or self._flags[mfn] & (SPECIAL | ALLOCATED) != ALLOCATED
        ):
            return False
        self._owner[mfn] = OWNER_XEN
        self._count[mfn] = 0
        self._flags[mfn] = 0
        self._type[mfn], self._type_count[mfn] = PGT_none, 0
        self._held[domain.domid] -= 1
        return True

    def give(self, mfn: int, n: int, domain: Domain) -> None:
        """`n` of the hypervisor's frames from `mfn` on become `domain`'s (tot_pages is not changed): undoes `steal`."""
        assert self._owner[mfn] == OWNER_XEN
        self._assign(domain, slice(mfn, mfn + n), n, counted=False)

    # -- L1 tables in bulk (Mmu) ----------------------------------------------------------------------------------

    def get_data_pages(self, mfns: Array, writable: Array, domid: int) -> bool:
        """Take a reference to each of `mfns` (mappings by an L1 table), and the writable type for `writable`, a
        selection of them; false, and nothing taken, unless that is allowed for every one."""
        if len(mfns) and (
            int(mfns.max()) >= self.total or not (self.owners[mfns] == domid).all() or not self.counts[mfns].all()
        ):
            return False
        types = self.types[writable]
        if not ((types == PGT_writable_page) | (self.type_counts[writable] == 0)).all():
            return False
        np.add.at(self.counts, mfns, _ONE)
        if len(writable):
            self.types[writable] = PGT_writable_page
            self.flags[writable] |= np.uint8(VALIDATED)
            np.add.at(self.type_counts, writable, _ONE)
        return True

    def put_data_pages(self, mfns: Array, writable: Array) -> None:
        """Undo `get_data_pages`."""
        np.subtract.at(self.type_counts, writable, _ONE)
        np.subtract.at(self.counts, mfns, _ONE)
        gone = mfns[self.counts[mfns] == 0]
        if not len(gone):
            return
        gone = np.sort(gone)
        gone = gone[np.diff(gone, prepend=-1) != 0]  # each once (`np.unique` imports a lot of numpy when first called)
        for domid in sorted(set(self.owners[gone].tolist())):
            self._drop_unreferenced(gone[self.owners[gone] == domid])

    # -- tests ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless the table is consistent with itself (for tests)."""
        free = self.owners == OWNER_FREE
        assert int(free.sum()) == self._buddy.free_count, "frames without an owner that are not in the heap"
        assert free[self._buddy.frames()].all(), "frames in the heap that have an owner"
        unowned = self.owners >= OWNER_XEN
        for name, array in (("references", self.counts), ("type counts", self.type_counts), ("flags", self.flags)):
            assert not array[unowned].any(), f"unowned frames with {name}"
        assert self.counts[~unowned].all(), "owned frames without references"
        for domid, held in self._held.items():
            frames = np.flatnonzero(self.owners == domid)
            assert len(frames) == held, f"d{domid} owns {len(frames)} frames, not {held}"
            counted = int(((self.flags[frames] & SPECIAL) == 0).sum())
            assert counted == self._domains[domid].tot_pages, (
                f"tot_pages of d{domid}: {self._domains[domid].tot_pages}, owns {counted}"
            )
        others = set(np.unique(self.owners).tolist()) - set(self._held) - {DOMID_IO, DOMID_XEN, OWNER_XEN, OWNER_FREE}
        assert not others, f"frames of unknown domains {others}"
        tables = (self.types >= PGT_l1_page_table) & (self.types <= PGT_l4_page_table) & (self.type_counts > 0)
        assert ((self.flags[tables] & VALIDATED) != 0).all(), "page tables in use that are not validated"
        assert self.type_counts[(self.flags & PINNED) != 0].all(), "pinned frames without a type"
