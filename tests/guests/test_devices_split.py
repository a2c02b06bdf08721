"""Split drivers with both ends in guests: no end is ours in Python, only the directories and the device page are.

What one end says of the run the other end's figures have to agree with; the disk's SHA-256 is computed here, too.
"""

from __future__ import annotations

import hashlib
import re

import pytest

from pyvmm.abi import devctl
from pyvmm.host import Domain, Host
from pyvmm.toolstack.xl_devices import DeviceNodes, write_device

MIB = 1 << 20
KINDS = {"net": "vif", "blk": "vbd"}
WAYS = ("xs", "noxs")
BUDGET = 1_000_000_000


class Pair:
    """A front and a back end guest on a host of their own, run to their end."""

    def __init__(self, kind: str, way: str, front: str = "", back: str = "", rounds: int = 2) -> None:
        with Host(128 * MIB) as host:
            self.host = host
            ip = "ip=10.0.0.2" if kind == "net" else ""
            self.front = self._guest("front", f"role={kind}-front rounds={rounds} {ip} {front}")
            peer = self.front.domid
            self.back = self._guest("back", f"role={kind}-back peer={peer} way={way} rounds={rounds} {back}")
            if way == "xs":
                self._write_nodes(KINDS[kind], readonly="readonly" in back)
                self._unpause(self.back)
            else:
                self._unpause(self.back)
                host.run(50_000_000)
                self._enter_device()
            self._unpause(self.front)
            self.result = host.run(BUDGET)
            self.front_text, self.back_text = self.front.console.text, self.back.console.text
            self.ends = (self.front.exit, self.back.exit)
            self.still_mapped = [len(guest.xen.grants.maptrack) for guest in (self.front, self.back)]

    def _guest(self, name: str, cmdline: str) -> Domain:
        return self.host.create("splitcheck", name=name, memory=16 * MIB, cmdline=cmdline, paused=True)

    def _unpause(self, guest: Domain) -> None:
        self.host.services.xc.domctl("unpausedomain", guest.domid)
        self.host.services.changed()

    def _write_nodes(self, kind: str, readonly: bool) -> None:
        front = {"backend-id": str(self.back.domid), "state": "1"}
        back = {"frontend-id": str(self.front.domid), "state": "1", "online": "1"}
        if kind == "vif":
            front["mac"] = "00:16:3e:00:00:02"
        else:
            back["mode"] = "r" if readonly else "w"
        write_device(self.host.xenstore, DeviceNodes(kind, self.front.domid, 0, self.back.domid, front, back))

    def _enter_device(self) -> None:
        """Do as the back end asks on its console."""
        found = re.search(r"noxs: type (\d+) id (\d+) grant (\d+) port (\d+)", self.back.console.text)
        assert found, self.back.console.text
        kind, number, grant, port = map(int, found.groups())
        entry = {"type": kind, "id": number, "be_id": self.back.domid, "comm": {"grant": grant, "evtchn": port}}
        op = devctl.xen_devctl.pack(
            version=devctl.XEN_DEVCTL_VERSION,
            cmd=devctl.XEN_DEVCTL_dev_add,
            domain=self.front.domid,
            u={"dev_add": {"dev": entry}},
        )
        api = self.host.services.api
        assert api.hypercall(devctl.HYPERVISOR_devctl, api.scratch(op)) == 0


def pattern(seed: int, sector: int) -> bytes:
    """What `blk_pattern` puts into a sector, written from its description anew."""
    mask = (1 << 64) - 1
    state = (seed * 0x9E3779B97F4A7C15 + sector * 0xD1342543DE82EF95 + 1) & mask
    out = bytearray()
    for _ in range(64):
        state ^= state << 13 & mask
        state ^= state >> 7
        state ^= state << 17 & mask
        out += state.to_bytes(8, "little")
    text = f"sector {sector:08} seed {seed:08}".encode()[:31] + b"\0"
    out[: len(text)] = text
    return bytes(out)


NET_VARIANTS = {
    "plain": ("", ""),
    "checksums-left-to-the-other-end": ("blank", "blank"),
    "offload-refused": ("blank", "no-offload"),
    "frames-in-parts": ("split=42", "split=60"),
    "two-ports": ("", "split-channels"),
}


