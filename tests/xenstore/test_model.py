"""Random histories against a store of ten lines, a dict from path to value. Trees are compared after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pyvmm.xenstore import Client, ConflictRule, Settings, Store, XsError
from pyvmm.xenstore.inprocess import Transaction

NAMES = ("a", "b")  # few, so that clients meet
DEEP = "/m/a/b"
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: "/m/" + "/".join(names))
calls = st.one_of(
    st.tuples(st.just("write"), paths, st.binary(max_size=5)),
    st.tuples(st.sampled_from(("mkdir", "rm", "read", "ls")), paths),
)


class Model:
    """What a tree holds, as a dict; parents exist when their children do. Operations return what clients are told."""

    def __init__(self, nodes: dict[str, bytes]) -> None:
        self.nodes = dict(nodes)
        self.changed: set[str] = set()
        self.removed: set[str] = set()

    def write(self, path: str, value: bytes) -> None:
        self._make(path)
        self.nodes[path] = value
        self.changed.add(path)

    def mkdir(self, path: str) -> None:
        if path not in self.nodes:
            self._make(path)
            self.changed.add(path)

    def _make(self, path: str) -> None:
        while path:
            self.nodes.setdefault(path, b"")
            path = path.rpartition("/")[0]

    def rm(self, path: str) -> str | None:
        if path.rpartition("/")[0] not in self.nodes:
            return "ENOENT"
        if path in self.nodes:
            self.changed.add(path)
            self.removed.add(path)
        self.nodes = {p: v for p, v in self.nodes.items() if p != path and not p.startswith(path + "/")}
        return None

    def read(self, path: str) -> bytes | str:
        return self.nodes.get(path, "ENOENT")

    def ls(self, path: str) -> list[str] | str:
        if path not in self.nodes:
            return "ENOENT"
        return [p[len(path) + 1 :] for p in self.nodes if p.startswith(path + "/") and "/" not in p[len(path) + 1 :]]

    def events(self, before: dict[str, bytes]) -> tuple[set[str], set[str]]:
        """What a watch on all and one on DEEP hear of the way here from `before`: the changes of what was there or is,
        and a removal above takes the watched node along."""
        heard = self.changed & (before.keys() | self.nodes.keys())
        deep = {path for path in heard if path == DEEP or path.startswith(DEEP + "/")}
        if DEEP in before and any(DEEP.startswith(path + "/") for path in self.removed & before.keys()):
            deep.add(DEEP)
        return heard, deep


Call = tuple[Any, ...]
"""An operation's name and arguments."""


def call(target: Client | Model, name: str, *arguments: str | bytes) -> object:
    """Run an operation on either; what its client is told."""
    operation: Callable[..., object] = getattr(target, name)
    try:
        return operation(*arguments)
    except XsError as error:
        return error.name


@dataclass
class Open:
    """A transaction that has not ended."""

    client: Transaction
    model: Model
    version: int
    done: list[tuple[Call, object]] = field(default_factory=list)

    def run(self, name: str, *arguments: str | bytes) -> None:
        told = call(self.client, name, *arguments)
        assert told == call(self.model, name, *arguments)
        self.done.append(((name, *arguments), told))

    def again(self, nodes: dict[str, bytes]) -> Model | None:
        """What comes of its operations on another tree; None when its client would have been told otherwise there."""
        model = Model(nodes)
        told = [call(model, *done) for done, _ in self.done]
        return model if told == [before for _, before in self.done] else None


