/* The smallest domain that takes part: six pages, one vCPU that sleeps, wakes for an event and answers it. */
#include "ctl.h"
#include "measure.h"

enum { L4, L3, L2, L1, CODE, STACK, USED };
#define BASE 0x100000UL
#define ADDRESS(page) (BASE + (page) * PAGE_SIZE)
#define SHARED USED /* shared_info's place in the address space */
extern const char small_start[], small_upcall[], small_port[], small_end_of_code[];
volatile u64 answers;

/* At the start: no periodic timer, as any kernel does (VCPUOP_stop_periodic_timer); then block for ever. The upcall clears what is pending, answers and returns by the iret hypercall. */
__asm__(".pushsection .rodata\n"
        ".balign 8\n"
        ".globl small_start, small_upcall, small_port, small_end_of_code\n"
        "small_start: mov $24, %eax\n mov $7, %edi\n xor %esi, %esi\n xor %edx, %edx\n syscall\n"
        "1: mov $29, %eax\n mov $1, %edi\n xor %esi, %esi\n syscall\n jmp 1b\n"
        "small_upcall:\n"
        "movb $0, 0x106000\n movq $0, 0x106008\n movq $0, 0x106800\n"
        "mov $32, %eax\n mov $4, %edi\n lea small_port(%rip), %rsi\n syscall\n"
        "pop %rcx\n pop %r11\n push $0\n push %rcx\n push %r11\n push %rax\n mov $23, %eax\n syscall\n"
        ".balign 4\n"
        "small_port: .long 0\n"
        "small_end_of_code:\n"
        ".popsection");
_Static_assert(offsetof(struct shared_info, evtchn_pending) == 0x800, "as in the code above");

s64 ctl(struct domctl *c, u32 cmd, u32 domid)
{
    c->cmd = cmd;
    c->interface_version = CTL_VERSION;
    c->domain = (u16)domid;
    return hypercall_domctl(c);
}

static void must(s64 rc, const char *what)
{
    if (rc < 0)
        panic("%s: %ld", what, rc);
}

s64 foreign_map(u64 va, u64 mfn, u32 domid)
{
    struct mmu_update u = {slots_machine + (va - SCRATCH_AREA) / PAGE_SIZE * 8, mfn ? mfn << PAGE_SHIFT | PTE_P | PTE_W | PTE_U : 0};
    s64 rc = hypercall_mmu_update(&u, 1, NULL, mfn ? domid : DOMID_SELF);
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    hypercall_mmuext_op(&flush, 1, NULL, DOMID_SELF);
    return rc;
}

void small_settle(void) { sleep_until(now() + 10000000); }

static void answered(u32 port, void *arg) { (void)port, (void)arg; answers++; }

s64 until_answered(u64 before)
{
    for (;;) {
        events_mask();
        if (answers != before)
            break;
        hypercall_sched_op(SCHEDOP_block, NULL);
    }
    events_unmask();
    return 0;
}

void small_create(struct small *s)
{
    struct domctl c = {.u.create = {.max_vcpus = 1, .max_evtchn_port = 1023, .max_grant_frames = 64, .max_maptrack_frames = 1024, .grant_opts = 2}};
    must(ctl(&c, DOMCTL_createdomain, 0), "createdomain");
    *s = (struct small){.domid = c.domain};
}

void small_prepare(struct small *s)
{
    struct domctl c = {0};
    small_create(s);
    c.u.max_vcpus.max = 1;
    must(ctl(&c, DOMCTL_max_vcpus, s->domid), "max_vcpus");
    c.u.max_mem.kib = 16384;
    must(ctl(&c, DOMCTL_max_mem, s->domid), "max_mem");
    c.u.address_size.bits = 64;
    must(ctl(&c, DOMCTL_set_address_size, s->domid), "set_address_size");
    must(ctl(&c, DOMCTL_getdomaininfo, s->domid), "getdomaininfo");
    s->shared_info = c.u.info.shared_info_frame;
    for (u64 i = 0; i < SMALL_PAGES; i++)
        s->frames[i] = i;
    struct memory_reservation r = {s->frames, SMALL_PAGES, 0, 0, (u16)s->domid};
    must(hypercall_memory_op(XENMEM_populate_physmap, &r) == SMALL_PAGES ? 0 : -ENOMEM, "populate_physmap");
    struct evtchn_alloc_unbound a = {(u16)s->domid, 0, 0};
    must(hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &a), "alloc_unbound");
    s->remote = a.port;
    struct evtchn_bind_interdomain b = {(u16)s->domid, s->remote, 0};
    must(hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &b), "bind_interdomain");
    s->local = b.local_port;
    event_bind(s->local, answered, NULL);
    clear_bit(shared_info->evtchn_pending, s->local); /* a fresh binding begins with an event */

    u64 *at[USED];
    for (u64 i = 0; i < USED; i++) {
        at[i] = (u64 *)(SCRATCH_AREA + i * PAGE_SIZE);
        must(foreign_map((u64)at[i], s->frames[i], s->domid), "mmu_update");
        memset(at[i], 0, PAGE_SIZE);
    }
    at[L4][0] = s->frames[L3] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    at[L3][0] = s->frames[L2] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    at[L2][0] = s->frames[L1] << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    for (u64 i = 0; i < USED; i++)
        at[L1][BASE / PAGE_SIZE + i] = s->frames[i] << PAGE_SHIFT | PTE_P | PTE_U | (i > L1 ? PTE_W : 0);
    at[L1][BASE / PAGE_SIZE + SHARED] = s->shared_info << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    memcpy(at[CODE], small_start, (u64)(small_end_of_code - small_start));
    *(u32 *)((char *)at[CODE] + (small_port - small_start)) = s->remote;
    for (u64 i = 0; i < USED; i++)
        foreign_map((u64)at[i], 0, 0);
}

s64 small_pin(struct small *s)
{
    struct mmuext_op o = {MMUEXT_PIN_L4_TABLE, s->frames[L4], 0};
    return hypercall_mmuext_op(&o, 1, NULL, s->domid);
}

static struct vcpu_guest_context g;

void small_registers(struct small *s)
{
    memset(&g, 0, sizeof g);
    g.flags = VGCF_in_kernel | VGCF_online;
    g.user_regs.rip = ADDRESS(CODE);
    g.user_regs.rsp = g.kernel_sp = ADDRESS(STACK + 1);
    g.user_regs.rflags = 0x200;
    g.user_regs.cs = FLAT_RING3_CS64;
    g.user_regs.ss = g.kernel_ss = FLAT_RING3_SS64;
    g.ctrlreg[3] = s->frames[L4] << PAGE_SHIFT;
    g.event_callback_eip = ADDRESS(CODE) + (u64)(small_upcall - small_start);
}

s64 small_context(struct small *s)
{
    struct domctl c = {.u.context = {0, &g}};
    return ctl(&c, DOMCTL_setvcpucontext, s->domid);
}

s64 small_control(struct small *s, u32 cmd)
{
    struct domctl c = {0};
    return ctl(&c, cmd, s->domid);
}

void small_make(struct small *s)
{
    small_prepare(s);
    must(small_pin(s), "pin");
    small_registers(s);
    must(small_context(s), "setvcpucontext");
    must(small_control(s, DOMCTL_unpausedomain), "unpausedomain");
    small_settle(); /* it goes to sleep */
}

void small_end(struct small *s)
{
    if (s->local) {
        event_close(s->local);
        s->local = 0;
    }
    must(small_control(s, DOMCTL_destroydomain), "destroydomain");
    small_settle();
}
