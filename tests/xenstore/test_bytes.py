"""Bytes in, bytes out: framing, bounds, watches' delivery, the shared ring, and whatever a hostile client sends."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.xenstore import Client, GuestRing, Op, Packet, Parser, ProtocolError, Ring, Settings, Store, XsError
from pyvmm.xenstore.ring import (
    CONNECTION,
    ERROR,
    ERROR_NONE,
    ERROR_PROTO,
    ERROR_RINGIDX,
    REQ,
    REQ_CONS,
    REQ_PROD,
    RING_SIZE,
    RSP_CONS,
    RSP_PROD,
    LocalPage,
)

ROOT = Path(__file__).parents[2]


def cut(data: bytes) -> list[Packet]:
    """The messages of a byte string."""
    parser, packets = Parser(), []
    while data:
        missing = parser.missing
        packet = parser.feed(data[:missing])
        data = data[missing:]
        if packet is not None:
            packets.append(packet)
    assert parser.idle
    return packets


u32 = st.integers(0, 0xFFFFFFFF)
packets = st.builds(Packet, u32, u32, u32, st.binary(max_size=300))


@given(st.lists(packets), st.randoms(use_true_random=False))
def test_messages_survive_any_fragmentation(sent: list[Packet], chance: random.Random) -> None:
    parser, got = Parser(), []
    data = b"".join(packet.pack() for packet in sent)
    while data:
        size = chance.randint(1, parser.missing)
        packet = parser.feed(data[:size])
        data = data[size:]
        if packet is not None:
            got.append(packet)
    assert got == sent and parser.idle


def test_too_long_a_payload_is_the_end() -> None:
    with pytest.raises(ProtocolError):
        Parser().feed(struct.pack("<IIII", Op.WRITE, 0, 0, 4097))
    store = Store()
    connection = store.connect_domain(1)
    assert connection.receive(struct.pack("<IIII", Op.WRITE, 0, 0, 4097) + bytes(100)) == 16
    assert (connection.error, connection.accepts, connection.receive(b"x")) == ("protocol", False, 0)
    longest = Packet(Op.WRITE, 0, 0, b"/t\0" + b"v" * 4093).pack()
    other = store.connect_domain(2)
    assert other.receive(longest) == len(longest) and other.error is None


# Requests that are nearly right, so that fuzzing gets past the first check.
words = st.sampled_from(
    [b"/", b"/t", b"/t/a", b"x", b"@releaseDomain", b"", b"T", b"F", b"0", b"1", b"-1", b"65536", b"99999999999", b"n0",
     b"r1", b"b2", b"quota", b"set", b"nodes", b"check", b"help", b"\xff\xfe", b"/t/" + b"x" * 3000]
)  # fmt: skip
payloads = st.one_of(
    st.lists(words, max_size=5).map(lambda fields: b"".join(field + b"\0" for field in fields)),
    st.lists(words, max_size=3).map(b"\0".join),
    st.binary(max_size=60),
)
near = st.tuples(
    st.integers(0, 3),
    st.builds(Packet, st.one_of(st.integers(0, 24), u32), u32, st.one_of(st.integers(0, 3), u32), payloads),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(near, max_size=40))
def test_no_request_harms_the_store(requests: list[tuple[int, Packet]]) -> None:
    store = Store()
    tool = Client(store.connect_privileged())
    for domid in (1, 2):
        tool.introduce(domid, 1, 1)
    alive = [tool.connection, store.connect_domain(0), *(domain.connection for domain in store.domains.values())]
    for number, packet in requests:
        connection = alive[number]
        data = packet.pack()
        if len(packet.payload) > 4096 or not connection.accepts:
            continue
        assert connection.receive(data) == len(data)
        replies = [reply for reply in cut(connection.send()) if reply.type != Op.WATCH_EVENT]
        if connection.alive:
            (reply,) = replies
            assert (reply.req_id, reply.tx_id) == (packet.req_id, packet.tx_id)
            assert reply.type in (packet.type, Op.ERROR) and len(reply.payload) <= 4096
        assert store.check() == []
    tool.write("/still", "there")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_harm_the_store(pieces: list[bytes]) -> None:
    store = Store()
    connection = store.connect_domain(1)
    for piece in pieces:
        taken = connection.receive(piece)
        assert taken == len(piece) or not connection.accepts
        connection.send()
    assert store.check() == []


def test_unsent_replies_stop_the_input() -> None:
    store = Store()
    connection = store.connect_domain(1)
    request = Packet(Op.GET_DOMAIN_PATH, 1, 0, b"1\0").pack()
    assert connection.receive(request * 50) == 20 * len(request)
    assert not connection.accepts and connection.unsent_replies == 20
    first = connection.send(10)
    assert not connection.accepts, "the first reply is not away yet"
    rest = connection.send()
    assert len(cut(first + rest)) == 20
    assert connection.receive(request * 30) == 20 * len(request)
    tool = store.connect_privileged()
    assert tool.receive(request * 50) == 50 * len(request), "the tools are trusted"


def test_unread_events_are_bounded() -> None:
    store = Store()
    tool = Client(store.connect_privileged())
    watcher = store.connect_domain(1)
    watcher.receive(Packet(Op.WATCH, 1, 0, b"/m\0t\0").pack())
    watcher.send()
    tool.mkdir("/m")
    tool.set_permissions("/m", ["r0"])
    for _ in range(100):
        tool.write("/m/same", "x")
    assert len(cut(watcher.send())) == 2, "an event that waits is not queued again"
    store.limits.memory = 10_000
    for number in range(1000):
        tool.write(f"/m/n{number}", "x")
    assert watcher.unsent_bytes <= 10_000 and watcher.dropped_events > 0
    watcher.receive(Packet(Op.READ, 9, 0, b"/m\0").pack())
    assert cut(watcher.send())[-1].req_id == 9, "replies still come"


def test_watches_fire_for_what_may_be_read_only() -> None:
    store = Store()
    tool = Client(store.connect_privileged())
    one = Client(store.connect_domain(1))
    tool.write("/s/secret", "1")
    tool.write("/s/open", "1")
    tool.set_permissions("/s/open", ["r0"])
    one.watch("/s", "w")
    one.watch("/s/secret", "s")
    assert [event.path for event in one.events()] == ["/s", "/s/secret"]
    tool.write("/s/secret", "2")
    tool.write("/s/open", "2")
    assert [tuple(event) for event in one.events()] == [("/s/open", "w")]
    tool.set_permissions("/s/open", ["n0"])
    assert [tuple(event) for event in one.events()] == [("/s/open", "w")], "who loses the right is told"
    tool.rm("/s")
    assert one.events() == []


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(None, {"/d", "/d/1", "/d/1/2"}), (0, {"/d"}), (1, {"/d", "/d/1"}), (2, {"/d", "/d/1", "/d/1/2"})],
)
def test_depth_limits_a_watch(depth: int | None, expected: set[str]) -> None:
    client = Client(Store().connect_privileged())
    client.watch("/d", "t", depth)
    client.events()
    for path in ("/d", "/d/1", "/d/1/2"):
        client.write(path, "x")
    assert {event.path for event in client.events()} == expected


def test_depth_is_refused_where_it_is_not_offered() -> None:
    client = Client(Store(settings=Settings(watch_depth=False)).connect_privileged())
    with pytest.raises(XsError, match="EINVAL"):
        client.watch("/d", "t", 1)


def test_relative_watches_report_relative_paths() -> None:
    store = Store()
    tool, one = Client(store.connect_privileged()), Client(store.connect_domain(1))
    tool.mkdir("/local/domain/1")
    tool.set_permissions("/local/domain/1", ["n1"])
    one.watch("data", "rel")
    one.watch("/local/domain/1/data", "abs")
    one.events()
    one.write("data/x", "1")
    assert {tuple(event) for event in one.events()} == {("data/x", "rel"), ("/local/domain/1/data/x", "abs")}


def test_removal_reaches_the_watches_below() -> None:
    client = Client(Store().connect_privileged())
    client.write("/r/a/b", "x")
    for path in ("/r", "/r/a/b", "/r/a/none", "/r/a"):
        client.watch(path, path)
    client.events()
    client.rm("/r/a")
    assert [tuple(event) for event in client.events()] == [("/r/a/b", "/r/a/b"), ("/r/a", "/r"), ("/r/a", "/r/a")]


def test_events_come_in_the_order_of_the_watches() -> None:
    store = Store()
    client, other = Client(store.connect_privileged()), Client(store.connect_privileged())
    for path in ("/o/a/b", "/", "/o/a", "/o"):
        client.watch(path, path)
    client.events()
    other.write("/o/a/b", "x")
    assert [event.token for event in client.events()] == ["/o/a/b", "/", "/o/a", "/o"]


SCRIPT = """
import hashlib
from pyvmm.xenstore import Client, Store
from pyvmm.xenstore.wire import XsError
store = Store()
tools = [Client(store.connect_privileged()) for _ in range(3)]
digest = hashlib.sha256()
for turn in range(300):
    tool = tools[turn % 3]
    path = "/d" + "".join(f"/n{turn * k % 7}" for k in (3, 5, 11))
    tool.watch(path[: 3 + turn % 9], str(turn)) if path[: 3 + turn % 9][-1] != "/" else None
    tool.transact(lambda t: (t.write(path, str(turn)), t.rm(path[:5]) if turn % 4 == 0 else t.mkdir(path + "/x")))
    for one in tools:
        digest.update(repr(one.events()).encode())
