"""Pages, grants, mappings and ports of a native domain, as both ends of split drivers need them. All work is done by
hypercalls of the domain itself.

Pages come from the domain's own memory; one that has used all of it asks Xen for more, and returns what it got so. A
page that was granted and is still mapped by the other side cannot be used for anything else: it waits in `lingering`
until the other side lets go. Errors are `HypercallError`; ENOMEM when the domain may have no more memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyvmm.abi import errno, xen
from pyvmm.abi import grant_table as abi
from pyvmm.hypervisor.native import Native
from pyvmm.toolstack.libxc import HypercallError, Libxc

PAGE = 4096
RANGES = 1 << 36  # where ranges of several pages are mapped: above the windows of `Libxc`
ENTRY: int = abi.grant_entry_v1.size
ENTRIES_PER_FRAME = PAGE // ENTRY
BOUNCE_PAGES = 16  # as many pieces are copied in one hypercall; more would be a lot for a small native domain
BUSY: int = abi.GTF_reading | abi.GTF_writing
_COPY = struct.Struct("<QHH4xQHH4xHHh2x")  # struct gnttab_copy, packed for every piece that is copied
assert _COPY.size == abi.gnttab_copy.size
_MAP, _UNMAP = abi.gnttab_map_grant_ref, abi.gnttab_unmap_grant_ref


@dataclass(frozen=True)
class Page:
    """A page of our own memory: its address and its frame. `grown`: Xen gave it on top of what we began with."""

    va: int
    mfn: int
    grown: bool = False


@dataclass(frozen=True)
class Mapping:
    """Somebody's granted pages, mapped one after the other from `va` on."""

    va: int
    pages: int
    handles: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """A piece of a page that another domain has granted."""

    ref: int
    offset: int
    length: int


