"""Time as a guest sees it: one-shot and periodic timers, the time records in its memory, the wall clock.

System time is the virtual clock in nanoseconds and the guest's TSC runs at 1 GHz on the same clock, so both are
`machine.now`. Xen renews a vCPU's record when its calibration (once a second) gave a new stamp and the vCPU comes to
run; so do we.

Facts from Xen 4.17: public/xen.h (vcpu_time_info, shared_info), xen/common/sched/core.c (do_set_timer_op, periodic
timers), xen/arch/x86/time.c (set_time_scale, __update_vcpu_system_time), xen/common/time.c (do_settime,
update_domain_wallclock_time).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyvmm.abi import xen
from pyvmm.hypervisor import event_channel, trace
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.vcpu import Runstate

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

SECOND = 1_000_000_000
CALIBRATION_PERIOD = SECOND  # ns between two stamps
BOOT_EPOCH = 1_700_000_000  # wall-clock second (UTC) of virtual time 0, unless configured: 2023-11-14 22:13:20
# ns = ((tsc - tsc_timestamp) << shift) * mul >> 32. Xen scales the frequency into (1, 2] GHz first: 1 GHz becomes 2.
TSC_SHIFT = 1
TSC_TO_SYSTEM_MUL = 0x8000_0000

FAR_BITS = 50  # a timeout of 2^50 ns ahead (13 days) or more is taken for a guest's mistake
FAR_DELAY = 100_000_000  # and becomes 100 ms

_TIME_OFFSET: int = xen.vcpu_info.time.offset
_WC_VERSION: int = xen.shared_info.wc_version.offset
_WC_SEC: int = xen.shared_info.wc_sec.offset
_WC_NSEC: int = xen.shared_info.wc_nsec.offset
_WC_SEC_HI: int = xen.shared_info.wc_sec_hi.offset


# -- timers


@hypercall(xen.HYPERVISOR_set_timer_op, "timeout")
def set_timer_op(v: VCpu, timeout: int) -> int:
    """One VIRQ_TIMER at absolute system time `timeout` (at once if it has passed); 0 stops the timer. Always 0."""
    if timeout == 0:
        stop_singleshot(v)
        return 0
    # Compared as Xen does: a negative one, and what is 2^50 ns or more ahead, is absurd.
    now = v.hv.machine.now
    offset = timeout - now
    if timeout >> 63 or (offset > 0 and offset >> FAR_BITS):
        timeout = now + FAR_DELAY
    set_singleshot(v, timeout)
    return 0


def set_singleshot(v: VCpu, deadline: int) -> None:
    """Arm the vCPU's one-shot timer, replacing what it was set to."""
    v.timer_deadline = deadline
    if v.timer is None:
        v.timer = ("singleshot", v), partial(_fire_singleshot, v)
    v.hv.set_timer(v.timer[0], deadline, v.timer[1])


def stop_singleshot(v: VCpu) -> None:
    """Disarm the one-shot timer."""
    if v.timer_deadline:
        v.timer_deadline = 0
        v.hv.timers.cancel(("singleshot", v))


def _fire_singleshot(v: VCpu) -> None:
    deadline, v.timer_deadline = v.timer_deadline, 0
    _fire(v, deadline)


def _fire(v: VCpu, deadline: int) -> None:
    if v.hv.trace.on:
        v.hv.trace.emit(trace.TIMER, v.domain.domid, v.vcpu_id, deadline)
    event_channel.send_virq(v, event_channel.VIRQ_TIMER)


def set_periodic(v: VCpu, period: int) -> None:
    """Arm the periodic timer (ns), 0 stops it. As in Xen it counts from the last tick it gave, so the first may come
    at once."""
    v.hv.timers.cancel(("periodic", v))
    v.periodic_period = period
    periodic_work(v)


