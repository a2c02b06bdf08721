"""Reading kernels: what the notes mean, what is unpacked, and what is refused in one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm import images
from pyvmm.abi import elfnote
from pyvmm.errors import ImageError, PyvmmError
from pyvmm.hypervisor import unpack
from pyvmm.hypervisor.pvimage import parse_features, read_image
from pyvmm.hypervisor.unpack import LZ4, decompress
from tests.toolstack.elf_image import NOTES, Elf, Load, u64


def test_a_plain_kernel() -> None:
    image = read_image(Elf().build())
    assert (image.virt_base, image.kernel_start, image.kernel_end, image.entry) == (0, 0x100000, 0x101000, 0x100000)
    assert image.hypercall_page is None and image.p2m_base is None
    assert not image.legacy and not image.module_by_pfn
    (segment,) = image.segments
    assert (segment.va, segment.data, segment.size) == (0x100000, b"\xf4" * 64, 0x1000)


@pytest.mark.parametrize("where", ["segment", "section"])
def test_notes_are_found_in_segments_and_in_sections(where: str) -> None:
    elf = Elf(notes_in=where).with_notes({elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: u64(0x100000)})
    assert read_image(elf.build()).hypercall_page == 0x100000


def test_every_note_has_its_meaning() -> None:
    base = 0xFFFFFFFF80000000
    elf = Elf(loads=[Load(paddr=0x1000000, memsz=0x5000)]).with_notes(
        {
            elfnote.XEN_ELFNOTE_ENTRY: u64(base + 0x1000200),
            elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: u64(base + 0x1002000),
            elfnote.XEN_ELFNOTE_VIRT_BASE: u64(base),
            elfnote.XEN_ELFNOTE_INIT_P2M: u64(0x8000000000),
            elfnote.XEN_ELFNOTE_PADDR_OFFSET: u64(0),
            elfnote.XEN_ELFNOTE_PAE_MODE: b"yes\0",
            elfnote.XEN_ELFNOTE_FEATURES: b"!writable_page_tables|dom0\0",
            elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES: struct.pack("<I", 0x8801),
            elfnote.XEN_ELFNOTE_MOD_START_PFN: struct.pack("<I", 1),
            elfnote.XEN_ELFNOTE_SUSPEND_CANCEL: struct.pack("<I", 1),
            elfnote.XEN_ELFNOTE_L1_MFN_VALID: struct.pack("<QQ", 1, 1),
            elfnote.XEN_ELFNOTE_PHYS32_ENTRY: u64(0x1000000),
        }
    )
    image = read_image(elf.build())
    assert (image.virt_base, image.entry, image.hypercall_page) == (base, base + 0x1000200, base + 0x1002000)
    assert (image.kernel_start, image.kernel_end) == (base + 0x1000000, base + 0x1005000)
    assert image.p2m_base == 0x8000000000
    assert image.pae and image.extended_cr3 and image.module_by_pfn and image.suspend_cancel and image.says_supported
    assert image.supported == 0x8801 | 1 | 1 << 11 and image.required == 1
    assert image.l1_mfn_valid == ((1, 1),)


def test_paddr_offset_moves_the_kernel() -> None:
    """Physical addresses in the file count from PADDR_OFFSET, which stands for VIRT_BASE."""
    notes = {elfnote.XEN_ELFNOTE_VIRT_BASE: u64(0x400000), elfnote.XEN_ELFNOTE_PADDR_OFFSET: u64(0x100000)}
    image = read_image(Elf(entry=0x400010).with_notes(notes).build())
    assert image.kernel_start == 0x400000


GUEST_STRING = b"GUEST_OS=old,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,LOADER=generic,HYPERCALL_PAGE=0x2,PAE=yes"


def test_the_older_string_section() -> None:
    """There HYPERCALL_PAGE counts pages, and PADDR_OFFSET is VIRT_BASE unless given."""
    base = 0xFFFFFFFF80000000
    elf = Elf(loads=[Load(paddr=base + 0x1000, memsz=0x4000)], entry=base + 0x1000, notes_in="")
    elf.guest_string = GUEST_STRING
    image = read_image(elf.build())
    assert image.legacy and image.guest_os == "old" and image.pae and not image.extended_cr3
    assert (image.virt_base, image.kernel_start) == (base, base + 0x1000)
    assert image.hypercall_page == base + 0x2000
    elf.guest_string = GUEST_STRING + b",ELF_PADDR_OFFSET=0"
    elf.loads = [Load(paddr=0x1000, memsz=0x4000)]
    assert read_image(elf.build()).kernel_start == base + 0x1000


def test_notes_win_over_the_string_section() -> None:
    assert not read_image(Elf(guest_string=GUEST_STRING).build()).legacy


def bzimage(payload: bytes, version: int = 0x20F) -> bytes:
    """A bzImage around a payload, with one setup sector."""
    data = bytearray(0x400)
    data[0x1F1] = 1
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, version)
    struct.pack_into("<II", data, 0x248, 0x20, len(payload))
    return bytes(data) + bytes(0x20) + payload


def trailer(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Linux appends the unpacked size to what it packs."""
    return lambda data: pack(data) + struct.pack("<I", len(data))


