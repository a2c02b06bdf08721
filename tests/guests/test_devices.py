"""The guests' front ends against our back ends, over XenStore and over noxs: daytime, echo, blkcheck, sysctl, noop."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm.backends.ports import PythonPort
from pyvmm.host import Domain, Host
from pyvmm.toolstack.devices import Vbd, Vif
from pyvmm.xenbus.devices import Key
from tests.backends import wire
from tests.guests.test_devices_split import pattern

MIB = 1 << 20
WAYS = ("xs", "noxs")
BUDGET = 2_000_000_000
ME, ME_MAC = "10.0.0.1", wire.mac("02:00:00:00:00:01")
ROOT = Path(__file__).parents[2]


MAC, IP = "00:16:3e:00:00:02", "10.0.0.2"


class Rig:
    """A host whose guests get their devices one way or the other, and a station of ours on its switch."""

    def __init__(self, host: Host, way: str) -> None:
        self.host = host
        self.way = way
        self.port = PythonPort("me")
        host.attach_port(self.port)

    def guest(
        self,
        image: str,
        cmdline: str = "",
        *,
        name: str | None = None,
        vif: tuple[str, str] | None = None,
        disk: Path | None = None,
        readonly: bool = False,
    ) -> Domain:
        """A guest of 16 MiB. `vif`: MAC and IP address. Nobody tells it which way: it finds out."""
        return self.host.create(
            image,
            name=name,
            memory=16 * MIB,
            cmdline=cmdline,
            vifs=[Vif(0, mac=vif[0], ip=vif[1])] if vif else [],
            disks=[Vbd(str(disk), "xvda", readonly=readonly)] if disk else [],
            negotiation="noxs" if self.way == "noxs" else "xenstore",
        )

    def ask(self, frame: bytes) -> bytes | None:
        """Send a frame, let the guests run, and return what came back."""
        self.port.send(frame)
        self.host.run(BUDGET)
        return self.port.receive()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Over what."""
    return str(request.param)


def sums_are_right(frame: bytes) -> bool:
    """An IPv4 frame's header checksum and, for UDP, that of its contents."""
    size = (frame[14] & 15) * 4
    length = int.from_bytes(frame[16:18], "big")
    header, body = frame[14 : 14 + size], frame[14 + size : 14 + length]
    good = wire.add_up(header) == 0
    if header[9] == wire.UDP:
        ends = ".".join(map(str, header[12:16])), ".".join(map(str, header[16:20]))
        good &= wire.add_up(wire.pseudo(*ends, wire.UDP, len(body)) + body) == 0
    elif header[9] == wire.ICMP:
        good &= wire.add_up(body) == 0
    return good


@pytest.mark.parametrize("options", ["", "blank", "split=40", "close=1"])
def test_daytime(way: str, options: str) -> None:
    """ARP, ping and RFC 867 answers of a guest, with correct checksums whoever computes them, before and after its
    device was closed and connected again."""
    guest_mac = "00:16:3e:00:00:02"
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("daytime", f"count=2 {options}", name="daytime", vif=(guest_mac, "10.0.0.2"))
        to = wire.mac(guest_mac)
        host.run(BUDGET)  # it boots
        arp = rig.ask(wire.arp_request(ME_MAC, ME, "10.0.0.2"))
        assert arp is not None and arp[:12] == ME_MAC + to and arp[12:22].hex() == "08060001080006040002"
        assert arp[22:32] == to + bytes([10, 0, 0, 2])
        payload = bytes(range(200)) * 3
        pong = rig.ask(wire.ip(to, ME_MAC, ME, "10.0.0.2", wire.ICMP, wire.ping(payload)))
        assert pong is not None and pong[34] == 0 and payload in pong and sums_are_right(pong)
        for ports in ((4000, 13), (4001, 13)):
            answer = rig.ask(wire.ip(to, ME_MAC, ME, "10.0.0.2", wire.UDP, wire.udp(ME, "10.0.0.2", ports, b"?")))
            assert answer is not None and sums_are_right(answer)
            assert answer[34:38] == (13).to_bytes(2, "big") + ports[0].to_bytes(2, "big")
            text = answer[42:].decode()
            seconds = host.hypervisor.wallclock[0] + host.machine.now // 10**9
            written = time.strptime(text.strip(), "%A, %B %d, %Y %H:%M:%S-UTC")
            assert text.endswith("\r\n") and abs(time.mktime(written) - time.timezone - seconds) < 120
        assert guest.exit == "poweroff" and "daytime: 2 answers" in guest.console.text
        assert f"over {way}" in guest.console.text
        assert ("connected again" in guest.console.text) == (options == "close=1")
        assert host.services.reports == []


