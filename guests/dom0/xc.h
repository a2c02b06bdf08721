/* The control library: what a toolstack asks of the hypervisor about another domain, one function an operation.
 * The names and the cut are libxc's (tools/include/xenctrl.h of Xen), so that a reader of either finds the other.
 * Every function returns 0 or a negative errno of Xen's, unless it says otherwise.
 */
#pragma once
#include "kernel.h"

struct xc_create {      /* XEN_DOMCTL_createdomain */
    u8 handle[16];
    u32 flags;          /* XEN_DOMCTL_CDF_... */
    u32 max_vcpus, max_evtchn_port;
    s32 max_grant_frames, max_maptrack_frames;
};
struct xc_info { u32 domid, flags, shutdown_reason, vcpus; u64 tot_pages, max_pages, shared_info_frame; u8 handle[16]; };

/* xc_domain.c: XEN_DOMCTL_..., XEN_SYSCTL_... */
int xc_domain_create(u32 *domid, const struct xc_create *c); /* *domid: the wish, 0 for any; then the number given */
int xc_domain_destroy(u32 domid); /* runs until all is given back */
int xc_domain_pause(u32 domid);
int xc_domain_unpause(u32 domid);
int xc_domain_shutdown(u32 domid, u32 reason);
int xc_domain_max_vcpus(u32 domid, u32 n);
int xc_vcpu_setaffinity(u32 domid, u32 vcpu, u64 cpus);
int xc_domain_setmaxmem(u32 domid, u64 kib);
int xc_domain_sethandle(u32 domid, const u8 handle[16]); /* its UUID */
int xc_domain_set_tsc_info(u32 domid, u32 mode);
int xc_cpuid_apply_policy(u32 domid); /* what Xen has for PV guests; of 4.8's DOMCTL_set_cpuid, a leaf a call, 4.17 made these two calls */
int xc_domain_set_memmap_limit(u32 domid, u64 kib);
struct xc_sched { u32 scheduler; u16 weight, cap; }; /* of credit and credit2 */
int xc_sched_get(u32 domid, struct xc_sched *s); /* s->scheduler says of which scheduler */
int xc_sched_set(u32 domid, const struct xc_sched *s);
int xc_domain_set_address_size(u32 domid, u32 bits);
int xc_domain_hypercall_init(u32 domid, u64 mfn);
int xc_domain_getinfo(u32 domid, struct xc_info *info); /* exactly this one: -ESRCH otherwise */
int xc_domain_getinfo_next(u32 first, struct xc_info *info); /* this one or the next that there is */
enum { XC_INFOS = 1024 }; /* at most so many in one call, as libxl's */
s64 xc_domain_getinfolist(u32 first, u32 max, struct xc_info *infos); /* how many were filled in */
int xc_vcpu_setcontext(u32 domid, u32 vcpu, const void *vcpu_guest_context);
int xc_physinfo(u32 *cpus, u64 *total_pages, u64 *free_pages); /* cpus is asked once and remembered */
int xc_cpupool_scheduler(u32 pool, u32 *scheduler); /* XEN_SCHEDULER_..., by the pool's information */
int xc_cpupool_movedomain(u32 pool, u32 domid);
int xc_numa_nodes(u32 *nodes);
int xc_idle_time(u64 *nanoseconds); /* of the first CPU, since Xen started */
int xc_set_virq_handler(u32 domid, u32 virq);
int xc_devctl_add(u32 domid, u32 type, u32 devid, u32 backend, u32 grant, u32 port); /* hypercall 41 (noxs) */
int xc_devctl_remove(u32 domid, u32 type, u32 backend, u32 devid);
bool xc_devctl_present(void); /* does this Xen know noxs? */

/* xc_memory.c: memory_op, mmu_update, mmuext_op, foreign mappings, grants and ports of others */
s64 xc_populate_physmap(u32 domid, u64 n, u32 order, u64 *frames); /* in: pfns, out: mfns; how many extents were done */
int xc_decrease_reservation(u32 domid, u64 n, const u64 *frames); /* single pages back to Xen */
int xc_claim_pages(u32 domid, u64 pages);
void *xc_map_foreign(u32 domid, const u64 *mfns, u64 n, bool writable); /* n pages in a row; NULL: *xc_errno says why */
int xc_unmap(void *at, u64 n);
extern int xc_errno;
int xc_pin_l4(u32 domid, u64 mfn);
s64 xc_evtchn_alloc_unbound(u32 domid, u32 remote); /* the port, in domid's table */
int xc_gnttab_seed(u32 domid, u64 console_mfn, u32 console_domid, u64 store_mfn, u32 store_domid); /* 0 mfn: no such page */
s64 xc_version(u32 command, void *arg);
