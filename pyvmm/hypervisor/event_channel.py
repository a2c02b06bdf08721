"""Event channels: ports, how they are bound, and how a notification reaches a guest's memory.

A port is bound to another domain's port, a virtual interrupt, a physical one, or another vCPU of the same domain.
Raising it sets its bit in the shared page; if the bit is new and not masked, also the word's bit in the selector of
the vCPU that it notifies, and if that one is new, the vCPU's upcall_pending, which wakes it. Nothing else in the
hypervisor writes these bits. That is the 2-level ABI; a guest that chose the other one has `EventChannels.fifo` in
place of the bits (event_fifo.py).

Facts from Xen 4.17: public/event_channel.h, xen/common/event_channel.c, event_2l.c, xen/arch/x86/compat.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno, xen
from pyvmm.abi import event_channel as abi
from pyvmm.hypervisor import event_fifo, trace
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import find_or_esrch, require_target
from pyvmm.hypervisor.runstate import wake

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

VIRQ_TIMER: int = xen.VIRQ_TIMER
VIRQ_DEBUG: int = xen.VIRQ_DEBUG
VIRQ_CONSOLE: int = xen.VIRQ_CONSOLE
VIRQ_DOM_EXC: int = xen.VIRQ_DOM_EXC
NR_VIRQS: int = xen.NR_VIRQS
PER_VCPU_VIRQS = frozenset({xen.VIRQ_TIMER, xen.VIRQ_DEBUG, xen.VIRQ_XENOPROF, xen.VIRQ_XENPMU})

MAX_PORTS = 4096  # 64 words of 64 bits
PORTS_PER_BUCKET = 64  # Xen allocates its records by the page; a port of an allocated page is valid, if closed
NO_PORT_LIMIT = 0x7FFF_FFFF
HIGHEST_DOMU_PORT = 1023  # what xl gives a guest (max_event_channels)

PENDING_OFFSET: int = xen.shared_info.evtchn_pending.offset
MASK_OFFSET: int = xen.shared_info.evtchn_mask.offset
VCPU_INFO_SIZE: int = xen.vcpu_info.size
LEGACY_VCPUS = 32  # vCPUs with a vcpu_info in the shared page
UPCALL_PENDING: int = xen.vcpu_info.evtchn_upcall_pending.offset
UPCALL_MASK: int = xen.vcpu_info.evtchn_upcall_mask.offset
PENDING_SEL: int = xen.vcpu_info.evtchn_pending_sel.offset
_U64 = (1 << 64) - 1


class State(IntEnum):
    """What a port is bound to. The numbers are those of EVTCHNSTAT_*."""

    CLOSED = abi.EVTCHNSTAT_closed
    UNBOUND = abi.EVTCHNSTAT_unbound
    INTERDOMAIN = abi.EVTCHNSTAT_interdomain
    PIRQ = abi.EVTCHNSTAT_pirq
    VIRQ = abi.EVTCHNSTAT_virq
    IPI = abi.EVTCHNSTAT_ipi


@dataclass(slots=True)
class Port:
    """One open port. `vcpu` is who it notifies; `remote_domid` is who may bind or has bound the other end."""

    number: int
    state: State
    vcpu: int = 0
    remote_domid: int = 0
    remote: Domain | None = None
    remote_port: int = 0
    virq: int = 0
    pirq: int = 0


class EventChannels:
    """A domain's ports. `max_port` is the highest it may use (the toolstack's max_event_channels)."""

    def __init__(self, domain: Domain, max_port: int = NO_PORT_LIMIT) -> None:
        self.domain = domain
        self.max_port = max_port
        self.ports: dict[int, Port] = {}
        self.valid = PORTS_PER_BUCKET  # every port below is valid, open or not
        self._lowest_free = 1  # port 0 is reserved
        self.fifo: event_fifo.Fifo | None = None  # None: the 2-level ABI

    # -- ports

    def allocate(self) -> int:
        """The lowest closed port, not opened yet. -EINVAL for a dying domain, -ENOSPC when there is none."""
        if self.domain.dying:
            raise XenError(errno.EINVAL)
        port = self._lowest_free
        while port in self.ports:
            port += 1
        self._lowest_free = port
        fifo = self.fifo
        if fifo is not None:
            while port in self.ports or fifo.is_busy(port):
                port += 1
        if port > self.max_port or port >= (MAX_PORTS if fifo is None else abi.EVTCHN_FIFO_NR_CHANNELS):
            raise XenError(errno.ENOSPC)
        if port >= self.valid:
            self.valid = (port // PORTS_PER_BUCKET + 1) * PORTS_PER_BUCKET
        return port

    def open(self, port: Port) -> None:
        """Enter a port whose number `allocate` gave."""
        self.ports[port.number] = port
        if self.fifo is not None:
            self.fifo.opened(port.number)

    def lookup(self, number: int) -> Port | None:
        """The open port `number`, None for a closed one; -EINVAL for a number that is not valid."""
        port = self.ports.get(number)
        if port is None and number >= self.valid:
            raise XenError(errno.EINVAL)
        return port

    def open_port(self, number: int) -> Port:
        """The open port `number`; -EINVAL when it is closed or not valid."""
        port = self.ports.get(number)
        if port is None:
            raise XenError(errno.EINVAL)
        return port

    def alloc_unbound(self, remote_domid: int) -> int:
        """A new port that domain `remote_domid` may bind to. For callers inside the hypervisor: nobody's rights are
        checked."""
        number = self.allocate()
        self.open(Port(number, State.UNBOUND, remote_domid=remote_domid))
        return number

    def close(self, number: int) -> None:
        """Close a port. The other end of an interdomain one stays open, unbound, and may be bound by this domain
        again."""
        port = self.open_port(number)
        domain = self.domain
        if port.state is State.VIRQ:
            owner = domain.vcpus[port.vcpu if port.virq in PER_VCPU_VIRQS else 0]
            del owner.virq_to_port[port.virq]
        elif port.state is State.INTERDOMAIN:
            assert port.remote is not None
            other = port.remote.evtchn.ports[port.remote_port]
            other.state, other.remote, other.remote_port, other.remote_domid = State.UNBOUND, None, 0, domain.domid
        self._clear_pending(number)
        del self.ports[number]
        self._lowest_free = min(self._lowest_free, number)

    def _clear_pending(self, number: int) -> None:
        pa = self.domain.shared_info_pa
        if self.fifo is not None:
            self.fifo.clear_pending(number)
        elif pa:
            ram = self.domain.hv.machine.ram
            pa += PENDING_OFFSET + (number >> 6) * 8
            ram.write_u64(pa, ram.read_u64(pa) & ~(1 << (number & 63)) & _U64)

    # -- bits in the shared page

    def is_pending(self, number: int) -> bool:
        """The port's pending bit."""
        if self.fifo is not None:
            return bool((self.fifo.word(number) or 0) & event_fifo.PENDING)
        pa = self.domain.shared_info_pa + PENDING_OFFSET + (number >> 6) * 8
        return bool(self.domain.hv.machine.ram.read_u64(pa) >> (number & 63) & 1)

    def is_masked(self, number: int) -> bool:
        """The port's mask bit."""
        if self.fifo is not None:
            word = self.fifo.word(number)
            return word is None or bool(word & event_fifo.MASKED)
        pa = self.domain.shared_info_pa + MASK_OFFSET + (number >> 6) * 8
        return bool(self.domain.hv.machine.ram.read_u64(pa) >> (number & 63) & 1)

    def raise_port(self, port: Port) -> None:
        """Make `port` pending for the vCPU that it notifies."""
        set_pending(self.domain.vcpus[port.vcpu], port.number)


