"""dom0's back ends as x86 code: disks on files, the switch, their life with front ends that close, return, break the
rules or die.

Guests are made by each of the five designs. What the guests say is compared with what the files hold, with our Python
back ends and with each other; what is left afterwards with what was there before.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from pyvmm.host import MIB, Host
from pyvmm.hypervisor import lifecycle
from pyvmm.machine import Reg
from pyvmm.machine.exits import PageFault
from pyvmm.toolstack.devices import Vbd
from tests.guests.dom0_rig import DESIGNS, PROMPT, XENSTORE, Dom0Rig
from tests.guests.test_devices_split import pattern

SECTORS, SEED = 1000, 7
EMPTY = bytes(SECTORS * 512)
WRITTEN = b"".join(pattern(SEED, n) for n in range(SECTORS))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(kernel: str, cmdline: str = "", *, vifs: int = 0, disks: tuple[str, ...] = (), first: int = 1) -> bytes:
    """A configuration in xl's syntax. Interfaces have the addresses 10.0.0.`first` and up; a disk is its target and
    mode, "a,rw"."""
    vif = [f"mac=00:16:3e:00:00:{first + i:02x},ip=10.0.0.{first + i}" for i in range(vifs)]
    disk = [f"/{d.partition(',')[0]},raw,xvd{chr(97 + i)},{d.partition(',')[2]}" for i, d in enumerate(disks)]
    text = f"name = '{kernel}'\nkernel = '{kernel}'\nmemory = 16\nextra = '{cmdline}'\nvif = {vif}\ndisk = {disk}\n"
    return (text + "on_poweroff = 'preserve'\n").encode()


@pytest.fixture(params=DESIGNS)
def design(request: pytest.FixtureRequest) -> str:
    """Who makes the guests."""
    return str(request.param)


def way_of(design: str) -> str:
    return "xs" if design in XENSTORE else "noxs"


# --- disks ---


def python_back_end(way: str, cmdline: str, disk: Path, *, readonly: bool = False) -> str:
    """What blkcheck says when its disk is served in Python."""
    with Host(128 * MIB) as host:
        disks = [Vbd(str(disk), "xvda", readonly=readonly)]
        negotiation = "noxs" if way == "noxs" else "xenstore"
        guest = host.create("blkcheck", memory=16 * MIB, cmdline=cmdline, disks=disks, negotiation=negotiation)
        assert host.run(2_000_000_000).exit == "poweroff"
        return guest.console.text.replace("\r", "").strip()


@pytest.mark.parametrize("options", ["", " close"])
def test_a_disk_is_a_file(design: str, options: str, tmp_path: Path) -> None:
    """blkcheck, with more on the way than a ring has pages, indirect tables, flushes, discards and errors, says what
    it says of the Python back end; the file holds what it wrote, and nobody else's file has changed."""
    cmdline = f"seed={SEED}{options}"
    files = {"disk.img": EMPTY, "other.img": EMPTY, "g.cfg": config("blkcheck", cmdline, disks=("disk.img,rw",))}
    with Dom0Rig(design, files=files, guests=["blkcheck"], writable=["disk.img"]) as rig:
        domid = rig.create("g.cfg", "g")
        said = rig.said(domid).strip()
        (line,) = [line for line in rig("devices").splitlines() if line.startswith("vbd")]
        assert rig("hash disk.img") == f"{sha256(WRITTEN)} disk.img"
        assert rig("hash /other.img") == f"{sha256(EMPTY)} other.img"
    disk = tmp_path / "disk"
    disk.write_bytes(EMPTY)
    assert said == python_back_end(way_of(design), cmdline, disk) and "0 failed checks" in said
    assert f"sha256 {sha256(WRITTEN)}" in said and disk.read_bytes() == WRITTEN
    moved = re.fullmatch(rf"vbd 51712 of domain {domid}: state 6, front end 6, in (\d+), out (\d+), .* errors 7", line)
    assert (
        moved and int(moved[1]) == 2 * SECTORS and int(moved[2]) == 3 * SECTORS + 1
    )  # checked twice, read once; one last sector


