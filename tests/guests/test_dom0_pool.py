"""Shells on the running machine: what a claimed one takes over from its configuration, shortages, flavours."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from pyvmm import compare

pytestmark = pytest.mark.slow  # whole hosts, again and again

SHAPE = 'name = "{name}"\nkernel = "daytime"\nmemory = {memory}\nvif = [ "ip=10.0.0.2" ]\n'
IDENTITY = "0ddba11c-0ffe-4e15-9bad-00c0ffee0000"
FILES = {
    "shape.cfg": SHAPE.format(name="shape", memory=8).encode(),
    "own.cfg": (SHAPE.format(name="own", memory=8) + f'maxmem = 24\nuuid = "{IDENTITY}"\n').encode(),
    "less.cfg": SHAPE.format(name="less", memory=6).encode(),
    **{f"{mib}.cfg": SHAPE.format(name=f"m{mib}", memory=mib).encode() for mib in range(20, 29)},
}
SLACK_PAGES = 256


@pytest.fixture(params=[name for name, design in compare.DESIGNS.items() if design.shells])
def control(request: pytest.FixtureRequest) -> Iterator[compare.Control]:
    made = compare.Control(request.param, "daytime", 4, files=FILES, fewest=16)
    yield made
    made.close()


def test_a_claimed_shell_gets_the_configurations_limit_and_uuid(control: compare.Control) -> None:
    """What XEN_DOMCTL_getdomaininfo tells of a guest is what was asked for, whether it was a shell or not."""
    domid = int(control.command("create own.cfg").split()[-1])
    domain = control.host.hypervisor.domains[domid]
    assert domain.handle == UUID(IDENTITY).bytes and domain.max_pages == 24 * 256 + SLACK_PAGES
    assert domain.tot_pages <= 8 * 256
    domid = int(control.command("create less.cfg").split()[-1])
    domain = control.host.hypervisor.domains[domid]
    assert domain.max_pages == 6 * 256 + SLACK_PAGES and domain.tot_pages <= 6 * 256
    assert domain.handle != UUID(IDENTITY).bytes


def test_a_shortage_in_the_background_passes(control: compare.Control) -> None:
    """What keeps the pool from filling up again is said once, is no error of the next command, and when it has passed
    the pool has its size again."""
    frames = control.host.hypervisor.frames
    held = frames.alloc_xen(frames.free_count - 1024)
    control.command("create shape.cfg a")
    control.refill()
    said = control.command("pool")
    assert said.count("for now") == 1 and "memory" in said and "7 of 8 shells" in said, said
    control.command("create shape.cfg b")
    control.refill()
    assert "for now" not in control.command("memory")
    assert "6 of 8 shells" in control.command("pool")
    for frame in held:
        frames.free_xen(frame)
    control.command("create shape.cfg c")
    control.refill()
    assert "8 of 8 shells" in control.command("pool")


def test_a_flavour_that_nobody_wants_gives_its_place_up(control: compare.Control) -> None:
    """There are eight places; one given up is free for another shape, and its shells' memory is back."""
    before = control.host.hypervisor.frames.free_count
    for mib in range(20, 27):
        control.command(f"pool {mib}.cfg 1")
    with pytest.raises(compare.CommandError, match=r"8 flavours already: `pool FILE 0` gives one up"):
        control.command("pool 27.cfg 1")
    control.command("pool 23.cfg 0")
    assert control.command("pool 27.cfg 1") == "pool of 1 shells"
    assert len(control.command("pool").splitlines()) == 8
    for mib in (20, 21, 22, 24, 25, 26, 27):
        control.command(f"pool {mib}.cfg 0")
    assert control.host.hypervisor.frames.free_count == before
