/* What is asked for now and then. The last: some of it stays registered. */
#include "ctl.h"
#include "measure.h"

static struct small d;
static struct domctl c;
static u8 buffer[4096] aligned(4096);
static u64 frames[64];
static u32 refs[2];
#define CALL(identifier, expression) static s64 identifier(u64 n) { (void)n; return expression; }

static void created(u64 n) { (void)n; small_create(&d); }
static void prepared(u64 n) { (void)n; small_prepare(&d); }
static void running(u64 n) { (void)n; small_make(&d); }
static void gone(u64 n) { (void)n; small_end(&d); }
static s64 run_ctl(u64 n) { return ctl(&c, (u32)n, d.domid); }
static void of(const char *name, u32 cmd, struct domctl argument)
{
    c = argument;
    MEASURE(name, cmd, prepared, run_ctl, gone);
}
static s64 run_sysctl(u64 n)
{
    struct sysctl s = {(u32)n, CTL_VERSION, {.room = {0}}};
    return hypercall_sysctl(&s);
}
static void roomy(u64 n)
{
    struct domctl m = {.u.max_mem.kib = 16384};
    created(n);
    ctl(&m, DOMCTL_max_mem, d.domid);
}
static s64 increase(u64 n)
{
    struct memory_reservation r = {frames, n, 0, 0, (u16)d.domid};
    return hypercall_memory_op(XENMEM_increase_reservation, &r) == (s64)n ? 0 : -1;
}
static s64 memory_map(u64 n)
{
    struct memory_map m = {64, buffer};
    return hypercall_memory_op(n, &m);
}
static s64 mfn_list(u64 n)
{
    struct machphys_mfn_list l = {(u32)n, frames, 0};
    return hypercall_memory_op(XENMEM_machphys_mfn_list, &l);
}
CALL(sharing, hypercall_memory_op(XENMEM_get_sharing_freed_pages, NULL))
static s64 remote_shutdown(u64 n)
{
    struct sched_remote_shutdown s = {(u16)d.domid, SHUTDOWN_poweroff};
    (void)n;
    return hypercall_sched_op(SCHEDOP_remote_shutdown, &s);
}
CALL(shutdown_code, hypercall_sched_op(SCHEDOP_shutdown_code, &(u32){SHUTDOWN_poweroff}))
CALL(old_yield, hypercall(6, SCHEDOP_yield, 0, 0, 0, 0))
CALL(set_callbacks, hypercall(4, upcall_entry, failsafe_entry, syscall_entry, 0, 0))
CALL(unregister, hypercall_callback_op(CALLBACKOP_unregister, &(struct callback_unregister){CALLBACKTYPE_nmi}))
CALL(nmi_register, hypercall_nmi_op(0, &(u64){syscall_entry}))
CALL(nmi_unregister, hypercall_nmi_op(1, NULL))
CALL(other_domain, hypercall_update_va_mapping_otherdomain(SCRATCH_AREA, frames[0] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U, UVMF_INVLPG, d.domid))
static void one_frame(u64 n) { roomy(n); increase(1); }
static void one_back(u64 n) { unmap(SCRATCH_AREA); gone(n); }
static void two(u64 n)
{
    (void)n;
    for (u32 i = 0; i < COUNT(refs); i++)
        refs[i] = grant_access(0, va_to_mfn(pages[i]), false);
}
static void none(u64 n)
{
    (void)n;
    for (u32 i = 0; i < COUNT(refs); i++)
        grant_end(refs[i]);
}
static s64 swap(u64 n)
{
    struct { u32 a, b; short status; } s = {refs[0], refs[1], 0};
    s64 rc = hypercall_grant_table_op(GNTTABOP_swap_grant_ref, &s, n);
    return rc ? rc : s.status;
}
/* What xl sets of a domain besides. */
static s64 set_memory_map(u64 n)
{
    struct { u64 address, size; u32 type; } __attribute__((packed)) entry = {0, 64 << 20, 1};
    struct { u16 domid; struct memory_map map; } m = {(u16)d.domid, {(u32)n, &entry}};
    return hypercall_memory_op(XENMEM_set_memory_map, &m);
}
static s64 numa(u64 n)
{
    u64 nodes[2];
    u32 distance;
    struct sysctl s = {SYSCTL_numainfo, CTL_VERSION, {.numa = {(u32)n, n ? nodes : NULL, n ? &distance : NULL}}};
    s64 rc = hypercall_sysctl(&s);
    return rc ? rc : s.u.numa.nodes;
}
static s64 pool(u32 op)
{
    u64 cpus;
    struct sysctl s = {SYSCTL_cpupool_op, CTL_VERSION, {.pool = {.op = op, .domid = d.domid, .cpus = {&cpus, 64}}}};
    return hypercall_sysctl(&s);
}
static s64 pool_info(u64 n) { (void)n; return pool(3); }
static s64 pool_move(u64 n) { (void)n; return pool(6); }
static s64 get_policy(u64 n)
{
    (void)n;
    struct sysctl s = {SYSCTL_get_cpu_policy, CTL_VERSION, {.policy = {4, sizeof buffer / 24, 0, 0, buffer, NULL}}};
    s64 rc = hypercall_sysctl(&s);
    return rc ? rc : (s64)(s.u.policy.nr_leaves << 8 | s.u.policy.nr_msrs);
}
/* No cost but what is in it, as a number below 0: results are compared between the two machines. */
static s64 sum_policy(u64 n)
{
    struct sysctl most = {SYSCTL_get_cpu_policy, CTL_VERSION, {.policy = {4, 0, 0, 0, NULL, NULL}}};
    u32 sum = (u32)n ^ (u32)hypercall_sysctl(&most) ^ most.u.policy.nr_leaves << 8 ^ most.u.policy.nr_msrs;
    s64 leaves = get_policy(0) >> 8;
    for (s64 i = 0; i < leaves * 6; i++)
        sum = (sum ^ ((u32 *)buffer)[i]) * 16777619U;
    return -(s64)sum;
}
static s64 set_policy(u64 n)
{
    c = (struct domctl){.u.policy = {(u32)n, 0, buffer, NULL, 0, 0, 0}};
    return ctl(&c, DOMCTL_set_cpu_policy, d.domid);
}
static void policy_ready(u64 n) { prepared(n); get_policy(0); }

