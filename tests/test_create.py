"""``pyvmm create``: guests of configuration files on one host, their consoles, and what follows from their ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pyvmm.abi import sched
from pyvmm.cli.consoles import Lines
from pyvmm.cli.guests import Guests, action_for
from pyvmm.host import Host
from pyvmm.toolstack.config import Action, Actions, read
from pyvmm.toolstack.devices import Vbd, Vif
from tests.running import ROOT, Run, pyvmm
from tests.test_host import ECHO, HANG, LOOP, WILD, kernel

MIB = 1 << 20


def shutdown(reason: int) -> bytes:
    """A kernel that does nothing but shut down with this reason."""
    return kernel(bytes.fromhex(f"6a{reason:02x} b81d000000 bf02000000 4889e6 0f05"))


KERNELS = {
    "poweroff": shutdown(sched.SHUTDOWN_poweroff),
    "reboot": shutdown(sched.SHUTDOWN_reboot),
    "suspend": shutdown(sched.SHUTDOWN_suspend),
    "crash": kernel(WILD),
    "echo": kernel(ECHO),
    "hang": kernel(HANG),
    "loop": kernel(LOOP),
}


class Files:
    """Configuration files in a directory."""

    def __init__(self, where: Path) -> None:
        self.where = where
        for name, data in KERNELS.items():
            (where / name).write_bytes(data)

    def guest(self, name: str, image: str = "hello", more: str = "") -> Path:
        """A file for a guest; `image` is one of `KERNELS` or a shipped one."""
        path = self.where / f"{name}.cfg"
        image = str(self.where / image) if image in KERNELS else image
        path.write_text(f'name = "{name}"\nkernel = "{image}"\nmemory = 16\n{more}\n')
        return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def refused(run: Run, *words: str) -> None:
    """A mistake of the user's: status 2, one line on stderr, nothing on stdout."""
    assert run.status == 2 and run.out == ""
    (line,) = run.err.strip().splitlines()
    for word in words:
        assert word in line, line


# --- a run ---


def test_one_guest_is_as_with_run(files: Files) -> None:
    """Its console is stdout, unchanged; stdin is typed on it."""
    run = pyvmm("create", files.guest("one", more='extra = "a b"'))
    assert run.status == 0 and run.err == ""
    assert run.out.splitlines()[0] == "Hello from a PV guest." and '"a b"' in run.out and '"one", domid 1' in run.out
    echoed = pyvmm("create", files.guest("echo", "echo"), stdin=b"some\ntext\nq")
    assert (echoed.status, echoed.out) == (0, "some\ntext\nq")


def test_several_guests_with_their_names(files: Files, tmp_path: Path) -> None:
    chaos = tmp_path / "two.json"
    chaos.write_text(json.dumps({"name": "two", "kernel": "hello", "memory": 24, "vcpus": 2}))
    run = pyvmm("create", files.guest("one"), chaos, files.guest("three"), figures=tmp_path / "f.json")
    assert run.status == 0 and run.err == ""
    lines = run.out.splitlines()
    assert {line.split(":")[0] for line in lines} == {"one", "two", "three"}
    for name, domid in (("one", 1), ("two", 2), ("three", 3)):
        own = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
        assert own[0] == "Hello from a PV guest." and own[-1] == "Goodbye."
        assert any(f'name "{name}", domid {domid}' in line for line in own)
    assert [(d["domid"], d["name"]) for d in run.figures["domains"]] == [
        (0, "dom0"), (1, "one"), (2, "two"), (3, "three"),
    ]  # fmt: skip
    assert run.figures["exit"] == "poweroff" and list(run.figures["images"]) == ["hello"]


def test_stdin_goes_to_the_chosen_console(files: Files) -> None:
    paths = (files.guest("a", "echo"), files.guest("b", "echo"))
    run = pyvmm("create", *paths, "--console", "b", "--max-instructions", "400000", stdin=b"x\nyz")
    assert run.status == 5 and "budget" in run.err  # nobody types on a
    assert run.out == "b: x\nb: yz\n"
    refused(pyvmm("create", *paths, "--console", "c"), "--console c", "a, b")


def test_runs_repeat_to_the_bit(files: Files, tmp_path: Path) -> None:
    paths = (files.guest("a"), files.guest("b", "echo"), files.guest("c", "reboot", "on_reboot = 'destroy'"))

    def once(*options: str) -> tuple[object, str]:
        run = pyvmm("create", *paths, "--console", "b", *options, stdin=b"hi\nq", figures=tmp_path / "f.json")
        return run.repeatable(), run.out

    first = once()
    assert first == once() == once("--engine", "step")
    assert first != once("--seed", "1")


