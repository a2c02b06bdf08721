"""Guests on a switch: `daytime`, real code with our C front end, over the XenStore and over noxs, queried by Python, by
the host's own tools through a TAP device, and captured."""

from __future__ import annotations

import io
import subprocess
import threading
from pathlib import Path

import pytest

from pyvmm.backends import checksum
from pyvmm.backends.pcap import PcapPort
from pyvmm.backends.ports import PythonPort
from pyvmm.backends.tap import TapPort
from pyvmm.backends.vif import VifConfig
from pyvmm.host import Domain, Host
from pyvmm.hypervisor.trace import Event
from pyvmm.toolstack.devices import Vif
from tests.backends import wire

ME, MY_IP = wire.mac("02:00:00:00:00:99"), "10.0.0.99"
MEMORY = 32 << 20
STEP = 20_000_000  # instructions within which a guest answers
WAYS = ("xs", "noxs")


def address(number: int) -> str:
    return f"10.0.0.{number}"


def guest_mac(number: int) -> bytes:
    return bytes.fromhex("00163e0000") + bytes([number])


def daytime(host: Host, way: str, number: int, options: str = "", *, image: str = "daytime") -> Domain:
    """A guest with one interface, found over the XenStore ("xs") or over noxs."""
    mac = guest_mac(number).hex(":")
    cmdline = f"net={way} ip={address(number)}/24 {options}".strip()
    name = f"{image}{number}"
    if way == "xs":
        return host.create(image, name=name, memory=MEMORY, cmdline=cmdline, vifs=[Vif(0, mac=mac)])
    domain = host.create(image, name=name, memory=MEMORY, cmdline=cmdline, paused=True)
    host.services.page_backends.create("vif", domain.domid, 0, VifConfig(mac=mac, ip=address(number)))
    host.services.xc.domctl("unpausedomain", domain.domid)
    host.services.changed()
    return domain


def ready(host: Host, *guests: Domain) -> None:
    """Run until all say so."""
    host.run(len(guests) * STEP)
    for guest in guests:
        assert "daytime: ready" in guest.console.text, guest.console.text + (guest.crash_report or "")


class Client:
    """A station that is Python code."""

    def __init__(self, host: Host, name: str = "client") -> None:
        self.host = host
        self.port = PythonPort(name)
        host.attach_port(self.port)

    def ask(self, frame: bytes) -> list[bytes]:
        """Send a frame, let the guests work, and return what came back."""
        self.port.send(frame)
        self.host.run(STEP)
        found = []
        while (data := self.port.receive()) is not None:
            found.append(data)
        return found

    def resolve(self, number: int) -> bytes:
        """ARP."""
        (answer,) = self.ask(wire.arp_request(ME, MY_IP, address(number)))
        assert answer[12:22] == bytes.fromhex("08060001080006040002")
        return answer[22:28]

    def time(self, number: int) -> str:
        """RFC 867 over UDP."""
        body = wire.udp(MY_IP, address(number), (5000, 13), b"")
        (answer,) = self.ask(wire.ip(guest_mac(number), ME, MY_IP, address(number), wire.UDP, body))
        assert checksum.is_right(answer) and answer[34:38] == b"\x00\x0d\x13\x88"
        return answer[42:].rstrip(b"\0").decode()

    def ping(self, number: int, data: bytes) -> bytes:
        """ICMP echo."""
        (answer,) = self.ask(wire.ip(guest_mac(number), ME, MY_IP, address(number), wire.ICMP, wire.ping(data)))
        length = int.from_bytes(answer[16:18], "big")
        assert answer[34] == 0 and wire.add_up(answer[34 : 14 + length]) == 0
        return answer[42 : 14 + length]


def test_two_guests_and_python_on_one_switch(tmp_path: Path) -> None:
    """One found over the XenStore, one over noxs: each resolves, tells the time, answers a ping; the capture holds all
    of it, with right checksums (one guest leaves its to the back end)."""
    path = tmp_path / "switch.pcap"
    with Host(memory=256 << 20) as host:
        host.attach_port(PcapPort(path))
        client = Client(host)
        guests = daytime(host, "xs", 1), daytime(host, "noxs", 2, "blank")
        ready(host, *guests)
        for number in (1, 2):
            assert client.resolve(number) == guest_mac(number)
            assert client.time(number).endswith("2023 22:13:20-UTC\r\n")
            assert client.ping(number, b"abc" * 20) == b"abc" * 20
        assert host.services.reports == []
        assert {port.name for port in host.switch.ports[:3]} == {"client", "vif1.0", "vif2.0"}
        for guest in guests:
            guest.shutdown()
        free = {vif.name: vif.counts.tx_frames for vif in host.services.network.vifs.values()}
        assert free == {"vif1.0": 3, "vif2.0": 3}
    dpkt = pytest.importorskip("dpkt")
    udp = icmp = 0
    for _, data in dpkt.pcap.Reader(io.BytesIO(path.read_bytes())):
        packet = dpkt.ethernet.Ethernet(data).data
        if isinstance(packet, dpkt.ip.IP):
            udp += packet.p == wire.UDP
            icmp += packet.p == wire.ICMP
            sums = packet.sum, packet.data.sum
            packet.sum = packet.data.sum = 0  # dpkt computes them anew
            again = dpkt.ip.IP(bytes(packet))
            assert (again.sum, again.data.sum) == sums
    assert (udp, icmp) == (4, 4)


