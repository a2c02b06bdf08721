"""The XenStore's domain on the running machine: how little memory it can do with, and what happens when that ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from pyvmm.hypervisor import lifecycle
from pyvmm.machine import Reg

from .dom0_rig import XENSTORE, Dom0Rig

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
        left = rig.host.hypervisor.domains.get(domid)
        assert (
            left is None or left.dying
        )  # the back ends, who hear of their devices' ends from the store, keep their pages
        assert "dom0" in rig("list") and rig("help")
        assert rig.later(100) == ""


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
