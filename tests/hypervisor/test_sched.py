"""sched_op, and the run loop's answer to it."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno, sched, xen
from pyvmm.hypervisor import event_channel, lifecycle
from pyvmm.hypervisor.event_channel import UPCALL_MASK
from pyvmm.hypervisor.hypervisor import Outcome
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.vcpu import Runstate
from tests.hypervisor.native_host import WILD, NativeHost
from tests.hypervisor.test_event_channel import bind_virq, connect, send, unbound


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def op(host: NativeHost, cmd: int, arg: int = 0) -> int:
    return host.one.call(xen.HYPERVISOR_sched_op, cmd, arg)


def poll(host: NativeHost, ports: list[int], timeout: int = 0) -> int:
    va = host.one.api.scratch(b"".join(port.to_bytes(4, "little") for port in ports) or 4)
    return host.one.sched(sched.SCHEDOP_poll, sched.sched_poll, ports=va, nr_ports=len(ports), timeout=timeout)


def test_unknown_operations_and_wild_arguments(host: NativeHost) -> None:
    assert op(host, 8) == -errno.ENOSYS
    assert op(host, -1) == -errno.ENOSYS
    for cmd in (2, 3, 4, 5, 6):
        assert op(host, cmd, WILD) == -errno.EFAULT
    assert op(host, sched.SCHEDOP_pin_override, WILD) == -errno.EPERM


def test_yield_only_gives_up_the_cpu(host: NativeHost) -> None:
    host.hv.leave = False
    assert op(host, sched.SCHEDOP_yield) == 0
    assert host.hv.leave and host.one.v.runnable


def test_block_unmasks_and_waits(host: NativeHost) -> None:
    v, ram = host.one.v, host.hv.machine.ram
    ram.write_u8(v.info_pa + UPCALL_MASK, 1)
    assert op(host, sched.SCHEDOP_block) == 0
    assert v.blocked and not v.runnable
    assert host.one.info().evtchn_upcall_mask == 0


def test_block_with_an_upcall_pending_does_not_wait(host: NativeHost) -> None:
    a, _ = connect(host.two, host.one)
    host.hv.machine.ram.write_u8(host.one.v.info_pa + UPCALL_MASK, 1)
    send(host.two, a)
    assert op(host, sched.SCHEDOP_block) == 0
    assert not host.one.v.blocked
    assert (host.one.info().evtchn_upcall_mask, host.one.info().evtchn_upcall_pending) == (0, 1)


def test_poll_returns_at_once_for_a_pending_port_masked_or_not(host: NativeHost) -> None:
    a, b = connect(host.two, host.one)
    host.one.set_mask(b)
    send(host.two, a)
    assert poll(host, [b]) == 0
    assert not host.one.v.blocked
    assert host.one.shared().evtchn_pending[0] == 1 << b  # it stays pending


def test_poll_of_bad_ports(host: NativeHost) -> None:
    port = unbound(host.one, 0)
    assert poll(host, [port, 0]) == -errno.EINVAL
    assert poll(host, [900]) == -errno.EINVAL
    assert not host.one.v.blocked
    values = {"ports": WILD, "nr_ports": 1}
    assert host.one.sched(sched.SCHEDOP_poll, sched.sched_poll, **values) == -errno.EFAULT
    values["nr_ports"] = 129
    assert host.one.sched(sched.SCHEDOP_poll, sched.sched_poll, **values) == -errno.EINVAL


def test_poll_of_one_port_is_woken_by_that_port_only(host: NativeHost) -> None:
    a, b = connect(host.two, host.one)
    c, d = connect(host.two, host.one)
    host.one.set_mask(b)
    host.one.set_mask(d)
    assert poll(host, [b]) == 0
    assert host.one.v.blocked
    send(host.two, c)
    assert host.one.v.blocked
    send(host.two, a)
    assert not host.one.v.blocked


def test_poll_of_several_ports_is_woken_by_any_event_of_the_domain(host: NativeHost) -> None:
    a, b = connect(host.two, host.one)
    c, d = connect(host.two, host.one)
    e, f = connect(host.two, host.one)
    for port in (b, d, f):
        host.one.set_mask(port)
    assert poll(host, [b, d]) == 0
    assert host.one.v.blocked
    send(host.two, e)
    assert not host.one.v.blocked
    assert (a, c) == (1, 2)


def test_poll_times_out_and_its_timer_dies_with_it(host: NativeHost) -> None:
    a, b = connect(host.two, host.one)
    host.one.set_mask(b)
    assert poll(host, [b], timeout=host.hv.machine.now + 5000) == 0
    host.hv.timers.fire(host.hv.machine.now + 4999)
    assert host.one.v.blocked
    host.hv.timers.fire(host.hv.machine.now + 5000)
    assert not host.one.v.blocked
    assert poll(host, [b], timeout=host.hv.machine.now + 5000) == 0
    send(host.two, a)
    assert not host.one.v.blocked and host.hv.timers.next() is None


def test_poll_with_a_deliverable_upcall_returns(host: NativeHost) -> None:
    port = unbound(host.one, 0)
    _, virq = bind_virq(host.one, xen.VIRQ_DEBUG)
    event_channel.send_virq(host.one.v, xen.VIRQ_DEBUG)
    assert poll(host, [port]) == 0
    assert not host.one.v.blocked
    assert virq == 2


@pytest.mark.parametrize("reason", [0, 1, 2, 3, 4, 5, 77, 0x1_02])
def test_shutdown_keeps_the_low_byte_of_its_reason(host: NativeHost, reason: int) -> None:
    assert host.one.sched(sched.SCHEDOP_shutdown, sched.sched_shutdown, reason=reason) == 0
    assert host.one.domain.shutdown_code == reason & 0xFF
    assert not host.one.v.runnable
    assert host.one.sched(sched.SCHEDOP_shutdown, sched.sched_shutdown, reason=1) == 0
    assert host.one.domain.shutdown_code == reason & 0xFF  # the first counts


def test_shutdown_code_is_remembered_for_the_shutdown(host: NativeHost) -> None:
    assert host.one.sched(sched.SCHEDOP_shutdown_code, sched.sched_shutdown, reason=5) == 0
    assert host.one.sched(sched.SCHEDOP_shutdown_code, sched.sched_shutdown, reason=1) == 0
    assert host.one.domain.shutdown_code is None and host.one.v.runnable
    assert host.one.sched(sched.SCHEDOP_shutdown, sched.sched_shutdown, reason=0) == 0
    assert host.one.domain.shutdown_code == 5


def test_shutdown_tells_the_toolstack(host: NativeHost) -> None:
    _, port = bind_virq(host.dom0, xen.VIRQ_DOM_EXC)
    host.one.sched(sched.SCHEDOP_shutdown, sched.sched_shutdown, reason=0)
    assert event_channel.take_pending(host.dom0.v) == [port]


@pytest.mark.parametrize(
    ("caller", "domid", "result"),
    [("one", 2, -errno.EPERM), ("one", 1, -errno.EPERM), ("one", 9, -errno.ESRCH), ("dom0", 2, 0)],
)
def test_remote_shutdown(host: NativeHost, caller: str, domid: int, result: int) -> None:
    guest = getattr(host, caller)
    got = guest.sched(sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown, domain_id=domid, reason=1)
    assert got == result
    assert host.two.domain.shutdown_code == (1 if result == 0 else None)
    self_result = guest.sched(sched.SCHEDOP_remote_shutdown, sched.sched_remote_shutdown, domain_id=xen.DOMID_SELF)
    assert self_result == -errno.ESRCH


def test_watchdog(host: NativeHost) -> None:
    def watchdog(id_: int, timeout: int) -> int:
        return host.one.sched(sched.SCHEDOP_watchdog, sched.sched_watchdog, id=id_, timeout=timeout)

    assert watchdog(3, 1) == -errno.EINVAL
    assert watchdog(1, 1) == -errno.EINVAL
    assert (watchdog(0, 10), watchdog(0, 20), watchdog(0, 30)) == (1, 2, -errno.ENOSPC)
    assert watchdog(1, 0) == 0
    assert watchdog(1, 5) == -errno.EINVAL
    now = host.hv.machine.now
    assert watchdog(2, 5) == 0
    host.hv.timers.fire(now + 5_000_000_000 - 1)
    assert host.one.domain.shutdown_code is None
    host.hv.timers.fire(now + 5_000_000_000)
    assert host.one.domain.shutdown_code == sched.SHUTDOWN_watchdog


def test_watchdogs_and_polls_of_a_dead_domain_are_gone(host: NativeHost) -> None:
    host.one.sched(sched.SCHEDOP_watchdog, sched.sched_watchdog, id=0, timeout=1)
    poll(host, [unbound(host.one, 0)], timeout=10**9)
    lifecycle.destroy_domain(host.one.domain)
    assert host.hv.timers.next() is None


def test_pin_override(host: NativeHost) -> None:
    def pin(guest: str, pcpu: int) -> int:
        result: int = getattr(host, guest).sched(sched.SCHEDOP_pin_override, sched.sched_pin_override, pcpu=pcpu)
        return result

    assert pin("one", 0) == -errno.EPERM
    assert (pin("dom0", 0), pin("dom0", -1), pin("dom0", 1)) == (0, 0, -errno.EINVAL)


def test_compat_form(host: NativeHost) -> None:
    def compat(cmd: int, arg: int = 0) -> int:
        return host.one.call(xen.HYPERVISOR_sched_op_compat, cmd, arg)

    assert compat(sched.SCHEDOP_yield) == 0
    assert compat(sched.SCHEDOP_poll) == -errno.ENOSYS
    assert compat(sched.SCHEDOP_shutdown, 0x101) == 0
    assert host.one.domain.shutdown_code == 1


def test_tasks_talk_over_an_event_channel_until_nobody_has_anything_to_do(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    log: list[str] = []

    async def ping(api: Native, port: int, name: str, first: bool) -> None:
        for i in range(3):
            if not first or i:
                await api.event(port)
            log.append(f"{name}{i}")
            send(host.one if name == "a" else host.two, port)

    host.one.api.spawn(ping(host.one.api, a, "a", True))
    host.two.api.spawn(ping(host.two.api, b, "b", False))
    assert host.hv.run(lambda: False) is Outcome.DEADLOCK
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert host.one.v.runstate == Runstate.BLOCKED
    assert host.one.domain.counters.events_sent == 3


def test_idle_time_is_skipped_to_the_next_timer(host: NativeHost) -> None:
    _, port = bind_virq(host.one, xen.VIRQ_TIMER)
    woken: list[int] = []

    async def sleeper(api: Native) -> None:
        api.hypercall(xen.HYPERVISOR_set_timer_op, 1_000_000)
        await api.event(port)
        woken.append(host.hv.machine.now)

    host.one.api.spawn(sleeper(host.one.api))
    assert host.hv.run(lambda: False) is Outcome.DEADLOCK
    assert woken == [1_000_000]
