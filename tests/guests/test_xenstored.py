"""The C store in both modes against the Python core and oxenstored: the same requests by domain 0 and two domains, the
same replies and events. Mode c is the core under its GLOBAL conflict rule, mode o under REPLAY."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.xenstore import ConflictRule, Op, Settings, Store
from tests.xenstore.oxenstored import Oxenstored
from tests.xenstore.test_oxenstored import COMPARISON, GOOD, Diverged, Ours, Pair, Reply, paths, requests, slots

from .xenstored_native import CStore

RULES = {"c": ConflictRule.GLOBAL, "o": ConflictRule.REPLAY}
Step = tuple[int, int, bytes, int | None]


class Checked(Ours):
    """The Python core with the C store beside it: whatever is asked of one is asked of both, and must be the same."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.store = Store(settings=Settings(conflict=RULES[mode]))
        self.dom0 = self.store.connect_domain(0)
        self.c = CStore(mode)
        self.open: dict[int, list[int]] = {}

    def request(self, domid: int, op: int, payload: bytes, tx_id: int = 0) -> Reply:
        reply = super().request(domid, op, payload, tx_id)
        kind, answer = self.c.request(domid, op, payload, tx_id)
        assert (kind, _plain(kind, answer)) == (reply.op, _plain(reply.op, reply.payload)), (domid, op, payload, tx_id)
        return reply

    def events(self, domid: int) -> set[tuple[bytes, bytes]]:
        got = super().events(domid)
        assert self.c.events(domid) == got
        return got

    def step(self, domid: int, op: int, payload: bytes, slot: int | None = None) -> None:
        """One request, in one of the domain's open transactions if `slot` says so; then everybody's events."""
        if domid and domid not in self.store.domains:
            return
        ours = self.open.setdefault(domid, [])
        tx = ours[slot % len(ours)] if slot is not None and ours else 0
        reply = self.request(domid, op, payload, tx)
        if op == Op.TRANSACTION_START and reply.op == op:
            ours.append(int(reply.payload[:-1]))
        self.open = {d: [t for t in ids if self._is_open(d, t)] for d, ids in self.open.items()}
        self.check()

    def _is_open(self, domid: int, tx: int) -> bool:
        return (domid == 0 or domid in self.store.domains) and tx in self.connection(domid).transactions

    def look(self) -> None:
        """What dom0 finds at every path that the traffic uses."""
        for path in GOOD:
            for op in (Op.READ, Op.DIRECTORY, Op.GET_PERMS):
                self.step(0, op, path + b"\0")

    def check(self) -> None:
        """Everybody's events, and how many nodes each owns."""
        for domid in (0, *self.store.domains):
            self.events(domid)
        for domid in (0, 1, 2):
            assert self.c.owned(domid) == self.store.shared.ledger.owned(domid)


def _plain(op: int, payload: bytes) -> object:
    """An answer without what has no meaning: the order of names, and what a generation's number is."""
    if op == Op.DIRECTORY:
        return sorted(payload.split(b"\0"))
    if op == Op.DIRECTORY_PART:
        return sorted(payload.split(b"\0")[1:])
    return payload


def started(mode: str) -> Checked:
    """Both with two domains, their homes, and a tree."""
    both = Checked(mode)
    begin(both)
    return both


def begin(both: Checked) -> None:
    for domid in (1, 2):
        home = b"/local/domain/%d" % domid
        both.step(0, Op.INTRODUCE, b"%d\0001\000%d\0" % (domid, 100 + domid))
        both.step(0, Op.MKDIR, home + b"\0")
        both.step(0, Op.SET_PERMS, home + b"\0n%d\0" % domid)
    for path in (b"/t", b"/t/a", b"/t/a/b", b"/t/d"):
        both.step(0, Op.WRITE, path + b"\0v")


# --- generated traffic ---

