"""sysctl: the host as a toolstack sees it.

One processor of one core, one NUMA node, no power management. Facts: Xen 4.17's public/sysctl.h, xen/common/sysctl.c,
xen/arch/x86/sysctl.c. What is not in the table answers -ENOSYS, as there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.abi import domctl as domctl_abi
from pyvmm.abi import errno, xen
from pyvmm.abi import sysctl as abi
from pyvmm.hypervisor import cpu_policy, lifecycle
from pyvmm.hypervisor.domctl import CPU_KHZ, SCHEDULER_CREDIT2, packed_info, write_bitmap
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PAGE_SHIFT = 12
MAX_NUMNODES = 64
LOCAL_DISTANCE = 10  # what ACPI's SLIT says of a node and itself
CPUPOOL_NONE = 0xFFFFFFFF
CAPABILITIES = abi.XEN_SYSCTL_PHYSCAP_pv | abi.XEN_SYSCTL_PHYSCAP_gnttab_v1 | abi.XEN_SYSCTL_PHYSCAP_gnttab_v2
_U_OFFSET = abi.xen_sysctl.u.offset


class Op(NamedTuple):
    """One operation: its variant in the union and `run(v, argument)`, which returns the members that changed."""

    variant: str
    run: Callable[[VCpu, Any], Mapping[str, Any]]


@hypercall(xen.HYPERVISOR_sysctl, "u_sysctl")
def sysctl(v: VCpu, u_sysctl: int) -> int:
    """XEN_SYSCTL_* on the structure at `u_sysctl`: -EACCES for another interface version, -EPERM without
    privilege."""
    raw = bytearray(v.copy_in(u_sysctl, abi.xen_sysctl.size))
    head = abi.xen_sysctl.unpack(raw)
    if head.interface_version != abi.XEN_SYSCTL_INTERFACE_VERSION:
        return -errno.EACCES
    require_privileged(v.domain)
    lifecycle.reap(v.hv)
    op = _OPERATIONS.get(head.cmd)
    if op is None:
        return -errno.ENOSYS
    fields = op.run(v, getattr(head.u, op.variant))
    if fields:
        type_ = abi.xen_sysctl.u[op.variant].type
        members = tuple(type_.unpack(raw, _U_OFFSET)._replace(**fields))
        raw[_U_OFFSET : _U_OFFSET + type_.size] = type_.encode(members)
        v.copy_out(u_sysctl, bytes(raw))
    return 0


def _readconsole(v: VCpu, arg: Any) -> Mapping[str, Any]:
    """What was written to the host's console: `incremental` from `index` on, which comes back where it ended;
    `clear` forgets it."""
    log = v.hv.console_log
    start = max(arg.index, log.start) if arg.incremental else log.start
    data = log.read(start, arg.count)
    v.copy_out(arg.buffer, data)
    if arg.clear:
        log.clear()
    return {"count": len(data), "index": (start + len(data)) & 0xFFFFFFFF}


def _physinfo(v: VCpu, arg: Any) -> Mapping[str, Any]:
    frames = v.hv.frames
    return {
        "threads_per_core": 1,
        "cores_per_socket": 1,
        "nr_cpus": 1,
        "max_cpu_id": 0,
        "nr_nodes": 1,
        "max_node_id": MAX_NUMNODES - 1,
        "cpu_khz": CPU_KHZ,
        "capabilities": CAPABILITIES,
        "arch_capabilities": 0,
        "total_pages": frames.total,
        "free_pages": frames.free_count,
        "scrub_pages": 0,
        "outstanding_pages": frames.claimed,
        "max_mfn": frames.total - 1,
    }


def _getdomaininfolist(v: VCpu, arg: Any) -> Mapping[str, Any]:
    """As many domains as there are and fit, in order of their numbers, from `first_domain` on."""
    info = domctl_abi.xen_domctl_getdomaininfo
    chosen = sorted(domid for domid in v.hv.domains if domid >= arg.first_domain)[: arg.max_domains]
    for i, domid in enumerate(chosen):
        v.copy_out(arg.buffer + i * info.size, packed_info(v.hv.domains[domid]))
    return {"num_domains": len(chosen)}


def _debug_keys(v: VCpu, arg: Any) -> Mapping[str, Any]:
    for i in range(arg.nr_keys):
        v.copy_in(arg.keys + i, 1)  # there is no handler for any key
    return {}


def _getcpuinfo(v: VCpu, arg: Any) -> Mapping[str, Any]:
    if arg.max_cpus:
        v.copy_out(arg.info, abi.xen_sysctl_cpuinfo.pack(idletime=v.hv.idle_time))
    return {"nr_cpus": min(arg.max_cpus, 1)}


def _availheap(v: VCpu, arg: Any) -> Mapping[str, Any]:
    return {"avail_bytes": v.hv.frames.free_count << PAGE_SHIFT if arg.node in (-1, 0) else 0}


def _sched_id(v: VCpu, arg: Any) -> Mapping[str, Any]:
    return {"sched_id": SCHEDULER_CREDIT2}


def _numainfo(v: VCpu, arg: Any) -> Mapping[str, Any]:
    count = 1
    if arg.meminfo or arg.distance:
        count = min(arg.num_nodes, 1)
        frames = v.hv.frames
        if count and arg.meminfo:
            sizes = {"memsize": frames.total << PAGE_SHIFT, "memfree": frames.free_count << PAGE_SHIFT}
            v.copy_out(arg.meminfo, abi.xen_sysctl_meminfo.pack(**sizes))
        if count and arg.distance:
            v.copy_out(arg.distance, struct.pack("<I", LOCAL_DISTANCE))
    return {"num_nodes": count}


def _cputopoinfo(v: VCpu, arg: Any) -> Mapping[str, Any]:
    count = 1
    if arg.cputopo:
        count = min(arg.num_cpus, 1)
        if count:
            v.copy_out(arg.cputopo, abi.xen_sysctl_cputopo.pack(core=0, socket=0, node=0))
    return {"num_cpus": count}


def _cpupool_op(v: VCpu, arg: Any) -> Mapping[str, Any]:
    """There is one pool, number 0, with the one processor and all domains; it can be looked at and not be changed."""
    if arg.op == abi.XEN_SYSCTL_CPUPOOL_OP_INFO:
        if arg.cpupool_id > 0:  # "this one or the next": there is none after 0
            raise XenError(errno.ENOENT)
        write_bitmap(v, arg.cpumap, 1)
        return {"cpupool_id": 0, "sched_id": SCHEDULER_CREDIT2, "n_dom": len(v.hv.domains)}
    if arg.op == abi.XEN_SYSCTL_CPUPOOL_OP_FREEINFO:
        write_bitmap(v, arg.cpumap, 0)
        return {"n_dom": 0}
    if arg.op == abi.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN:
        if arg.domid not in v.hv.domains:
            raise XenError(errno.ESRCH)
        if arg.domid == v.domain.domid:
            raise XenError(errno.EPERM)
        if arg.cpupool_id:
            raise XenError(errno.ENOENT)
        return {"cpupool_id": 0}
    if arg.op == abi.XEN_SYSCTL_CPUPOOL_OP_DESTROY and arg.cpupool_id:
        raise XenError(errno.ENOENT)
    changes = (
        abi.XEN_SYSCTL_CPUPOOL_OP_CREATE,
        abi.XEN_SYSCTL_CPUPOOL_OP_DESTROY,
        abi.XEN_SYSCTL_CPUPOOL_OP_ADDCPU,
        abi.XEN_SYSCTL_CPUPOOL_OP_RMCPU,
    )
    raise XenError(errno.EBUSY if arg.op in changes else errno.ENOSYS)


def _cpu_levelling_caps(v: VCpu, arg: Any) -> Mapping[str, Any]:
    return {"caps": 0}  # cpuid of a PV guest is not intercepted


_POLICIES = {  # this host, like a Xen built without HVM, has none for HVM guests
    abi.XEN_SYSCTL_cpu_policy_raw: cpu_policy.NATIVE_POLICY,
    abi.XEN_SYSCTL_cpu_policy_host: cpu_policy.NATIVE_POLICY,
    abi.XEN_SYSCTL_cpu_policy_pv_max: cpu_policy.PV_DEFAULT,
    abi.XEN_SYSCTL_cpu_policy_pv_default: cpu_policy.PV_DEFAULT,
}


def _get_cpu_policy(v: VCpu, arg: Any) -> Mapping[str, Any]:
    if arg.rsvd or arg.index > abi.XEN_SYSCTL_cpu_policy_hvm_default:
        raise XenError(errno.EINVAL)
    policy = _POLICIES.get(arg.index)
    if policy is None:
        raise XenError(errno.EOPNOTSUPP)
    leaves, msrs = cpu_policy.packed_leaves(policy), cpu_policy.packed_msrs()
    return {
        "nr_leaves": cpu_policy.copy_out(v.copy_out, arg.leaves, arg.nr_leaves, leaves, cpu_policy.MAX_LEAVES),
        "nr_msrs": cpu_policy.copy_out(v.copy_out, arg.msrs, arg.nr_msrs, msrs, len(cpu_policy.MSRS)),
    }


_OPERATIONS: dict[int, Op] = {
    abi.XEN_SYSCTL_readconsole: Op("readconsole", _readconsole),
    abi.XEN_SYSCTL_physinfo: Op("physinfo", _physinfo),
    abi.XEN_SYSCTL_sched_id: Op("sched_id", _sched_id),
    abi.XEN_SYSCTL_getdomaininfolist: Op("getdomaininfolist", _getdomaininfolist),
    abi.XEN_SYSCTL_debug_keys: Op("debug_keys", _debug_keys),
    abi.XEN_SYSCTL_getcpuinfo: Op("getcpuinfo", _getcpuinfo),
    abi.XEN_SYSCTL_availheap: Op("availheap", _availheap),
    abi.XEN_SYSCTL_cputopoinfo: Op("cputopoinfo", _cputopoinfo),
    abi.XEN_SYSCTL_numainfo: Op("numainfo", _numainfo),
    abi.XEN_SYSCTL_cpupool_op: Op("cpupool_op", _cpupool_op),
    abi.XEN_SYSCTL_get_cpu_policy: Op("cpu_policy", _get_cpu_policy),
    abi.XEN_SYSCTL_get_cpu_levelling_caps: Op("cpu_levelling_caps", _cpu_levelling_caps),
}