/* No costs either: what Xen refuses, and where it says that it was. */
static s64 bad_leaf(u32 leaf, u32 subleaf, u32 a)
{
    u32 words[] = {leaf, subleaf, a, 0, 0, 0};
    struct domctl p = {.u.policy = {.nr_leaves = 1, .leaves = words, .err_leaf = 7, .err_subleaf = 7, .err_msr = 7}};
    s64 rc = ctl(&p, DOMCTL_set_cpu_policy, d.domid);
    return rc * 0x10000 - (p.u.policy.err_leaf & 0xff) * 0x100 - (p.u.policy.err_subleaf & 0xf) * 0x10 - (p.u.policy.err_msr & 0xf);
}
static s64 bad_policy(u32 index, u32 room, u32 reserved)
{
    struct sysctl s = {SYSCTL_get_cpu_policy, CTL_VERSION, {.policy = {index, room, 0, reserved, buffer, NULL}}};
    return hypercall_sysctl(&s);
}
static s64 bad_pool(u32 op, u32 number, u32 domid)
{
    struct sysctl s = {SYSCTL_cpupool_op, CTL_VERSION, {.pool = {.op = op, .pool = number, .domid = domid}}};
    return hypercall_sysctl(&s);
}
static s64 bad_map(u32 domid, u32 entries, void *at)
{
    struct { u16 domid; struct memory_map map; } m = {(u16)domid, {entries, at}};
    return hypercall_memory_op(XENMEM_set_memory_map, &m);
}
static s64 bad_scheduler(u32 id, u32 cmd, u32 weight)
{
    struct domctl s = {.u.scheduler = {id, cmd, (u16)weight, 0}};
    s64 rc = ctl(&s, DOMCTL_scheduler_op, d.domid);
    return rc * 0x10000 - s.u.scheduler.weight;
}
static s64 mistake(u64 n)
{
    switch (n) {
    case 0: return bad_leaf(0x20, ~0U, 0);
    case 1: return bad_leaf(1, 0, 0);
    case 2: return bad_leaf(0, ~0U, 0x20);
    case 3: return bad_leaf(7, 0, 9);
    case 4: return bad_leaf(7, 3, 0);
    case 5: return bad_leaf(0x80000022, ~0U, 0);
    case 6: return bad_leaf(0x40000000, ~0U, 2);
    case 7: return set_policy(121);
    case 8: return bad_policy(6, 120, 0);
    case 9: return bad_policy(4, 1, 0);
    case 10: return bad_policy(4, 120, 1);
    case 11: return bad_pool(6, 1, d.domid);
    case 12: return bad_pool(6, 0, 999);
    case 13: return bad_pool(6, 0, 0);
    case 14: return bad_pool(3, 1, 0);
    case 15: return bad_map(999, 1, buffer);
    case 16: return bad_map(d.domid, 1025, buffer);
    case 17: return bad_map(d.domid, 1, (void *)0x800000000000UL);
    case 18: return bad_scheduler(5, 1, 0);
    case 19: return bad_scheduler(6, 7, 0);
    case 20: return bad_scheduler(6, 0, 0);
    case 21: return bad_scheduler(6, 1, 0);
    }
    small_control(&d, DOMCTL_unpausedomain);
    return set_policy(1);
}
enum { MISTAKES = 23 };
static s64 priority(u64 n)
{
    struct { u32 port, priority; } p = {1, 7};
    (void)n;
    return hypercall_event_channel_op(EVTCHNOP_set_priority, &p);
}
static s64 vcpu(u64 n) { return hypercall_vcpu_op(n, 0, buffer); }
static void area(u64 n) { (void)n; memset(buffer, 0, sizeof buffer); *(u64 *)buffer = (u64)buffer + 2048; }

