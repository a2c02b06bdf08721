"""A domain's beginning and end: what it is made of, and how all of it comes back.

`create_domain` makes an empty, paused domain, as XEN_DOMCTL_createdomain does; `add_vcpu` its vCPUs;
`destroy_domain` takes everything away
again. A domain whose frames others still map stays in the list as a zombie, its number in use, until the last of
them lets go.
Facts: Xen 4.17's xen/common/domain.c (domain_create, domain_kill, complete_domain_destroy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import context, devctl, event_channel, grant_table, physdev, runstate, sched, time, trace, vcpu_op
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.native import Native, NativeSpace, NativeTask
from pyvmm.hypervisor.space import PageTableSpace
from pyvmm.hypervisor.vcpu import Runstate, VCpu

if TYPE_CHECKING:
    from pyvmm.hypervisor.hypervisor import Hypervisor

PAGE = 4096
FIRST_RESERVED = xen.DOMID_FIRST_RESERVED
MAX_VCPUS = 8192  # MAX_VIRT_CPUS: what a PV domain may have
DEFAULT_GRANT_FRAMES = 64
DEFAULT_MAPTRACK_FRAMES = 1024
UPCALL_MASK = xen.vcpu_info.evtchn_upcall_mask.offset


def free_domid(hv: Hypervisor) -> int:
    """The next number nobody has, counting on from the last one given. XenError(ENOMEM) when all are taken."""
    domid = hv.last_domid
    for _ in range(FIRST_RESERVED):
        domid = domid + 1 if domid + 1 < FIRST_RESERVED else 1
        if domid not in hv.domains:
            hv.last_domid = domid
            return domid
    raise XenError(errno.ENOMEM)


def create_domain(
    hv: Hypervisor,
    domid: int,
    *,
    name: str = "",
    privileged: bool = False,
    native: bool = False,
    max_vcpus: int = 1,
    max_evtchn_port: int = event_channel.NO_PORT_LIMIT,
    max_grant_frames: int = DEFAULT_GRANT_FRAMES,
    max_maptrack_frames: int = DEFAULT_MAPTRACK_FRAMES,
    max_grant_version: int = 2,
    handle: bytes = bytes(16),
) -> Domain:
    """A domain without memory or vCPUs, paused once by its creator. XenError(ENOMEM): no frame left for its shared
    page."""
    domain = Domain(hv, domid, name=name or f"d{domid}", privileged=privileged, native=native)
    domain.serial = hv.next_serial()
    domain.handle = handle
    domain.max_vcpus = max_vcpus
    mfn = hv.frames.alloc_xen()[0]
    hv.frames.share_with_guest(mfn, domain, True)
    domain.shared_info_mfn = mfn
    domain.evtchn = event_channel.EventChannels(domain, max_evtchn_port)
    try:
        devctl.setup(domain)
        domain.grants = grant_table.GrantTable(domain, max_grant_frames, max_maptrack_frames, max_grant_version)
    except XenError:
        devctl.destroy(domain)
        hv.frames.free_domain_page(mfn)
        raise
    time.update_wallclock(domain)
    domain.pause_count = 1
    hv.domains[domid] = domain
    if hv.trace.on:
        hv.trace.emit(trace.DOMAIN_CREATE, domid, 0, domain.name)
    return domain


def add_vcpu(domain: Domain) -> VCpu:
    """The domain's next vCPU: down, with no state of its own yet."""
    hv = domain.hv
    v = VCpu(hv, domain, len(domain.vcpus))
    if domain.native:
        v.space = NativeSpace(v)
    else:
        v.space = PageTableSpace(v)
        v.context = hv.machine.new_context()
    v.runstate_entered = hv.machine.now
    domain.vcpus.append(v)
    runstate.list_ready(v)
    event_channel.setup_vcpu_info(v)
    return v


def unpause(domain: Domain) -> None:
    """Take back one pause by the toolstack. XenError(EINVAL) when there was none."""
    if not domain.pause_count:
        raise XenError(errno.EINVAL)
    domain.pause_count -= 1
    if not domain.pause_count:
        domain.creation_finished = True
    _refresh(domain)