raw = st.binary(max_size=12)
odd = st.tuples(st.sampled_from((0, 1)), st.integers(0, 30).filter(lambda op: op != Op.CONTROL), raw, slots)
parts = st.builds(lambda p, n: p + b"\0" + n + b"\0", paths, st.sampled_from((b"0", b"2", b"99", b"-1", b"x")))
domain = st.sampled_from((b"1\0", b"2\0", b"3\0", b"0\0", b"x\0", b"32752\0"))
special = st.sampled_from((b"@introduceDomain", b"@releaseDomain", b"@releaseDomain/1", b"@other"))
life = st.one_of(
    st.tuples(st.sampled_from((0, 1)), st.just(Op.DIRECTORY_PART), parts, slots),
    st.tuples(st.just(0), st.just(Op.INTRODUCE), domain.map(lambda d: d + b"1\000101\0"), st.none()),
    st.tuples(st.just(0), st.sampled_from((Op.RELEASE, Op.RESUME, Op.IS_DOMAIN_INTRODUCED)), domain, st.none()),
    st.tuples(st.just(0), st.just(Op.SET_TARGET), st.builds(lambda a, b: a + b, domain, domain), st.none()),
    st.tuples(st.sampled_from((0, 1)), st.just(Op.WATCH), special.map(lambda s: s + b"\0t\0"), st.none()),
    st.tuples(st.just(0), st.just(Op.WATCH), paths.map(lambda p: p + b"\0t\0001\0"), st.none()),
    st.tuples(st.just(0), st.just(Op.SET_PERMS), special.map(lambda s: s + b"\0r0\0n1\0"), slots),
    st.tuples(st.sampled_from((1, 2)), st.sampled_from(("shut down", "gone")), st.just(b""), st.none()),
)


@pytest.mark.parametrize("mode", RULES)
@settings(max_examples=250, deadline=None)
@given(st.lists(st.one_of(requests, requests, requests, life, odd), min_size=5, max_size=40))
def test_generated_traffic_of_three_domains(mode: str, sequence: list[Step]) -> None:
    both = started(mode)
    for domid, op, payload, slot in sequence:
        if isinstance(op, str):
            if domid in both.store.domains:
                (both.store.domain_shutdown if op == "shut down" else both.store.domain_released)(domid)
                (both.c.shut_down if op == "shut down" else both.c.gone)(domid)
                both.check()
        else:
            both.step(domid, op, payload, slot)
    both.look()


@pytest.fixture(scope="module")
def three() -> Iterator[Pair]:
    """oxenstored, the Python core and the C store in its mode o."""
    with tempfile.TemporaryDirectory() as directory, Oxenstored(Path(directory)) as daemon:
        yield Pair(daemon, Checked("o"))


@pytest.mark.debian("xen-utils-4.17", "gcc")
@COMPARISON
@given(st.lists(requests, min_size=5, max_size=40))
def test_three_stores_say_the_same(three: Pair, sequence: list[Step]) -> None:
    three.restart()
    try:
        for domid, op, payload, tx in sequence:
            three.step(domid, op, payload, tx)
        three.step(0, Op.RELEASE, b"2\0", None)
        for path in GOOD:
            three.step(0, Op.READ, path + b"\0", None)
            three.step(0, Op.DIRECTORY, path + b"\0", None)
    except Diverged:
        pass
    assert isinstance(three.ours, Checked)
    assert three.compared > 0


# --- transactions that are overtaken ---


