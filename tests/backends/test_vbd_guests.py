"""`blkcheck`, real code with our C front end, against our back end, over the XenStore and over noxs: what it wrote is
in the image, what was flushed survives the death of the host's process, and nothing is left."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.errors import ConfigError
from pyvmm.host import Host
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.trace import Event
from pyvmm.toolstack.devices import Vbd
from pyvmm.xenbus.devices import Key
from tests.test_host import leave

MIB = 1 << 20
SIZE = 256 * 1024
GOOD = " 0 failed checks"
WAYS = {"xenstore": "blk=xs", "noxs": "blk=noxs"}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


def check(host: Host, image: Path, negotiation: str, options: str = "", readonly: bool = False) -> str:
    """Run it to its end; what it printed."""
    guest = host.create(
        "blkcheck",
        memory=16 * MIB,
        cmdline=f"{WAYS[negotiation]} {options}".strip(),
        disks=[Vbd(str(image), "xvda", readonly=readonly)],
        negotiation=negotiation,
    )
    result = host.run(500_000_000)
    text = guest.console.text
    assert result.exit == "poweroff", text + (guest.crash_report or "")
    guest.destroy()
    return text


def digest_in(text: str) -> str:
    found = re.search(r"\b[0-9a-f]{64}\b", text)
    assert found, text
    return found[0]


@pytest.mark.parametrize("negotiation", WAYS)
def test_patterns_and_their_digest(image: Path, negotiation: str) -> None:
    """The digest that the guest says is the one that another program makes of the file; then the same again."""
    with Host(128 * MIB) as host:
        check(host, image, negotiation, readonly=True)  # what is kept for speed is there now
        before = leave(host)
        for options in ("seed=5 close", "seed=5 verify"):
            text = check(host, image, negotiation, options)
            assert GOOD in text, text
            if shutil.which("sha256sum"):
                told = subprocess.run(["sha256sum", image], capture_output=True, text=True, check=True).stdout
                assert digest_in(text) == told.split()[0]
            assert digest_in(text) == hashlib.sha256(image.read_bytes()).hexdigest()
        assert host.services.reports == []
        assert leave(host) == before


@pytest.mark.parametrize("negotiation", WAYS)
def test_a_read_only_disk_stays_as_it_is(image: Path, negotiation: str) -> None:
    before = image.read_bytes()
    with Host(128 * MIB) as host:
        text = check(host, image, negotiation, readonly=True)
    assert "read-only" in text and GOOD in text and image.read_bytes() == before


def test_noxs_needs_no_store_messages(image: Path) -> None:
    """Over noxs the guest sends the store nothing; over the XenStore, dozens."""
    counts = {}
    for negotiation in WAYS:
        with Host(128 * MIB) as host:
            events: list[Event] = []
            host.hypervisor.trace.listen(events.append)
            check(host, image, negotiation, "seed=1")
            counts[negotiation] = sum(event.kind is trace.XS_REQUEST and event.domid > 0 for event in events)
    assert counts["noxs"] == 0 and counts["xenstore"] > 10, counts


def test_the_same_run_twice(image: Path) -> None:
    first = image.read_bytes()
    digests = []
    for negotiation in ("xenstore", "xenstore", "noxs", "noxs"):
        image.write_bytes(first)
        with Host(128 * MIB) as host:
            check(host, image, negotiation, "seed=9")
            digests.append(host.result("poweroff").digest)
    assert digests[0] == digests[1] and digests[2] == digests[3]


KILLED = """
import sys
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vbd
with Host(128 << 20) as host:
    guest = host.create("blkcheck", memory=16 << 20, cmdline="seed=4 flushes=100000", disks=[Vbd(sys.argv[1], "xvda")])
    said = 0
    while True:
        host.run(200_000)
        print(guest.console.text[said:], end="", flush=True)
        said = len(guest.console.text)
"""


def test_what_was_flushed_is_there_after_a_kill(image: Path) -> None:
    """The host's process is killed in the middle; every sector that the guest had called safe holds its pattern."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(image)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    safe = []
    for line in process.stdout:
        if line.startswith("safe: sector "):
            safe.append(int(line.split()[-1]))
        if len(safe) >= 40:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(safe) == 40
    first, last = min(safe), max(safe)
    with Host(128 * MIB) as host:
        text = check(host, image, "xenstore", f"seed=4 verify first={first} count={last - first + 1}")
    assert GOOD in text, text


@pytest.mark.parametrize("negotiation", WAYS)
def test_attach_and_detach(image: Path, negotiation: str) -> None:
    """A disk that a paused guest does not use yet comes and goes."""
    with Host(128 * MIB) as host:
        guest = host.create("noop", memory=8 * MIB, negotiation=negotiation)
        host.run(5_000_000)
        before = leave(host)
        disk = Vbd(str(image), "xvdb")
        for _ in range(2):
            guest.attach(disk)
            host.run(1_000_000)
            services = host.services
            devices = {**services.store_backends.devices, **services.page_backends.devices}
            assert Key("vbd", guest.domid, disk.devid) in devices
            with pytest.raises(ConfigError, match="already"):
                guest.attach(disk)
            guest.detach(disk)
            host.run(1_000_000)
            assert leave(host)[1:] == before[1:]
            with pytest.raises(ConfigError, match="has no"):
                guest.detach(disk)


@pytest.mark.parametrize("negotiation", WAYS)
def test_a_disk_that_is_not_there(tmp_path: Path, negotiation: str) -> None:
    """A guest with it is not made, and one that is there goes on without it. The same for formats that are none."""
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    bad = {
        "No such file": Vbd(str(tmp_path / "none"), "xvda"),
        "only raw images": Vbd(str(image), "xvda", format="qcow2"),
        "a target of at most": Vbd("x" * 3000, "xvda"),
    }
    with Host(128 * MIB) as host:
        host.create("noop", memory=8 * MIB, negotiation=negotiation).destroy()
        before = leave(host)
        for why, disk in bad.items():
            with pytest.raises(ConfigError, match=why) as caught:
                host.create("noop", memory=8 * MIB, disks=[disk], negotiation=negotiation)
            assert caught.value.about == "disk xvda" and leave(host)[1:] == before[1:]
        guest = host.create("noop", memory=8 * MIB, negotiation=negotiation)
        host.run(5_000_000)
        before = leave(host)
        for why, disk in bad.items():
            with pytest.raises(ConfigError, match=why):
                guest.attach(disk)
            host.run(1_000_000)
            assert leave(host)[1:] == before[1:]
        guest.attach(Vbd(str(image), "xvda"))
        assert not image.read_bytes().strip(b"\0")


def test_a_drive_may_be_empty() -> None:
    with Host(128 * MIB) as host:
        host.create("noop", memory=8 * MIB, disks=[Vbd("", "hdc", readonly=True, cdrom=True)])
        assert [report.cause for report in host.services.reports] == ["no medium in the drive"]


def test_another_negotiation() -> None:
    with Host(128 * MIB) as host, pytest.raises(ConfigError, match="xenstore or noxs"):
        host.create("noop", negotiation="smoke")
