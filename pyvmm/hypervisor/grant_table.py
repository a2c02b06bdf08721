"""Grant tables: the table a domain shares with the hypervisor, who uses its entries just now, and what it has mapped
of others.

A domain grants a frame by writing an entry to its table. Another domain maps or copies through the entry; while it
does, the entry is *active*: pinned, with the busy bits (GTF_reading, GTF_writing) set where the granting domain sees
them. What a domain has mapped is in its *maptrack*, by handle.

Here are the tables. What can be done with them is in `grant_map` (mapping) and `grant_copy` (copying, transfer);
`grant_op` is the hypercall. Facts from Xen 4.17: public/grant_table.h, xen/common/grant_table.c.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.abi import errno
from pyvmm.abi import grant_table as abi
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
INITIAL_FRAMES = 1
MAX_FRAMES = 64  # Xen's default gnttab_max_frames
MAX_MAPTRACK_FRAMES = 1024
V1_SIZE: int = abi.grant_entry_v1.size
V2_SIZE: int = abi.grant_entry_v2.size
ENTRY_SIZE = {1: V1_SIZE, 2: V2_SIZE}
STATUS_PER_FRAME = PAGE // 2
MAPTRACK_PER_FRAME = 256
COUNTER_LIMIT = 128  # a pin counter has 8 bits; the highest is what the overflow check looks at
RESERVED = abi.GNTTAB_NR_RESERVED_ENTRIES
BUSY: int = abi.GTF_reading | abi.GTF_writing


class GrantFailure(Exception):
    """One operation failed with GNTST_* `status`; the hypercall goes on with the next."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Active:
    """An entry in use: how often it is pinned (by kind), for whom, and which frame that is."""

    domid: int = 0
    mfn: int = 0
    host_read: int = 0
    host_write: int = 0
    device_read: int = 0
    device_write: int = 0
    start: int = 0
    length: int = PAGE
    is_sub_page: bool = False
    trans_domain: Domain | None = None
    trans_ref: int = 0

    @property
    def pinned(self) -> bool:
        """Somebody uses the entry."""
        return bool(self.host_read or self.host_write or self.device_read or self.device_write)

    @property
    def writable(self) -> bool:
        """Somebody uses it for writing."""
        return bool(self.host_write or self.device_write)


@dataclass(slots=True)
class Mapping:
    """One line of the maptrack: whose entry is mapped and how (GNTMAP_* flags that still hold; 0: the line is free)."""

    ref: int
    domain: Domain
    flags: int
    vcpu: int


