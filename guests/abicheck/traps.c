/* Exceptions as the guest kernel sees them: vector, error code, frame, selectors, the mask; and iret. */
#include "check.h"

SNIPPET(do_ud2, "ud2");
SNIPPET(do_int3, "int3\n.globl after_int3\nafter_int3:");
SNIPPET(do_int80, "int $0x80\n.globl after_int80\nafter_int80:");
SNIPPET(do_int21, "int $0x21");
SNIPPET(do_int0, "int $0");
SNIPPET(do_int14, "int $14");
SNIPPET(do_divide, "xor %edx, %edx\nmov $1, %eax\nxor %ecx, %ecx\ndiv %ecx");
SNIPPET(do_step, "pushf\norq $0x100, (%rsp)\npopf\nnop\n.globl after_step\nafter_step:\nnop");
SNIPPET(do_load_ds, "mov %edi, %ds");
SNIPPET(do_load_gs, "mov %edi, %gs");
SNIPPET(do_iretq_self, "mov %rsp, %rax\nmov $0xe02b, %ecx\npush %rcx\npush %rax\npushfq\nmov $0xe033, %ecx\npush %rcx\nlea 1f(%rip), %rcx\npush %rcx\niretq\n1:");
SNIPPET(do_iret_self, "mov %rsp, %rdx\nmov $0xe02b, %ecx\npush %rcx\npush %rdx\npushfq\nmov $0xe030, %ecx\npush %rcx\nlea 1f(%rip), %rcx\npush %rcx\npush %rdi\n"
                      "mov $0x1234, %eax\nmov $0x5678, %ecx\nmov $0x9abc, %r11d\njmp hypercall_page + 23 * 32\n1:");
SNIPPET(do_iret_to, "mov %rsp, %rdx\npush %rsi\npush %rdx\npush $0x202\npush %rdi\nlea 1f(%rip), %rcx\npush %rcx\npush $0\n"
                    "jmp hypercall_page + 23 * 32\n.globl iret_to_there\niret_to_there: 1:");
SNIPPET(do_flags, "pushf\nor %rdi, (%rsp)\npopf\nmov (%rsi), %rax");
SNIPPET(do_bad_opcode, ".byte 0x0f, 0xff");
SNIPPET(do_fninit, "fninit");
SNIPPET(do_far, "push %rdi\nlea 1f(%rip), %rax\npush %rax\nlretq\n1: pop %rax\npop %rax");
SNIPPET(do_fpu_divide, "fninit\nfldcw (%rdi)\nfld1\nfldz\nfdivrp\nfwait");

extern const char iret_to_there[], after_int3[], after_int80[], after_step[];
#define FLAGS 0x8d5UL /* arithmetic flags: as they happened to be */

static void fault(const char *name, const void *code, u64 rdi, s64 vector, u64 error)
{
    char what[96];
    struct probe p = {.rdi = rdi, .rsi = 0x7f0000000000UL};
    probe(&p, code);
    snprintf(what, sizeof what, "%s: vector", name);
    answer(what, p.vector, vector);
    if (p.vector != vector || vector < 0)
        return;
    snprintf(what, sizeof what, "%s: error code", name);
    equal(what, p.frame.error, error);
}

