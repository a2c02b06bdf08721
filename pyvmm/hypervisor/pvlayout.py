"""Where everything of a new PV domain goes: pure arithmetic on frame numbers, no domain touched.

Two builders put the same things into different orders: libxc's for domUs (`domu_layout`) and Xen's own for dom0
(`dom0_layout`). Both map
all of the initial area at ``virt_base + pfn * 4096``, up to a 4 MiB boundary that leaves at least 512 KiB after the
boot stack.

    domU   kernel [module] p2m start_info store console L4 L3.. L2.. L1.. stack padding  [module] [p2m and its tables]
    dom0   kernel [module] p2m start_info L4 L1 L2 L3 L1.. stack padding                 [module] [p2m and its tables]

Pieces in brackets at the end are those that the kernel's notes want outside the mapping (MOD_START_PFN, INIT_P2M).
Sources: public/xen.h ("Start-of-day memory layout"), the order of both builders as seen by guests running on Xen 4.17.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyvmm.abi import arch_x86_64, xen
from pyvmm.errors import ImageError, MemoryShortage
from pyvmm.hypervisor.pvimage import PvImage

PAGE = 4096
SUPERPAGE_MASK = (1 << 22) - 1  # the initial mapping ends at a 4 MiB boundary
PADDING = 512 << 10  # bytes mapped beyond the boot stack, at least
P2M_ENTRY = 8
LEVEL_BITS = 9
VA_MASK = (1 << 48) - 1
XEN_START, XEN_END = 0xFFFF800000000000, 0xFFFF880000000000  # Xen's own part of the address space (PML4 256-271)

# Page-table flags that the builders ask for; the MMU adds what it adds to every guest's entry.
LEAF = 0x23  # present, writable, accessed
LEAF_READ_ONLY = 0x21
TABLE = 0x67  # present, writable, user, accessed, dirty

P2m = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Table:
    """One page table: its level (4 is the top), which part of the address space it covers (`va >> bits`), its pfn."""

    level: int
    index: int
    pfn: int


@dataclass(frozen=True)
class Mapping:
    """Virtual addresses [start, end) show the frames `pfn`, `pfn` + 1, ..."""

    start: int
    end: int
    pfn: int


@dataclass(frozen=True)
class Layout:
    """The plan for one domain. All `*_pfn` are pseudo-physical frame numbers, all `*_va` virtual addresses."""

    image: PvImage
    nr_pages: int
    initial_pages: int  # frames that the plan gives a meaning to; those up to nr_pages are free memory
    module_pfn: int
    module_pages: int
    module_start: int  # what start_info.mod_start says: an address, or a pfn with SIF_MOD_START_PFN
    module_length: int
    p2m_va: int
    p2m_pfn: int
    first_p2m_pfn: int  # start_info's two fields about a p2m list outside the mapping
    nr_p2m_frames: int
    start_info_pfn: int
    store_pfn: int  # 0: none (dom0)
    console_pfn: int
    tables: tuple[Table, ...]
    mapped_tables: int  # how many of `tables` (the first ones) are in the mapping: nr_pt_frames
    pt_va: int
    stack_pfn: int
    mappings: tuple[Mapping, ...]

    def va(self, pfn: int) -> int:
        """The address at which the initial mapping shows `pfn`."""
        return self.image.virt_base + pfn * PAGE

    @property
    def start_info_va(self) -> int:
        """Goes to RSI."""
        return self.va(self.start_info_pfn)

    @property
    def stack_top(self) -> int:
        """Goes to RSP: the end of the boot stack's page."""
        return self.va(self.stack_pfn + 1)

    @property
    def l4_pfn(self) -> int:
        """The top-level table, which becomes CR3."""
        return next(table.pfn for table in self.tables if table.level == 4)

    @property
    def mapped_pages(self) -> int:
        """Size of the initial mapping."""
        return (self.mappings[0].end - self.mappings[0].start) // PAGE


