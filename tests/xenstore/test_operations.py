"""Every request, case by case: who sends what, and what the answer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from pyvmm.xenstore import Client, ConflictRule, Connection, Limits, NoEffects, Op, Packet, Settings, Store, XsError
from pyvmm.xenstore.operations import OPERATIONS


class World(NoEffects):
    """Domains 1, 2 and 3 exist; notes what the store asks for."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.alive = {0, 1, 2, 3}
        self.refuse = False

    def introduce(self, connection: Connection, gfn: int, port: int) -> None:
        if self.refuse:
            raise XsError("EINVAL")
        self.calls.append(("introduce", connection.domid, gfn, port))

    def release(self, domid: int) -> None:
        self.calls.append(("release", domid))

    def resume(self, domid: int) -> None:
        self.calls.append(("resume", domid))

    def domain_exists(self, domid: int) -> bool:
        return domid in self.alive

    def log(self, text: str) -> None:
        self.calls.append(("log", text))


class Setup(NamedTuple):
    store: Store
    world: World
    clients: dict[int, Client]


@pytest.fixture
def setup() -> Setup:
    return make()


def make(settings: Settings | None = None) -> Setup:
    world = World()
    store = Store(world, settings)
    dom0 = Client(store.connect_domain(0))
    clients = {0: dom0}
    for domid in (1, 2):
        dom0.introduce(domid, 0x100 + domid, 10 + domid)
        clients[domid] = Client(store.domains[domid].connection)
        dom0.mkdir(f"/local/domain/{domid}")
        dom0.set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
    dom0.write("/t/a/b", "value")
    dom0.write("/t/secret/leaf", "x")
    dom0.write("/t/open", "y")
    dom0.set_permissions("/t/open", ["r0"])
    dom0.write("/t/for1", "z")
    dom0.set_permissions("/t/for1", ["n0", "b1", "r2"])
    world.calls.clear()
    return Setup(store, world, clients)


def ask(setup: Setup, domid: int, op: int, payload: bytes) -> bytes:
    """The reply's payload, or the error's name."""
    try:
        return setup.clients[domid].call(op, payload)
    except XsError as error:
        return error.name.encode()


