"""The XenStore's domain on the running machine: how little memory it can do with, and what happens when that ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from pyvmm.hypervisor import event_channel, lifecycle
from pyvmm.machine import Reg
from pyvmm.xenstore import Op, Packet, Parser
from pyvmm.xenstore.ring import GuestRing

from .dom0_rig import XENSTORE, Dom0Rig

pytestmark = pytest.mark.slow  # whole hosts, again and again

LEAST = 5  # MiB; guests/dom0/storedom.c
FILES = {"one.json": json.dumps({"name": "one", "kernel": "noop", "memory": 4, "vifs": [{}]}).encode()}


def machine(design: str, store: str) -> Dom0Rig:
    return Dom0Rig(design, files=FILES, guests=("noop",), store=store)


def nodes(rig: Dom0Rig) -> int:
    found = re.search(r"(\d+) nodes", rig("store"))
    assert found
    return int(found[1])


@pytest.mark.parametrize("design", XENSTORE)
@pytest.mark.parametrize("mode", "co")
def test_the_least_memory_is_enough_for_guests(mode: str, design: str) -> None:
    with machine(design, f"{mode} {LEAST}") as rig:
        for n in range(3):
            rig.create("one.json", f"g{n}")
        rig("destroy g0")
        rig.create("one.json", "again")


def test_less_than_the_least_is_refused() -> None:
    with Dom0Rig("lightvm", files=FILES) as rig:
        for mib in (0, LEAST - 1, 4097):
            assert rig(f"store c {mib}") == f"error: its memory is to be from {LEAST} to 4096 MiB"
        assert rig(f"store c {LEAST}").startswith("XenStore c in domain 1")


@pytest.mark.parametrize("design", ["xl", "chaos-xs"])
@pytest.mark.parametrize("mode", "co")
def test_a_store_out_of_memory_refuses_and_goes_on(mode: str, design: str) -> None:
    """Guests are made until the store has no memory for one more. That is one error, again and again, and leaves no
    node; when others are destroyed, guests can be made again: all but a few in mode o, at least half in mode c,
    whose block of records was of another size the first time."""
    with machine(design, f"{mode} {LEAST}") as rig:
        for n in range(100):
            before = nodes(rig)
            said = rig(f"create one.json g{n}")
            if not said.startswith("created"):
                break
        assert 5 < n < 99
        for _ in range(3):
            assert re.fullmatch(r"error: \w+: .* \(ENOMEM\)", said)
            assert nodes(rig) == before
            said = rig("create one.json more")
        for m in range(n - 1):
            assert rig(f"destroy g{m}") == f"destroyed g{m} domid {m + 2}"
        for m in range(n - 2 if mode == "o" else n // 2):
            rig.create("one.json", f"new{m}")


def panic(rig: Dom0Rig) -> None:
    """The next instruction of the store is none: it says so, and crashes."""
    (v,) = rig.host.hypervisor.domains[1].vcpus
    rig.host.machine.switch(v.context)
    v.space.write(rig.host.machine.get(Reg.RIP), b"\x0f\x0b")


def destroy(rig: Dom0Rig) -> None:
    """Somebody else's toolstack destroys it."""
    lifecycle.destroy_domain(rig.host.hypervisor.domains[1])
    rig.settle()


