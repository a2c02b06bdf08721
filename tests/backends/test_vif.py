"""The data path of a vif with front ends in Python: everything that it offers. What front ends get wrong is in
test_vif_bad.py."""

from __future__ import annotations

import pytest

from pyvmm.abi.io import netif as abi
from pyvmm.abi.io.ring import sring
from pyvmm.backends import checksum
from pyvmm.backends.ports import PythonPort
from pyvmm.backends.vif import OFFER, QUEUE_BYTES, QUEUE_TIME, VifConfig
from pyvmm.xenbus.backend import DeviceError
from tests.backends import wire
from tests.backends.vif_front import FIRST_REF, RX_PAGE, SLOTS, TX_PAGE, Bench, Front, frame
from tests.hypervisor.native_host import PAGE

BLANK, VALID, MORE, EXTRA = (
    abi.NETTXF_csum_blank,
    abi.NETTXF_data_validated,
    abi.NETTXF_more_data,
    abi.NETTXF_extra_info,
)
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fe80::1", "fe80::2")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def pair(bench: Bench, *, rx: int = 10, **features: int) -> tuple[Front, Front]:
    """Two connected guests; the second has posted `rx` buffers and says `features`."""
    one = bench.front(bench.host.one).connect()
    two = bench.front(bench.host.two).connect(rx=rx, split=False, **features)
    two.send(frame(b"\xff" * 6, two.mac))  # now the switch knows where it is
    one.received()
    return one, two


def test_a_frame_each_way(bench: Bench) -> None:
    one, two = pair(bench)
    data = frame(two.mac, one.mac, bytes(range(200)))
    assert one.send(data) == [(0, abi.NETIF_RSP_OKAY)]
    assert two.received() == [(data, 0)]
    counts = one.vif.counts, two.vif.counts
    assert (counts[0].tx_frames, counts[0].tx_bytes) == (1, len(data))
    assert (counts[1].rx_frames, counts[1].rx_bytes) == (1, len(data))
    assert bench.failures == []


def test_many_requests_at_once(bench: Bench) -> None:
    """Three frames in one push: one answer each, in order, and one event for the receiver."""
    one, two = pair(bench)
    two.events()
    frames = [frame(two.mac, one.mac, bytes([i]) * 60) for i in range(3)]
    for i, data in enumerate(frames):
        one.write(one.page(i), data)
        one.request(FIRST_REF + i, len(data), number=100 + i)
    one.push()
    before = two.vif.counts.notified
    one.serve()
    assert one.responses() == [(100, 0), (101, 0), (102, 0)]
    assert [data for data, _ in two.received()] == frames
    assert two.vif.counts.notified == before + 1


@pytest.mark.parametrize("start", [0, 0xFFFF_FFC0])
def test_rings_go_round(bench: Bench, start: int) -> None:
    """More frames than slots; also over the end of the indices, as on a ring that was in use before."""
    one, two = bench.front(bench.host.one), bench.front(bench.host.two)
    for front in (one, two):
        front.vif.probe()
        connection = front.connection()
        for page in (TX_PAGE, RX_PAGE):
            for index in (sring.req_prod, sring.rsp_prod):
                front.word(page, index.offset, start)
            front.word(page, sring.rsp_event.offset, start + 1)
        front.tx_prod = front.tx_cons = front.rx_prod = front.rx_cons = start
        front.vif.connect(connection)
    for i in range(SLOTS + 50):
        two.post(1)
        data = frame(two.mac, one.mac, i.to_bytes(2, "big") * 30)
        old, one.tx_cons = one.word(TX_PAGE, sring.rsp_prod.offset), 0
        one.write(one.page(0), data)
        one.request(FIRST_REF, len(data), number=i)
        one.word(TX_PAGE, sring.req_prod.offset, one.tx_prod)
        one.serve()
        assert one.word(TX_PAGE, sring.rsp_prod.offset) == (old + 1) & 0xFFFF_FFFF
        slot = (start + i) % SLOTS
        rx = abi.netif_rx_response.unpack(two.guest.api.read(RX_PAGE + sring.size + slot * 8, 8))
        assert (rx.id, rx.status) == ((start + i) & 0xFFFF, len(data))
    assert bench.failures == []


