"""The host as the toolstack sees it (sysctl): processors, memory, the list of domains, the console ring.

Source: Xen 4.17 public/sysctl.h, without tracing, profiling, power management, live patching and cache allocation
(their command numbers are here, their structures are not).
"""

from pyvmm.abi.layout import Struct, Union, handle, s32, u8, u16, u32, u64
from pyvmm.abi.xen import xenctl_bitmap

# What xen_sysctl.interface_version must be.
XEN_SYSCTL_INTERFACE_VERSION = 0x00000015

# xen_sysctl_physinfo.capabilities.
XEN_SYSCTL_PHYSCAP_hvm = 1 << 0
XEN_SYSCTL_PHYSCAP_pv = 1 << 1
XEN_SYSCTL_PHYSCAP_directio = 1 << 2
XEN_SYSCTL_PHYSCAP_hap = 1 << 3
XEN_SYSCTL_PHYSCAP_shadow = 1 << 4
XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share = 1 << 5
XEN_SYSCTL_PHYSCAP_vmtrace = 1 << 6
XEN_SYSCTL_PHYSCAP_vpmu = 1 << 7
XEN_SYSCTL_PHYSCAP_gnttab_v1 = 1 << 8
XEN_SYSCTL_PHYSCAP_gnttab_v2 = 1 << 9
XEN_SYSCTL_PHYSCAP_MAX = 512

# Marks of absent entries in topology tables.
XEN_INVALID_CORE_ID = 0xFFFFFFFF
XEN_INVALID_SOCKET_ID = 0xFFFFFFFF
XEN_INVALID_NODE_ID = 0xFFFFFFFF
XEN_INVALID_MEM_SZ = 0xFFFFFFFF
XEN_INVALID_NODE_DIST = 0xFFFFFFFF

# xen_sysctl_cpupool_op.op.
XEN_SYSCTL_CPUPOOL_OP_CREATE = 1
XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2
XEN_SYSCTL_CPUPOOL_OP_INFO = 3
XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4
XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5
XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6
XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7
XEN_SYSCTL_CPUPOOL_PAR_ANY = 0xFFFFFFFF

XEN_SYSCTL_SCHED_RATELIMIT_MAX = 500000
XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100
XEN_SYSCTL_SCHEDOP_putinfo = 0
XEN_SYSCTL_SCHEDOP_getinfo = 1

# xen_sysctl_cpu_levelling_caps.caps.
XEN_SYSCTL_CPU_LEVELCAP_faulting = 1 << 0
XEN_SYSCTL_CPU_LEVELCAP_ecx = 1 << 1
XEN_SYSCTL_CPU_LEVELCAP_edx = 1 << 2
XEN_SYSCTL_CPU_LEVELCAP_extd_ecx = 1 << 3
XEN_SYSCTL_CPU_LEVELCAP_extd_edx = 1 << 4
XEN_SYSCTL_CPU_LEVELCAP_xsave_eax = 1 << 5
XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx = 1 << 6
XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax = 1 << 7
XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx = 1 << 8

# xen_sysctl_cpu_featureset.index.
XEN_SYSCTL_cpu_featureset_raw = 0
XEN_SYSCTL_cpu_featureset_host = 1
XEN_SYSCTL_cpu_featureset_pv = 2
XEN_SYSCTL_cpu_featureset_hvm = 3
XEN_SYSCTL_cpu_featureset_pv_max = 4
XEN_SYSCTL_cpu_featureset_hvm_max = 5

# xen_sysctl_cpu_policy.index.
XEN_SYSCTL_cpu_policy_raw = 0
XEN_SYSCTL_cpu_policy_host = 1
XEN_SYSCTL_cpu_policy_pv_max = 2
XEN_SYSCTL_cpu_policy_hvm_max = 3
XEN_SYSCTL_cpu_policy_pv_default = 4
XEN_SYSCTL_cpu_policy_hvm_default = 5

