"""The switch: learning, ageing, flooding, its limits, and that it stays in order whatever its ports do."""

from __future__ import annotations

import pytest

from pyvmm.backends import switch as module
from pyvmm.backends.ports import PythonPort
from pyvmm.backends.switch import AGEING, Frame, Switch
from pyvmm.errors import ConfigError

BROADCAST = b"\xff" * 6


def station(number: int) -> bytes:
    return b"\x02\0\0\0" + number.to_bytes(2, "big")


def frame(to: bytes, sender: bytes, payload: bytes = b"x" * 46, kind: bytes = b"\x88\xb5") -> bytes:
    return to + sender + kind + payload


class Net:
    """A switch with a clock in the hand, and ports."""

    def __init__(self, ports: int = 3, **options: int) -> None:
        self.time = 0
        self.switch = Switch("br", lambda: self.time, **options)  # type: ignore[arg-type]
        self.ports = [PythonPort(f"p{i}") for i in range(ports)]
        for port in self.ports:
            port.plug(self.switch)

    def got(self) -> list[int]:
        """How many frames each port has received since the last call."""
        counts = [len(port.received) for port in self.ports]
        for port in self.ports:
            port.received.clear()
        return counts


def test_learns_and_floods() -> None:
    net = Net()
    net.ports[0].send(frame(station(2), station(1)))
    assert net.got() == [0, 1, 1]  # unknown: to all but the sender
    net.ports[1].send(frame(station(1), station(2)))
    assert net.got() == [1, 0, 0]
    net.ports[0].send(frame(station(2), station(1)))
    assert net.got() == [0, 1, 0]
    net.ports[2].send(frame(BROADCAST, station(3)))
    assert net.got() == [1, 1, 0]
    net.ports[2].send(frame(b"\x01\0\x5e\0\0\1", station(3)))  # a group is always flooded
    assert net.got() == [1, 1, 0]
    statistics = net.switch.statistics()
    assert (statistics.frames, statistics.forwarded, statistics.flooded, statistics.stations) == (5, 2, 3, 3)


def test_a_station_that_moves_is_found_where_it_is() -> None:
    net = Net()
    net.ports[0].send(frame(BROADCAST, station(1)))
    net.ports[1].send(frame(BROADCAST, station(1)))
    net.got()
    net.ports[2].send(frame(station(1), station(3)))
    assert net.got() == [0, 1, 0]


def test_a_silent_station_is_forgotten() -> None:
    net = Net()
    net.ports[0].send(frame(BROADCAST, station(1)))
    net.got()
    net.time = AGEING
    net.ports[1].send(frame(station(1), station(2)))
    assert net.got() == [1, 0, 0]  # just so
    net.time = AGEING + 1
    net.ports[1].send(frame(station(1), station(2)))
    assert net.got() == [1, 0, 1]
    net.ports[0].send(frame(BROADCAST, station(1)))
    net.got()
    net.ports[1].send(frame(station(1), station(2)))
    assert net.got() == [1, 0, 0]


def test_the_table_is_bounded() -> None:
    net = Net(stations=2)
    for number in (1, 2, 3):
        net.ports[0].send(frame(BROADCAST, station(number)))
    assert list(net.switch.stations) == [station(1), station(2)]
    assert net.switch.statistics().not_learned == 1
    net.time = AGEING + 1  # the oldest makes room once it is too old
    net.ports[0].send(frame(BROADCAST, station(3)))
    assert list(net.switch.stations) == [station(2), station(3)]


def test_what_is_not_forwarded() -> None:
    net = Net(mtu=100)
    for data in (
        b"short",
        frame(station(2), b"\x03" + bytes(5)),  # a group as sender
        frame(station(2), bytes(6)),
        frame(b"\x01\x80\xc2\x00\x00\x0e", station(1)),  # LLDP
        frame(station(2), station(1), bytes(101)),
        frame(station(2), station(1), bytes(105), b"\x81\x00"),
    ):
        net.ports[0].send(data)
    assert net.got() == [0, 0, 0]
    assert net.switch.statistics().dropped == {
        "for this switch only": 1,
        "from an address of no station": 2,
        "longer than the MTU": 2,
        "shorter than a header": 1,
    }
    net.ports[0].send(frame(station(2), station(1), bytes(100)))
    net.ports[0].send(frame(station(2), station(1), bytes(104), b"\x81\x00"))  # a tag does not count
    net.ports[0].send(frame(b"\x01\x80\xc2\x00\x00\x00", station(1)))  # spanning tree, which we have not
    assert net.got() == [0, 3, 3]


