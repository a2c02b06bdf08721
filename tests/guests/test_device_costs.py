"""What devices cost, in instructions, with everybody x86 code: guest, dom0 with its back ends, the XenStore.

The counts are exact, and docs/guests.md has them; `python -m tests.guests.test_device_costs` writes them there again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guests.dom0_rig import Dom0Rig

PAGE = Path(__file__).parents[2] / "docs" / "guests.md"
BEGIN, END = "<!-- costs: begin -->\n", "<!-- costs: end -->\n"
WAYS = {"XenStore": "chaos-xs", "noxs": "chaos-noxs"}
DISK = 1 << 20
Counts = dict[str, int]


def _file(name: str, kernel: str, cmdline: str = "", vif: bool = False, vbd: bool = False) -> bytes:
    what: dict[str, object] = {"name": name, "kernel": kernel, "memory": 8, "cmdline": cmdline}
    if vif:
        what["vifs"] = [{"ip": f"10.0.0.{name[-1]}", "mac": f"00:16:3e:00:00:0{name[-1]}"}]
    if vbd:
        what["vbds"] = [{"target": "disk", "type": "file", "vdev": "xvda", "access": "w"}]
    return json.dumps(what).encode()


def run(design: str, *guests: bytes) -> Counts:
    """Instructions of each domain for making these guests, one after the other, until all is quiet."""
    files = {f"{number}.json": guest for number, guest in enumerate(guests)} | {"disk": bytes(DISK)}
    names = [json.loads(guest)["name"] for guest in guests]
    images = ["daytime", "echo", "blkcheck"]
    with Dom0Rig(design, files=files, guests=images, writable=["disk"]) as dom0:
        domains, first = dom0.host.hypervisor.domains, 2 if design == "chaos-xs" else 1
        before = {domid: domain.counters.instructions for domid, domain in domains.items()}
        made = {}
        for number, name in enumerate(names):
            dom0.type(f"create {number}.json")
            dom0.settle()
            made[name] = domains.get(first + number) or made.get(name)
        dom0.later(1)
        counts = {name: domain.counters.instructions for name, domain in made.items() if domain is not None}
        counts["dom0"] = domains[0].counters.instructions - before[0]
        if first == 2:
            counts["xenstored"] = domains[1].counters.instructions - before[1]
        return counts


def difference(design: str, more: list[bytes], less: list[bytes], parts: int = 1) -> Counts:
    """What each domain executes more for `more` than for `less`, divided by `parts`."""
    one, other = run(design, *more), run(design, *less)
    return {name: round((count - other.get(name, 0)) / parts) for name, count in one.items()}


def measured() -> str:
    """The table."""
    lines = ["| | who | XenStore | noxs |", "|---|---|---|---|"]

    def row(what: str, found: dict[str, Counts], **names: str) -> None:
        for name, shown in names.items():
            cells = [f"{found[way][name]:,}" if name in found[way] else "0" for way in WAYS]
            lines.append(f"| {what} | {shown} | {cells[0]} | {cells[1]} |")
            what = ""

    alone = _file("guest1", "daytime")
    echo = {
        n: [_file("server1", "echo", vif=True), _file("client2", "echo", f"to=10.0.0.1 count={n} size=1000", vif=True)]
        for n in (16, 144)
    }
    disk = {n: [_file("guest1", "blkcheck", f"first=0 count={n}", vbd=True)] for n in (64, 1088)}
    others = {"dom0": "dom0", "xenstored": "XenStore"}
    row(
        "`daytime` without a device",
        {way: run(design, alone) for way, design in WAYS.items()},
        guest1="guest",
        **others,
    )
    row(
        "the same with a network device, more",
        {way: difference(design, [_file("guest1", "daytime", vif=True)], [alone]) for way, design in WAYS.items()},
        guest1="guest",
        **others,
    )
    row(
        "an echo of 1000 bytes, two packets",
        {way: difference(design, echo[144], echo[16], 128) for way, design in WAYS.items()},
        client2="client",
        server1="server",
        dom0="back ends and switch",
        xenstored="XenStore",
    )
    row(
        "`blkcheck` of 64 sectors with a disk, more than without one",
        {way: difference(design, disk[64], [_file("guest1", "blkcheck")]) for way, design in WAYS.items()},
        guest1="guest",
        **others,
    )
    row(
        "a sector written, read and verified, its pattern made and hashed",
        {way: difference(design, disk[1088], disk[64], 1024) for way, design in WAYS.items()},
        guest1="guest",
        dom0="back end",
        xenstored="XenStore",
    )
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_the_documented_costs_are_true() -> None:
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written == measured(), "write it again: python -m tests.guests.test_device_costs"


if __name__ == "__main__":
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{measured()}{END}{rest.split(END)[1]}", encoding="utf-8")
