"""Kernels and ramdisks as bytes: shipped images by name, files by path."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pyvmm import images
from pyvmm.errors import ImageError

READ_SIZE = 16 << 20  # of a file at a time: one that grows must not take all memory first
LARGEST = 1 << 30  # bytes of a kernel or ramdisk
ABOUT = {"image": "kernel", "ramdisk": "ramdisk"}  # what a file is, and the setting that names it


def load(image: str | Path) -> tuple[bytes, str]:
    """The kernel's bytes, and what to call it: a shipped image by its name, else the file as it was given.
    `ImageError`."""
    if isinstance(image, str) and "/" not in image and image in images.names():
        return read(images.path(image), "image"), image
    if isinstance(image, str) and "/" not in image and (not image or not Path(image).exists()):
        raise ImageError(f"no file {image}, and no shipped image of that name; there are: {', '.join(images.names())}")
    return read(Path(image), "image"), str(image)


def read(path: Path, what: str) -> bytes:
    """A file of the user's; `what`: "image" or "ramdisk". `ImageError` for what is no file, cannot be read or is too
    large."""
    try:
        # Not blocking, for the other end of a named pipe may never come.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"cannot read the {what} {path}: it is no regular file", about=ABOUT[what])
            chunks: list[bytes] = []
            while (chunk := file.read(READ_SIZE)) and len(chunks) * READ_SIZE <= LARGEST:
                chunks.append(chunk)
            data = b"".join(chunks)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"cannot read the {what} {path}: {why}", about=ABOUT[what]) from None
    if len(data) > LARGEST:
        raise ImageError(f"the {what} {path} is larger than {LARGEST >> 20} MiB", about=ABOUT[what])
    return data


__all__ = ["load", "read"]