def pause(domain: Domain) -> None:
    """Keep all vCPUs off the CPU, once more. XenError(EOVERFLOW) beyond 255 times."""
    if domain.pause_count >= 255:
        raise XenError(errno.EOVERFLOW)
    domain.pause_count += 1
    _refresh(domain)


def _refresh(domain: Domain) -> None:
    """Its vCPUs can run again, or no longer."""
    domain.hv.leave = True
    for v in domain.vcpus:
        runstate.refresh(v)


def _release_cpu(v: VCpu) -> None:
    """Take the vCPU's registers and page tables away; the CPU itself stops showing them."""
    machine = v.hv.machine
    if v.context is not None and machine.current is v.context:
        machine.switch(v.hv.idle_context)
    context.release(v)


def reset_vcpu(v: VCpu) -> None:
    """Back to how `add_vcpu` made it: down, without state (XEN_DOMCTL_setvcpucontext without a context)."""
    _release_cpu(v)
    v.context = v.hv.machine.new_context()
    v.blocked = False
    runstate.list_ready(v)
    v.poll_ports = None
    v.hv.leave = True


def destroy_domain(domain: Domain) -> None:
    """End `domain`: its vCPUs, ports, grants, page tables and frames go back; who watches over domains is told.

    Doing it again does nothing. Frames that others map keep the number (and a zombie in the list) until they let go.
    """
    hv = domain.hv
    if domain.dying:
        reap(hv)
        return
    domain.dying = True
    hv.dying.append(domain)
    hv.leave = True
    event_channel.destroy(domain)
    sched.destroy(domain)
    physdev.release(domain)
    for v in domain.vcpus:
        vcpu_op.release(v)
    grant_table.destroy(domain)
    devctl.destroy(domain)
    for v in domain.vcpus:
        _release_cpu(v)
    hv.mmu.release_domain(domain)
    if hv.last is not None and hv.last.domain is domain:
        hv.last = None
    domain.shared_info_mfn = 0
    domain.target = None
    for other in hv.domains.values():
        if other.target is domain:
            other.target = None
    event_channel.send_global_virq(hv, event_channel.VIRQ_DOM_EXC)
    reap(hv)


def reap(hv: Hypervisor) -> None:
    """Drop zombies whose last frame has come back: their numbers are free again, and the toolstack is told once
    more."""
    if not hv.dying:
        return
    gone = [d for d in hv.dying if not hv.frames.holds_frames(d.domid)]
    for domain in gone:
        hv.dying.remove(domain)
        del hv.domains[domain.domid]
        if hv.trace.on:
            hv.trace.emit(trace.DOMAIN_DESTROY, domain.domid, 0)
        event_channel.send_global_virq(hv, event_channel.VIRQ_DOM_EXC)


def create_native(
    hv: Hypervisor, domid: int, *, name: str, memory_pages: int = 64, privileged: bool = False
) -> tuple[Domain, Native]:
    """A domain whose only vCPU is Python code. Its own frames are at ``gfn << 12``, its shared page after them.

    Returns the domain, unpaused, and what its tasks work with. The first `Native.SCRATCH_PAGES` pages are for
    hypercall arguments.
    """
    assert memory_pages >= Native.SCRATCH_PAGES
    domain = create_domain(hv, domid, name=name, privileged=privileged, native=True)
    domain.max_pages = memory_pages
    v = add_vcpu(domain)
    mfns = hv.frames.alloc(domain, memory_pages)
    hv.xen_area.set_m2p_list(mfns, 0)
    for gfn, mfn in enumerate([*mfns, domain.shared_info_mfn]):
        result = hv.mmu.native_map(v, gfn * PAGE, mfn, True)
        assert result == 0
    v.native = NativeTask(v, 0)
    v.native.api.shared_info_va = memory_pages * PAGE
    v.initialised = True
    v.down = False
    runstate.list_ready(v)
    v.runstate = Runstate.RUNNABLE
    hv.machine.ram.write_u8(v.info_pa + UPCALL_MASK, 0)
    unpause(domain)
    return domain, v.native.api
