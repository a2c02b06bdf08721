"""Control of other domains by the toolstack (domctl): build, inspect, schedule, destroy.

Source: Xen 4.17 public/domctl.h, without what exists only for HVM domains, device assignment and introspection (their
command numbers are here, their structures are not).
"""

from pyvmm.abi.arch_x86_64 import xen_arch_domainconfig
from pyvmm.abi.layout import Struct, Union, handle, s32, s64, u8, u16, u32, u64
from pyvmm.abi.xen import xenctl_bitmap

# What xen_domctl.interface_version must be.
XEN_DOMCTL_INTERFACE_VERSION = 0x00000015

# xen_domctl_createdomain.flags.
XEN_DOMCTL_CDF_hvm = 1 << 0
XEN_DOMCTL_CDF_hap = 1 << 1
XEN_DOMCTL_CDF_s3_integrity = 1 << 2
XEN_DOMCTL_CDF_oos_off = 1 << 3
XEN_DOMCTL_CDF_xs_domain = 1 << 4
XEN_DOMCTL_CDF_iommu = 1 << 5
XEN_DOMCTL_CDF_nested_virt = 1 << 6
XEN_DOMCTL_CDF_vpmu = 1 << 7
XEN_DOMCTL_CDF_MAX = 128

# xen_domctl_createdomain: .iommu_opts, .grant_opts.
XEN_DOMCTL_IOMMU_no_sharept = 1 << 0
XEN_DOMCTL_IOMMU_MAX = 1
XEN_DOMCTL_GRANT_version_mask = 0xF

# xen_domctl_getdomaininfo.flags.
XEN_DOMINF_dying = 1 << 0
XEN_DOMINF_hvm_guest = 1 << 1
XEN_DOMINF_shutdown = 1 << 2
XEN_DOMINF_paused = 1 << 3
XEN_DOMINF_blocked = 1 << 4
XEN_DOMINF_running = 1 << 5
XEN_DOMINF_debugged = 1 << 6
XEN_DOMINF_xs_domain = 1 << 7
XEN_DOMINF_hap = 1 << 8
XEN_DOMINF_shutdownmask = 0xFF  # the SHUTDOWN_* reason, once shifted
XEN_DOMINF_shutdownshift = 16

# xen_domctl_getdomaininfo.max_vcpu_id of a domain without vCPUs.
XEN_INVALID_MAX_VCPU_ID = 0xFFFFFFFF

# Type bits in the entries of xen_domctl_getpageframeinfo3.array.
XEN_DOMCTL_PFINFO_LTAB_SHIFT = 28
XEN_DOMCTL_PFINFO_NOTAB = 0x0 << 28
XEN_DOMCTL_PFINFO_L1TAB = 0x1 << 28
XEN_DOMCTL_PFINFO_L2TAB = 0x2 << 28
XEN_DOMCTL_PFINFO_L3TAB = 0x3 << 28
XEN_DOMCTL_PFINFO_L4TAB = 0x4 << 28
XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x7 << 28
XEN_DOMCTL_PFINFO_LPINTAB = 0x1 << 31
XEN_DOMCTL_PFINFO_XTAB = 0xF << 28
XEN_DOMCTL_PFINFO_XALLOC = 0xE << 28
XEN_DOMCTL_PFINFO_BROKEN = 0xD << 28
XEN_DOMCTL_PFINFO_LTAB_MASK = 0xF << 28

# xen_domctl_shadow_op: .op and .mode.
XEN_DOMCTL_SHADOW_OP_OFF = 0
XEN_DOMCTL_SHADOW_OP_ENABLE = 32
XEN_DOMCTL_SHADOW_OP_CLEAN = 11
XEN_DOMCTL_SHADOW_OP_PEEK = 12
XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30
XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31
XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1
XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2
XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 1 << 1
XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 1 << 2
XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 1 << 3
XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 1 << 4
XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1 << 0

# xen_domctl_vcpuaffinity.flags.
XEN_VCPUAFFINITY_HARD = 1 << 0
XEN_VCPUAFFINITY_SOFT = 1 << 1
XEN_VCPUAFFINITY_FORCE = 1 << 2

# xen_domctl_scheduler_op.sched_id.
XEN_SCHEDULER_CREDIT = 5
XEN_SCHEDULER_CREDIT2 = 6
XEN_SCHEDULER_ARINC653 = 7
XEN_SCHEDULER_RTDS = 8
XEN_SCHEDULER_NULL = 9

# xen_domctl_sched_rtds.flags; xen_domctl_scheduler_op.cmd.
XEN_DOMCTL_SCHEDRT_extra = 1 << 0
XEN_DOMCTL_SCHEDOP_putinfo = 0
XEN_DOMCTL_SCHEDOP_getinfo = 1
XEN_DOMCTL_SCHEDOP_putvcpuinfo = 2
XEN_DOMCTL_SCHEDOP_getvcpuinfo = 3

