"""Creations that fail, and guests that end badly, on the running machine: one clear error, and everything is back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from pyvmm import compare, images
from pyvmm.abi import grant_table
from pyvmm.compare import PROMPT
from pyvmm.host import MIB
from pyvmm.hypervisor import lifecycle
from pyvmm.hypervisor.grant_table import GrantFailure
from tests.guests.dom0_rig import Dom0Rig

CRASHES = {"name": "crashes", "kernel": "crash", "memory": 8, "cmdline": "way=panic", "vifs": [{"ip": "10.9.9.9"}]}
FILES = {
    "crash": images.path("crash").read_bytes(),
    "crashes.json": json.dumps(CRASHES).encode(),
    "huge.json": json.dumps({"name": "huge", "kernel": "daytime", "memory": 900, "vifs": [{}]}).encode(),
    "many.json": json.dumps({"name": "many", "kernel": "daytime", "memory": 8, "vcpus": 4000}).encode(),
    "eight.json": json.dumps(
        {"name": "eight", "kernel": "noop", "memory": 4, "paused": True, "vifs": [{}] * 8}
    ).encode(),
    "noop": images.path("noop").read_bytes(),
    "rubbish": b"\x7fELF but nothing more",
    "rubbish.json": json.dumps({"name": "rubbish", "kernel": "rubbish", "memory": 8, "vifs": [{}]}).encode(),
}


@pytest.fixture(params=compare.DESIGNS)
def control(request: pytest.FixtureRequest) -> Iterator[compare.Control]:
    made = compare.Control(request.param, "daytime", 4, files=FILES, fewest=32)
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


def test_a_guest_that_somebody_else_destroyed(control: compare.Control) -> None:
    """There is nothing of it that could not be given back: its nodes, its devices and its record go without an error.
    In the middle of a creation it is one, in words."""

    def once(after: int) -> tuple[list[str], dict[str, object]]:
        domains = control.host.hypervisor.domains
        before, said = set(domains), ""
        if not after:
            said = control.command("create 00002.json other")
        else:
            control.dom0.console.feed(b"create 00002.json other\n")
            while not (made := set(domains) - before):
                assert control.host.settle(2000) == "budget"
            control.host.settle(after)
        made = set(domains) - before if after else {int(said.split()[3])}
        for domid in made:
            lifecycle.destroy_domain(domains[domid])
        control.host.settle()
        said = attempt(control, "destroy other")
        control.refill()
        return said.replace(PROMPT, "").splitlines(), held(control)

    once(0)
    (said, before), (again, after) = once(0), once(0)
    assert len(said) == len(again) == 1 and said[0].startswith("destroyed other domid"), said
    assert before == after
    if not control.shells:  # a shell is there before
        said, after = once(3000)
        assert re.search(r"other: (its?|the) .+ \(\w+\)$", said[0]), said
        assert before == after


def test_a_restarted_guest_is_made_by_its_own_design() -> None:
    """xl's process makes a guest that reboots again: as xl does, whatever design was chosen meanwhile."""
    config = b'name = "day"\nkernel = "daytime"\nmemory = 8\nvif = [ "" ]\n'
    with Dom0Rig("xl", files={"day.cfg": config}, guests=["daytime"]) as dom0:
        dom0.create("day.cfg", "day")
        assert not dom0("design chaos-noxs")
        assert "created day domid 3" in dom0("shutdown day reboot") + dom0.later(2)
        assert [line.split()[-1] for line in dom0("list").splitlines() if " day " in line] == ["xl"]


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


def attempt(control: compare.Control, line: str) -> str:
    """What the command said, or its one error."""
    try:
        return control.command(line)
    except compare.CommandError as error:
        assert "\n" not in str(error)
        return f"error: {error}"


@pytest.mark.slow
def test_dom0s_ports_run_out_in_a_creation(control: compare.Control) -> None:
    """dom0 has room for so many more ports only, from none on. A device whose port the toolstack cannot make refuses
    the creation; one whose back end finds out when its guest connects is told of, in words that do not blame the guest.
    Either way nothing is kept."""
    table = control.host.hypervisor.domains[0].evtchn
    enough = table.max_port
    before: dict[str, object] | None = None
    said = []
    for room in (0, *range(5)):
        table.max_port = max(table.ports) + room
        said.append(attempt(control, "create 00002.json short"))
        if "created" in said[-1]:
            attempt(control, "destroy short")  # under xl a guest that gives up is gone already
        table.max_port = enough
        control.refill()
        before = before or held(control)
        assert held(control) == before
    for one in said:
        assert "at fault" not in one
    assert "ENOSPC" in said[0] or control.design == "lightvm", said  # a shell has its ports
    assert "ENOSPC" not in said[-1] and said[-1].startswith("created"), said
    assert any("ENOSPC" in one for one in said)
    control.create(3)
    table.max_port = max(table.ports)  # for the next one's vif there is none, and a creation like that is no row
    with pytest.raises(compare.CommandError, match=r"no event channel|ENOSPC"):
        for n in range(4, 4 + 2 * compare.POOL):
            control.create(n)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["chaos-noxs", "lightvm"])
