"""Debian's Linux, unmodified, for tests: its kernel, and ramdisks of busybox, kernel modules and a script."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from pyvmm.hypervisor.unpack import unwrap
from tests.oracle import xen

BUSYBOX = "/bin/busybox"
PRELUDE = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
"""


def kernel() -> Path:
    """The kernel package's own image; skips the test where there is none."""
    try:
        image, _ = xen.linux()
    except xen.Missing as missing:
        pytest.skip(f"needs {missing}")
    if not xen.BUSYBOX.exists():
        pytest.skip("needs Debian's busybox-static")
    return image


def vmlinux() -> bytes:
    """The ELF file in it."""
    return unwrap(kernel().read_bytes(), "vmlinuz")


def ramdisk(path: Path, script: str, modules: Iterable[str] = ()) -> Path:
    """A ramdisk that loads the modules, and those that they need, and runs `script`."""
    _, folder = xen.linux()
    found = {each.stem.replace("-", "_"): each for each in folder.glob("kernel/**/*.ko")}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in found and name not in order:  # what is not found is built in
            match = re.search(rb"(?:^|\0)depends=([^\0]*)\0", found[name].read_bytes())
            for other in match[1].decode().split(",") if match else []:
                add(other.replace("-", "_"))
            order[name] = found[name]

    for name in modules:
        add(name)
    insert = "".join(f"insmod /modules/{name}.ko\n" for name in order)
    files = {"init": (PRELUDE + insert + script).encode(), "bin/busybox": xen.BUSYBOX.read_bytes()}
    files |= {f"{name}/.keep": b"" for name in ("proc", "sys", "dev", "mnt")}
    files |= {f"modules/{name}.ko": each.read_bytes() for name, each in order.items()}
    path.write_bytes(gzip.compress(xen.archive(files), mtime=0))
    return path
