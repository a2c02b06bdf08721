"""Every XenStore message of a device's handshake is on the list of `pyvmm.xenbus.messages`, and no other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pyvmm.host import Host
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.trace import Event
from pyvmm.toolstack.devices import Device, Vbd, Vif
from pyvmm.xenbus import messages
from pyvmm.xenbus.messages import Message

MIB = 1 << 20
GUEST = 1


def run(device: str, way: str, tmp_path: Path) -> list[Event]:
    """The XenStore requests of a guest with that device, from its creation until it waits."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    devices: list[Device] = [Vbd(target=str(disk), vdev="xvda")] if device == "vbd" else [Vif(0)]
    image, cmdline = ("blkcheck", "") if device == "vbd" else ("daytime", "ip=10.0.0.2")
    found: list[Event] = []
    with Host(memory=128 * MIB) as host:
        host.hypervisor.trace.listen(lambda e: found.append(e) if e.kind is trace.XS_REQUEST else None)
        if way == "noxs":
            host.services  # noqa: B018  what the services say at their own start is no part of it
            found.clear()
        host.create(image, memory=32 * MIB, cmdline=cmdline, devices=devices, negotiation=way)
        host.run(max_instructions=20_000_000)
        return list(found)


def directories(device: str) -> list[tuple[str, str]]:
    """(directory, its letter), the longer ones first where one begins like another."""
    if device == "control":
        return [("control", "F")]
    devid = {"vif": 0, "vbd": 51712, "console": 0}[device]
    front = "console" if device == "console" else f"device/{device}/{devid}"
    return [
        (f"/local/domain/0/backend/{device}/{GUEST}/{devid}", "B"),
        (f"/libxl/{GUEST}/device/{device}/{devid}", "L"),
        (f"/local/domain/{GUEST}/{front}", "F"),
        (front, "F"),
    ]


def sent(events: list[Event], device: str) -> Counter[Message]:
    """The messages about the device, until both ends are Connected; with its transactions' two ends."""
    found: Counter[Message] = Counter()
    touched: set[tuple[int, int]] = set()
    side = "toolstack"
    for event in events:
        op, tx, path = str(event.values[0]), int(event.values[1]), str(event.values[2])
        if event.domid == 0 and op == "DIRECTORY" and path.startswith("/local/domain"):
            side = "back"  # the toolstack has done its work; the back ends and daemons begin theirs
        who = side if event.domid == 0 else "front"
        if op == "TRANSACTION_END" and (event.domid, tx) in touched:
            touched.remove((event.domid, tx))
            found[Message(who, op, "-")] += 1
            found[Message(who, "TRANSACTION_START", "-")] += 1
        place = next(
            (letter + path[len(d) :] for d, letter in directories(device) if path == d or path.startswith(d + "/")),
            None,
        )
        if place is None:
            continue
        if tx:
            touched.add((event.domid, tx))
        elif (who, op, place) == ("front", "WRITE", "F/state"):
            break  # blkcheck begins to close: it is done
        found[Message(who, op, place)] += 1
    return found


@pytest.mark.parametrize("device", messages.DEVICES)
def test_every_message_is_one_of_the_list(device: str, tmp_path: Path) -> None:
    found = sent(run(device, "xenstore", tmp_path), device)
    expected = messages.ours(device)
    assert found - expected == Counter(), "more than the list says"
    assert expected - found == Counter(), "less than the list says"


@pytest.mark.parametrize("device", ["vif", "vbd"])
def test_noxs_sends_none(device: str, tmp_path: Path) -> None:
    assert sent(run(device, "noxs", tmp_path), device) == Counter()


def test_the_reference_has_the_sums_of_libxl() -> None:
    """Counted in libxl's source: 40 messages for a vif, 50 for a disk, 37 for a console, in one transaction each."""
    for device, total in (("vif", 40), ("vbd", 50), ("console", 37)):
        toolstack = {m: n for m, n in messages.reference(device).items() if m.who == "toolstack"}
        assert sum(toolstack.values()) == total
        assert toolstack[Message("toolstack", "TRANSACTION_START", "-")] == 1


def test_every_difference_has_a_reason() -> None:
    used = {difference.why for device in messages.DEVICES for difference in messages.DIFFERENCES[device]}
    assert used == set(messages.WHY)
    for device in messages.DEVICES:
        assert all(n >= 0 for n in messages.ours(device).values())
        assert all(d.delta for d in messages.DIFFERENCES[device])