def test_a_trace_and_a_budget(files: Files, tmp_path: Path) -> None:
    paths = (files.guest("a", "loop"), files.guest("b", "loop"))
    run = pyvmm("create", *paths, "--max-instructions", "3e6", "--trace", tmp_path / "t", figures=tmp_path / "f.json")
    assert run.status == 5 and run.figures["exit"] == "budget"
    assert sum(d["instructions"] for d in run.figures["domains"]) == 3_000_000
    assert all(run.domain(name)["instructions"] >= 1_000_000 for name in "ab")
    assert " d2v0 " in (tmp_path / "t").read_text()
    assert pyvmm("create", files.guest("h", "hang"), files.guest("p", "poweroff")).status == 6


# --- ends ---


@pytest.mark.parametrize(("image", "status"), [("poweroff", 0), ("reboot", 3), ("suspend", 0), ("crash", 4)])
def test_the_worst_end_is_the_exit_status(files: Files, image: str, status: int) -> None:
    run = pyvmm("create", files.guest("x", image, "on_reboot='destroy'"), files.guest("y"))
    assert run.status == status
    if image == "crash":
        assert "domain 1 (x) crashed" in run.err and "x" in run.err
    else:
        assert run.err == ""


def test_a_guest_that_reboots_is_started_again(files: Files, tmp_path: Path) -> None:
    """With the same UUID, another domid and none of the first one's resources; for ever, so a budget ends it."""
    path = files.guest("r", "reboot", "uuid = '7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10'")
    run = pyvmm("create", path, "--max-instructions", "200", "--trace", tmp_path / "t", figures=tmp_path / "f.json")
    assert run.status == 5
    domains = [d for d in run.figures["domains"] if d["name"] == "r"]
    assert len(domains) >= 200 // 6 and [d["domid"] for d in domains] == list(range(1, len(domains) + 1))
    assert len({d["instructions"] for d in domains[:-1]}) == 1
    events = (tmp_path / "t").read_text()
    assert events.count(" domain_create ") >= len(domains)
    assert "/vm/7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10/name" in events


def test_typed_ahead_input_stays_with_the_guest_that_starts_again(files: Files) -> None:
    """What the first incarnation has not read, the second one does."""
    path = files.guest("e", "echo", "on_poweroff = 'restart'")  # ends at every q
    other = files.guest("z", "echo")  # two that yield to each other are looked at often
    run = pyvmm("create", path, other, "--console", "e", "--max-instructions", "400000", stdin=b"a\nq\nb\nq\nc\n")
    assert run.status == 5
    assert run.out == "e: a\ne: q\ne: b\ne: q\ne: c\n"


@pytest.mark.parametrize(
    ("image", "more", "left"),
    [
        ("poweroff", "", False),
        ("poweroff", "on_poweroff = 'preserve'", True),
        ("crash", "", False),
        ("crash", "on_crash = 'preserve'", True),
        ("suspend", "", True),
    ],
)
def test_what_ended_is_destroyed_or_kept(files: Files, tmp_path: Path, image: str, more: str, left: bool) -> None:
    """A kept domain is there until the other guest has ended, too."""
    pyvmm("create", files.guest("x", image, more), files.guest("y"), "--trace", tmp_path / "t")
    lines = (tmp_path / "t").read_text().splitlines()
    last_shutdown = max(i for i, line in enumerate(lines) if " domain_shutdown " in line)
    destroyed = [line for line in lines[:last_shutdown] if " d1v0 domain_destroy" in line]
    assert bool(destroyed) is not left


def test_every_shutdown_code_has_its_action() -> None:
    actions = Actions(Action.DESTROY, Action.RESTART, Action.PRESERVE, Action.RESTART)
    assert action_for(actions, sched.SHUTDOWN_poweroff) is Action.DESTROY
    assert action_for(actions, sched.SHUTDOWN_reboot) is Action.RESTART
    assert action_for(actions, sched.SHUTDOWN_soft_reset) is Action.RESTART
    assert action_for(actions, sched.SHUTDOWN_crash) is Action.PRESERVE
    assert action_for(actions, sched.SHUTDOWN_watchdog) is Action.RESTART
    assert action_for(actions, sched.SHUTDOWN_suspend) is Action.PRESERVE
    assert action_for(actions, 200) is Action.PRESERVE  # an unknown one is taken for a crash


# --- mistakes ---