digest.update(repr([(path, node) for path, node in store.nodes().items()]).encode())
digest.update(repr(store.statistics()).encode())
print(digest.hexdigest())
"""


def test_the_same_history_whatever_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(digests) == 1 and digests != {""}


def test_the_manual_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    manual = (ROOT / "docs/xenstore.md").read_text()
    exec(manual.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out == "['name', 'memory']\n"


def test_a_thousand_levels() -> None:
    client = Client(Store().connect_privileged())
    path = "/x" * 1000
    client.write(path, "deep")
    client.watch(path, "t")
    assert client.read(path) == b"deep" and client.connection.store.check() == []
    client.rm("/x")
    assert [event.path for event in client.events()] == [path, path]
    client.unwatch(path, "t")


# --- the shared ring ---


class Machine:
    """A domain with its ring and the store's end of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.tool = Client(self.store.connect_privileged())
        self.tool.introduce(1, 1, 1)
        self.page = LocalPage()
        self.notified = 0
        self.connection = self.store.domains[1].connection
        self.ring = Ring(self.page, self.connection, self._notify)
        self.guest = GuestRing(self.page)

    def _notify(self) -> None:
        self.notified += 1

    def exchange(self, data: bytes) -> bytes:
        """Send everything, however often the ring is full, and collect the answers."""
        got = b""
        for _ in range(1000):
            data = data[self.guest.send(data) :]
            more = self.ring.service()
            piece = self.guest.receive()
            got += piece
            if not (data or more or piece):
                return got
        raise AssertionError("it never ends")

    def index(self, offset: int) -> int:
        return int.from_bytes(self.page.read(offset, 4), "little")


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.ring.attach()
    return made


