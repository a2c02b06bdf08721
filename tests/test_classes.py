"""What each class of instructions has in it, by real creations and by the source."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from pyvmm import compare
from pyvmm.report.classes import CLASSES, CONTROL, HYPERVISOR, LOAD, MEANING, PREPARE, TOOLSTACK, class_of
from pyvmm.report.stacks import Stack
from tests.running import ROOT

DOM0 = ROOT / "guests" / "dom0"
KERNEL = ROOT / "guests" / "kernel"
# Functions, and what everything that is executed for them is not (False) or is (True) counted as.
SERVED = {
    "domains_event": (False, HYPERVISOR),  # the console daemon looks at all domains
    "all_domains": (False, HYPERVISOR),  # all domains are listed, to ask for their names
    "dom_kernel": (True, LOAD),  # maps the domain's memory, and copies the kernel there
    "dom_boot": (True, LOAD),  # maps its tables, pins them
    "dom_memory": (True, HYPERVISOR),  # populates the domain
    "xc_domain_create": (True, HYPERVISOR),
    "xc_cpuid_apply_policy": (True, HYPERVISOR),  # chaos asks for it in its first phase, xl after the kernel is loaded
}


@pytest.fixture(scope="module")
def paths() -> dict[str, list[Stack]]:
    """The call paths of the third daytime guest, by design."""
    return {d: list(compare.sweep(d, "daytime", (3,), store="o")[0][1].paths()) for d in compare.DESIGNS}


def _under(found: list[Stack], function: str) -> dict[str, int]:
    """Instructions by class of all that is executed in `function` and for it, in dom0."""
    sums: dict[str, int] = {}
    for _, role, path, n in found:
        if role == "dom0" and any(name == function for name, _ in path):
            sums[class_of(role, path)] = sums.get(class_of(role, path), 0) + n
    return sums


def test_what_hypervisor_is_and_is_not(paths: dict[str, list[Stack]]) -> None:
    """Making the domain and its memory is; what is asked to load a kernel, for names, for consoles is not."""
    for function, (all_of_it, name) in SERVED.items():
        under = _under(paths["xl"], function)
        assert sum(under.values()) > 50, f"{function} is not in xl's creation"
        assert (set(under) == {name}) if all_of_it else (name not in under), (function, under)
    calls = {path[-1][0] for _, role, path, _ in paths["xl"] if class_of(role, path) == HYPERVISOR}
    assert {"xc_domain_max_vcpus", "xc_domain_setmaxmem", "xc_evtchn_alloc_unbound", "xc_claim_pages"} <= calls
    assert not {"xc_map_foreign", "xc_unmap", "xc_domain_getinfolist", "xc_pin_l4", "xc_vcpu_setcontext"} & calls


def test_shells_have_had_their_part(paths: dict[str, list[Stack]]) -> None:
    """Domain and memory are made with the shell: on the path of a request next to nothing is left of them."""
    for design, facts in compare.DESIGNS.items():
        asked = sum(n for _, role, path, n in paths[design] if class_of(role, path) == HYPERVISOR)
        assert asked < 100 if facts.shells else asked > 10_000, design


def test_a_design_of_ones_own_asks_the_hypervisor() -> None:
    """Its file is in no row: its calls have the class that they have in ours, the rest is the design's bookkeeping."""
    path = (("shell_run", "shell.c"), ("create", "design.c"), ("guest_run", "design.c"), ("reserve", "mine.c"))
    assert class_of("dom0", path) == TOOLSTACK
    assert class_of("dom0", (*path, ("xc_domain_create", "xc_domain.c"), ("domctl", "xc_domain.c"))) == HYPERVISOR
    assert class_of("dom0", (("pool_refill", "pool.c"), *path, ("xc_domain_create", "xc_domain.c"))) == PREPARE
    assert class_of("dom0", (*path, ("xc_unmap", "xc_memory.c"), ("memset", "string.c"))) == TOOLSTACK


def test_every_row_names_something() -> None:
    """A row whose function or file has another name by now would silently count nothing."""
    files = {file.name: file.read_text(encoding="utf-8") for where in (DOM0, KERNEL) for file in where.glob("*.c")}
    assert set(MEANING) == set(CLASSES)
    for function, pattern, name in CONTROL:
        named = [text for file, text in files.items() if fnmatchcase(file, pattern)]
        assert named and name in CLASSES, pattern
        part = max(function.split("*"), key=len)
        assert not part or any(part in text for text in named), function