def traffic(rng: random.Random) -> Iterator[Step]:
    """Three domains with transactions that are open at once, some far from each other and some not."""
    places = {
        0: [
            b"/t/a",
            b"/t/a/b",
            b"/t/d",
            b"/t/d/e/f",
            b"/local/domain/1/x",
            b"/local/domain/2/x/y",
            b"/new/%d" % rng.randrange(9),
        ],
        1: [b"x", b"x/y", b"x/y/z", b"w/v", b"/t/a", b"/local/domain/1"],
        2: [b"x", b"x/y", b"x/y/z", b"w/v", b"/t/a/b", b"/local/domain/2"],
    }
    for domid in rng.sample((0, 0, 1, 2), rng.randint(2, 4)):
        yield domid, Op.TRANSACTION_START, b"\0", None
    for _ in range(rng.randint(3, 14)):
        domid = rng.choice((0, 1, 2))
        op = rng.choice((Op.READ, Op.READ, Op.WRITE, Op.WRITE, Op.MKDIR, Op.RM, Op.DIRECTORY, Op.GET_PERMS))
        path = rng.choice(places[domid])
        yield (
            domid,
            op,
            path + b"\0" + (rng.randbytes(2).hex().encode() if op == Op.WRITE else b""),
            rng.choice((0, 0, 1, None)),
        )
    for domid in rng.sample((0, 0, 1, 2), 4):
        yield domid, Op.TRANSACTION_END, b"T\0", 0
    for domid in (0, 1, 2):
        for path in places[domid]:
            yield domid, Op.READ, path + b"\0", None
            yield domid, Op.DIRECTORY, path + b"\0", None


def test_overtaken_transactions_are_merged_replayed_or_refused() -> None:
    """The core only replays: where the C store merges, the outcome is the same. Each of the ways is taken often."""
    ended: Counter[str] = Counter()
    for seed in range(150):
        both = started("o")
        both.step(0, Op.WATCH, b"/\0all\0")
        both.step(1, Op.WATCH, b"x\0mine\0")
        for _ in range(3):
            for domid, op, payload, slot in traffic(rng := random.Random(seed)):
                both.step(domid, op, payload, slot)
            seed = rng.randrange(2**32)
        ended += both.c.ended
    assert min(ended[how] for how in ("merged", "replayed", "conflicts")) > 50, ended
    assert ended["commits"] > ended["merged"] + ended["replayed"]


@pytest.mark.debian("xen-utils-4.17", "gcc")
def test_overtaken_transactions_end_as_in_oxenstored(three: Pair) -> None:
    assert isinstance(three.ours, Checked)
    before = three.ours.c.ended
    for seed in range(200):
        three.restart()
        try:
            for domid, op, payload, slot in traffic(random.Random(seed)):
                three.step(domid, op, payload, slot)
        except Diverged:
            pass
    ended = three.ours.c.ended - before
    assert min(ended[how] for how in ("merged", "replayed", "conflicts")) > 10, ended


WAYS = [
    # in dom0's transaction; meanwhile, by dom0; how it ends
    ("nothing else happened", [(Op.WRITE, b"/t/a\0x")], [], {}),
    ("beside", [(Op.WRITE, b"/t/a\0x"), (Op.READ, b"/t/a/b\0")], [(Op.WRITE, b"/t/d\0y")], {"merged": 1}),
    ("a node made elsewhere", [(Op.WRITE, b"/t/a/n\0x")], [(Op.MKDIR, b"/t/d/e\0")], {"merged": 1}),
    ("it only read", [(Op.READ, b"/t/a\0")], [(Op.WRITE, b"/t/d\0y")], {"merged": 1}),
    ("what was missing still is", [(Op.READ, b"/t/a/n\0")], [(Op.WRITE, b"/t/d\0y")], {"merged": 1}),
    (
        "the root is all that is above both",
        [(Op.WRITE, b"/t/a\0x"), (Op.WRITE, b"/n\0x")],
        [(Op.WRITE, b"/t/d\0y")],
        {"replayed": 1},
    ),
    ("below what it wrote", [(Op.WRITE, b"/t/a\0x")], [(Op.WRITE, b"/t/a/b\0y")], {"replayed": 1}),
    ("permissions above", [(Op.WRITE, b"/t/a\0x")], [(Op.SET_PERMS, b"/t\0n0\0r1\0")], {"replayed": 1}),
    ("a generation is told", [(Op.DIRECTORY_PART, b"/t/a\0000\0")], [(Op.WRITE, b"/t/d\0y")], {"replayed": 1}),
    ("what it read", [(Op.READ, b"/t/a\0")], [(Op.WRITE, b"/t/a\0y")], {"conflicts": 1}),
    ("what was missing is made", [(Op.READ, b"/t/n\0")], [(Op.WRITE, b"/t/n\0y")], {"conflicts": 1}),
]