static void frames(void)
{
    struct probe p = {.rdi = 0x7f0000000000UL, .rcx = 0x1111, .r11 = 0x2222};
    probe(&p, probe_load);
    answer("page fault: vector", p.vector, 14);
    equal("page fault: not present, read, kernel: error code", p.frame.error, 0);
    equal("page fault: cr2 in vcpu_info", p.cr2, 0x7f0000000000UL);
    equal("page fault: rip", p.frame.rip, (u64)probe_load);
    equal("page fault: rcx and r11 come in the frame", p.frame.rcx << 16 | p.frame.r11, 0x11112222);
    equal("page fault: cs is 0xe030 with the mask in its upper half", p.frame.cs, 0xe030);
    equal("page fault: ss", p.frame.ss, FLAT_RING3_SS64);
    equal("page fault: rflags has IF and RF", p.frame.rflags & ~FLAGS, 0x10202);
    extern u64 probe_rsp;
    equal("page fault: rsp", p.frame.rsp, probe_rsp - 16);
    equal("page fault: the frame lies below the 16-aligned rsp", p.at + sizeof(struct frame), p.frame.rsp & ~15UL);
    equal("page fault: rflags in the handler", p.frame.entry_flags & ~FLAGS, 0x202);
    equal("page fault: the upcall mask stays 0", p.mask, 0);

    events_mask();
    probe(&p, probe_load);
    events_unmask();
    equal("page fault with events masked: cs", p.frame.cs, 0xe030 | 1UL << 32);
    equal("page fault with events masked: IF is clear", p.frame.rflags & ~FLAGS, 0x10002);
    equal("page fault with events masked: they stay so", p.mask, 1);

    p = (struct probe){.rdi = (u64)page_alloc(), .rax = 1};
    void *page = (void *)p.rdi;
    protect(page, PTE_P | PTE_U);
    probe(&p, probe_store);
    check(p.vector == 14 && p.frame.error == 3, "write to a read-only page: page fault, error code 3");
    protect(page, PTE_P | PTE_W | PTE_U | PTE_NX);
    p = (struct probe){.rdi = (u64)page};
    probe(&p, probe_jump);
    check(p.vector == 14 && p.frame.error == 0x11, "jump to a no-execute page: page fault, error code 0x11");
    protect(page, PTE_P | PTE_W | PTE_U);
    page_free(page);
    p = (struct probe){.rdi = 0xffff82d040000000UL};
    probe(&p, probe_load);
    check(p.vector == 14 && (p.frame.error & ~1UL) == 0, "read of Xen's memory: page fault, U clear");
    p = (struct probe){.rdi = M2P_TABLE};
    probe(&p, probe_store);
    check(p.vector == 14 && p.frame.error == 3, "write to the M2P: page fault, error code 3");
}

static u64 handled;
static void skip_ud2(struct frame *f)
{
    handled = shared_info->vcpu_info[0].evtchn_upcall_mask;
    f->rip += 2;
}

static void tables(void)
{
    struct trap_info one[2] = {{6, 4, FLAT_RING3_CS64, 0}, {0}};
    for (const u64 *e = trap_entries; e[1]; e += 2)
        if (e[0] == 6)
            one[0].address = e[1];
    trap_handlers[6] = skip_ud2;
    answer("set_trap_table: one entry more", hypercall_set_trap_table(one), 0);
    struct probe p = {0};
    handled = 9;
    probe(&p, do_ud2);
    check(p.vector == -1 && handled == 1, "flag 4 masks events on entry");
    equal("and the return unmasks them", shared_info->vcpu_info[0].evtchn_upcall_mask, 0);
    one[0].flags = 0;
    hypercall_set_trap_table(one);
    handled = 9;
    probe(&p, do_ud2);
    equal("without it they stay as they were", handled, 0);
    trap_handlers[6] = NULL;
    answer("set_trap_table: bad pointer", hypercall_set_trap_table((struct trap_info *)WILD), -EFAULT);
}

static void debug_exceptions(void)
{
    struct probe p = {0};
    probe(&p, do_int3);
    answer("int3: vector", p.vector, 3);
    equal("int3: rip is after it", p.frame.rip, (u64)after_int3);
    equal("int3: rflags", p.frame.rflags & ~FLAGS, 0x202);
    probe(&p, do_int80);
    answer("int 0x80 with DPL 3: vector", p.vector, 128);
    equal("int 0x80: rip is after it", p.frame.rip, (u64)after_int80);
    probe(&p, do_step);
    answer("single step: vector", p.vector, 1);
    equal("single step: rip is after the next instruction", p.frame.rip, (u64)after_step);
    equal("single step: TF is in the frame", p.frame.rflags >> 8 & 1, 1);
    equal("single step: TF is clear in the handler", p.frame.entry_flags >> 8 & 1, 0);
}