def test_a_frame_for_its_own_port_goes_nowhere() -> None:
    net = Net()
    net.ports[0].send(frame(BROADCAST, station(1)))
    net.got()
    net.ports[0].send(frame(station(1), station(9)))
    assert net.got() == [0, 0, 0]


def test_an_answer_comes_after_the_question() -> None:
    """A port that answers at once: everybody sees question and answer in that order."""
    net = Net()
    net.ports[1].listen(lambda data: net.ports[1].send(frame(BROADCAST, station(2), b"answer")))
    net.ports[0].send(frame(BROADCAST, station(1), b"question"))
    assert [data[14:] for data in net.ports[2].received] == [b"question", b"answer"]


def test_a_storm_ends() -> None:
    """Two ports that answer everything, with two frames each: what does not fit is dropped, the rest is bounded."""
    net = Net(2)
    sent = 0

    def answer(port: PythonPort, number: int) -> None:
        nonlocal sent
        if sent < 3 * module.MOST_WAITING:
            for _ in range(2):
                sent += 1
                port.send(frame(BROADCAST, station(number)))

    for number, port in enumerate(net.ports):
        port.listen(lambda data, port=port, number=number: answer(port, number))  # type: ignore[misc]
    net.ports[0].send(frame(BROADCAST, station(0)))
    assert net.switch.statistics().dropped["too many at once"] > 0
    assert net.switch.statistics().frames < 3 * module.MOST_WAITING + 2


def test_a_port_that_raises_breaks_nothing() -> None:
    net = Net()

    def broken(data: bytes) -> None:
        raise RuntimeError("mine")

    net.ports[1].listen(broken)
    with pytest.raises(RuntimeError):
        net.ports[0].send(frame(BROADCAST, station(1)))
    net.ports[1].listen(lambda data: None)
    net.got()
    net.ports[0].send(frame(BROADCAST, station(1)))
    assert net.got() == [0, 0, 1]


def test_ports_come_and_go() -> None:
    net = Net()
    with pytest.raises(ConfigError):
        net.ports[0].plug(net.switch)
    with pytest.raises(ConfigError):
        PythonPort("p0").plug(net.switch)
    net.ports[0].send(frame(BROADCAST, station(1)))
    net.got()
    net.ports[0].unplug()
    net.ports[0].unplug()
    assert not net.switch.stations  # what was behind it is forgotten
    net.ports[1].send(frame(station(1), station(2)))
    assert net.got() == [0, 0, 1]
    with pytest.raises(ConfigError):
        net.ports[0].send(frame(station(1), station(2)))
    net.ports[0].plug(net.switch)
    assert [port.name for port in net.switch.ports] == ["p1", "p2", "p0"]


def test_a_port_that_leaves_while_delivered_to() -> None:
    net = Net(4)
    net.ports[1].listen(lambda data: net.ports[2].unplug())
    net.ports[0].send(frame(BROADCAST, station(1)))
    assert net.got() == [0, 0, 0, 1]


def test_ports_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PORTS", 2)
    net = Net(2)
    with pytest.raises(ConfigError):
        PythonPort("one more").plug(net.switch)


@pytest.mark.parametrize("mtu", [67, 65536])
def test_an_mtu_that_cannot_be(mtu: int) -> None:
    with pytest.raises(ConfigError):
        Switch("br", lambda: 0, mtu=mtu)


def test_a_frame_that_can_have_no_checksum() -> None:
    with pytest.raises(ValueError):
        Frame(frame(station(1), station(2)), blank=True).completed()
