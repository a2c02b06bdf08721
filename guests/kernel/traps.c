/* Exceptions: the trap table, the dispatcher, probes (a trap that a test expects), the report of one that nobody expects. */
#include "kernel.h"

trap_handler trap_handlers[260];
extern struct probe *probe_current;
extern u64 probe_rsp;
static struct trap_info table[32];

void traps_init(void)
{
    u32 n = 0;
    for (const u64 *e = trap_entries; e[1]; e += 2, n++) {
        u8 dpl = e[0] == 3 || e[0] == 4 || e[0] == 128 ? 3 : 0; /* int3, into and int 0x80 may be used in user mode too */
        table[n] = (struct trap_info){(u8)e[0], dpl, FLAT_RING3_CS64, e[1]};
    }
    if (hypercall_set_trap_table(table))
        panic("set_trap_table failed");
}

static void report(const struct frame *f)
{
    printf("trap %lu error %lx rip %lx cs %lx rflags %lx rsp %lx ss %lx cr2 %lx\n", f->vector, f->error, f->rip, f->cs, f->rflags,
           f->rsp, f->ss,
           shared_info->vcpu_info[0].cr2);
    printf("rax %lx rbx %lx rcx %lx rdx %lx rsi %lx rdi %lx rbp %lx\n", f->rax, f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp);
    panic("nobody expected this trap");
}

/* Called by entry.S for everything that enters the guest. */
void trap(struct frame *f)
{
    struct probe *p = probe_current;
    if (f->vector < COUNT(trap_handlers) && trap_handlers[f->vector]) {
        trap_handlers[f->vector](f);
        return;
    }
    if (!p)
        report(f);
    p->vector = (s64)f->vector;
    p->frame = *f;
    p->at = (u64)f;
    p->cr2 = shared_info->vcpu_info[0].cr2;
    p->mask = shared_info->vcpu_info[0].evtchn_upcall_mask;
    f->rip = (u64)probe_resume;
    f->rsp = probe_rsp;
    f->cs = FLAT_RING3_CS64 & ~3UL; /* RPL 0 means kernel mode to Xen */
    f->ss = FLAT_RING3_SS64;
    f->rflags &= ~0x10100UL;        /* RF and TF */
}

void probe(struct probe *p, const void *code)
{
    p->code = code;
    p->vector = -1;
    probe_run(p);
}

s64 try_read(u64 va, u64 *value)
{
    struct probe p = {.rdi = va};
    probe(&p, probe_load);
    *value = p.rax;
    return p.vector;
}

s64 try_write(u64 va, u64 value)
{
    struct probe p = {.rdi = va, .rax = value};
    probe(&p, probe_store);
    return p.vector;
}
