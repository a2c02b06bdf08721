/* domctl, sysctl and devctl: one function an operation. */
#include "xc.h"
#include "xen_ctl.h"

static int domctl(struct domctl *c, u32 cmd, u32 domid)
{
    c->cmd = cmd;
    c->interface_version = DOMCTL_INTERFACE_VERSION;
    c->domain = (u16)domid;
    return (int)hypercall_domctl(c);
}

static int plain(u32 cmd, u32 domid)
{
    struct domctl c = {0};
    return domctl(&c, cmd, domid);
}

int xc_domain_create(u32 *domid, const struct xc_create *create)
{
    struct domctl c = {0};
    memcpy(c.u.create.handle, create->handle, sizeof c.u.create.handle);
    c.u.create.flags = create->flags;
    c.u.create.max_vcpus = create->max_vcpus;
    c.u.create.max_evtchn_port = create->max_evtchn_port;
    c.u.create.max_grant_frames = create->max_grant_frames;
    c.u.create.max_maptrack_frames = create->max_maptrack_frames;
    c.u.create.grant_opts = 2; /* up to grant table version 2 */
    int rc = domctl(&c, DOMCTL_createdomain, *domid);
    if (!rc)
        *domid = c.domain;
    return rc;
}

int xc_domain_destroy(u32 domid) { return plain(DOMCTL_destroydomain, domid); }
int xc_domain_pause(u32 domid) { return plain(DOMCTL_pausedomain, domid); }
int xc_domain_unpause(u32 domid) { return plain(DOMCTL_unpausedomain, domid); }

int xc_domain_shutdown(u32 domid, u32 reason)
{
    struct sched_remote_shutdown s = {(u16)domid, reason};
    return (int)hypercall_sched_op(SCHEDOP_remote_shutdown, &s);
}

int xc_domain_max_vcpus(u32 domid, u32 n)
{
    struct domctl c = {.u.max_vcpus.max = n};
    return domctl(&c, DOMCTL_max_vcpus, domid);
}

int xc_vcpu_setaffinity(u32 domid, u32 vcpu, u64 cpus)
{
    u64 map[] = {cpus};
    struct domctl c = {.u.affinity = {vcpu, VCPUAFFINITY_HARD, {map, 64}, {map, 64}}};
    return domctl(&c, DOMCTL_setvcpuaffinity, domid);
}

int xc_domain_sethandle(u32 domid, const u8 handle[16])
{
    struct domctl c = {0};
    memcpy(c.u.handle.handle, handle, sizeof c.u.handle.handle);
    return domctl(&c, DOMCTL_setdomainhandle, domid);
}

int xc_domain_setmaxmem(u32 domid, u64 kib)
{
    struct domctl c = {.u.max_mem.kib = kib};
    return domctl(&c, DOMCTL_max_mem, domid);
}

int xc_domain_set_tsc_info(u32 domid, u32 mode)
{
    struct domctl c = {.u.tsc.mode = mode};
    return domctl(&c, DOMCTL_settscinfo, domid);
}

int xc_domain_set_address_size(u32 domid, u32 bits)
{
    struct domctl c = {.u.address_size.bits = bits};
    return domctl(&c, DOMCTL_set_address_size, domid);
}

int xc_domain_hypercall_init(u32 domid, u64 mfn)
{
    struct domctl c = {.u.hypercall_init.gmfn = mfn};
    return domctl(&c, DOMCTL_hypercall_init, domid);
}

int xc_vcpu_setcontext(u32 domid, u32 vcpu, const void *context)
{
    struct domctl c = {.u.context = {vcpu, context}};
    return domctl(&c, DOMCTL_setvcpucontext, domid);
}

int xc_set_virq_handler(u32 domid, u32 virq)
{
    struct domctl c = {.u.virq.virq = virq};
    return domctl(&c, DOMCTL_set_virq_handler, domid);
}

int xc_sched_get(u32 domid, struct xc_sched *s)
{
    struct domctl c = {.u.scheduler = {s->scheduler, SCHEDULER_getinfo, 0, 0}};
    int rc = domctl(&c, DOMCTL_scheduler_op, domid);
    s->weight = c.u.scheduler.weight;
    s->cap = c.u.scheduler.cap;
    return rc;
}

int xc_sched_set(u32 domid, const struct xc_sched *s)
{
    struct domctl c = {.u.scheduler = {s->scheduler, SCHEDULER_putinfo, s->weight, s->cap}};
    return domctl(&c, DOMCTL_scheduler_op, domid);
}

int xc_cpuid_apply_policy(u32 domid)
{
    static struct { u32 leaf, subleaf, words[4]; } leaves[128]; /* more than a policy has room for */
    struct sysctl s = {SYSCTL_get_cpu_policy, SYSCTL_INTERFACE_VERSION, {.policy = {CPU_POLICY_PV_DEFAULT, COUNT(leaves), 0, 0, leaves, NULL}}};
    s64 rc = hypercall_sysctl(&s);
    if (rc)
        return (int)rc;
    struct domctl c = {.u.policy = {.nr_leaves = s.u.policy.nr_leaves, .leaves = leaves}};
    return domctl(&c, DOMCTL_set_cpu_policy, domid);
}

