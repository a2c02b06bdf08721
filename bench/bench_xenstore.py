"""Host time of XenStore requests, bytes in to bytes out, alone and in a crowd.

`pytest bench/bench_xenstore.py --benchmark-enable`. The crowd is 1000 introduced domains with 30 nodes and one watch
each, which is what a host with 1000 guests has; the cost of a request should hardly depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pyvmm.xenstore import Client, GuestRing, Op, Packet, Ring, Store
from pyvmm.xenstore.ring import LocalPage

LEAVES = [f"device/vif/{number // 10}/{number % 10}" for number in range(27)]


class Crowd(NamedTuple):
    store: Store
    dom0: Client
    guest: Client


def crowd(domains: int) -> Crowd:
    """A store with so many domains; the guest is the middle one."""
    store = Store()
    dom0 = Client(store.connect_domain(0))
    guests = {}
    for domid in range(1, domains + 1):
        dom0.introduce(domid, domid, domid)
        home = f"/local/domain/{domid}"
        dom0.mkdir(home)
        dom0.set_permissions(home, [f"n{domid}"])
        guest = guests[domid] = Client(store.domains[domid].connection)
        for leaf in LEAVES:
            guest.write(leaf, "1")
        guest.watch("device", "d")
        guest.events()
    return Crowd(store, dom0, guests[(domains + 1) // 2])


@pytest.fixture(scope="module", params=[1, 1000], ids=["1-domain", "1000-domains"])
def place(request: pytest.FixtureRequest) -> Crowd:
    return crowd(request.param)


def _read(place: Crowd) -> None:
    place.guest.read("device/vif/0/3")


def _write(place: Crowd) -> None:
    place.guest.write("data", "value")


def _write_watched(place: Crowd) -> None:
    place.guest.write("device/vif/0/3", "value")
    place.guest.events()


def _make_and_remove(place: Crowd) -> None:
    place.guest.mkdir("tmp/x")
    place.guest.rm("tmp")


def _transaction(place: Crowd) -> None:
    with place.dom0.transaction() as transaction:
        for leaf in LEAVES[:10]:
            transaction.write(f"/tool/t/{leaf}", "1")


def _overtaken_transaction(place: Crowd) -> None:
    with place.dom0.transaction() as transaction:
        for leaf in LEAVES[:10]:
            transaction.write(f"/tool/t/{leaf}", "1")
        place.dom0.write("/tool/other", "1")


def _domain(place: Crowd) -> None:
    """A domain comes and goes."""
    domid = 5000
    place.dom0.introduce(domid, 1, 1)
    place.dom0.mkdir(f"/local/domain/{domid}")
    place.dom0.set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
    place.dom0.release(domid)


WORK = [_read, _write, _write_watched, _make_and_remove, _transaction, _overtaken_transaction, _domain]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__.strip("_"))
def test_requests(benchmark: BenchmarkFixture, place: Crowd, work: Callable[[Crowd], None]) -> None:
    benchmark(work, place)
    assert place.store.check() == []


def test_request_through_a_ring(benchmark: BenchmarkFixture) -> None:
    """One READ of a guest: put into the page, served, and the reply taken out."""
    place = crowd(1)
    page = LocalPage()
    ring = Ring(page, place.guest.connection, lambda: None)
    ring.attach()
    guest = GuestRing(page)
    request = Packet(Op.READ, 1, 0, b"device/vif/0/3\0").pack()

    def read() -> bytes:
        guest.send(request)
        ring.service()
        return guest.receive()

    assert benchmark(read) == Packet(Op.READ, 1, 0, b"1").pack()


def test_a_thousand_watchers_of_one_node(benchmark: BenchmarkFixture) -> None:
    """One write that 1000 connections hear of (as each xl process watches @releaseDomain, or all guests one node)."""
    store = Store()
    dom0 = Client(store.connect_domain(0))
    dom0.write("/shared", "x")
    dom0.set_permissions("/shared", ["r0"])
    watchers = [Client(store.connect_domain(domid)) for domid in range(1, 1001)]
    for watcher in watchers:
        watcher.watch("/shared", "t")

    def write_and_drain() -> None:
        dom0.write("/shared", "y")
        for watcher in watchers:
            watcher.connection.send()

    benchmark(write_and_drain)
