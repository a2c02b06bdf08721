/* crash: one way to be ended by Xen a run, chosen on the command line: `crash way=NAME`. `list` names them.
 *
 * Each of them is the guest's own fault, and Xen's answer is to crash the domain: there is nowhere to deliver a trap to, or what
 * the guest asked to return to does not exist. `panic` ends by SHUTDOWN_crash, `reboot` by SHUTDOWN_reboot, `hang` never does anything
 * again, `loop` runs for ever.
 */
#include "kernel.h"

static void no_handler(void)
{
    struct trap_info none[] = {{0}};
    hypercall_set_trap_table(none); /* leaves the table as it is */
    hypercall_set_trap_table(NULL); /* empties it */
    __asm__ volatile("ud2");
}

static void handler_nowhere(void)
{
    struct trap_info table[] = {{6, 0, FLAT_RING3_CS64, 0x7f0000000000UL}, {14, 0, FLAT_RING3_CS64, 0x7f0000000000UL}, {0}};
    hypercall_set_trap_table(table);
    __asm__ volatile("ud2");
}

static void stack_unmapped(void) { __asm__ volatile("mov $0x7f0000000000, %rsp\n ud2"); }
static void stack_in_xen(void) { __asm__ volatile("mov $0xffff800000002000, %rsp\n ud2"); }
static void user_without_tables(void)
{
    __asm__ volatile("push $0xe02b\n push %rsp\n push $0x202\n push $0xe033\n push $0x100000\n push $0\n jmp hypercall_page + 23 * 32");
}
static void iret_bad_stack(void) { __asm__ volatile("mov $0x7f0000000000, %rsp\n mov $23, %eax\n syscall"); }
static void wild_jump(void) { ((void (*)(void))0x7f0000000000UL)(); }
static void wild_write(void) { *(volatile u64 *)0x7f0000000000UL = 1; }
static void null_call(void) { ((void (*)(void))8)(); }
static void hypercall_page_gone(void)
{
    hypercall_update_va_mapping((u64)hypercall_page, 0, UVMF_INVLPG);
}
static void own_code_gone(void)
{
    hypercall_update_va_mapping(upcall_entry & ~0xfffUL, 0, UVMF_INVLPG); /* the trap handlers first */
    hypercall_update_va_mapping((u64)own_code_gone & ~0xfffUL, 0, UVMF_INVLPG);
}
static void do_panic(void) { panic("as asked for"); }
static void do_reboot(void) { shutdown(SHUTDOWN_reboot); }
static void hang(void)
{
    hypercall_set_timer_op(0);
    for (;;) {
        events_mask();
        hypercall_sched_op(SCHEDOP_block, NULL);
    }
}
static void loop(void)
{
    for (;;)
        barrier();
}

static const struct { const char *name; void (*run)(void); } ways[] = {
    {"no-handler", no_handler}, {"handler-nowhere", handler_nowhere}, {"stack-unmapped", stack_unmapped}, {"stack-in-xen", stack_in_xen},
    {"user-without-tables", user_without_tables}, {"iret-bad-stack", iret_bad_stack}, {"wild-jump", wild_jump}, {"wild-write", wild_write},
    {"null-call", null_call}, {"hypercall-page-gone", hypercall_page_gone}, {"own-code-gone", own_code_gone}, {"panic", do_panic},
        {"reboot", do_reboot},
    {"hang", hang}, {"loop", loop},
};

void main(void)
{
    char way[32] = "";
    option("way", way, sizeof way);
    for (u32 i = 0; i < COUNT(ways); i++) {
        if (option("list", NULL, 0))
            printf("%s\n", ways[i].name);
        else if (!strcmp(way, ways[i].name)) {
            printf("crash: %s\n", way);
            console_flush();
            ways[i].run();
            printf("crash: it did not\n");
            return;
        }
    }
    if (!option("list", NULL, 0))
        printf("crash: way=NAME, please; `list` names them\n");
}