void measure_more(void)
{
    of("domctl.getvcpuinfo", 14, (struct domctl){0});
    of("domctl.gettscinfo", 59, (struct domctl){0});
    of("domctl.get_address_size", 36, (struct domctl){0});
    of("domctl.setdomainhandle", 17, (struct domctl){0});
    of("domctl.settimeoffset", 24, (struct domctl){0});
    of("domctl.set_virq_handler", DOMCTL_set_virq_handler, (struct domctl){.u.virq.virq = VIRQ_DOM_EXC});
    MEASURE("sysctl.sched_id", 4, NULL, run_sysctl, NULL);
    MEASURE("sysctl.debug_keys", 7, NULL, run_sysctl, NULL);
    MEASURE("sysctl.availheap", 9, NULL, run_sysctl, NULL);
    MEASURE("memory_op.increase_reservation", 1, roomy, increase, gone);
    MEASURE("memory_op.increase_reservation", 8, roomy, increase, gone);
    MEASURE("memory_op.increase_reservation", 64, roomy, increase, gone);
    MEASURE("memory_op.memory_map", XENMEM_memory_map, NULL, memory_map, NULL);
    MEASURE("memory_op.machine_memory_map", XENMEM_machine_memory_map, NULL, memory_map, NULL);
    MEASURE("memory_op.machphys_mfn_list", 1, NULL, mfn_list, NULL);
    MEASURE("memory_op.get_sharing_freed_pages", 0, NULL, sharing, NULL);
    MEASURE("sched_op.remote_shutdown", 0, running, remote_shutdown, gone);
    MEASURE("sched_op.shutdown_code", 0, NULL, shutdown_code, NULL);
    MEASURE("sched_op_compat", 0, NULL, old_yield, NULL);
    MEASURE("set_callbacks", 0, NULL, set_callbacks, NULL);
    MEASURE("nmi_op.register_callback", 0, NULL, nmi_register, NULL);
    MEASURE("nmi_op.unregister_callback", 0, NULL, nmi_unregister, NULL);
    MEASURE("callback_op.unregister", 0, NULL, unregister, NULL);
    MEASURE("update_va_mapping_otherdomain", 0, one_frame, other_domain, one_back);
    MEASURE("grant_table_op.swap_grant_ref", 1, two, swap, none);
    MEASURE("event_channel_op.set_priority", 0, NULL, priority, NULL);
    of("domctl.scheduler_op", DOMCTL_scheduler_op, (struct domctl){.u.scheduler = {6, 1, 0, 0}});
    of("domctl.scheduler_op.putinfo", DOMCTL_scheduler_op, (struct domctl){.u.scheduler = {6, 0, 256, 0}});
    MEASURE("memory_op.set_memory_map", 1, prepared, set_memory_map, gone);
    MEASURE("sysctl.numainfo", 0, NULL, numa, NULL);
    MEASURE("sysctl.numainfo", 1, NULL, numa, NULL);
    MEASURE("sysctl.cpupool_op.info", 0, NULL, pool_info, NULL);
    MEASURE("sysctl.cpupool_op", 0, prepared, pool_move, gone);
    MEASURE("sysctl.get_cpu_policy", 0, NULL, get_policy, NULL);
    MEASURE("domctl.set_cpu_policy", 1, policy_ready, set_policy, gone);
    MEASURE("domctl.set_cpu_policy", 51, policy_ready, set_policy, gone);
    MEASURE("policy", 0, NULL, sum_policy, NULL);
    for (u64 i = 0; i < MISTAKES; i++)
        MEASURE("mistake", i, policy_ready, mistake, gone);
    MEASURE("vcpu_op.register_runstate_memory_area", VCPUOP_register_runstate_memory_area, area, vcpu, NULL);
    MEASURE("vcpu_op.register_vcpu_time_memory_area", VCPUOP_register_vcpu_time_memory_area, area, vcpu, NULL);
}
