"""The hypervisor's own cost against the real Xen 4.17, whose instructions QEMU counts: the table, whole creations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pyvmm import images
from pyvmm.abi import sysctl
from pyvmm.archive import newc
from pyvmm.host import MIB, Host
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.charging import Charging
from pyvmm.hypervisor.costs import COSTS
from pyvmm.hypervisor.scheduler import Credit
from pyvmm.hypervisor.trace import Event
from tests.hypervisor.test_charging import measure_costs
from tests.oracle import xen

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.debian("xen-hypervisor-4.17-amd64", "qemu-system-x86")]

GUEST = b'{"name":"daytime","kernel":"daytime","memory":8,"vifs":[{"ip":"10.0.0.2","mac":"00:16:3e:00:00:01"}]}'
# One creation of each design before those that are measured: what happens once has then happened.
DESIGNS = ("chaos-xs", "xl", "chaos-xs-split")
EACH = 2
TIME = re.compile(r"time: (\d+) cycles")
MEMORY = 128  # MiB of dom0


def script() -> str:
    """What dom0 does at its start, on either machine."""
    lines = ["store c 32"]
    for design in DESIGNS:
        lines.append(f"design {design}")
        if design.endswith("split"):
            lines += [f"pool daytime.json {2 * EACH}", "time list"]
        lines.append(f"create daytime.json {design}-0")
        lines += [f"time create daytime.json {design}-{n}" for n in range(1, EACH + 1)]
    return "\n".join([*lines, "poweroff", ""])


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dom0's file area."""
    files = {name: images.path(name).read_bytes() for name in ("daytime", "xenstored")}
    path = tmp_path_factory.mktemp("module") / "files.cpio"
    path.write_bytes(newc({**files, "daytime.json": GUEST, "rc": script().encode()}))
    return path


class Window(NamedTuple):
    """What a timed command took: executed, iterations of repeated string instructions, charged."""

    executed: int
    iterations: int
    charged: int


def on_pyvmm(module: Path) -> tuple[list[str], list[Window]]:
    """dom0's console, and the windows between its looks at the counter."""
    host = Host(memory=512 * MIB)
    hv, machine = host.hypervisor, host.machine
    hv.policy = Credit(lambda: machine.now)
    charging = Charging(hv, clock=True)
    looks: list[tuple[int, int, int]] = []

    def hear(event: Event) -> None:
        if event.kind is trace.HYPERCALL and event.values[0] == "sysctl" and event.domid == 0:
            (at, *_) = event.values[1:]
            assert isinstance(at, int)
            if int.from_bytes(hv.domains[0].vcpus[0].copy_in(at, 4), "little") == sysctl.XEN_SYSCTL_getcpuinfo:
                looks.append((machine.instructions, machine.rep_iterations, charging.total))

    hv.trace.listen(hear)
    dom0 = host.create_dom0(images.path("dom0"), memory=MEMORY * MIB, ramdisk=str(module))
    assert host.run(10**9).exit == "poweroff"
    console = dom0.console.text.replace("\r", "").splitlines()
    host.close()
    pairs = zip(looks[::2], looks[1::2], strict=True)
    return console, [Window(*(b - a for a, b in zip(*pair, strict=True))) for pair in pairs]


def test_creation(module: Path) -> None:
    """Show 5: the same images make the same guests on the real Xen, and its instructions are ours plus what is charged,
    to within 2 %."""
    options = f"dom0_mem={MEMORY}M,max:{MEMORY}M bootscrub=1"
    there = xen.dom0(images.path("dom0"), module=module, options=options, icount=True)
    here, windows = on_pyvmm(module)
    assert not there.crashed
    plain = [[re.sub(r"\d+", "N", line) for line in lines if line.strip()] for lines in (there.lines, here)]
    assert [line for line in plain[0] if "created" in line] == [line for line in plain[1] if "created" in line]
    assert not [line for line in there.lines + here if line.startswith("error")]
    real = [int(match[1]) for line in there.lines if (match := TIME.match(line))]
    names = [line.split(None, 1)[1] for line in script().splitlines() if line.startswith("time")]
    assert len(real) == len(windows) == len(names)
    for name, cycles, window in zip(names, real, windows, strict=True):
        off = sum(window) / cycles - 1
        print(f"{name}: {cycles} on the real Xen, here {sum(window)} = {tuple(window)}, {off:+.2%}")
        if name.startswith("create"):
            assert abs(off) < 0.02, name


def test_table() -> None:
    """What the real Xen's work costs today is what the table says."""
    tool = measure_costs()
    _, real = tool.parse(tool.on_xen(None))
    _, ours = tool.parse(tool.on_pyvmm())
    found = tool.table(tool.own(real, ours))
    assert set(found) == set(COSTS)
    for name, line in found.items():
        cost = COSTS[name]
        assert line.fixed == pytest.approx(cost.fixed / 1000, rel=0.02, abs=20), name
        assert line.each == pytest.approx(cost.each / 1000, rel=0.02, abs=1), name
