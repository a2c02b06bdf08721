"""The C store in both modes against the Python core: the same requests by domain 0 and two domains, the same replies
and events. Mode c is the core under its GLOBAL conflict rule, mode o under REPLAY."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.xenstore import ConflictRule, Op, Settings, Store
from tests.xenstore.test_oxenstored import Ours

from .xenstored_native import CStore

RULES = {"c": ConflictRule.GLOBAL, "o": ConflictRule.REPLAY}
PATHS = (b"/t", b"/t/a", b"/t/a/b", b"/t/a/b/c", b"/t/d", b"/t/d/e", b"/none/x", b"/t//a", b"/t/a b", b"/t/")
paths = st.sampled_from(PATHS)
slots = st.one_of(st.none(), st.integers(0, 1))
END = st.sampled_from((b"T\0", b"T\0", b"F\0"))


def _tail(path: bytes) -> bytes:
    return path + b"\0"


nodes = st.one_of(
    st.tuples(st.sampled_from((Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.MKDIR, Op.RM)), paths.map(_tail), slots),
    st.tuples(st.just(Op.WRITE), st.builds(lambda p, v: p + b"\0" + v, paths, st.sampled_from((b"", b"w\0x"))), slots),
    st.tuples(st.just(Op.TRANSACTION_START), st.just(b"\0"), st.none()),
    st.tuples(st.just(Op.TRANSACTION_END), END, slots),
    st.tuples(st.sampled_from((Op.WATCH, Op.UNWATCH)), paths.map(lambda p: p + b"\0t\0"), st.none()),
    st.tuples(st.just(Op.GET_DOMAIN_PATH), st.sampled_from((b"1\0", b"77\0")), st.none()),
)


class Pair:
    """Both stores after the same requests."""

    def __init__(self, mode: str) -> None:
        self.c = CStore(mode)
        self.core = Ours()
        self.core.store = Store(settings=Settings(conflict=RULES[mode]))
        self.core.dom0 = self.core.store.connect_domain(0)
        self.open: list[int] = []

    def step(self, op: int, payload: bytes, slot: int | None = None) -> bytes:
        tx = self.open[slot % len(self.open)] if slot is not None and self.open else 0
        mine = self.core.request(0, op, payload, tx)
        kind, answer = self.c.request(0, op, payload, tx)
        if op == Op.DIRECTORY and kind == op:  # the order of the names has no meaning
            assert sorted(answer.split(b"\0")) == sorted(mine.payload.split(b"\0"))
        else:
            assert (kind, answer) == (mine.op, mine.payload), (Op(op).name, payload, tx)
        if op == Op.TRANSACTION_START and kind == op:
            self.open.append(int(answer[:-1]))
        elif op == Op.TRANSACTION_END and tx:
            self.open.remove(tx)
        assert self.c.events(0) == self.core.events(0), (Op(op).name, payload, tx)
        return answer


@pytest.mark.parametrize("mode", RULES)
@settings(max_examples=200, deadline=None)
@given(st.lists(nodes, min_size=5, max_size=40))
def test_generated_requests_of_dom0(mode: str, sequence: list[tuple[Op, bytes, int | None]]) -> None:
    pair = Pair(mode)
    for op, payload, slot in sequence:
        pair.step(op, payload, slot)


@pytest.mark.parametrize("mode", RULES)
def test_nothing_is_left_of_what_is_removed(mode: str) -> None:
    """Nodes, watches and transactions that never end: all memory comes back."""
    pair = Pair(mode)
    before = pair.c.in_use
    for n in range(50):
        pair.step(Op.WRITE, b"/t/%d\0v" % n)
        pair.step(Op.WATCH, b"/t/%d\0t\0" % n)
    for _ in range(5):
        pair.step(Op.TRANSACTION_START, b"\0")
        pair.step(Op.WRITE, b"/t/x\0v", len(pair.open) - 1)
    assert pair.c.in_use > before
    pair.step(Op.RESET_WATCHES, b"\0")
    pair.open.clear()
    pair.step(Op.RM, b"/t\0")
    assert abs(pair.c.in_use - before) <= 1  # the root's list of children may have got room
