"""Hand-made ELF kernels for tests: any headers, any notes, damaged at will."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pyvmm.abi import elfnote

PT_LOAD, PT_NOTE = 1, 4
SHT_STRTAB, SHT_NOTE, SHT_PROGBITS = 3, 7, 1
NOTES: dict[int, bytes] = {
    elfnote.XEN_ELFNOTE_GUEST_OS: b"test\0",
    elfnote.XEN_ELFNOTE_LOADER: b"generic\0",
    elfnote.XEN_ELFNOTE_XEN_VERSION: b"xen-3.0\0",
}


def note(kind: int, value: bytes, owner: bytes = b"Xen\0") -> bytes:
    """One ELF note."""
    return (
        struct.pack("<III", len(owner), len(value), kind)
        + owner.ljust(-(-len(owner) // 4) * 4, b"\0")
        + value.ljust(-(-len(value) // 4) * 4, b"\0")
    )


def u64(value: int) -> bytes:
    """A numeric note's value."""
    return struct.pack("<Q", value)


@dataclass
class Load:
    """A PT_LOAD: address, contents, size in memory."""

    paddr: int = 0x100000
    data: bytes = b"\xf4" * 64
    memsz: int = 0x1000
    flags: int = 7
    filesz: int | None = None


@dataclass
class Elf:
    """An ELF file. `notes_in`: "segment", "section" or "" (none); `guest_string`: what a `__xen_guest` section says."""

    loads: list[Load] = field(default_factory=lambda: [Load()])
    notes: dict[int, bytes] = field(default_factory=lambda: dict(NOTES))
    entry: int = 0x100000
    elf_class: int = 2
    data_encoding: int = 1
    machine: int = 62
    notes_in: str = "segment"
    guest_string: bytes | None = None

    def with_notes(self, more: dict[int, bytes]) -> Elf:
        """This file with `more` notes added."""
        self.notes = {**self.notes, **more}
        return self

    def build(self) -> bytes:
        """The file."""
        blob = b"".join(note(kind, value) for kind, value in self.notes.items())
        count = len(self.loads) + (self.notes_in == "segment")
        offset = 64 + 56 * count
        phdrs, body = [], bytearray()

        def place(data: bytes) -> int:
            body.extend(b"\0" * (-(offset + len(body)) % 16))
            at = offset + len(body)
            body.extend(data)
            return at

        for load in self.loads:
            filesz = len(load.data) if load.filesz is None else load.filesz
            at = place(load.data)
            phdrs.append(struct.pack("<IIQQQQQQ", PT_LOAD, load.flags, at, 0, load.paddr, filesz, load.memsz, 4096))
        note_at = place(blob)
        if self.notes_in == "segment":
            phdrs.append(struct.pack("<IIQQQQQQ", PT_NOTE, 4, note_at, 0, 0, len(blob), len(blob), 4))
        names = b"\0.shstrtab\0.note.Xen\0__xen_guest\0"
        sections = [(0, 0, 0, 0), (1, SHT_STRTAB, place(names), len(names))]
        if self.notes_in == "section":
            sections.append((11, SHT_NOTE, note_at, len(blob)))
        if self.guest_string is not None:
            text = self.guest_string + b"\0"
            sections.append((21, SHT_PROGBITS, place(text), len(text)))
        table = b"".join(struct.pack("<IIQQQQIIQQ", n, t, 0, 0, at, size, 0, 0, 1, 0) for n, t, at, size in sections)
        shoff = place(table)
        ident = b"\x7fELF" + bytes([self.elf_class, self.data_encoding, 1]) + bytes(9)
        header = ident + struct.pack(
            "<HHIQQQIHHHHHH", 2, self.machine, 1, self.entry, 64, shoff, 0, 64, 56, count, 64, len(sections), 1
        )
        return header + b"".join(phdrs) + bytes(body)
