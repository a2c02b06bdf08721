"""The XenStore's domain on the running machine: how little memory it can do with, and what happens when that ends."""

from __future__ import annotations

import json
import re

import pytest

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
