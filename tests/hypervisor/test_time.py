"""Timers, time records and the wall clock."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno, platform, vcpu, xen
from pyvmm.hypervisor import event_channel, lifecycle, time
from tests.hypervisor.native_host import WILD, Guest, NativeHost
from tests.hypervisor.test_event_channel import bind_virq

NOW = 10_000_000_000


@pytest.fixture
def host() -> NativeHost:
    host = NativeHost()
    host.hv.machine.skip_to(NOW)
    assert bind_virq(host.one, xen.VIRQ_TIMER) == (0, 1)
    return host


def set_timer(guest: Guest, deadline: int) -> int:
    return guest.call(xen.HYPERVISOR_set_timer_op, deadline & (1 << 64) - 1)


def fired(host: NativeHost, at: int) -> bool:
    host.hv.timers.fire(at)
    return event_channel.take_pending(host.one.v) == [1]


def test_one_shot(host: NativeHost) -> None:
    assert set_timer(host.one, NOW + 1000) == 0
    assert not fired(host, NOW + 999)
    assert fired(host, NOW + 1000)
    assert not fired(host, NOW + 10_000)


def test_setting_again_replaces_and_zero_stops(host: NativeHost) -> None:
    set_timer(host.one, NOW + 1000)
    set_timer(host.one, NOW + 2000)
    assert not fired(host, NOW + 1999)
    assert set_timer(host.one, 0) == 0
    assert not fired(host, NOW + 5000)
    assert host.hv.timers.next() is None


def test_a_past_deadline_fires_at_the_next_opportunity(host: NativeHost) -> None:
    set_timer(host.one, 1)
    assert fired(host, NOW)


@pytest.mark.parametrize("deadline", [-1, -(1 << 63), NOW + (1 << 50), NOW + (1 << 62)])
def test_absurd_deadlines_become_a_tenth_of_a_second(host: NativeHost, deadline: int) -> None:
    set_timer(host.one, deadline)
    assert not fired(host, NOW + 99_999_999)
    assert fired(host, NOW + 100_000_000)


@pytest.mark.parametrize("deadline", [1 << 63, (1 << 64) - 1])
def test_a_single_shot_with_the_sign_bit_set_is_in_the_past(host: NativeHost, deadline: int) -> None:
    guest = host.one
    arg = guest.api.scratch(vcpu.vcpu_set_singleshot_timer.pack(timeout_abs_ns=deadline))
    assert guest.call(xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_set_singleshot_timer, 0, arg) == 0
    assert fired(host, NOW)


def test_a_single_shot_after_the_end_of_time_never_comes(host: NativeHost) -> None:
    """Nothing waits for it: otherwise the clock would be skipped to where 64 bits end."""
    guest = host.one
    arg = guest.api.scratch(vcpu.vcpu_set_singleshot_timer.pack(timeout_abs_ns=(1 << 63) - 1))
    assert guest.call(xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_set_singleshot_timer, 0, arg) == 0
    assert host.hv.timers.next() is None


def test_just_below_absurd(host: NativeHost) -> None:
    deadline = NOW + (1 << 50) - 1
    set_timer(host.one, deadline)
    assert not fired(host, NOW + 200_000_000)
    assert host.hv.timers.next() == deadline


def test_a_timer_that_nobody_bound_a_port_for_fires_into_the_void(host: NativeHost) -> None:
    set_timer(host.two, NOW + 1)
    host.hv.timers.fire(NOW + 1)
    assert host.two.info().evtchn_upcall_pending == 0


def test_periodic_timer_counts_from_its_last_tick(host: NativeHost) -> None:
    time.set_periodic(host.one.v, 1_000_000)
    assert fired(host, NOW)  # the last tick was longer ago than a period
    assert not fired(host, NOW + 999_999)
    host.hv.machine.skip_to(NOW + 1_000_000)
    assert fired(host, NOW + 1_000_000)
    time.set_periodic(host.one.v, 0)
    assert host.hv.timers.next() is None


def test_only_a_timer_nearer_than_the_slice_stops_the_engine(host: NativeHost) -> None:
    host.hv.run_end = NOW + 1000
    host.hv.look = False
    set_timer(host.one, NOW + 5000)
    assert not host.hv.look
    set_timer(host.one, NOW + 500)
    assert host.hv.look


def test_time_record(host: NativeHost) -> None:
    time.update_vcpu_time(host.one.v)
    record = host.one.info().time
    assert record.version == 2
    assert record.tsc_timestamp == record.system_time == NOW
    # The guest's arithmetic on its own: one TSC tick is one nanosecond.
    for delta in (0, 1, 12345, 10**12):
        assert (delta << record.tsc_shift) * record.tsc_to_system_mul >> 32 == delta


def test_time_record_is_renewed_by_calibration_only(host: NativeHost) -> None:
    v = host.one.v
    time.update_vcpu_time(v)
    host.hv.machine.skip_to(NOW + 999_999_999)
    time.update_vcpu_time(v)
    assert host.one.info().time.version == 2
    host.hv.machine.skip_to(NOW + 1_500_000_000)
    time.update_vcpu_time(v)
    record = host.one.info().time
    assert (record.version, record.system_time) == (4, NOW + 1_000_000_000)
    time.update_vcpu_time(v, force=True)
    assert host.one.info().time.version == 6


def settime(guest: Guest, cmd: int, **u: object) -> int:
    data = platform.xen_platform_op.pack(cmd=cmd, interface_version=platform.XENPF_INTERFACE_VERSION, u=u)
    return guest.call(xen.HYPERVISOR_platform_op, guest.api.scratch(data))


def test_wall_clock_belongs_to_dom0(host: NativeHost) -> None:
    host.two.domain.time_offset_seconds = 3600
    value = {"secs": 5_000_000_000, "nsecs": 7, "system_time": 2_000_000_000}
    assert settime(host.one, platform.XENPF_settime64, settime64=value) == -errno.EPERM
    assert settime(host.dom0, platform.XENPF_settime64, settime64={**value, "mbz": 1}) == -errno.EINVAL
    before = host.one.shared().wc_version
    assert settime(host.dom0, platform.XENPF_settime64, settime64=value) == 0
    shared = host.one.shared()
    assert shared.wc_version == before + 2 and not shared.wc_version & 1
    assert (shared.wc_sec_hi << 32 | shared.wc_sec, shared.wc_nsec) == (4_999_999_998, 7)
    shared = host.two.shared()
    assert shared.wc_sec_hi << 32 | shared.wc_sec == 4_999_999_998 + 3600


def test_settime32(host: NativeHost) -> None:
    assert settime(host.dom0, platform.XENPF_settime32, settime32={"secs": 100, "nsecs": 5, "system_time": 1}) == 0
    assert (host.one.shared().wc_sec, host.one.shared().wc_nsec) == (100, 4)


def test_platform_op_refuses_other_versions_first(host: NativeHost) -> None:
    data = platform.xen_platform_op.pack(cmd=platform.XENPF_settime64, interface_version=1)
    assert host.one.call(xen.HYPERVISOR_platform_op, host.one.api.scratch(data)) == -errno.EACCES
    assert host.one.call(xen.HYPERVISOR_platform_op, WILD) == -errno.EFAULT
    assert settime(host.dom0, 999, settime64={}) == -errno.ENOSYS


def test_timers_go_with_their_domain(host: NativeHost) -> None:
    set_timer(host.one, NOW + 1000)
    time.set_periodic(host.one.v, 1_000_000)
    lifecycle.destroy_domain(host.one.domain)
    assert host.hv.timers.next() is None
