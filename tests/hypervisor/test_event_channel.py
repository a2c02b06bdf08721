"""event_channel_op, case by case, and the bits it leaves in a guest's memory."""

from __future__ import annotations

import random

import pytest

from pyvmm.abi import errno, xen
from pyvmm.abi import event_channel as ec
from pyvmm.abi.layout import Struct
from pyvmm.hypervisor import event_channel, lifecycle
from pyvmm.hypervisor.event_channel import State
from tests.hypervisor.native_host import WILD, Guest, NativeHost


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def unbound(guest: Guest, remote: int, dom: int = xen.DOMID_SELF) -> int:
    result, op = guest.evtchn(ec.EVTCHNOP_alloc_unbound, ec.evtchn_alloc_unbound, dom=dom, remote_dom=remote)
    assert result == 0
    return int(op.port)


def connect(a: Guest, b: Guest) -> tuple[int, int]:
    """An interdomain channel, both of whose ports are quiet; a's port, b's port."""
    port = unbound(a, b.domid)
    result, op = b.evtchn(
        ec.EVTCHNOP_bind_interdomain, ec.evtchn_bind_interdomain, remote_dom=a.domid, remote_port=port
    )
    assert result == 0
    assert event_channel.take_pending(b.v) == [op.local_port]
    return port, int(op.local_port)


def send(guest: Guest, port: int) -> int:
    return guest.evtchn(ec.EVTCHNOP_send, ec.evtchn_send, port=port)[0]


def status(guest: Guest, port: int, dom: int = xen.DOMID_SELF) -> tuple[int, object]:
    return guest.evtchn(ec.EVTCHNOP_status, ec.evtchn_status, dom=dom, port=port)


def bind_virq(guest: Guest, virq: int, vcpu: int = 0) -> tuple[int, int]:
    result, op = guest.evtchn(ec.EVTCHNOP_bind_virq, ec.evtchn_bind_virq, virq=virq, vcpu=vcpu)
    return result, int(op.port)


def test_ports_are_handed_out_lowest_first_and_reused(host: NativeHost) -> None:
    assert [unbound(host.one, 0) for _ in range(3)] == [1, 2, 3]
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=2)[0] == 0
    assert unbound(host.one, 0) == 2
    assert unbound(host.one, 0) == 4


def test_limit_of_the_two_level_abi_and_of_the_toolstack(host: NativeHost) -> None:
    channels = host.one.domain.evtchn
    for _ in range(4095):
        channels.alloc_unbound(0)
    assert host.one.evtchn(ec.EVTCHNOP_alloc_unbound, ec.evtchn_alloc_unbound, dom=xen.DOMID_SELF)[0] == -errno.ENOSPC
    host.two.domain.evtchn.max_port = 3
    assert [unbound(host.two, 0) for _ in range(3)] == [1, 2, 3]
    assert host.two.evtchn(ec.EVTCHNOP_alloc_unbound, ec.evtchn_alloc_unbound, dom=xen.DOMID_SELF)[0] == -errno.ENOSPC


@pytest.mark.parametrize(
    ("caller", "dom", "result"),
    [
        ("one", 1, 0),
        ("one", xen.DOMID_SELF, 0),
        ("one", 2, -errno.EPERM),
        ("one", 77, -errno.ESRCH),
        ("dom0", 1, 0),
        ("dom0", 77, -errno.ESRCH),
    ],
)
def test_who_may_allocate_for_whom(host: NativeHost, caller: str, dom: int, result: int) -> None:
    guest: Guest = getattr(host, caller)
    got = guest.evtchn(ec.EVTCHNOP_alloc_unbound, ec.evtchn_alloc_unbound, dom=dom, remote_dom=0)[0]
    assert got == result
    if result == -errno.EPERM:
        assert not host.two.domain.evtchn.ports  # nothing is left of a refused one


def test_remote_self_means_the_caller(host: NativeHost) -> None:
    port = unbound(host.dom0, xen.DOMID_SELF, dom=1)
    assert host.one.domain.evtchn.ports[port].remote_domid == 0


