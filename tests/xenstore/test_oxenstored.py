"""The store against Debian's oxenstored: the same requests to both, by domain 0 and two unprivileged domains.

Generated sequences must get the same replies and the same watch events. Where the two differ on purpose, the difference
is one of the rules in `Pair`, and a row of DIFFERENCES, which is run on both so that the table stays true.
docs/xenstore.md says why we do as we do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.xenstore import Limits, Op, Packet, Parser, Settings, Store
from pyvmm.xenstore.connection import Connection
from pyvmm.xenstore.transaction import Done
from pyvmm.xenstore.tree import Node, lookup
from pyvmm.xenstore.view import View

from .oxenstored import Oxenstored

pytestmark = pytest.mark.debian("xen-utils-4.17", "gcc")

PORTS = {1: 101, 2: 102}


class Reply(NamedTuple):
    op: int
    payload: bytes


class Ours:
    """Our store, driven as the oracle is."""

    def __init__(self) -> None:
        self.store = Store(settings=Settings(limits=Limits()))
        self.dom0 = self.store.connect_domain(0)
        self._parsers: dict[Connection, Parser] = {}
        self._events: dict[Connection, list[tuple[bytes, bytes]]] = {}

    def connection(self, domid: int) -> Connection:
        return self.store.domains[domid].connection if domid else self.dom0

    def request(self, domid: int, op: int, payload: bytes, tx_id: int = 0) -> Reply:
        connection = self.connection(domid)
        data = Packet(op, 7, tx_id, payload).pack()
        assert connection.receive(data) == len(data)
        (reply,) = self._arrived(connection)
        assert (reply.req_id, reply.tx_id) == (7, tx_id)
        return Reply(reply.type, reply.payload)

    def _arrived(self, connection: Connection) -> list[Packet]:
        parser = self._parsers.setdefault(connection, Parser())
        replies = []
        data = connection.send()
        while data:
            missing = parser.missing
            packet, data = parser.feed(data[:missing]), data[missing:]
            if packet is not None and packet.type == Op.WATCH_EVENT:
                path, token, _ = packet.payload.split(b"\0")
                self._events.setdefault(connection, []).append((path, token))
            elif packet is not None:
                replies.append(packet)
        return replies

    def events(self, domid: int) -> set[tuple[bytes, bytes]]:
        connection = self.connection(domid)
        assert not self._arrived(connection)
        return set(self._events.pop(connection, []))


class Diverged(Exception):
    """The two took different but allowed ways: the rest of the sequence says nothing."""


class Pair:
    """Both stores. They live as long as the module: each sequence starts from a known state."""

    def __init__(self, daemon: Oxenstored, ours: Ours | None = None) -> None:
        self.daemon = daemon
        self.ours = ours or Ours()
        self.compared = 0
        self.excused = 0
        self.open: dict[int, list[tuple[int, int]]] = {}
        self.ours.request(0, Op.RM, b"/tool\0")
        self.daemon.request(0, Op.RM, b"/tool\0")
        for domid, port in PORTS.items():
            self.daemon.add_domain(domid, port)
            self.both(0, Op.INTRODUCE, f"{domid}\0001\0{port}\0".encode())

    def both(self, domid: int, op: int, payload: bytes, tx: tuple[int, int] = (0, 0)) -> tuple[Reply, Reply]:
        theirs = self.daemon.request(domid, op, payload, tx[1])
        return self.ours.request(domid, op, payload, tx[0]), Reply(theirs.type, theirs.payload)

    def restart(self) -> None:
        for domid, port in PORTS.items():
            self.both(0, Op.RELEASE, f"{domid}\0".encode())
            self.daemon.reset(domid)
            self.both(0, Op.INTRODUCE, f"{domid}\0001\0{port}\0".encode())
        self.both(0, Op.RESET_WATCHES, b"\0")
        for path in (b"/t", b"/local"):
            self.both(0, Op.RM, path + b"\0")
        self.both(0, Op.SET_PERMS, b"/\0n0\0")
        for special in (b"@introduceDomain", b"@releaseDomain"):
            self.both(0, Op.SET_PERMS, special + b"\0n0\0")
        for domid in PORTS:
            home = f"/local/domain/{domid}".encode()
            self.both(0, Op.MKDIR, home + b"\0")
            self.both(0, Op.SET_PERMS, home + b"\0" + f"n{domid}".encode() + b"\0")
        for path in (b"/t", b"/t/a", b"/t/a/b", b"/t/d"):
            self.both(0, Op.WRITE, path + b"\0v")
        for domid in (0, *PORTS):
            self.ours.events(domid)
            self.daemon.events(domid)
        self.open = {domid: [] for domid in (0, *PORTS)}
        assert self.ours.store.check() == []

    def step(self, domid: int, op: int, payload: bytes, tx: int | None) -> None:
        """One request to both; `tx` picks one of the domain's open transactions."""
        pair = (0, 0)
        if tx is not None and self.open[domid]:
            pair = self.open[domid][tx % len(self.open[domid])]
        before = self.ours.store.root
        transaction = self.ours.connection(domid).transactions.get(pair[0])
        overtaken: set[tuple[str, ...]] = set()  # removals and creations that may have nothing left to do
        if op == Op.TRANSACTION_END and transaction and transaction.base is not before:
            overtaken = {done.path for done in transaction.done if done.operation in (View.mkdir, View.rm)}
        mine, theirs = self.both(domid, op, payload, pair)
        self.compared += 1
        if op == Op.TRANSACTION_START and mine.op == theirs.op == op:
            self.open[domid].append((int(mine.payload[:-1]), int(theirs.payload[:-1])))
        elif op == Op.TRANSACTION_END and pair in self.open[domid] and payload in (b"T\0", b"F\0"):
            self.open[domid].remove(pair)
            if mine.payload == b"EAGAIN\0" and theirs.payload == b"OK\0":
                raise Diverged
            if transaction and any(_repeats(done, transaction.base, before) for done in transaction.done):
                raise Diverged
        if op != Op.TRANSACTION_START or mine.op != op:
            same = _comparable(mine) == _comparable(theirs)
            assert same or self._excused(domid, op, payload, pair, mine, theirs), (
                domid, Op(op).name, payload, pair, mine, theirs,
            )  # fmt: skip
            self.excused += not same
        if op == Op.RESET_WATCHES:
            self.open[domid].clear()
        if op == Op.RELEASE:
            self.open[int(payload[:-1])].clear()
        for watcher in (0, *PORTS):
            if watcher and watcher not in self.ours.store.domains:
                continue
            got, expected = self.ours.events(watcher), set(self.daemon.events(watcher))
            spurious = {
                event
                for event in expected - got
                if self._is_unchanged(watcher, event[0], before) or self._absolute(watcher, event[0]) in overtaken
            }
            # oxenstored removes a dead domain's nodes silently, and forgets what a transaction wrote and then removed.
            missing = got - expected if op != Op.RELEASE else set()
            if op == Op.TRANSACTION_END:
                missing = {event for event in missing if self._exists(watcher, event[0], self.ours.store.root)}
            assert not missing and expected - got == spurious, (domid, Op(op).name, payload, watcher, got, expected)
            self.excused += bool(spurious) or bool(got - expected)

    def _is_unchanged(self, domid: int, path: bytes, before: Node) -> bool:
        """oxenstored sends events where nothing happened: for a removal, to watches below it on nodes that never were;
        for a transaction's MKDIR of a node that somebody else had made when it was merged."""
        old = self._node(domid, path, before)
        new = self._node(domid, path, self.ours.store.root)
        return (old.generation if old else 0) == (new.generation if new else 0)

    def _exists(self, domid: int, path: bytes, root: Node) -> bool:
        return self._node(domid, path, root) is not None

    def _node(self, domid: int, path: bytes, root: Node) -> Node | None:
        return lookup(root, self._absolute(domid, path))

    @staticmethod
    def _absolute(domid: int, path: bytes) -> tuple[str, ...]:
        text = path.decode("latin-1")
        if not text.startswith(("/", "@")):
            text = f"/local/domain/{domid}/{text}"
        return () if text == "/" else tuple(text[1:].split("/"))

    def _excused(self, domid: int, op: int, payload: bytes, pair: tuple[int, int], mine: Reply, theirs: Reply) -> bool:
        """The differences that generated sequences run into; each is a row of DIFFERENCES too."""
        if mine.payload == b"EACCES\0" and domid:
            # Ours does not tell a domain that a node is missing where it may not look.
            root = self.ours.store.root
            if pair[0]:
                root = self.ours.connection(domid).transactions[pair[0]].view.root
            missing = not self._exists(domid, payload.split(b"\0")[0], root)
            return missing and theirs.payload in (b"ENOENT\0", b"OK\0" if op == Op.RM else b"ENOENT\0")
        if mine.payload == b"EPERM\0" and op == Op.SET_PERMS:
            return theirs.payload == b"EACCES\0"
        return False