def test_events_are_asked_for_and_suppressed(bench: Bench) -> None:
    one, two = pair(bench, rx=0)
    one.serve()
    data = frame(two.mac, one.mac, bytes(60))
    one.write(one.page(0), data)
    one.request(FIRST_REF, len(data))
    assert one.push()  # the back end sleeps: it wants to know
    one.word(TX_PAGE, sring.rsp_event.offset, 1000)
    one.serve()
    assert one.responses() == [(0, 0)]
    assert one.vif.counts.notified == 0  # the front end does not want to know
    one.word(TX_PAGE, sring.rsp_event.offset, 2)
    one.request(FIRST_REF, len(data))
    one.push()
    one.serve()
    assert one.vif.counts.notified == 1
    # Frames wait for rx requests: the back end asks to hear of the first one that comes.
    before = two.word(RX_PAGE, sring.req_event.offset)
    assert before == 1 and two.received() == []


@pytest.mark.parametrize("split", [False, True])
def test_event_channels(bench: Bench, split: bool) -> None:
    """One for both rings, or one each: events come on the right one."""
    one, two = bench.front(bench.host.one).connect(), bench.front(bench.host.two).connect(rx=4, split=split)
    assert len(two.vif.ports()) == (2 if split else 1)
    two.events()
    one.send(frame(two.mac, one.mac, bytes(60)))
    assert two.events() == [two.event_ports[-1]]  # rx
    two.send(frame(one.mac, two.mac, bytes(60)))
    assert two.events() == [two.event_ports[0]]  # tx


@pytest.mark.parametrize("size", [PAGE + 1, 3 * PAGE, 40000, 65535])
def test_scatter_gather(bench: Bench, size: int) -> None:
    """A frame of many slots, and over a page also for the receiver."""
    bench.switch.mtu = 65521
    one = bench.front(bench.host.one, mtu=65521).connect()
    two = bench.front(bench.host.two, mtu=65521).connect(rx=16)
    data = frame(two.mac, one.mac, (bytes(range(251)) * 300)[: size - 14])
    slots = -(-size // PAGE)
    assert one.send(data) == [(i, abi.NETIF_RSP_OKAY) for i in range(slots)]
    assert two.received() == [(data, 0)]
    assert two.rx_cons == slots


def test_parts_from_anywhere_in_pages(bench: Bench) -> None:
    one, two = pair(bench)
    data = frame(two.mac, one.mac, bytes(range(200)))
    one.write(one.page(0) + 4000, data[:96])
    one.write(one.page(1) + 7, data[96:100])
    one.write(one.page(2) + 100, data[100:])
    one.request(FIRST_REF, len(data), offset=4000, flags=MORE)
    one.request(FIRST_REF + 1, 4, offset=7, flags=MORE)
    one.request(FIRST_REF + 2, len(data) - 100, offset=100)
    one.push()
    one.serve()
    assert one.responses() == [(0, 0), (1, 0), (2, 0)]
    assert two.received() == [(data, 0)]


# -- checksums


@pytest.mark.parametrize(("ends", "features"), [(V4, {}), (V6, {"ipv6_csum_offload": 1})])
def test_a_blank_checksum_stays_blank_for_a_guest_that_takes_it(
    bench: Bench, ends: tuple[str, str], features: dict[str, int]
) -> None:
    one, two = pair(bench, **features)
    data = wire.ip(two.mac, one.mac, *ends, wire.UDP, wire.udp(*ends, (1, 2), b"x" * 20, blank=0x1234))
    one.send(data, BLANK | VALID)
    assert two.received() == [(data, abi.NETRXF_csum_blank | abi.NETRXF_data_validated)]


@pytest.mark.parametrize(("ends", "features"), [(V4, {"no_csum_offload": 1}), (V6, {}), (V6, {"no_csum_offload": 1})])
def test_and_is_computed_for_one_that_does_not(bench: Bench, ends: tuple[str, str], features: dict[str, int]) -> None:
    one, two = pair(bench, **features)
    body = wire.tcp(*ends, (1, 2), b"x" * 20)
    one.send(wire.ip(two.mac, one.mac, *ends, wire.TCP, wire.tcp(*ends, (1, 2), b"x" * 20, blank=0)), BLANK)
    assert two.received() == [(wire.ip(two.mac, one.mac, *ends, wire.TCP, body), 0)]


def test_and_for_a_port_that_is_no_guest(bench: Bench) -> None:
    one, _ = pair(bench)
    port = PythonPort()
    port.plug(bench.switch)
    blank = wire.ip(wire.BROADCAST, one.mac, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"abc", blank=7))
    one.send(blank, BLANK)
    (data,) = port.received
    assert data != blank and checksum.is_right(data) and data == checksum.complete(blank)


def test_a_right_checksum_is_passed_on_as_such(bench: Bench) -> None:
    one, two = pair(bench)
    data = wire.ip(two.mac, one.mac, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"abc"))
    one.send(data, VALID)
    one.send(data, 0)
    assert two.received() == [(data, abi.NETRXF_data_validated), (data, 0)]
    port = PythonPort()
    port.plug(bench.switch)
    port.send(data)  # nobody has looked at this one
    assert two.received() == [(data, 0)]


