/* What is used of the control interface (public/domctl.h, sysctl.h; version 0x15), in the headers' layout. */
#pragma once
#include "kernel.h"

#define CTL_VERSION 0x15
enum { DOMCTL_createdomain = 1, DOMCTL_destroydomain = 2, DOMCTL_pausedomain = 3, DOMCTL_unpausedomain = 4, DOMCTL_getdomaininfo = 5,
       DOMCTL_setvcpuaffinity = 9, DOMCTL_max_mem = 11, DOMCTL_setvcpucontext = 12, DOMCTL_getvcpucontext = 13, DOMCTL_max_vcpus = 15,
       DOMCTL_hypercall_init = 22, DOMCTL_set_address_size = 35, DOMCTL_settscinfo = 60, DOMCTL_set_virq_handler = 66,
       DOMCTL_scheduler_op = 16, DOMCTL_set_cpu_policy = 83 };
enum { SYSCTL_physinfo = 3, SYSCTL_getdomaininfolist = 6, SYSCTL_getcpuinfo = 8, SYSCTL_numainfo = 17, SYSCTL_cpupool_op = 18, SYSCTL_get_cpu_policy = 29 };

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
        struct { u32 vcpu; void *context; } context;
        struct { u32 max; } max_vcpus;
        struct { u64 gmfn; } hypercall_init;
        struct { u32 mode, khz, incarnation, pad; u64 elapsed; } tsc;
        struct { u32 bits; } address_size;
        struct { u32 virq; } virq;
        struct { u32 sched_id, cmd; u16 weight, cap; } scheduler;
        struct { u32 nr_leaves, nr_msrs; void *leaves, *msrs; u32 err_leaf, err_subleaf, err_msr; } policy;
        u8 room[128];
    } u;
};
struct sysctl {
    u32 cmd, interface_version;
    union {
        struct { u16 first; u32 max; struct ctl_domaininfo *buffer; u32 num; } infos;
        struct { u32 max; u64 *idle; u32 num; } cpus;
        struct { u32 nodes; void *meminfo; u32 *distance; } numa;
        struct { u32 op, pool, sched_id, domid, cpu, domains; struct ctl_bitmap cpus; } pool;
        struct { u32 index, nr_leaves, nr_msrs, reserved; void *leaves, *msrs; } policy;
        u8 room[128];
    } u;
};
_Static_assert(sizeof(struct domctl) == 144 && sizeof(struct ctl_domaininfo) == 112, "as in the headers");
s64 ctl(struct domctl *c, u32 cmd, u32 domid);
