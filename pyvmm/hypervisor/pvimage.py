"""A PV kernel file: what its ELF headers and its Xen notes say, read and checked without touching any domain.

Sources: the System V ABI and its x86-64 supplement (ELF), public/elfnote.h (the notes and the older `__xen_guest`
string), and what
Xen's libelf accepts: notes come from PT_NOTE segments, else from SHT_NOTE sections, else from `__xen_guest`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from pyvmm.abi import elfnote
from pyvmm.errors import ImageError
from pyvmm.hypervisor.unpack import unwrap

PAGE = 4096
CANONICAL_END = 1 << 47
MAX_NOTES = 4096  # what libelf looks at before it calls a file broken
_U64 = (1 << 64) - 1
_LOADABLE_FLAGS = 7  # a PT_LOAD with none of PF_R, PF_W, PF_X is not loaded

# Names in the notes' FEATURES string: bit number of XENFEAT_* (public/features.h). Only these may be required with
# "!".
FEATURE_BITS = {
    "writable_page_tables": 0,
    "writable_descriptor_tables": 1,
    "auto_translated_physmap": 2,
    "supervisor_mode_kernel": 3,
    "pae_pgdir_above_4gb": 4,
    "hvm_callback_vector": 8,
    "dom0": 11,
}
SUPERVISOR_MODE_KERNEL = 1 << FEATURE_BITS["supervisor_mode_kernel"]

STRING_NOTES = frozenset(
    {
        elfnote.XEN_ELFNOTE_XEN_VERSION,
        elfnote.XEN_ELFNOTE_GUEST_OS,
        elfnote.XEN_ELFNOTE_GUEST_VERSION,
        elfnote.XEN_ELFNOTE_LOADER,
        elfnote.XEN_ELFNOTE_PAE_MODE,
        elfnote.XEN_ELFNOTE_FEATURES,
        elfnote.XEN_ELFNOTE_BSD_SYMTAB,
    }
)
# `__xen_guest` key: the note it stands for.
GUEST_STRING_KEYS = {
    "LOADER": elfnote.XEN_ELFNOTE_LOADER,
    "GUEST_OS": elfnote.XEN_ELFNOTE_GUEST_OS,
    "GUEST_VER": elfnote.XEN_ELFNOTE_GUEST_VERSION,
    "XEN_VER": elfnote.XEN_ELFNOTE_XEN_VERSION,
    "PAE": elfnote.XEN_ELFNOTE_PAE_MODE,
    "BSD_SYMTAB": elfnote.XEN_ELFNOTE_BSD_SYMTAB,
    "FEATURES": elfnote.XEN_ELFNOTE_FEATURES,
    "VIRT_BASE": elfnote.XEN_ELFNOTE_VIRT_BASE,
    "VIRT_ENTRY": elfnote.XEN_ELFNOTE_ENTRY,
    "ELF_PADDR_OFFSET": elfnote.XEN_ELFNOTE_PADDR_OFFSET,
    "HYPERCALL_PAGE": elfnote.XEN_ELFNOTE_HYPERCALL_PAGE,
}


@dataclass(frozen=True)
class Segment:
    """One loadable piece: `data` goes to virtual address `va`, the rest of its `size` bytes is zero."""

    va: int
    data: bytes
    size: int


@dataclass(frozen=True)
class PvImage:
    """Everything a builder needs of a kernel. Addresses are guest virtual ones; None where the kernel said
    nothing."""

    segments: tuple[Segment, ...]
    virt_base: int
    entry: int
    kernel_start: int
    kernel_end: int
    hypercall_page: int | None
    p2m_base: int | None
    module_by_pfn: bool
    pae: bool
    extended_cr3: bool  # PAE with page tables above 4 GiB: a 32-bit kernel's affair, but dom0's features tell
    guest_os: str
    guest_version: str
    loader: str
    supported: int
    required: int
    says_supported: bool
    suspend_cancel: bool
    l1_mfn_valid: tuple[tuple[int, int], ...]
    legacy: bool
    notes: dict[int, bytes] = field(repr=False)


def parse_features(text: str, path: str) -> tuple[int, int]:
    """(supported, required) of a FEATURES string: names joined by "|", "!" before a required one (which is supported
    too).
    Unknown names are ignored, unless they are required: then `ImageError`."""
    supported = required = 0
    for name in text.split("|"):
        bit = FEATURE_BITS.get(name.removeprefix("!"))
        if bit is None:
            if name.startswith("!"):
                raise ImageError(f"{path}: requires the unknown Xen feature {name[1:]!r}")
            continue
        supported |= 1 << bit
        if name.startswith("!"):
            required |= 1 << bit
    return supported, required


def read_image(data: bytes, path: str = "image") -> PvImage:
    """Read and check the kernel in `data` (an ELF, a compressed one, or a bzImage); `path` is named in errors.

    `ImageError` for everything that no PV64 builder could boot.
    """
    data = unwrap(data, path)
    if data[:4] != b"\x7fELF":
        raise ImageError(f"{path}: not an ELF file")
    if len(data) < 64:
        raise ImageError(f"{path}: truncated: the ELF header is not complete")
    if data[5] != 1:
        raise ImageError(f"{path}: not a little-endian image")
    if data[4] == 1:
        raise ImageError(f"{path}: a 32-bit image; only 64-bit PV kernels run here")
    if data[4] != 2:
        raise ImageError(f"{path}: ELF class {data[4]} is unknown")
    try:
        return _read_elf(data, path)
    except (
        ELFError,
        ConstructError,
        struct.error,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        # pyelftools reports damage by any of these, depending on which table is damaged.
        raise ImageError(f"{path}: truncated or damaged ELF file: {error}") from None


def _read_elf(data: bytes, path: str) -> PvImage:
    elf = ELFFile(io.BytesIO(data))
    if elf["e_machine"] != "EM_X86_64":
        raise ImageError(f"{path}: not for x86-64: e_machine is {elf['e_machine']}")
    headers = [segment.header for segment in elf.iter_segments()]
    loads = []
    for header in headers:
        if header.p_type != "PT_LOAD" or not header.p_flags & _LOADABLE_FLAGS:
            continue
        if header.p_filesz > header.p_memsz:
            raise ImageError(f"{path}: segment at {header.p_paddr:#x} is larger in the file than in memory")
        if header.p_offset + header.p_filesz > len(data):
            raise ImageError(f"{path}: truncated: segment at {header.p_paddr:#x} ends after the file")
        if header.p_memsz:
            loads.append(header)
    if not loads:
        raise ImageError(f"{path}: nothing to load: no loadable segment")
    loads.sort(key=lambda header: int(header.p_paddr))
    for first, second in pairwise(loads):
        if first.p_paddr + first.p_memsz > second.p_paddr:
            raise ImageError(f"{path}: overlapping segments at {first.p_paddr:#x} and {second.p_paddr:#x}")

    notes, legacy = _xen_notes(data, elf, headers, path)
    if elfnote.XEN_ELFNOTE_PHYS32_ENTRY in notes and not notes.keys() & _PV_NOTES:
        raise ImageError(f"{path}: a PVH (HVM) image: it has PHYS32_ENTRY, and none of a PV kernel's entry notes")
    if not _text(notes, elfnote.XEN_ELFNOTE_LOADER).startswith("generic") and not _text(
        notes, elfnote.XEN_ELFNOTE_GUEST_OS
    ).startswith("linux"):
        raise ImageError(f"{path}: not built for the generic PV loader (note LOADER)")
    version = _text(notes, elfnote.XEN_ELFNOTE_XEN_VERSION)
    if not version.startswith("xen-3.0"):
        raise ImageError(f"{path}: built for {version or 'no version of Xen'!r}, not for xen-3.0")

    base = _number(notes, elfnote.XEN_ELFNOTE_VIRT_BASE)
    offset = _number(notes, elfnote.XEN_ELFNOTE_PADDR_OFFSET)
    if offset is not None and base is None:
        raise ImageError(f"{path}: PADDR_OFFSET without VIRT_BASE")
    hypercall_page = _number(notes, elfnote.XEN_ELFNOTE_HYPERCALL_PAGE)
    if legacy and hypercall_page is not None:  # there it is a page number, counted from VIRT_BASE
        hypercall_page = (hypercall_page * PAGE + (base or 0)) & _U64
    base = base or 0
    if offset is None:
        offset = base if legacy else 0
    shift = base - offset
    start, end = loads[0].p_paddr + shift, max(header.p_paddr + header.p_memsz for header in loads) + shift
    entry = _number(notes, elfnote.XEN_ELFNOTE_ENTRY)
    if entry is None:
        entry = int(elf["e_entry"])
    segments = tuple(
        Segment(header.p_paddr + shift, data[header.p_offset : header.p_offset + header.p_filesz], header.p_memsz)
        for header in loads
    )
    bsd = notes.get(elfnote.XEN_ELFNOTE_BSD_SYMTAB)
    if bsd is not None and (legacy or bsd.rstrip(b"\0") == b"yes"):
        symbols = _bsd_symbols(data, elf, end)
        if symbols is not None:
            segments += (symbols,)
            end = symbols.va + symbols.size
    if base % PAGE:
        raise ImageError(f"{path}: VIRT_BASE {base:#x} is not the address of a page")
    if not base <= start <= entry <= end or not _canonical(base, end):
        raise ImageError(f"{path}: wild addresses: base {base:#x}, kernel {start:#x}..{end:#x}, entry {entry:#x}")
    p2m_base = _number(notes, elfnote.XEN_ELFNOTE_INIT_P2M)
    if p2m_base is not None and start <= p2m_base < end:
        raise ImageError(f"{path}: INIT_P2M {p2m_base:#x} is inside the kernel")
    supported, required = parse_features(_text(notes, elfnote.XEN_ELFNOTE_FEATURES), path)
    numeric = notes.get(elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES)
    if numeric is not None:
        supported |= int.from_bytes(numeric[:4], "little")
    pae = _text(notes, elfnote.XEN_ELFNOTE_PAE_MODE)
    return PvImage(
        segments=segments,
        virt_base=base,
        entry=entry,
        kernel_start=start,
        kernel_end=end,
        hypercall_page=hypercall_page,
        p2m_base=p2m_base,
        module_by_pfn=bool(_number(notes, elfnote.XEN_ELFNOTE_MOD_START_PFN)),
        pae=pae.startswith("yes") or "bimodal" in pae,
        extended_cr3=pae == ("yes[extended-cr3]" if legacy else "yes"),
        guest_os=_text(notes, elfnote.XEN_ELFNOTE_GUEST_OS),
        guest_version=_text(notes, elfnote.XEN_ELFNOTE_GUEST_VERSION),
        loader=_text(notes, elfnote.XEN_ELFNOTE_LOADER),
        supported=supported,
        required=required,
        says_supported=numeric is not None,
        suspend_cancel=bool(_number(notes, elfnote.XEN_ELFNOTE_SUSPEND_CANCEL)),
        l1_mfn_valid=_pairs(notes.get(elfnote.XEN_ELFNOTE_L1_MFN_VALID, b"")),
        legacy=legacy,
        notes=notes,
    )


# A kernel that has one of these was built to be started as a PV guest (a PVH-only Linux has a LOADER too).
_PV_NOTES = {
    elfnote.XEN_ELFNOTE_ENTRY,
    elfnote.XEN_ELFNOTE_HYPERCALL_PAGE,
    elfnote.XEN_ELFNOTE_VIRT_BASE,
    elfnote.XEN_ELFNOTE_PAE_MODE,
}


def _canonical(start: int, end: int) -> bool:
    """[start, end) lies within one half of the canonical address space."""
    return 0 <= start <= end <= CANONICAL_END or (1 << 64) - CANONICAL_END <= start <= end <= _U64


def _text(notes: dict[int, bytes], number: int) -> str:
    return notes.get(number, b"").partition(b"\0")[0].decode("latin-1")


def _number(notes: dict[int, bytes], number: int) -> int | None:
    """A numeric note: 1, 2, 4 or 8 bytes; other sizes read as 0, as libelf has it."""
    value = notes.get(number)
    if value is None:
        return None
    return int.from_bytes(value, "little") if len(value) in (1, 2, 4, 8) else 0


def _pairs(value: bytes) -> tuple[tuple[int, int], ...]:
    """L1_MFN_VALID: (mask, value) pairs that a valid and an invalid L1 entry are told apart by."""
    count = len(value) // 16
    words = struct.unpack_from(f"<{2 * count}Q", value)
    return tuple(zip(words[::2], words[1::2], strict=True))


# -- where notes come from -------------------------------------------------------------------------------------------


def iter_notes(blob: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(owner, type, value) of each note in `blob`; ends at the first one that does not fit. (pyelftools' own reader
    gives
    GNU's names to Xen's numbers.)"""
    at = 0
    while at + 12 <= len(blob):
        owner_size, size, kind = struct.unpack_from("<III", blob, at)
        owner_at = at + 12
        value_at = owner_at + (owner_size + 3 & ~3)
        if value_at + size > len(blob):
            return
        yield blob[owner_at : owner_at + owner_size].rstrip(b"\0"), kind, blob[value_at : value_at + size]
        at = value_at + (size + 3 & ~3)