# xen_cpuid_leaf.subleaf of leaves that have none.
XEN_CPUID_INPUT_UNUSED = 0xFFFFFFFF

# Commands.
XEN_DOMCTL_createdomain = 1
XEN_DOMCTL_destroydomain = 2
XEN_DOMCTL_pausedomain = 3
XEN_DOMCTL_unpausedomain = 4
XEN_DOMCTL_getdomaininfo = 5
XEN_DOMCTL_setvcpuaffinity = 9
XEN_DOMCTL_shadow_op = 10
XEN_DOMCTL_max_mem = 11
XEN_DOMCTL_setvcpucontext = 12
XEN_DOMCTL_getvcpucontext = 13
XEN_DOMCTL_getvcpuinfo = 14
XEN_DOMCTL_max_vcpus = 15
XEN_DOMCTL_scheduler_op = 16
XEN_DOMCTL_setdomainhandle = 17
XEN_DOMCTL_setdebugging = 18
XEN_DOMCTL_irq_permission = 19
XEN_DOMCTL_iomem_permission = 20
XEN_DOMCTL_ioport_permission = 21
XEN_DOMCTL_hypercall_init = 22
XEN_DOMCTL_settimeoffset = 24
XEN_DOMCTL_getvcpuaffinity = 25
XEN_DOMCTL_real_mode_area = 26
XEN_DOMCTL_resumedomain = 27
XEN_DOMCTL_sendtrigger = 28
XEN_DOMCTL_subscribe = 29
XEN_DOMCTL_gethvmcontext = 33
XEN_DOMCTL_sethvmcontext = 34
XEN_DOMCTL_set_address_size = 35
XEN_DOMCTL_get_address_size = 36
XEN_DOMCTL_assign_device = 37
XEN_DOMCTL_bind_pt_irq = 38
XEN_DOMCTL_memory_mapping = 39
XEN_DOMCTL_ioport_mapping = 40
XEN_DOMCTL_set_ext_vcpucontext = 42
XEN_DOMCTL_get_ext_vcpucontext = 43
XEN_DOMCTL_set_opt_feature = 44
XEN_DOMCTL_test_assign_device = 45
XEN_DOMCTL_set_target = 46
XEN_DOMCTL_deassign_device = 47
XEN_DOMCTL_unbind_pt_irq = 48
XEN_DOMCTL_get_device_group = 50
XEN_DOMCTL_debug_op = 54
XEN_DOMCTL_gethvmcontext_partial = 55
XEN_DOMCTL_vm_event_op = 56
XEN_DOMCTL_mem_sharing_op = 57
XEN_DOMCTL_gettscinfo = 59
XEN_DOMCTL_settscinfo = 60
XEN_DOMCTL_getpageframeinfo3 = 61
XEN_DOMCTL_setvcpuextstate = 62
XEN_DOMCTL_getvcpuextstate = 63
XEN_DOMCTL_set_access_required = 64
XEN_DOMCTL_audit_p2m = 65
XEN_DOMCTL_set_virq_handler = 66
XEN_DOMCTL_set_broken_page_p2m = 67
XEN_DOMCTL_setnodeaffinity = 68
XEN_DOMCTL_getnodeaffinity = 69
XEN_DOMCTL_cacheflush = 71
XEN_DOMCTL_get_vcpu_msrs = 72
XEN_DOMCTL_set_vcpu_msrs = 73
XEN_DOMCTL_setvnumainfo = 74
XEN_DOMCTL_psr_cmt_op = 75
XEN_DOMCTL_monitor_op = 77
XEN_DOMCTL_psr_alloc = 78
XEN_DOMCTL_soft_reset = 79
XEN_DOMCTL_vuart_op = 81
XEN_DOMCTL_get_cpu_policy = 82
XEN_DOMCTL_set_cpu_policy = 83
XEN_DOMCTL_get_paging_mempool_size = 85
XEN_DOMCTL_set_paging_mempool_size = 86
XEN_DOMCTL_gdbsx_guestmemio = 1000
XEN_DOMCTL_gdbsx_pausevcpu = 1001
XEN_DOMCTL_gdbsx_unpausevcpu = 1002
XEN_DOMCTL_gdbsx_domstatus = 1003

xen_domctl_createdomain = Struct(
    "xen_domctl_createdomain",
    ("ssidref", u32),
    ("handle", u8 * 16),
    ("flags", u32),
    ("iommu_opts", u32),
    ("max_vcpus", u32),
    ("max_evtchn_port", u32),
    ("max_grant_frames", s32),
    ("max_maptrack_frames", s32),
    ("grant_opts", u32),
    ("vmtrace_size", u32),
    ("cpupool_id", u32),
    ("arch", xen_arch_domainconfig),
)