def test_a_disk_by_chaos_configuration(design: str) -> None:
    """The same from chaos's JSON, with two disks, one of which may only be read."""
    vbds = [
        {"target": "/disk.img", "type": "file", "access": "r", "vdev": "xvda"},
        {"target": "/other.img", "type": "file", "access": "w", "vdev": "xvdb"},
    ]
    files = {
        "disk.img": WRITTEN,
        "other.img": EMPTY,
        "g.json": json.dumps(
            {"name": "g", "kernel": "blkcheck", "memory": 16, "vbds": vbds, "on_poweroff": "preserve"}
        ).encode(),
    }
    with Dom0Rig(design, files=files, guests=["blkcheck"], writable=["other.img"]) as rig:
        said = rig.said(rig.create("g.json", "g"))
        assert "ok   write to a read-only disk is refused" in said and "0 failed checks" in said
        assert ", read-only, 64 segments" in said and f"sha256 {sha256(WRITTEN)}" in said
        assert rig("hash disk.img").startswith(sha256(WRITTEN)) and rig("hash other.img").startswith(sha256(EMPTY))
        assert sorted(re.findall(r"vbd (\d+) of", rig("devices"))) == ["51712", "51728"]


def test_what_stays_in_a_file_is_there_for_the_next_guest(design: str) -> None:
    files = {
        "disk.img": EMPTY,
        "w.cfg": config("blkcheck", f"seed={SEED}", disks=("disk.img,rw",)),
        "v.cfg": config("blkcheck", f"seed={SEED} verify", disks=("disk.img,r",)),
    }
    with Dom0Rig(design, files=files, guests=["blkcheck"], writable=["disk.img"]) as rig:
        rig.create("w.cfg", "writer")
        assert rig("destroy writer").startswith("destroyed")
        for name in ("reader", "another"):  # at the same time
            said = rig.said(rig.create("v.cfg", name))
            assert "ok   verify" in said and "0 failed checks" in said


REFUSED = {
    "lost.cfg": ("nowhere.img,rw", "ENOENT"),
    "fixed.cfg": ("fixed.img,rw", "EACCES"),
    "taken.cfg": ("disk.img,r", "EBUSY"),
}


def test_disks_that_cannot_be(design: str) -> None:
    """A file that is not there, may not be written to, or is somebody's to write: one line, and nothing is left. chaos
    over the XenStore waits for no back end: there the guest has a disk that never connects, and dom0's console the
    cause."""
    files = {"disk.img": EMPTY, "fixed.img": EMPTY, "g.cfg": config("noop", disks=("disk.img,rw",))}
    files |= {name: config("noop", disks=(disk,)) for name, (disk, _) in REFUSED.items()}
    with Dom0Rig(design, files=files, guests=["noop"], writable=["disk.img"]) as rig:
        rig.create("g.cfg", "holder")
        before = rig.leave()
        for name, (_, error) in REFUSED.items():
            said = rig(f"create {name} g")
            if design in ("chaos-xs", "chaos-xs-split"):
                assert len(said.splitlines()) == 2 and re.search("no file /nowhere.img|cannot be opened", said), said
                rig("destroy g")
            else:
                assert re.fullmatch(rf"error: g: [^\n]*\({error}\)", said), said
            assert rig.leave() == before, name


# --- lives ---


def test_a_front_end_closes_and_returns(design: str) -> None:
    """daytime closes its interface after each answer; splitcheck's disk and network front ends connect again, round by
    round."""
    files = {"g.cfg": config("splitcheck", "role=blk-front rounds=4", disks=("disk.img,rw",)), "disk.img": EMPTY}
    with Dom0Rig(design, files=files, guests=["splitcheck"], writable=["disk.img"]) as rig:
        domid = rig.create("g.cfg", "g")
        said = rig.said(domid)
        assert said.count("ok   connect again") == 3 and "splitcheck: passed" in said and "FAIL" not in said
        assert rig("hash disk.img").split()[0] == re.findall(r"sha256 (\w+)", said)[-1]


@pytest.mark.parametrize(("role", "faults"), [("bad-disk", 1), ("bad-net", 2)])
def test_front_ends_that_break_the_rules(design: str, role: str, faults: int) -> None:
    """Everything that a front end can get wrong, in one guest: each breach is answered, or costs the connection and
    nothing else. dom0 says one line a device. Afterwards all is back."""
    devices = {"disks": ("disk.img,rw",)} if role == "bad-disk" else {"vifs": 2}
    files = {"g.cfg": config("splitcheck", f"role={role}", **devices), "disk.img": EMPTY}  # type: ignore[arg-type]
    with Dom0Rig(design, files=files, guests=["splitcheck"], writable=["disk.img"]) as rig:
        left = []
        for _ in range(3):
            out = rig("create g.cfg g")
            assert out.count("the front end is at fault: ") == faults and out.count("fault") == faults, out
            said = rig.said(max(rig.host.hypervisor.domains))
            assert "FAIL" not in said and "splitcheck: passed, 0 failed" in said, said
            assert said.count("ok   ") == (25 if role == "bad-disk" else 17)
            assert rig("destroy g").startswith("destroyed")
            left.append(rig.leave())
        assert left[1] == left[2]
        assert rig("hash disk.img").startswith(sha256(EMPTY))  # nothing of what was refused was written