static void fill(struct xc_info *to, const struct ctl_domaininfo *from)
{
    *to = (struct xc_info){from->domain, from->flags, from->flags >> DOMINF_shutdownshift & 0xff, from->nr_online_vcpus,
                           from->tot_pages, from->max_pages, from->shared_info_frame, {0}};
    memcpy(to->handle, from->handle, sizeof to->handle);
}

int xc_domain_getinfo_next(u32 first, struct xc_info *info)
{
    struct domctl c = {0};
    int rc = domctl(&c, DOMCTL_getdomaininfo, first);
    if (!rc)
        fill(info, &c.u.info);
    return rc;
}

int xc_domain_getinfo(u32 domid, struct xc_info *info)
{
    int rc = xc_domain_getinfo_next(domid, info);
    return rc ? rc : info->domid == domid ? 0 : -ESRCH;
}

s64 xc_domain_getinfolist(u32 first, u32 max, struct xc_info *infos)
{
    static struct ctl_domaininfo buffer[XC_INFOS]; /* who asks what there is may be short of memory, and nobody sleeps here */
    max = max < XC_INFOS ? max : XC_INFOS;
    struct sysctl s = {SYSCTL_getdomaininfolist, SYSCTL_INTERFACE_VERSION, {.infos = {(u16)first, max, buffer, 0}}};
    s64 rc = hypercall_sysctl(&s);
    for (u32 i = 0; !rc && i < s.u.infos.num; i++)
        fill(&infos[i], &buffer[i]);
    return rc ? rc : (s64)s.u.infos.num;
}

int xc_physinfo(u32 *cpus, u64 *total_pages, u64 *free_pages)
{
    static u32 known;
    if (known && !total_pages && !free_pages) {
        *cpus = known;
        return 0;
    }
    struct sysctl s = {SYSCTL_physinfo, SYSCTL_INTERFACE_VERSION, {{0}}};
    s64 rc = hypercall_sysctl(&s);
    if (rc)
        return (int)rc;
    known = s.u.physinfo.nr_cpus;
    if (cpus)
        *cpus = known;
    if (total_pages)
        *total_pages = s.u.physinfo.total_pages;
    if (free_pages)
        *free_pages = s.u.physinfo.free_pages;
    return 0;
}

static int cpupool(struct sysctl *s, u32 op)
{
    s->cmd = SYSCTL_cpupool_op;
    s->interface_version = SYSCTL_INTERFACE_VERSION;
    s->u.pool.op = op;
    return (int)hypercall_sysctl(s);
}

int xc_cpupool_scheduler(u32 pool, u32 *scheduler)
{
    u64 cpus[8];
    struct sysctl s = {.u.pool = {.pool = pool, .cpus = {cpus, sizeof cpus * 8}}};
    int rc = cpupool(&s, CPUPOOL_INFO);
    *scheduler = s.u.pool.sched_id;
    return rc ? rc : s.u.pool.pool == pool ? 0 : -ENOENT; /* Xen answers for the next one */
}

int xc_cpupool_movedomain(u32 pool, u32 domid)
{
    struct sysctl s = {.u.pool = {.pool = pool, .domid = domid}};
    return cpupool(&s, CPUPOOL_MOVEDOMAIN);
}

int xc_numa_nodes(u32 *nodes)
{
    struct sysctl s = {SYSCTL_numainfo, SYSCTL_INTERFACE_VERSION, {.numa = {0, NULL, NULL}}};
    s64 rc = hypercall_sysctl(&s);
    *nodes = s.u.numa.nodes;
    return (int)rc;
}

int xc_idle_time(u64 *nanoseconds)
{
    struct sysctl s = {SYSCTL_getcpuinfo, SYSCTL_INTERFACE_VERSION, {.cpus = {1, nanoseconds, 0}}};
    s64 rc = hypercall_sysctl(&s);
    return rc ? (int)rc : s.u.cpus.num == 1 ? 0 : -ENODATA;
}

static int devctl(struct devctl *c, u32 cmd, u32 domid)
{
    c->version = DEVCTL_VERSION;
    c->cmd = cmd;
    c->domain = (u16)domid;
    return (int)hypercall(HYPERCALL_devctl, (u64)c, 0, 0, 0, 0);
}

int xc_devctl_add(u32 domid, u32 type, u32 devid, u32 backend, u32 grant, u32 port)
{
    struct devctl c = {.u.add = {type, devid, (u16)backend, grant, port}};
    return devctl(&c, DEVCTL_add, domid);
}

int xc_devctl_remove(u32 domid, u32 type, u32 backend, u32 devid)
{
    struct devctl c = {.u.remove = {type, (u16)backend, (u16)domid, devid}};
    return devctl(&c, DEVCTL_remove, domid);
}

bool xc_devctl_present(void)
{
    struct devctl c = {0};
    return devctl(&c, DEVCTL_get, DOMID_SELF) == 0;
}
