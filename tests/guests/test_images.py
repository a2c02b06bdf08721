"""The shipped images: what the manifest says is true, they are what their sources make, they are good PV kernels."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pyvmm import images
from pyvmm.abi import elfnote, xen
from pyvmm.images import build

NAMES = images.names()


def test_manifest_names_every_guest() -> None:
    """Nothing is built that does not ship, nothing ships that is not built here."""
    assert [guest.name for guest in build.ALL] == NAMES
    assert {"hello", "abicheck"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_manifest_hashes(name: str) -> None:
    """Image and sources are those that the manifest was written for: whoever edits a guest has to rebuild it."""
    record = images.manifest()["images"][name]
    assert hashlib.sha256(images.path(name).read_bytes()).hexdigest() == record["sha256"]
    assert build.sources_hash(name) == record["sources"]


@pytest.mark.parametrize("name", NAMES)
def test_rebuild_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """Compiled anew, elsewhere, the image is the shipped one."""
    pytest.importorskip("ziglang", reason="needs the pinned compiler, the ziglang wheel")
    if build.compiler_version() != images.manifest()["compiler"]:
        pytest.skip(f"needs {images.manifest()['compiler']}, here is {build.compiler_version()}")
    assert images.manifest()["flags"] == " ".join((*build.CFLAGS, *build.LDFLAGS))
    build.build(name, tmp_path / name)
    assert (tmp_path / name).read_bytes() == images.path(name).read_bytes()
    for file in tmp_path.glob("*.functions"):
        assert file.read_text() == (images.DIRECTORY / file.name).read_text()


def test_a_compiler_that_fails_is_reported(tmp_path: Path) -> None:
    """The compiler's words come with the error, and no image appears."""
    with pytest.raises(build.BuildError, match="false"):
        build.build("hello", tmp_path / "hello", cc=["false"])
    assert not (tmp_path / "hello").exists()


def note_types(data: bytes) -> set[int]:
    """Types of the ELF notes in a PT_NOTE, all of them Xen's."""
    types, at = set(), 0
    while at < len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        assert data[at + 12 : at + 16] == b"Xen\0" and name_size == 4
        types.add(kind)
        at += 16 + (size + 3) // 4 * 4
    return types


@pytest.mark.parametrize("name", NAMES)
def test_segments_symbols_and_notes(name: str) -> None:
    """Text and data share no page, functions have symbols, no debug sections, the notes that Xen needs."""
    with images.path(name).open("rb") as file:
        elf = ELFFile(file)
        loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        pages: set[int] = set()
        for load in loads:
            mine = set(range(load["p_vaddr"] >> 12, (load["p_vaddr"] + load["p_memsz"] + 4095) >> 12))
            assert not pages & mine
            assert not (load["p_flags"] & 1 and load["p_flags"] & 2)
            pages |= mine
        table = elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = {symbol.name for symbol in table.iter_symbols()}
        on_kernel = next(guest.kernel for guest in build.ALL if guest.name == name)
        assert {"_start", "main"} <= symbols
        assert not on_kernel or {"trap", "hypercall_page", "kernel_start"} <= symbols
        assert not [section.name for section in elf.iter_sections() if section.name.startswith(".debug")]
        (segment,) = [s for s in elf.iter_segments() if s["p_type"] == "PT_NOTE"]
        of_the_kernel = {
            elfnote.XEN_ELFNOTE_HYPERCALL_PAGE,
            elfnote.XEN_ELFNOTE_GUEST_VERSION,
            elfnote.XEN_ELFNOTE_FEATURES,
        }
        assert note_types(segment.data()) - (of_the_kernel if on_kernel else set()) == {
            elfnote.XEN_ELFNOTE_ENTRY,
            elfnote.XEN_ELFNOTE_VIRT_BASE,
            elfnote.XEN_ELFNOTE_XEN_VERSION,
            elfnote.XEN_ELFNOTE_GUEST_OS,
            elfnote.XEN_ELFNOTE_LOADER,
            elfnote.XEN_ELFNOTE_PAE_MODE,
        }
        assert not on_kernel or of_the_kernel <= note_types(segment.data())


def test_hypercall_list_is_xens() -> None:
    """Each stub's number is the one of its name."""
    calls = build.parse_hypercalls((build.GUESTS / "kernel/hypercalls.list").read_text())
    assert len(calls) > 25
    for number, name, parameters in calls:
        assert xen.HYPERCALL_NAMES[number] == name
        assert parameters.count(",") < 5


def test_sources_are_readable() -> None:
    """Every source begins by saying what it is, and stays below 600 lines."""
    files = [p for p in build.GUESTS.rglob("*") if p.suffix in (".c", ".h", ".S", ".ld", ".list")]
    assert len(files) > 30
    for file in files:
        lines = file.read_text().splitlines()
        assert lines[0].startswith(("/* ", "# ")), file
        assert len(lines) < 600, file