def setup_vcpu_info(v: VCpu) -> None:
    """Give `v` its vcpu_info in the shared page, with upcalls masked. From vCPU 32 on there is none until the guest
    registers one."""
    if v.vcpu_id < LEGACY_VCPUS:
        v.info_pa = v.domain.shared_info_pa + v.vcpu_id * VCPU_INFO_SIZE
        v.hv.machine.ram.write_u8(v.info_pa + UPCALL_MASK, 1)
    else:
        v.info_pa = 0


def set_pending(v: VCpu, port: int) -> None:
    """Make `port` of `v`'s domain pending, with `v` as the vCPU to notify."""
    domain, hv = v.domain, v.hv
    if domain.evtchn.fifo is not None:
        _set_pending_fifo(v, port, domain.evtchn.fifo)
        return
    ram = hv.machine.ram
    u64 = ram.u64
    word, bit = (domain.shared_info_mfn << 12) + (port >> 6) * 8, 1 << (port & 63)
    pending = u64[word + PENDING_OFFSET >> 3]
    if pending & bit:
        return
    ram.write_u64(word + PENDING_OFFSET, pending | bit)
    domain.counters.events_received += 1
    if hv.trace.on:
        hv.trace.emit(trace.EVTCHN_PENDING, domain.domid, v.vcpu_id, port)
    if not u64[word + MASK_OFFSET >> 3] & bit:
        _select(v, port >> 6)
    _wake_pollers(domain, port)


