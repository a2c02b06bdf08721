"""Markers for tests that need more than Python, and the reason given where that is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if not os.environ.get("CI"):  # hypothesis has a profile of its own for that: the same examples every time
    settings.register_profile("pyvmm", deadline=None)  # host time says nothing here, machines are noisy
    settings.load_profile("pyvmm")

DEBIAN = {  # package: a program or file of it whose presence means that it is installed
    "e2fsprogs": "/usr/sbin/mkfs.ext2",
    "gcc": "gcc",
    "gdb": "gdb",
    "genisoimage": "genisoimage",
    "grub-common": "grub-mkimage",
    "grub-xen-bin": "/usr/lib/grub/x86_64-xen/kernel.img",
    "iproute2": "ip",
    "iputils-ping": "ping",
    "libxen-dev": "/usr/include/xen/xen.h",
    "netcat-openbsd": "nc",
    "qemu-system-x86": "qemu-system-x86_64",
    "tcpdump": "tcpdump",
    "xen-hypervisor-4.17-amd64": "/boot/xen-4.17-amd64.gz",
    "xen-utils-4.17": "/usr/lib/xen-4.17/bin/oxenstored",
    "xenstore-utils": "xenstore-ls",
}
ORACLE = ("qemu-system-x86", "xen-hypervisor-4.17-amd64", "grub-xen-bin", "grub-common")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed here. `KeyError` for one that is not in `DEBIAN`."""
    return [name for name in packages if not (shutil.which(DEBIAN[name]) or Path(DEBIAN[name]).is_file())]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: of files that are run side by side none of those is to begin at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("oracle")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests whose `oracle` or `debian` marker asks for what is not there."""
    wanted = [name for mark in item.iter_markers("debian") for name in mark.args]
    if item.get_closest_marker("oracle"):
        wanted += ORACLE
    if lacking := missing(tuple(dict.fromkeys(wanted))):
        pytest.skip(f"needs Debian's {', '.join(lacking)}")
    if wanted and platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 host")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of a test's own; its name."""
    if not shutil.which("ip") or os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("needs root, iproute2 and /dev/net/tun")
    name = f"pv{uuid.uuid4().hex[:8]}"
    if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