@pytest.mark.parametrize(("name", "inside", "meanwhile", "how"), WAYS, ids=[name for name, *_ in WAYS])
def test_ways_to_commit(
    name: str, inside: list[tuple[Op, bytes]], meanwhile: list[tuple[Op, bytes]], how: dict[str, int]
) -> None:
    both = started("o")
    both.step(0, Op.TRANSACTION_START, b"\0")
    for op, payload in inside:
        both.step(0, op, payload, 0)
    for op, payload in meanwhile:
        both.step(0, op, payload)
    both.step(0, Op.TRANSACTION_END, b"T\0", 0)
    ended = both.c.ended
    assert ended == Counter({"commits": "conflicts" not in how} | how), ended
    for path in GOOD:
        both.step(0, Op.READ, path + b"\0")


def test_rights_are_those_at_the_end() -> None:
    """A domain that has a target by then may look where it was refused before: the answer would be another one."""
    both = started("o")
    both.step(2, Op.TRANSACTION_START, b"\0")
    both.step(2, Op.DIRECTORY, b"/local/domain/1\0", 0)
    both.step(0, Op.SET_TARGET, b"2\0001\0")
    both.step(0, Op.WRITE, b"/t/d\0y")
    both.step(2, Op.TRANSACTION_END, b"T\0", 0)
    assert both.c.ended == Counter(conflicts=1)


@pytest.mark.parametrize("mode", RULES)
def test_what_a_dead_domain_was_allowed_the_next_of_its_number_is_not(mode: str) -> None:
    """Also if that was done in a transaction, and is done again when there is another domain of that number."""
    both = started(mode)
    both.step(0, Op.TRANSACTION_START, b"\0")
    both.step(0, Op.SET_PERMS, b"/t/a\0n0\0w2\0", 0)
    both.step(0, Op.RELEASE, b"2\0")
    both.step(0, Op.INTRODUCE, b"2\0001\000102\0")
    both.step(0, Op.WRITE, b"/t/d\0y")
    both.step(0, Op.TRANSACTION_END, b"T\0", 0)
    assert both.request(0, Op.GET_PERMS, b"/t/a\0").payload == (b"n0\0w2\0" if mode == "o" else b"n0\0")
    assert both.request(2, Op.READ, b"/t/a\0").payload == b"EACCES\0"


# --- no memory ---

GROWS = {Op.WRITE, Op.MKDIR, Op.RM, Op.SET_PERMS, Op.WATCH, Op.TRANSACTION_START, Op.INTRODUCE}


class Starved(Checked):
    """Every request meets the end of memory at every place where it takes some, one after the other, before it is
    served: it says ENOMEM then, and the store is as the core's is, which has not heard of the request."""

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.told: dict[int, int] = {}

    def request(self, domid: int, op: int, payload: bytes, tx_id: int = 0) -> Reply:
        lost = self.c.lost
        for pieces in range(10_000):
            self.c.memory(pieces)
            kind, answer = self.c.request(domid, op, payload, tx_id)
            refused = self.c.refused
            self.c.memory(None)
            if (kind, answer) != (Op.ERROR, b"ENOMEM\0") or not refused:
                break
            self.told[op] = self.told.get(op, 0) + 1
            if op == Op.TRANSACTION_END:  # the one thing that cannot be tried again
                payload = b"F\0"
                reply = Ours.request(self, domid, op, payload, tx_id)
                assert reply.op == op
                return reply
        else:
            raise AssertionError("it never ends")
        reply = Ours.request(self, domid, op, payload, tx_id)
        assert (kind, _plain(kind, answer)) == (reply.op, _plain(reply.op, reply.payload)), (domid, op, payload, tx_id)
        self.excused = self.c.lost > lost
        return reply

    def gone(self, domid: int) -> None:
        """A domain is destroyed: what cannot be removed at once is when there is memory again."""
        lost, pieces = self.c.lost, 0
        self.store.domain_released(domid)
        self.c.memory(0)
        while not self.c.gone(domid):
            pieces += 1
            self.c.memory(pieces)
        self.c.memory(None)
        self.excused = self.c.lost > lost

    excused = False

    def events(self, domid: int) -> set[tuple[bytes, bytes]]:
        """An event that there was no memory for is lost, and counted."""
        ours, theirs = Ours.events(self, domid), self.c.events(domid)
        assert theirs <= ours and (theirs == ours or self.excused)
        return ours