def _wake_pollers(domain: Domain, port: int) -> None:
    for other in domain.vcpus:
        if other.poll_ports is not None and (not other.poll_ports or port in other.poll_ports):
            wake(other)


def _set_pending_fifo(v: VCpu, port: int, fifo: event_fifo.Fifo) -> None:
    news, tell = fifo.set_pending(v, port)
    if news:
        v.domain.counters.events_received += 1
        if v.hv.trace.on:
            v.hv.trace.emit(trace.EVTCHN_PENDING, v.domain.domid, v.vcpu_id, port)
    if tell:
        mark_events_pending(v)
    if news:
        _wake_pollers(v.domain, port)


def _select(v: VCpu, word: int) -> None:
    """Mark `word` of the pending bits for `v`; if that is news, tell it so."""
    ram, pa = v.hv.machine.ram, v.info_pa
    if not pa:
        return  # no vcpu_info yet: registering one marks everything
    selector = ram.u64[pa + PENDING_SEL >> 3]
    if not selector >> word & 1:
        ram.write_u64(pa + PENDING_SEL, selector | 1 << word)
        mark_events_pending(v)


def mark_events_pending(v: VCpu) -> None:
    """Set upcall_pending; if it was clear, `v` stops waiting (masked or not) and the run loop looks whether it wants
    an upcall."""
    ram, pa = v.hv.machine.ram, v.info_pa
    if not ram.read_u8(pa + UPCALL_PENDING):
        ram.write_u8(pa + UPCALL_PENDING, 1)
        wake(v)


def needs_delivery(v: VCpu) -> bool:
    """`v` has an upcall pending and does not mask it."""
    return bool(v.info_pa) and v.hv.machine.ram.read_u16(v.info_pa) & 0xFF01 == 0x0001


def has_pending(v: VCpu) -> bool:
    """`v` was told that events are pending (upcall_pending), whatever its mask says."""
    return bool(v.hv.machine.ram.read_u8(v.info_pa + UPCALL_PENDING))


def take_pending(v: VCpu) -> list[int]:
    """Take `v`'s pending, unmasked ports as a guest's upcall handler does: clear upcall_pending, the selector, the
    bits. Ascending."""
    ram, pa = v.hv.machine.ram, v.info_pa
    if not ram.read_u8(pa + UPCALL_PENDING):
        return []
    ram.write_u8(pa + UPCALL_PENDING, 0)
    selector = ram.read_u64(pa + PENDING_SEL)
    ram.write_u64(pa + PENDING_SEL, 0)
    ports = []
    while selector:
        word = (selector & -selector).bit_length() - 1
        selector &= selector - 1
        address = v.domain.shared_info_pa + word * 8
        pending = ram.read_u64(address + PENDING_OFFSET)
        bits = pending & ~ram.read_u64(address + MASK_OFFSET)
        ram.write_u64(address + PENDING_OFFSET, pending & ~bits)
        while bits:
            ports.append(word * 64 + (bits & -bits).bit_length() - 1)
            bits &= bits - 1
    return ports


def send_virq(v: VCpu, virq: int) -> None:
    """Raise a per-vCPU `virq` at `v`; nothing happens when the guest has not bound it."""
    port = v.virq_to_port.get(virq)
    if port is not None:
        if v.hv.trace.on:
            v.hv.trace.emit(trace.VIRQ, v.domain.domid, v.vcpu_id, virq, port)
        set_pending(v, port)


def send_guest_virq(domain: Domain, virq: int) -> None:
    """Raise a global `virq` at `domain`, on the vCPU that it has routed it to."""
    if not domain.vcpus:
        return
    number = domain.vcpus[0].virq_to_port.get(virq)
    if number is not None:
        port = domain.evtchn.ports[number]
        if domain.hv.trace.on:
            domain.hv.trace.emit(trace.VIRQ, domain.domid, port.vcpu, virq, number)
        domain.evtchn.raise_port(port)


def send_global_virq(hv: Hypervisor, virq: int) -> None:
    """Raise a global `virq` at the domain that handles it: XEN_DOMCTL_set_virq_handler's choice, else the hardware
    domain (0)."""
    domain = hv.domains.get(hv.virq_handlers.get(virq, 0))
    if domain is not None:
        send_guest_virq(domain, virq)