def test_a_blank_checksum_where_there_can_be_none(bench: Bench) -> None:
    """Netback takes the slots and drops the frame, so do we."""
    one, two = pair(bench)
    assert one.send(wire.arp_request(one.mac, *V4), BLANK) == [(0, 0)]
    assert two.received() == []
    assert one.vif.counts.refused == {"a blank checksum where there can be none": 1}


# -- extra information


def extra(kind: int, flags: int = 0, rest: bytes = b"") -> bytes:
    return bytes([kind, flags]) + rest


def with_extras(front: Front, data: bytes, *extras: bytes) -> list[tuple[int, int]]:
    """Send a frame with extra information behind its first slot."""
    front.write(front.page(0), data)
    front.request(FIRST_REF, len(data), flags=EXTRA, number=9)
    for one in extras:
        front.put(one)
    front.push()
    front.serve()
    return front.responses()


def test_segmentation_is_refused(bench: Bench) -> None:
    """It is not offered; a packet that wants it is answered with an error, its extra slot with "no response"."""
    assert (OFFER["gso_tcpv4"], OFFER["gso_tcpv6"]) == (0, 0)
    one, two = pair(bench)
    gso = extra(abi.XEN_NETIF_EXTRA_TYPE_GSO, 0, b"\xb4\x05\x01\0\0\0")
    answers = with_extras(one, frame(two.mac, one.mac, bytes(60)), gso)
    assert [status for _, status in answers] == [abi.NETIF_RSP_ERROR, abi.NETIF_RSP_NULL]
    assert answers[0][0] == 9 and two.received() == [] and bench.failures == []


def test_a_hash_is_of_no_interest(bench: Bench) -> None:
    one, two = pair(bench)
    data = frame(two.mac, one.mac, bytes(60))
    both = extra(abi.XEN_NETIF_EXTRA_TYPE_HASH, abi.XEN_NETIF_EXTRA_FLAG_MORE), extra(abi.XEN_NETIF_EXTRA_TYPE_HASH)
    answers = with_extras(one, data, *both)
    assert [status for _, status in answers] == [abi.NETIF_RSP_OKAY, abi.NETIF_RSP_NULL, abi.NETIF_RSP_NULL]
    assert two.received() == [(data, 0)]


def test_multicast_filter(bench: Bench) -> None:
    one, two = pair(bench, rx=20, request_multicast_control=1)
    group, other = b"\x01\0\x5e\0\0\1", b"\x01\0\x5e\0\0\2"
    add, delete = (
        extra(kind, 0, group) for kind in (abi.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, abi.XEN_NETIF_EXTRA_TYPE_MCAST_DEL)
    )

    def heard() -> list[bytes]:
        for to in (group, other, b"\xff" * 6, two.mac):
            one.send(frame(to, one.mac, bytes(60)))
        return [data[:6] for data, _ in two.received()]

    assert heard() == [b"\xff" * 6, two.mac]
    assert with_extras(two, b"", add) == [(9, abi.NETIF_RSP_OKAY), (0, abi.NETIF_RSP_NULL)]
    assert heard() == [group, b"\xff" * 6, two.mac]
    with_extras(two, b"", delete)
    assert heard() == [b"\xff" * 6, two.mac]
    assert two.vif.counts.dropped["of another group"] == 5
    for i in range(64):
        answers = with_extras(two, b"", extra(abi.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, 0, b"\1" + bytes(4) + bytes([i])))
        assert answers[0][1] == abi.NETIF_RSP_OKAY
    assert with_extras(two, b"", add)[0][1] == abi.NETIF_RSP_ERROR  # full
    with_extras(one, b"", add)  # one has no filter: allowed, of no consequence
    assert bench.failures == []


# -- frames that wait


def test_frames_wait_for_rx_requests(bench: Bench) -> None:
    one, two = pair(bench, rx=1)
    frames = [frame(two.mac, one.mac, bytes([i]) * 60) for i in range(3)]
    for data in frames:
        one.send(data)
    assert [data for data, _ in two.received()] == frames[:1]
    old = two.rx_prod
    two.post(5)
    event = two.word(RX_PAGE, sring.req_event.offset)
    assert old < event <= two.rx_prod  # the front end sees that it is to notify
    two.serve()
    assert [data for data, _ in two.received()] == frames[1:]


