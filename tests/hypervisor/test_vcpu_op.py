"""vcpu_op: further vCPUs, runstate, where records are kept."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno, xen
from pyvmm.abi import vcpu as abi
from pyvmm.hypervisor import event_channel, lifecycle, runstate
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.hypervisor.vcpu import Runstate
from tests.hypervisor.native_host import WILD, Guest, NativeHost
from tests.hypervisor.test_event_channel import bind_virq

PAGE = 4096
OWN_PAGE = 40 * PAGE  # one of the guest's frames, outside its scratch area


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def op(guest: Guest, cmd: int, vcpu: int = 0, arg: int = 0) -> int:
    return guest.call(xen.HYPERVISOR_vcpu_op, cmd, vcpu, arg)


def arg(guest: Guest, *words: int) -> int:
    return guest.api.scratch(b"".join(word.to_bytes(8, "little") for word in words))


def test_unknown_operation_and_vcpu(host: NativeHost) -> None:
    assert op(host.one, 14) == -errno.ENOSYS
    assert op(host.one, abi.VCPUOP_is_up, 1) == -errno.ENOENT
    assert op(host.one, 99, 0xFFFF_FFFF) == -errno.ENOENT


def test_up_and_down(host: NativeHost) -> None:
    second = host.one.add_vcpu()
    assert op(host.one, abi.VCPUOP_is_up, 0) == 1
    assert op(host.one, abi.VCPUOP_is_up, 1) == 0
    assert op(host.one, abi.VCPUOP_up, 1) == -errno.EINVAL  # not initialised
    second.initialised = True
    assert op(host.one, abi.VCPUOP_up, 1) == 0
    assert op(host.one, abi.VCPUOP_is_up, 1) == 1
    assert second.runstate == Runstate.RUNNABLE
    assert op(host.one, abi.VCPUOP_down, 1) == 0
    assert second.down and second.runstate == Runstate.OFFLINE
    assert host.one.domain.shutdown_code is None


def test_the_last_vcpu_down_powers_the_domain_off(host: NativeHost) -> None:
    host.one.add_vcpu()
    assert op(host.one, abi.VCPUOP_down, 0) == 0
    assert host.one.domain.shutdown_code == 0


def test_initialise_faults_and_happens_once(host: NativeHost) -> None:
    host.one.add_vcpu()
    assert op(host.one, abi.VCPUOP_initialise, 1, WILD) == -errno.EFAULT
    assert op(host.one, abi.VCPUOP_initialise, 0, host.one.api.scratch(0x1430)) == -errno.EEXIST


def test_runstate_adds_up(host: NativeHost) -> None:
    v = host.one.v
    host.hv.machine.skip_to(1000)
    runstate.set_runstate(v, Runstate.RUNNING)
    host.hv.machine.skip_to(1500)
    runstate.set_runstate(v, Runstate.BLOCKED)
    host.hv.machine.skip_to(1750)
    va = host.one.api.scratch(abi.vcpu_runstate_info.size)
    assert op(host.one, abi.VCPUOP_get_runstate_info, 0, va) == 0
    info = abi.vcpu_runstate_info.unpack(host.one.api.read(va, abi.vcpu_runstate_info.size))
    assert (info.state, info.state_entry_time) == (abi.RUNSTATE_blocked, 1500)
    assert (info.time[0], info.time[2], sum(info.time)) == (500, 250, 1750)
    assert op(host.one, abi.VCPUOP_get_runstate_info, 0, WILD) == -errno.EFAULT


def test_runstate_of_a_paused_and_of_a_shut_down_domain(host: NativeHost) -> None:
    v = host.one.v
    states = [v.runstate]
    for change in (lifecycle.pause, lifecycle.unpause):
        change(host.one.domain)
        states.append(v.runstate)
    v.blocked = True
    runstate.refresh(v)
    states.append(v.runstate)
    lifecycle.pause(host.one.domain)
    runstate.wake(v)
    states.append(v.runstate)
    lifecycle.unpause(host.one.domain)
    host.hv.shutdown(host.one.domain, 0)
    states.append(v.runstate)
    runnable, blocked, offline = Runstate.RUNNABLE, Runstate.BLOCKED, Runstate.OFFLINE
    assert states == [runnable, offline, runnable, blocked, offline, offline]


def test_runstate_area_is_kept_up_to_date(host: NativeHost) -> None:
    area = OWN_PAGE + 0x80
    assert op(host.one, abi.VCPUOP_register_runstate_memory_area, 0, WILD) == -errno.EFAULT
    xen_address = arg(host.one, 0xFFFF_8300_0000_0000)
    assert op(host.one, abi.VCPUOP_register_runstate_memory_area, 0, xen_address) == -errno.EFAULT
    assert op(host.one, abi.VCPUOP_register_runstate_memory_area, 0, arg(host.one, area)) == 0

    def read() -> tuple[int, ...]:
        info = abi.vcpu_runstate_info.unpack(host.one.api.read(area, abi.vcpu_runstate_info.size))
        return info.state, info.state_entry_time

    assert read() == (abi.RUNSTATE_runnable, 0)
    host.hv.machine.skip_to(777)
    host.hv.run(lambda: host.one.v.blocked and host.two.v.blocked)
    assert read() == (abi.RUNSTATE_blocked, 777)


def test_runstate_update_flag_is_set_while_the_record_changes(host: NativeHost) -> None:
    area = OWN_PAGE + 0x80
    op(host.one, abi.VCPUOP_register_runstate_memory_area, 0, arg(host.one, area))
    host.one.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_enable, xen.VMASST_TYPE_runstate_update_flag)
    writes: list[tuple[int, bytes]] = []
    space = host.one.v.space
    plain = space.write
    space.write = lambda va, data: (writes.append((va, data)), plain(va, data))[1]  # type: ignore[method-assign]
    runstate.update_area(host.one.v)
    assert [va - area for va, _ in writes] == [15, 0, 15]
    assert [data[-1 if len(data) == 1 else 15] >> 7 for _, data in writes] == [1, 1, 0]


def test_periodic_timer_limits(host: NativeHost) -> None:
    host.one.add_vcpu()
    for period, result in ((999_999, -errno.EINVAL), (1_000_000, 0), (1 << 62, -errno.EINVAL)):
        assert op(host.one, abi.VCPUOP_set_periodic_timer, 0, arg(host.one, period)) == result
    assert op(host.one, abi.VCPUOP_set_periodic_timer, 1, arg(host.one, 1_000_000)) == 0  # any vCPU of its own
    assert op(host.one, abi.VCPUOP_stop_periodic_timer) == 0
    assert op(host.one, abi.VCPUOP_stop_periodic_timer, 1) == 0
    assert host.hv.timers.next() is None


def test_singleshot_timer_is_the_callers_own(host: NativeHost) -> None:
    host.one.add_vcpu()
    host.hv.machine.skip_to(1000)
    _, port = bind_virq(host.one, xen.VIRQ_TIMER)
    assert op(host.one, abi.VCPUOP_set_singleshot_timer, 1, arg(host.one, 0, 0)) == -errno.EINVAL
    assert op(host.one, abi.VCPUOP_stop_singleshot_timer, 1) == -errno.EINVAL
    assert op(host.one, abi.VCPUOP_set_singleshot_timer, 0, WILD) == -errno.EFAULT
    # In the past: at once, also where VCPU_SSHOTTMR_future asks for an error (4.17 ignores it).
    for flags in (0, abi.VCPU_SSHOTTMR_future):
        assert op(host.one, abi.VCPUOP_set_singleshot_timer, 0, arg(host.one, 999, flags)) == 0
        assert event_channel.take_pending(host.one.v) == [port]
    assert op(host.one, abi.VCPUOP_set_singleshot_timer, 0, arg(host.one, 2000, 0)) == 0
    assert host.hv.timers.next() == 2000
    assert op(host.one, abi.VCPUOP_stop_singleshot_timer) == 0
    assert host.hv.timers.next() is None


def register(guest: Guest, mfn: int, offset: int, vcpu: int = 0) -> int:
    return op(guest, abi.VCPUOP_register_vcpu_info, vcpu, arg(guest, mfn, offset))


def test_register_vcpu_info_moves_the_record_once(host: NativeHost) -> None:
    guest = host.one
    mfn, v = guest.mfn(OWN_PAGE), guest.v
    assert register(guest, mfn, PAGE - 63) == -errno.ENXIO
    assert register(guest, mfn, 4) == -errno.ENXIO
    assert register(guest, host.two.mfn(OWN_PAGE), 0) == -errno.EINVAL
    assert register(guest, 1 << 40, 0) == -errno.EINVAL
    count = host.hv.frames.type_count(mfn)
    assert register(guest, mfn, 0x40) == 0
    assert v.info_pa == mfn * PAGE + 0x40
    assert host.hv.frames.type_count(mfn) == count + 1 and host.hv.frames.type_of(mfn) == PGT_writable_page
    info = guest.info()
    assert (info.evtchn_upcall_pending, info.evtchn_pending_sel) == (1, (1 << 64) - 1)
    assert info.time.version == 2
    assert register(guest, mfn, 0x80) == -errno.EINVAL
    assert event_channel.take_pending(v) == []  # everything was marked, nothing was pending
    _, port = bind_virq(guest, xen.VIRQ_TIMER)
    event_channel.send_virq(v, xen.VIRQ_TIMER)
    assert event_channel.take_pending(v) == [port]


def test_register_vcpu_info_of_others_only_while_they_are_down(host: NativeHost) -> None:
    second = host.one.add_vcpu()
    mfn = host.one.mfn(OWN_PAGE)
    second.down = False
    assert register(host.one, mfn, 0, 1) == -errno.EINVAL
    second.down = True
    assert register(host.one, mfn, 0, 1) == 0
    ram = host.hv.machine.ram
    assert ram.read_u8(second.info_pa + event_channel.UPCALL_MASK) == 1  # copied from its slot


def test_vcpus_from_32_on_have_no_record_until_they_register_one(host: NativeHost) -> None:
    for _ in range(32):
        last = host.one.add_vcpu()
    assert last.vcpu_id == 32 and last.info_pa == 0
    assert op(host.one, abi.VCPUOP_initialise, 32, host.one.api.scratch(0x1430)) == -errno.EINVAL
    _, port = bind_virq(host.one, xen.VIRQ_TIMER, 32)
    event_channel.send_virq(last, xen.VIRQ_TIMER)
    assert register(host.one, host.one.mfn(OWN_PAGE), 0, 32) == 0
    assert event_channel.take_pending(last) == [port]


def test_time_memory_area_gets_a_copy(host: NativeHost) -> None:
    area = OWN_PAGE + 0x100
    host.hv.machine.skip_to(3_200_000_000)
    assert op(host.one, abi.VCPUOP_register_vcpu_time_memory_area, 0, arg(host.one, area)) == 0
    record = xen.vcpu_time_info.unpack(host.one.api.read(area, xen.vcpu_time_info.size))
    assert record == host.one.info().time
    assert record.system_time == 3_000_000_000


def test_physid_and_nmi(host: NativeHost) -> None:
    assert op(host.dom0, abi.VCPUOP_get_physid, 0, host.dom0.api.scratch(8)) == -errno.EINVAL
    assert op(host.one, abi.VCPUOP_send_nmi, 0, 1) == -errno.EINVAL
    host.one.v.blocked = True
    assert op(host.one, abi.VCPUOP_send_nmi) == 0
    assert host.one.v.nmi_pending and not host.one.v.blocked


def test_a_dead_domains_registered_frame_comes_back(host: NativeHost) -> None:
    before = host.hv.frames.free_count
    guest = Guest(host.hv, 3)
    register(guest, guest.mfn(OWN_PAGE), 0)
    lifecycle.destroy_domain(guest.domain)
    assert host.hv.frames.free_count == before
    assert 3 not in host.hv.domains