LONG = b"/" + b"n" * 2047
CASES: list[tuple[int, Op, bytes, bytes]] = [
    (0, Op.READ, b"/t/a/b\0", b"value"),
    (0, Op.READ, b"/t/a\0", b""),
    (0, Op.READ, b"/t/none\0", b"ENOENT"),
    (0, Op.READ, b"/t/none/none\0", b"ENOENT"),
    (0, Op.READ, b"", b"EINVAL"),
    (0, Op.READ, b"/t", b"EINVAL"),
    (0, Op.READ, b"/t\0\0", b"EINVAL"),
    (0, Op.READ, b"/t/a\0b\0", b"EINVAL"),
    (0, Op.READ, b"\0", b"EINVAL"),
    (0, Op.READ, b"/t/\0", b"EINVAL"),
    (0, Op.READ, b"/t//a\0", b"EINVAL"),
    (0, Op.READ, b"/t/a.b\0", b"EINVAL"),
    (0, Op.READ, b"/t/a\n\0", b"EINVAL"),
    (0, Op.READ, b"@releaseDomain\0", b"EINVAL"),
    (0, Op.READ, LONG + b"\0", b"ENOENT"),
    (0, Op.READ, LONG + b"n\0", b"EINVAL"),
    (0, Op.READ, b"/local/domain/1" + LONG + b"\0", b"ENOENT"),
    (0, Op.READ, b"/local/domain/1" + LONG + b"nn\0", b"EINVAL"),
    (1, Op.READ, b"/t/a/b\0", b"EACCES"),
    (1, Op.READ, b"/t/none\0", b"EACCES"),
    (1, Op.READ, b"/t/open\0", b"y"),
    (1, Op.READ, b"/t/open/none\0", b"ENOENT"),
    (1, Op.READ, b"/t/for1\0", b"z"),
    (2, Op.READ, b"/t/for1\0", b"z"),
    (2, Op.WRITE, b"/t/for1\0q", b"EACCES"),
    (1, Op.WRITE, b"/t/for1\0q", b"OK\0"),
    (1, Op.WRITE, b"/t/none\0q", b"EACCES"),
    (1, Op.WRITE, b"own/deep/er\0q", b"OK\0"),
    (0, Op.WRITE, b"/n/e/w\0a\0b", b"OK\0"),
    (0, Op.WRITE, b"/n\0", b"OK\0"),
    (0, Op.WRITE, b"/n", b"EINVAL"),
    (0, Op.WRITE, b"/\0root", b"OK\0"),
    (1, Op.WRITE, b"/\0root", b"EACCES"),
    (0, Op.DIRECTORY, b"/t\0", b"a\0secret\0open\0for1\0"),
    (0, Op.DIRECTORY, b"/t/open\0", b""),
    (0, Op.DIRECTORY, b"/t/none\0", b"ENOENT"),
    (0, Op.DIRECTORY, b"/\0", b"local\0tool\0t\0"),
    (1, Op.DIRECTORY, b"/t\0", b"EACCES"),
    (0, Op.MKDIR, b"/t/x/y\0", b"OK\0"),
    (0, Op.MKDIR, b"/t/a/b\0", b"OK\0"),
    (0, Op.MKDIR, b"/\0", b"OK\0"),
    (1, Op.MKDIR, b"/t/open\0", b"EACCES"),
    (0, Op.RM, b"/t/a\0", b"OK\0"),
    (0, Op.RM, b"/t/none\0", b"OK\0"),
    (0, Op.RM, b"/t/none/none\0", b"ENOENT"),
    (0, Op.RM, b"/\0", b"EINVAL"),
    (1, Op.RM, b"/t/open\0", b"EACCES"),
    (1, Op.RM, b"/t/for1\0", b"OK\0"),
    (1, Op.RM, b"/\0", b"EACCES"),
    (0, Op.GET_PERMS, b"/t/for1\0", b"n0\0b1\0r2\0"),
    (1, Op.GET_PERMS, b"/t/a\0", b"EACCES"),
    (0, Op.SET_PERMS, b"/t/a\0w1\0", b"OK\0"),
    (0, Op.SET_PERMS, b"/t/a\0b0x1\0r010\0", b"OK\0"),
    (0, Op.SET_PERMS, b"/t/a\0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0n0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0x0\0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0n\0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0n0x\0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0n09\0", b"EINVAL"),
    (0, Op.SET_PERMS, b"/t/a\0n77\0", b"ENOENT"),
    (0, Op.SET_PERMS, b"/t/a\0n0\0r77\0", b"OK\0"),
    (0, Op.SET_PERMS, b"/t/none\0n0\0", b"ENOENT"),
    (0, Op.SET_PERMS, b"@releaseDomain\0n0\0r1\0", b"OK\0"),
    (0, Op.SET_PERMS, b"@other\0n0\0", b"EINVAL"),
    (1, Op.SET_PERMS, b"@releaseDomain\0n1\0", b"EACCES"),
    (1, Op.SET_PERMS, b"/t/for1\0n0\0b1\0", b"EACCES"),
    (1, Op.SET_PERMS, b"/local/domain/1\0n1\0r2\0", b"OK\0"),
    (1, Op.SET_PERMS, b"/local/domain/1\0n2\0", b"EPERM"),
    (1, Op.SET_PERMS, b"/local/domain/1\0n1\0r0\0r0\0r0\0r0\0", b"OK\0"),
    (1, Op.SET_PERMS, b"/local/domain/1\0n1\0r0\0r0\0r0\0r0\0r0\0", b"ENOSPC"),
    (0, Op.WATCH, b"/t\0token\0", b"OK\0"),
    (0, Op.WATCH, b"/t\0", b"EINVAL"),
    (0, Op.WATCH, b"/t\0a\0b\0c\0", b"EINVAL"),
    (0, Op.WATCH, b"/t\0a\0001\0", b"OK\0"),
    (0, Op.WATCH, b"/t\0a\0-1\0", b"EINVAL"),
    (0, Op.WATCH, b"/t\0a\0\0", b"EINVAL"),
    (0, Op.WATCH, b"\0a\0", b"EINVAL"),
    (0, Op.WATCH, b"@releaseDomain\0a\0001\0", b"OK\0"),
    (0, Op.WATCH, b"@releaseDomain\0a\0002\0", b"EINVAL"),
    (0, Op.WATCH, b"@" + b"x" * 2048 + b"\0a\0", b"EINVAL"),
    (1, Op.WATCH, b"/t/secret\0a\0", b"OK\0"),
    (0, Op.UNWATCH, b"/t\0token\0", b"ENOENT"),
    (0, Op.UNWATCH, b"/t\0", b"EINVAL"),
    (0, Op.RESET_WATCHES, b"\0", b"OK\0"),
    (0, Op.TRANSACTION_START, b"\0", b"1\0"),
    (0, Op.TRANSACTION_END, b"T\0", b"ENOENT"),
    (0, Op.TRANSACTION_END, b"X\0", b"EINVAL"),
    (0, Op.INTRODUCE, b"3\0001\00013\0", b"OK\0"),
    (0, Op.INTRODUCE, b"3\0001\0", b"EINVAL"),
    (0, Op.INTRODUCE, b"3\0001\0000\0", b"EINVAL"),
    (0, Op.INTRODUCE, b"0\0001\0005\0", b"EINVAL"),
    (0, Op.INTRODUCE, b"32752\0001\0005\0", b"EINVAL"),
    (1, Op.INTRODUCE, b"3\0001\00013\0", b"EACCES"),
    (0, Op.RELEASE, b"1\0", b"OK\0"),
    (0, Op.RELEASE, b"3\0", b"ENOENT"),
    (0, Op.RELEASE, b"0\0", b"EINVAL"),
    (1, Op.RELEASE, b"1\0", b"EACCES"),
    (0, Op.RESUME, b"1\0", b"OK\0"),
    (0, Op.RESUME, b"3\0", b"ENOENT"),
    (1, Op.RESUME, b"1\0", b"EACCES"),
    (0, Op.GET_DOMAIN_PATH, b"007\0", b"/local/domain/7\0"),
    (1, Op.GET_DOMAIN_PATH, b"-1\0", b"/local/domain/4294967295\0"),
    (1, Op.GET_DOMAIN_PATH, b"7", b"EINVAL"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"1\0", b"T\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"3\0", b"F\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"0\0", b"T\0"),
    (0, Op.IS_DOMAIN_INTRODUCED, b"32752\0", b"T\0"),
    (1, Op.IS_DOMAIN_INTRODUCED, b"1\0", b"EACCES"),
    (0, Op.SET_TARGET, b"1\0002\0", b"OK\0"),
    (0, Op.SET_TARGET, b"1\0003\0", b"ENOENT"),
    (0, Op.SET_TARGET, b"1\0", b"EINVAL"),
    (1, Op.SET_TARGET, b"1\0002\0", b"EACCES"),
    (0, Op.CONTROL, b"check\0", b"OK\0"),
    (0, Op.CONTROL, b"check\0x\0", b"EINVAL"),
    (0, Op.CONTROL, b"log\0off\0", b"OK\0"),
    (0, Op.CONTROL, b"log\0up\0", b"EINVAL"),
    (0, Op.CONTROL, b"print\0hello\0", b"OK\0"),
    (0, Op.CONTROL, b"quota\0set\0nodes\00050\0", b"OK\0"),
    (0, Op.CONTROL, b"quota\0set\0nodes\0000\0", b"EINVAL"),
    (0, Op.CONTROL, b"quota\0set\0noodles\0009\0", b"EINVAL"),
    (0, Op.CONTROL, b"quota\00077\0", b"ENOENT"),
    (0, Op.CONTROL, b"live-update\0-s\0", b"EINVAL"),
    (0, Op.CONTROL, b"dance\0", b"EINVAL"),
    (0, Op.CONTROL, b"", b"EINVAL"),
    (1, Op.CONTROL, b"check\0", b"EACCES"),
    (0, Op.DIRECTORY_PART, b"/t/open\0000\0", b"8\0\0"),
    (0, Op.DIRECTORY_PART, b"/t\0002\0", b"10\0secret\0open\0for1\0\0"),
    (0, Op.DIRECTORY_PART, b"/t\00099\0", b"10\0\0"),
    (0, Op.DIRECTORY_PART, b"/t\0", b"EINVAL"),
    (0, Op.WATCH_EVENT, b"", b"ENOSYS"),
    (0, Op.ERROR, b"", b"ENOSYS"),
]  # fmt: skip