def test_mistakes_are_one_line(files: Files, tmp_path: Path) -> None:
    good = files.guest("good")
    bad = files.guest("bad", more="memory = 'x'")
    refused(pyvmm("create", good, bad), f"{bad}:4: memory: expected")
    refused(pyvmm("create", tmp_path / "none.cfg"), "none.cfg", "No such file")
    refused(pyvmm("create", good, good), "good", "already")
    refused(pyvmm("create", files.guest("k", str(tmp_path / "no-kernel"))), "no-kernel")
    refused(pyvmm("create", files.guest("i", str(good))), "ELF")
    refused(pyvmm("create", files.guest("m", more="memory = 4000"), "--host-memory", "64M"), "m:")
    refused(pyvmm("create", good, "--trace", tmp_path / "no" / "t"), "trace")
    noxs = tmp_path / "n.json"
    noxs.write_text('{"name": "n", "kernel": "hello", "xen": {"dev_method": "noxs"}}')
    assert pyvmm("create").status == 2


def chaos(path: Path, **members: object) -> Path:
    """A file of chaos's, over noxs."""
    guest = {"name": path.stem, "kernel": "hello", "memory": 16, "xen": {"dev_method": "noxs"}, **members}
    path.write_text(json.dumps(guest))
    return path


def test_disks_that_cannot_be_had(files: Files, tmp_path: Path) -> None:
    """With file and line, whichever way the devices meet; what is not absolute is below /dev, as xl has it."""
    image, none = tmp_path / "image", tmp_path / "none"
    image.write_bytes(bytes(4096))
    for disk, *words in (
        (f"{none},raw,xvda,rw", f"a.cfg:5: disk xvda: cannot open the disk {none}: No such file"),
        ("phy:no/such,xvda,r", "a.cfg:5: disk xvda:", "/dev/no/such: No such"),
        (f"{tmp_path},raw,xvda,ro", "a.cfg:5: disk xvda:", "neither a regular file"),
    ):
        refused(pyvmm("create", files.guest("a", more=f"disk = [\n'{disk}']")), *words)
    vbd = {"target": str(none), "type": "file", "vdev": "xvda", "access": "r"}
    refused(pyvmm("create", chaos(tmp_path / "d.json", vbds=[vbd])), "d.json:1: disk xvda: cannot open", "No such file")
    one = files.guest("one", more=f"disk = ['{image},raw,xvda,rw']")
    two = files.guest("two", more=f"disk = ['{image},raw,xvda,ro']")
    refused(pyvmm("create", one, two), "two.cfg:4: disk xvda:", str(image), "in use")
    vbd["target"] = str(image)
    refused(pyvmm("create", one, chaos(tmp_path / "e.json", vbds=[vbd])), "e.json:1: disk xvda:", "in use")
    refused(pyvmm("serve", "--xenstore-socket", tmp_path / "xs", one, two), "two.cfg:4: disk xvda:", "in use")
    for form in ("qcow2", "vhd", "qed"):
        text = f"disk = ['{image},{form},xvda,rw']"
        refused(pyvmm("create", files.guest("f", more=text)), "f.cfg:4: disk xvda:", "only raw images", form)
    assert image.read_bytes() == bytes(4096)


def test_mistakes_that_are_found_late_have_their_line(files: Files, tmp_path: Path) -> None:
    def fails(more: str, *words: str, image: str = "hello") -> None:
        refused(pyvmm("create", files.guest("m", image, more)), *words)

    fails("", "m.cfg:2:", "/tmp", image="/tmp")
    fails("ramdisk = '/no/such'", "m.cfg:4:", "/no/such")
    fails(f"extra = '{'x' * 1024}'", "m.cfg:4: the command line: expected at most 1023 bytes, not 1024")
    fails("\nvif = ['backend=dom7']", "m.cfg:5: vif 0: expected a domain that can serve it, there is no dom7")
    fails("vif = ['backend=7']", "m.cfg:4: vif 0:", "there is no 7")
    fails(f"vif = ['rate={'9' * 5000}Mb/s']", "m.cfg:4: vif", "expected a rate like")
    fails(f"vif = ['vifname={'v' * 5000}']", "m.cfg:4: vif 0: expected a vifname of at most")
    fails("memory = 16777216", "m.cfg:4: memory: expected at most the")
    fails(f"memory = {'9' * 5000}", "m.cfg:4: memory: expected a whole number of MiB")
    fails('name = "a\\nb"', "m.cfg:4: name:", "a\\nb")
    fails("vif = ['vifname=x', 'vifname=x']", "m.cfg:4: vif 1: xenbr0 has a port x already")
    small = files.guest("m", more="memory = 100")
    refused(
        pyvmm("create", small, "--host-memory", "64M"), "m.cfg:4: m: 100 MiB of memory: expected at most the host's 64"
    )
    refused(
        pyvmm("create", chaos(tmp_path / "i.json", vifs=[{"ip": "999.1.1.1"}])),
        "i.json:1: vifs[0].ip: expected an IPv4",
    )