def set_global_virq_handler(domain: Domain, virq: int) -> None:
    """XEN_DOMCTL_set_virq_handler: `domain` gets the global `virq` from now on. -EINVAL for one that is not global."""
    if not 0 <= virq < NR_VIRQS or virq in PER_VCPU_VIRQS:
        raise XenError(errno.EINVAL)
    domain.hv.virq_handlers[virq] = domain.domid


def destroy(domain: Domain) -> None:
    """Close all ports of a dying domain, and give back its global virqs."""
    for number in sorted(domain.evtchn.ports, reverse=True):
        domain.evtchn.close(number)
    _leave_fifo(domain)
    handlers = domain.hv.virq_handlers
    for virq in [virq for virq, domid in handlers.items() if domid == domain.domid]:
        del handlers[virq]


# -- the hypercall


def _alloc_unbound(v: VCpu, arg: int) -> int:
    op = abi.evtchn_alloc_unbound.unpack(v.copy_in(arg, abi.evtchn_alloc_unbound.size))
    domain = find_or_esrch(v.domain, op.dom)
    number = domain.evtchn.allocate()
    require_target(v.domain, domain)
    remote = v.domain.domid if op.remote_dom == xen.DOMID_SELF else op.remote_dom
    domain.evtchn.open(Port(number, State.UNBOUND, remote_domid=remote))
    v.copy_out(arg, abi.evtchn_alloc_unbound.pack(**{**op._asdict(), "port": number}))
    return 0


def _bind_interdomain(v: VCpu, arg: int) -> int:
    op = abi.evtchn_bind_interdomain.unpack(v.copy_in(arg, abi.evtchn_bind_interdomain.size))
    local, remote = v.domain, find_or_esrch(v.domain, op.remote_dom)
    number = local.evtchn.allocate()
    other = remote.evtchn.open_port(op.remote_port)
    if other.state is not State.UNBOUND or other.remote_domid != local.domid:
        raise XenError(errno.EINVAL)
    port = Port(number, State.INTERDOMAIN, remote_domid=remote.domid, remote=remote, remote_port=other.number)
    local.evtchn.open(port)
    other.state, other.remote, other.remote_port = State.INTERDOMAIN, local, number
    # Notifications sent while it was unbound are lost: Xen makes up for them by raising the new port at once.
    local.evtchn.raise_port(port)
    v.copy_out(arg, abi.evtchn_bind_interdomain.pack(**{**op._asdict(), "local_port": number}))
    return 0


def _bind_virq(v: VCpu, arg: int) -> int:
    op = abi.evtchn_bind_virq.unpack(v.copy_in(arg, abi.evtchn_bind_virq.size))
    domain, virq = v.domain, op.virq
    if virq >= NR_VIRQS or (virq not in PER_VCPU_VIRQS and op.vcpu != 0):
        raise XenError(errno.EINVAL)
    target = _vcpu(domain, op.vcpu)
    if virq in target.virq_to_port:
        raise XenError(errno.EEXIST)
    number = domain.evtchn.allocate()
    domain.evtchn.open(Port(number, State.VIRQ, vcpu=op.vcpu, virq=virq))
    target.virq_to_port[virq] = number
    if virq == VIRQ_TIMER:
        from pyvmm.hypervisor import time

        time.timer_bound(target)
    v.copy_out(arg, abi.evtchn_bind_virq.pack(**{**op._asdict(), "port": number}))
    return 0


def _bind_ipi(v: VCpu, arg: int) -> int:
    op = abi.evtchn_bind_ipi.unpack(v.copy_in(arg, abi.evtchn_bind_ipi.size))
    _vcpu(v.domain, op.vcpu)
    number = v.domain.evtchn.allocate()
    v.domain.evtchn.open(Port(number, State.IPI, vcpu=op.vcpu))
    v.copy_out(arg, abi.evtchn_bind_ipi.pack(**{**op._asdict(), "port": number}))
    return 0


def _bind_pirq(v: VCpu, arg: int) -> int:
    from pyvmm.hypervisor import physdev

    op = abi.evtchn_bind_pirq.unpack(v.copy_in(arg, abi.evtchn_bind_pirq.size))
    domain = v.domain
    if op.pirq >= physdev.pirq_count(domain):
        raise XenError(errno.EINVAL)
    if not domain.privileged:
        raise XenError(errno.EPERM)
    if any(port.state is State.PIRQ and port.pirq == op.pirq for port in domain.evtchn.ports.values()):
        raise XenError(errno.EEXIST)
    number = domain.evtchn.allocate()
    if not physdev.is_mapped(domain, op.pirq):
        raise XenError(errno.EINVAL)
    domain.evtchn.open(Port(number, State.PIRQ, pirq=op.pirq))
    v.copy_out(arg, abi.evtchn_bind_pirq.pack(**{**op._asdict(), "port": number}))
    return 0