def lz4_legacy(data: bytes, block: int = 8 << 20) -> bytes:
    """LZ4's legacy frame, as the kernel's build makes it."""
    packed = [lz4.block.compress(data[at : at + block], store_size=False) for at in range(0, len(data), block)]
    return LZ4 + b"".join(struct.pack("<I", len(one)) + one for one in packed)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": trailer(bz2.compress),
    "xz": trailer(lzma.compress),
    "lzma": trailer(lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
    "zstd": trailer(zstandard.ZstdCompressor(level=19).compress),
    "lz4": trailer(lambda data: lz4_legacy(data)),
    "lz4, bare": lambda data: lz4_legacy(data),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_kernels(kind: str) -> None:
    """Bare, and inside a bzImage."""
    plain = Elf().build()
    packed = PACKERS[kind](plain)
    assert read_image(packed) == read_image(plain)
    assert read_image(bzimage(packed)) == read_image(plain)


def test_what_cannot_be_unpacked_is_named() -> None:
    with pytest.raises(ImageError, match="compressed with lzo, which is not supported"):
        read_image(bzimage(b"\x89LZO" + bytes(100)))


def test_lz4_of_many_blocks() -> None:
    """Blocks of another size, frames one after the other; the size at the end has to be right."""
    plain = bytes(range(256)) * 100
    packed = lz4_legacy(plain, 1000) + lz4_legacy(plain, 7000)
    size = struct.pack("<I", 2 * len(plain))
    assert decompress(packed, "k") == decompress(packed + size, "k") == plain * 2
    for damaged in (packed[:-1], packed + size[:3], packed + struct.pack("<I", len(plain))):
        with pytest.raises(ImageError, match="damaged lz4 data"):
            decompress(damaged, "k")


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "lzma", "zstd", "lz4"])
def test_what_unpacks_to_too_much(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes can become very many: no more is unpacked than may be."""
    packed = PACKERS[kind](bytes(20 << 20))
    monkeypatch.setattr(unpack, "LIMIT", 1 << 20)
    with pytest.raises(ImageError, match="unpacks to more than 1 MiB"):
        decompress(packed, "k")


def test_the_shipped_images_are_kernels() -> None:
    for name in images.names():
        image = read_image(images.path(name).read_bytes(), name)
        assert image.loader == "generic"
        assert any(segment.va <= image.entry < segment.va + segment.size for segment in image.segments)


PVH = {elfnote.XEN_ELFNOTE_PHYS32_ENTRY: struct.pack("<I", 0x100000)}
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an ELF"),
    "text": (b"#!/bin/sh\n", "not an ELF"),
    "header cut": (Elf().build()[:40], "truncated"),
    "32-bit": (Elf(elf_class=1).build(), "32-bit"),
    "class 9": (Elf(elf_class=9).build(), "class"),
    "big-endian": (Elf(data_encoding=2).build(), "little-endian"),
    "other machine": (Elf(machine=183).build(), "x86-64"),
    "PVH only": (Elf().with_notes(PVH).build(), "PVH"),
    "no notes": (Elf(notes_in="").build(), "not a Xen kernel"),
    "no loader": (Elf(notes={k: v for k, v in NOTES.items() if k != elfnote.XEN_ELFNOTE_LOADER}).build(), "LOADER"),
    "xen-2.0": (Elf().with_notes({elfnote.XEN_ELFNOTE_XEN_VERSION: b"xen-2.0\0"}).build(), "xen-2.0"),
    "segment cut": (Elf(loads=[Load(filesz=1 << 20, memsz=1 << 20)]).build(), "truncated"),
    "file beyond memory": (Elf(loads=[Load(memsz=8)]).build(), "larger in the file"),
    "overlap": (Elf(loads=[Load(memsz=0x3000), Load(paddr=0x101000)]).build(), "overlapping"),
    "nothing to load": (Elf(loads=[]).build(), "nothing to load"),
    "wild segment": (Elf(loads=[Load(paddr=0xFFFFFFFFFFFFF000, memsz=0x4000)]).build(), "wild"),
    "entry outside": (Elf(entry=0x900000).build(), "wild"),
    "offset without base": (
        Elf().with_notes({elfnote.XEN_ELFNOTE_PADDR_OFFSET: u64(0)}).build(),
        "PADDR_OFFSET without",
    ),
    "base in the kernel": (Elf().with_notes({elfnote.XEN_ELFNOTE_VIRT_BASE: u64(0x200000)}).build(), "wild|page"),
    "p2m in the kernel": (Elf().with_notes({elfnote.XEN_ELFNOTE_INIT_P2M: u64(0x100000)}).build(), "INIT_P2M"),
    "unknown feature": (Elf().with_notes({elfnote.XEN_ELFNOTE_FEATURES: b"!flying\0"}).build(), "flying"),
    "damaged gzip": (gzip.compress(Elf().build())[:60], "ends too early"),
    "bzImage cut": (bzimage(gzip.compress(Elf().build()))[:-50], "truncated"),
    "damaged xz": (b"\xfd7zXZ\x00" + bytes(100), "damaged xz"),
    "damaged zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "damaged zstd"),
    "zstd cut": (PACKERS["zstd"](Elf().build())[:60], "ends too early"),
    "damaged lz4": (LZ4 + struct.pack("<I", 90) + bytes(range(90)), "damaged lz4"),
    "lz4 cut": (lz4_legacy(Elf().build())[:-3], "ends too early"),
    "lz4 of nothing": (LZ4 + struct.pack("<IB", 1, 0) * 9, "a block of nothing"),
    "lz4, another size": (lz4_legacy(Elf().build()) + struct.pack("<I", 5), "the size at its end"),
    "old bzImage": (bzimage(b"", version=0x203), "boot protocol"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused_in_one_line(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(data, "some/file")
    assert str(caught.value).startswith("some/file: ")
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_an_image_error_or_harmless(data: st.DataObject) -> None:
    """Whatever bytes of a kernel are changed or cut off: an `ImageError`, or an image within bounds."""
    raw = bytearray(Elf(guest_string=GUEST_STRING).build())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        image = read_image(bytes(raw[:cut] if data.draw(st.booleans()) else raw))
    except PyvmmError as error:
        assert isinstance(error, ImageError) and "\n" not in str(error)
        return
    assert image.virt_base <= image.kernel_start <= image.entry <= image.kernel_end
    for segment in image.segments:
        assert len(segment.data) <= segment.size and segment.va + segment.size <= image.kernel_end


def test_features() -> None:
    assert parse_features("!writable_page_tables|pae_pgdir_above_4gb|new_one", "k") == (0x11, 1)
    assert parse_features("", "k") == (0, 0)