@pytest.mark.parametrize("way", WAYS)
def test_the_device_goes_back_when_the_guest_does(way: str) -> None:
    """Nothing of a destroyed guest is left: frames, ports of dom0, nodes, grants."""
    with Host(memory=128 << 20) as host:
        client = Client(host)

        def left() -> tuple[int, int, list[str]]:
            ports = host.hypervisor.domains[0].evtchn.ports
            nodes = [name for name in host.xenstore.ls("/local/domain/0") if name == "backend"]
            return host.hypervisor.frames.free_count, sum(port is not None for port in ports), nodes

        seen = []
        for number in (1, 2, 3):
            guest = daytime(host, way, number)
            ready(host, guest)
            assert client.resolve(number) == guest_mac(number)
            guest.destroy()
            host.run(STEP)
            assert [port.name for port in host.switch.ports] == ["client"]
            seen.append(left())
        assert seen[1] == seen[2] and seen[2][2] == []
        assert host.services.network.vifs == {} and host.services.reports == []
        assert host.services.resources.lingering == []


@pytest.mark.parametrize("way", WAYS)
def test_close_and_connect_again(way: str) -> None:
    """The front end goes through the whole closing handshake and comes back, on the same device."""
    with Host(memory=128 << 20) as host:
        client = Client(host)
        guest = daytime(host, way, 1, "close=1")
        ready(host, guest)
        client.resolve(1)
        client.time(1)
        host.run(STEP)
        assert "daytime: connected again" in guest.console.text
        client.resolve(1)
        assert client.time(1).endswith("UTC\r\n")
        assert host.services.reports == []