def _close(v: VCpu, arg: int) -> int:
    v.domain.evtchn.close(_port_argument(v, arg))
    return 0


def _send(v: VCpu, arg: int) -> int:
    domain = v.domain
    number = _port_argument(v, arg)
    port = domain.evtchn.ports.get(number)
    if port is None:
        return -errno.EINVAL
    state = port.state
    if state is State.INTERDOMAIN:
        remote = port.remote
        assert remote is not None
        domain.counters.events_sent += 1
        if v.hv.trace.on:
            v.hv.trace.emit(trace.EVTCHN_SEND, domain.domid, v.vcpu_id, number, remote.domid, port.remote_port)
        other = remote.evtchn.ports[port.remote_port]
        set_pending(remote.vcpus[other.vcpu], other.number)
    elif state is State.IPI:
        domain.counters.events_sent += 1
        if v.hv.trace.on:
            v.hv.trace.emit(trace.EVTCHN_SEND, domain.domid, v.vcpu_id, number, domain.domid, number)
        set_pending(domain.vcpus[port.vcpu], number)
    elif state is not State.UNBOUND:  # a notification to nobody is dropped without a word
        return -errno.EINVAL
    return 0


_STATUS_VARIANT: dict[State, Callable[[Port], Any]] = {
    State.UNBOUND: lambda port: {"unbound": {"dom": port.remote_domid}},
    State.INTERDOMAIN: lambda port: {"interdomain": {"dom": port.remote_domid, "port": port.remote_port}},
    State.PIRQ: lambda port: {"pirq": port.pirq},
    State.VIRQ: lambda port: {"virq": port.virq},
}


def _status(v: VCpu, arg: int) -> int:
    op = abi.evtchn_status.unpack(v.copy_in(arg, abi.evtchn_status.size))
    domain = find_or_esrch(v.domain, op.dom)
    port = domain.evtchn.lookup(op.port)
    require_target(v.domain, domain)
    state = port.state if port is not None else State.CLOSED
    # Port 0 is Xen's own; it reads as closed. What the state does not define stays as the caller passed it.
    values = {**op._asdict(), "status": int(state), "vcpu": port.vcpu if port is not None else 0}
    if port is not None and state in _STATUS_VARIANT:
        variant = abi.evtchn_status.u.type.encode(_STATUS_VARIANT[state](port))
        size = 4 if state is not State.INTERDOMAIN else 8
        if state is State.UNBOUND:
            size = 2
        values["u"] = variant[:size] + op.u.raw[size:]
    v.copy_out(arg, abi.evtchn_status.pack(**values))
    return 0


def _bind_vcpu(v: VCpu, arg: int) -> int:
    op = abi.evtchn_bind_vcpu.unpack(v.copy_in(arg, abi.evtchn_bind_vcpu.size))
    _vcpu(v.domain, op.vcpu)
    port = v.domain.evtchn.open_port(op.port)
    if port.state is State.IPI or (port.state is State.VIRQ and port.virq in PER_VCPU_VIRQS):
        raise XenError(errno.EINVAL)
    port.vcpu = op.vcpu
    return 0


def _unmask(v: VCpu, arg: int) -> int:
    unmask(v.domain, _port_argument(v, arg))
    return 0


def unmask(domain: Domain, number: int) -> None:
    """Clear a port's mask bit; if it was set and the port is pending, its vCPU is told now. -EINVAL for a number that
    is not valid."""
    port = domain.evtchn.lookup(number)
    if port is None:
        return  # a closed port has nobody to tell, its bits stay as they are
    fifo = domain.evtchn.fifo
    if fifo is not None:
        if fifo.unmask(number):
            domain.evtchn.raise_port(port)
        return
    ram = domain.hv.machine.ram
    word, bit = domain.shared_info_pa + (number >> 6) * 8, 1 << (number & 63)
    mask = ram.read_u64(word + MASK_OFFSET)
    if mask & bit:
        ram.write_u64(word + MASK_OFFSET, mask & ~bit)
        if ram.read_u64(word + PENDING_OFFSET) & bit:
            _select(domain.vcpus[port.vcpu], number >> 6)