def test_every_operation_has_cases() -> None:
    assert {op for _, op, _, _ in CASES} >= set(OPERATIONS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1].name}-{case[2][:30]!r}")
def test_case(setup: Setup, case: tuple[int, Op, bytes, bytes]) -> None:
    domid, op, payload, expected = case
    got = ask(setup, domid, op, payload)
    if (
        op == Op.DIRECTORY_PART and b"\0" in expected
    ):  # the generation's value is not promised, only that it is a number
        generation, _, got = got.partition(b"\0")
        assert generation.isdigit()
        expected = expected.partition(b"\0")[2]
    assert got == expected
    assert setup.store.check() == []


@pytest.mark.parametrize("kind", [20, 23, 99, 0xFFFF, 0xFFFFFFFF])
def test_unknown_types_get_enosys(setup: Setup, kind: int) -> None:
    assert ask(setup, 0, kind, b"/t\0") == b"ENOSYS"


def test_reply_carries_the_request_and_transaction_ids(setup: Setup) -> None:
    connection = setup.clients[0].connection
    connection.receive(Packet(Op.WATCH, 77, 88, b"/t\0x\0").pack())
    assert connection.send() == (
        Packet(Op.WATCH, 77, 88, b"OK\0").pack() + Packet(Op.WATCH_EVENT, 0, 0, b"/t\0x\0").pack()
    )
    connection.receive(Packet(Op.READ, 5, 88, b"/t\0").pack())
    assert connection.send() == Packet(Op.ERROR, 5, 88, b"ENOENT\0").pack()