@pytest.mark.parametrize("way", WAYS)
def test_runs_repeat(way: str) -> None:
    """The same frames at the same times: the same events, to the bit, with every byte on the wire in them; with any
    engine."""
    digests = set()
    for engine in ("auto", "auto", "pure"):
        with Host(memory=128 << 20, seed=3, engine=engine) as host:
            client = Client(host)
            ready(host, daytime(host, way, 1, "split=60 blank"))
            client.resolve(1)
            client.ping(1, bytes(range(256)) * 5)
            digests.add(host.run(STEP).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_front_end_that_breaks_the_ring(way: str) -> None:
    """One of two guests: its device is closed with one report, its front end is told, and may begin anew; the other
    one goes on."""
    with Host(memory=192 << 20) as host:
        client = Client(host)
        bad, good = daytime(host, way, 1), daytime(host, "xs", 2)
        ready(host, bad, good)
        client.resolve(1)
        vif = host.services.network.vifs[bad.domid, 0]
        ring = vif._mappings[1].va  # its rx ring, where the guest could have written this
        host.services.api.write(ring, (0x80000000).to_bytes(4, "little"))
        assert client.ask(wire.arp_request(ME, MY_IP, address(1))) == []
        (report,) = host.services.reports
        assert (report.device.kind, report.device.domid, report.device.devid) == ("vif", bad.domid, 0)
        assert "rx ring" in report.cause and "cannot wait" in report.cause
        assert bad.crash_report is None
        if way == "xs":
            assert b"cannot wait" in host.xenstore.read(f"/local/domain/0/error/backend/vif/{bad.domid}/0/error")
        # Its front end went through the closing handshake and began anew.
        assert client.resolve(1) == guest_mac(1) and host.services.reports == [report]
        assert client.resolve(2) == guest_mac(2)
        assert client.time(2).endswith("UTC\r\n")


@pytest.mark.parametrize("way", WAYS)
def test_a_device_is_removed_under_traffic(way: str) -> None:
    """Frames for it are on their way when it is asked to go; both ends close, all of it goes back."""
    with Host(memory=192 << 20) as host:
        client = Client(host)
        first, other = daytime(host, way, 1), daytime(host, "xs", 2)
        ready(host, first, other)
        client.resolve(1)
        for _ in range(100):  # more than the guest has buffers
            body = wire.ping(b"x" * 1000)
            client.port.send(wire.ip(guest_mac(1), ME, MY_IP, address(1), wire.ICMP, body))
        host.services.attach.remove(first.domid, "vif", 0)
        host.services.changed()
        host.run(2 * STEP)
        assert [port.name for port in host.switch.ports] == ["client", "vif2.0"]
        assert list(host.services.network.vifs) == [(other.domid, 0)]
        assert host.services.reports == [] and "daytime: the device is gone" in first.console.text
        while client.port.receive() is not None:
            pass
        assert client.resolve(2) == guest_mac(2)


@pytest.mark.parametrize("options", ["", "blank", "blank split=50"])
def test_guests_among_themselves(options: str) -> None:
    """One asks over noxs, the other answers over the XenStore, several datagrams on the way at a time; every byte is
    checked by the guest. Blank checksums stay blank between them."""
    with Host(memory=128 << 20) as host:
        server = daytime(host, "xs", 1, f"count=60 {options}", image="echo")
        client = daytime(host, "noxs", 2, f"to=10.0.0.1 count=60 size=1400 {options}", image="echo")
        seen: list[Event] = []
        host.hypervisor.trace.listen(lambda event: seen.append(event) if event.kind.name == "net_frame" else None)
        assert host.run(10 * STEP).exit == "poweroff", client.console.text
        assert "60 sent, 60 back, 0 lost, 0 wrong" in client.console.text, client.console.text
        datagrams = [event for event in seen if bytes(event.values[3])[12:14] == b"\x08\x00"]  # type: ignore[arg-type]
        assert [event.domid for event in datagrams].count(server.domid) == 60
        assert {event.values[2] for event in datagrams} == ({3} if options else {0})
        assert all(vif.counts.refused == {} for vif in host.services.network.vifs.values())


def test_bridges_are_apart() -> None:
    """An interface is on the switch that its configuration names."""
    with Host(memory=128 << 20) as host:
        client = Client(host)
        host.create(
            "daytime",
            memory=MEMORY,
            cmdline="net=xs ip=10.0.0.1/24",
            vifs=[Vif(0, mac="00:16:3e:00:00:01", bridge="br7")],
        )
        host.run(STEP)
        assert client.ask(wire.arp_request(ME, MY_IP, address(1))) == []
        client.port.unplug()
        client.port.plug(host.services.switch("br7"))
        assert client.resolve(1) == guest_mac(1)


# -- the host's own tools


@pytest.mark.debian("iputils-ping", "netcat-openbsd")
def test_ping_and_nc_through_a_tap_device(namespace: str) -> None:
    """The host's kernel and programs reach both guests; what they send is in the trace."""
    inside = ["ip", "netns", "exec", namespace]
    with Host(memory=256 << 20) as host:
        ready(host, daytime(host, "xs", 1, "blank"), daytime(host, "noxs", 2, "blank"))
        tap = TapPort()
        host.attach_port(tap)
        subprocess.run(["ip", "link", "set", tap.name, "netns", namespace], check=True)
        subprocess.run([*inside, "ip", "link", "set", tap.name, "up"], check=True)
        subprocess.run([*inside, "ip", "address", "add", "10.0.0.99/24", "dev", tap.name], check=True)
        inputs: list[bytes] = []
        host.hypervisor.trace.listen(
            lambda event: inputs.append(bytes(event.values[2])) if event.kind.name == "net_input" else None  # type: ignore[arg-type]
        )
        results: list[subprocess.CompletedProcess[str]] = []

        def outside() -> None:
            commands = []
            for number in (1, 2):
                commands.append(["ping", "-c", "3", "-i", "0.2", "-w", "20", address(number)])
                commands.append(["nc", "-u", "-w", "2", address(number), "13"])
            try:
                for command in commands:
                    results.append(
                        subprocess.run(
                            [*inside, *command], input="?\n", capture_output=True, text=True, check=False, timeout=60
                        )
                    )
            finally:
                tap.stop()

        worker = threading.Thread(target=outside)
        worker.start()
        result = host.run()
        worker.join()
        assert result.exit == "left"
        assert len(results) == 4
        for pinged, asked in (results[:2], results[2:]):
            assert pinged.returncode == 0 and "3 received, 0% packet loss" in pinged.stdout, pinged.stdout
            assert asked.stdout.rstrip().endswith("-UTC"), asked
        assert tap.taken == len(inputs) > 8 and tap.lost == 0