def test_a_device_that_fails_is_told_of(files: Files, tmp_path: Path) -> None:
    """When it happens, a line each; a host whose guest breaks its device again and again says so a few times."""
    config = read('name="g"; kernel="hello"; memory=16\nvif=[""]', "g.cfg").guest
    errors = io.StringIO()
    with Host(128 * MIB) as host, contextlib.redirect_stderr(errors):
        Guests(host, [config])
        (backend,) = host.services.store_backends.devices.values()
        backend.fail("the cause\nin two lines")
        assert errors.getvalue() == "pyvmm: g.cfg:2: g: vif 0: the cause\\nin two lines\n"
        host.xenstore.write("/local/domain/0/backend/vif/9/0/frontend", "//")
        host.xenstore.write("/local/domain/0/backend/vif/9/0/frontend-id", "9")
        for _ in range(20):
            host.xenstore.write("/local/domain/0/backend/vif/9/0/state", "1")
            host.services.store_backends.check()
    lines = errors.getvalue().splitlines()[1:]
    assert len(lines) == 10 and all(line.startswith("pyvmm: vif 0 of d9: frontend is to be") for line in lines)
    assert lines[-1].endswith("(no more is told of it)")


def test_warnings_do_not_stop_a_guest(files: Files) -> None:
    run = pyvmm("create", files.guest("w", more="seclabel = 'a:b'\nfrob = 1"))
    assert run.status == 0 and "Goodbye." in run.out
    assert [line.split(": ")[1] for line in run.err.splitlines()] == ["warning", "warning"]
    assert "w.cfg:4: seclabel" in run.err and "w.cfg:5: frob" in run.err


