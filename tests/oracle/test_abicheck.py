"""abicheck on the real Xen, and line by line on pyvmm: as dom0, and as a domU with one and with two vCPUs."""

from __future__ import annotations

import re

import pytest

from pyvmm import images
from tests.oracle import xen
from tests.running import pyvmm

pytestmark = pytest.mark.oracle
domu_tools = pytest.mark.debian("xen-utils-4.17")

ABICHECK = images.path("abicheck")
HELLO = images.path("hello")
DOMUS = (xen.Guest(ABICHECK, vcpus=2), xen.Guest(ABICHECK, vcpus=1), xen.Guest(HELLO, "one two", vcpus=2))

WRONG_IN_OLD_TCG = (
    "traps: page fault: rflags has IF and RF",
    "traps: page fault with events masked: IF is clear",
    "traps: int 0x21 without permission: #GP, error code n*8+2",
    "traps: int 0 without permission: #GP, error code n*8+2",
    "traps: int 14 without permission: #GP, error code n*8+2",
    "privileged: invd",
    "user: rflags",
)
"""What QEMU before 10 gets wrong, by the manual: RF in frames of faults, the error code of `int n`, invd at CPL 3."""


def real(lines: list[str]) -> list[str]:
    """The real Xen's lines, with what an old QEMU is known to get wrong put right."""
    if int(xen.qemu_version().split(".")[0]) >= 10:
        return lines
    fixed, failed = [], 0
    for line in lines:
        known = line.startswith("FAIL ") and next((w for w in WRONG_IN_OLD_TCG if line[5:].startswith(w)), None)
        failed += line.startswith("FAIL ") and not known
        fixed.append(f"ok   {known}" if known else line)
    return [re.sub(r"\d+ failed$", f"{failed} failed", line) for line in fixed]


def on_xen(role: str) -> list[str]:
    """abicheck's lines on the real Xen in a role; skips where something is missing."""
    try:
        outcome = xen.dom0(ABICHECK) if role == "dom0" else xen.domu(*DOMUS)[("domu2", "domu1").index(role)]
    except xen.Missing as missing:
        pytest.skip(f"needs {missing}")
    assert outcome.ended and not outcome.crashed
    return real(outcome.lines)


ROLES = [
    "dom0",
    pytest.param("domu2", marks=[domu_tools, pytest.mark.slow]),
    pytest.param("domu1", marks=[domu_tools, pytest.mark.slow]),
]
RUN = {
    "dom0": ("--dom0",),
    "domu2": ("--vcpus", "2", "--memory", "128M"),
    "domu1": ("--vcpus", "1", "--memory", "128M"),
}


@pytest.mark.parametrize("role", ROLES)
def test_every_case_holds_on_the_real_xen(role: str) -> None:
    """No FAIL, and a verdict that counts the lines before it: abicheck's expectations are Xen's behaviour."""
    *cases, verdict = on_xen(role)
    assert [line for line in cases if not line.startswith("ok   ")] == []
    assert verdict == f"abicheck: {len(cases)} cases, 0 failed"
    assert len(cases) >= 750
    assert len(set(cases)) > 0.95 * len(cases)  # a line names its case


@pytest.mark.parametrize("role", ROLES)
def test_pyvmm_prints_the_same_lines(role: str) -> None:
    """The same guest, the same role: the same lines."""
    expected = on_xen(role)
    run = pyvmm("run", *RUN[role], "abicheck")
    assert run.out.splitlines() == expected, run.err
    assert run.status == 0


@pytest.mark.parametrize("group", ["entry", "traps", "mmuext", "grants", "user"])
def test_a_group_alone_prints_its_part(group: str) -> None:
    """Cases do not depend on the groups before theirs."""
    try:
        alone = real(xen.dom0(ABICHECK, f"only={group}").lines)
    except xen.Missing as missing:
        pytest.skip(f"needs {missing}")
    part = [line for line in on_xen("dom0") if line[5:].startswith(f"{group}: ")]
    assert alone[:-1] == part and len(part) > 5


def test_hello_as_dom0_on_the_real_xen() -> None:
    """hello's facts are true there."""
    lines = xen.dom0(HELLO, "a b=c").lines
    assert "  domain        dom0" in lines and "  Xen           4.17" in lines
    assert '  command line  "a b=c"' in lines and lines[-1] == "Goodbye."


@domu_tools
@pytest.mark.slow
def test_hello_as_a_domu_on_the_real_xen() -> None:
    """Its text comes through the console ring, its name through XenStore."""
    try:
        lines = xen.domu(*DOMUS)[2].lines
    except xen.Missing as missing:
        pytest.skip(f"needs {missing}")
    assert "  domain        domU" in lines and "  vcpus         2" in lines and "  memory        128 MiB" in lines
    assert '  XenStore      name "guest02", domid 3' in lines and lines[-1] == "Goodbye."


CRASHES = (
    "no-handler handler-nowhere stack-unmapped stack-in-xen user-without-tables iret-bad-stack hypercall-page-gone "
    "own-code-gone panic"
)


@pytest.mark.parametrize("way", CRASHES.split())
def test_xen_crashes_the_domain_and_so_does_pyvmm(way: str) -> None:
    """What leaves a trap nowhere to go ends the domain: here with status 4 and a report, never the machine."""
    outcome = xen.dom0(images.path("crash"), f"way={way}")
    assert outcome.crashed and outcome.lines[0] == f"crash: {way}" and "crash: it did not" not in outcome.lines
    run = pyvmm("run", "--dom0", "crash", "--cmdline", f"way={way}")
    assert run.out.splitlines() == outcome.lines, run.err
    assert run.status == 4
    assert "crashed" in run.err and (way == "panic" or "rip" in run.err.lower())