def test_destroyed_in_every_state(design: str) -> None:
    """A guest with two interfaces and a disk is destroyed after ever more time of its life: in every state that its
    back ends can be in. All comes back each time, and the back ends' states that were met are all there are."""
    files = {
        "g.cfg": config("splitcheck", "role=blk-front", vifs=2, disks=("disk.img,rw",)),
        "n.cfg": config("daytime", vifs=2, disks=("disk.img,rw",)),
        "disk.img": EMPTY,
    }
    with Dom0Rig(design, files=files, guests=["splitcheck", "daytime"], writable=["disk.img"]) as rig:
        met = set()
        for file in ("g.cfg", "n.cfg"):  # what is made once, for all guests: a bridge, dom0's list of disks
            rig.create(file, "g")
            assert rig("destroy g").startswith("destroyed")
        before = rig.leave()
        for file in ("g.cfg", "n.cfg"):
            for more in (0, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000):
                rig.type(f"create {file} g")
                out = ""
                while PROMPT not in out.partition("created g")[2]:
                    rig.run(20_000)
                    out += rig.output()
                rig.run(more * 1000)
                rig.interrupt("devices\ndestroy g")
                rig.settle()
                out = rig.output()
                assert "destroyed g" in out and "error:" not in out, out
                met |= {f"{kind} {state}" for kind, state in re.findall(r"(v..) \d+ of domain \d+: state (\d)", out)}
                assert rig.leave() == before, (file, more)
        assert {"vbd 2", "vbd 4", "vif 2", "vif 4"} <= met, met


def test_two_guests_with_many_devices(design: str) -> None:
    """Three interfaces on two bridges and two disks each: what is used connects, the guests talk, and whoever goes
    first, all comes back."""

    def guest(number: int, cmdline: str) -> bytes:
        vifs = [f"mac=00:16:3e:00:0{number}:0{i},ip=10.0.{i}.{number},bridge=br{i % 2}" for i in range(3)]
        disks = [f"/disk{number}{i}.img,raw,xvd{'ab'[i]},{('rw', 'r')[i]}" for i in range(2)]
        text = f"name = 'g{number}'\nkernel = 'echo'\nmemory = 16\nextra = '{cmdline}'\nvif = {vifs}\ndisk = {disks}\n"
        return (text + "on_poweroff = 'preserve'\n").encode()

    files = {f"disk{number}{i}.img": EMPTY for number in (1, 2) for i in range(2)}
    files |= {"1.cfg": guest(1, "count=50"), "2.cfg": guest(2, "to=10.0.0.1 count=50 size=700")}
    with Dom0Rig(design, files=files, guests=["echo"], writable=["disk10.img", "disk20.img"]) as rig:
        left = []
        for order in ("12", "21", "12"):
            one, two = rig.create("1.cfg", "g1"), rig.create("2.cfg", "g2")
            rig.later(2)
            assert "echo: 50 sent, 50 back, 0 lost, 0 wrong" in rig.said(two)
            said = rig("devices")
            for domid in (one, two):
                assert sorted(re.findall(rf"(v..) \d+ of domain {domid}:", said)) == ["vbd"] * 2 + ["vif"] * 3
            for number in order:
                assert rig(f"destroy g{number}").startswith("destroyed")
            left.append(rig.leave())
        assert left[0] == left[1] == left[2]
        assert left[0]["devices"] == ""


