"""domctl: what a toolstack does with other domains. Build, inspect, pause, destroy.

The order of checks is Xen's: structure, version (-EACCES), domain (-ESRCH), right (-EPERM), then the operation's
own. An operation that is
not in the table answers -EOPNOTSUPP to the privileged, which is what Xen says on a host without IOMMU, where unknown
operations end.
Facts: Xen 4.17's public/domctl.h, xen/common/domctl.c, xen/arch/x86/domctl.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.abi import arch_x86_64, errno, xen
from pyvmm.abi import domctl as abi
from pyvmm.abi.layout import Struct, Union
from pyvmm.hypervisor import context, cpu_policy, event_channel, lifecycle, runstate, time
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_l1_page_table, PGT_l4_page_table, PGT_none, PGT_writable_page
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import require_privileged
from pyvmm.hypervisor.pvlayout import hypercall_page
from pyvmm.hypervisor.rangeset import RangeSet
from pyvmm.hypervisor.vcpu import Runstate

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

PAGE_SHIFT = 12
MAX_IOPORTS = 0x10000
MAX_FRAME_QUERIES = 1024
CPU_KHZ = 1_000_000  # the virtual TSC runs at 1 GHz
SCHEDULER_CREDIT2 = 6  # XEN_SCHEDULER_CREDIT2, 4.17's default; domains have weights that round robin does not look at
KNOWN_CDF = (
    abi.XEN_DOMCTL_CDF_hvm
    | abi.XEN_DOMCTL_CDF_hap
    | abi.XEN_DOMCTL_CDF_s3_integrity
    | abi.XEN_DOMCTL_CDF_oos_off
    | abi.XEN_DOMCTL_CDF_xs_domain
    | abi.XEN_DOMCTL_CDF_iommu
    | abi.XEN_DOMCTL_CDF_nested_virt
    | abi.XEN_DOMCTL_CDF_vpmu
)
_U_OFFSET = abi.xen_domctl.u.offset
_DOMAIN_OFFSET = abi.xen_domctl.domain.offset
_RUNNING = Runstate.RUNNING  # looking up a member of an enumeration takes longer than comparing with it
_U = abi.xen_domctl.u.type
assert isinstance(_U, Union)
# By variant of the union: where each member is in struct xen_domctl, and its type.
_MEMBERS = {
    variant: {name: (_U_OFFSET + member.offset, member.type) for name, member in field.type.fields.items()}
    for variant, field in _U.fields.items()
    if isinstance(field.type, Struct)
}


class Answer(NamedTuple):
    """What goes back to the caller's structure: members of the operation's variant that changed, and the domid if it
    did. `error`: a negative errno besides."""

    fields: Mapping[str, Any]
    domid: int | None = None
    error: int = 0


class Op(NamedTuple):
    """One operation: the variant of the union that it uses (None: none), and `run(v, domain, argument)`."""

    variant: str | None
    run: Callable[[VCpu, Domain, Any], Answer | int | None]


@hypercall(xen.HYPERVISOR_domctl, "u_domctl")
def domctl(v: VCpu, u_domctl: int) -> int:
    """XEN_DOMCTL_* on the structure at `u_domctl`."""
    raw = bytearray(v.copy_in(u_domctl, abi.xen_domctl.size))
    head = abi.xen_domctl.unpack(raw)
    if head.interface_version != abi.XEN_DOMCTL_INTERFACE_VERSION:
        return -errno.EACCES
    lifecycle.reap(v.hv)
    if head.cmd == abi.XEN_DOMCTL_createdomain:
        require_privileged(v.domain)
        answer: Answer | int | None = _createdomain(v, head.domain, head.u.createdomain)
        op = Op("createdomain", lambda *_: None)
    elif head.cmd == abi.XEN_DOMCTL_getdomaininfo:
        answer, op = _getdomaininfo(v, head.domain), Op("getdomaininfo", lambda *_: None)
    else:
        domain = v.hv.domains.get(head.domain)
        if domain is None:
            return -errno.ESRCH
        if head.cmd not in _BEFORE_PRIVILEGE:
            require_privileged(v.domain)
        found = _OPERATIONS.get(head.cmd)
        if found is None:
            return -errno.EOPNOTSUPP
        op = found
        argument = getattr(head.u, op.variant) if op.variant else None
        answer = op.run(v, domain, argument)
    if isinstance(answer, Answer):
        assert op.variant is not None
        members = _MEMBERS[op.variant]
        for name, value in answer.fields.items():
            at, type_ = members[name]
            raw[at : at + type_.size] = type_.encode(value)
        if answer.domid is not None:
            struct.pack_into("<H", raw, _DOMAIN_OFFSET, answer.domid)
        v.copy_out(u_domctl, bytes(raw))
        return answer.error
    return answer or 0


def _not_self(v: VCpu, domain: Domain, error: int = errno.EINVAL) -> None:
    """A domain cannot do to itself what needs it paused."""
    if domain is v.domain:
        raise XenError(error)


def _vcpu(domain: Domain, number: int, error: int = errno.EINVAL) -> VCpu:
    """vCPU `number` of `domain`: XenError(`error`) beyond the domain's limit, and for one that was not made yet."""
    if number >= domain.max_vcpus or number >= len(domain.vcpus):
        raise XenError(error)
    return domain.vcpus[number]


