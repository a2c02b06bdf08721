"""Debian's Linux, unmodified, as a PV guest: a large kernel not written here. It reaches userland and powers off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import linux
from tests.running import pyvmm

SCRIPT = """
echo "init is running on $(uname -s -m) with $(nproc) processors"
poweroff -f
"""


@pytest.fixture(scope="module")
def kernel_and_ramdisk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The kernel package's own image, and a ramdisk of busybox and a script."""
    kernel = linux.kernel()
    return kernel, linux.ramdisk(tmp_path_factory.mktemp("linux") / "ramdisk.gz", SCRIPT)


@pytest.mark.slow
@pytest.mark.debian("xen-utils-4.17")
@pytest.mark.parametrize("vcpus", [1, 2])
def test_linux_reaches_userland(kernel_and_ramdisk: tuple[Path, Path], vcpus: int, tmp_path: Path) -> None:
    """bzImage, decompressed by us, boots through its whole PV start-up; two runs are one to the bit."""
    kernel, ramdisk = kernel_and_ramdisk
    runs = [
        pyvmm(
            "run", kernel, "--ramdisk", ramdisk, "--memory", "256M", "--vcpus", str(vcpus),
            "--cmdline", "console=hvc0 nokaslr quiet", env={"PYTHONHASHSEED": seed}, figures=tmp_path / seed,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert [run.status for run in runs] == [0, 0], runs[0].out + runs[0].err
    assert re.search(rf"init is running on Linux x86_64 with {vcpus} processors", runs[0].out)
    assert runs[0].repeatable() == runs[1].repeatable()


@pytest.mark.slow
@pytest.mark.debian("xen-utils-4.17")
def test_linux_is_dom0(tmp_path: Path) -> None:
    """In dom0's place, with the clock that it finds there, and the physical CPU that it asks Xen about."""
    script = """
echo "failed=$(dmesg | grep -c 'Failed to sync pcpu info') uuid=$(cat /sys/hypervisor/uuid)"
echo cpus=$(echo /sys/devices/system/xen_cpu/xen_cpu*)
"""
    ramdisk = linux.ramdisk(tmp_path / "ramdisk.gz", script + "poweroff -f\n")
    options = ["--dom0", "--memory", "256M", "--cmdline", "console=hvc0 nokaslr quiet"]
    run = pyvmm("run", linux.kernel(), "--ramdisk", ramdisk, *options)
    assert run.status == 0, run.out + run.err
    assert "failed=0 uuid=00000000-0000-0000-0000-000000000000" in run.out
    assert re.search(r"cpus=/sys/devices/system/xen_cpu/xen_cpu0\s", run.out)
