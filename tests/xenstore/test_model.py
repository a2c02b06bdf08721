"""Random histories against a store of ten lines, a dict from path to value. Trees are compared after every step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pyvmm.xenstore import Client, Store, XsError
from pyvmm.xenstore.inprocess import Transaction

NAMES = ("a", "b", "c")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: "/m/" + "/".join(names))
values = st.binary(max_size=5)


class Model:
    """What a tree holds, as a dict; parents exist when their children do."""

    def __init__(self, nodes: dict[str, bytes]) -> None:
        self.nodes = dict(nodes)

    def write(self, path: str, value: bytes) -> None:
        self.mkdir(path)
        self.nodes[path] = value

    def mkdir(self, path: str) -> None:
        while path:
            self.nodes.setdefault(path, b"")
            path = path.rpartition("/")[0]

    def rm(self, path: str) -> bool:
        if path.rpartition("/")[0] not in self.nodes:
            return False
        self.nodes = {p: v for p, v in self.nodes.items() if p != path and not p.startswith(path + "/")}
        return True

    def children(self, path: str) -> set[str]:
        return {p[len(path) + 1 :] for p in self.nodes if p.startswith(path + "/") and "/" not in p[len(path) + 1 :]}


Open = tuple[Transaction, Model, int, list[set[str]]]


class Histories(RuleBasedStateMachine):
    """Two tools, transactions of both, one watcher."""

    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.clients = [Client(self.store.connect_privileged()) for _ in range(2)]
        self.clients[0].mkdir("/m")
        self.watcher = Client(self.store.connect_privileged())
        self.watcher.watch("/m", "w")
        self.watcher.events()
        self.model = Model({"/m": b""})
        self.version = 0
        self.changed: set[str] = set()

    @staticmethod
    def rm(client: Client, path: str, model: Model) -> None:
        existed = model.rm(path)
        try:
            client.rm(path)
            assert existed
        except XsError as error:
            assert error.name == "ENOENT" and not existed

    @rule(who=st.integers(0, 1), path=paths, value=values)
    def write(self, who: int, path: str, value: bytes) -> None:
        self.clients[who].write(path, value)
        self.model.write(path, value)
        self.version += 1
        self.changed.add(path)

    @rule(who=st.integers(0, 1), path=paths)
    def mkdir(self, who: int, path: str) -> None:
        new = path not in self.model.nodes
        self.clients[who].mkdir(path)
        self.model.mkdir(path)
        if new:
            self.version += 1
            self.changed.add(path)

    @rule(who=st.integers(0, 1), path=paths)
    def remove(self, who: int, path: str) -> None:
        if path in self.model.nodes:
            self.version += 1
            self.changed.add(path)
        self.rm(self.clients[who], path, self.model)

    @rule(who=st.integers(0, 1), path=paths)
    def read(self, who: int, path: str) -> None:
        client = self.clients[who]
        if path in self.model.nodes:
            assert client.read(path) == self.model.nodes[path]
            assert set(client.ls(path)) == self.model.children(path)
        else:
            assert not client.exists(path)

    @rule(target=transactions, who=st.integers(0, 1))
    def start(self, who: int) -> object:
        return self.clients[who].transaction(), Model(self.model.nodes), self.version, [set()]

    @rule(transaction=transactions, path=paths, value=values)
    def write_inside(self, transaction: Open, path: str, value: bytes) -> None:
        client, model, _, (changed,) = transaction
        client.write(path, value)
        model.write(path, value)
        changed.add(path)

    @rule(transaction=transactions, path=paths)
    def remove_inside(self, transaction: Open, path: str) -> None:
        client, model, _, (changed,) = transaction
        if path in model.nodes:
            changed.add(path)
        self.rm(client, path, model)

    @rule(transaction=transactions, path=paths)
    def read_inside(self, transaction: Open, path: str) -> None:
        client, model, _, _ = transaction
        assert client.exists(path) == (path in model.nodes)

    @rule(target=transactions, transaction=consumes(transactions), commit=st.booleans())
    def end(self, transaction: Open, commit: bool) -> object:
        client, model, version, (changed,) = transaction
        before = dict(self.model.nodes)
        if not commit:
            client.abort()
            return multiple()
        try:
            client.commit()
        except XsError as error:
            assert error.name == "EAGAIN" and version != self.version, "nobody was in the way"
            return multiple()
        if version == self.version:
            self.model = model
        else:  # merged: how is checked against oxenstored; here, that nothing else has changed
            self.model = Model(
                {path: value for path, (value, _) in self.store.nodes().items() if path.startswith("/m")}
            )
            for path in set(before) | set(self.model.nodes):
                if before.get(path) != self.model.nodes.get(path):
                    assert any(path == c or path.startswith(c + "/") or c.startswith(path + "/") for c in changed)
        self.version += bool(changed)
        existing = set(before) | set(self.model.nodes)
        self.changed |= {path for path in changed if path in existing}
        return multiple()

    @invariant()
    def trees_are_equal(self) -> None:
        held = {path: value for path, (value, _) in self.store.nodes().items() if path.startswith("/m")}
        assert held == self.model.nodes
        assert self.store.check() == []

    @invariant()
    def watcher_heard_of_each_change(self) -> None:
        assert {event.path for event in self.watcher.events()} == self.changed
        self.changed = set()

    def teardown(self) -> None:
        for client in (*self.clients, self.watcher):
            client.close()
        statistics = self.store.statistics()
        assert (statistics.connections, statistics.watches, statistics.transactions) == (0, 0, 0)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