def test_dom0s_grants_run_out_in_a_creation(design: str) -> None:
    """Over noxs dom0 grants a page a device: the guest after the last grant is refused, whole, and can be made when
    another one is gone."""
    control = compare.Control(design, "noop", 64, files=FILES, fewest=64)
    grants = control.host.hypervisor.domains[0].grants
    grants.max_frames = 1  # of 512 entries
    made, error = 0, ""
    while made < 64 and not error:
        said = attempt(control, f"create eight.json e{made}")
        made, error = (made, said) if said.startswith("error") else (made + 1, "")
        before = held(control)
    assert 40 < made < 64 and re.search(r"its back end refuses a device \(ENOSPC\)$", error), (made, error)
    for _ in range(2):
        assert attempt(control, "create eight.json again") == error.replace(f"e{made}", "again")
        assert held(control) == before
    control.command("destroy e7")
    control.command("create eight.json again")
    assert held(control) == before
    control.close()


def later(control: compare.Control, seconds: int) -> str:
    """What dom0 says in this much virtual time."""
    machine, timers = control.host.machine, control.host.hypervisor.timers
    until = machine.now + seconds * 10**9
    while (due := timers.next()) is not None and due <= until:
        machine.skip_to(due)
        control.host.settle()
    return control._output().replace("\r", "").removesuffix(compare.PROMPT).strip()


REFUSED = {  # with back ends that hear nothing; the others wait for nobody, as their originals
    "xl": r"short: a back end was not ready within 10 seconds \(EAGAIN\)$",
    "chaos-noxs": r"short: its back end refuses a device \(ENODEV\)$",
}


@pytest.mark.slow
def test_back_ends_that_are_stopped(control: compare.Control) -> None:
    """A design that needs to hear from the back end refuses and leaves nothing; one that does not makes a guest whose
    device waits, and is served when the back ends start again."""

    def devices() -> list[str]:
        return [line for line in control.command("devices").splitlines() if line.startswith("vif 0 ")]

    def once() -> dict[str, object]:
        control.command("backends stop")
        said = attempt(control, "create 00002.json short")
        if control.design == "xl":
            assert not said  # it waits
            said = later(control, 11)
        if control.design in REFUSED:
            assert re.search(REFUSED[control.design], said), said
            assert "short" not in control.command("list")
            control.command("backends start")
        else:
            assert said.startswith("created short domid"), said
            domid = said.split()[3]
            assert not any("state 4" in line for line in devices() if f"domain {domid}:" in line)
            control.command("backends start")
            assert any("state 4, front end 4" in line for line in devices() if f"domain {domid}:" in line), devices()
            control.command("backends stop")  # a guest goes while nobody hears it
            control.command("destroy short")
            control.command("backends start")
            assert not any(f"domain {domid}:" in line for line in devices())
        control.refill()
        return held(control)

    once()
    assert once() == once()
    control.create(3)


@pytest.mark.slow
@pytest.mark.parametrize("kib", [22_960, 23_000, 23_020, 23_040, 23_060, 23_104])
def test_dom0s_own_memory_runs_out_guest_by_guest(kib: int) -> None:
    """xl leaves a thread for each guest: once dom0 has no memory for one more, a creation is one error, whatever of it
    there was no memory for; nothing of it stays, and there is room again when one guest has ended."""
    config = b'{"name": "noop", "kernel": "noop", "memory": 4, "vifs": [{}]}'
    with Dom0Rig("xl", files={"noop.json": config}, guests=["noop"], dom0_memory=kib << 10) as dom0:
        made, states = 0, list[tuple[str, str]]()
        while len(states) < 3:  # the first refusal may leave page tables, or join pieces of memory, for the next one
            said = dom0(f"create noop.json n{made}")
            if said.startswith("created"):
                made, states = made + 1, []
                continue
            assert re.fullmatch(rf"error: n{made}: dom0 has no memory left.* \(ENOMEM\)", said), said
            states.append((dom0("list"), dom0("memory")))
        assert 3 < made < 60
        assert states[1] == states[2]
        assert dom0("destroy n1").startswith("destroyed n1")
        assert dom0("create noop.json again").startswith("created again")


@pytest.mark.slow
@pytest.mark.parametrize("lack", ["no event channel for it (ENOSPC)", "its ring cannot be mapped (ENOSPC)"])
def test_a_console_that_dom0_has_no_room_for_is_one_line(lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest is made all the same; what the daemon had taken is back at once, and a later guest has its console."""
    config = b'{"name": "noop", "kernel": "noop", "memory": 4}'
    with Dom0Rig("chaos-xs", files={"noop.json": config}, guests=["noop"]) as dom0:
        dom0.create("noop.json", "first")
        control = dom0.host.hypervisor.domains[0]

        def taken() -> tuple[int, int]:
            return len(control.evtchn.ports), sum(bool(m.flags) for m in control.grants.maptrack.values())

        def full(vcpu: object) -> int:
            raise GrantFailure(grant_table.GNTST_no_space)

        before = taken()
        if "event channel" in lack:
            monkeypatch.setattr(control.evtchn, "max_port", max(control.evtchn.ports))
        else:
            monkeypatch.setattr(control.grants, "new_handle", full)
        said = sorted(dom0("create noop.json second").splitlines())
        assert said == [f"console of domain 3: {lack}", "created second domid 3"]
        assert taken() == before
        monkeypatch.undo()
        dom0.create("noop.json", "third")
        assert taken() == (before[0] + 1, before[1] + 1)