def test_a_reader_that_leaves_is_no_traceback(files: Files) -> None:
    command = [sys.executable, "-m", "pyvmm", "create", str(files.guest("a")), str(files.guest("b"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# --- the parts ---


def test_lines_of_several_guests() -> None:
    out: list[bytes] = []
    lines = Lines("b", out.append)
    a, b = lines.listener("a"), lines.listener("b")
    a(b"half ")  # held: a is in the background
    b(b"prompt> ")
    a(b"a line\nmore")
    b(b"typed\n\n")
    b(b"end")
    lines.ended("a")
    lines.ended("b")
    lines.ended("b")
    assert b"".join(out) == b"b: prompt> \na: half a line\nb: typed\nb: \nb: end\na: more\n"
    long: list[bytes] = []
    background = Lines(None, long.append).listener("x")
    for _ in range(100):
        background(b"y" * 1000)
    assert b"".join(long).startswith(b"x: yyy") and len(b"".join(long)) > 90_000  # without a newline, too


def test_a_host_makes_what_a_file_says() -> None:
    config = read(
        'name="g"; kernel="hello"; memory=16; maxmem=24; vcpus=1; maxvcpus=3; uuid="' + "12345678" * 4 + '"', "f"
    ).guest
    with Host(128 * MIB) as host:
        guest = host.create_from(config)
        xs, home = host.xenstore, f"/local/domain/{guest.domid}"
        assert xs.read(f"{home}/memory/target") == b"16384" and xs.read(f"{home}/memory/static-max") == b"24576"
        states = [xs.read(f"{home}/cpu/{i}/availability") for i in range(3)]
        assert states == [b"online", b"offline", b"offline"] and len(guest.xen.vcpus) == 3
        assert xs.read(f"{home}/vm") == b"/vm/12345678-1234-5678-1234-567812345678"
        first, second = host.toolstack.list()
        assert (first.domid, first.name) == (0, "Domain-0")
        assert (second.domid, second.name, str(second.uuid)[:8]) == (1, "g", "12345678")
        assert second.memory == 16 * MIB and second.state == "------"
        assert host.run().exit == "poweroff"
        assert host.toolstack.list()[1].state == "---s--"
        guest.destroy()
        assert [listed.domid for listed in host.toolstack.list()] == [0]


def test_a_paused_guest_waits() -> None:
    with Host(128 * MIB) as host:
        guest = host.create("hello", memory=16 * MIB, paused=True)
        assert host.run().exit == "deadlock" and guest.console.text == ""
        assert host.toolstack.list()[1].state == "--p---"


def test_a_guest_is_asked_to_shut_down() -> None:
    """What `xl shutdown` writes is in the store, and the domain's own to read."""
    with Host(128 * MIB) as host:
        guest = host.create("hello", memory=16 * MIB)
        guest.shutdown("reboot")
        assert host.xenstore.read("/local/domain/1/control/shutdown") == b"reboot"
        with pytest.raises(Exception, match="poweroff, reboot, halt"):
            guest.shutdown("explode")


def test_devices_are_in_the_store_where_there_is_a_back_end(tmp_path: Path) -> None:
    """As libxl writes them; nothing of them is left afterwards."""
    vif = Vif(devid=0, mac="00:16:3e:00:00:01", ip="10.0.0.9")
    image = tmp_path / "img"
    image.write_bytes(bytes(4096))
    vbd = Vbd(target=str(image), vdev="xvda", readonly=True)
    with Host(128 * MIB) as host:
        host.services.toolstack.device_kinds.clear()
        assert host.create("hello", memory=8 * MIB, devices=[vif]).domid == 1
        assert not host.xenstore.exists("/local/domain/1/device/vif")
        host.services.toolstack.device_kinds.update({"vif", "vbd"})
        before = sorted(host.services.xenstored.store.nodes())
        guest = host.create("hello", memory=8 * MIB, devices=[vif, vbd])
        xs = host.xenstore
        front, back = "/local/domain/2/device/vif/0", "/local/domain/0/backend/vif/2/0"
        assert {key: xs.read(f"{front}/{key}").decode() for key in xs.ls(front)} == {
            "backend": back, "backend-id": "0", "state": "1", "handle": "0", "mac": "00:16:3e:00:00:01",
        }  # fmt: skip
        offered = ("feature", "multi", "hotplug")
        written = [key for key in xs.ls(back) if not key.startswith(offered)]
        assert {key: xs.read(f"{back}/{key}").decode() for key in written} == {
            "frontend": front, "frontend-id": "2", "online": "1", "state": "2", "mac": "00:16:3e:00:00:01",
            "script": "/etc/xen/scripts/vif-bridge", "bridge": "xenbr0", "handle": "0", "type": "vif", "ip": "10.0.0.9",
        }  # fmt: skip
        assert xs.get_permissions(front) == ["n2", "r0"] and xs.get_permissions(back) == ["n0", "r2"]
        disk = "/local/domain/0/backend/vbd/2/51712"
        assert [xs.read(f"{disk}/{key}") for key in ("params", "mode", "dev")] == [bytes(image), b"r", b"xvda"]
        assert xs.read("/local/domain/2/device/vbd/51712/virtual-device") == b"51712"
        assert xs.read("/libxl/2/device/vif/0/backend").decode() == back
        guest.destroy()
        assert sorted(host.services.xenstored.store.nodes()) == before


def test_a_person_types_on_the_chosen_console(files: Files) -> None:
    """At a terminal: keys go to the chosen guest as they are typed, Ctrl-] leaves, the terminal is as it was."""
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    command = [sys.executable, "-m", "pyvmm", "create", "--console", "b"]
    command += [str(files.guest("a", "hang")), str(files.guest("b", "echo"))]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT) as process:
        shown = b""
        for keys, until in ((b"", b""), (b"xy", b"b: xy"), (b"z", b"xyz")):
            if keys:
                os.write(master, keys)
            while until not in shown:
                shown += os.read(master, 1000)
            while not keys and termios.tcgetattr(terminal) == before:
                time.sleep(0.05)  # until it has the terminal
        os.write(master, b"\x1d")
        assert process.wait(60) == 0
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    os.close(master)


def test_what_the_manual_shows(tmp_path: Path) -> None:
    """The two files of docs/toolstack.md make the guests whose first lines it shows; the files it names are there."""
    manual = (ROOT / "docs" / "toolstack.md").read_text()
    shown = manual.split("$ cat one.cfg\n")[1].split("```")[0]
    one, rest = shown.split("$ cat two.json\n")
    two, output = rest.split("$ pyvmm create one.cfg two.json\n")
    (tmp_path / "one.cfg").write_text(one)
    (tmp_path / "two.json").write_text(two)
    run = pyvmm("create", tmp_path / "one.cfg", tmp_path / "two.json")
    assert run.status == 0 and run.out.splitlines()[:2] == output.splitlines()[:2]
    assert any("some words" in line for line in run.out.splitlines())
    for name in re.findall(r"`((?:toolstack|cli)/[\w/.]+)`", manual):
        assert (ROOT / "pyvmm" / name).exists(), name