def _xen_notes(data: bytes, elf: ELFFile, headers: list[Any], path: str) -> tuple[dict[int, bytes], bool]:
    """The Xen notes, and whether they come from the older string section. Later notes replace earlier ones."""
    places = [(h.p_offset, h.p_filesz) for h in headers if h.p_type == "PT_NOTE" and h.p_offset]
    found = _collect(data, places, path)
    if found:
        return found, False
    sections = list(elf.iter_sections()) if elf["e_shoff"] else []
    found = _collect(data, [(s["sh_offset"], s["sh_size"]) for s in sections if s["sh_type"] == "SHT_NOTE"], path)
    if found:
        return found, False
    for section in sections:
        if section.name == "__xen_guest":
            text = data[section["sh_offset"] : section["sh_offset"] + section["sh_size"]]
            return _guest_string(text.partition(b"\0")[0].decode("latin-1"), path), True
    raise ImageError(f"{path}: not a Xen kernel: no Xen ELF notes and no __xen_guest section")


def _collect(data: bytes, places: list[tuple[int, int]], path: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    count = 0
    for offset, size in places:
        if offset + size > len(data):
            raise ImageError(f"{path}: truncated: its notes end after the file")
        for owner, kind, value in iter_notes(data[offset : offset + size]):
            count += 1
            if count > MAX_NOTES:
                raise ImageError(f"{path}: too many ELF notes")
            if owner == b"Xen":
                found[kind] = value
    return found


def _guest_string(text: str, path: str) -> dict[int, bytes]:
    """Notes from a `KEY=value,KEY=value` string. Numbers are written as C writes them."""
    found: dict[int, bytes] = {}
    for item in text.split(","):
        key, _, value = item.partition("=")
        number = GUEST_STRING_KEYS.get(key)
        if number is None:
            continue
        if number in STRING_NOTES:
            found[number] = value.encode("latin-1")
            continue
        try:
            found[number] = struct.pack("<Q", _c_number(value) & _U64)
        except ValueError:
            raise ImageError(f"{path}: __xen_guest: {key}={value} is not a number") from None
    return found


def _c_number(text: str) -> int:
    """A number as C's strtoull(text, NULL, 0) reads it: decimal, 0x... or octal with a leading 0."""
    text = text.strip()
    if len(text) > 1 and text[0] == "0" and text[1] in "01234567":
        return int(text, 8)
    return int(text, 0)


def _bsd_symbols(data: bytes, elf: ELFFile, end: int) -> Segment | None:
    """BSD_SYMTAB: after the kernel come the symbol and string tables behind a small ELF header of their own.

    A 32-bit size, an ELF header, three section headers (none, symbols, strings), the tables; each aligned to 8.
    """
    symtab = next((s for s in elf.iter_sections() if s["sh_type"] == "SHT_SYMTAB"), None) if elf["e_shoff"] else None
    if symtab is None:
        return None
    strtab = elf.get_section(symtab["sh_link"])
    if strtab["sh_type"] != "SHT_STRTAB":
        return None
    tables = [data[s["sh_offset"] : s["sh_offset"] + s["sh_size"]] for s in (symtab, strtab)]
    raw_headers = [
        bytearray(data[elf["e_shoff"] + index * elf["e_shentsize"] :][:64])
        for index in (elf.get_section_index(symtab.name), symtab["sh_link"])
    ]
    header_size = 64 + 3 * 64
    first = _up(4 + header_size, 8)
    second = _up(first + len(tables[0]), 8)
    total = _up(second + len(tables[1]), 8)
    for raw, offset in zip(raw_headers, (first - 4, second - 4), strict=True):
        struct.pack_into("<Q", raw, 24, offset)  # sh_offset, counted from the ELF header
    struct.pack_into("<I", raw_headers[0], 40, 2)  # the symbols' strings are in section 2
    ehdr = bytearray(data[:64])
    struct.pack_into("<QQ", ehdr, 32, 0, 64)  # e_phoff, e_shoff
    struct.pack_into("<HHHHHH", ehdr, 52, 64, 0, 0, 64, 3, 0)
    out = bytearray(total)
    struct.pack_into("<I", out, 0, second + len(tables[1]) - 4)
    out[4 : 4 + header_size] = bytes(ehdr) + bytes(64) + bytes(raw_headers[0]) + bytes(raw_headers[1])
    out[first : first + len(tables[0])] = tables[0]
    out[second : second + len(tables[1])] = tables[1]
    return Segment(_up(end, 8), bytes(out), total)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
