"""vcpu_op: bringing up further vCPUs, and where the hypervisor keeps a vCPU's records in guest memory.

Facts from Xen 4.17: public/vcpu.h, xen/common/domain.c (common_vcpu_op, map_vcpu_info), xen/arch/x86/domain.c
(do_vcpu_op).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64, errno, xen
from pyvmm.abi import sched as sched_abi
from pyvmm.abi import vcpu as abi
from pyvmm.hypervisor import cpu, event_channel, runstate, sched, time
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import access_ok

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
MIN_PERIOD = 1_000_000  # ns
MAX_PERIOD = ((1 << 64) - 1) >> 2  # STIME_DELTA_MAX
_ALIGN = 8  # of struct vcpu_info


def _initialise(caller: VCpu, v: VCpu, arg: int) -> int:
    if not v.info_pa:
        raise XenError(errno.EINVAL)
    data = caller.copy_in(arg, arch_x86_64.vcpu_guest_context.size)
    if v.initialised:
        raise XenError(errno.EEXIST)
    cpu.set_context(v, data)
    return 0


def _up(caller: VCpu, v: VCpu, arg: int) -> int:
    if not v.initialised:
        raise XenError(errno.EINVAL)
    if v.down:
        v.down = False
        runstate.refresh(v)
        v.hv.leave = True
    return 0


def _down(caller: VCpu, v: VCpu, arg: int) -> int:
    """The last vCPU of a domain that goes down powers it off."""
    if all(other.down for other in v.domain.vcpus if other is not v):
        sched.shutdown(v.domain, sched_abi.SHUTDOWN_poweroff)
        return 0
    if not v.down:
        v.down = True
        runstate.refresh(v)
        v.hv.leave = True
    return 0


def _is_up(caller: VCpu, v: VCpu, arg: int) -> int:
    return int(not v.down)


def _get_runstate_info(caller: VCpu, v: VCpu, arg: int) -> int:
    caller.copy_out(arg, runstate.info(v))
    return 0


def _register_runstate_memory_area(caller: VCpu, v: VCpu, arg: int) -> int:
    """Keep the vCPU's account at a guest address from now on; the address is used with the vCPU's own page tables."""
    address = _area(caller, arg)
    v.runstate_va = address
    with suppress(XenError):  # an address that is not mapped yet is accepted, later updates try again
        caller.copy_out(address, runstate.info(v, current=v is not caller))
    return 0


def _register_vcpu_time_memory_area(caller: VCpu, v: VCpu, arg: int) -> int:
    v.time_va = _area(caller, arg)
    time.update_vcpu_time(v, force=True)
    return 0


def _area(caller: VCpu, arg: int) -> int:
    """The guest address in the 8-byte union that both register operations take."""
    address = int.from_bytes(caller.copy_in(arg, 8), "little")
    if not access_ok(address):
        raise XenError(errno.EFAULT)
    return address


def _set_periodic_timer(caller: VCpu, v: VCpu, arg: int) -> int:
    op = abi.vcpu_set_periodic_timer.unpack(caller.copy_in(arg, abi.vcpu_set_periodic_timer.size))
    if not MIN_PERIOD <= op.period_ns <= MAX_PERIOD:
        raise XenError(errno.EINVAL)
    time.set_periodic(v, op.period_ns)
    return 0


def _stop_periodic_timer(caller: VCpu, v: VCpu, arg: int) -> int:
    time.set_periodic(v, 0)
    return 0


def _set_singleshot_timer(caller: VCpu, v: VCpu, arg: int) -> int:
    """A timeout that has passed fires at once. 4.17 ignores VCPU_SSHOTTMR_future, for which older versions answered
    -ETIME."""
    if v is not caller:
        raise XenError(errno.EINVAL)
    op = abi.vcpu_set_singleshot_timer.unpack(caller.copy_in(arg, abi.vcpu_set_singleshot_timer.size))
    if op.timeout_abs_ns < v.hv.machine.now:
        time.stop_singleshot(v)
        event_channel.send_virq(v, event_channel.VIRQ_TIMER)
    else:
        time.set_singleshot(v, op.timeout_abs_ns)
    return 0


def _stop_singleshot_timer(caller: VCpu, v: VCpu, arg: int) -> int:
    if v is not caller:
        raise XenError(errno.EINVAL)
    time.stop_singleshot(v)
    return 0


def _register_vcpu_info(caller: VCpu, v: VCpu, arg: int) -> int:
    """Move the vCPU's vcpu_info to a frame of the guest's, once. Afterwards everything counts as pending, so that
    nothing is lost."""
    op = abi.vcpu_register_vcpu_info.unpack(caller.copy_in(arg, abi.vcpu_register_vcpu_info.size))
    size = xen.vcpu_info.size
    if op.offset > PAGE - size or op.offset % _ALIGN:
        raise XenError(errno.ENXIO)
    if v.info_mfn or (v is not caller and not v.down):
        raise XenError(errno.EINVAL)
    frames, ram = v.hv.frames, v.hv.machine.ram
    if not frames.get_page_and_type(op.mfn, v.domain, PGT_writable_page):
        raise XenError(errno.EINVAL)
    new = (op.mfn << 12) + op.offset
    if v.info_pa:
        ram.write(new, ram.read(v.info_pa, size))
    else:
        ram.fill(new, size, 0)
        ram.write_u8(new + event_channel.UPCALL_MASK, 1)
    v.info_pa, v.info_mfn = new, op.mfn
    ram.write_u64(new + event_channel.PENDING_SEL, (1 << 64) - 1)
    event_channel.mark_events_pending(v)
    time.update_vcpu_time(v, force=True)
    return 0


def _get_physid(caller: VCpu, v: VCpu, arg: int) -> int:
    raise XenError(errno.EINVAL)  # only a hardware domain started with dom0_vcpus_pin gets an answer


def _send_nmi(caller: VCpu, v: VCpu, arg: int) -> int:
    if arg:
        raise XenError(errno.EINVAL)
    if not v.nmi_pending:
        v.nmi_pending = True
        runstate.wake(v)
        v.hv.leave = True
    return 0


def release(v: VCpu) -> None:
    """Give back the frame that a guest registered for the vcpu_info of a vCPU that goes away."""
    time.destroy(v)
    v.runstate_va = v.time_va = 0
    if v.info_mfn:
        mfn, v.info_mfn = v.info_mfn, 0
        event_channel.setup_vcpu_info(v)
        v.hv.frames.put_page_and_type(mfn)


_OPERATIONS: dict[int, Callable[[VCpu, VCpu, int], int]] = {
    abi.VCPUOP_initialise: _initialise,
    abi.VCPUOP_up: _up,
    abi.VCPUOP_down: _down,
    abi.VCPUOP_is_up: _is_up,
    abi.VCPUOP_get_runstate_info: _get_runstate_info,
    abi.VCPUOP_register_runstate_memory_area: _register_runstate_memory_area,
    abi.VCPUOP_set_periodic_timer: _set_periodic_timer,
    abi.VCPUOP_stop_periodic_timer: _stop_periodic_timer,
    abi.VCPUOP_set_singleshot_timer: _set_singleshot_timer,
    abi.VCPUOP_stop_singleshot_timer: _stop_singleshot_timer,
    abi.VCPUOP_register_vcpu_info: _register_vcpu_info,
    abi.VCPUOP_get_physid: _get_physid,
    abi.VCPUOP_register_vcpu_time_memory_area: _register_vcpu_time_memory_area,
    abi.VCPUOP_send_nmi: _send_nmi,
}


@hypercall(xen.HYPERVISOR_vcpu_op, "cmd", "vcpuid", "arg")
def vcpu_op(v: VCpu, cmd: int, vcpuid: int, arg: int) -> int:
    """VCPUOP_* on vCPU `vcpuid` of the calling domain: -ENOENT if it has none such, -ENOSYS for an unknown
    operation."""
    vcpus = v.domain.vcpus
    vcpuid &= 0xFFFF_FFFF
    if vcpuid >= len(vcpus):
        return -errno.ENOENT
    operation = _OPERATIONS.get(cmd & 0xFFFF_FFFF)
    return operation(v, vcpus[vcpuid], arg) if operation is not None else -errno.ENOSYS
