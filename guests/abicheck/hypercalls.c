/* The hypercall page, the registers across a hypercall, numbers that do not exist. */
#include "check.h"

SNIPPET(call_through_page, "call hypercall_page + 17 * 32");
SNIPPET(call_bare, "syscall\n.globl after_bare\nafter_bare:");
extern const char after_bare[];

static bool others_kept(const struct probe *p)
{
    return p->rbx == 1 && p->rdx == 4 && p->rbp == 7 && p->r8 == 8 && p->r9 == 9 && p->r10 == 10 && p->r12 == 12 && p->r13 == 13 &&
        p->r14 == 14 && p->r15 == 15;
}

static void check_page(void)
{
    bool all = true;
    for (u32 n = 0; n < 64; n++) {
        const u8 *slot = (const u8 *)hypercall_page + 32 * n;
        u8 want[14] = {0x51, 0x41, 0x53, 0xb8, (u8)n, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3};
        all = all && (n == 23 || !memcmp(slot, want, sizeof want));
    }
    check(all, "slots 0 to 63: push rcx, r11; mov; syscall; pop r11, rcx; ret");
    static const u8 iret[11] = {0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05};
    check(!memcmp(hypercall_page + 23 * 32, iret, sizeof iret), "slot 23 pushes rcx, r11, rax and does not return");
    bool fill = true;
    for (u32 n = 0; n < 64; n++)
        for (u32 i = 14; i < 32; i++)
            fill = fill && (n == 23 || (u8)hypercall_page[32 * n + i] == 0xcc);
    check(fill, "the rest of a slot is 0xcc");
    check((u8)hypercall_page[127 * 32] == 0x51 && (u8)hypercall_page[127 * 32 + 4] == 127, "there are 128 slots");
}

void check_hypercalls(void)
{
    check_page();
    struct probe p = {.rax = 99, .rbx = 1, .rcx = 3, .rdx = 4, .rsi = 5, .rdi = XENVER_version, .rbp = 7, .r8 = 8, .r9 = 9,
                .r10 = 10, .r11 = 11,
                      .r12 = 12, .r13 = 13, .r14 = 14, .r15 = 15};
    probe(&p, call_through_page);
    equal("through the page: rax is the result", p.rax, 4 << 16 | 17);
    check(p.rcx == 3 && p.r11 == 11, "through the page: rcx and r11 are kept");
    check(others_kept(&p) && p.rdi == XENVER_version && p.rsi == 5, "through the page: the others are kept");
    p.rax = HYPERVISOR_xen_version;
    probe(&p, call_bare);
    equal("bare syscall: rax is the result", p.rax, 4 << 16 | 17);
    equal("bare syscall: rcx is the next rip", p.rcx, (u64)after_bare);
    equal("bare syscall: r11 is rflags", p.r11 & ~0x8d5UL, 0x202); /* arithmetic flags as they were */
    check(others_kept(&p) && p.rdi == XENVER_version && p.rsi == 5, "bare syscall: the others are kept");

    static const u8 missing[] = {11, 43, 47, 55, 63, 100};
    for (u32 i = 0; i < COUNT(missing); i++) {
        char what[64];
        snprintf(what, sizeof what, "number %u does not exist", missing[i]);
        answer(what, hypercall(missing[i], 0, 0, 0, 0, 0), -ENOSYS);
    }
    answer("number 6, the old sched_op: yield", hypercall(6, SCHEDOP_yield, 0, 0, 0, 0), 0);
    answer("number 6, the old sched_op: poll is not among it", hypercall(6, SCHEDOP_poll, 0, 0, 0, 0), -ENOSYS);
    answer("number 16, the old event_channel_op: bad pointer", hypercall(16, (u64)WILD, 0, 0, 0, 0), -EFAULT);
    answer("number 19, the old physdev_op: bad pointer", hypercall(19, (u64)WILD, 0, 0, 0, 0), -EFAULT);
    answer("number 4096 does not exist", hypercall_bare(4096, 0, 0, 0), -ENOSYS);
    answer("number -1 does not exist", hypercall_bare(~0UL, 0, 0, 0), -ENOSYS);
    answer("all 64 bits of the number count", hypercall_bare(1UL << 32 | HYPERVISOR_xen_version, XENVER_version, 0, 0), -ENOSYS);
}
