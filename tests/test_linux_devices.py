"""Debian's Linux, unmodified, with devices: its own netfront and blkfront against our back ends, in Python and in C."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
from ipaddress import ip_address
from pathlib import Path

import dpkt
import pytest

from pyvmm.backends.pcap import PcapPort
from pyvmm.host import MIB, Host
from pyvmm.toolstack.devices import Vbd, Vif
from tests import linux
from tests.backends import wire
from tests.guests.dom0_rig import Dom0Rig

pytestmark = [pytest.mark.slow, pytest.mark.debian("xen-utils-4.17", "e2fsprogs")]

FRONT_ENDS = ("crc32c_generic", "xen_blkfront", "xen_netfront", "ext4")
CMDLINE = "console=hvc0 nokaslr quiet"
BUDGET = 6_000_000_000
UP = """
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
ip link set eth0 up; ip address add $me/24 dev eth0
"""
DISKS = """
until [ -b /dev/xvda ] && [ -b /dev/xvdb ]; do sleep 0.1; done
mount -t ext4 /dev/xvda /mnt && cat /mnt/hello
dd if=/dev/urandom of=/mnt/written bs=64k count=16 2>/dev/null; echo "written $(sha256sum </mnt/written)"; umount /mnt
echo "read $(sha256sum </dev/xvdb)"
dd if=/dev/zero of=/dev/xvdb bs=512 count=1 2>/dev/null || echo "read-only"
"""
SENDS = f"""me=10.0.0.1
{UP}{DISKS}
ping -c 3 -i 0.1 -s 1400 10.0.0.2 | grep transmitted
until nc 10.0.0.2 99 </dev/xvdb; do sleep 0.1; done
echo "waiting"
until [ -b /dev/xvdc ]; do sleep 0.1; done; echo "added $(sha256sum </dev/xvdc)"
while [ -b /dev/xvdc ]; do sleep 0.1; done; echo "removed"
poweroff -f
"""
TAKES = f"""me=10.0.0.2
{UP}
nc -l -p 99 >/got; echo "taken $(sha256sum </got)"
sleep 1; poweroff -f
"""


def pattern(seed: int, size: int) -> bytes:
    """Bytes that are no pattern to anybody else."""
    return hashlib.shake_128(bytes([seed])).digest(size)


def ext4(path: Path) -> Path:
    """An image of a file system with one file in it."""
    source = path.with_suffix(".d")
    source.mkdir()
    (source / "hello").write_text("hello from the disk\n")
    path.write_bytes(bytes(16 * MIB))
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-d", source, path], check=True)
    return path


def digest_of(word: str, text: str) -> str:
    """What a guest said the SHA-256 of something is."""
    (found,) = re.findall(rf"^{word} ([0-9a-f]{{64}})", text, re.MULTILINE)
    return str(found)


def check_sums(capture: bytes) -> int:
    """How many TCP segments there are; all their sums must be right, and those of their IPv4 headers."""
    count = 0
    for _, data in dpkt.pcap.Reader(io.BytesIO(capture)):
        ip = dpkt.ethernet.Ethernet(data).data
        if isinstance(ip, dpkt.ip.IP) and ip.p == wire.TCP:
            packet = data[14 : 14 + ip.len]
            header, segment = packet[: ip.hl * 4], packet[ip.hl * 4 :]
            ends = (str(ip_address(end)) for end in (ip.src, ip.dst))
            assert wire.add_up(header) == 0 == wire.add_up(wire.pseudo(*ends, wire.TCP, len(segment)) + segment)
            count += 1
    return count


def test_two_of_them_on_our_back_ends(tmp_path: Path) -> None:
    """A file system, a read-only disk, a disk that comes and goes, and one Linux that sends 3 MB to another by TCP."""
    kernel, source = linux.kernel(), pattern(1, 3_000_320)
    image, data, later = ext4(tmp_path / "a.img"), tmp_path / "b.img", tmp_path / "c.img"
    data.write_bytes(source)
    later.write_bytes(pattern(2, 256 << 10))
    with Host(memory=640 * MIB) as host:
        host.attach_port(PcapPort(tmp_path / "all.pcap"))
        sends, takes = (
            host.create(
                kernel, name=name, memory=256 * MIB, cmdline=CMDLINE, vifs=[Vif(0)], disks=disks,
                ramdisk=linux.ramdisk(tmp_path / name, script, FRONT_ENDS),
            )
            for name, script, disks in (
                ("sends", SENDS, [Vbd(str(image), "xvda"), Vbd(str(data), "xvdb", readonly=True)]),
                ("takes", TAKES, []),
            )
        )  # fmt: skip

        def until(words: str) -> None:
            for _ in range(400):
                if words in sends.console.text:
                    return
                host.run(50_000_000)
            raise AssertionError(sends.console.text + takes.console.text)

        until("waiting")
        disk = Vbd(str(later), "xvdc", readonly=True)
        sends.attach(disk)
        until("added")
        sends.detach(disk)
        result = host.run(BUDGET)
        text, other = (domain.console.text.replace("\r", "") for domain in (sends, takes))
        assert result.exit == "poweroff", text
        assert "removed" in text and "hello from the disk" in text and "read-only" in text
        assert "3 packets transmitted, 3 packets received" in text
        assert digest_of("read", text) == digest_of("taken", other) == hashlib.sha256(source).hexdigest()
        assert digest_of("added", text) == hashlib.sha256(later.read_bytes()).hexdigest()
        assert host.services.reports == []
    written = subprocess.run(["/usr/sbin/debugfs", "-R", "cat written", image], capture_output=True, check=True).stdout
    assert hashlib.sha256(written).hexdigest() == digest_of("written", text)
    subprocess.run(["/usr/sbin/e2fsck", "-fn", image], check=True, capture_output=True)
    assert check_sums((tmp_path / "all.pcap").read_bytes()) > 2000


def test_one_that_xl_in_c_makes(tmp_path: Path) -> None:
    """The C dom0 builds it, p2m list and all, as the real tools do, and serves its disks and its network."""
    script = f"me=10.0.0.2\n{UP}{DISKS}\nping -c 3 -i 0.1 10.0.0.3 | grep transmitted\necho done\nsleep 1000\n"
    files = {
        "vmlinux": linux.vmlinux(),
        "ramdisk": linux.ramdisk(tmp_path / "ramdisk", script, FRONT_ENDS).read_bytes(),
        "a.img": ext4(tmp_path / "a.img").read_bytes(),
        "b.img": pattern(1, 1_000_448),
    }
    guest = {"name": "linux", "kernel": "vmlinux", "ramdisk": "ramdisk", "memory": 256, "cmdline": CMDLINE}
    guest["vifs"] = [{"ip": "10.0.0.2", "mac": "00:16:3e:00:00:02"}]
    guest["vbds"] = [
        {"target": "a.img", "type": "file", "vdev": "xvda", "access": "w"},
        {"target": "b.img", "type": "file", "vdev": "xvdb", "access": "r"},
    ]
    other = {
        "name": "other",
        "kernel": "daytime",
        "memory": 8,
        "vifs": [{"ip": "10.0.0.3", "mac": "00:16:3e:00:00:03"}],
    }
    files |= {"linux.json": json.dumps(guest).encode(), "other.json": json.dumps(other).encode()}
    with Dom0Rig(
        "xl", files=files, guests=["daytime"], writable=["a.img"], guest_memory=512 * MIB, budget=BUDGET
    ) as dom0:
        assert dom0("create other.json") == "created other domid 2"
        assert dom0("create linux.json").startswith("created linux domid 3")
        dom0.later(25)
        text = dom0("console 3").replace("\r", "")
        assert "done" in text, text
        assert "hello from the disk" in text and "read-only" in text
        assert "3 packets transmitted, 3 packets received" in text
        assert digest_of("read", text) == hashlib.sha256(files["b.img"]).hexdigest()
        assert "domain 3" in dom0("devices")
        assert not dom0("destroy linux").startswith("error")
        assert "domain 3" not in dom0("devices") and "linux" not in dom0("list")