def test_devices_are_taken_from_a_guest_that_runs(design: str) -> None:
    """The front end follows a back end that closes; the guest goes on without, and what it had is back."""
    files = {
        "net.cfg": config("daytime", vifs=1),
        "idle.cfg": config("noop", vifs=2, disks=("disk.img,rw",)),
        "disk.img": EMPTY,
    }
    with Dom0Rig(design, files=files, guests=["daytime", "noop"], writable=["disk.img"]) as rig:
        domid = rig.create("net.cfg", "g")
        assert f"vif 0 of domain {domid}: state 4" in rig("devices")
        without = rig.leave()
        assert rig("detach g vif 0") == f"detached vif 0 of g domid {domid}"
        assert "the device is gone" in rig.said(domid) and "vif" not in rig("devices")
        after = rig.leave()
        assert int(str(after["mapped"])) < int(str(without["mapped"])) and len(after["ports"]) < len(without["ports"])  # type: ignore[arg-type]
        assert rig("detach g vif 0").startswith("error: g has no vif 0")
        assert rig("destroy g").startswith("destroyed")
        left = []
        for _ in range(2):  # nobody is connected
            rig.create("idle.cfg", "g")
            assert rig("detach g vbd 51712").startswith("detached") and rig("detach g vif 0").startswith("detached")
            assert rig("devices").count("vif 1") == 1 and "vif 0" not in rig("devices") and "vbd" not in rig("devices")
            assert rig("destroy g").startswith("destroyed")
            left.append(rig.leave())
        assert left[0] == left[1]


# --- the switch ---


def test_guests_of_different_designs_talk() -> None:
    """An echo server made by one design and a client made by another, one over the XenStore, one over noxs, on one
    switch: all datagrams come back, both guests count the same, and so does the switch."""
    pairs = [*pairwise(DESIGNS), (DESIGNS[-1], DESIGNS[0])]
    for server, client in pairs:
        files = {
            "server.cfg": config("echo", "count=300", vifs=1, first=2),
            "client.cfg": config("echo", "to=10.0.0.2 count=300 size=1000 window=16", vifs=1, first=3),
        }
        with Dom0Rig(server, client, files=files, guests=["echo"]) as rig:
            one = rig.create("server.cfg", "server")
            rig(f"design {client}")
            two = rig.create("client.cfg", "client")
            rig.later(2)
            assert "echo: 300 sent, 300 back, 0 lost, 0 wrong" in rig.said(two), (server, client)
            assert "echo: 300 datagrams" in rig.said(one)
            frames = {
                int(found[0]): tuple(map(int, found[1:]))
                for found in re.findall(
                    r"vif 0 of domain (\d+): .* in (\d+), out (\d+), dropped (\d+), errors (\d+)", rig("devices")
                )
            }
            for domid in (one, two):
                counted = re.search(r"echo: (\d+) frames in, (\d+) out, 0 bad sums, 0 errors", rig.said(domid))
                assert counted and (int(counted[2]), int(counted[1]), 0, 0) == frames[domid]


@pytest.mark.parametrize("after", [550_000, 600_000, 700_000, 3_000_000])
def test_a_store_that_does_not_answer_holds_up_no_noxs_guest(after: int) -> None:
    """The XenStore's domain is paused while back ends are at work with it: a guest that has nothing from it can go."""
    vif = json.dumps({"name": "x", "kernel": "daytime", "memory": 8, "vifs": [{}]}).encode()
    with Dom0Rig("chaos-noxs", "chaos-xs", files={"vif.json": vif}, guests=["daytime"]) as dom0:
        domid = dom0.create("vif.json", "first")
        dom0("design chaos-xs")
        dom0.type("create vif.json second")
        dom0.run(after)
        assert "created second" in dom0.output()  # its back end may be in the middle of something
        lifecycle.pause(dom0.host.hypervisor.domains[1])
        dom0.settle()
        assert dom0("destroy first") == f"destroyed first domid {domid}"
        lifecycle.unpause(dom0.host.hypervisor.domains[1])
        dom0.settle()
        assert dom0("destroy second").startswith("destroyed second")


def test_data_cannot_be_executed() -> None:
    """Not by dom0, nor by the XenStore: stacks, static data, what is mapped of others (`mm_data_is_no_code`)."""
    with Dom0Rig("chaos-xs", files={}) as dom0:
        machine = dom0.host.machine
        for domid in (0, 1):
            context = dom0.host.hypervisor.domains[domid].vcpus[0].context
            assert context is not None
            machine.switch(context)
            code = machine.get(Reg.RIP)
            assert machine.translate(code, execute=True)
            for data in (machine.get(Reg.RSP), 0x40000000000):  # memlayout.h: MAP_AREA
                assert machine.translate(data, write=True)
                with pytest.raises(PageFault) as caught:
                    machine.translate(data, execute=True)
                assert caught.value.error_code & 0x11 == 0x11  # it is there, and no code
