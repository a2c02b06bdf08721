/* The control part of Xen's interface (public/domctl.h, sysctl.h, devctl.h; version 0x15): what dom0 uses, in the headers' layout. */
#pragma once
#include "kernel.h"

#define DOMCTL_INTERFACE_VERSION 0x15
#define SYSCTL_INTERFACE_VERSION 0x15
enum { DOMCTL_createdomain = 1, DOMCTL_destroydomain = 2, DOMCTL_pausedomain = 3, DOMCTL_unpausedomain = 4, DOMCTL_getdomaininfo = 5,
       DOMCTL_setvcpuaffinity = 9, DOMCTL_max_mem = 11, DOMCTL_setvcpucontext = 12, DOMCTL_max_vcpus = 15, DOMCTL_scheduler_op = 16,
       DOMCTL_setdomainhandle = 17, DOMCTL_hypercall_init = 22, DOMCTL_set_address_size = 35, DOMCTL_settscinfo = 60, DOMCTL_set_virq_handler = 66,
       DOMCTL_set_cpu_policy = 83 };
enum { SYSCTL_physinfo = 3, SYSCTL_getdomaininfolist = 6, SYSCTL_getcpuinfo = 8, SYSCTL_numainfo = 17, SYSCTL_cpupool_op = 18,
       SYSCTL_get_cpu_policy = 29 };
enum { CPUPOOL_INFO = 3, CPUPOOL_MOVEDOMAIN = 6 };
enum { SCHEDULER_putinfo, SCHEDULER_getinfo };
#define CPU_POLICY_PV_DEFAULT 4U
enum { DOMINF_dying = 1, DOMINF_shutdown = 4, DOMINF_paused = 8, DOMINF_blocked = 16, DOMINF_running = 32, DOMINF_shutdownshift = 16 };
#define CDF_xs_domain (1U << 4)
#define VCPUAFFINITY_HARD 1U

struct ctl_bitmap { u64 *map; u32 bits; };
struct ctl_domaininfo {
    u16 domain, pad1;
    u32 flags;
    u64 tot_pages, max_pages, outstanding_pages, shr_pages, paged_pages, shared_info_frame, cpu_time;
    u32 nr_online_vcpus, max_vcpu_id, ssidref;
    u8 handle[16];
    u32 cpupool;
    u8 gpaddr_bits, pad2[7];
    u32 arch[2];
};
struct domctl {
    u32 cmd, interface_version;
    u16 domain, pad[3];
    union {
        struct {
            u32 ssidref;
            u8 handle[16];
            u32 flags, iommu_opts, max_vcpus, max_evtchn_port;
            s32 max_grant_frames, max_maptrack_frames;
            u32 grant_opts, vmtrace_size, cpupool_id, arch[2];
        } create;
        struct ctl_domaininfo info;
        struct { u32 vcpu, flags; struct ctl_bitmap hard, soft; } affinity;
        struct { u64 kib; } max_mem;
        struct { u8 handle[16]; } handle;
        struct { u32 vcpu; const void *context; } context;
        struct { u32 max; } max_vcpus;
        struct { u64 gmfn; } hypercall_init;
        struct { u32 mode, khz, incarnation, pad; u64 elapsed; } tsc;
        struct { u32 bits; } address_size;
        struct { u32 virq; } virq;
        struct { u32 sched_id, cmd; u16 weight, cap; } scheduler; /* of credit and credit2 */
        struct { u32 nr_leaves, nr_msrs; const void *leaves, *msrs; u32 err_leaf, err_subleaf, err_msr; } policy;
        u8 room[128];
    } u;
};
struct sysctl {
    u32 cmd, interface_version;
    union {
        struct {
            u32 threads_per_core, cores_per_socket, nr_cpus, max_cpu_id, nr_nodes, max_node_id, cpu_khz, capabilities;
            u64 arch_capabilities, total_pages, free_pages, scrub_pages, outstanding_pages, max_mfn;
            u32 hw_cap[8];
        } physinfo;
        struct { u16 first; u32 max; struct ctl_domaininfo *buffer; u32 num; } infos;
        struct { u32 nodes; struct ctl_meminfo { u64 size, free; } *memory; u32 *distance; } numa;
        struct { u32 op, pool, sched_id, domid, cpu, domains; struct ctl_bitmap cpus; } pool;
        struct { u32 index, nr_leaves, nr_msrs, reserved; void *leaves, *msrs; } policy;
        struct { u32 max; u64 *idle; u32 num; } cpus; /* one struct xen_sysctl_cpuinfo a CPU: its idle time */
        u8 room[128];
    } u;
};

/* devctl.h of the noxs work: hypercall 41 */
#define HYPERCALL_devctl 41
#define DEVCTL_VERSION 1
enum { DEVCTL_get = 1, DEVCTL_add, DEVCTL_remove, DEVCTL_enum };
struct devctl {
    u32 version, cmd;
    u16 domain;
    union {
        struct { u32 type, id; u16 be_id; u32 grant, port; } add;
        struct { u32 type; u16 be_id, fe_id; u32 devid; } remove;
        u64 room[81];
    } u;
};
_Static_assert(sizeof(struct domctl) == 144 && sizeof(struct devctl) == 664 && sizeof(struct ctl_domaininfo) == 112, "as in the headers");