class Resources:
    """What the native domain behind `xc` has to give. One for all users in a domain."""

    def __init__(self, xc: Libxc) -> None:
        self.xc = xc
        self.api: Native = xc.api
        pages = self.api.shared_info_va // PAGE
        self._free_pages = [va * PAGE for va in range(pages - 1, Native.SCRATCH_PAGES - 1, -1)]
        self.grown = 0  # pages beyond our own memory
        self.lingering: list[tuple[int, Page]] = []  # (ref, page): the other side has it mapped still
        self._table: list[int] = []  # where the frames of our own grant table are mapped
        self._free_refs: list[int] = []
        self._next_ref: int = abi.GNTTAB_NR_RESERVED_ENTRIES
        self._free_ranges: dict[int, list[int]] = {}
        self._next_range = RANGES
        self._bounce: list[Page] = []

    # -- pages

    def page(self) -> Page:
        """A zeroed page of our own."""
        self.collect()
        if self._free_pages:
            va = self._free_pages.pop()
            self.api.write(va, bytes(PAGE))
            return Page(va, self.api.mfn(va))
        return self._grow()

    def free(self, page: Page) -> None:
        """Give back a page that nobody else can see."""
        if not page.grown:
            self._free_pages.append(page.va)
            return
        self.xc.drop_page(page.va, page.mfn)
        self.grown -= 1

    def _grow(self) -> Page:
        va, mfn = self.xc.new_page()
        self.grown += 1
        return Page(va, mfn, grown=True)

    # -- what we grant

    def grant(self, domid: int, page: Page, *, readonly: bool = False) -> int:
        """Let `domid` map `page`; the reference."""
        ref = self._free_refs.pop() if self._free_refs else self._new_ref()
        flags = abi.GTF_permit_access | (abi.GTF_readonly if readonly else 0)
        # The flags make the entry valid: they come last.
        self.api.write(self._entry(ref) + 4, struct.pack("<I", page.mfn))
        self.api.write(self._entry(ref), struct.pack("<HH", flags, domid))
        return ref

    def is_in_use(self, ref: int) -> bool:
        """Somebody has mapped or copies what we granted as `ref`."""
        return bool(self._flags(ref) & BUSY)

    def revoke(self, ref: int) -> bool:
        """Take a grant back; false, and nothing is changed, while somebody uses it."""
        if self.is_in_use(ref):
            return False
        self.api.write(self._entry(ref), bytes(ENTRY))
        self._free_refs.append(ref)
        return True

    def revoke_and_free(self, ref: int, page: Page) -> None:
        """Take a grant and its page back, as soon as the other side has let go."""
        if self.revoke(ref):
            self.free(page)
        else:
            self.lingering.append((ref, page))

    def collect(self) -> None:
        """Take back what lingers and is not used any more."""
        waiting, self.lingering = self.lingering, []
        for ref, page in waiting:
            self.revoke_and_free(ref, page)

    def _flags(self, ref: int) -> int:
        return int.from_bytes(self.api.read(self._entry(ref), 2), "little")

    def _entry(self, ref: int) -> int:
        frame, slot = divmod(ref, ENTRIES_PER_FRAME)
        return self._table[frame] + slot * ENTRY

    def _new_ref(self) -> int:
        ref = self._next_ref
        if ref // ENTRIES_PER_FRAME >= len(self._table):
            count = len(self._table) + 1
            frames = self.api.scratch(8 * count)
            self.xc.gnttab(
                "setup_table",
                abi.GNTTABOP_setup_table,
                abi.gnttab_setup_table,
                dom=xen.DOMID_SELF,
                nr_frames=count,
                frame_list=frames,
            )
            mfns = struct.unpack(f"<{count}Q", self.api.read(frames, 8 * count))
            self._table.append(self.xc.map_foreign(xen.DOMID_SELF, mfns[-1]))
        self._next_ref += 1
        return ref

    # -- what others grant us

    def map(self, domid: int, refs: Sequence[int], *, readonly: bool = False) -> Mapping:
        """Map granted pages of `domid` side by side. All or nothing."""
        va = self._range(len(refs))
        flags = abi.GNTMAP_host_map | (abi.GNTMAP_readonly if readonly else 0)
        operations = b"".join(
            _MAP.pack(host_addr=va + i * PAGE, flags=flags, ref=ref, dom=domid) for i, ref in enumerate(refs)
        )
        at = self.api.scratch(operations)
        self.xc.call(
            "grant_table_op map_grant_ref",
            xen.HYPERVISOR_grant_table_op,
            abi.GNTTABOP_map_grant_ref,
            at,
            len(refs),
        )
        data = self.api.read(at, len(operations))
        answers = [_MAP.unpack(data[i : i + _MAP.size]) for i in range(0, len(data), _MAP.size)]
        bad = [answer for answer in answers if answer.status]
        if not bad:
            return Mapping(va, len(refs), tuple(answer.handle for answer in answers))
        for answer in answers:
            if not answer.status:
                self._unmap_one(answer.host_addr, answer.handle)
        self._free_ranges.setdefault(len(refs), []).append(va)
        text = abi.GNTST_TEXT.get(bad[0].status, str(bad[0].status))
        raise HypercallError(f"grant {bad[0].ref} of d{domid}: {text}", errno.EINVAL)

    def unmap(self, mapping: Mapping) -> None:
        """Undo `map`."""
        for i, handle in enumerate(mapping.handles):
            self._unmap_one(mapping.va + i * PAGE, handle)
        self._free_ranges.setdefault(mapping.pages, []).append(mapping.va)

    def _unmap_one(self, va: int, handle: int) -> None:
        self.xc.gnttab(
            "unmap_grant_ref",
            abi.GNTTABOP_unmap_grant_ref,
            _UNMAP,
            host_addr=va,
            dev_bus_addr=0,
            handle=handle,
        )

    def _range(self, pages: int) -> int:
        free = self._free_ranges.get(pages)
        if free:
            return free.pop()
        va = self._next_range
        self._next_range += pages * PAGE
        return va

    # -- copying

    def copy_from(self, domid: int, segments: Iterable[Segment]) -> tuple[bytes, int]:
        """The bytes of granted pieces, one after the other, and 0; or what there was before the first piece that could
        not be had, and its GNTST_* status."""
        out = bytearray()
        for batch in _batches(segments):
            status = self._copy(domid, batch, to_them=False)
            pages = self._bounce
            for i, segment in enumerate(batch):
                if status[i]:
                    return bytes(out), status[i]
                out += self.api.read(pages[i].va, segment.length)
        return bytes(out), 0

    def copy_to(self, domid: int, segments: Iterable[Segment], data: bytes) -> int:
        """Spread `data` over granted pieces. 0, or the first GNTST_* status that is not."""
        at = 0
        for batch in _batches(segments):
            self._need(len(batch))
            for i, segment in enumerate(batch):
                self.api.write(self._bounce[i].va, data[at : at + segment.length])
                at += segment.length
            bad = [status for status in self._copy(domid, batch, to_them=True) if status]
            if bad:
                return bad[0]
        return 0

    def _need(self, pages: int) -> None:
        while len(self._bounce) < pages:
            self._bounce.append(self.page())

    def _copy(self, domid: int, batch: Sequence[Segment], *, to_them: bool) -> list[int]:
        self._need(len(batch))
        operations = []
        for page, segment in zip(self._bounce, batch, strict=False):
            ours, theirs = (page.mfn, xen.DOMID_SELF, 0), (segment.ref, domid, segment.offset)
            if to_them:
                operations.append(_COPY.pack(*ours, *theirs, segment.length, abi.GNTCOPY_dest_gref, 0))
            else:
                operations.append(_COPY.pack(*theirs, *ours, segment.length, abi.GNTCOPY_source_gref, 0))
        return self.xc.grant_copy(operations)

    # -- the end

    def close(self) -> None:
        """Give back what is kept for speed: the pages that copies go through."""
        for page in self._bounce:
            self.free(page)
        self._bounce = []
        self.collect()


def _batches(segments: Iterable[Segment]) -> Iterable[list[Segment]]:
    batch: list[Segment] = []
    for segment in segments:
        batch.append(segment)
        if len(batch) == BOUNCE_PAGES:
            yield batch
            batch = []
    if batch:
        yield batch


__all__ = ["Mapping", "Page", "Resources", "Segment"]