def _repeats(done: Done, base: Node, now: Node) -> bool:
    """A MKDIR or RM that changed nothing in the transaction but has something to do when it is merged: ours does it,
    oxenstored does not (it keeps no list of what changed nothing)."""
    if done.operation is View.mkdir:
        return lookup(base, done.path) is not None and lookup(now, done.path) is None
    return done.operation is View.rm and lookup(base, done.path) is None and lookup(now, done.path) is not None


def _comparable(reply: Reply) -> object:
    """A reply without what has no meaning: the order of a directory, and oxenstored's special watches in the root."""
    if reply.op == Op.DIRECTORY:
        return reply.op, sorted(name for name in reply.payload.split(b"\0")[:-1] if not name.startswith(b"@"))
    return reply


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as directory, Oxenstored(Path(directory)) as daemon:
        made = Pair(daemon)
        yield made


# --- generated sequences ---

COMPARISON = settings(  # other sequences in every run, the same ones where CI is set
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

GOOD = (
    b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/a/b/c/d", b"/t/d", b"/t/d/e", b"/local/domain/1", b"/local/domain/1/x",
    b"/local/domain/2", b"/local/domain/2/x/y", b"x", b"x/y", b"x/z",
)  # fmt: skip
BAD = (b"", b"//", b"/t/", b"/t//a", b"/t/a b", b"/t/\xe9", b"x/", b"/t/" + b"n" * 2046, b"/t/" + b"n" * 2045, b"x!")
domids = st.sampled_from((0, 0, 1, 2))
paths = st.one_of(st.sampled_from(GOOD), st.sampled_from(GOOD), st.sampled_from(GOOD), st.sampled_from(BAD))
tokens = st.sampled_from((b"one", b"two"))
entries = st.lists(st.sampled_from((b"n0", b"r0", b"n1", b"r1")), max_size=3)
owners = st.sampled_from((b"n0", b"n1", b"n2", b"r0", b"r1", b"r2", b"x1", b"n", b""))
slots = st.one_of(st.none(), st.integers(0, 1))


def _request(op: Op, payload: st.SearchStrategy[bytes], tx: st.SearchStrategy[int | None] = slots) -> st.SearchStrategy:
    return st.tuples(domids, st.just(op), payload, tx)


one_path = paths.map(lambda path: path + b"\0")
requests = st.one_of(
    _request(Op.READ, one_path),
    _request(Op.DIRECTORY, one_path),
    _request(Op.GET_PERMS, one_path),
    _request(Op.WRITE, st.builds(lambda p, v: p + b"\0" + v, paths, st.sampled_from((b"", b"v", b"w\0x")))),
    _request(Op.MKDIR, one_path),
    _request(Op.RM, one_path),
    _request(
        Op.SET_PERMS,
        st.builds(lambda p, o, e: b"\0".join((p, o, *e)) + b"\0", paths, owners, entries),
    ),
    _request(
        Op.WATCH, st.builds(lambda p, t: p + b"\0" + t + b"\0", paths.filter(lambda p: len(p) < 99), tokens), st.none()
    ),
    _request(Op.UNWATCH, st.builds(lambda p, t: p + b"\0" + t + b"\0", paths.filter(bool), tokens), st.none()),
    _request(Op.TRANSACTION_START, st.just(b"\0")),
    _request(Op.TRANSACTION_END, st.sampled_from((b"T\0", b"T\0", b"F\0", b"X\0"))),
    _request(Op.RESET_WATCHES, st.just(b"\0"), st.none()),
    _request(Op.GET_DOMAIN_PATH, st.sampled_from((b"1\0", b"77\0"))),
    _request(Op.IS_DOMAIN_INTRODUCED, st.sampled_from((b"0\0", b"1\0", b"9\0", b"32752\0")), st.none()),
    st.tuples(
        st.just(0), st.just(Op.WATCH), st.sampled_from((b"@introduceDomain\0i\0", b"@releaseDomain\0r\0")), st.none()
    ),
)


@COMPARISON
@given(st.lists(requests, min_size=5, max_size=40))
def test_generated_requests_get_the_same_replies(pair: Pair, sequence: list[tuple[int, Op, bytes, int | None]]) -> None:
    pair.restart()
    try:
        for domid, op, payload, tx in sequence:
            pair.step(domid, op, payload, tx)
        pair.step(0, Op.RELEASE, b"2\0", None)
        for path in GOOD:
            pair.step(0, Op.READ, path + b"\0", None)
            pair.step(0, Op.DIRECTORY, path + b"\0", None)
    except Diverged:
        pass


# A transaction with another client's changes in the middle: the case that generation meets too seldom by itself.

node_requests = st.tuples(
    st.sampled_from((Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.WRITE, Op.MKDIR, Op.RM)),
    st.sampled_from((b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/d", b"/t/d/e")),
)


def _payload(op: Op, path: bytes, value: bytes) -> bytes:
    return path + b"\0" + (value if op == Op.WRITE else b"")


@COMPARISON
@given(
    st.lists(node_requests, min_size=1, max_size=5),
    st.lists(node_requests, min_size=1, max_size=3),
    st.lists(node_requests, max_size=3),
)
def test_overtaken_transactions_end_alike(
    pair: Pair, inside: list[tuple[Op, bytes]], between: list[tuple[Op, bytes]], after: list[tuple[Op, bytes]]
) -> None:
    pair.restart()
    pair.step(0, Op.WATCH, b"/t\0all\0", None)
    pair.step(0, Op.TRANSACTION_START, b"\0", None)
    try:
        for op, path in inside:
            pair.step(0, op, _payload(op, path, b"in"), 0)
        for op, path in between:
            pair.step(0, op, _payload(op, path, b"out"), None)
        for op, path in after:
            pair.step(0, op, _payload(op, path, b"in2"), 0)
        pair.step(0, Op.TRANSACTION_END, b"T\0", 0)
        for path in (b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/d", b"/t/d/e"):
            pair.step(0, Op.READ, path + b"\0", None)
            pair.step(0, Op.DIRECTORY, path + b"\0", None)
    except Diverged:
        pass


# Permission entries of all kinds, on nodes that nobody creates or removes: who owns a new node is a known difference.

every_entry = [letter + domid for letter in (b"n", b"r", b"w", b"b") for domid in (b"0", b"1", b"2")]
any_entries = st.lists(st.sampled_from(every_entry), min_size=1, max_size=4)
fixed = st.sampled_from((b"/t/a", b"/t/d"))


@COMPARISON
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just(0), st.just(Op.SET_PERMS), st.builds(lambda p, e: b"\0".join((p, *e, b"")), fixed, any_entries)
            ),
            st.tuples(domids, st.just(Op.WRITE), fixed.map(lambda path: path + b"\0z")),
            st.tuples(
                domids, st.sampled_from((Op.READ, Op.GET_PERMS, Op.DIRECTORY, Op.MKDIR)), fixed.map(lambda p: p + b"\0")
            ),
            st.tuples(domids, st.just(Op.WATCH), fixed.map(lambda path: path + b"\0t\0")),
        ),
        max_size=25,
    )
)
def test_permissions_let_the_same_pass(pair: Pair, sequence: list[tuple[int, Op, bytes]]) -> None:
    pair.restart()
    for domid, op, payload in sequence:
        pair.step(domid, op, payload, None)