def test_ring_carries_messages_larger_than_itself(machine: Machine) -> None:
    value = bytes(range(256)) * 7
    machine.tool.mkdir("/local/domain/1")
    machine.tool.set_permissions("/local/domain/1", ["n1"])
    requests = [Packet(Op.WRITE, 1, 0, b"x\0" + value), *(Packet(Op.READ, n, 0, b"x\0") for n in range(2, 40))]
    replies = cut(machine.exchange(b"".join(packet.pack() for packet in requests)))
    assert [reply.req_id for reply in replies] == list(range(1, 40))
    assert all(reply.payload == value for reply in replies[1:])


@pytest.mark.parametrize("start", [0, 1000, 1023, 0xFFFFFFF0, 0xFFFFFFFF])
def test_indices_run_free(machine: Machine, start: int) -> None:
    for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
        machine.page.write(offset, start.to_bytes(4, "little"))
    request = Packet(Op.GET_DOMAIN_PATH, 3, 0, b"1\0")
    (reply,) = cut(machine.exchange(request.pack()))
    assert reply.payload == b"/local/domain/1\0"
    assert machine.index(REQ_CONS) == (start + len(request.pack())) & 0xFFFFFFFF
    assert machine.notified == 1


@pytest.mark.parametrize(("cons", "prod"), [(REQ_CONS, REQ_PROD), (RSP_CONS, RSP_PROD)])
def test_runaway_index_ends_the_connection_until_reconnection(machine: Machine, cons: int, prod: int) -> None:
    machine.connection.receive(Packet(Op.WATCH, 1, 0, b"x\0t\0").pack())
    machine.page.write(prod, (machine.index(cons) + RING_SIZE + 1).to_bytes(4, "little"))
    assert machine.ring.service() is False
    assert (machine.index(ERROR), machine.connection.error) == (ERROR_RINGIDX, "ring index")
    assert machine.store.statistics().watches == 0
    assert machine.ring.service() is False and machine.notified == 1
    machine.guest.reconnect()
    machine.ring.service()
    assert machine.guest.connected and machine.guest.error == ERROR_NONE
    assert cut(machine.exchange(Packet(Op.GET_DOMAIN_PATH, 3, 0, b"1\0").pack()))[0].req_id == 3


