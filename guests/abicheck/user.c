/* User mode: a second address space, entered by iret, left by system calls and faults. */
#include "check.h"

#define CODE (USER_AREA)
#define DATA (USER_AREA + 0x1000)
#define STACK (USER_AREA + 0x3000)

/* What runs in user mode: position-independent, copied into the user page. */
extern const char user_code[], user_code_end[], user_syscall[], user_ud2[], user_load[], user_store[], user_int80[], user_int3[],
    user_cli[], user_cpuid[], user_rdmsr[],
    user_step[], user_fs[];
__asm__(".pushsection .rodata\n"
        "user_code:\n"
        "user_syscall: mov $0x1111, %ebx\n syscall\n"
        "user_ud2: ud2\n"
        "user_load: mov (%rdi), %rax\n ud2\n"
        "user_store: mov %rax, (%rdi)\n ud2\n"
        "user_int80: int $0x80\n"
        "user_int3: int3\n"
        "user_cli: cli\n"
        "user_cpuid: ud2\n .ascii \"xen\"\n cpuid\n ud2\n"
        "user_rdmsr: rdmsr\n"
        "user_step: nop\n nop\n"
        "user_fs: mov %gs:0, %rax\n ud2\n"
        "user_code_end:\n.popsection");

static u64 *user_top;
static u64 kernel_sp;
static struct frame left; /* how user mode was left last */
static u64 left_cr2, left_at;
static u8 left_mask;
static u64 back_rsp, back_rip;

static void come_back(struct frame *f)
{
    left = *f;
    left_cr2 = shared_info->vcpu_info[0].cr2;
    left_at = (u64)f;
    left_mask = shared_info->vcpu_info[0].evtchn_upcall_mask;
    f->rip = back_rip;
    f->rsp = back_rsp;
    f->cs = FLAT_RING3_CS64 & ~3UL;
    f->ss = FLAT_RING3_SS64;
    f->rflags = 0x202;
}