def _reset(v: VCpu, arg: int) -> int:
    op = abi.evtchn_reset.unpack(v.copy_in(arg, abi.evtchn_reset.size))
    domain = find_or_esrch(v.domain, op.dom)
    require_target(v.domain, domain)
    reset(domain, v.domain)
    return 0


def reset(domain: Domain, caller: Domain) -> None:
    """Close all of `domain`'s ports. -EINVAL unless it resets itself or its toolstack has paused it."""
    if domain is not caller and not domain.pause_count:
        raise XenError(errno.EINVAL)
    for number in sorted(domain.evtchn.ports):
        domain.evtchn.close(number)
    _leave_fifo(domain)


def _leave_fifo(domain: Domain) -> None:
    """Back to the 2-level ABI, with no port open."""
    if domain.evtchn.fifo is not None:
        domain.evtchn.fifo.destroy()
        domain.evtchn.fifo = None


def _init_control(v: VCpu, arg: int) -> int:
    data = bytearray(v.copy_in(arg, abi.evtchn_init_control.size))
    op = abi.evtchn_init_control.unpack(data)
    event_fifo.init_control(v.domain, op.vcpu, op.control_gfn, op.offset)
    data[abi.evtchn_init_control.link_bits.offset] = abi.EVTCHN_FIFO_LINK_BITS
    v.copy_out(arg, bytes(data))
    return 0


def _expand_array(v: VCpu, arg: int) -> int:
    op = abi.evtchn_expand_array.unpack(v.copy_in(arg, abi.evtchn_expand_array.size))
    fifo = v.domain.evtchn.fifo
    if fifo is None:
        return -errno.EOPNOTSUPP
    fifo.add_page(op.array_gfn)
    return 0


def _set_priority(v: VCpu, arg: int) -> int:
    op = abi.evtchn_set_priority.unpack(v.copy_in(arg, abi.evtchn_set_priority.size))
    port, fifo = v.domain.evtchn.lookup(op.port), v.domain.evtchn.fifo
    if fifo is None:
        return -errno.ENOSYS  # 2-level ports have no priority
    if port is None:
        return -errno.EACCES
    fifo.set_priority(op.port, op.priority)
    return 0


def _port_argument(v: VCpu, arg: int) -> int:
    """The only member of struct evtchn_send, evtchn_close and evtchn_unmask."""
    return v.space.read_u32(arg)


def _vcpu(domain: Domain, number: int) -> VCpu:
    if number >= len(domain.vcpus):
        raise XenError(errno.ENOENT)
    return domain.vcpus[number]


_OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    abi.EVTCHNOP_bind_interdomain: _bind_interdomain,
    abi.EVTCHNOP_bind_virq: _bind_virq,
    abi.EVTCHNOP_bind_pirq: _bind_pirq,
    abi.EVTCHNOP_close: _close,
    abi.EVTCHNOP_send: _send,
    abi.EVTCHNOP_status: _status,
    abi.EVTCHNOP_alloc_unbound: _alloc_unbound,
    abi.EVTCHNOP_bind_ipi: _bind_ipi,
    abi.EVTCHNOP_bind_vcpu: _bind_vcpu,
    abi.EVTCHNOP_unmask: _unmask,
    abi.EVTCHNOP_reset: _reset,
    abi.EVTCHNOP_init_control: _init_control,
    abi.EVTCHNOP_expand_array: _expand_array,
    abi.EVTCHNOP_set_priority: _set_priority,
}
# The operations that the legacy hypercall 16 knows.
_COMPAT = frozenset(_OPERATIONS) - {
    abi.EVTCHNOP_reset,
    abi.EVTCHNOP_init_control,
    abi.EVTCHNOP_expand_array,
    abi.EVTCHNOP_set_priority,
}


@hypercall(xen.HYPERVISOR_event_channel_op, "cmd", "arg")
def event_channel_op(v: VCpu, cmd: int, arg: int) -> int:
    """EVTCHNOP_*; -ENOSYS for an unknown one."""
    operation = _OPERATIONS.get(cmd & 0xFFFF_FFFF)
    return operation(v, arg) if operation is not None else -errno.ENOSYS


@hypercall(xen.HYPERVISOR_event_channel_op_compat, "uop")
def event_channel_op_compat(v: VCpu, uop: int) -> int:
    """The form of before 3.2: one structure {cmd, union of the arguments} at `uop`."""
    cmd = int.from_bytes(v.copy_in(uop, abi.evtchn_op.size)[:4], "little")
    return _OPERATIONS[cmd](v, uop + abi.evtchn_op.u.offset) if cmd in _COMPAT else -errno.ENOSYS