class Histories(RuleBasedStateMachine):
    """Two tools, transactions of both, two watches."""

    conflict = ConflictRule.REPLAY
    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(settings=Settings(conflict=self.conflict))
        self.clients = [Client(self.store.connect_privileged()) for _ in range(2)]
        self.clients[0].mkdir("/m")
        self.watcher = Client(self.store.connect_privileged())
        self.watcher.watch("/m", "all")
        self.watcher.watch(DEEP, "deep")
        self.watcher.events()
        self.nodes = {"/m": b""}
        self.version = 0
        self.heard: tuple[set[str], set[str]] = (set(), set())

    def becomes(self, model: Model) -> None:
        heard, deep = model.events(self.nodes)
        self.heard = (self.heard[0] | heard, self.heard[1] | deep)
        self.version += bool(model.changed)
        self.nodes = model.nodes

    def outside(self, who: int, name: str, *arguments: str | bytes) -> None:
        model = Model(self.nodes)
        assert call(self.clients[who], name, *arguments) == call(model, name, *arguments)
        self.becomes(model)

    @rule(who=st.integers(0, 1), requested=calls)
    def alone(self, who: int, requested: Call) -> None:
        self.outside(who, *requested)

    @rule(target=transactions, who=st.integers(0, 1))
    def start(self, who: int) -> object:
        return self.opened(who)

    def opened(self, who: int) -> Open:
        return Open(self.clients[who].transaction(), Model(self.nodes), self.version)

    @rule(transaction=transactions, requested=calls)
    def inside(self, transaction: Open, requested: Call) -> None:
        transaction.run(*requested)

    @rule(transaction=consumes(transactions))
    def abort(self, transaction: Open) -> None:
        transaction.client.abort()

    @rule(target=transactions, transaction=consumes(transactions))
    def commit(self, transaction: Open) -> object:
        alone = transaction.version == self.version
        merged = transaction.again(self.nodes)
        assert merged is not None or not alone
        try:
            transaction.client.commit()
        except XsError as error:
            assert error.name == "EAGAIN"
            assert not alone, "nobody was in the way"
            assert merged is None or self.conflict is not ConflictRule.REPLAY
        else:
            assert merged is not None, "what its client was told is not true"
            assert alone or self.conflict is not ConflictRule.GLOBAL
            self.becomes(merged)
        return multiple()

    @rule(inside=st.lists(calls, min_size=1, max_size=3), between=st.lists(calls, min_size=1, max_size=3))
    def overtaken(self, inside: list[Call], between: list[Call]) -> None:
        transaction = self.opened(0)
        for requested in inside:
            transaction.run(*requested)
        for requested in between:
            self.outside(1, *requested)
        self.commit(transaction)

    @invariant()
    def trees_are_equal(self) -> None:
        held = {path: value for path, (value, _) in self.store.nodes().items() if path.startswith("/m")}
        assert held == self.nodes
        assert self.store.check() == []

    @invariant()
    def watcher_heard_of_each_change(self) -> None:
        events = self.watcher.events()
        everything, deep = ({event.path for event in events if event.token == token} for token in ("all", "deep"))
        assert (everything, deep) == self.heard
        self.heard = (set(), set())

    def teardown(self) -> None:
        for client in (*self.clients, self.watcher):
            client.close()
        statistics = self.store.statistics()
        assert (statistics.connections, statistics.watches, statistics.transactions) == (0, 0, 0)


class HistoriesByPath(Histories):
    """Transactions are merged when no node that they touched has changed."""

    conflict = ConflictRule.PATHS


class HistoriesOfOne(Histories):
    """Transactions are never merged."""

    conflict = ConflictRule.GLOBAL


for machine in (Histories, HistoriesByPath, HistoriesOfOne):
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
TestHistoriesByPath = HistoriesByPath.TestCase
TestHistoriesOfOne = HistoriesOfOne.TestCase


# A removal that had nothing to do in its transaction has something to do when it is merged: found by the histories.


@pytest.mark.parametrize("also", [(), ("/m/b/a",)], ids=["alone", "then written below"])
def test_removal_gets_something_to_do_when_merged(also: tuple[str, ...]) -> None:
    history = Histories()
    history.outside(0, "mkdir", "/m/a")
    first = history.opened(0)
    first.run("write", "/m/b", b"x")
    second = history.opened(0)
    history.watcher_heard_of_each_change()
    history.commit(first)
    assert history.heard[0] == {"/m/b"}
    history.watcher_heard_of_each_change()
    history.outside(0, "mkdir", "/m/a")
    second.run("rm", "/m/b")
    for path in also:
        second.run("write", path, b"")
    history.watcher_heard_of_each_change()
    history.commit(second)
    assert history.heard[0] == {"/m/b", *also}
    assert history.nodes == {"/m": b"", "/m/a": b""} | ({"/m/b": b"", "/m/b/a": b""} if also else {})
    history.trees_are_equal()
    history.watcher_heard_of_each_change()
    history.teardown()