def test_bad_pointers_are_efault_and_wild_commands_enosys(host: NativeHost) -> None:
    for cmd in range(14):
        assert host.one.call(xen.HYPERVISOR_event_channel_op, cmd, WILD) == -errno.EFAULT
    for cmd in (14, 99, 0xFFFF_FFFF, 1 << 40 | 14):
        assert host.one.call(xen.HYPERVISOR_event_channel_op, cmd, 0) == -errno.ENOSYS


def test_bind_interdomain_pends_the_new_port_and_refuses_strangers(host: NativeHost) -> None:
    port = unbound(host.one, 2)
    op = ec.evtchn_bind_interdomain
    assert host.dom0.evtchn(ec.EVTCHNOP_bind_interdomain, op, remote_dom=1, remote_port=port)[0] == -errno.EINVAL
    for bad in (0, port + 1, 5000):
        assert host.two.evtchn(ec.EVTCHNOP_bind_interdomain, op, remote_dom=1, remote_port=bad)[0] == -errno.EINVAL
    assert host.two.evtchn(ec.EVTCHNOP_bind_interdomain, op, remote_dom=9, remote_port=port)[0] == -errno.ESRCH
    result, bound = host.two.evtchn(ec.EVTCHNOP_bind_interdomain, op, remote_dom=1, remote_port=port)
    assert result == 0
    assert host.two.shared().evtchn_pending[0] == 1 << bound.local_port
    assert host.one.shared().evtchn_pending[0] == 0
    assert host.two.evtchn(ec.EVTCHNOP_bind_interdomain, op, remote_dom=1, remote_port=port)[0] == -errno.EINVAL
    assert not host.two.domain.evtchn.ports.keys() - {bound.local_port}


def test_send_sets_pending_selector_and_upcall(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    assert send(host.one, a) == 0
    assert host.two.shared().evtchn_pending[0] == 1 << b
    info = host.two.info()
    assert (info.evtchn_upcall_pending, info.evtchn_pending_sel) == (1, 1)
    assert host.one.domain.counters.events_sent == 1
    received = host.two.domain.counters.events_received
    assert send(host.one, a) == 0  # still pending: nothing new to be received
    assert host.two.domain.counters.events_received == received
    assert event_channel.take_pending(host.two.v) == [b]
    assert not event_channel.has_pending(host.two.v)
    assert event_channel.take_pending(host.two.v) == []


def test_a_masked_port_touches_neither_selector_nor_upcall_until_unmasked(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    host.two.set_mask(b)
    assert send(host.one, a) == 0
    assert host.two.shared().evtchn_pending[0] == 1 << b
    assert (host.two.info().evtchn_upcall_pending, host.two.info().evtchn_pending_sel) == (0, 0)
    assert host.two.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=b)[0] == 0
    assert (host.two.info().evtchn_upcall_pending, host.two.info().evtchn_pending_sel) == (1, 1)
    assert host.two.shared().evtchn_mask[0] == 0
    assert event_channel.take_pending(host.two.v) == [b]


def test_unmask_of_a_port_that_was_not_masked_does_nothing(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    host.two.set_mask(b)
    send(host.one, a)
    host.two.set_mask(b, False)
    assert host.two.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=b)[0] == 0
    assert host.two.info().evtchn_upcall_pending == 0
    # A closed but valid port is fine, an invalid one is not.
    assert host.two.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=63)[0] == 0
    assert host.two.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=64)[0] == -errno.EINVAL


def test_send_on_what_cannot_send(host: NativeHost) -> None:
    assert send(host.one, 0) == -errno.EINVAL
    assert send(host.one, 7) == -errno.EINVAL
    assert send(host.one, 1 << 31) == -errno.EINVAL
    assert send(host.one, unbound(host.one, 0)) == 0  # to nobody: dropped
    _, virq_port = bind_virq(host.one, xen.VIRQ_TIMER)
    assert send(host.one, virq_port) == -errno.EINVAL
    assert host.one.domain.counters.events_sent == 0


