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
    MEASURE("vcpu_op.register_runstate_memory_area", VCPUOP_register_runstate_memory_area, area, vcpu, NULL);
    MEASURE("vcpu_op.register_vcpu_time_memory_area", VCPUOP_register_vcpu_time_memory_area, area, vcpu, NULL);
}