xen_domctl_getdomaininfo = Struct(
    "xen_domctl_getdomaininfo",
    ("domain", u16),
    ("pad1", u16),
    ("flags", u32),
    ("tot_pages", u64),
    ("max_pages", u64),
    ("outstanding_pages", u64),
    ("shr_pages", u64),
    ("paged_pages", u64),
    ("shared_info_frame", u64),
    ("cpu_time", u64),
    ("nr_online_vcpus", u32),
    ("max_vcpu_id", u32),
    ("ssidref", u32),
    ("handle", u8 * 16),
    ("cpupool", u32),
    ("gpaddr_bits", u8),
    ("pad2", u8 * 7),
    ("arch_config", xen_arch_domainconfig),
)

xen_domctl_getpageframeinfo3 = Struct("xen_domctl_getpageframeinfo3", ("num", u64), ("array", handle))

xen_domctl_shadow_op_stats = Struct("xen_domctl_shadow_op_stats", ("fault_count", u32), ("dirty_count", u32))

xen_domctl_shadow_op = Struct(
    "xen_domctl_shadow_op",
    ("op", u32),
    ("mode", u32),
    ("mb", u32),
    ("dirty_bitmap", handle),
    ("pages", u64),
    ("stats", xen_domctl_shadow_op_stats),
)

xen_domctl_max_mem = Struct("xen_domctl_max_mem", ("max_memkb", u64))

xen_domctl_vcpucontext = Struct("xen_domctl_vcpucontext", ("vcpu", u32), ("ctxt", handle))

xen_domctl_getvcpuinfo = Struct(
    "xen_domctl_getvcpuinfo",
    ("vcpu", u32),
    ("online", u8),
    ("blocked", u8),
    ("running", u8),
    ("cpu_time", u64),
    ("cpu", u32),
)

xen_domctl_nodeaffinity = Struct("xen_domctl_nodeaffinity", ("nodemap", xenctl_bitmap))

xen_domctl_vcpuaffinity = Struct(
    "xen_domctl_vcpuaffinity",
    ("vcpu", u32),
    ("flags", u32),
    ("cpumap_hard", xenctl_bitmap),
    ("cpumap_soft", xenctl_bitmap),
)

xen_domctl_max_vcpus = Struct("xen_domctl_max_vcpus", ("max", u32))

xen_domctl_sched_credit = Struct("xen_domctl_sched_credit", ("weight", u16), ("cap", u16))

xen_domctl_sched_credit2 = Struct("xen_domctl_sched_credit2", ("weight", u16), ("cap", u16))

xen_domctl_sched_rtds = Struct(
    "xen_domctl_sched_rtds",
    ("period", u32),
    ("budget", u32),
    ("flags", u32),
)

xen_domctl_schedparam_vcpu = Struct(
    "xen_domctl_schedparam_vcpu",
    (
        "u",
        Union(
            "u",
            ("credit", xen_domctl_sched_credit),
            ("credit2", xen_domctl_sched_credit2),
            ("rtds", xen_domctl_sched_rtds),
        ),
    ),
    ("vcpuid", u32),
)

xen_domctl_scheduler_op = Struct(
    "xen_domctl_scheduler_op",
    ("sched_id", u32),
    ("cmd", u32),
    (
        "u",
        Union(
            "u",
            ("credit", xen_domctl_sched_credit),
            ("credit2", xen_domctl_sched_credit2),
            ("rtds", xen_domctl_sched_rtds),
            ("v", Struct("v", ("vcpus", handle), ("nr_vcpus", u32), ("padding", u32))),
        ),
    ),
)

xen_domctl_setdomainhandle = Struct("xen_domctl_setdomainhandle", ("handle", u8 * 16))

xen_domctl_setdebugging = Struct("xen_domctl_setdebugging", ("enable", u8))

xen_domctl_irq_permission = Struct(
    "xen_domctl_irq_permission",
    ("pirq", u32),
    ("allow_access", u8),
    ("pad", u8 * 3),
)

xen_domctl_iomem_permission = Struct(
    "xen_domctl_iomem_permission",
    ("first_mfn", u64),
    ("nr_mfns", u64),
    ("allow_access", u8),
)

xen_domctl_ioport_permission = Struct(
    "xen_domctl_ioport_permission",
    ("first_port", u32),
    ("nr_ports", u32),
    ("allow_access", u8),
)

xen_domctl_hypercall_init = Struct("xen_domctl_hypercall_init", ("gmfn", u64))

xen_domctl_settimeoffset = Struct("xen_domctl_settimeoffset", ("time_offset_seconds", s64))

xen_domctl_address_size = Struct("xen_domctl_address_size", ("size", u32))