def test_close_leaves_the_other_end_unbound_and_rebindable(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    send(host.two, b)
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=a)[0] == 0
    assert host.one.shared().evtchn_pending[0] == 0  # a port that is used again starts quiet
    other = host.two.domain.evtchn.ports[b]
    assert (other.state, other.remote_domid) == (State.UNBOUND, 1)
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=a)[0] == -errno.EINVAL
    result, op = host.one.evtchn(ec.EVTCHNOP_bind_interdomain, ec.evtchn_bind_interdomain, remote_dom=2, remote_port=b)
    assert (result, op.local_port) == (0, a)


def test_status_of_every_kind(host: NativeHost) -> None:
    port = unbound(host.one, 2)
    _, bound = connect(host.dom0, host.one)
    _, virq = bind_virq(host.one, xen.VIRQ_DEBUG)
    _, ipi = host.one.evtchn(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi, vcpu=0)

    def read(port: int) -> tuple[int, object]:
        result, op = status(host.one, port)
        assert result == 0
        return op.status, op.u  # type: ignore[attr-defined]

    assert read(0)[0] == ec.EVTCHNSTAT_closed
    assert read(50)[0] == ec.EVTCHNSTAT_closed
    kind, u = read(port)
    assert (kind, u.unbound.dom) == (ec.EVTCHNSTAT_unbound, 2)  # type: ignore[attr-defined]
    kind, u = read(bound)
    assert (kind, u.interdomain.dom, u.interdomain.port) == (ec.EVTCHNSTAT_interdomain, 0, 1)  # type: ignore[attr-defined]
    kind, u = read(virq)
    assert (kind, u.virq) == (ec.EVTCHNSTAT_virq, xen.VIRQ_DEBUG)  # type: ignore[attr-defined]
    assert read(ipi.port)[0] == ec.EVTCHNSTAT_ipi
    assert status(host.one, 64)[0] == -errno.EINVAL
    assert status(host.one, 1, dom=2)[0] == -errno.EPERM
    assert status(host.one, 1, dom=9)[0] == -errno.ESRCH
    assert status(host.dom0, port, dom=1)[0] == 0


def test_virqs_once_each_and_global_ones_on_vcpu_0_only(host: NativeHost) -> None:
    host.one.add_vcpu()
    assert bind_virq(host.one, xen.VIRQ_TIMER) == (0, 1)
    assert bind_virq(host.one, xen.VIRQ_TIMER)[0] == -errno.EEXIST
    assert bind_virq(host.one, xen.VIRQ_TIMER, 1) == (0, 2)
    assert bind_virq(host.one, xen.VIRQ_TIMER, 2)[0] == -errno.ENOENT
    assert bind_virq(host.one, xen.VIRQ_CONSOLE, 1)[0] == -errno.EINVAL
    assert bind_virq(host.one, xen.VIRQ_CONSOLE) == (0, 3)
    assert bind_virq(host.one, xen.NR_VIRQS)[0] == -errno.EINVAL
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=2)[0] == 0
    assert bind_virq(host.one, xen.VIRQ_TIMER, 1) == (0, 2)


def test_a_global_virq_follows_bind_vcpu_and_per_vcpu_ones_do_not(host: NativeHost) -> None:
    second = host.one.add_vcpu()
    _, port = bind_virq(host.one, xen.VIRQ_DOM_EXC)
    _, timer = bind_virq(host.one, xen.VIRQ_TIMER)
    op = ec.evtchn_bind_vcpu
    assert host.one.evtchn(ec.EVTCHNOP_bind_vcpu, op, port=port, vcpu=1)[0] == 0
    assert host.one.evtchn(ec.EVTCHNOP_bind_vcpu, op, port=timer, vcpu=1)[0] == -errno.EINVAL
    assert host.one.evtchn(ec.EVTCHNOP_bind_vcpu, op, port=port, vcpu=2)[0] == -errno.ENOENT
    assert host.one.evtchn(ec.EVTCHNOP_bind_vcpu, op, port=40, vcpu=0)[0] == -errno.EINVAL
    event_channel.set_global_virq_handler(host.one.domain, xen.VIRQ_DOM_EXC)
    event_channel.send_global_virq(host.hv, xen.VIRQ_DOM_EXC)
    assert host.one.info().evtchn_upcall_pending == 0
    assert event_channel.take_pending(second) == [port]
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=port)[0] == 0
    event_channel.send_global_virq(host.hv, xen.VIRQ_DOM_EXC)
    assert event_channel.take_pending(second) == []