def test_a_large_frame_waits_for_all_it_needs(bench: Bench) -> None:
    bench.switch.mtu = 9000
    one = bench.front(bench.host.one, mtu=9000).connect()
    two = bench.front(bench.host.two, mtu=9000).connect(rx=1)
    data = frame(two.mac, one.mac, bytes(8000))
    one.send(data)
    assert two.received() == []
    assert two.word(RX_PAGE, sring.req_event.offset) == 2
    two.post(1)
    two.serve()
    assert two.received() == [(data, 0)]


def test_what_waits_is_bounded(bench: Bench) -> None:
    one, two = pair(bench, rx=0)
    data = frame(two.mac, one.mac, bytes(1486))
    room = QUEUE_BYTES // len(data)
    for _ in range(room + 5):
        one.send(data)
    assert two.vif.counts.dropped == {"too many wait": 5}
    assert bench.switch.statistics().dropped == {}
    two.vif.stop()
    assert two.vif.counts.dropped["disconnected"] == room


def test_what_waits_too_long_is_dropped(bench: Bench) -> None:
    one, two = pair(bench, rx=0)
    one.send(frame(two.mac, one.mac, b"old" * 20))
    bench.hv.machine.skip_to(bench.hv.machine.now + QUEUE_TIME + 1)
    one.send(frame(two.mac, one.mac, b"new" * 20))
    two.post(4)
    two.serve()
    assert [data[14:17] for data, _ in two.received()] == [b"new"]
    assert two.vif.counts.dropped == {"waited too long": 1}


def test_nothing_waits_for_a_guest_that_will_not_say(bench: Bench) -> None:
    one, two = pair(bench, rx=1, rx_notify=0)
    for i in range(3):
        one.send(frame(two.mac, one.mac, bytes([i]) * 60))
    two.post(5)
    two.serve()
    assert len(two.received()) == 1
    assert two.vif.counts.dropped == {"no rx request": 2}


def test_sizes_for_the_receiver(bench: Bench) -> None:
    bench.switch.mtu = 9000
    one = bench.front(bench.host.one, mtu=9000).connect()
    two = bench.front(bench.host.two, mtu=9000).connect(rx=8, sg=0)
    one.send(frame(two.mac, one.mac, bytes(5000)))
    assert two.received() == [] and two.vif.counts.dropped == {"larger than a page": 1}
    two.vif.stop()
    three = bench.front(bench.host.two, devid=1).connect(rx=8)
    one.send(frame(three.mac, one.mac, bytes(1501)))
    one.send(frame(three.mac, one.mac, bytes(1500)))
    assert [len(data) for data, _ in three.received()] == [1514]
    assert three.vif.counts.dropped == {"longer than the MTU": 1}


# -- its life


def test_offer_and_names(bench: Bench) -> None:
    vif = bench.front(bench.host.one, ip="10.0.0.1/24", handle=3).vif
    offer = vif.probe()
    assert vif.name == "vif1.0" and offer["rx_copy"] == 1 and offer["hotplug_status"] == "connected"
    assert offer["mac"] == bytes.fromhex("00163e000001") and offer["ip"] == 0x0100000A and offer["handle"] == 3
    assert bench.front(bench.host.one, devid=1, name="uplink").vif.name == "uplink"


def test_connect_and_stop_again_and_again(bench: Bench) -> None:
    one, two = pair(bench)
    one.vif.stop()
    two.vif.stop()
    before = bench.free()
    for _ in range(5):
        one.connect(rx=3)
        two.connect(rx=3, split=True)
        data = frame(two.mac, one.mac, bytes(60))
        one.send(data)
        assert two.received() == [(data, 0)]
        one.vif.stop()
        two.vif.stop()
        two.vif.stop()  # again: nothing
        assert bench.switch.ports == ()
    assert bench.free() == before
    one.vif.close()
    two.vif.close()
    assert bench.network.vifs == {}


def test_all_of_it_goes_back() -> None:
    bench = Bench()
    before = bench.free()
    one, two = pair(bench)
    one.send(frame(two.mac, one.mac, bytes(60)))
    for front in (one, two):
        front.vif.stop()
        front.vif.close()
    bench.network.close()
    bench.resources.close()
    assert bench.free() == before


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (VifConfig(mac=""), "mac"),
        (VifConfig(mac="01:00:5e:00:00:01"), "multicast"),
        (VifConfig(mac="00:16:3e:00:00:01", mtu=0), "mtu"),
        (VifConfig(mac="00:16:3e:00:00:01", mtu=70000), "mtu"),
    ],
)
def test_configurations_that_cannot_be(bench: Bench, config: VifConfig, cause: str) -> None:
    front = bench.front(bench.host.one)
    front.vif.config = config
    with pytest.raises(DeviceError, match=cause):
        front.vif.probe()