def pages(size: int) -> int:
    """How many pages `size` bytes need."""
    return -(-size // PAGE)


def table_bits(level: int) -> int:
    """An address shifted right by this is the index of the level's table that translates it."""
    return 12 + LEVEL_BITS * level


def _cover(start: int, end: int, known: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """(level, index) of the tables that [start, end) needs beside the `known` ones: top level first, then by
    address."""
    found = []
    for level in (4, 3, 2, 1):
        bits = table_bits(level)
        found += [(level, index) for index in range((start & VA_MASK) >> bits, ((end - 1 & VA_MASK) >> bits) + 1)]
    return [item for item in found if item not in known]


def _cover_size(start: int, end: int) -> int:
    """How many tables [start, end) needs, without listing them: a damaged image may ask for very many."""
    shifts = [table_bits(level) for level in (4, 3, 2, 1)]
    return sum(max(0, ((end - 1 & VA_MASK) >> bits) - ((start & VA_MASK) >> bits) + 1) for bits in shifts)


def _too_little(path: str, nr_pages: int, needed: int) -> MemoryShortage:
    return MemoryShortage(
        f"{path}: needs at least {needed * PAGE >> 10} KiB of memory, and has {nr_pages * PAGE >> 10} KiB"
    )


def _check(image: PvImage, end: int, path: str) -> None:
    if image.virt_base < XEN_END and end > XEN_START:
        raise ImageError(f"{path}: is to be loaded where Xen itself is")
    page = image.hypercall_page
    if page is not None and not (image.virt_base <= page < end and page % PAGE == 0):
        raise ImageError(f"{path}: its hypercall page {page:#x} is not a page of the initial mapping")


def domu_layout(image: PvImage, nr_pages: int, module_length: int = 0, path: str = "image") -> Layout:
    """libxc's plan for a domU of `nr_pages` frames; `MemoryShortage` when
    the kernel does not fit, `ImageError` when it has wild addresses."""
    base = image.virt_base
    if image.kernel_start % PAGE:
        raise ImageError(f"{path}: its first segment, at {image.kernel_start:#x}, does not start at a page")
    cursor = pages(image.kernel_end - base)
    module_pages = pages(module_length)
    module_pfn = module_start = 0
    if module_length and not image.module_by_pfn:
        module_pfn, module_start = cursor, base + cursor * PAGE
        cursor += module_pages
    p2m_outside = image.p2m_base is not None and image.p2m_base < base and image.p2m_base % PAGE == 0
    p2m_pages = pages(nr_pages * P2M_ENTRY)
    p2m_pfn, p2m_va = cursor, base + cursor * PAGE
    if not p2m_outside:
        cursor += p2m_pages
    start_info_pfn, store_pfn, console_pfn = cursor, cursor + 1, cursor + 2
    cursor += 3
    spare = 1 + PADDING // PAGE  # the boot stack and the padding
    count = spare
    while True:
        end = (base + (cursor + count) * PAGE | SUPERPAGE_MASK) + 1
        count = _cover_size(base, end) + spare
        if base + (cursor + count) * PAGE <= end:
            break
    mapped = (end - base) // PAGE
    if mapped > nr_pages:
        raise _too_little(path, nr_pages, mapped)
    _check(image, end, path)
    cover = _cover(base, end, set())
    tables = [Table(level, index, cursor + i) for i, (level, index) in enumerate(cover)]
    stack_pfn = cursor + len(tables)
    mapped_tables, pt_va = len(tables), base + cursor * PAGE
    mappings = [Mapping(base, end, 0)]
    cursor = mapped
    if module_length and image.module_by_pfn:
        module_pfn = module_start = cursor
        cursor += module_pages
        module_length = module_pages * PAGE  # libxc reports whole pages here
    first_p2m_pfn = nr_p2m_frames = 0
    if p2m_outside:
        assert image.p2m_base is not None
        p2m_pfn = first_p2m_pfn = cursor
        p2m_va = image.p2m_base
        outer = Mapping(p2m_va, p2m_va + p2m_pages * PAGE, p2m_pfn)
        if outer.end > base:
            raise ImageError(f"{path}: the p2m list at {p2m_va:#x} would overlap the kernel")
        more = _cover(outer.start, outer.end, set(cover))
        tables += [Table(level, index, cursor + p2m_pages + i) for i, (level, index) in enumerate(more)]
        nr_p2m_frames = p2m_pages + len(more)
        cursor += nr_p2m_frames
        mappings.append(outer)
    if cursor > nr_pages:
        raise _too_little(path, nr_pages, cursor)
    return Layout(
        image=image,
        nr_pages=nr_pages,
        initial_pages=cursor,
        module_pfn=module_pfn,
        module_pages=module_pages,
        module_start=module_start,
        module_length=module_length,
        p2m_va=p2m_va,
        p2m_pfn=p2m_pfn,
        first_p2m_pfn=first_p2m_pfn,
        nr_p2m_frames=nr_p2m_frames,
        start_info_pfn=start_info_pfn,
        store_pfn=store_pfn,
        console_pfn=console_pfn,
        tables=tuple(tables),
        mapped_tables=mapped_tables,
        pt_va=pt_va,
        stack_pfn=stack_pfn,
        mappings=tuple(mappings),
    )


def _dom0_order(start: int, end: int) -> list[tuple[int, int]]:
    """Xen's dom0 builder takes tables as it meets the need for them, lowest level first: L4, L1, L2, L3, L1, ..."""
    order: list[tuple[int, int]] = [(4, 0)]
    seen = set(order)
    for address in range(start & VA_MASK, end & VA_MASK or VA_MASK + 1, 1 << 21):
        for level in (1, 2, 3):
            item = (level, address >> table_bits(level))
            if item in seen:
                break
            seen.add(item)
            order.append(item)
    return order


def dom0_layout(image: PvImage, nr_pages: int, module_length: int = 0, path: str = "image") -> Layout:
    """Xen's plan for a dom0 of `nr_pages` frames; errors as for `domu_layout`."""
    base = image.virt_base
    cursor = pages(image.kernel_end - base)
    module_pages = pages(module_length)
    module_pfn = module_start = 0
    if module_length and not image.module_by_pfn:
        module_pfn, module_start = cursor, base + cursor * PAGE
        cursor += module_pages
    p2m_pfn, p2m_va = cursor, base + cursor * PAGE
    p2m_pages = pages(nr_pages * P2M_ENTRY)
    if image.p2m_base is None:
        cursor += p2m_pages
    start_info_pfn = cursor
    cursor += 1
    count = 2
    while True:
        stack_end = base + (cursor + count + 1) * PAGE
        end = (stack_end + SUPERPAGE_MASK) & ~SUPERPAGE_MASK
        if end - stack_end < PADDING:
            end += SUPERPAGE_MASK + 1
        needed = _cover_size(base, end)
        if needed <= count:
            break
        count = needed
    mapped = (end - base) // PAGE
    _check(image, end, path)
    # Xen allocates the area (without a mapped module, whose frames the boot loader filled) as one power of two.
    own = mapped - (module_pages if module_pfn else 0)
    allocated = 1 << (own - 1).bit_length()
    if allocated + module_pages > nr_pages:
        raise _too_little(path, nr_pages, allocated + module_pages)
    order = _dom0_order(base & ~((1 << 21) - 1), end)
    tables = [Table(level, index, cursor + i) for i, (level, index) in enumerate(order)]
    assert len(tables) == count
    if module_length and image.module_by_pfn:
        module_pfn = module_start = allocated
    initial = allocated + module_pages
    first_p2m_pfn, nr_p2m_frames = initial, 0
    mappings = [Mapping(base, end, 0)]
    if image.p2m_base is not None:
        p2m_va, p2m_pfn = image.p2m_base, initial
        outer = Mapping(p2m_va, p2m_va + p2m_pages * PAGE, p2m_pfn)
        if outer.start < end and base < outer.end:
            raise ImageError(f"{path}: the p2m list at {p2m_va:#x} would overlap the kernel")
        more = _cover(outer.start, outer.end, set(order))
        tables += [Table(level, index, initial + p2m_pages + i) for i, (level, index) in enumerate(more)]
        nr_p2m_frames = p2m_pages + len(more)
        initial += nr_p2m_frames
        mappings.append(outer)
    if initial > nr_pages:
        raise _too_little(path, nr_pages, initial)
    return Layout(
        image=image,
        nr_pages=nr_pages,
        initial_pages=initial,
        module_pfn=module_pfn,
        module_pages=module_pages,
        module_start=module_start,
        module_length=module_length,
        p2m_va=p2m_va,
        p2m_pfn=p2m_pfn,
        first_p2m_pfn=first_p2m_pfn,
        nr_p2m_frames=nr_p2m_frames,
        start_info_pfn=start_info_pfn,
        store_pfn=0,
        console_pfn=0,
        tables=tuple(tables),
        mapped_tables=count,
        pt_va=base + cursor * PAGE,
        stack_pfn=cursor + count,
        mappings=tuple(mappings),
    )


# -- contents --------------------------------------------------------------------------------------------------------


_ZEROS = bytes(PAGE)


class Contents:
    """The bytes of some frames, by pfn; frames never written are zero and absent."""

    def __init__(self) -> None:
        self.frames: dict[int, bytearray] = {}

    def write(self, address: int, data: bytes) -> None:
        """Put `data` at pseudo-physical `address`; whole pages of zeros are not stored."""
        view, at = memoryview(data), 0
        while at < len(view):
            offset = (address + at) % PAGE
            size = min(PAGE - offset, len(view) - at)
            piece = view[at : at + size]
            pfn = (address + at) // PAGE
            if pfn in self.frames or piece.tobytes() != _ZEROS[:size]:
                self.frames.setdefault(pfn, bytearray(PAGE))[offset : offset + size] = piece
            at += size


def table_entries(layout: Layout, p2m: P2m) -> Iterator[tuple[int, bytes]]:
    """(pfn, its 4096 bytes) for each of the layout's page tables; `p2m` gives the machine frames."""
    by_place = {(table.level, table.index): table.pfn for table in layout.tables}
    own = {table.pfn for table in layout.tables}
    for table in layout.tables:
        entries = np.zeros(512, dtype=np.uint64)
        if table.level > 1:
            for slot in range(512):
                pfn = by_place.get((table.level - 1, table.index << LEVEL_BITS | slot))
                if pfn is not None:
                    entries[slot] = (int(p2m[pfn]) << 12) | TABLE
        else:
            start = table.index << table_bits(1)
            for mapping in layout.mappings:
                first, last = mapping.start & VA_MASK, (mapping.end - 1 & VA_MASK) + 1
                low, high = max(first, start), min(last, start + (1 << table_bits(1)))
                if low >= high:
                    continue
                pfn, count, slot = mapping.pfn + (low - first) // PAGE, (high - low) // PAGE, (low - start) // PAGE
                entries[slot : slot + count] = (p2m[pfn : pfn + count] << np.uint64(12)) | np.uint64(LEAF)
                for own_pfn in own.intersection(range(pfn, pfn + count)):
                    entries[slot + own_pfn - pfn] ^= np.uint64(LEAF ^ LEAF_READ_ONLY)
        yield table.pfn, entries.tobytes()


def contents(layout: Layout, p2m: P2m, start_info: bytes, module: bytes = b"") -> Contents:
    """Everything that a builder writes into the domain's memory before it runs, but for its hypercall page."""
    out = Contents()
    for segment in layout.image.segments:
        out.write(segment.va - layout.image.virt_base, segment.data)
    if module:
        out.write(layout.module_pfn * PAGE, module)
    out.write(layout.p2m_pfn * PAGE, p2m[: layout.nr_pages].tobytes())
    out.write(layout.start_info_pfn * PAGE, start_info)
    for pfn, data in table_entries(layout, p2m):
        out.write(pfn * PAGE, data)
    return out


def start_info(
    layout: Layout,
    *,
    magic: bytes,
    shared_info: int,
    flags: int = 0,
    cmdline: bytes = b"",
    store: tuple[int, int] = (0, 0),
    console: tuple[int, int] | None = None,
) -> bytes:
    """The start_info structure. `store` and `console` are (mfn, port) of a domU's rings; a dom0 has None for the
    console.
    `cmdline` is cut to what fits. `flags` lacks SIF_MOD_START_PFN, which the layout knows."""
    type_ = xen.start_info
    if layout.module_length and layout.image.module_by_pfn:
        flags |= xen.SIF_MOD_START_PFN
    data: bytes = type_.pack(
        magic=magic,
        nr_pages=layout.nr_pages,
        shared_info=shared_info,
        flags=flags,
        store_mfn=store[0],
        store_evtchn=store[1],
        console={"domU": {"mfn": console[0], "evtchn": console[1]}}
        if console is not None
        else {"dom0": {"info_off": type_.size, "info_size": VGA_CONSOLE_INFO_SIZE}},
        pt_base=layout.pt_va,
        nr_pt_frames=layout.mapped_tables,
        mfn_list=layout.p2m_va,
        mod_start=layout.module_start,
        mod_len=layout.module_length,
        cmd_line=cmdline[: type_.cmd_line.size - 1],
        first_p2m_pfn=layout.first_p2m_pfn,
        nr_p2m_frames=layout.nr_p2m_frames,
    )
    return data


def boot_context(entry: int, stack: int, start_info: int, l4_mfn: int) -> bytes:
    """A vcpu_guest_context for a PV kernel's entry: kernel mode, interrupts on, RSI at start_info, all else zero."""
    type_ = arch_x86_64.vcpu_guest_context
    data: bytes = type_.pack(
        flags=arch_x86_64.VGCF_in_kernel | arch_x86_64.VGCF_online,
        user_regs={
            "rip": entry,
            "rsp": stack,
            "rsi": start_info,
            "rflags": 0x200,
            "cs": arch_x86_64.FLAT_KERNEL_CS,
            "ss": arch_x86_64.FLAT_KERNEL_SS,
        },
        kernel_ss=arch_x86_64.FLAT_KERNEL_SS,
        kernel_sp=stack,
        ctrlreg=(0, 0, 0, l4_mfn << 12, 0, 0, 0, 0),
        debugreg=(0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400),
    )
    return data


VGA_CONSOLE_INFO_SIZE = 0x28  # struct dom0_vga_console_info, which follows dom0's start_info
HYPERCALL_SLOT = 32
HYPERCALL_IRET = 23


def hypercall_page() -> bytes:
    """The 128 stubs of 32 bytes: save RCX and R11, which SYSCALL destroys, and call number N. `iret` does not come
    back."""
    out = bytearray(b"\xcc" * PAGE)
    for number in range(PAGE // HYPERCALL_SLOT):
        if number == HYPERCALL_IRET:
            code = b"\x51\x41\x53\x50\xb8" + struct.pack("<I", number) + b"\x0f\x05"
        else:
            code = b"\x51\x41\x53\xb8" + struct.pack("<I", number) + b"\x0f\x05\x41\x5b\x59\xc3"
        out[number * HYPERCALL_SLOT : number * HYPERCALL_SLOT + len(code)] = code
    return bytes(out)
