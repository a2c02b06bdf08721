"""The FIFO ABI of event channels: queues as a guest finds and empties them, and what the operations refuse."""

from __future__ import annotations

import random

import pytest

from pyvmm.abi import errno, xen
from pyvmm.abi import event_channel as ec
from pyvmm.hypervisor.event_fifo import LINK_MASK, LINKED, MASKED, PENDING, WORDS_PER_PAGE
from tests.hypervisor.native_host import PAGE, Guest, NativeHost

CONTROL, ARRAY, ARRAY2 = (page * PAGE for page in (40, 41, 42))  # pages of the guest's own
HEADS: int = ec.evtchn_fifo_control_block.head.offset
DEFAULT = ec.EVTCHN_FIFO_PRIORITY_DEFAULT


class FifoGuest:
    """A guest's side of the FIFO ABI, on its first vCPU."""

    def __init__(self, guest: Guest, *, pages: int = 1) -> None:
        self.guest = guest
        assert init(guest, guest.mfn(CONTROL), 0) == 0
        for page in range(pages):
            assert expand(guest, guest.mfn(ARRAY + page * PAGE)) == 0

    def u32(self, va: int) -> int:
        return int.from_bytes(self.guest.api.read(va, 4), "little")

    def put(self, va: int, value: int) -> None:
        self.guest.api.write(va, value.to_bytes(4, "little"))

    def word(self, port: int) -> int:
        return self.u32(ARRAY + port * 4)

    def set_word(self, port: int, value: int) -> None:
        self.put(ARRAY + port * 4, value)

    def take(self) -> list[int]:
        """As Linux's upcall handler does: the ready queues, best priority first, each from its head on."""
        ports = []
        for priority in range(ec.EVTCHN_FIFO_MAX_QUEUES):
            if not self.u32(CONTROL) >> priority & 1:
                continue
            self.put(CONTROL, self.u32(CONTROL) & ~(1 << priority))
            port = self.u32(CONTROL + HEADS + 4 * priority)
            while port:
                word = self.word(port)
                assert word & LINKED
                self.set_word(port, word & ~(LINKED | PENDING | LINK_MASK))
                if word & PENDING and not word & MASKED:
                    ports.append(port)
                port = word & LINK_MASK
            self.put(CONTROL + HEADS + 4 * priority, 0)
        self.guest.hv.machine.ram.write_u8(self.guest.v.info_pa, 0)
        return ports

    def pending(self) -> bool:
        return bool(self.guest.info().evtchn_upcall_pending)


def init(guest: Guest, mfn: int, offset: int, vcpu: int = 0) -> int:
    result, op = guest.evtchn(
        ec.EVTCHNOP_init_control, ec.evtchn_init_control, control_gfn=mfn, offset=offset, vcpu=vcpu
    )
    assert result or op.link_bits == ec.EVTCHN_FIFO_LINK_BITS
    return result


def expand(guest: Guest, mfn: int) -> int:
    return guest.evtchn(ec.EVTCHNOP_expand_array, ec.evtchn_expand_array, array_gfn=mfn)[0]


def ipi(guest: Guest) -> int:
    result, op = guest.evtchn(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi, vcpu=0)
    assert result == 0
    return int(op.port)


def send(guest: Guest, port: int) -> None:
    assert guest.evtchn(ec.EVTCHNOP_send, ec.evtchn_send, port=port)[0] == 0


def priority(guest: Guest, port: int, value: int) -> int:
    return guest.evtchn(ec.EVTCHNOP_set_priority, ec.evtchn_set_priority, port=port, priority=value)[0]


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def test_queue_in_the_order_of_sending(host: NativeHost) -> None:
    fifo = FifoGuest(host.one)
    a, b, c = (ipi(host.one) for _ in range(3))
    for port in (b, a, b, c):
        send(host.one, port)
    assert fifo.u32(CONTROL) == 1 << DEFAULT and fifo.u32(CONTROL + HEADS + 4 * DEFAULT) == b
    assert fifo.word(b) == PENDING | LINKED | a and fifo.word(a) == PENDING | LINKED | c
    assert fifo.word(c) == PENDING | LINKED and fifo.pending()
    assert fifo.take() == [b, a, c]
    send(host.one, c)  # the last tail, which is in no queue any more
    assert fifo.take() == [c]


def test_better_priorities_come_first(host: NativeHost) -> None:
    fifo = FifoGuest(host.one)
    slow, normal, fast = (ipi(host.one) for _ in range(3))
    assert priority(host.one, slow, 15) == priority(host.one, fast, 0) == 0
    assert priority(host.one, fast, 16) == -errno.EINVAL and priority(host.one, 900, 3) == -errno.EINVAL
    assert priority(host.one, 63, 3) == -errno.EACCES  # valid, but closed
    for port in (slow, normal, fast):
        send(host.one, port)
    assert fifo.u32(CONTROL) == 1 << 15 | 1 << DEFAULT | 1
    assert fifo.take() == [fast, normal, slow]


