/* measure: what the hypervisor's own work costs. As dom0 of a machine whose time stamp counter counts instructions, it says for
 * every kind of work what lies between two looks at the counter: "cost NAME N COUNT RESULT", N being how much of it was asked for.
 * The guest's own instructions are in it; run where the hypervisor takes no time, it says how many they are.
 */
#include "measure.h"

enum { ROUNDS = 5 };
u64 *slots, slots_machine;
void *pages[64];

u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

void measure(const struct measured *m, u64 n)
{
    u64 least = ~0UL;
    s64 result = 0;
    for (u32 i = 0; i < ROUNDS; i++) {
        if (m->ready)
            m->ready(n);
        u64 start = tsc();
        s64 rc = m->run(n);
        u64 end = tsc();
        if (m->done)
            m->done(n);
        if (end - start < least)
            least = end - start;
        if (rc < 0)
            result = rc;
    }
    printf("cost %s %lu %lu %ld\n", m->name, n, least, result);
}

void measure_once(const char *name, s64 (*run)(u64 n))
{
    u64 start = tsc();
    s64 rc = run(0);
    u64 end = tsc();
    printf("cost %s 0 %lu %ld\n", name, end - start, rc < 0 ? rc : 0);
}

static s64 nothing(u64 n) { (void)n; return 0; }
static s64 copy(u64 n) { memcpy(pages[0], pages[1], n); return 0; }

void main(void)
{
    if (!is_dom0())
        panic("this is a dom0's kernel");
    char extra[16] = "";
    s64 version = hypercall_xen_version(XENVER_version, NULL);
    hypercall_xen_version(XENVER_extraversion, extra);
    printf("xen %ld.%ld%s\n", version >> 16, version & 0xffff, extra);
    for (u32 i = 0; i < COUNT(pages); i++)
        pages[i] = page_alloc();
    if (map_tables(SCRATCH_AREA))
        panic("no tables");
    slots = pte_slot(SCRATCH_AREA, 1);
    slots_machine = va_to_machine(slots);
    MEASURE("nothing", 0, NULL, nothing, NULL);
    MEASURE("memcpy", 8, NULL, copy, NULL);
    MEASURE("memcpy", 4096, NULL, copy, NULL);
    measure_calls();
    measure_events();
    measure_mmu();
    measure_grants();
    measure_traps();
    measure_domains();
    measure_more();
    measure_fifo();
    printf("measured\n");
}