@pytest.mark.parametrize(("asked", "size"), [("1", 14), ("13", 14), ("14", 0), ("4096", 0), ("4097", 4096)])
def test_a_split_that_cannot_be(way: str, asked: str, size: int) -> None:
    """A first part too small for an Ethernet header, or too large for a slot, is not used: the guest says so once, and
    its frames arrive."""
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("daytime", f"split={asked}", vif=(MAC, IP))
        host.run(BUDGET)
        assert rig.ask(wire.arp_request(ME_MAC, ME, IP)) is not None
        said = f"net: split={asked} cannot be, it is {size}: the first slot holds 14 to 4096 bytes"
        assert guest.console.text.count(said) == guest.console.text.count("net: split=") == int(size > 0)
        assert host.services.reports == []


def test_daytime_ignores_what_is_broken(way: str) -> None:
    """Wrong checksums, lengths that lie, fragments, other people's frames: no answer, and no harm."""
    guest_mac = "00:16:3e:00:00:02"
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("daytime", "count=1", name="daytime", vif=(guest_mac, "10.0.0.2"))
        to = wire.mac(guest_mac)
        query = wire.udp(ME, "10.0.0.2", (4000, 13), b"?")
        good = wire.ip(to, ME_MAC, ME, "10.0.0.2", wire.UDP, query)
        host.run(BUDGET)
        bad = {
            "header sum": good[:24] + bytes([good[24] ^ 1]) + good[25:],
            "udp sum": good[:40] + bytes([good[40] ^ 1]) + good[41:],
            "udp length": good[:38] + b"\xff\xff" + good[40:],
            "total length": wire.ether(to, ME_MAC, 0x800, b"\x45\0\xff\xff" + bytes(16)),
            "header length": wire.ether(to, ME_MAC, 0x800, b"\x41" + bytes(40)),
            "version": wire.ether(to, ME_MAC, 0x800, b"\x65" + bytes(40)),
            "fragment": wire.ip(to, ME_MAC, ME, "10.0.0.2", wire.UDP, query, fragment=0x2000),
            "not ours": wire.ip(to, ME_MAC, ME, "10.0.0.3", wire.UDP, query),
            "another port": wire.ip(to, ME_MAC, ME, "10.0.0.2", wire.UDP, wire.udp(ME, "10.0.0.2", (4000, 14), b"?")),
            "type": wire.ether(to, ME_MAC, 0x1234, bytes(60)),
            "short": to + ME_MAC + b"\x08\0",
        }
        for name, frame in bad.items():
            assert rig.ask(frame) is None, name
        answer = rig.ask(good)
        assert answer is not None and sums_are_right(answer) and guest.exit == "poweroff"


def test_echo_between_guests(way: str) -> None:
    """A client and a server on one switch: every datagram comes back as it was sent, and both count the same."""
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        server = rig.guest("echo", "count=300", name="server", vif=("00:16:3e:00:00:02", "10.0.0.2"))
        client = rig.guest(
            "echo", "to=10.0.0.2 count=300 size=1000 window=16", name="client", vif=("00:16:3e:00:00:03", "10.0.0.3")
        )
        result = host.run(BUDGET)
        assert result.exit == "poweroff"
        assert "echo: 300 sent, 300 back, 0 lost, 0 wrong" in client.console.text
        assert "echo: 300 datagrams" in server.console.text
        for guest in (server, client):
            assert re.search(r"echo: 30\d frames in, 30\d out, 0 bad sums, 0 errors", guest.console.text)
        assert host.services.reports == []