def test_created_nodes_inherit_and_belong_to_their_maker(setup: Setup) -> None:
    dom0, one = setup.clients[0], setup.clients[1]
    one.write("/t/for1/x/y", "1")
    assert one.get_permissions("/t/for1/x/y") == ["n1", "b1", "r2"]
    dom0.write("/local/domain/1/made-by-0", "1")
    assert dom0.get_permissions("/local/domain/1/made-by-0") == ["n1"]
    assert setup.store.statistics().owned[1] == 4


def test_a_long_directory_comes_in_parts(setup: Setup) -> None:
    dom0 = setup.clients[0]
    names = [f"child-{number:04}" for number in range(1200)]
    for name in names:
        dom0.mkdir(f"/many/{name}")
    assert ask(setup, 0, Op.DIRECTORY, b"/many\0") == b"E2BIG"
    assert dom0.ls("/many") == names
    first = ask(setup, 0, Op.DIRECTORY_PART, b"/many\0000\0")
    assert 4000 < len(first) <= 4096 and first.endswith(b"\0") and not first.endswith(b"\0\0")


def test_target_gets_the_rights_of_its_domain(setup: Setup) -> None:
    dom0, one, two = (setup.clients[domid] for domid in (0, 1, 2))
    two.write("mine", "2")
    assert ask(setup, 1, Op.READ, b"/local/domain/2/mine\0") == b"EACCES"
    dom0.set_target(1, 2)
    one.write("/local/domain/2/mine", "1")
    assert two.read("mine") == b"1"
    setup.store.domain_released(2)
    dom0.introduce(2, 1, 2)
    dom0.mkdir("/local/domain/2")
    dom0.set_permissions("/local/domain/2", ["n2"])
    assert ask(setup, 1, Op.READ, b"/local/domain/2\0") == b"EACCES"


