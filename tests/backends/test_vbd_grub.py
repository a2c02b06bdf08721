"""Debian's GRUB reads files from images through our block device, and boots a kernel from one. Not a line of ours is in
the guest; the image is made, and checked, by e2fsprogs and others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm import images
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vbd
from tests.test_grub import plain

MIB = 1 << 20
MODULES = "echo halt ls cat linux normal minicmd ext2 iso9660 test".split()

pytestmark = pytest.mark.debian("grub-common", "grub-xen-bin", "e2fsprogs")


def grub(folder: Path, script: str) -> Path:
    """A GRUB that does `script`."""
    (folder / "cfg").write_text(script)
    image = folder / "grub.bin"
    subprocess.run(
        ["grub-mkimage", "-O", "x86_64-xen", "-o", image, "-c", folder / "cfg", "-p", "/", *MODULES], check=True
    )
    return image


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "boot").mkdir(parents=True)
    (folder / "hello.txt").write_text("Read through a ring.\n")
    (folder / "long.txt").write_text("".join(f"line {i}\n" for i in range(20_000)))
    shutil.copy(images.path("hello"), folder / "boot" / "kernel")
    return folder


@pytest.fixture
def ext2(tmp_path: Path, files: Path) -> Path:
    image = tmp_path / "ext2.img"
    subprocess.run(
        ["/usr/sbin/mkfs.ext2", "-q", "-d", files, "-E", "root_owner=0:0", image, "8M"], check=True, capture_output=True
    )
    return image


def run(kernel: Path, *disks: Vbd) -> tuple[str, str]:
    """Boot it with these disks: how it ended, what it printed."""
    with Host(256 * MIB) as host:
        guest = host.create(kernel, memory=64 * MIB, disks=disks)
        result = host.run(2_000_000_000)
        assert host.services.reports == []
        return result.exit, plain(guest.console.text)


def test_a_file_on_ext2(tmp_path: Path, ext2: Path) -> None:
    before = ext2.read_bytes()
    script = "ls\nls (xen/xvda)/\ncat (xen/xvda)/hello.txt\nhalt\n"
    end, text = run(grub(tmp_path, script), Vbd(str(ext2), "xvda"))
    assert end == "poweroff"
    assert "(xen/xvda)" in text
    assert "hello.txt" in text and "long.txt" in text and "boot/" in text
    assert "Read through a ring." in text
    assert ext2.read_bytes() == before


def test_a_kernel_is_booted_from_the_disk(tmp_path: Path, ext2: Path) -> None:
    """GRUB closes the device, which the kernel that it starts could open again."""
    script = "linux (xen/xvda)/boot/kernel from the disk\nboot\n"
    end, text = run(grub(tmp_path, script), Vbd(str(ext2), "xvda", readonly=True))
    assert end == "poweroff"
    assert "Hello from a PV guest." in text and "from the disk" in text


@pytest.mark.debian("genisoimage")
def test_a_file_on_a_cd(tmp_path: Path, files: Path) -> None:
    iso = tmp_path / "cd.iso"
    subprocess.run(["genisoimage", "-quiet", "-R", "-o", iso, files], check=True, capture_output=True)
    script = "cat (xen/xvdb)/hello.txt\nhalt\n"
    end, text = run(grub(tmp_path, script), Vbd(str(iso), "xvdb", readonly=True, cdrom=True))
    assert end == "poweroff" and "Read through a ring." in text