def test_devices_come_and_go(way: str) -> None:
    """A guest without a device waits for one; when it is taken away it lets go of all of it, and takes the next one."""
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("daytime", f"wait net={way} count=3", name="daytime")
        host.run(BUDGET)
        assert "daytime: no network device" in guest.console.text
        query = wire.ip(wire.mac(MAC), ME_MAC, ME, IP, wire.UDP, wire.udp(ME, IP, (4000, 13), b"?"))
        vif = Vif(0, mac=MAC, ip=IP)
        mapped = len(guest.xen.grants.maptrack)  # over noxs: the sysctl device's control page
        for times in (1, 2):
            guest.attach(vif)
            host.run(BUDGET)
            answer = rig.ask(query)
            assert answer is not None and sums_are_right(answer)
            guest.detach(vif)
            host.run(BUDGET)
            assert guest.console.text.count("the device is gone") == times
            assert rig.ask(query) is None
            assert len(guest.xen.grants.maptrack) == mapped
        guest.attach(vif)
        host.run(BUDGET)
        assert rig.ask(query) is not None
        assert guest.exit == "poweroff" and host.services.reports == []


def lose(host: Host, guest: Domain, vif: Vif, how: str) -> None:
    """The guest's network device is gone without a handshake: removed by force, or with its back end."""
    if how == "force":
        guest.detach(vif, force=True)
    elif guest.negotiation == "noxs":
        host.services.page_backends.close()  # all devices: that of the toolstack, too
    else:
        host.services.store_backends.drop(Key("vif", guest.domid, vif.devid))  # its directories stay
    host.services.changed()


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("how", ["force", "death"])
@pytest.mark.parametrize("image", ["daytime", "echo"])
def test_a_device_that_vanished_is_replaced(way: str, image: str, how: str, at_once: bool) -> None:
    """Without a handshake a device goes and another one of its name comes, whether the guest runs in between or not: it
    answers again, with the new one's address, and holds no more than before."""
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest(image, "wait" if image == "daytime" else "", vif=(MAC, IP))
        host.run(BUDGET)
        arp = wire.arp_request(ME_MAC, ME, IP)
        answer = rig.ask(arp)
        assert answer is not None and answer[6:12] == wire.mac(MAC)
        old, held = Vif(0, mac=MAC, ip=IP), None
        for times in range(3):
            lose(host, guest, old, how)
            if not at_once:
                host.run(BUDGET)
                assert rig.ask(arp) is None
            mac = f"00:16:3e:00:01:{times:02x}"
            old = Vif(0, mac=mac, ip=IP)
            guest.attach(old)
            host.run(BUDGET)
            answer = rig.ask(arp)
            assert answer is not None and answer[6:12] == wire.mac(mac), times
            holds = len(guest.xen.grants.maptrack), len(guest.xen.evtchn.ports), host.hypervisor.frames.free_count
            held = held or holds
            assert holds == held
        assert guest.exit is None and host.services.reports == []


@pytest.mark.parametrize("later", [False, True])
def test_a_device_is_replaced_at_any_moment(way: str, later: bool) -> None:
    """So it is wherever in its handshake the guest is when that happens, and wherever it is when the next one comes."""
    with Host(128 * MIB, digest=False) as host:
        rig = Rig(host, way)
        vif = Vif(0, mac=MAC, ip=IP)
        guest = rig.guest("daytime", "wait", vif=(MAC, IP))
        arp = wire.arp_request(ME_MAC, ME, IP)
        for position in range(500, 100_000 if way == "xs" else 13_000, 977 if way == "xs" else 131):
            host.run(BUDGET)
            guest.detach(vif, force=True)
            host.run(BUDGET)
            guest.attach(vif)
            host.run(position)
            guest.detach(vif, force=True)
            if later:
                host.run(position * 7 % 3001)
            guest.attach(vif)
            host.run(BUDGET)
            assert rig.ask(arp) is not None, position


def image(path: Path, sectors: int) -> Path:
    """An empty image."""
    path.write_bytes(bytes(sectors * 512))
    return path


@pytest.mark.parametrize("options", ["", "close"])
def test_blkcheck(way: str, options: str, tmp_path: Path) -> None:
    """The guest's SHA-256, the file's as another program computes it, and that of the patterns all agree."""
    sectors, seed = 1000, 7
    disk = image(tmp_path / "disk", sectors)
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("blkcheck", f"seed={seed} {options}", name="blkcheck", disk=disk)
        result = host.run(BUDGET)
        text = guest.console.text
        assert result.exit == "poweroff" and "FAIL" not in text, text
        assert "0 failed checks" in text and f"over {way}: {sectors} sectors" in text
        assert host.services.reports == []
    (said,) = re.findall(r"sha256 (\w+)", text)
    outside = subprocess.run(["sha256sum", disk], capture_output=True, text=True, check=True).stdout.split()[0]
    assert said == outside == hashlib.sha256(b"".join(pattern(seed, n) for n in range(sectors))).hexdigest()
    with Host(128 * MIB) as host:
        guest = Rig(host, way).guest("blkcheck", f"seed={seed} verify", disk=disk)
        host.run(BUDGET)
        assert "ok   verify" in guest.console.text and "0 failed checks" in guest.console.text


