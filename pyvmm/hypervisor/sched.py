"""sched_op: giving up the CPU, waiting for events, shutting down, watchdogs.

Facts from Xen 4.17: public/sched.h, xen/common/sched/core.c (do_sched_op, do_poll, vcpu_block, domain_watchdog),
xen/common/domain.c (domain_shutdown), xen/arch/x86/compat.c (sched_op_compat).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.abi import sched as abi
from pyvmm.hypervisor import event_channel
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import may_serve
from pyvmm.hypervisor.runstate import block, wake

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

POLL_PORTS_MAX = 128
WATCHDOGS = 2  # timers a domain
SECOND = 1_000_000_000


def _yield(v: VCpu, arg: int) -> int:
    hv = v.hv
    if len(hv.ready) > 1 and hv.others_ready(v):
        hv.leave = True
    return 0


def _block(v: VCpu, arg: int) -> int:
    """Unmask upcalls and wait, unless one is pending already."""
    ram = v.hv.machine.ram
    ram.write_u8(v.info_pa + event_channel.UPCALL_MASK, 0)
    if not ram.read_u8(v.info_pa + event_channel.UPCALL_PENDING):
        block(v)
    return 0


def _poll(v: VCpu, arg: int) -> int:
    """Wait until one of the ports is pending (masked or not), an upcall can be delivered, or the absolute time
    comes."""
    op = abi.sched_poll.unpack(v.copy_in(arg, abi.sched_poll.size))
    if op.nr_ports > POLL_PORTS_MAX:
        raise XenError(errno.EINVAL)
    if event_channel.needs_delivery(v):
        return 0
    channels, port = v.domain.evtchn, 0
    for i in range(op.nr_ports):
        port = int.from_bytes(v.copy_in(op.ports + 4 * i, 4), "little")
        channels.open_port(port)
        if channels.is_pending(port):
            return 0
    # Xen remembers only a single port; whoever polls for none or several is woken by any event of the domain.
    v.poll_ports = [port] if op.nr_ports == 1 else []
    block(v)
    if op.timeout:
        v.hv.set_timer(("poll", v), op.timeout, partial(wake, v))
    return 0


def _shutdown(v: VCpu, arg: int) -> int:
    op = abi.sched_shutdown.unpack(v.copy_in(arg, abi.sched_shutdown.size))
    _end_itself(v, op.reason & 0xFF)
    return 0


def _end_itself(v: VCpu, code: int) -> None:
    """`v` shuts its domain down. A kernel that panics says so by SHUTDOWN_crash: that gets a report, too."""
    domain = v.domain
    if abi.SHUTDOWN_crash in (code, domain.latched_shutdown_code) and domain.crash_report is None:
        from pyvmm.hypervisor import cpu

        domain.crash_report = cpu.crash_report(v, "the guest's kernel shut itself down: SHUTDOWN_crash")
    shutdown(domain, code)


def _shutdown_code(v: VCpu, arg: int) -> int:
    """Name the reason that a later shutdown of this domain shall have. Only the first one counts."""
    op = abi.sched_shutdown.unpack(v.copy_in(arg, abi.sched_shutdown.size))
    if v.domain.latched_shutdown_code is None:
        v.domain.latched_shutdown_code = op.reason & 0xFF
    return 0


def _remote_shutdown(v: VCpu, arg: int) -> int:
    op = abi.sched_remote_shutdown.unpack(v.copy_in(arg, abi.sched_remote_shutdown.size))
    domain = v.hv.domains.get(op.domain_id)  # by id only: DOMID_SELF names nobody here
    if domain is None:
        raise XenError(errno.ESRCH)
    if not may_serve(v.domain, domain):
        raise XenError(errno.EPERM)
    shutdown(domain, op.reason & 0xFF)
    return 0


def _watchdog(v: VCpu, arg: int) -> int:
    """Start (id 0: the next free one, returned), poke or stop (timeout 0) one of the domain's watchdog timers."""
    op = abi.sched_watchdog.unpack(v.copy_in(arg, abi.sched_watchdog.size))
    domain = v.domain
    number = op.id
    if number > WATCHDOGS:
        raise XenError(errno.EINVAL)
    if number == 0:
        free = [n for n in range(1, WATCHDOGS + 1) if n not in domain.watchdogs]
        if not free:
            raise XenError(errno.ENOSPC)
        domain.watchdogs.add(free[0])
        _arm(domain, free[0], op.timeout)
        return free[0]
    if number not in domain.watchdogs:
        raise XenError(errno.EINVAL)
    if op.timeout == 0:
        domain.watchdogs.discard(number)
        domain.hv.timers.cancel(("watchdog", domain, number))
    else:
        _arm(domain, number, op.timeout)
    return 0


def _arm(domain: Domain, number: int, seconds: int) -> None:
    hv = domain.hv
    hv.set_timer(("watchdog", domain, number), hv.machine.now + seconds * SECOND, partial(_bite, domain))


def _bite(domain: Domain) -> None:
    if not domain.is_shut_down and not domain.dying:
        shutdown(domain, abi.SHUTDOWN_watchdog)


def _pin_override(v: VCpu, arg: int) -> int:
    """Pin the calling vCPU to a physical CPU for a while (-1: no longer). There is one CPU, so only 0 is online."""
    if not v.domain.privileged:
        raise XenError(errno.EPERM)
    op = abi.sched_pin_override.unpack(v.copy_in(arg, abi.sched_pin_override.size))
    if op.pcpu > 0:
        raise XenError(errno.EINVAL)
    return 0


def shutdown(domain: Domain, code: int) -> None:
    """Shut `domain` down with SHUTDOWN_* `code`, or with the one it has named by SCHEDOP_shutdown_code before."""
    if domain.latched_shutdown_code is None:
        domain.latched_shutdown_code = code
    domain.hv.shutdown(domain, domain.latched_shutdown_code)


def destroy(domain: Domain) -> None:
    """Stop the watchdogs and poll timers of a dying domain."""
    timers = domain.hv.timers
    for number in range(1, WATCHDOGS + 1):
        timers.cancel(("watchdog", domain, number))
    domain.watchdogs.clear()
    for v in domain.vcpus:
        timers.cancel(("poll", v))


_OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    abi.SCHEDOP_yield: _yield,
    abi.SCHEDOP_block: _block,
    abi.SCHEDOP_shutdown: _shutdown,
    abi.SCHEDOP_poll: _poll,
    abi.SCHEDOP_remote_shutdown: _remote_shutdown,
    abi.SCHEDOP_shutdown_code: _shutdown_code,
    abi.SCHEDOP_watchdog: _watchdog,
    abi.SCHEDOP_pin_override: _pin_override,
}


@hypercall(xen.HYPERVISOR_sched_op, "cmd", "arg")
def sched_op(v: VCpu, cmd: int, arg: int) -> int:
    """SCHEDOP_*; -ENOSYS for an unknown one."""
    operation = _OPERATIONS.get(cmd & 0xFFFF_FFFF)
    return operation(v, arg) if operation is not None else -errno.ENOSYS


@hypercall(xen.HYPERVISOR_sched_op_compat, "cmd", "arg")
def sched_op_compat(v: VCpu, cmd: int, arg: int) -> int:
    """The form of before 3.1: yield, block, and shutdown with the reason in `arg` itself."""
    cmd &= 0xFFFF_FFFF
    if cmd in (abi.SCHEDOP_yield, abi.SCHEDOP_block):
        return _OPERATIONS[cmd](v, 0)
    if cmd == abi.SCHEDOP_shutdown:
        _end_itself(v, arg & 0xFF)
        return 0
    return -errno.ENOSYS
