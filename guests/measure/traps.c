/* What brings the guest into Xen without a hypercall: faults that it gets back, instructions that Xen does in its place. */
#include "measure.h"

#define CODE(name, text) \
    extern const char name[]; \
    __asm__(".pushsection .text.snippets,\"ax\"\n.globl " #name "\n" #name ":\n" text "\nret\n.popsection")

CODE(code_cpuid, ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2");
CODE(code_rdmsr, "rdmsr");
CODE(code_cr0, "mov %cr0, %rax");
CODE(code_cr3, "mov %cr3, %rax");
CODE(code_hlt, "hlt");
CODE(code_ud, "ud2");
CODE(code_none, "nop");
CODE(code_store, "mov %rax, (%rdi)");

/* To the next instruction, by way of the iret hypercall. */
CODE(code_iret, "mov %rsp, %rdx\n push $0xe02b\n push %rdx\n pushfq\n push $0xe030\n push $1f\n push $0\n jmp hypercall_page + 23 * 32\n1:");

static struct probe p;
static const void *code;
static s64 run(u64 n) { (void)n; probe(&p, code); return 0; }
static void registers(u64 n) { (void)n; p = (struct probe){.rax = 0x40000000, .rcx = 0xc0000100}; }
static void unmapped(u64 n) { (void)n; p = (struct probe){.rdi = SCRATCH_AREA}; }
static void entry(u64 n) { (void)n; p = (struct probe){.rdi = (u64)slots, .rax = 0}; }

static void one(const char *name, const void *what, void (*ready)(u64))
{
    code = what;
    MEASURE(name, 0, ready, run, NULL);
}

/* The timer rings while the guest counts: the largest gap between two looks at the counter, less the usual one. */
static void interrupt(void)
{
    u64 least = ~0UL;
    for (u32 round = 0; round < 5; round++) {
        u64 last, usual = ~0UL, gap = 0, end = now() + 200000;
        u32 ticks = timer_ticks();
        timer_at(end - 100000);
        last = tsc();
        for (bool rang = false; !rang;) {
            rang = timer_ticks() != ticks; /* the look that follows it is the last */
            u64 t = tsc();
            if (t - last > gap)
                gap = t - last;
            if (t - last < usual)
                usual = t - last;
            last = t;
        }
        if (gap - usual < least)
            least = gap - usual;
    }
    printf("cost interrupt 0 %lu 0\n", least);
}

void measure_traps(void)
{
    interrupt();
    one("probe", code_none, registers);
    one("iret", code_iret, registers);
    one("bounce.page_fault", probe_load, unmapped);
    one("bounce.general_protection", code_hlt, registers);
    one("bounce.invalid_opcode", code_ud, registers);
    one("emulated.cpuid", code_cpuid, registers);
    one("emulated.rdmsr", code_rdmsr, registers);
    one("emulated.cr0", code_cr0, registers);
    one("emulated.cr3", code_cr3, registers);
    one("emulated.page_table_store", code_store, entry);
}
