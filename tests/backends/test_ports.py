"""Ports that are no guest's: Python's, a capture file, a TAP device of the host."""

from __future__ import annotations

import io
import select
import subprocess
from pathlib import Path

import pytest

from pyvmm.backends import ports
from pyvmm.backends.pcap import PcapPort
from pyvmm.backends.ports import PythonPort
from pyvmm.backends.switch import Frame, Switch
from pyvmm.backends.tap import TapPort
from pyvmm.errors import ConfigError, UsageError
from pyvmm.host import Host
from pyvmm.hypervisor.trace import Event
from tests.backends import wire

A, B = wire.mac("02:00:00:00:00:01"), wire.mac("02:00:00:00:00:02")
V4 = ("10.0.0.1", "10.0.0.2")
RIGHT = wire.ip(B, A, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"data"))
BLANK = wire.ip(B, A, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"data", blank=0))


def test_python_port_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "KEPT", 2)
    switch, one, two = Switch("br", lambda: 0), PythonPort("one"), PythonPort("two")
    one.plug(switch)
    two.plug(switch)
    for i in range(4):
        one.send(wire.ether(wire.BROADCAST, A, 0x88B5, bytes([i])))
    assert [two.receive(), two.receive(), two.receive()] == [
        wire.ether(wire.BROADCAST, A, 0x88B5, b"\0"),
        wire.ether(wire.BROADCAST, A, 0x88B5, b"\1"),
        None,
    ]
    assert two.lost == 2


def test_capture(tmp_path: Path) -> None:
    """Everything that comes into the switch, once, with nanoseconds and with checksums; dpkt reads it."""
    dpkt = pytest.importorskip("dpkt")
    path = tmp_path / "all.pcap"
    times = iter([5_000_000_007, 6_123_456_789])
    switch, port, capture = Switch("br", lambda: 0), PythonPort(), PcapPort(path, lambda: next(times))
    port.plug(switch)
    capture.plug(switch)
    assert switch.statistics().ports == 2
    port.send(RIGHT)
    switch.input(port, Frame(BLANK, blank=True))
    assert switch.statistics().flooded == 2 and capture.frames == 2
    capture.close()
    capture.close()
    found = list(dpkt.pcap.Reader(io.BytesIO(path.read_bytes())))
    assert [data for _, data in found] == [RIGHT, RIGHT]
    assert [round(float(time) * 1e9) for time, _ in found] == pytest.approx([5_000_000_007, 6_123_456_789])


@pytest.mark.debian("tcpdump")
def test_tcpdump_reads_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "all.pcap"
    switch, port, capture = Switch("br", lambda: 0), PythonPort(), PcapPort(path, lambda: 1_700_000_000_000_000_001)
    port.plug(switch)
    capture.plug(switch)
    switch.input(port, Frame(BLANK, blank=True))
    capture.close()
    command = ["tcpdump", "-r", str(path), "-vvn", "-tt", "--nano"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "1700000000.000000001" in shown and "[udp sum ok]" in shown and "10.0.0.1.1 > 10.0.0.2.2" in shown


def test_a_capture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        PcapPort(tmp_path / "none" / "x.pcap")


# -- on a host


def test_ports_of_a_host(tmp_path: Path) -> None:
    """They are plugged into the switch by name, their input is in the trace, they are closed with the host."""
    with Host(memory=64 << 20) as host:
        seen: list[Event] = []
        host.hypervisor.trace.listen(seen.append)
        one, two, other = PythonPort("one"), PythonPort("two"), PythonPort("other")
        capture = PcapPort(tmp_path / "x.pcap")
        for port in (one, two, capture):
            host.attach_port(port)
        host.attach_port(other, "br1")
        with pytest.raises(ConfigError):
            host.attach_port(one, "br1")
        one.send(RIGHT)
        assert two.receive() == RIGHT and other.receive() is None
        (event,) = [event for event in seen if event.kind.name == "net_input"]
        assert event.values == ("xenbr0", "one", RIGHT)
        assert host.switch.statistics().frames == 1
    assert one.switch is None and (tmp_path / "x.pcap").stat().st_size == 24 + 16 + len(RIGHT)


# -- a real TAP device


def inside(namespace: str, *command: str) -> None:
    """Run a command in the namespace."""
    subprocess.run(["ip", "netns", "exec", namespace, *command], check=True, capture_output=True)


@pytest.mark.debian("iputils-ping")
def test_tap_device(namespace: str) -> None:
    """The kernel's own ARP comes in; frames to it go out, with their checksums; it ends with its namespace."""
    switch, tap, port = Switch("br", lambda: 0), TapPort(), PythonPort()
    assert tap.name.startswith("tap")
    tap.plug(switch)
    port.plug(switch)
    tap.deliver(Frame(RIGHT))  # it is down
    assert tap.lost == 1
    subprocess.run(["ip", "link", "set", tap.name, "netns", namespace], check=True)
    inside(namespace, "ip", "link", "set", tap.name, "up")
    inside(namespace, "ip", "address", "add", "10.0.0.1/24", "dev", tap.name)
    asking = subprocess.Popen(
        ["ip", "netns", "exec", namespace, "ping", "-c", "1", "-W", "1", "10.0.0.2"], stdout=subprocess.DEVNULL
    )
    while not any(data[12:14] == b"\x08\x06" for data in port.received):
        assert select.select(tap.filenos(), (), (), 10)[0], "nothing came"
        assert not tap.poll() and not tap.gone
    asking.wait()
    asked = next(data for data in port.received if data[12:14] == b"\x08\x06")
    assert asked[28:32] == bytes([10, 0, 0, 1]) and asked[38:42] == bytes([10, 0, 0, 2])
    switch.input(port, Frame(BLANK, blank=True))
    assert tap.given == 1
    assert not tap.poll()
    tap.stop()
    assert select.select(tap.filenos(), (), (), 0)[0] and tap.poll()
    tap.close()
    tap.close()
    assert not tap.filenos() and tap.fileno() == -1 and switch.ports == (port,)


def test_tap_devices_that_cannot_be(namespace: str) -> None:
    with pytest.raises(UsageError, match="at most 15 bytes"):
        TapPort("a-name-that-is-too-long")
    with pytest.raises(UsageError, match="cannot make"):
        TapPort("no/name")
    tap = TapPort()
    with pytest.raises(UsageError, match=tap.name):
        TapPort(tap.name)  # busy
    tap.close()