# Commands.
XEN_SYSCTL_readconsole = 1
XEN_SYSCTL_tbuf_op = 2
XEN_SYSCTL_physinfo = 3
XEN_SYSCTL_sched_id = 4
XEN_SYSCTL_perfc_op = 5
XEN_SYSCTL_getdomaininfolist = 6
XEN_SYSCTL_debug_keys = 7
XEN_SYSCTL_getcpuinfo = 8
XEN_SYSCTL_availheap = 9
XEN_SYSCTL_get_pmstat = 10
XEN_SYSCTL_cpu_hotplug = 11
XEN_SYSCTL_pm_op = 12
XEN_SYSCTL_page_offline_op = 14
XEN_SYSCTL_lockprof_op = 15
XEN_SYSCTL_cputopoinfo = 16
XEN_SYSCTL_numainfo = 17
XEN_SYSCTL_cpupool_op = 18
XEN_SYSCTL_scheduler_op = 19
XEN_SYSCTL_coverage_op = 20
XEN_SYSCTL_psr_cmt_op = 21
XEN_SYSCTL_pcitopoinfo = 22
XEN_SYSCTL_psr_alloc = 23
XEN_SYSCTL_get_cpu_levelling_caps = 25
XEN_SYSCTL_get_cpu_featureset = 26
XEN_SYSCTL_livepatch_op = 27
XEN_SYSCTL_get_cpu_policy = 29

xen_sysctl_readconsole = Struct(
    "xen_sysctl_readconsole",
    ("clear", u8),
    ("incremental", u8),
    ("pad0", u8),
    ("pad1", u8),
    ("index", u32),
    ("buffer", handle),
    ("count", u32),
)

xen_sysctl_physinfo = Struct(
    "xen_sysctl_physinfo",
    ("threads_per_core", u32),
    ("cores_per_socket", u32),
    ("nr_cpus", u32),
    ("max_cpu_id", u32),
    ("nr_nodes", u32),
    ("max_node_id", u32),
    ("cpu_khz", u32),
    ("capabilities", u32),
    ("arch_capabilities", u32),
    ("pad", u32),
    ("total_pages", u64),
    ("free_pages", u64),
    ("scrub_pages", u64),
    ("outstanding_pages", u64),
    ("max_mfn", u64),
    ("hw_cap", u32 * 8),
)

xen_sysctl_sched_id = Struct("xen_sysctl_sched_id", ("sched_id", u32))

xen_sysctl_getdomaininfolist = Struct(
    "xen_sysctl_getdomaininfolist",
    ("first_domain", u16),
    ("max_domains", u32),
    ("buffer", handle),
    ("num_domains", u32),
)

xen_sysctl_debug_keys = Struct("xen_sysctl_debug_keys", ("keys", handle), ("nr_keys", u32))

xen_sysctl_cpuinfo = Struct("xen_sysctl_cpuinfo", ("idletime", u64))

xen_sysctl_getcpuinfo = Struct(
    "xen_sysctl_getcpuinfo",
    ("max_cpus", u32),
    ("info", handle),
    ("nr_cpus", u32),
)

xen_sysctl_availheap = Struct(
    "xen_sysctl_availheap",
    ("min_bitwidth", u32),
    ("max_bitwidth", u32),
    ("node", s32),
    ("avail_bytes", u64),
)

xen_sysctl_cputopo = Struct(
    "xen_sysctl_cputopo",
    ("core", u32),
    ("socket", u32),
    ("node", u32),
)

xen_sysctl_cputopoinfo = Struct("xen_sysctl_cputopoinfo", ("num_cpus", u32), ("cputopo", handle))

xen_sysctl_meminfo = Struct("xen_sysctl_meminfo", ("memsize", u64), ("memfree", u64))

xen_sysctl_numainfo = Struct(
    "xen_sysctl_numainfo",
    ("num_nodes", u32),
    ("meminfo", handle),
    ("distance", handle),
)