@pytest.mark.parametrize("variant", NET_VARIANTS)
@pytest.mark.parametrize("way", WAYS)
def test_network(way: str, variant: str) -> None:
    """Two connections, a ping and 50 datagrams of all sizes each; everything comes back, all is unmapped at the end."""
    front, back = NET_VARIANTS[variant]
    pair = Pair("net", way, front, back)
    assert "splitcheck: passed, 0 bad sums, 0 errors, 0 wrong" in pair.front_text, pair.front_text + pair.back_text
    assert "ok   round 1: 50 packets" in pair.front_text and "ok   round 2: 100 packets" in pair.front_text
    assert f"over {way}" in pair.front_text
    counts = re.search(
        r"netback: (\d+) frames in, (\d+) with their sum left to us, (\d+) out, 0 dropped", pair.back_text
    )
    assert counts
    frames_in, blank, frames_out = map(int, counts.groups())
    assert frames_in == frames_out == 2 * 51 + 1  # the ARP request is asked once: the address is remembered
    assert blank == (100 if variant == "checksums-left-to-the-other-end" else 0)
    assert pair.ends == ("poweroff", "poweroff") and pair.still_mapped == [0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_back_end_closes_the_device_and_returns(way: str) -> None:
    """The front end follows: it takes everything back, waits to be invited, connects again and goes on."""
    pair = Pair("net", way, back="bossy=20")
    assert "splitcheck: the back end closed the device" in pair.front_text
    assert "splitcheck: passed" in pair.front_text, pair.front_text + pair.back_text
    assert pair.ends == ("poweroff", "poweroff") and pair.still_mapped == [0, 0]


@pytest.mark.parametrize("indirect", [0, 32])
@pytest.mark.parametrize("way", WAYS)
def test_disk(way: str, indirect: int) -> None:
    """Write, verify, flush, discard, errors, twice; the digest is that of the patterns as computed here."""
    sectors = 520
    pair = Pair("blk", way, back=f"sectors={sectors} indirect={indirect}")
    assert "splitcheck: passed" in pair.front_text and "FAIL" not in pair.front_text, pair.front_text + pair.back_text
    expected = [hashlib.sha256(b"".join(pattern(seed, n) for n in range(sectors))).hexdigest() for seed in (5, 6)]
    assert re.findall(r"sha256 (\w+)", pair.front_text) == expected
    requests, tables = map(int, re.search(r"passed, (\d+) requests, (\d+) indirect", pair.front_text).groups())  # type: ignore[union-attr]
    assert f"blkback: {requests} requests" in pair.back_text
    assert (tables > 0) == (indirect > 0)
    assert pair.ends == ("poweroff", "poweroff") and pair.still_mapped == [0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_read_only_disk(way: str) -> None:
    """It can be read, and nothing else."""
    pair = Pair("blk", way, back="sectors=256 readonly", rounds=1)
    assert "ok   write to a read-only disk is refused" in pair.front_text
    assert "splitcheck: passed" in pair.front_text
    assert hashlib.sha256(bytes(256 * 512)).hexdigest() in pair.front_text


NET_BREACHES = {
    "tx-prod": "transmit ring: rsp_prod 1005",
    "rx-prod": "receive ring: rsp_prod 1005",
    "tx-id": "transmit ring: rsp_prod 6",
    "rx-id": "receive response for id 999, which was not posted",
    "rx-length": "receive response of 97 bytes at 4000 of a page",
    "rx-offset": "receive response of 32767 bytes at 65535 of a page",
    "rx-chain": "receive ring: a frame's last slot is missing",
    "rx-extra": "receive response with flags 8",
}
BLK_BREACHES = {
    "prod": "ring: rsp_prod 10",
    "id": "response for id 18446744069414584320",
    "idle-id": "response for id 31",
    "operation": "response for id 5, operation 0",
}


@pytest.mark.parametrize("kind, breach", [("net", b) for b in NET_BREACHES] + [("blk", b) for b in BLK_BREACHES])
@pytest.mark.parametrize("way", WAYS)
def test_a_back_end_that_breaks_the_rules(way: str, kind: str, breach: str) -> None:
    """The front end says what is wrong, once, closes the device in good order and takes everything back."""
    pair = Pair(kind, way, back=f"evil={breach}", rounds=1)
    reports = re.findall(r"(\w+) 0 over (\w+): the back end is at fault: (.*)", pair.front_text)
    assert len(reports) == 1 and reports[0][:2] == (KINDS[kind], way)
    assert reports[0][2].startswith((NET_BREACHES | BLK_BREACHES)[breach])
    assert "splitcheck: failed" in pair.front_text and "panic" not in pair.front_text
    assert pair.ends == ("poweroff", "poweroff") and pair.still_mapped == [0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_frames_and_states_that_are_none(way: str) -> None:
    """A response that tells of an error costs that frame; a state that is none is a back end that is gone."""
    pair = Pair("net", way, back="evil=rx-error", rounds=1)
    assert "0 bad sums, 1 errors, 0 wrong" in pair.front_text and "fault" not in pair.front_text
    pair = Pair("net", way, back="evil=state", rounds=2)
    assert "the back end closed the device" in pair.front_text and pair.front.exit == "poweroff"


def test_noxs_needs_no_store() -> None:
    """Over noxs the front end sends the store nothing: it never rings the store's port."""
    pair = Pair("net", "noxs", rounds=1)
    sent = pair.result.domain("front").hypercalls
    assert sent["devctl"] == 1 and "splitcheck: passed" in pair.front_text


def test_same_image_same_run() -> None:
    """Both ways are deterministic: run again, the stream of events is the same."""
    for way in WAYS:
        assert Pair("net", way, rounds=1).result.digest == Pair("net", way, rounds=1).result.digest