# -- life cycle


def _createdomain(v: VCpu, domid: int, config: Any) -> Answer:
    if config.flags & ~KNOWN_CDF or config.grant_opts & ~abi.XEN_DOMCTL_GRANT_version_mask or config.max_vcpus < 1:
        raise XenError(errno.EINVAL)
    if config.flags & abi.XEN_DOMCTL_CDF_hvm:  # this host, like a Xen built without HVM, has only PV
        raise XenError(errno.EINVAL)
    wants = abi.XEN_DOMCTL_CDF_hap | abi.XEN_DOMCTL_CDF_iommu | abi.XEN_DOMCTL_CDF_vpmu
    wants |= abi.XEN_DOMCTL_CDF_nested_virt
    if config.flags & wants or config.iommu_opts or config.vmtrace_size:
        raise XenError(errno.EINVAL)
    if config.max_vcpus > lifecycle.MAX_VCPUS:
        raise XenError(errno.EINVAL)
    if config.arch.emulation_flags or config.arch.misc_flags & ~arch_x86_64.XEN_X86_MSR_RELAXED:
        raise XenError(errno.EINVAL)
    if config.cpupool_id:
        raise XenError(errno.ENOENT)
    version = config.grant_opts & abi.XEN_DOMCTL_GRANT_version_mask
    if not 1 <= version <= 2:
        raise XenError(errno.EINVAL)
    hv = v.hv
    if 0 < domid < lifecycle.FIRST_RESERVED:
        if domid in hv.domains:
            raise XenError(errno.EEXIST)
    else:
        domid = lifecycle.free_domid(hv)
    frames, maptrack = config.max_grant_frames, config.max_maptrack_frames
    domain = lifecycle.create_domain(
        hv,
        domid,
        max_vcpus=config.max_vcpus,
        max_evtchn_port=config.max_evtchn_port,
        max_grant_frames=frames if frames >= 0 else lifecycle.DEFAULT_GRANT_FRAMES,
        max_maptrack_frames=maptrack if maptrack >= 0 else lifecycle.DEFAULT_MAPTRACK_FRAMES,
        max_grant_version=version,
        handle=config.handle,
    )
    domain.xenstore = bool(config.flags & abi.XEN_DOMCTL_CDF_xs_domain)
    return Answer({}, domid)