xen_sysctl_cpupool_op = Struct(
    "xen_sysctl_cpupool_op",
    ("op", u32),
    ("cpupool_id", u32),
    ("sched_id", u32),
    ("domid", u32),
    ("cpu", u32),
    ("n_dom", u32),
    ("cpumap", xenctl_bitmap),
)

xen_sysctl_arinc653_schedule = Struct(
    "xen_sysctl_arinc653_schedule",
    ("major_frame", u64),
    ("num_sched_entries", u8),
    ("sched_entries", Struct("sched_entries", ("dom_handle", u8 * 16), ("vcpu_id", u32), ("runtime", u64)) * 64),
)

xen_sysctl_credit_schedule = Struct(
    "xen_sysctl_credit_schedule",
    ("tslice_ms", u32),
    ("ratelimit_us", u32),
    ("vcpu_migr_delay_us", u32),
)

xen_sysctl_credit2_schedule = Struct("xen_sysctl_credit2_schedule", ("ratelimit_us", u32))

xen_sysctl_sched_arinc653 = Struct("xen_sysctl_sched_arinc653", ("schedule", handle))

xen_sysctl_scheduler_op = Struct(
    "xen_sysctl_scheduler_op",
    ("cpupool_id", u32),
    ("sched_id", u32),
    ("cmd", u32),
    (
        "u",
        Union(
            "u",
            ("sched_arinc653", xen_sysctl_sched_arinc653),
            ("sched_credit", xen_sysctl_credit_schedule),
            ("sched_credit2", xen_sysctl_credit2_schedule),
        ),
    ),
)

xen_sysctl_pcitopoinfo = Struct(
    "xen_sysctl_pcitopoinfo",
    ("num_devs", u32),
    ("devs", handle),
    ("nodes", handle),
)

xen_sysctl_cpu_levelling_caps = Struct("xen_sysctl_cpu_levelling_caps", ("caps", u32))

xen_sysctl_cpu_featureset = Struct(
    "xen_sysctl_cpu_featureset",
    ("index", u32),
    ("nr_features", u32),
    ("features", handle),
)

xen_sysctl_cpu_policy = Struct(
    "xen_sysctl_cpu_policy",
    ("index", u32),
    ("nr_leaves", u32),
    ("nr_msrs", u32),
    ("_rsvd", u32),
    ("leaves", handle),
    ("msrs", handle),
)

xen_sysctl = Struct(
    "xen_sysctl",
    ("cmd", u32),
    ("interface_version", u32),
    (
        "u",
        Union(
            "u",
            ("readconsole", xen_sysctl_readconsole),
            ("physinfo", xen_sysctl_physinfo),
            ("cputopoinfo", xen_sysctl_cputopoinfo),
            ("pcitopoinfo", xen_sysctl_pcitopoinfo),
            ("numainfo", xen_sysctl_numainfo),
            ("sched_id", xen_sysctl_sched_id),
            ("getdomaininfolist", xen_sysctl_getdomaininfolist),
            ("debug_keys", xen_sysctl_debug_keys),
            ("getcpuinfo", xen_sysctl_getcpuinfo),
            ("availheap", xen_sysctl_availheap),
            ("cpupool_op", xen_sysctl_cpupool_op),
            ("scheduler_op", xen_sysctl_scheduler_op),
            ("cpu_levelling_caps", xen_sysctl_cpu_levelling_caps),
            ("cpu_featureset", xen_sysctl_cpu_featureset),
            ("cpu_policy", xen_sysctl_cpu_policy),
            ("pad", u8 * 128),
        ),
    ),
)

SYSCTL_NAMES = {
    value: name.removeprefix("XEN_SYSCTL_")
    for name, value in list(globals().items())
    if name.startswith("XEN_SYSCTL_") and name[11].islower() and not name.startswith("XEN_SYSCTL_cpu_featureset")
}