def test_blkcheck_notices_what_is_wrong(way: str, tmp_path: Path) -> None:
    """A sector that somebody else wrote to is found."""
    disk = image(tmp_path / "disk", 64)
    disk.write_bytes(b"".join(pattern(3, n) for n in range(64)))
    with disk.open("r+b") as file:
        file.seek(17 * 512 + 100)
        file.write(b"!")
    with Host(128 * MIB) as host:
        guest = Rig(host, way).guest("blkcheck", "seed=3 verify", disk=disk)
        host.run(BUDGET)
        assert "blk: sector 17 is not what was written" in guest.console.text
        assert "FAIL verify" in guest.console.text and "1 failed checks" in guest.console.text


def test_blkcheck_on_a_read_only_disk(way: str, tmp_path: Path) -> None:
    """Nothing can be written, and nothing is."""
    disk = image(tmp_path / "disk", 64)
    with Host(128 * MIB) as host:
        guest = Rig(host, way).guest("blkcheck", disk=disk, readonly=True)
        host.run(BUDGET)
        assert "ok   write to a read-only disk is refused" in guest.console.text
        assert "0 failed checks" in guest.console.text and ", read-only" in guest.console.text
    assert disk.read_bytes() == bytes(64 * 512)


KILLED = """
import os, sys
from pathlib import Path
from pyvmm.host import Host
from tests.guests.test_devices import Rig
host = Host(128 << 20)
guest = Rig(host, sys.argv[1]).guest("blkcheck", "seed=9 flushes=400", name="g", disk=Path(sys.argv[2]))
while guest.console.text.count("safe: sector") < 100:
    host.run(50_000)
print(guest.console.text, flush=True)
os._exit(9)
"""


def test_what_was_flushed_is_on_the_disk(way: str, tmp_path: Path) -> None:
    """The process that runs the host ends without warning: all that the guest was told is safe is in the file."""
    disk = image(tmp_path / "disk", 400)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, way, disk], capture_output=True, text=True, cwd=ROOT, timeout=120, env=os.environ
    )
    assert done.returncode == 9, done.stderr
    safe = [int(n) for n in re.findall(r"safe: sector (\d+)\r?\n", done.stdout)]
    assert len(safe) >= 100 and safe == list(range(len(safe)))
    data = disk.read_bytes()
    for sector in safe:
        assert data[sector * 512 : (sector + 1) * 512] == pattern(9, sector)
    assert not any(data[(len(safe) + 1) * 512 :])


@pytest.mark.parametrize("reason", ["poweroff", "reboot"])
def test_a_guest_obeys_the_toolstack(way: str, reason: str) -> None:
    """control/shutdown over XenStore, the sysctl device over noxs: the guest says that it heard, and ends so."""
    with Host(128 * MIB) as host:
        rig = Rig(host, way)
        guest = rig.guest("daytime", name="daytime", vif=(MAC, IP))
        host.run(BUDGET)
        assert guest.exit is None
        guest.shutdown(reason)
        result = host.run(BUDGET)
        ends = {result.exit, guest.exit}
        assert ends == {reason}
        assert f"sysctl: {reason}" in guest.console.text
        if way == "xs":
            assert host.xenstore.read(f"/local/domain/{guest.domid}/control/shutdown") == b""


def test_noop_is_as_little_as_can_be() -> None:
    """It says ready in 20 instructions and two hypercalls, wakes at most once for the console's answer, and sleeps."""
    with Host(128 * MIB) as host:
        guests = [host.create("noop", name=f"noop{i}", memory=4 * MIB) for i in range(5)]
        result = host.run(BUDGET)
        assert result.exit == "deadlock"
        for guest in guests:
            figures = guest.result()
            assert guest.console.text == "ready\r\n" and guest.exit is None
            assert figures.instructions in (20, 25) and sum(figures.hypercalls.values()) <= 3
