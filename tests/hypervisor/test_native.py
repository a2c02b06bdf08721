"""Native domains: tasks, their memory, events, and turns on the CPU."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import event_channel
from pyvmm.hypervisor.errors import DomainCrash, XenError
from pyvmm.hypervisor.hypervisor import Outcome
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.scheduler import RoundRobin, Timers
from tests.hypervisor.native_host import PAGE, WILD, Guest, NativeHost
from tests.hypervisor.test_event_channel import connect, send


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def test_memory_is_its_own_frames(host: NativeHost) -> None:
    host.one.api.write(5 * PAGE - 2, b"across")
    assert host.one.api.read(5 * PAGE - 2, 6) == b"across"
    assert host.hv.machine.ram.read(host.one.mfn(5 * PAGE) * PAGE, 4) == b"ross"
    for access in (lambda: host.one.api.read(WILD, 1), lambda: host.one.api.write(64 * PAGE + PAGE - 1, b"xy")):
        with pytest.raises(XenError) as caught:
            access()
        assert caught.value.errno == errno.EFAULT
    assert host.one.api.read(64 * PAGE + PAGE - 1, 1) == b"\0"  # a write that faults writes nothing


def test_scratch_is_reused_round_and_round_and_never_null(host: NativeHost) -> None:
    seen = {host.one.api.scratch(5000) for _ in range(100)}
    assert 0 not in seen
    assert max(seen) + 5000 <= Native.SCRATCH_PAGES * PAGE
    with pytest.raises(ValueError, match="does not fit"):
        host.one.api.scratch(Native.SCRATCH_PAGES * PAGE + 1)


def test_strings(host: NativeHost) -> None:
    host.one.api.write(3 * PAGE - 3, b"abcdef\0")
    assert host.one.v.copy_in_string(3 * PAGE - 3, 6) == b"abcdef"
    with pytest.raises(XenError) as caught:
        host.one.v.copy_in_string(3 * PAGE - 3, 5)
    assert caught.value.errno == errno.E2BIG


def test_tasks_spawn_and_wait_for_conditions(host: NativeHost) -> None:
    log: list[str] = []
    gate: list[int] = []

    async def child(name: str) -> None:
        log.append(name)

    async def parent(api: Native) -> None:
        api.spawn(child("child"))
        log.append("parent")
        await api.wait_until(lambda: bool(gate))
        log.append("through")

    host.one.api.spawn(parent(host.one.api))
    assert host.hv.run(lambda: False) is Outcome.DEADLOCK
    assert log == ["parent", "child"]
    assert not host.one.api.finished
    gate.append(1)
    event_channel.mark_events_pending(host.one.v)
    host.hv.run(lambda: False)
    assert log[-1] == "through" and host.one.api.finished


def test_an_event_is_taken_by_the_task_that_waits_for_its_port(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    c, d = connect(host.one, host.two)
    log: list[tuple[str, int]] = []

    async def wait(api: Native, name: str, *ports: int) -> None:
        log.append((name, await api.event(*ports)))

    host.two.api.spawn(wait(host.two.api, "first", b))
    host.two.api.spawn(wait(host.two.api, "both", b, d))
    host.hv.run(lambda: False)
    send(host.one, c)
    host.hv.run(lambda: False)
    assert log == [("both", d)]
    send(host.one, a)
    host.hv.run(lambda: False)
    assert log == [("both", d), ("first", b)]


def test_a_task_that_crashes_its_domain_takes_only_that_down(host: NativeHost) -> None:
    async def bad() -> None:
        raise DomainCrash("for the test")

    done: list[int] = []

    async def good() -> None:
        done.append(1)

    host.one.api.spawn(bad())
    host.two.api.spawn(good())
    assert host.hv.run(lambda: False) is Outcome.DEADLOCK
    assert host.one.domain.shutdown_code == 3 and done == [1]
    assert host.one.domain.crash_report is not None and "for the test" in host.one.domain.crash_report


def test_round_robin_goes_by_domid_even_after_reuse(host: NativeHost) -> None:
    policy = RoundRobin()
    first, second, third = host.two.v, host.dom0.v, host.one.v  # creation order is not the order of the domids
    runnable = [first, second, third]
    last, seen = None, []
    for _ in range(6):
        last = policy.pick(runnable, last)
        seen.append(last.domain.domid)
    assert sorted(seen[:3]) == [0, 1, 2] and seen[:3] == seen[3:]


def test_timers_fire_in_order_of_deadline_then_of_setting() -> None:
    timers, log = Timers(), []
    for i, deadline in enumerate([30, 10, 20, 10]):
        timers.set(i, deadline, lambda i=i: log.append(i))  # type: ignore[misc]
    timers.set(2, 5, lambda: log.append("replaced"))
    timers.cancel(0)
    assert timers.next() == 5
    timers.fire(9)
    assert log == ["replaced"]
    timers.fire(100)
    assert log == ["replaced", 1, 3]
    assert timers.next() is None


def test_a_timer_may_set_itself_again_while_it_fires() -> None:
    timers, log = Timers(), []

    def again() -> None:
        log.append(1)
        if len(log) < 3:
            timers.set("x", len(log) * 10, again)

    timers.set("x", 0, again)
    timers.fire(100)
    assert log == [1, 1, 1]


def test_two_runs_give_the_same_events() -> None:
    def run() -> list[str]:
        host = NativeHost()
        host.watch()
        ports = [connect(host.one, host.two) for _ in range(3)]

        async def ring(guest: Guest, mine: list[int]) -> None:
            for i in range(20):
                guest.call(xen.HYPERVISOR_set_timer_op, host.hv.machine.now + 10 * i + 1)
                send(guest, mine[i % 3])
                await guest.api.event(*mine)

        host.one.api.spawn(ring(host.one, [a for a, _ in ports]))
        host.two.api.spawn(ring(host.two, [b for _, b in ports]))
        host.hv.run(lambda: False)
        return [str(event) for event in host.events]

    assert run() == run()
