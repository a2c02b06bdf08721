"""Creations that fail, and guests that end badly, on the running machine: one clear error, and everything is back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from pyvmm import compare, images
from pyvmm.host import MIB

CRASHES = {"name": "crashes", "kernel": "crash", "memory": 8, "cmdline": "way=panic", "vifs": [{"ip": "10.9.9.9"}]}
FILES = {
    "crash": images.path("crash").read_bytes(),
    "crashes.json": json.dumps(CRASHES).encode(),
    "huge.json": json.dumps({"name": "huge", "kernel": "daytime", "memory": 900, "vifs": [{}]}).encode(),
    "many.json": json.dumps({"name": "many", "kernel": "daytime", "memory": 8, "vcpus": 4000}).encode(),
    "rubbish": b"\x7fELF but nothing more",
    "rubbish.json": json.dumps({"name": "rubbish", "kernel": "rubbish", "memory": 8, "vifs": [{}]}).encode(),
}


@pytest.fixture(params=compare.DESIGNS)
def control(request: pytest.FixtureRequest) -> Iterator[compare.Control]:
    made = compare.Control(request.param, "daytime", 4, files=FILES, fewest=4)
    made.create(1)  # what is made once, is
    made.command("destroy daytime00001")
    made.refill()
    yield made
    made.close()


def held(control: compare.Control) -> dict[str, object]:
    """What is in use: frames, domains, dom0's and the XenStore's ports and mappings, nodes, dom0's memory."""
    hv = control.host.hypervisor
    control.command("list")  # a domain whose last page somebody let go of is gone when it is looked for
    found: dict[str, object] = {"frames": hv.frames.free_count, "domains": len(hv.domains)}
    for domain in hv.domains.values():
        if domain.domid == 0 or domain.xenstore:
            found[f"ports of {domain.domid}"] = len(domain.evtchn.ports)
            found[f"mappings of {domain.domid}"] = sum(bool(m.flags) for m in domain.grants.maptrack.values())
    if control.xenstore:
        found["nodes"] = re.findall(r"\d+ nodes", control.command("store"))
    found["memory"] = control.command("memory")
    return found


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("huge.json", r"huge: .*memory"),
        ("many.json", r"many\.json:1: vcpus: "),
        ("rubbish.json", r"rubbish: .*ELF"),
        ("nothing.json", r"no file nothing\.json"),
    ],
)
def test_what_cannot_be_made_is_one_error_and_leaves_nothing(control: compare.Control, file: str, error: str) -> None:
    with pytest.raises(compare.CommandError):
        control.command(f"create {file}")
    control.refill()
    before = held(control)
    for _ in range(2):
        with pytest.raises(compare.CommandError, match=error) as caught:
            control.command(f"create {file}")
        assert "\n" not in str(caught.value)
        control.refill()
    assert held(control) == before
    control.create(2)  # and the next one is made as if nothing had been


def test_a_guest_that_dies_before_it_connects(control: compare.Control) -> None:
    """Its creation is done; that it crashed is told by `list`; to destroy it gives everything back. xl's process
    for the guest destroys it by itself."""

    def once() -> dict[str, object]:
        said = control.command("create crashes.json")
        domid = re.search(r"created crashes domid (\d+)", said)
        assert domid is not None, said
        lines = [line for line in control.command("list").splitlines() if "crashes" in line]
        if control.design == "xl":
            assert not lines
        else:
            assert "---sc-" in lines[0], lines
            control.command("destroy crashes")
        control.refill()
        return held(control)

    once()
    assert once() == once()


def test_memory_runs_out_guest_by_guest(control: compare.Control) -> None:
    """Guests are made until the host has no memory for one more; that one leaves nothing, and after one of the others
    is destroyed there is room again."""
    made = 1
    while made < 100:
        made += 1
        try:
            control.command(f"create 00002.json d{made}")
        except compare.CommandError as error:
            assert "memory" in str(error)
            break
    assert 4 < made < 100 and control.host.hypervisor.frames.free_count < 16 * MIB // 4096
    names = control.command("list")
    before = control.host.hypervisor.frames.free_count
    with pytest.raises(compare.CommandError):
        control.command("create 00002.json last")
    assert control.command("list") == names and control.host.hypervisor.frames.free_count == before
    control.command("destroy d2")
    control.command("create 00003.json d2")