static void software_interrupts(void)
{
    /* QEMU before 10 says n*16+2 (it takes the size of a gate for every error code): wrong by the manual, and by Xen. */
    static const struct { const char *name; const void *code; u64 n; } rows[] = {{"int 0x21", do_int21, 0x21}, {"int 0", do_int0,
                0}, {"int 14", do_int14, 14}};
    for (u32 i = 0; i < COUNT(rows); i++) {
        struct probe p = {0};
        probe(&p, rows[i].code);
        check(p.vector == 13 && p.frame.error == rows[i].n * 8 + 2, "%s without permission: #GP, error code n*8+2", rows[i].name);
        check(p.frame.rip == (u64)rows[i].code, "%s without permission: rip at the instruction", rows[i].name);
    }
}

void check_traps(void)
{
    frames();
    fault("ud2", do_ud2, 0, 6, 0);
    fault("divide by zero", do_divide, 0, 0, 0);
    fault("an opcode that is none", do_bad_opcode, 0, 6, 0);
    u16 control = 0x37b; /* zero divide not masked */
    fault("x87 divide by zero", do_fpu_divide, (u64)&control, 16, 0);
    struct probe again = {0};
    probe(&again, do_fninit);
    struct probe flags = {.rdi = 0x244400, .rsi = 0x7f0000000000UL}; /* ID, AC, NT, DF */
    probe(&flags, do_flags);
    equal("rflags in the frame: ID, AC, NT, DF as they were", flags.frame.rflags & 0x244400, 0x244400);
    equal("rflags in the handler: AC and NT are clear, ID and DF as they were", flags.frame.entry_flags & 0x244400, 0x200400);
    fault("far return to a null selector", do_far, 0, 13, 0);
    fault("load ds with Xen's code selector", do_load_ds, 0xe008, 13, 0xe008);
    fault("load gs beyond the GDT", do_load_gs, 0xfff3, 13, 0xfff0);
    fault("load ds with the flat data selector", do_load_ds, FLAT_RING3_SS64, -1, 0);
    fault("load ds with null", do_load_ds, 0, -1, 0);
    fault("read of a non-canonical address", probe_load, 0x800000000000UL, 13, 0);
    debug_exceptions();
    software_interrupts();
    tables();
    struct probe p = {0};
    probe(&p, do_iretq_self);
    answer("native iretq to 0xe033 and 0xe02b", p.vector, -1);
    p = (struct probe){.rdi = 0};
    probe(&p, do_iret_self);
    check(p.vector == -1 && p.rax == 0x1234 && p.rcx == 0x5678 && p.r11 == 0x9abc, "iret to the kernel keeps rax, rcx, r11");
    p = (struct probe){.rdi = 0x1230, .rsi = FLAT_RING3_SS64};
    probe(&p, do_iret_to);
    check(p.vector == 13 && p.frame.error == 0x1230, "iret to a cs that does not exist: #GP with the selector");
    equal("iret to a cs that does not exist: rip is where it was to go", p.frame.rip, (u64)iret_to_there);
    equal("iret to a cs that does not exist: cs in the frame", p.frame.cs & 0xffff, 0x1230);
    p = (struct probe){.rdi = 0xe030, .rsi = 0x1230};
    probe(&p, do_iret_to);
    check(p.vector == 13 && p.frame.error == 0x1230, "iret to an ss that does not exist: #GP with the selector");
    equal("iret to an ss that does not exist: ss in the frame, RPL 3", p.frame.ss, 0x1233);
    p = (struct probe){.rdi = 0x100};
    probe(&p, do_iret_self);
    check(p.vector == -1 && p.rax == 0x1234, "iret with VGCF_in_syscall keeps rax");
}