def test_effects_are_called(setup: Setup) -> None:
    dom0, world = setup.clients[0], setup.world
    dom0.introduce(3, 0x77, 9)
    dom0.introduce(3, 0x77, 10)
    dom0.resume(3)
    dom0.release(3)
    dom0.control("print", "hello")
    assert world.calls == [
        ("introduce", 3, 0x77, 9), ("introduce", 3, 0x77, 10), ("resume", 3), ("release", 3), ("log", "hello"),
    ]  # fmt: skip
    world.refuse = True
    assert ask(setup, 0, Op.INTRODUCE, b"3\0001\0005\0") == b"EINVAL"
    assert not dom0.is_introduced(3)
    assert setup.store.check() == []


def test_released_domain_leaves_nothing(setup: Setup) -> None:
    before = make().store.statistics()
    dom0 = setup.clients[0]
    dom0.watch("/t", "w")
    dom0.watch("@releaseDomain", "r")
    dom0.introduce(3, 1, 2)
    three = Client(setup.store.domains[3].connection)
    dom0.mkdir("/local/domain/3")
    dom0.set_permissions("/local/domain/3", ["n3"])
    dom0.write("/t/of3", "x")
    dom0.set_permissions("/t/of3", ["n3"])
    dom0.set_permissions("/t/a", ["n0", "r3"])
    three.write("data/x", "1")
    three.watch("data", "t")
    three.transaction().write("data/y", "2")
    assert three.read("/t/a") == b""
    dom0.events()
    setup.store.domain_released(3)
    events = [tuple(event) for event in dom0.events()]
    assert events == [("/t/of3", "w"), ("@releaseDomain", "r")]
    assert not dom0.exists("/local/domain/3") and not dom0.exists("/t/of3")
    dom0.reset_watches()
    dom0.introduce(3, 1, 2)
    setup.clients[3] = Client(setup.store.domains[3].connection)
    assert ask(setup, 3, Op.READ, b"/t/a\0") == b"EACCES"
    setup.store.domain_released(3)
    after = setup.store.statistics()
    assert (after.nodes, after.owned, after.watches, after.transactions, after.connections, after.domains) == (
        before.nodes, before.owned, before.watches, before.transactions, before.connections, before.domains,
    )  # fmt: skip
    assert setup.store.check() == []


def test_shutdown_fires_once_until_resumed(setup: Setup) -> None:
    dom0, store = setup.clients[0], setup.store
    dom0.watch("@releaseDomain", "all")
    dom0.watch("@releaseDomain/1", "one")
    dom0.watch("@releaseDomain", "which", depth=1)
    dom0.events()
    all_three = [("@releaseDomain", "all"), ("@releaseDomain/1", "one"), ("@releaseDomain/1", "which")]
    store.domain_shutdown(1)
    store.domain_shutdown(1)
    assert [tuple(event) for event in dom0.events()] == all_three
    dom0.resume(1)
    store.domain_shutdown(1)
    assert [tuple(event) for event in dom0.events()] == all_three
    store.domain_shutdown(2)
    assert [tuple(event) for event in dom0.events()] == [("@releaseDomain", "all"), ("@releaseDomain/2", "which")]


def test_specials_reach_only_the_privileged_and_the_permitted(setup: Setup) -> None:
    dom0, one, two = (setup.clients[domid] for domid in (0, 1, 2))
    dom0.set_permissions("@introduceDomain", ["n0", "r1"])
    for client in (dom0, one, two):
        client.watch("@introduceDomain", "i")
        client.events()
    dom0.introduce(3, 1, 2)
    assert [len(client.events()) for client in (dom0, one, two)] == [1, 1, 0]


def test_introducing_again_resets_the_connection(setup: Setup) -> None:
    dom0, one = setup.clients[0], setup.clients[1]
    one.watch("x", "t")
    one.transaction()
    one.events()
    dom0.introduce(1, 1, 99)
    assert (setup.store.statistics().watches, setup.store.statistics().transactions) == (0, 0)
    one.write("x", "1")
    assert one.events() == []