def _max_vcpus(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    if arg.max != domain.max_vcpus:
        raise XenError(errno.EINVAL)
    while len(domain.vcpus) < domain.max_vcpus:
        lifecycle.add_vcpu(domain)


def _destroydomain(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    lifecycle.destroy_domain(domain)


def _pausedomain(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    lifecycle.pause(domain)


def _unpausedomain(v: VCpu, domain: Domain, arg: Any) -> None:
    lifecycle.unpause(domain)


def _resumedomain(v: VCpu, domain: Domain, arg: Any) -> None:
    """A domain that had shut down to be suspended goes on where it was."""
    _not_self(v, domain)
    domain.shutdown_code = domain.latched_shutdown_code = None
    v.hv.leave = True
    for other in domain.vcpus:
        runstate.refresh(other)


def _soft_reset(v: VCpu, domain: Domain, arg: Any) -> int:
    return -errno.EINVAL  # for HVM domains only


# -- looking


def domain_info(domain: Domain) -> dict[str, Any]:
    """The members of struct xen_domctl_getdomaininfo."""
    online = blocked = cpu_time = flags = 0
    for v in domain.vcpus:
        cpu_time += _running_time(v)
        if not v.down:
            online += 1
            blocked += v.blocked
            if v.runstate == _RUNNING:
                flags = abi.XEN_DOMINF_running
    if online and blocked == online:
        flags |= abi.XEN_DOMINF_blocked
    flags |= abi.XEN_DOMINF_dying if domain.dying else 0
    flags |= abi.XEN_DOMINF_shutdown if domain.shutdown_code is not None else 0
    flags |= abi.XEN_DOMINF_paused if domain.pause_count > 0 else 0
    flags |= abi.XEN_DOMINF_debugged if domain.debugger_attached else 0
    flags |= abi.XEN_DOMINF_xs_domain if domain.xenstore else 0
    # Xen keeps an invalid code, ~0, in a domain that has not shut down.
    code = 0xFFFF if domain.shutdown_code is None else domain.shutdown_code
    return {
        "domain": domain.domid,
        "flags": (flags | code << abi.XEN_DOMINF_shutdownshift) & 0xFFFFFFFF,
        "tot_pages": domain.tot_pages,
        "max_pages": domain.max_pages,
        "shared_info_frame": domain.shared_info_mfn,
        "cpu_time": cpu_time,
        "nr_online_vcpus": online,
        "max_vcpu_id": len(domain.vcpus) - 1 if domain.vcpus else abi.XEN_INVALID_MAX_VCPU_ID,
        "handle": domain.handle,
    }


def packed_info(domain: Domain) -> bytes:
    """struct xen_domctl_getdomaininfo, kept until it changes: toolstacks ask for all domains again and again, and most
    of them only wait."""
    info = domain_info(domain)
    if domain.packed_info[0] != info:
        domain.packed_info = info, abi.xen_domctl_getdomaininfo.pack(**info)
    return domain.packed_info[1]


def _running_time(v: VCpu) -> int:
    total = v.runstate_times[_RUNNING]
    return total + (v.hv.machine.now - v.runstate_entered if v.runstate == _RUNNING else 0)


def _getdomaininfo(v: VCpu, domid: int) -> Answer:
    """The domain `domid`, or the next one that there is."""
    if domid not in v.hv.domains:
        if domid >= lifecycle.FIRST_RESERVED:
            raise XenError(errno.EINVAL)
        later = [other for other in v.hv.domains if other >= domid]
        if not later:
            raise XenError(errno.ESRCH)
        domid = min(later)
    if not (v.domain.xenstore or v.domain.privileged):
        raise XenError(errno.EPERM)
    return Answer(domain_info(v.hv.domains[domid]), domid)


def _getvcpuinfo(v: VCpu, domain: Domain, arg: Any) -> Answer:
    if arg.vcpu >= domain.max_vcpus:
        raise XenError(errno.EINVAL)
    target = _vcpu(domain, arg.vcpu, errno.ESRCH)
    return Answer(
        {
            "online": int(not target.down),
            "blocked": int(target.blocked),
            "running": int(target.runstate == Runstate.RUNNING),
            "cpu_time": _running_time(target),
            "cpu": 0,
        }
    )


def _getpageframeinfo3(v: VCpu, domain: Domain, arg: Any) -> None:
    if arg.num > MAX_FRAME_QUERIES:
        raise XenError(errno.E2BIG)
    frames = v.hv.frames
    for i in range(arg.num):
        (mfn,) = struct.unpack("<Q", v.copy_in(arg.array + 8 * i, 8))
        if frames.owner(mfn) != domain.domid or frames.is_special(mfn):
            kind = abi.XEN_DOMCTL_PFINFO_XTAB
        else:
            kind = abi.XEN_DOMCTL_PFINFO_NOTAB
            type_ = frames.type_of(mfn)
            if type_ != PGT_none and PGT_l1_page_table <= type_ <= PGT_l4_page_table:
                kind = type_ << abi.XEN_DOMCTL_PFINFO_LTAB_SHIFT
                if frames.is_pinned(mfn):
                    kind |= abi.XEN_DOMCTL_PFINFO_LPINTAB
        v.copy_out(arg.array + 8 * i, struct.pack("<Q", kind))


# -- building


def _max_mem(v: VCpu, domain: Domain, arg: Any) -> None:
    domain.max_pages = min(arg.max_memkb >> (PAGE_SHIFT - 10), 0xFFFFFFFE)


def _setvcpucontext(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    target = _vcpu(domain, arg.vcpu)
    if not arg.ctxt:
        lifecycle.reset_vcpu(target)
        return
    context.set_context(target, v.copy_in(arg.ctxt, arch_x86_64.vcpu_guest_context.size))


def _getvcpucontext(v: VCpu, domain: Domain, arg: Any) -> Answer:
    target = _vcpu(domain, arg.vcpu)
    if target is v:
        raise XenError(errno.EINVAL)
    if not target.initialised:
        raise XenError(errno.ENODATA)
    v.copy_out(arg.ctxt, context.get_context(target))
    return Answer({})


def _hypercall_init(v: VCpu, domain: Domain, arg: Any) -> None:
    frames = v.hv.frames
    if not frames.get_page(arg.gmfn, domain):
        raise XenError(errno.EINVAL)
    if not frames.get_page_type(arg.gmfn, PGT_writable_page):
        frames.put_page(arg.gmfn)
        raise XenError(errno.EPERM)
    v.hv.machine.ram.write(arg.gmfn << PAGE_SHIFT, hypercall_page())
    frames.put_page_and_type(arg.gmfn)


def _set_address_size(v: VCpu, domain: Domain, arg: Any) -> None:
    if arg.size != 64:  # 32: a compat guest, which this host has none of
        raise XenError(errno.EINVAL if arg.size != 32 else errno.EOPNOTSUPP)


def _get_address_size(v: VCpu, domain: Domain, arg: Any) -> Answer:
    return Answer({"size": 64})


def _setdomainhandle(v: VCpu, domain: Domain, arg: Any) -> None:
    domain.handle = bytes(arg.handle)


def _setdebugging(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    domain.debugger_attached = bool(arg.enable)


def _settimeoffset(v: VCpu, domain: Domain, arg: Any) -> None:
    domain.time_offset_seconds = arg.time_offset_seconds
    time.update_wallclock(domain)


def _set_virq_handler(v: VCpu, domain: Domain, arg: Any) -> None:
    event_channel.set_global_virq_handler(domain, arg.virq)


def _set_target(v: VCpu, domain: Domain, arg: Any) -> int:
    """Who is the device model of whom: of HVM domains only, so that there is nobody it can succeed for."""
    target = v.hv.domains.get(arg.target)
    if target is None:
        return -errno.ESRCH
    return -errno.EINVAL if target is domain else -errno.EOPNOTSUPP


# -- permissions


def _permit(own: RangeSet, theirs: RangeSet, start: int, end: int, allow: int) -> None:
    """Give or take a range: nobody can pass on or withdraw what he may not use himself."""
    if not own.contains(start, end):
        raise XenError(errno.EPERM)
    (theirs.add if allow else theirs.remove)(start, end)


def _ioport_permission(v: VCpu, domain: Domain, arg: Any) -> None:
    start, count = arg.first_port, arg.nr_ports
    if not count or start + count > MAX_IOPORTS:
        raise XenError(errno.EINVAL)
    require_privileged(v.domain)
    _permit(v.domain.ioports, domain.ioports, start, start + count - 1, arg.allow_access)


def _iomem_permission(v: VCpu, domain: Domain, arg: Any) -> None:
    start, count = arg.first_mfn, arg.nr_mfns
    if not count or start + count - 1 >= 1 << 64:
        raise XenError(errno.EINVAL)
    require_privileged(v.domain)
    _permit(v.domain.iomem, domain.iomem, start, start + count - 1, arg.allow_access)


def _irq_permission(v: VCpu, domain: Domain, arg: Any) -> None:
    from pyvmm.hypervisor import physdev

    if arg.pirq >= physdev.pirq_count(v.domain):
        raise XenError(errno.EINVAL)
    irq = v.domain.pirqs.get(arg.pirq, -1)
    if irq <= 0:  # not mapped to an interrupt, or to the timer's, which is Xen's
        raise XenError(errno.EPERM)
    require_privileged(v.domain)
    _permit(v.domain.irqs, domain.irqs, irq, irq, arg.allow_access)


def _get_cpu_policy(v: VCpu, domain: Domain, arg: Any) -> Answer:
    leaves, msrs = cpu_policy.packed_leaves(domain.cpu_policy), cpu_policy.packed_msrs()
    return Answer(
        {
            "nr_leaves": cpu_policy.copy_out(v.copy_out, arg.leaves, arg.nr_leaves, leaves, cpu_policy.MAX_LEAVES),
            "nr_msrs": cpu_policy.copy_out(v.copy_out, arg.msrs, arg.nr_msrs, msrs, len(cpu_policy.MSRS)),
        }
    )


def _set_cpu_policy(v: VCpu, domain: Domain, arg: Any) -> Answer | None:
    """Before the domain has run, not after."""
    _not_self(v, domain)
    if domain.creation_finished:
        raise XenError(errno.EEXIST)
    policy = cpu_policy.changed(domain.cpu_policy, v.copy_in, arg.leaves, arg.nr_leaves, arg.msrs, arg.nr_msrs)
    if isinstance(policy, cpu_policy.Refused):
        where = {"err_leaf": policy.leaf, "err_subleaf": policy.subleaf, "err_msr": policy.msr}
        return Answer(where, error=policy.error)
    domain.cpu_policy = policy
    return None


# -- time and scheduling


def _gettscinfo(v: VCpu, domain: Domain, arg: Any) -> Answer:
    _not_self(v, domain)
    elapsed = v.hv.machine.now - domain.tsc_offset
    return Answer(
        {
            "tsc_mode": domain.tsc_mode,
            "elapsed_nsec": 0 if domain.tsc_mode == _TSC_NEVER_EMULATE else max(elapsed, 0),
            "gtsc_khz": 0 if domain.tsc_mode == _TSC_NEVER_EMULATE else domain.tsc_khz or CPU_KHZ,
            "incarnation": domain.tsc_incarnation,
        }
    )


_TSC_NEVER_EMULATE = 2


def _settscinfo(v: VCpu, domain: Domain, arg: Any) -> None:
    _not_self(v, domain)
    if domain.domid == 0:
        return
    if arg.tsc_mode > _TSC_NEVER_EMULATE:
        raise XenError(errno.EINVAL)
    domain.tsc_mode = arg.tsc_mode
    domain.tsc_offset = v.hv.machine.now - arg.elapsed_nsec
    domain.tsc_khz = arg.gtsc_khz or CPU_KHZ
    domain.tsc_incarnation = arg.incarnation + 1


def _vcpuaffinity(setting: bool) -> Callable[[VCpu, Domain, Any], Answer | None]:
    """There is one processor: every mask that holds it means the same, one that does not is refused."""

    def run(v: VCpu, domain: Domain, arg: Any) -> Answer | None:
        if arg.vcpu >= domain.max_vcpus:
            raise XenError(errno.EINVAL)
        _vcpu(domain, arg.vcpu, errno.ESRCH)
        flags = arg.flags & ~abi.XEN_VCPUAFFINITY_FORCE
        maps = [
            bitmap
            for bit, bitmap in (
                (abi.XEN_VCPUAFFINITY_HARD, arg.cpumap_hard),
                (abi.XEN_VCPUAFFINITY_SOFT, arg.cpumap_soft),
            )
            if flags & bit
        ]
        if (
            not maps
            or flags & ~(abi.XEN_VCPUAFFINITY_HARD | abi.XEN_VCPUAFFINITY_SOFT)
            or not all(m.bitmap for m in maps)
        ):
            raise XenError(errno.EINVAL)
        for bitmap in maps:
            if setting and (not bitmap.nr_bits or not v.copy_in(bitmap.bitmap, 1)[0] & 1):
                raise XenError(errno.EINVAL)
            write_bitmap(v, bitmap, 1)
        return None

    return run


def write_bitmap(v: VCpu, bitmap: Any, bits: int) -> None:
    """Store `bits` in the caller's xenctl_bitmap, zero-filled to its size."""
    size = (bitmap.nr_bits + 7) // 8
    if size:
        v.copy_out(bitmap.bitmap, (bits & (1 << bitmap.nr_bits) - 1).to_bytes(size, "little"))


def _setnodeaffinity(v: VCpu, domain: Domain, arg: Any) -> None:
    bitmap = arg.nodemap
    if not bitmap.nr_bits or not v.copy_in(bitmap.bitmap, 1)[0] & 1:
        raise XenError(errno.EINVAL)


def _getnodeaffinity(v: VCpu, domain: Domain, arg: Any) -> None:
    write_bitmap(v, arg.nodemap, 1)


def _scheduler_op(v: VCpu, domain: Domain, arg: Any) -> Answer | int:
    if arg.sched_id != SCHEDULER_CREDIT2:
        return -errno.EINVAL
    if arg.cmd == abi.XEN_DOMCTL_SCHEDOP_getinfo:
        return Answer({"u": {"credit2": {"weight": domain.sched_weight, "cap": 0}}})
    if arg.cmd == abi.XEN_DOMCTL_SCHEDOP_putinfo:
        domain.sched_weight = arg.u.credit2.weight or domain.sched_weight
        return Answer({})
    return -errno.EINVAL


_OPERATIONS: dict[int, Op] = {
    abi.XEN_DOMCTL_destroydomain: Op(None, _destroydomain),
    abi.XEN_DOMCTL_pausedomain: Op(None, _pausedomain),
    abi.XEN_DOMCTL_unpausedomain: Op(None, _unpausedomain),
    abi.XEN_DOMCTL_resumedomain: Op(None, _resumedomain),
    abi.XEN_DOMCTL_soft_reset: Op(None, _soft_reset),
    abi.XEN_DOMCTL_max_vcpus: Op("max_vcpus", _max_vcpus),
    abi.XEN_DOMCTL_getvcpuinfo: Op("getvcpuinfo", _getvcpuinfo),
    abi.XEN_DOMCTL_getpageframeinfo3: Op("getpageframeinfo3", _getpageframeinfo3),
    abi.XEN_DOMCTL_max_mem: Op("max_mem", _max_mem),
    abi.XEN_DOMCTL_setvcpucontext: Op("vcpucontext", _setvcpucontext),
    abi.XEN_DOMCTL_getvcpucontext: Op("vcpucontext", _getvcpucontext),
    abi.XEN_DOMCTL_hypercall_init: Op("hypercall_init", _hypercall_init),
    abi.XEN_DOMCTL_set_address_size: Op("address_size", _set_address_size),
    abi.XEN_DOMCTL_get_address_size: Op("address_size", _get_address_size),
    abi.XEN_DOMCTL_setdomainhandle: Op("setdomainhandle", _setdomainhandle),
    abi.XEN_DOMCTL_setdebugging: Op("setdebugging", _setdebugging),
    abi.XEN_DOMCTL_settimeoffset: Op("settimeoffset", _settimeoffset),
    abi.XEN_DOMCTL_set_virq_handler: Op("set_virq_handler", _set_virq_handler),
    abi.XEN_DOMCTL_set_target: Op("set_target", _set_target),
    abi.XEN_DOMCTL_ioport_permission: Op("ioport_permission", _ioport_permission),
    abi.XEN_DOMCTL_iomem_permission: Op("iomem_permission", _iomem_permission),
    abi.XEN_DOMCTL_irq_permission: Op("irq_permission", _irq_permission),
    abi.XEN_DOMCTL_get_cpu_policy: Op("cpu_policy", _get_cpu_policy),
    abi.XEN_DOMCTL_set_cpu_policy: Op("cpu_policy", _set_cpu_policy),
    abi.XEN_DOMCTL_gettscinfo: Op("tsc_info", _gettscinfo),
    abi.XEN_DOMCTL_settscinfo: Op("tsc_info", _settscinfo),
    abi.XEN_DOMCTL_setvcpuaffinity: Op("vcpuaffinity", _vcpuaffinity(True)),
    abi.XEN_DOMCTL_getvcpuaffinity: Op("vcpuaffinity", _vcpuaffinity(False)),
    abi.XEN_DOMCTL_setnodeaffinity: Op("nodeaffinity", _setnodeaffinity),
    abi.XEN_DOMCTL_getnodeaffinity: Op("nodeaffinity", _getnodeaffinity),
    abi.XEN_DOMCTL_scheduler_op: Op("scheduler_op", _scheduler_op),
}

# These look at their arguments first and ask for the right afterwards.
_BEFORE_PRIVILEGE = frozenset(
    {
        abi.XEN_DOMCTL_ioport_permission,
        abi.XEN_DOMCTL_iomem_permission,
        abi.XEN_DOMCTL_irq_permission,
        abi.XEN_DOMCTL_set_target,
    }
)
