/* What a toolstack asks for: domains, their memory, and then the way from one domain to another and back. */
#include "ctl.h"
#include "measure.h"

static struct small d;
static u64 frames[1024];
static struct domctl c;
static u8 context_buffer[8192] aligned(4096);

static void created(u64 n) { (void)n; small_create(&d); }
static void prepared(u64 n) { (void)n; small_prepare(&d); }
static void pinned(u64 n) { prepared(n); small_pin(&d); small_registers(&d); }
static void code_page(u64 n) { prepared(n); c = (struct domctl){.u.hypercall_init.gmfn = d.frames[4]}; }
static void complete(u64 n) { pinned(n); small_context(&d); }
static void gone(u64 n) { (void)n; small_end(&d); }
static void settle(u64 n) { (void)n; small_settle(); }
static s64 create(u64 n) { (void)n; small_create(&d); return 0; }
static s64 destroy(u64 n) { (void)n; return small_control(&d, DOMCTL_destroydomain); }
static s64 run_ctl(u64 n) { return ctl(&c, (u32)n, d.domid); }
static s64 pin(u64 n) { (void)n; return small_pin(&d); }
static s64 set_context(u64 n) { (void)n; return small_context(&d); }
static s64 unpause(u64 n) { (void)n; return small_control(&d, DOMCTL_unpausedomain); }
static void paused(u64 n) { (void)n; small_control(&d, DOMCTL_pausedomain); }
static void unpaused(u64 n) { (void)n; small_control(&d, DOMCTL_unpausedomain); }

static s64 info_list(u64 n)
{
    static struct ctl_domaininfo infos[4];
    struct sysctl s = {SYSCTL_getdomaininfolist, CTL_VERSION, {.infos = {0, (u32)n, infos, 0}}};
    s64 rc = hypercall_sysctl(&s);
    return rc ? rc : s.u.infos.num == n ? 0 : -1;
}
static s64 plain_sysctl(u64 n) { struct sysctl s = {(u32)n, CTL_VERSION, {{0}}}; return hypercall_sysctl(&s); }
static s64 idle(u64 n)
{
    u64 time;
    struct sysctl s = {(u32)n, CTL_VERSION, {.cpus = {1, &time, 0}}};
    return hypercall_sysctl(&s);
}

/* Memory: n pieces of 2^order pages for a domain of its own. */
static void roomy(u64 n)
{
    (void)n;
    small_create(&d);
    struct domctl m = {.u.max_mem.kib = 65536};
    ctl(&m, DOMCTL_max_mem, d.domid);
}
static s64 reserve(u32 cmd, u64 n, u32 order)
{
    struct memory_reservation r = {frames, n, order, 0, (u16)d.domid};
    s64 rc = hypercall_memory_op(cmd, &r);
    return rc == (s64)n ? 0 : rc < 0 ? rc : -1;
}
static void numbered(u64 n, u32 order)
{
    roomy(n);
    for (u64 i = 0; i < n; i++)
        frames[i] = i << order;
}
static void singles(u64 n) { numbered(n, 0); }
static void larges(u64 n) { numbered(n, 9); }
static s64 populate(u64 n) { return reserve(XENMEM_populate_physmap, n, 0); }
static s64 populate_large(u64 n) { return reserve(XENMEM_populate_physmap, n, 9); }
static void populated(u64 n) { singles(n); populate(n); }
static s64 decrease(u64 n) { return reserve(XENMEM_decrease_reservation, n, 0); }
static s64 claim(u64 n) { struct memory_reservation r = {NULL, n, 0, 0, (u16)d.domid}; return hypercall_memory_op(XENMEM_claim_pages, &r); }
static void full(u64 n) { singles(n); populate(n); }

/* Foreign mappings, as the domain builder makes them. */
static struct mmu_update updates[512];
static void foreign_ready(u64 n)
{
    populated(n);
    for (u64 i = 0; i < n; i++)
        updates[i] = (struct mmu_update){slots_machine + 8 * i, frames[i] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U};
}
static s64 foreign(u64 n) { return hypercall_mmu_update(updates, (u32)n, NULL, d.domid); }
static s64 foreign_clear(u64 n) { return hypercall_mmu_update(updates, (u32)n, NULL, DOMID_SELF); }
static void cleared(u64 n)
{
    for (u64 i = 0; i < n; i++)
        updates[i].val = 0;
}
static void foreign_done(u64 n) { cleared(n); foreign_clear(n); gone(n); }
static void foreign_mapped(u64 n) { foreign_ready(n); foreign(n); cleared(n); }

