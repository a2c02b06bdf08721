"""What is charged for the hypervisor's own work: the table's costs, in every mode and engine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pyvmm import images
from pyvmm.host import Host
from pyvmm.hypervisor import hypercalls
from pyvmm.hypervisor.charging import _NAMES, Charging
from pyvmm.hypervisor.costs import COSTS, SOURCE

ROOT = Path(__file__).parents[2]
# Hypercalls that nobody measured; they cost what an unknown one costs. None of our guests uses them, but for devctl,
# which stock Xen does not have.
UNMEASURED = {
    "arch_0", "argo_op", "devctl", "event_channel_op_compat", "hvm_op", "hypfs_op", "kexec_op", "physdev_op_compat",
    "platform_op", "xenpmu_op", "xsm_op",
}  # fmt: skip
# What goes another way while the guest measures: the new domain gets the CPU at once; a store is found to have been
# one to a page table when the next thing happens.
OTHERWISE = {"domctl.unpausedomain", "emulated.page_table_store"}


def measure_costs() -> ModuleType:
    """bench/measure_costs.py."""
    spec = importlib.util.spec_from_file_location("measure_costs", ROOT / "bench/measure_costs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_costs"] = module
    spec.loader.exec_module(module)
    return module


def test_measured_again_where_it_is_charged() -> None:
    """The measuring guest on pyvmm, with charging, finds the costs that the table has from the real Xen."""
    tool = measure_costs()
    _, without = tool.parse(tool.on_pyvmm())
    _, charged = tool.parse(tool.on_pyvmm(charged=True))
    found = tool.table(tool.own(charged, without))
    assert set(found) == set(COSTS)
    for name in sorted(set(found) - OTHERWISE):
        cost = COSTS[name]
        assert found[name].fixed == pytest.approx(cost.fixed / 1000, abs=2), name
        assert found[name].each == pytest.approx(cost.each / 1000, abs=0.15), name


def test_every_hypercall_has_a_cost() -> None:
    names = {entry.name for entry in hypercalls.TABLE.values()}
    known = {name.split(".")[0] for name in COSTS}
    assert names - known == UNMEASURED & names
    assert set(_NAMES) <= known
    assert set(SOURCE) == {"xen", "qemu", "date"}


def run(engine: str, charging: str | None) -> tuple[str, int, int, int, int]:
    """Digest, executed, charged by the machine, counted, and the clock at the end of one `hello` as dom0."""
    host = Host(memory=128 << 20, engine=engine)
    hv = host.hypervisor
    charged = None if charging is None else Charging(hv, clock=charging == "clock")
    host.create_dom0(images.path("hello"), memory=32 << 20)
    result = host.run(10**8)
    assert result.exit == "poweroff"
    machine = host.machine
    counted = charged.total if charged is not None else 0
    if charged is not None:
        assert sum(one.instructions for one in charged.by.values()) == counted
        assert all(one.times > 0 for one in charged.by.values())
    found = (result.digest, machine.instructions, machine.charged, counted, machine.now)
    host.close()
    return found


def test_counting_changes_nothing() -> None:
    digest, executed, charged, _, now = run("auto", None)
    again = run("auto", "count")
    assert (digest, executed, charged, now) == (again[0], again[1], again[2], again[4])
    assert charged == 0 < again[3]


def test_the_clock_runs_on() -> None:
    plain, counting = run("auto", None), run("auto", "count")
    _, executed, charged, counted, now = run("auto", "clock")
    assert charged == counted > 0
    assert now >= executed + charged
    # The guest's path may depend on the time, but little does.
    assert executed == pytest.approx(plain[1], rel=0.01)
    assert counted == pytest.approx(counting[3], rel=0.01)


@pytest.mark.parametrize("charging", ["count", "clock"])
def test_engines_agree(charging: str) -> None:
    assert run("auto", charging) == run("auto", charging) == run("pure", charging)


def test_stop() -> None:
    host = Host(memory=128 << 20)
    charged = Charging(host.hypervisor)
    charged.stop()
    host.create_dom0(images.path("hello"), memory=32 << 20)
    host.run(10**8)
    assert charged.total == 0 and charged.by == {}
    host.close()


def test_a_host_that_charges() -> None:
    host = Host(memory=128 << 20, charge=True)
    host.create_dom0(images.path("hello"), memory=32 << 20)
    assert host.run(10**8).exit == "poweroff"
    assert host.charging is not None
    assert host.charging.total == host.machine.charged == run("auto", "clock")[2]
    host.close()