def test_observer_sees_each_request() -> None:
    seen: list[tuple[str, int, int, str, str]] = []
    store = Store(observer=lambda *what: seen.append(what))
    client = Client(store.connect_privileged())
    client.write("/a", "1")
    with client.transaction() as transaction:
        transaction.read("/a")
    with pytest.raises(XsError, match="ENOENT"):
        client.read("/b")
    client.control("log", "off")
    client.read("/a")
    assert seen == [
        ("WRITE", 0, 0, "/a", "OK"), ("TRANSACTION_START", 0, 0, "", "OK"), ("READ", 0, 1, "/a", "OK"),
        ("TRANSACTION_END", 0, 1, "T", "OK"), ("READ", 0, 0, "/b", "ENOENT"),
    ]  # fmt: skip


# --- quotas ---


def test_node_quota(setup: Setup) -> None:
    one, limit = setup.clients[1], 1000
    for number in range(limit - 1):  # its home is the first of its nodes
        one.write(f"d{number % 100}" if number < 100 else f"d{number % 100}/n{number}", "")
    assert setup.store.statistics().owned[1] == limit
    assert ask(setup, 1, Op.MKDIR, b"more\0") == b"ENOSPC"
    one.write("d1", "still writable")
    one.rm("d1/n101")
    one.mkdir("more")
    setup.clients[0].write("/local/domain/1/by-dom0", "has no quota")


@pytest.mark.parametrize(("length", "expected"), [(2048 - 24 - 8 - 1, b"OK\0"), (2048 - 24 - 8, b"ENOSPC")])
def test_node_size_quota(setup: Setup, length: int, expected: bytes) -> None:
    assert ask(setup, 1, Op.WRITE, b"big\0" + b"v" * length) == expected
    assert ask(setup, 0, Op.WRITE, b"/big\0" + b"v" * length) == b"OK\0"


def test_watch_quota(setup: Setup) -> None:
    for number in range(129):
        setup.clients[1].watch("x", str(number))
    assert ask(setup, 1, Op.WATCH, b"x\0one more\0") == b"E2BIG"
    setup.clients[1].unwatch("x", "7")
    assert ask(setup, 1, Op.WATCH, b"x\0one more\0") == b"OK\0"
    assert ask(setup, 1, Op.WATCH, b"x\0one more\0") == b"EEXIST"


def test_transaction_quota(setup: Setup) -> None:
    for _ in range(11):
        setup.clients[1].transaction()
    assert ask(setup, 1, Op.TRANSACTION_START, b"\0") == b"ENOSPC"
    setup.clients[1].reset_watches()
    assert ask(setup, 1, Op.TRANSACTION_START, b"\0") == b"12\0"


def test_requests_in_a_transaction_are_limited(setup: Setup) -> None:
    transaction = setup.clients[1].transaction()
    for _ in range(1024):
        transaction.mkdir("x")
    with pytest.raises(XsError, match="ENOSPC"):
        transaction.mkdir("x")
    with pytest.raises(XsError, match="ENOMEM"):
        transaction.commit()
    assert not setup.clients[1].exists("x")


def test_quota_cannot_be_evaded_by_a_transaction() -> None:
    setup = make(Settings(limits=Limits(nodes=5)))
    one = setup.clients[1]
    transaction = one.transaction()
    for name in "abcd":
        transaction.mkdir(name)
    with pytest.raises(XsError, match="ENOSPC"):
        transaction.mkdir("e")
    one.mkdir("z")
    with pytest.raises(XsError, match="EAGAIN"):  # merged, it would go over
        transaction.commit()
    assert setup.store.statistics().owned[1] == 2


def test_quota_can_be_changed_and_read(setup: Setup) -> None:
    dom0 = setup.clients[0]
    dom0.control("quota", "set", "watches", "1")
    setup.clients[1].watch("a", "a")
    setup.clients[1].watch("b", "b")
    assert ask(setup, 1, Op.WATCH, b"c\0c\0") == b"E2BIG"
    assert f"{'watches':<17}: {1:8} Watches per domain\n" in dom0.control("quota")
    assert f"{'watches':<16}: {2:8}\n" in dom0.control("quota", "1")


# --- transactions ---