@pytest.mark.parametrize("mode", RULES)
@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(requests, requests, requests, life), min_size=5, max_size=30))
def test_without_memory_nothing_is_half_done(mode: str, sequence: list[Step]) -> None:
    both = Starved(mode)
    begin(both)
    for domid, op, payload, slot in sequence:
        if isinstance(op, str):
            if op == "gone" and domid in both.store.domains:
                both.gone(domid)
                both.check()
        else:
            both.step(domid, op, payload, slot)
    both.look()
    assert both.told


@pytest.mark.parametrize("mode", RULES)
def test_each_request_without_memory(mode: str) -> None:
    """Of all that take memory, each says ENOMEM at least once, in and outside of transactions, and then is done."""
    both = Starved(mode)
    begin(both)
    for slot in (None, 0):
        both.step(0, Op.WATCH, b"/t\0one%d\0" % (slot is None))
        both.step(1, Op.TRANSACTION_START, b"\0")
        both.step(0, Op.TRANSACTION_START, b"\0")
        both.step(0, Op.WRITE, b"/t/new/of/many\0" + b"v" * 3000, slot)
        both.step(0, Op.WRITE, b"/t/new/of/many\0w", slot)
        both.step(1, Op.MKDIR, b"a/b/c/d\0", slot)
        both.step(0, Op.SET_PERMS, b"/t/new\0n2\0r1\0", slot)
        both.step(0, Op.DIRECTORY_PART, b"/t\0000\0", slot)
        both.step(0, Op.RM, b"/t/new\0", slot)
        both.step(0, Op.READ, b"/t/a\0", slot)
        both.step(0, Op.TRANSACTION_END, b"F\0", 0)
    assert both.told.keys() >= GROWS | {Op.DIRECTORY_PART}
    for slot in (None, 0):  # past the room of mode c's first block, in the middle of a path
        both.step(0, Op.TRANSACTION_START, b"\0")
        for n in range(40):
            both.step(0, Op.WRITE, b"/big%d/%d/a/b/c\0" % (slot is None, n) + b"v" * 4000, slot)
            both.step(0, Op.DIRECTORY, b"/big%d\0" % (slot is None), slot)
        both.step(0, Op.TRANSACTION_END, b"F\0", 0)
    before = both.c.in_use
    both.gone(1)
    both.check()
    assert both.c.in_use < before


@pytest.mark.parametrize("mode", RULES)
def test_who_does_not_read_answers_waits_when_there_is_no_memory(mode: str) -> None:
    """The answer's room of a connection is one: until it is read nothing more is taken from it."""
    both = started(mode)
    both.step(1, Op.WRITE, b"x\0" + b"v" * 100)
    both.c.memory(0)
    assert both.c.accepts(1)
    both.c.send(1, Op.READ, b"x\0")
    assert not both.c.accepts(1) and both.c.accepts(2) and both.c.accepts(0)
    assert both.c.request(2, Op.READ, b"/t\0") == (Op.ERROR, b"EACCES\0")
    assert both.c.request(1, None, b"") == (Op.ERROR, b"ENOMEM\0")
    assert both.c.accepts(1)


# --- limits ---


