"""The archive that a dom0 finds as its module: cpio's "newc" format (cpio(5)), as of an initrd."""

from __future__ import annotations

from collections.abc import Mapping

MAGIC = b"070701"
REGULAR, READ_ONLY, WRITABLE = 0o100000, 0o444, 0o644
TRAILER = "TRAILER!!!"


def newc(files: Mapping[str, bytes], writable: frozenset[str] = frozenset()) -> bytes:
    """An archive of these files, in this order, with no dates and owners in it."""
    out = bytearray()
    for number, (name, data) in enumerate([*files.items(), (TRAILER, b"")], start=1):
        encoded = name.encode() + b"\0"
        mode = 0 if name == TRAILER else REGULAR | (WRITABLE if name in writable else READ_ONLY)
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += MAGIC + b"".join(b"%08x" % value for value in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)