def test_a_masked_port_is_linked_when_it_is_unmasked(host: NativeHost) -> None:
    fifo = FifoGuest(host.one)
    port = ipi(host.one)
    fifo.set_word(port, MASKED)
    send(host.one, port)
    assert fifo.word(port) == MASKED | PENDING and not fifo.pending()
    assert host.one.domain.evtchn.is_masked(port) and host.one.domain.evtchn.is_pending(port)
    assert host.one.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=port)[0] == 0
    assert fifo.word(port) == PENDING | LINKED and fifo.take() == [port]
    assert host.one.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=port)[0] == 0
    assert fifo.word(port) == 0 and not fifo.pending()


def test_what_was_pending_before_is_not_lost(host: NativeHost) -> None:
    early = ipi(host.one)
    send(host.one, early)
    assert init(host.one, host.one.mfn(CONTROL), 0) == 0
    late = ipi(host.one)
    send(host.one, late)  # there is no array yet
    host.hv.machine.ram.write_u8(host.one.v.info_pa, 0)
    assert expand(host.one, host.one.mfn(ARRAY)) == 0
    fifo = FifoGuest.__new__(FifoGuest)
    fifo.guest = host.one
    assert fifo.pending() and fifo.take() == [early, late]


def test_a_closed_port_is_not_reused_while_it_is_linked(host: NativeHost) -> None:
    fifo = FifoGuest(host.one)
    a, b = ipi(host.one), ipi(host.one)
    send(host.one, a)
    assert host.one.evtchn(ec.EVTCHNOP_close, ec.evtchn_close, port=a)[0] == 0
    assert fifo.word(a) == LINKED
    assert ipi(host.one) == b + 1
    assert fifo.take() == []
    assert ipi(host.one) == a


def test_more_ports_than_two_levels_have(host: NativeHost) -> None:
    channels = host.one.domain.evtchn
    assert init(host.one, host.one.mfn(CONTROL), 0) == 0
    for _ in range(4096):
        channels.alloc_unbound(0)
    assert channels.allocate() == 4097


def test_refusals(host: NativeHost) -> None:
    one, mfn = host.one, host.one.mfn(CONTROL)
    assert expand(one, one.mfn(ARRAY)) == -errno.EOPNOTSUPP
    assert priority(one, ipi(one), 3) == -errno.ENOSYS
    assert init(one, mfn, 0, vcpu=1) == -errno.ENOENT
    assert init(one, mfn, PAGE - 64) == init(one, mfn, 4) == -errno.EINVAL
    assert init(one, (1 << 64) - 2, 0) == init(one, host.two.mfn(CONTROL), 0) == -errno.EINVAL
    assert one.domain.evtchn.fifo is None
    assert init(one, mfn, PAGE - 72) == 0
    assert init(one, mfn, 0) == -errno.EINVAL  # the vCPU has one
    assert expand(one, host.two.mfn(ARRAY)) == -errno.EINVAL


def test_a_vcpu_without_a_control_block_loses_events(host: NativeHost) -> None:
    fifo = FifoGuest(host.one)
    host.one.add_vcpu()
    result, op = host.one.evtchn(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi, vcpu=1)
    send(host.one, op.port)
    assert result == 0 and fifo.word(op.port) == 0


def test_reset_goes_back_to_two_levels_and_gives_the_frames_back(host: NativeHost) -> None:
    counts = host.hv.frames.counts.copy(), host.hv.frames.type_counts.copy()
    FifoGuest(host.one, pages=2)
    assert (host.hv.frames.counts != counts[0]).sum() == 3
    assert host.one.evtchn(ec.EVTCHNOP_reset, ec.evtchn_reset, dom=xen.DOMID_SELF)[0] == 0
    assert host.one.domain.evtchn.fifo is None
    assert (host.hv.frames.counts == counts[0]).all() and (host.hv.frames.type_counts == counts[1]).all()
    port = ipi(host.one)
    send(host.one, port)
    assert host.one.shared().evtchn_pending[0] == 1 << port


@pytest.mark.parametrize("seed", range(8))
def test_no_event_is_lost_or_doubled(seed: int) -> None:
    """Random sends, masks and priorities against a set of what must come."""
    rng = random.Random(seed)
    host = NativeHost()
    fifo = FifoGuest(host.one)
    ports = [ipi(host.one) for _ in range(12)]
    due: set[int] = set()
    for _ in range(400):
        port = rng.choice(ports)
        match rng.randrange(6):
            case 0 | 1 | 2:
                send(host.one, port)
                due.add(port)
            case 3:
                priority(host.one, port, rng.randrange(16))
            case 4:
                taken = fifo.take()
                assert len(taken) == len(set(taken)) and set(taken) == due
                due.clear()
            case _:
                if not fifo.word(port) & (LINKED | PENDING):
                    fifo.set_word(port, MASKED)
                    send(host.one, port)
                    assert host.one.evtchn(ec.EVTCHNOP_unmask, ec.evtchn_unmask, port=port)[0] == 0
                    due.add(port)
    assert set(fifo.take()) == due


def test_the_array_has_an_end(host: NativeHost) -> None:
    assert init(host.one, host.one.mfn(CONTROL), 0) == 0
    results = [expand(host.one, host.one.mfn(ARRAY)) for _ in range(ec.EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE + 1)]
    assert results[:-1] == [0] * 128 and results[-1] == -errno.ENOSPC