@pytest.mark.parametrize("mode", RULES)
def test_quotas(mode: str) -> None:
    """Each of them, one step further than it goes, in and outside of a transaction."""
    both = started(mode)
    for slot in (None, 0):
        both.step(1, Op.TRANSACTION_START, b"\0")
        for n in range(1010):
            both.step(1, Op.WRITE, b"d%d/n%d\0v" % (n % 40, n), slot)
        both.step(1, Op.TRANSACTION_END, b"T\0", slot)
        both.step(1, Op.RESET_WATCHES, b"\0")
    for n in range(1, 2100, 50):
        both.step(1, Op.WRITE, b"big\0" + b"v" * n)
        both.step(0, Op.WRITE, b"big\0" + b"v" * (n * 3 // 2))
        both.step(0, Op.DIRECTORY, b"/local/domain/1\0")
    for n in range(131):
        both.step(1, Op.WATCH, b"x\0%d\0" % n)
    for _ in range(13):
        both.step(1, Op.TRANSACTION_START, b"\0")
    for n in range(5, 8):
        both.step(1, Op.SET_PERMS, b"/local/domain/1\0" + b"n1\0" * n)
    both.step(2, Op.TRANSACTION_START, b"\0")
    for n in range(1030):
        both.step(2, Op.READ, b"x%d\0" % n, 0)
    both.step(2, Op.TRANSACTION_END, b"T\0", 0)


@pytest.mark.parametrize("mode", RULES)
def test_lists_longer_than_a_message(mode: str) -> None:
    both = started(mode)
    for n in range(700):
        both.step(0, Op.MKDIR, b"/many/child%04d\0" % n)
    both.step(0, Op.DIRECTORY, b"/many\0")
    for domid in (0, 1):
        both.step(domid, Op.DIRECTORY_PART, b"/many\0000\0")
    found, offset = b"", 0
    while True:  # by the C store alone: its order of names is its own
        kind, part = both.c.request(0, Op.DIRECTORY_PART, b"/many\0%d\0" % offset)
        names = part.split(b"\0", 1)[1]
        assert kind == Op.DIRECTORY_PART and len(part) <= 4096
        if names.endswith(b"\0\0") or names == b"\0":
            found += names[:-1]
            break
        found += names
        offset += len(names)
    assert sorted(found.split(b"\0")[:-1]) == [b"child%04d" % n for n in range(700)]


@pytest.mark.parametrize("mode", RULES)
def test_deep_paths(mode: str) -> None:
    """A thousand levels, removed at once: no recursion whose depth a guest decides."""
    both = started(mode)
    deep = b"/local/domain/1" + b"/a" * 900
    both.step(1, Op.WRITE, deep + b"\0v")
    both.step(1, Op.READ, deep + b"\0")
    both.step(1, Op.TRANSACTION_START, b"\0")
    both.step(1, Op.RM, b"a\0", 0)
    both.step(1, Op.TRANSACTION_END, b"T\0", 0)
    both.step(1, Op.READ, deep + b"\0")


@pytest.mark.parametrize("mode", RULES)
def test_nothing_is_left_of_what_is_removed(mode: str) -> None:
    """Nodes, watches, and transactions that never end, of a domain that goes: all memory comes back."""
    both = started(mode)

    def visit() -> int:
        both.step(0, Op.INTRODUCE, b"3\0001\000103\0")
        both.step(0, Op.WRITE, b"/local/domain/3\0")
        both.step(0, Op.SET_PERMS, b"/local/domain/3\0n3\0")
        for n in range(50):
            both.step(3, Op.WRITE, b"t/%d\0v" % n)
            both.step(3, Op.WATCH, b"t/%d\0t\0" % n)
        for n in range(5):
            both.step(3, Op.TRANSACTION_START, b"\0")
            both.step(3, Op.WRITE, b"t/x\0v", n)
        during = both.c.in_use
        both.step(0, Op.RELEASE, b"3\0")
        return during

    visit()
    before = both.c.in_use
    assert visit() > before == both.c.in_use