class GrantTable:
    """One per domain; made with its first frame. `max_frames` and `max_maptrack_frames` are the toolstack's limits."""

    def __init__(
        self,
        domain: Domain,
        max_frames: int = MAX_FRAMES,
        max_maptrack_frames: int = MAX_MAPTRACK_FRAMES,
        max_version: int = 2,
    ) -> None:
        self.domain = domain
        self.max_frames = max_frames
        self.max_maptrack_frames = max_maptrack_frames
        self.max_version = max_version
        self.version = 1
        self.frames: list[int] = []  # machine frames of the table, and of the status array of version 2
        self.status_frames: list[int] = []
        self.active: dict[int, Active] = {}  # pinned entries only
        self.v2_operations = 0
        self.maptrack: dict[int, Mapping] = {}
        self._maptrack_limit = 0
        self._free_handles: dict[int, deque[int]] = {}  # by the vCPU that they belong to
        self.grow(INITIAL_FRAMES)

    # -- size

    @property
    def entries(self) -> int:
        """How many entries the table has."""
        return len(self.frames) * (PAGE // ENTRY_SIZE[self.version])

    def grow(self, frames: int) -> None:
        """Let the table have at least `frames` frames (and version 2 the status frames for them). XenError(ENOMEM)."""
        frames = max(frames, INITIAL_FRAMES)
        if frames > len(self.frames):
            new = self.domain.hv.frames.alloc_xen(frames - len(self.frames))
            self._share(new)
            self.frames += new
        if self.version > 1:
            self._grow_status()

    def status_frames_for(self, frames: int) -> int:
        """How many status frames `frames` frames of version 2 entries need."""
        return -(-frames * (PAGE // V2_SIZE) // STATUS_PER_FRAME)

    def _grow_status(self) -> None:
        need = self.status_frames_for(len(self.frames)) - len(self.status_frames)
        if need > 0:
            new = self.domain.hv.frames.alloc_xen(need)
            self._share(new)
            self.status_frames += new

    def _share(self, mfns: list[int]) -> None:
        for mfn in mfns:
            self.domain.hv.frames.share_with_guest(mfn, self.domain, True)

    # -- entries in guest memory

    def entry_pa(self, ref: int) -> int:
        """Physical address of entry `ref`."""
        size = ENTRY_SIZE[self.version]
        frame, slot = divmod(ref, PAGE // size)
        return (self.frames[frame] << 12) + slot * size

    def status_pa(self, ref: int) -> int:
        """Physical address of the 16 bits that hold the busy bits of entry `ref`."""
        if self.version == 1:
            return self.entry_pa(ref)  # the flags themselves
        frame, slot = divmod(ref, STATUS_PER_FRAME)
        return (self.status_frames[frame] << 12) + slot * 2

    def header(self, ref: int) -> tuple[int, int]:
        """Flags and domid of entry `ref`, as the guest has them now."""
        word = self.domain.hv.machine.ram.read_u32(self.entry_pa(ref))
        return word & 0xFFFF, word >> 16

    def frame_of(self, ref: int) -> int:
        """The frame that entry `ref` names."""
        ram = self.domain.hv.machine.ram
        return ram.read_u32(self.entry_pa(ref) + 4) if self.version == 1 else ram.read_u64(self.entry_pa(ref) + 8)

    def seed(self, ref: int, domid: int, mfn: int) -> None:
        """Grant `mfn` to `domid` on the domain's behalf (the toolstack does so for the console and store rings,
        before it runs)."""
        ram, pa = self.domain.hv.machine.ram, self.entry_pa(ref)
        if self.version == 1:
            ram.write(pa, abi.grant_entry_v1.pack(flags=abi.GTF_permit_access, domid=domid, frame=mfn))
        else:
            ram.write_u64(pa + 8, mfn)
            ram.write_u32(pa, abi.GTF_permit_access | domid << 16)

    # -- use

    def use(self, ref: int, domid: int, *, readonly: bool, mapping: bool) -> None:
        """Set the busy bits of `ref` for `domid`, if the entry allows it: what somebody has pinned already is not
        asked again."""
        flags, owner = self.header(ref)
        pinned = self.is_pinned(ref)
        kind = flags & (abi.GTF_type_mask | (abi.GTF_sub_page if mapping else 0))
        allowed = kind == abi.GTF_permit_access or (self.version == 2 and not mapping and kind == abi.GTF_transitive)
        if not pinned and (not allowed or owner != domid):
            raise GrantFailure(abi.GNTST_general_error)
        if not readonly and flags & abi.GTF_readonly:
            raise GrantFailure(abi.GNTST_general_error)
        ram, pa = self.domain.hv.machine.ram, self.status_pa(ref)
        ram.write_u16(pa, ram.read_u16(pa) | (abi.GTF_reading if readonly else BUSY))

    def is_pinned(self, ref: int) -> bool:
        """Entry `ref` is in use."""
        active = self.active.get(ref)
        return active is not None and active.pinned

    def reduce(self, ref: int, *, readonly: bool) -> None:
        """Take back the busy bits that no use needs any more, and forget an entry that nobody uses."""
        active = self.active.get(ref)
        clear = 0 if active is not None and active.pinned else abi.GTF_reading
        if not readonly and not (active is not None and active.writable):
            clear |= abi.GTF_writing
        if clear and ref < self.entries:  # the table of a domain that is gone has no entries
            ram, pa = self.domain.hv.machine.ram, self.status_pa(ref)
            ram.write_u16(pa, ram.read_u16(pa) & ~clear & 0xFFFF)
        if active is not None and not active.pinned:
            del self.active[ref]

    # -- maptrack

    def new_handle(self, v: VCpu) -> int:
        """A free handle for `v`. Each vCPU has a queue of its own, of which it keeps one entry back; GNTST_no_space
        when all is used."""
        queue = self._free_handles.setdefault(v.vcpu_id, deque())
        if len(queue) > 1:
            return queue.popleft()
        if self._maptrack_limit // MAPTRACK_PER_FRAME < self.max_maptrack_frames:
            first = self._maptrack_limit
            self._maptrack_limit += MAPTRACK_PER_FRAME
            queue.extendleft(reversed(range(first + 1, self._maptrack_limit)))
            return first
        # Xen takes one from another vCPU, beginning anywhere; here beginning with the next one.
        count = len(self.domain.vcpus)
        for i in range(1, count + 1):
            other = self._free_handles.get((v.vcpu_id + i) % count)
            if other is not None and len(other) > 1:
                return other.popleft()
        raise GrantFailure(abi.GNTST_no_space)

    def free_handle(self, handle: int, vcpu: int) -> None:
        """Give a handle back to the end of the queue of the vCPU that made it."""
        self.maptrack.pop(handle, None)
        self._free_handles.setdefault(vcpu, deque()).append(handle)

    # -- versions

    def set_version(self, version: int) -> None:
        """Change the entries' layout. All entries are cleared but the first eight, which the toolstack may have filled.

        Errors: EINVAL (no such version), ENOSYS (not allowed to this domain), EBUSY (an entry is in use, or a status
        frame mapped), EAGAIN (a sub-page or transitive copy is going on), ERANGE (a reserved entry cannot be said in
        version 1).
        """
        if version not in (1, 2):
            raise XenError(errno.EINVAL)
        if version > self.max_version:
            raise XenError(errno.ENOSYS)
        if version == self.version:
            return
        if any(ref >= RESERVED for ref in self.active):
            raise XenError(errno.EBUSY)
        if version == 2:
            self._to_v2()
        else:
            self._to_v1()

    def _to_v2(self) -> None:
        ram = self.domain.hv.machine.ram
        old = [abi.grant_entry_v1.unpack(ram.read(self.entry_pa(ref), V1_SIZE)) for ref in range(RESERVED)]
        self.version = 2
        try:
            self._grow_status()
        except XenError:
            self.version = 1
            raise
        self._clear()
        for ref, entry in enumerate(old):
            ram.write_u16(self.status_pa(ref), entry.flags & BUSY)
            ram.write_u32(self.entry_pa(ref), entry.flags & ~BUSY | entry.domid << 16)
            ram.write_u64(self.entry_pa(ref) + 8, entry.frame)

    def _to_v1(self) -> None:
        if self.v2_operations:
            raise XenError(errno.EAGAIN)
        ram, frames = self.domain.hv.machine.ram, self.domain.hv.frames
        kept = []
        for ref in range(RESERVED):
            flags, domid = self.header(ref)
            kind, frame = flags & abi.GTF_type_mask, self.frame_of(ref)
            if kind == abi.GTF_transitive or (kind == abi.GTF_permit_access and frame >> 32):
                raise XenError(errno.ERANGE)
            if kind == abi.GTF_permit_access:
                flags |= ram.read_u16(self.status_pa(ref))
                kept.append(abi.grant_entry_v1.pack(flags=flags, domid=domid, frame=frame))
            else:
                kept.append(bytes(V1_SIZE))
        if any(frames.count(mfn) > 1 for mfn in self.status_frames):
            raise XenError(errno.EBUSY)
        for mfn in self.status_frames:
            frames.free_xen(mfn)
        self.status_frames = []
        self.version = 1
        self._clear()
        ram.write(self.entry_pa(0), b"".join(kept))

    def _clear(self) -> None:
        for mfn in self.frames:
            self.domain.hv.machine.ram.fill(mfn << 12, PAGE, 0)


def destroy(domain: Domain) -> None:
    """Give up all that a dying domain has mapped, and its table. What others have of it they keep until they let go."""
    from pyvmm.hypervisor import grant_map

    grant_map.release_mappings(domain)
    table = domain.grants
    mfns, table.frames, table.status_frames = table.frames + table.status_frames, [], []
    for mfn in mfns:
        domain.hv.frames.free_xen(mfn)