def test_ipi_reaches_the_vcpu_it_was_bound_to(host: NativeHost) -> None:
    second = host.one.add_vcpu()
    result, op = host.one.evtchn(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi, vcpu=1)
    assert result == 0
    assert send(host.one, op.port) == 0
    assert host.one.info().evtchn_upcall_pending == 0
    assert event_channel.take_pending(second) == [op.port]
    assert host.one.evtchn(ec.EVTCHNOP_bind_vcpu, ec.evtchn_bind_vcpu, port=op.port, vcpu=0)[0] == -errno.EINVAL
    assert host.one.evtchn(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi, vcpu=2)[0] == -errno.ENOENT


def test_pirqs_need_privilege_and_an_interrupt(host: NativeHost) -> None:
    op = ec.evtchn_bind_pirq
    assert host.one.evtchn(ec.EVTCHNOP_bind_pirq, op, pirq=3)[0] == -errno.EPERM
    assert host.one.evtchn(ec.EVTCHNOP_bind_pirq, op, pirq=100_000)[0] == -errno.EINVAL
    assert host.dom0.evtchn(ec.EVTCHNOP_bind_pirq, op, pirq=3)[0] == -errno.EINVAL
    assert not host.dom0.domain.evtchn.ports


def test_reset_closes_everything_of_oneself_or_of_a_paused_domain(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    bind_virq(host.one, xen.VIRQ_TIMER)
    op = ec.evtchn_reset
    assert host.two.evtchn(ec.EVTCHNOP_reset, op, dom=1)[0] == -errno.EPERM
    assert host.dom0.evtchn(ec.EVTCHNOP_reset, op, dom=1)[0] == -errno.EINVAL
    lifecycle.pause(host.one.domain)
    assert host.dom0.evtchn(ec.EVTCHNOP_reset, op, dom=1)[0] == 0
    assert not host.one.domain.evtchn.ports
    assert host.two.domain.evtchn.ports[b].state is State.UNBOUND
    assert host.one.v.virq_to_port == {}
    assert host.two.evtchn(ec.EVTCHNOP_reset, op, dom=xen.DOMID_SELF)[0] == 0
    assert not host.two.domain.evtchn.ports
    assert a == 1


def test_compat_form_takes_its_arguments_behind_the_command(host: NativeHost) -> None:
    def call(cmd: int, **u: object) -> int:
        va = host.one.api.scratch(ec.evtchn_op.pack(cmd=cmd, u=u))
        return host.one.call(xen.HYPERVISOR_event_channel_op_compat, va)

    assert call(ec.EVTCHNOP_alloc_unbound, alloc_unbound={"dom": xen.DOMID_SELF, "remote_dom": 0}) == 0
    assert call(ec.EVTCHNOP_send, send={"port": 1}) == 0
    assert call(ec.EVTCHNOP_close, close={"port": 1}) == 0
    assert call(ec.EVTCHNOP_close, close={"port": 1}) == -errno.EINVAL
    assert call(ec.EVTCHNOP_reset, close={"port": 1}) == -errno.ENOSYS
    assert host.one.call(xen.HYPERVISOR_event_channel_op_compat, WILD) == -errno.EFAULT


def test_waking_by_an_event_masked_or_not(host: NativeHost) -> None:
    a, b = connect(host.one, host.two)
    v = host.two.v
    v.blocked = True
    host.hv.machine.ram.write_u8(v.info_pa + event_channel.UPCALL_MASK, 1)
    host.hv.leave = False
    send(host.one, a)
    assert not v.blocked and host.hv.leave  # the upcall mask does not keep it asleep: vcpu_kick
    event_channel.take_pending(v)
    host.two.set_mask(b)
    v.blocked = True
    send(host.one, a)
    assert v.blocked  # the port's own mask does


def test_dying_domain_gives_everything_back(host: NativeHost) -> None:
    _, b = connect(host.one, host.two)
    connect(host.two, host.one)
    bind_virq(host.one, xen.VIRQ_TIMER)
    event_channel.set_global_virq_handler(host.one.domain, xen.VIRQ_ENOMEM)
    lifecycle.destroy_domain(host.one.domain)
    assert not host.one.domain.evtchn.ports and not host.hv.virq_handlers
    assert all(port.state is State.UNBOUND for port in host.two.domain.evtchn.ports.values())
    assert send(host.two, b) == 0
    with pytest.raises(Exception, match=str(errno.EINVAL)):
        host.one.domain.evtchn.allocate()


def test_events_in_the_trace(host: NativeHost) -> None:
    a, _ = connect(host.one, host.two)
    host.watch()
    send(host.one, a)
    assert host.names() == ["evtchn_send", "evtchn_pending", "hypercall"]


def agree(host: NativeHost) -> None:
    """Both ends of every channel know of each other, and a closed port has no pending bit."""
    for domain in host.hv.domains.values():
        for number, port in domain.evtchn.ports.items():
            assert port.number == number and 0 < number < domain.evtchn.valid
            if port.state is State.INTERDOMAIN:
                assert port.remote is not None
                other = port.remote.evtchn.ports[port.remote_port]
                assert (other.state, other.remote, other.remote_port) == (State.INTERDOMAIN, domain, number)
            elif port.state is State.VIRQ:
                assert any(v.virq_to_port.get(port.virq) == number for v in domain.vcpus)
        for v in domain.vcpus:
            assert all(domain.evtchn.ports[port].state is State.VIRQ for port in v.virq_to_port.values())
        pending = sum(
            word << 64 * i
            for i, word in enumerate(
                host.hv.machine.ram.u64[domain.shared_info_pa + event_channel.PENDING_OFFSET >> 3 :][:64]
            )
        )
        assert all(domain.evtchn.ports.get(bit) for bit in range(130) if pending >> bit & 1)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_guests_do_both_ends_of_a_channel_agree(host: NativeHost, seed: int) -> None:
    rng = random.Random(seed)
    guests = [host.dom0, host.one, host.two]
    for guest in guests:
        guest.add_vcpu()

    def port() -> int:
        return rng.randrange(0, 12) if rng.random() < 0.9 else rng.randrange(0, 5000)

    def domid() -> int:
        return rng.choice([0, 1, 2, 2, xen.DOMID_SELF, 9])

    for _ in range(400):
        guest = rng.choice(guests)
        values: dict[int, tuple[Struct, dict[str, int]]] = {
            ec.EVTCHNOP_alloc_unbound: (ec.evtchn_alloc_unbound, {"dom": domid(), "remote_dom": domid()}),
            ec.EVTCHNOP_bind_interdomain: (
                ec.evtchn_bind_interdomain,
                {"remote_dom": domid(), "remote_port": port()},
            ),
            ec.EVTCHNOP_bind_virq: (ec.evtchn_bind_virq, {"virq": rng.randrange(26), "vcpu": rng.randrange(3)}),
            ec.EVTCHNOP_bind_ipi: (ec.evtchn_bind_ipi, {"vcpu": rng.randrange(3)}),
            ec.EVTCHNOP_close: (ec.evtchn_close, {"port": port()}),
            ec.EVTCHNOP_send: (ec.evtchn_send, {"port": port()}),
            ec.EVTCHNOP_unmask: (ec.evtchn_unmask, {"port": port()}),
            ec.EVTCHNOP_bind_vcpu: (ec.evtchn_bind_vcpu, {"port": port(), "vcpu": rng.randrange(3)}),
            ec.EVTCHNOP_status: (ec.evtchn_status, {"dom": domid(), "port": port()}),
        }
        cmd = rng.choice(sorted(values))
        struct, fields = values[cmd]
        assert -40 < guest.evtchn(cmd, struct, **fields)[0] <= 0
        if rng.random() < 0.2:
            guest.set_mask(rng.randrange(12), rng.random() < 0.5)
        agree(host)
    for guest in (host.one, host.two):
        lifecycle.destroy_domain(guest.domain)
        agree(host)
    assert not any(
        p.state is State.INTERDOMAIN and p.remote is not host.dom0.domain
        for p in host.dom0.domain.evtchn.ports.values()
    )