static void __attribute__((noinline)) enter(struct frame *f)
{
    /* the handler comes back to label 1 with this stack and unknown registers */
    __asm__ volatile("push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n"
                     "mov %%rsp, %0\n movq $1f, %1\n mov %2, %%rdi\n jmp frame_enter\n"
                     "1: pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n"
                     : "=m"(back_rsp), "=m"(back_rip)
                     : "r"(f)
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

static struct frame run(const char *code, u64 rdi, u64 rflags)
{
    struct frame f = {.rip = CODE + (u64)(code - user_code), .cs = FLAT_RING3_CS64, .rflags = rflags, .rsp = STACK,
                .ss = FLAT_RING3_SS64, .rdi = rdi, .rax = 0x40000000, .rcx = 0xc0000080};
    memset(&left, 0, sizeof left);
    enter(&f);
    return left;
}

static u64 entry_of(const void *page) { return va_to_mfn(page) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D; }

static void *tables[8];
static void *table(void) /* freed by close_space */
{
    for (u32 i = 0; i < COUNT(tables); i++)
        if (!tables[i])
            return tables[i] = page_alloc();
    panic("too many tables");
}

static void open_space(void)
{
    u64 *l4 = table(), *l3 = table(), *l2 = table(), *l1 = table();
    void *code = table(), *data = table(), *stack = table();
    memcpy(code, user_code, (u64)(user_code_end - user_code));
    l1[0] = va_to_mfn(code) << PAGE_SHIFT | PTE_P | PTE_U;
    l1[1] = entry_of(data);
    l1[2] = entry_of(stack);
    l1[3] = va_to_mfn(data) << PAGE_SHIFT | PTE_P | PTE_W; /* without U: the kernel's */
    l2[0] = entry_of(l1);
    l3[0] = entry_of(l2);
    l4[USER_AREA >> 39 & 511] = entry_of(l3);
    u64 *all[] = {l1, l2, l3, l4};
    for (u32 i = 0; i < COUNT(all); i++)
        protect(all[i], PTE_P | PTE_U);
    user_top = l4;
    struct mmuext_op ops[] = {{MMUEXT_PIN_L4_TABLE, va_to_mfn(l4), 0}, {MMUEXT_NEW_USER_BASEPTR, va_to_mfn(l4), 0}};
    answer("pin the user page tables", hypercall_mmuext_op(&ops[0], 1, NULL, DOMID_SELF), 0);
    answer("NEW_USER_BASEPTR", hypercall_mmuext_op(&ops[1], 1, NULL, DOMID_SELF), 0);
}

static void close_space(void)
{
    struct mmuext_op ops[] = {{MMUEXT_NEW_USER_BASEPTR, 0, 0}, {MMUEXT_UNPIN_TABLE, va_to_mfn(user_top), 0}};
    answer("unpin the user page tables while in use", hypercall_mmuext_op(&ops[1], 1, NULL, DOMID_SELF), 0);
    answer("NEW_USER_BASEPTR: none", hypercall_mmuext_op(&ops[0], 1, NULL, DOMID_SELF), 0);
    bool freed = true;
    for (u32 i = 0; i < COUNT(tables) && tables[i]; i++) {
        freed = freed && protect(tables[i], PTE_P | PTE_W | PTE_U) == 0;
        page_free(tables[i]);
        tables[i] = NULL;
    }
    check(freed, "the tables are ordinary pages again");
}

static void faults(void)
{
    struct frame f = run(user_load, 0x7f0000000000UL, 0x202);
    check(f.vector == 14 && f.error == 4, "page fault: not present, read, user: error code 4");
    equal("page fault: cr2", left_cr2, 0x7f0000000000UL);
    f = run(user_store, CODE, 0x202);
    check(f.vector == 14 && f.error == 7, "page fault: write to a read-only page: error code 7");
    f = run(user_store, DATA, 0x202);
    check(f.vector == 6, "a store to user data is allowed");
    f = run(user_load, DATA + 0x2000, 0x202);
    check(f.vector == 6, "a page asked for without U is user mode's all the same");
    f = run(user_load, KERNEL_BASE, 0x202);
    check(f.vector == 14 && f.error == 4, "page fault: kernel memory is not in the user page tables");
    f = run(user_load, M2P_TABLE, 0x202);
    check(f.vector == 14 && (f.error & 4), "page fault: the M2P is out of reach");
    f = run(user_load, 0x800000000000UL, 0x202);
    check(f.vector == 13 && f.error == 0, "non-canonical: #GP(0)");
    f = run(user_cli, 0, 0x202);
    check(f.vector == 13 && f.error == 0, "cli: #GP(0)");
    f = run(user_rdmsr, 0, 0x202);
    check(f.vector == 13 && f.error == 0, "rdmsr: #GP(0)");
    f = run(user_cpuid, 0, 0x202);
    check(f.vector == 6 && f.rbx == 0x566e6558, "forced cpuid works in user mode too");
    f = run(user_int80, 0, 0x202);
    check(f.vector == 128 && f.rip == CODE + (u64)(user_int80 - user_code) + 2, "int 0x80 with DPL 3");
    f = run(user_int3, 0, 0x202);
    check(f.vector == 3, "int3 with DPL 3");
    f = run(user_step, 0, 0x302);
    check(f.vector == 1 && f.rip == CODE + (u64)(user_step - user_code) + 1, "single step");
}

void check_user(void)
{
    static u8 stack[4096] aligned(16);
    kernel_sp = (u64)stack + sizeof stack;
    trap_handler saved[260];
    memcpy(saved, trap_handlers, sizeof saved);
    open_space();
    answer("stack_switch", hypercall_stack_switch(FLAT_RING3_SS64, kernel_sp), 0);
    static const u16 vectors[] = {1, 3, 6, 13, 14, 128, VECTOR_SYSCALL};
    for (u32 i = 0; i < COUNT(vectors); i++)
        trap_handlers[vectors[i]] = come_back;

    struct frame f = run(user_ud2, 0, 0x202);
    equal("iret to user mode and a trap back: vector", f.vector, 6);
    equal("cs has RPL 3", f.cs, FLAT_RING3_CS64);
    equal("ss", f.ss, FLAT_RING3_SS64);
    equal("rip", f.rip, CODE + (u64)(user_ud2 - user_code));
    equal("rsp is the user's", f.rsp, STACK);
    equal("rflags", f.rflags, 0x10202);
    equal("the frame lies below kernel_sp", left_at + sizeof(struct frame), kernel_sp);
    equal("the mask is as it was", left_mask, 0);
    f = run(user_syscall, 7, 0x202);
    equal("syscall goes to the callback", f.vector, VECTOR_SYSCALL);
    equal("syscall: rip is after it", f.rip, CODE + (u64)(user_ud2 - user_code));
    check(f.rcx == f.rip && f.r11 == f.rflags, "syscall: rcx is rip, r11 is rflags");
    check(f.rax == 0x40000000 && f.rbx == 0x1111 && f.rdi == 7, "syscall: the other registers are the user's");
    equal("syscall: frame below kernel_sp", left_at + sizeof(struct frame), kernel_sp);
    equal("syscall: cs has RPL 3", f.cs, FLAT_RING3_CS64);
    struct callback_register masking = {CALLBACKTYPE_syscall, 1, syscall_entry};
    hypercall_callback_op(CALLBACKOP_register, &masking);
    f = run(user_syscall, 7, 0x202);
    check(f.vector == VECTOR_SYSCALL && left_mask == 1 && f.cs == FLAT_RING3_CS64, "syscall: a callback that masks events");
    masking.flags = 0;
    hypercall_callback_op(CALLBACKOP_register, &masking);
    f = run(user_syscall, 7, 0x202);
    equal("syscall: and one that does not", left_mask, 0);
    faults();
    f = run(user_ud2, 0, 0x2);
    check(f.vector == 6 && left_mask == 1 && f.cs == (FLAT_RING3_CS64 | 1UL << 32), "iret with IF clear masks events in user mode");
    u64 word = 0x55;
    memcpy(tables[5], &word, 8);
    answer("set_segment_base: user gs", hypercall_set_segment_base(SEGBASE_GS_USER, DATA), 0);
    f = run(user_fs, 0, 0x202);
    check(f.vector == 6 && f.rax == 0x55, "user mode has the user's gs");
    answer("set_segment_base: user gs back", hypercall_set_segment_base(SEGBASE_GS_USER, 0), 0);
    f = run(user_syscall, 0, 0x202);
    equal("a second way back still works", f.vector, VECTOR_SYSCALL);

    memcpy(trap_handlers, saved, sizeof saved);
    hypercall_stack_switch(FLAT_RING3_SS64, (u64)boot_stack_end);
    close_space();
}
