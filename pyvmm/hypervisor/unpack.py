"""What a kernel file may be wrapped in: a compression, Linux's bzImage around a compressed ELF.

Sources: Linux's Documentation/arch/x86/boot.rst (the boot header: offsets of `HdrS`, `setup_sects`,
`payload_offset`, `payload_length`, and that the payload's last four bytes hold its uncompressed size), RFC 1952, LZ4's
frame format description (the legacy frame) and each format's magic number.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from pyvmm.errors import ImageError

LIMIT = 1 << 30  # bytes; what libxc allows a kernel or a ramdisk to unpack to

GZIP = b"\x1f\x8b"
LZ4 = b"\x02\x21\x4c\x18"
BOOT_MAGIC, BOOT_MAGIC_AT = b"HdrS", 0x202
SETUP_SECTS_AT, BOOT_VERSION_AT, PAYLOAD_AT = 0x1F1, 0x206, 0x248
PAYLOAD_SINCE = 0x208  # boot protocol 2.08 introduced payload_offset and payload_length
SECTOR = 512


class _Decoder(Protocol):
    """What Python's decompressors have in common. `eof` is true when the end of the compressed stream was seen."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes | bytearray: ...


class _Zstd:
    """Zstandard (RFC 8878): the first frame."""

    WINDOW = 1 << 27  # bytes; `zstd --ultra -22`, which Linux is packed with, asks for so many
    STEP = 1024  # bytes at a time: a few can become 128 KiB, and what comes is looked at

    def __init__(self) -> None:
        import zstandard

        self._error: type[Exception] = zstandard.ZstdError
        self._decoder = zstandard.ZstdDecompressor(max_window_size=self.WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    def decompress(self, data: bytes, max_length: int, /) -> bytearray:
        out, at = bytearray(), 0
        try:
            while at < len(data) and not self.eof and len(out) < max_length:
                out += self._decoder.decompress(data[at : at + self.STEP])
                at += self.STEP
        except self._error as error:
            raise ValueError(error) from None
        return out


class _Lz4:
    """LZ4's legacy frame, as `lz4 -l` and Linux's build write it: blocks, each with its compressed size before it. In a
    bzImage what follows them are four bytes that hold the size of it all."""

    BLOCK = 8 << 20  # bytes that a block unpacks to, at most

    def __init__(self) -> None:
        self.eof = False

    def decompress(self, data: bytes, max_length: int, /) -> bytearray:
        import lz4.block

        out, at = bytearray(), 0
        while len(out) < max_length:
            word, at = data[at : at + 4], at + 4
            if word == LZ4:  # at the beginning, or where files were put together
                continue
            n = int.from_bytes(word, "little")
            if not word or (at == len(data) and n == len(out)):
                self.eof = True
                break
            if len(word) == 4 and at == len(data):
                raise ValueError("the size at its end is another one")
            if len(word) < 4 or at + n > len(data):
                break
            try:
                block = lz4.block.decompress(data[at : at + n], uncompressed_size=self.BLOCK)
            except lz4.block.LZ4BlockError as error:
                raise ValueError(error) from None
            if not block:
                raise ValueError("a block of nothing")
            out += block
            at += n
        return out


# (magic number, name, what unpacks it; None where there is no decoder for it)
FORMATS: tuple[tuple[bytes, str, Callable[[], _Decoder] | None], ...] = (
    (GZIP, "gzip", lambda: zlib.decompressobj(wbits=31)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", "lzma", lzma.LZMADecompressor),
    (b"\x89LZO", "lzo", None),
    (LZ4, "lz4", _Lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _Zstd),
)


def decompress(data: bytes, path: str) -> bytes:
    """`data` unpacked once if it begins with a known compression's magic number, else as it is; what comes after the
    first stream (of lz4: the last) is left. `ImageError` when it is damaged, unpacks to more than `LIMIT` bytes, or is
    of a kind that cannot be unpacked here."""
    for magic, name, decoder in FORMATS:
        if data.startswith(magic):
            if decoder is None:
                raise ImageError(f"{path}: compressed with {name}, which is not supported; unpack it first")
            unpack = decoder()
            try:
                out = unpack.decompress(data, LIMIT + 1)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise ImageError(f"{path}: damaged {name} data: {error}") from None
            if len(out) > LIMIT:
                raise ImageError(f"{path}: unpacks to more than {LIMIT >> 20} MiB")
            if not unpack.eof:
                raise ImageError(f"{path}: damaged {name} data: it ends too early")
            return bytes(out)
    return data


def payload(data: bytes, path: str) -> bytes:
    """The compressed kernel inside a bzImage, or `data` itself when it is not one."""
    if len(data) < PAYLOAD_AT + 8 or data[BOOT_MAGIC_AT : BOOT_MAGIC_AT + 4] != BOOT_MAGIC:
        return data
    (version,) = struct.unpack_from("<H", data, BOOT_VERSION_AT)
    if version < PAYLOAD_SINCE:
        raise ImageError(
            f"{path}: a bzImage of boot protocol {version >> 8}.{version & 0xFF:02}, which has no payload to boot"
        )
    setup_sectors = data[SETUP_SECTS_AT] or 4  # 0 stands for 4
    offset, length = struct.unpack_from("<II", data, PAYLOAD_AT)
    start = (setup_sectors + 1) * SECTOR + offset
    if not length or start + length > len(data):
        raise ImageError(f"{path}: a truncated bzImage: its payload is not in the file")
    return data[start : start + length]


def unwrap(data: bytes, path: str) -> bytes:
    """The ELF file in `data`: a compressed kernel or a bzImage is unpacked, anything else comes back unchanged."""
    return decompress(payload(decompress(data, path), path), path)