class Hand:
    """A domain's ring to the store, used by the test while the domain itself does nothing."""

    def __init__(self, rig: Dom0Rig, domid: int) -> None:
        self.rig, self.parser = rig, Parser()
        hv = rig.host.hypervisor
        self.port = next(p for p in hv.domains[domid].evtchn.ports.values() if p.remote is hv.domains[1])
        self.pa = 0
        if domid:
            self.pa = rig.host.machine.ram.read_u32(hv.domains[domid].grants.entry_pa(1) + 4) << 12
        else:
            (mapped,) = (m for m in hv.domains[1].grants.maptrack.values() if m.flags and not m.domain.domid)
            self.pa = rig.host.machine.ram.read_u32(hv.domains[0].grants.entry_pa(mapped.ref) + 4) << 12

    def read(self, offset: int, length: int) -> bytes:
        return self.rig.host.machine.ram.read(self.pa + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self.rig.host.machine.ram.write(self.pa + offset, data)

    def send(self, op: int, payload: bytes, tx_id: int = 0) -> None:
        data = Packet(op, 1, tx_id, payload).pack()
        assert GuestRing(self).send(data) == len(data)
        (v,) = self.rig.host.hypervisor.domains[1].vcpus
        event_channel.set_pending(v, self.port.remote_port)
        self.rig.settle()

    def request(self, op: int, payload: bytes, tx_id: int = 0) -> tuple[int, bytes]:
        self.send(op, payload, tx_id)
        packet, data = None, GuestRing(self).receive()
        while data:
            missing = self.parser.missing
            packet, data = self.parser.feed(data[:missing]), data[missing:]
        assert packet is not None
        return packet.type, packet.payload


MOST = 11  # transactions of a domain at once: xenstored counts beyond its quota of 10


@pytest.mark.parametrize("design", ["xl", "chaos-xs"])
@pytest.mark.parametrize("mode", "co")
def test_transactions_that_never_end_hold_nobody_up(mode: str, design: str) -> None:
    """A guest opens as many as it may, writes in each, and ends none: guests are made and destroyed beside it without a
    conflict; when it is destroyed its transactions are gone and their memory is back."""

    def visit(rig: Dom0Rig, most: int) -> str:
        domid = rig.create("one.json", "holder")
        hand = Hand(rig, domid)
        for n in range(most):
            kind, answer = hand.request(Op.TRANSACTION_START, b"\0")
            assert kind == Op.TRANSACTION_START
            name = b"data/%d\0" % n
            said = hand.request(Op.WRITE, name + bytes(900), int(answer[:-1]))
            assert said == (Op.WRITE, b"OK\0")
        if most:
            assert hand.request(Op.TRANSACTION_START, b"\0") == (Op.ERROR, b"ENOSPC\0")
        for n in range(3):
            rig.create("one.json", f"g{n}")
        rig("destroy g1")
        rig.create("one.json", "again")
        during = rig("store")
        for name in ("g0", "again", "g2", "holder"):
            assert rig(f"destroy {name}").startswith(f"destroyed {name}")
        assert " 0 conflicts" in during and during != rig("store")
        return rig("store").rpartition(", ")[2]

    with machine(design, f"{mode} 32") as rig:
        visit(rig, MOST)  # what is made once, is
        assert visit(rig, 0) == visit(rig, MOST)


@pytest.mark.parametrize("design", ["xl", "chaos-xs"])
@pytest.mark.parametrize("mode", "co")
def test_one_of_dom0_that_never_ends(mode: str, design: str) -> None:
    with machine(design, f"{mode} 32") as rig:
        hand = Hand(rig, 0)
        for _ in range(3):
            hand.send(Op.TRANSACTION_START, b"\0")  # dom0 does not know of them, and drops the answer
        for n in range(3):
            rig.create("one.json", f"g{n}")
        rig("destroy g1")
        found = re.search(r"(\d+) transactions, (\d+) commits .* 0 conflicts", rig("store"))
        assert found and int(found[1]) - int(found[2]) == 3


GONE = "error: the XenStore is gone"


@pytest.mark.parametrize("design", XENSTORE)
@pytest.mark.parametrize("end", [panic, destroy])
def test_a_store_that_is_gone_is_one_error_and_no_wait(end: Callable[[Dom0Rig], None], design: str) -> None:
    """dom0 says so in answer to every command that needs it; its other work goes on, and guests can be destroyed."""
    with machine(design, "c 32") as rig:
        domid = rig.create("one.json", "before")
        end(rig)
        for name in ("g1", "g2"):
            assert rig(f"create one.json {name}") == GONE
        assert rig("store") == rig("store c") == rig("store o 32") == GONE
        assert rig("shutdown before") == GONE
        assert sorted(rig.host.hypervisor.domains) == [0, domid], "dom0 gives back what a crashed one holds"
        assert rig("destroy before") == f"{GONE}\ndestroyed before domid {domid}"
        assert "dom0" in rig("list") and rig("help")
        assert sorted(rig.host.hypervisor.domains) == [0], "its back ends and its console let go of its pages"
        assert rig.later(100) == ""


def test_shells_and_devices_of_a_store_that_is_gone() -> None:
    """That shells are given up says so, too, once; and back ends that start again keep the devices of guests that run:
    that a store does not answer does not mean that they are gone."""
    files = {"day.json": json.dumps({"name": "day", "kernel": "daytime", "memory": 8, "vifs": [{}]}).encode()}
    with Dom0Rig("chaos-xs-split", files=files, guests=("daytime",), store="o 16") as rig:
        assert rig("pool day.json 3") == "pool of 3 shells"
        rig.create("day.json", "runs")
        panic(rig)
        assert rig("pool day.json 0") == GONE
        assert rig("pool") == "" and "shell" not in rig("list")
        served = rig("devices")
        assert served.startswith("vif 0") and "state 4, front end 4" in served
        assert not rig("backends stop") and not rig("backends start")
        assert rig("devices") == served


@pytest.mark.parametrize("design", ["xl", "chaos-xs"])
@pytest.mark.parametrize("after", [0, 50_000, 150_000, 300_000])
def test_a_store_that_goes_in_the_middle_of_a_creation(after: int, design: str) -> None:
    with machine(design, "o 32") as rig:
        rig.create("one.json", "before")
        rig.output()
        rig.type("create one.json g")
        rig.run(after)
        destroy(rig)
        said = rig.output()
        assert said.count(GONE) == 1 and "created" not in said
        assert rig("create one.json h") == GONE
        assert sorted(rig.host.hypervisor.domains) == [0, 2]