hvm_vmce_vcpu = Struct(
    "hvm_vmce_vcpu",
    ("caps", u64),
    ("mci_ctl2_bank0", u64),
    ("mci_ctl2_bank1", u64),
    ("mcg_ext_ctl", u64),
)

xen_domctl_ext_vcpucontext = Struct(
    "xen_domctl_ext_vcpucontext",
    ("vcpu", u32),
    ("size", u32),
    ("syscall32_callback_eip", u64),
    ("sysenter_callback_eip", u64),
    ("syscall32_callback_cs", u16),
    ("sysenter_callback_cs", u16),
    ("syscall32_disables_events", u8),
    ("sysenter_disables_events", u8),
    # In the header a union of this with `mcg_cap`, its first member.
    ("vmce", hvm_vmce_vcpu),
)

xen_domctl_set_target = Struct("xen_domctl_set_target", ("target", u16))

xen_domctl_cpu_policy = Struct(
    "xen_domctl_cpu_policy",
    ("nr_leaves", u32),
    ("nr_msrs", u32),
    ("leaves", handle),
    ("msrs", handle),
    ("err_leaf", u32),
    ("err_subleaf", u32),
    ("err_msr", u32),
)

xen_domctl_tsc_info = Struct(
    "xen_domctl_tsc_info",
    ("tsc_mode", u32),
    ("gtsc_khz", u32),
    ("incarnation", u32),
    ("pad", u32),
    ("elapsed_nsec", u64),
)

xen_domctl_set_virq_handler = Struct("xen_domctl_set_virq_handler", ("virq", u32))

xen_domctl_vcpuextstate = Struct(
    "xen_domctl_vcpuextstate",
    ("vcpu", u32),
    ("xfeature_mask", u64),
    ("size", u64),
    ("buffer", handle),
)

xen_domctl_vcpu_msr = Struct(
    "xen_domctl_vcpu_msr",
    ("index", u32),
    ("reserved", u32),
    ("value", u64),
)

xen_domctl_vcpu_msrs = Struct(
    "xen_domctl_vcpu_msrs",
    ("vcpu", u32),
    ("msr_count", u32),
    ("msrs", handle),
)

xen_domctl_vnuma = Struct(
    "xen_domctl_vnuma",
    ("nr_vnodes", u32),
    ("nr_vmemranges", u32),
    ("nr_vcpus", u32),
    ("pad", u32),
    ("vdistance", handle),
    ("vcpu_to_vnode", handle),
    ("vnode_to_pnode", handle),
    ("vmemrange", handle),
)

xen_domctl = Struct(
    "xen_domctl",
    ("cmd", u32),
    ("interface_version", u32),
    ("domain", u16),
    ("_pad", u16 * 3),
    (
        "u",
        Union(
            "u",
            ("createdomain", xen_domctl_createdomain),
            ("getdomaininfo", xen_domctl_getdomaininfo),
            ("getpageframeinfo3", xen_domctl_getpageframeinfo3),
            ("nodeaffinity", xen_domctl_nodeaffinity),
            ("vcpuaffinity", xen_domctl_vcpuaffinity),
            ("shadow_op", xen_domctl_shadow_op),
            ("max_mem", xen_domctl_max_mem),
            ("vcpucontext", xen_domctl_vcpucontext),
            ("getvcpuinfo", xen_domctl_getvcpuinfo),
            ("max_vcpus", xen_domctl_max_vcpus),
            ("scheduler_op", xen_domctl_scheduler_op),
            ("setdomainhandle", xen_domctl_setdomainhandle),
            ("setdebugging", xen_domctl_setdebugging),
            ("irq_permission", xen_domctl_irq_permission),
            ("iomem_permission", xen_domctl_iomem_permission),
            ("ioport_permission", xen_domctl_ioport_permission),
            ("hypercall_init", xen_domctl_hypercall_init),
            ("settimeoffset", xen_domctl_settimeoffset),
            ("tsc_info", xen_domctl_tsc_info),
            ("address_size", xen_domctl_address_size),
            ("ext_vcpucontext", xen_domctl_ext_vcpucontext),
            ("set_target", xen_domctl_set_target),
            ("cpu_policy", xen_domctl_cpu_policy),
            ("vcpuextstate", xen_domctl_vcpuextstate),
            ("vcpu_msrs", xen_domctl_vcpu_msrs),
            ("set_virq_handler", xen_domctl_set_virq_handler),
            ("vnuma", xen_domctl_vnuma),
            ("pad", u8 * 128),
        ),
    ),
)

DOMCTL_NAMES = {
    value: name.removeprefix("XEN_DOMCTL_")
    for name, value in list(globals().items())
    if name.startswith("XEN_DOMCTL_") and name[11].islower()
}