# --- known differences ---


class Difference(NamedTuple):
    """Requests that end in one that the two answer differently."""

    name: str
    script: list[tuple[int, Op, bytes]]
    ours: bytes
    theirs: bytes


BIG = b"/t\0" + b"v" * 2049
DIFFERENCES = [
    Difference("missing node, unreadable parent", [(1, Op.READ, b"/t/none\0")], b"EACCES\0", b"ENOENT\0"),
    Difference("rm of a missing node, unwritable parent", [(1, Op.RM, b"/t/none\0")], b"EACCES\0", b"OK\0"),
    Difference("mkdir of the root", [(1, Op.MKDIR, b"/\0")], b"EACCES\0", b"OK\0"),
    Difference("giving a node away", [(1, Op.SET_PERMS, b"/local/domain/1\0n2\0")], b"EPERM\0", b"EACCES\0"),
    Difference(
        "owner of a node made below another's",
        [(0, Op.SET_PERMS, b"/t/a\0b0\0"), (1, Op.WRITE, b"/t/a/new\0"), (0, Op.GET_PERMS, b"/t/a/new\0")],
        b"b1\0",
        b"b0\0",
    ),
    Difference(
        "entries of a dead domain are shown",
        [(0, Op.SET_PERMS, b"/t/a\0n0\0r1\0"), (0, Op.RELEASE, b"1\0"), (0, Op.GET_PERMS, b"/t/a\0")],
        b"n0\0r1\0",
        b"n0\0",
    ),
    Difference("large value by domain 0", [(0, Op.WRITE, BIG)], b"OK\0", b"E2BIG\0"),
    Difference("large value by a domain", [(1, Op.WRITE, b"x" + BIG[2:])], b"ENOSPC\0", b"E2BIG\0"),
    Difference("no such transaction", [(0, Op.READ, b"/t\0TX")], b"ENOENT\0", b"EIO\0"),
    Difference("DIRECTORY_PART", [(0, Op.DIRECTORY_PART, b"/none\0000\0")], b"ENOENT\0", b"ENOSYS\0"),
    Difference("a special is no node", [(0, Op.READ, b"@releaseDomain\0")], b"EINVAL\0", b""),
    Difference("depth of a watch", [(0, Op.WATCH, b"/t\0t\0001\0")], b"OK\0", b"EINVAL\0"),
    Difference("watch on too long a path", [(0, Op.WATCH, b"/" + b"n" * 2048 + b"\0t\0")], b"EINVAL\0", b"OK\0"),
    Difference("watch with bytes after the last NUL", [(0, Op.WATCH, b"/t\0t\0x")], b"OK\0", b"EINVAL\0"),
    Difference("permissions with bytes after the last NUL", [(0, Op.SET_PERMS, b"/t\0n0\0x")], b"OK\0", b"OK\0"),
    Difference(
        "too many watches",
        [(1, Op.WATCH, f"x\0{number}\0".encode()) for number in range(129)] + [(1, Op.WATCH, b"x\0one more\0")],
        b"E2BIG\0",
        b"EQUOTA\0",
    ),
    Difference("too many transactions", [(1, Op.TRANSACTION_START, b"\0")] * 12, b"ENOSPC\0", b"EQUOTA\0"),
    Difference(
        "too many nodes",
        [(1, Op.WRITE, f"d{number % 50}/n{number}\0".encode()) for number in range(949)] + [(1, Op.MKDIR, b"more\0")],
        b"ENOSPC\0",
        b"EQUOTA\0",
    ),
    Difference("unwatch of an empty path", [(0, Op.UNWATCH, b"\0t\0")], b"ENOENT\0", b"EINVAL\0"),
    Difference("number that is none", [(0, Op.GET_DOMAIN_PATH, b"x5\0")], b"/local/domain/0\0", b"/local/domain/5\0"),
    Difference("domain that is none", [(0, Op.IS_DOMAIN_INTRODUCED, b"x\0")], b"T\0", b"EINVAL\0"),
    Difference("release of a stranger", [(0, Op.RELEASE, b"77\0")], b"ENOENT\0", b"EINVAL\0"),
    Difference("resume of a stranger", [(0, Op.RESUME, b"77\0")], b"ENOENT\0", b"EINVAL\0"),
    Difference("introduce with port 0", [(0, Op.INTRODUCE, b"1\0001\0000\0")], b"EINVAL\0", b"OK\0"),
    Difference("target that is a stranger", [(0, Op.SET_TARGET, b"1\00077\0")], b"ENOENT\0", b"OK\0"),
    Difference("control of an unknown command", [(0, Op.CONTROL, b"dance\0")], b"EINVAL\0", b"OK\0"),
    Difference("control by a domain", [(1, Op.CONTROL, b"check\0")], b"EACCES\0", b"OK\0"),
    Difference(
        "end without NUL", [(0, Op.TRANSACTION_START, b"\0"), (0, Op.TRANSACTION_END, b"FTX")], b"EINVAL\0", b"OK\0"
    ),
    Difference(
        "a transaction that only read is overtaken",
        [
            (0, Op.TRANSACTION_START, b"\0"),
            (0, Op.READ, b"/t\0TX"),
            (0, Op.WRITE, b"/t\0new"),
            (0, Op.TRANSACTION_END, b"T\0TX"),
        ],
        b"EAGAIN\0",
        b"OK\0",
    ),
    Difference(
        "a node that a transaction made sure of is removed meanwhile",
        [
            (0, Op.TRANSACTION_START, b"\0"),
            (0, Op.MKDIR, b"/t/d\0TX"),
            (0, Op.RM, b"/t/d\0"),
            (0, Op.TRANSACTION_END, b"T\0TX"),
            (0, Op.READ, b"/t/d\0"),
        ],
        b"",
        b"ENOENT\0",
    ),
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_known_differences_are_as_listed(pair: Pair, difference: Difference) -> None:
    """A payload that ends in TX belongs to the transaction that was started before, or to one that never was."""
    pair.restart()
    tx = (99, 99)
    mine = theirs = Reply(0, b"")
    for domid, op, payload in difference.script:
        inside = payload.endswith(b"TX")
        mine, theirs = pair.both(domid, op, payload.removesuffix(b"TX"), tx if inside else (0, 0))
        if op == Op.TRANSACTION_START and mine.op == op:
            tx = (int(mine.payload[:-1]), int(theirs.payload[:-1]))
    assert (mine.payload, theirs.payload) == (difference.ours, difference.theirs)


class MergedRemoval(NamedTuple):
    """A removal that had nothing to do in its transaction, and what else is in there; the paths that a watch on /t then
    reports, and what is read of the removed node."""

    name: str
    inside: list[tuple[Op, bytes]]
    heard: set[bytes]
    heard_theirs: set[bytes]
    read: bytes
    read_theirs: bytes


MERGED_REMOVALS = [
    MergedRemoval("alone: oxenstored forgets it", [(Op.RM, b"/t/b\0")], {b"/t/b"}, set(), b"ENOENT\0", b"v"),
    MergedRemoval(
        "then written below: oxenstored removes the node, and tells nobody",
        [(Op.RM, b"/t/b\0"), (Op.WRITE, b"/t/b/a\0")],
        {b"/t/b", b"/t/b/a"},
        {b"/t/b/a"},
        b"",
        b"",
    ),
    MergedRemoval(
        "then written beside: the same",
        [(Op.RM, b"/t/b\0"), (Op.WRITE, b"/t/z\0")],
        {b"/t/b", b"/t/z"},
        {b"/t/z"},
        b"ENOENT\0",
        b"ENOENT\0",
    ),
]


@pytest.mark.parametrize("case", MERGED_REMOVALS, ids=lambda case: case.name)
def test_removal_gets_something_to_do_when_merged(pair: Pair, case: MergedRemoval) -> None:
    """What a transaction removes is gone after it, also when somebody made it meanwhile, and whoever watches hears of
    it. (A node vanishes without an event in oxenstored.)"""
    pair.restart()
    pair.both(0, Op.WATCH, b"/t\0w\0")
    pair.both(0, Op.MKDIR, b"/t/a\0")
    first, second = (
        (int(mine.payload[:-1]), int(theirs.payload[:-1]))
        for mine, theirs in (pair.both(0, Op.TRANSACTION_START, b"\0") for _ in range(2))
    )
    script = [(Op.WRITE, b"/t/b\0v", first), (Op.TRANSACTION_END, b"T\0", first), (Op.MKDIR, b"/t/a\0", (0, 0))]
    for op, payload, tx in script:
        assert pair.both(0, op, payload, tx) == (Reply(op, b"OK\0"),) * 2
    assert (b"/t/b", b"w") in pair.ours.events(0) & set(pair.daemon.events(0))
    for op, payload in [*case.inside, (Op.TRANSACTION_END, b"T\0")]:
        assert pair.both(0, op, payload, second) == (Reply(op, b"OK\0"),) * 2
    assert {path for path, _ in pair.ours.events(0)} == case.heard
    assert {path for path, _ in pair.daemon.events(0)} == case.heard_theirs
    mine, theirs = pair.both(0, Op.READ, b"/t/b\0")
    assert (mine.payload, theirs.payload) == (case.read, case.read_theirs)


def test_removal_of_all_is_refused(pair: Pair) -> None:
    """RM of the root: ours refuses as xenstored does; oxenstored removes everything, so it is not asked."""
    pair.restart()
    assert pair.ours.request(0, Op.RM, b"/\0").payload == b"EINVAL\0"
