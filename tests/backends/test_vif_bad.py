"""What front ends can get wrong: the device is closed with one report, or a packet is answered with an error. The other
guest, the switch and the back end go on, and everything is given back."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.abi import grant_table as gnt
from pyvmm.abi.io import netif as abi
from pyvmm.abi.io.ring import sring
from pyvmm.backends.vif_tx import packets
from pyvmm.hypervisor.lifecycle import destroy_domain
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.xenbus.backend import Connection, DeviceError
from tests.backends.vif_front import FEATURES, FIRST_REF, RX_PAGE, RX_REF, SLOTS, TX_PAGE, TX_REF, Bench, Front, frame
from tests.hypervisor.native_host import PAGE

MORE, EXTRA = abi.NETTXF_more_data, abi.NETTXF_extra_info
OKAY, ERROR = abi.NETIF_RSP_OKAY, abi.NETIF_RSP_ERROR


@pytest.fixture
def bench() -> Bench:
    return Bench()


def both(bench: Bench) -> tuple[Front, Front, tuple[int, int]]:
    """Two front ends, the first with a page of data granted; and what is free with only the second one connected."""
    two = bench.front(bench.host.two).connect(rx=10)
    one = bench.front(bench.host.one)
    one.page(0)
    one.vif.probe()
    for page in range(2):  # the ports that a front end opens are its own
        one.grant(TX_REF + page, (TX_PAGE, RX_PAGE)[page])
    # The pages that frames are copied through stay.
    two.send(frame(b"\xff" * 6, two.mac))
    before = bench.free()
    one.connect()
    return one, two, before


def still_works(bench: Bench, two: Front) -> None:
    """The other guest notices nothing."""
    data = frame(b"\xff" * 6, two.mac, bytes(60))
    two.tx_cons = two.word(TX_PAGE, sring.rsp_prod.offset)
    assert two.send(data) == [(two.tx_prod - 1, OKAY)]


# -- what closes the device

SlotMaker = Callable[[Front], object]


def request(front: Front, flags: int = 0, *, size: int = 60, offset: int = 0, ref: int = FIRST_REF) -> Front:
    return front.request(ref, size, offset=offset, flags=flags)


def many_slots(front: Front) -> None:
    request(front, MORE, size=100)
    for _ in range(21):
        request(front, MORE, size=1)
    request(front, size=1)


BROKEN: dict[str, tuple[SlotMaker, str]] = {
    "no more slots": (lambda f: request(f, MORE), "goes on in a slot that is not there"),
    "no extra": (lambda f: request(f, EXTRA), "extra information is missing"),
    "no second extra": (lambda f: (request(f, EXTRA), f.put(b"\4\1"))[0], "extra information is missing"),
    "extra 0": (lambda f: (request(f, EXTRA), f.put(b"\0\0"))[0], "extra information of type 0"),
    "extra 5": (lambda f: (request(f, EXTRA), f.put(b"\5\0"))[0], "extra information of type 5"),
    "over the page": (lambda f: request(f, offset=4090), "60 bytes at offset 4090"),
    "offset 65535": (lambda f: request(f, offset=65535), "60 bytes at offset 65535"),
    "65535 bytes in one slot": (lambda f: request(f, size=65535), "65535 bytes at offset 0"),
    "second over the page": (
        lambda f: (request(f, MORE), request(f, size=20, offset=4080))[0],
        "20 bytes at offset 4080",
    ),
    "22 slots": (many_slots, "more than 20 slots"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_closes_the_device(bench: Bench, name: str) -> None:
    make, cause = BROKEN[name]
    one, two, before = both(bench)
    make(one)
    one.push()
    one.serve()
    assert len(bench.failures) == 1 and cause in bench.failures[0]
    assert one.vif.ports() == () and [port.name for port in bench.switch.ports] == ["vif2.0"]
    one.serve()  # nothing any more
    assert len(bench.failures) == 1
    still_works(bench, two)
    assert bench.free() == before


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("ahead", [SLOTS + 1, 1 << 31, 0xFFFF_FFFF])
def test_indices_that_run_away(bench: Bench, ring: str, ahead: int) -> None:
    one, two, before = both(bench)
    one.word(TX_PAGE if ring == "tx" else RX_PAGE, sring.req_prod.offset, ahead)
    if ring == "tx":
        one.serve()
    else:
        assert two.send(frame(one.mac, two.mac))[0][1] == OKAY  # floods; the sender is not concerned
    assert bench.failures == [f"{ring} ring: {ahead} requests cannot wait, it has 256 slots"]
    still_works(bench, two)
    assert bench.free() == before


def test_a_full_ring_is_no_mistake(bench: Bench) -> None:
    one, two, _ = both(bench)
    data = frame(two.mac, one.mac, bytes(46))
    one.write(one.page(0), data)
    for _ in range(SLOTS):
        request(one)
    one.push()
    one.serve()
    assert one.responses() == [(i, OKAY) for i in range(SLOTS)]
    assert bench.failures == [] and len(two.received()) == 10 and two.vif.counts.dropped == {}


# -- what is answered with an error

REFUSED: dict[str, tuple[SlotMaker, list[int], str]] = {
    "13 bytes": (lambda f: request(f, size=13), [ERROR], "13 bytes in the first slot of a packet"),
    "nothing": (lambda f: request(f, size=0), [ERROR], "0 bytes in the first slot of a packet"),
    "no header in the first slot": (
        lambda f: (request(f, MORE), request(f, size=50))[0],
        [ERROR, ERROR],
        "10 bytes in the first slot of a packet",
    ),
    "parts larger than it": (
        lambda f: (request(f, MORE), request(f, size=61))[0],
        [ERROR, ERROR],
        "its parts are larger than it is",
    ),
    "over the MTU": (lambda f: request(f, size=1515), [ERROR], "longer than the MTU"),
    "a grant that is none": (lambda f: request(f, ref=400), [ERROR], "a grant that cannot be read"),
    "a grant beyond the table": (lambda f: request(f, ref=0xFFFF_FFFF), [ERROR], "a grant that cannot be read"),
    "a bad part": (
        lambda f: (request(f, MORE), request(f, size=20, ref=400), request(f))[0],
        [OKAY, ERROR, OKAY],
        "a grant that cannot be read",
    ),
    "20 slots": (
        lambda f: (request(f, MORE, size=100), [request(f, MORE, size=1) for _ in range(18)], request(f, size=1))[0],
        [ERROR] * 20,
        "more than 18 slots after the first",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_packet_that_cannot_be_sent(bench: Bench, name: str) -> None:
    """It is answered with an error, and the next one goes through."""
    make, statuses, cause = REFUSED[name]
    one, two, _ = both(bench)
    data = frame(two.mac, one.mac, bytes(46))
    one.write(one.page(0), data)
    make(one)
    if name != "a bad part":
        request(one)
        statuses = [*statuses, OKAY]
    one.push()
    one.serve()
    assert [status for _, status in one.responses()] == statuses
    assert one.vif.counts.refused == {cause: 1} and bench.failures == []
    assert [got for got, _ in two.received()] == [data]


def test_19_slots_are_fine(bench: Bench) -> None:
    one, two, _ = both(bench)
    data = frame(two.mac, one.mac, bytes(46))
    one.write(one.page(0), data)
    request(one, MORE, size=60)
    for i in range(18):
        request(one, MORE if i < 17 else 0, size=1, offset=42 + i)
    one.push()
    one.serve()
    assert {status for _, status in one.responses()} == {OKAY}
    assert [got for got, _ in two.received()] == [data]


@pytest.mark.parametrize(
    ("flags", "domid"),
    [(gnt.GTF_invalid, 0), (gnt.GTF_permit_access, 2), (gnt.GTF_accept_transfer, 0)],
    ids=["revoked", "another's", "a transfer"],
)
def test_grants_that_do_not_allow_it(bench: Bench, flags: int, domid: int) -> None:
    one, two, _ = both(bench)
    one.grant(FIRST_REF, one.page(0), flags, domid)
    request(one)
    one.push()
    one.serve()
    assert one.responses() == [(0, ERROR)] and two.received() == []


@pytest.mark.parametrize(
    ("flags", "domid", "ref"),
    [
        (gnt.GTF_permit_access | gnt.GTF_readonly, 0, None),
        (gnt.GTF_permit_access, 2, None),
        (gnt.GTF_invalid, 0, None),
        (gnt.GTF_permit_access, 0, 0xFFFF_FFFF),
    ],
    ids=["read-only", "another's", "revoked", "beyond the table"],
)
def test_rx_buffers_that_cannot_be_written(bench: Bench, flags: int, domid: int, ref: int | None) -> None:
    """The response of that slot says so; the next frame finds the next buffer."""
    one, two, _ = both(bench)
    one.post(1, ref=ref)
    if ref is None:
        one.grant(FIRST_REF + 20, one.page(20), flags, domid)
    one.post(1)
    for i in range(2):
        two.send(frame(one.mac, two.mac, bytes([i]) * 60))
    assert [data[14:16] for data, _ in one.received()] == [b"", b"\1\1"]
    assert one.vif.counts.dropped == {"a grant that cannot be written": 1} and bench.failures == []


# -- connections that cannot be


def edit(**changes: object) -> Callable[[Connection], Connection]:
    def change(connection: Connection) -> Connection:
        return Connection(**{**vars(connection), **changes})

    return change


CONNECTIONS: dict[str, tuple[Callable[[Connection], Connection], str]] = {
    "no rx-copy": (edit(features={**FEATURES, "request_rx_copy": 0}), "rx-copy"),
    "rx-copy not said": (edit(features={}), "rx-copy"),
    "2 queues": (edit(features={**FEATURES, "num_queues": 2}), "2 queues"),
    "0 queues": (edit(features={**FEATURES, "num_queues": 0}), "0 queues"),
    "no rings": (edit(rings=()), "two rings"),
    "one ring": (edit(rings=((TX_REF,),)), "two rings"),
    "two pages": (edit(rings=((TX_REF,), (RX_REF, RX_REF))), "two rings"),
    "tx not granted": (edit(rings=((300,), (RX_REF,))), "grant 300"),
    "rx not granted": (edit(rings=((TX_REF,), (300,))), "grant 300"),
    "far away": (edit(rings=((TX_REF,), (0xFFFF_FFFF,))), "grant 4294967295"),
    "no ports": (edit(ports=()), "event channel"),
    "three ports": (edit(ports=(1, 2, 3)), "event channel"),
    "no such port": (edit(ports=(900,)), "bind_interdomain"),
    "no second port": (lambda c: edit(ports=(*c.ports, 900))(c), "bind_interdomain"),
    "the same port twice": (lambda c: edit(ports=c.ports * 2)(c), "bind_interdomain"),
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_that_cannot_be(bench: Bench, name: str) -> None:
    change, cause = CONNECTIONS[name]
    two = bench.front(bench.host.two).connect(rx=4)
    two.send(frame(b"\xff" * 6, two.mac))
    one = bench.front(bench.host.one)
    one.vif.probe()
    before = bench.free()
    with pytest.raises(DeviceError, match=cause):
        one.vif.connect(change(one.connection()))
    one.vif.stop()
    assert bench.free() == before
    still_works(bench, two)
    one.connect()  # and it may try again
    assert one.send(frame(two.mac, one.mac))[0][1] == OKAY


@pytest.mark.parametrize("page", [TX_PAGE, RX_PAGE])
def test_rings_that_are_wild_from_the_start(bench: Bench, page: int) -> None:
    one, _, before = both(bench)
    one.vif.stop()
    connection = one.connection()
    one.word(page, sring.req_prod.offset, 0x8000_0000)
    with pytest.raises(DeviceError, match="cannot wait"):
        one.vif.connect(connection)
    one.vif.stop()
    assert bench.free() == before


def test_no_memory_for_the_buffer(bench: Bench) -> None:
    """The interface is not connected, with the cause; once there is memory it is."""
    bench.xc.allow_memory(0, 1)
    pages = []
    with pytest.raises(HypercallError):
        while True:
            pages.append(bench.resources.page())
    one = bench.front(bench.host.one)
    one.vif.probe()
    with pytest.raises(DeviceError, match="ENOMEM"):
        one.vif.connect(one.connection())
    one.vif.stop()
    for page in pages:
        bench.resources.free(page)
    one.connect()
    assert one.send(frame(b"\xff" * 6, one.mac)) == [(0, OKAY)]


# -- front ends that vanish


def test_a_domain_that_is_destroyed_while_connected(bench: Bench) -> None:
    one, two, _ = both(bench)
    one.post(4)
    for i in range(6):  # two of them wait
        two.send(frame(one.mac, two.mac, bytes([i]) * 60))
    request(one)
    one.push()
    destroy_domain(one.guest.domain)
    one.serve()  # the event that was on its way: the pages are ours until we let go
    still_works(bench, two)
    one.vif.stop()
    one.vif.close()
    bench.hv.frames.check()
    assert not bench.hv.frames.holds_frames(one.guest.domid)
    still_works(bench, two)


# -- read once


def test_every_slot_is_read_once(bench: Bench) -> None:
    """A front end on another CPU that changes a request after it was looked at changes nothing."""
    one, two, _ = both(bench)
    data = frame(two.mac, one.mac, bytes(46))
    one.write(one.page(0), data)
    request(one)
    one.push()
    one.post(0)
    api = bench.host.dom0.api
    seen: dict[int, int] = {}
    mapping = one.vif._mappings[0].va  # where the tx ring is
    original = api.read

    def read(va: int, n: int) -> bytes:
        found = original(va, n)
        if mapping + sring.size <= va < mapping + PAGE:
            for at in range(va, va + n):
                seen[at] = seen.get(at, 0) + 1
            one.write(TX_PAGE + va - mapping, b"\xff" * n)  # changed as soon as it was read
        return found

    api.read = read  # type: ignore[method-assign]
    one.serve()
    assert one.responses() == [(0, OKAY)] and [got for got, _ in two.received()] == [data]
    assert len(seen) == 12 and set(seen.values()) == {1}


# -- anything at all

SLOT = st.one_of(
    st.binary(min_size=12, max_size=12),
    st.builds(
        lambda ref, offset, flags, size: abi.netif_tx_request.pack(
            gref=ref, offset=offset, flags=flags, id=1, size=size
        ),
        st.sampled_from([FIRST_REF, FIRST_REF + 1, 0, 400, 0xFFFF_FFFF]),
        st.sampled_from([0, 10, 4095, 4096]),
        st.integers(0, 15),
        st.sampled_from([0, 13, 14, 60, 1514, 4096, 65535]),
    ),
    st.builds(lambda kind, flags: bytes([kind, flags]).ljust(12, b"\0"), st.integers(0, 5), st.integers(0, 1)),
)


@given(st.lists(SLOT, max_size=40))
def test_any_slots_are_taken_apart_or_refused(slots: list[bytes]) -> None:
    """Every slot belongs to exactly one packet."""
    try:
        found = packets(slots)
    except DeviceError:
        return
    assert sum(len(packet.ids) for packet in found) == len(slots)
    for packet in found:
        if not packet.refused and packet.group is None:
            assert sum(piece.size for piece in packet.pieces) == packet.size >= 14
            assert all(piece.offset + piece.size <= PAGE for piece in packet.pieces)


@settings(max_examples=60)
@given(st.lists(SLOT, max_size=30), st.lists(st.integers(0, 0xFFFF_FFFF), max_size=4))
def test_any_ring_at_all(slots: list[bytes], words: list[int]) -> None:
    """Whatever is on the rings: an answer for each slot or one report; the other guest works; nothing leaks."""
    bench = Bench()
    one, two, before = both(bench)
    one.page(1)
    for slot in slots:
        one.put(slot)
    one.push()
    one.write(RX_PAGE, struct.pack(f"<{len(words)}I", *words))
    one.serve()
    two.send(frame(one.mac, two.mac))
    if bench.failures:
        assert len(bench.failures) == 1 and one.vif.ports() == ()
    else:
        assert len(one.responses()) == len(slots)
    still_works(bench, two)
    one.vif.stop()
    assert bench.free() == before