def periodic_work(v: VCpu) -> None:
    """`v` gets the CPU, or a tick of its periodic timer is due: give it if it is time, and arm the next one.

    Xen stops the timer of a vCPU that loses the CPU (`runstate.stop_running`): it never wakes one that is blocked, and
    ticks missed meanwhile become one. While the guest has not bound VIRQ_TIMER nobody can see a tick, so there is
    none."""
    if not v.periodic_period or event_channel.VIRQ_TIMER not in v.virq_to_port:
        return
    now = v.hv.machine.now
    due = v.periodic_last + v.periodic_period
    if now >= due:
        _fire(v, due)
        v.periodic_last = now
        due = now + v.periodic_period
    v.hv.set_timer(("periodic", v), due, partial(periodic_work, v))


def timer_bound(v: VCpu) -> None:
    """The guest has bound VIRQ_TIMER for `v`: from now on ticks are seen, the first at the next whole period."""
    if v.periodic_period:
        now = v.hv.machine.now
        v.periodic_last = now - now % v.periodic_period
        if v.runstate == Runstate.RUNNING:
            periodic_work(v)


def destroy(v: VCpu) -> None:
    """Stop the timers of a vCPU that goes away."""
    stop_singleshot(v)
    set_periodic(v, 0)


# -- records in guest memory


def update_vcpu_time(v: VCpu, *, force: bool = False) -> None:
    """Renew the vCPU's time record, if a calibration happened since it was written (or `force`)."""
    stamp = v.hv.machine.now // CALIBRATION_PERIOD * CALIBRATION_PERIOD
    if (stamp == v.time_stamp and not force) or not v.info_pa:
        return
    v.time_stamp = stamp
    ram, pa = v.hv.machine.ram, v.info_pa + _TIME_OFFSET
    version = ram.read_u32(pa) + 1 | 1  # odd: being written
    ram.write_u32(pa, version & 0xFFFF_FFFF)
    ram.write(pa, _record(version, stamp))
    ram.write_u32(pa, version + 1 & 0xFFFF_FFFF)
    if v.time_va:
        try:
            v.copy_out(v.time_va, version.to_bytes(8, "little")[:4])
            v.copy_out(v.time_va, _record(version, stamp))
            v.copy_out(v.time_va, (version + 1).to_bytes(8, "little")[:4])
        except XenError:
            v.time_stamp = (
                -1
            )  # not mapped just now (a 64-bit guest in user mode): tried again when it next comes to run


def _record(version: int, stamp: int) -> bytes:
    data: bytes = xen.vcpu_time_info.pack(
        version=version & 0xFFFF_FFFF,
        tsc_timestamp=stamp,
        system_time=stamp,
        tsc_to_system_mul=TSC_TO_SYSTEM_MUL,
        tsc_shift=TSC_SHIFT,
    )
    return data


def update_wallclock(domain: Domain) -> None:
    """Write the wall-clock time of virtual time 0 to the domain's shared page, with its own offset added."""
    pa = domain.shared_info_pa
    if not pa:
        return
    ram = domain.hv.machine.ram
    seconds, nanoseconds = domain.hv.wallclock
    seconds += domain.time_offset_seconds
    version = ram.read_u32(pa + _WC_VERSION) + 1 | 1
    ram.write_u32(pa + _WC_VERSION, version & 0xFFFF_FFFF)
    ram.write_u32(pa + _WC_SEC, seconds & 0xFFFF_FFFF)
    ram.write_u32(pa + _WC_NSEC, nanoseconds)
    ram.write_u32(pa + _WC_SEC_HI, seconds >> 32 & 0xFFFF_FFFF)
    ram.write_u32(pa + _WC_VERSION, version + 1 & 0xFFFF_FFFF)


def set_wallclock(hv: Hypervisor, seconds: int, nanoseconds: int, system_time: int) -> None:
    """At `system_time` it was, is or will be `seconds`.`nanoseconds` (XENPF_settime64, XENPF_settime32). All domains
    learn of it."""
    total = (seconds * SECOND + nanoseconds - system_time) & (1 << 64) - 1
    hv.wallclock = divmod(total, SECOND)
    for domain in hv.domains.values():
        update_wallclock(domain)