/* A table of its own, with n pages of its own that nobody has mapped yet; and the same when it was a table before. */
static void table_ready(u64 n)
{
    u64 *table = (u64 *)SCRATCH_AREA;
    populated(n + 1);
    foreign_map(SCRATCH_AREA, frames[n], d.domid);
    memset(table, 0, PAGE_SIZE);
    for (u64 i = 0; i < n; i++)
        table[i] = frames[i] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    foreign_map(SCRATCH_AREA, 0, 0);
}
static s64 table_op(u32 cmd, u64 n)
{
    struct mmuext_op o = {cmd, frames[n], 0};
    return hypercall_mmuext_op(&o, 1, NULL, d.domid);
}
static s64 table_pin(u64 n) { return table_op(MMUEXT_PIN_L1_TABLE, n); }
static s64 table_unpin(u64 n) { return table_op(MMUEXT_UNPIN_TABLE, n); }
static void table_pinned(u64 n) { table_ready(n); table_pin(n); }
static void table_again(u64 n) { table_pinned(n); table_unpin(n); }

/* The sleeping domain. */
static s64 ask(u64 n) { (void)n; return hypercall_event_channel_op(EVTCHNOP_send, &(struct evtchn_port){d.local}); }
static u64 before;
static void remember(u64 n) { (void)n; before = answers; }
static void wait(u64 n) { (void)n; until_answered(before); }
static s64 ping(u64 n)
{
    for (u64 i = 0; i < n; i++) {
        u64 seen = answers;
        ask(0);
        until_answered(seen);
    }
    return 0;
}

static void of(const char *name, u32 cmd, void (*ready)(u64), struct domctl argument)
{
    c = argument;
    MEASURE(name, cmd, ready, run_ctl, gone);
}

void measure_domains(void)
{
    static const u64 some[] = {1, 8, 64, 511};
    u64 cpus = 1;
    MEASURE("memory_op.populate_physmap.large", 1, larges, populate_large, gone); /* while there are pages that nobody had before */
    MEASURE("domctl.createdomain", 0, NULL, create, gone);
    MEASURE("domctl.destroydomain", 0, created, destroy, settle);
    of("domctl.max_vcpus", DOMCTL_max_vcpus, created, (struct domctl){.u.max_vcpus.max = 1});
    of("domctl.max_mem", DOMCTL_max_mem, created, (struct domctl){.u.max_mem.kib = 65536});
    of("domctl.set_address_size", DOMCTL_set_address_size, created, (struct domctl){.u.address_size.bits = 64});
    of("domctl.getdomaininfo", DOMCTL_getdomaininfo, created, (struct domctl){0});
    of("domctl.settscinfo", DOMCTL_settscinfo, prepared, (struct domctl){0});
    of("domctl.setvcpuaffinity", DOMCTL_setvcpuaffinity, prepared,
       (struct domctl){.u.affinity = {0, 1, {&cpus, 64}, {&cpus, 64}}});
    MEASURE("domctl.hypercall_init", DOMCTL_hypercall_init, code_page, run_ctl, gone);
    MEASURE("small.pin", 0, prepared, pin, gone);
    MEASURE("domctl.setvcpucontext", 0, pinned, set_context, gone);
    of("domctl.getvcpucontext", DOMCTL_getvcpucontext, complete, (struct domctl){.u.context = {0, context_buffer}});
    MEASURE("domctl.unpausedomain", 0, complete, unpause, gone);
    MEASURE("sysctl.physinfo", SYSCTL_physinfo, NULL, plain_sysctl, NULL);
    MEASURE("sysctl.getcpuinfo", SYSCTL_getcpuinfo, NULL, idle, NULL);
    MEASURE("sysctl.getdomaininfolist", 1, NULL, info_list, NULL);
    small_make(&d);
    MEASURE("sysctl.getdomaininfolist", 2, NULL, info_list, NULL);
    c = (struct domctl){0};
    MEASURE("domctl.pausedomain", DOMCTL_pausedomain, NULL, run_ctl, unpaused);
    MEASURE("domctl.unpausedomain.asleep", DOMCTL_unpausedomain, paused, run_ctl, NULL);
    MEASURE("event_channel_op.send.wake", 0, remember, ask, wait);
    MEASURE("ping", 1, NULL, ping, NULL);
    MEASURE("ping", 16, NULL, ping, NULL);
    MEASURE("ping", 64, NULL, ping, NULL);
    small_end(&d);
    for (u32 i = 0; i < COUNT(some); i++) {
        MEASURE("memory_op.populate_physmap", some[i], singles, populate, gone);
        MEASURE("memory_op.decrease_reservation", some[i], populated, decrease, gone);
        MEASURE("mmu_update.foreign", some[i], foreign_ready, foreign, foreign_done);
        MEASURE("mmu_update.foreign_clear", some[i], foreign_mapped, foreign_clear, gone);
        MEASURE("pin.l1.fresh", some[i], table_ready, table_pin, gone);
        MEASURE("pin.l1.again", some[i], table_again, table_pin, gone);
        MEASURE("unpin.l1.own", some[i], table_pinned, table_unpin, gone);
        MEASURE("domctl.destroydomain.pages", some[i], full, destroy, settle);
    }
    MEASURE("memory_op.claim_pages", 16, roomy, claim, gone);
}