RULES = [ConflictRule.REPLAY, ConflictRule.PATHS, ConflictRule.GLOBAL]
CONFLICTS = [
    # what the transaction does, what is done meanwhile, and whether REPLAY, PATHS, GLOBAL commit
    ("read /t/a; write /x", "write /t/a", (False, False, False)),
    ("read /t/a; write /x", "write /t/open", (True, True, False)),
    ("write /t/a", "write /t/a", (True, False, False)),
    ("ls /t; write /x", "write /t/new", (False, False, False)),
    ("ls /t; write /x", "write /t/a/b", (True, True, False)),
    ("write /t/n1", "write /t/n2", (True, False, False)),
    ("read /t/gone; write /x", "write /t/gone", (False, False, False)),
    ("write /t/a/b", "rm /t/a", (True, False, False)),
    ("rm /t/a", "rm /t/a", (True, False, False)),
    ("perms /t/a; write /x", "chmod /t/a", (False, False, False)),
    ("read /t/a", "", (True, True, True)),
    ("write /t/a", "", (True, True, True)),
]


VERBS: dict[str, Callable[[Client, str], object]] = {
    "read": Client.read,
    "ls": Client.ls,
    "rm": Client.rm,
    "perms": Client.get_permissions,
    "write": lambda client, path: client.write(path, "new"),
    "chmod": lambda client, path: client.set_permissions(path, ["r0"]),
}


def perform(client: Client, script: str) -> None:
    for line in filter(None, script.split("; ")):
        verb, path = line.split()
        try:
            VERBS[verb](client, path)
        except XsError as error:
            assert error.name == "ENOENT"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda conflict: f"{conflict[0]} / {conflict[1]}")
def test_conflicts(rule: ConflictRule, conflict: tuple[str, str, tuple[bool, ...]]) -> None:
    inside, meanwhile, expected = conflict
    setup = make(Settings(conflict=rule))
    dom0 = setup.clients[0]
    before = setup.store.nodes()
    transaction = dom0.transaction()
    perform(transaction, inside)
    assert setup.store.nodes() == before, "nothing of a transaction shows before it ends"
    perform(dom0, meanwhile)
    others = setup.store.nodes()
    if expected[RULES.index(rule)]:
        transaction.commit()
    else:
        with pytest.raises(XsError, match="EAGAIN"):
            transaction.commit()
        assert setup.store.nodes() == others
    with pytest.raises(XsError, match="ENOENT"):
        transaction.read("/t")
    assert setup.store.check() == [] and setup.store.statistics().transactions == 0


def test_a_transaction_sees_its_own_snapshot(setup: Setup) -> None:
    dom0 = setup.clients[0]
    transaction = dom0.transaction()
    dom0.write("/t/a", "later")
    dom0.rm("/t/open")
    assert transaction.read("/t/a") == b"" and transaction.exists("/t/open")
    transaction.write("/t/own", "1")
    assert transaction.read("/t/own") == b"1" and not dom0.exists("/t/own")
    transaction.abort()
    assert not dom0.exists("/t/own")


def test_nested_transactions_are_busy(setup: Setup) -> None:
    with pytest.raises(XsError, match="EBUSY"), setup.clients[0].transaction() as transaction:
        transaction.transaction()


def test_transact_repeats_until_it_fits(setup: Setup) -> None:
    dom0 = setup.clients[0]
    dom0.write("/counter", "0")
    tries = 0

    def increment(transaction: Client) -> int:
        nonlocal tries
        tries += 1
        value = int(transaction.read("/counter"))
        if tries < 4:
            dom0.write("/counter", str(value + 10))
        transaction.write("/counter", str(value + 1))
        return value + 1

    assert (dom0.transact(increment), tries, dom0.read("/counter")) == (31, 4, b"31")


def test_no_node_is_committed_for_a_dead_domain(setup: Setup) -> None:
    dom0 = setup.clients[0]
    transaction = dom0.transaction()
    transaction.mkdir("/t/for3")
    transaction.set_permissions("/t/for3", ["n3"])
    setup.store.domain_released(3)
    with pytest.raises(XsError, match="EAGAIN"):
        transaction.commit()