def test_too_long_a_message_ends_the_connection(machine: Machine) -> None:
    machine.guest.send(struct.pack("<IIII", Op.WRITE, 0, 0, 4097))
    machine.ring.service()
    assert machine.guest.error == ERROR_PROTO and not machine.connection.alive


def test_reconnection_forgets_everything(machine: Machine) -> None:
    machine.exchange(Packet(Op.WATCH, 1, 0, b"x\0t\0").pack())
    machine.exchange(Packet(Op.TRANSACTION_START, 2, 0, b"\0").pack())
    machine.guest.send(b"half a header")
    machine.ring.service()
    machine.guest.send(b"more")
    machine.guest.reconnect()
    before = machine.notified
    machine.ring.service()
    assert machine.notified == before + 1 and machine.index(CONNECTION) == 0
    assert [machine.index(offset) for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD)] == [0, 0, 0, 0]
    assert machine.page.read(REQ, 4) == b"\xff\xff\xff\xff", "stale bytes are no message"
    statistics = machine.store.statistics()
    assert (statistics.watches, statistics.transactions) == (0, 0)
    (reply,) = cut(machine.exchange(Packet(Op.TRANSACTION_START, 3, 0, b"\0").pack()))
    assert reply.payload == b"1\0"


def test_attach_answers_a_guest_that_waits_to_be_connected() -> None:
    machine = Machine()
    machine.guest.reconnect()
    machine.ring.attach()
    assert machine.guest.connected and machine.guest.features == 7 and machine.notified == 1


def test_one_visit_is_bounded(machine: Machine) -> None:
    requests = Packet(Op.RESET_WATCHES, 1, 0, b"").pack() * 40
    machine.guest.send(requests)
    before = machine.store.requests
    assert machine.ring.service(requests=5) is True
    assert machine.store.requests == before + 5
    assert machine.ring.service(requests=100) is False
    assert machine.store.requests == before + 40


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2080), st.binary(min_size=1, max_size=16)), max_size=30))
def test_no_page_harms_the_store(scribbles: list[tuple[int, bytes]]) -> None:
    machine = Machine()
    machine.ring.attach()
    for offset, data in scribbles:
        machine.page.write(offset, data)
        before = machine.store.requests
        machine.ring.service()
        assert machine.store.requests <= before + 16
    assert machine.store.check() == []
    machine.tool.write("/still", "there")
