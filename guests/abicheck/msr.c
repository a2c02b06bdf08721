/* Model-specific registers: which a guest kernel may read and write. */
#include "check.h"

SNIPPET(do_rdmsr, "rdmsr\nshl $32, %rdx\nor %rdx, %rax");
SNIPPET(do_wrmsr, "wrmsr");
SNIPPET(read_through_fs, "mov %fs:0, %rax");

static const u32 readable[] = {0x10, 0x1b, 0x8b, 0x179, 0x17a, 0x1a0, 0x277, 0xce, 0x140, 0x40000000, 0xc0000080, 0xc0000100,
            0xc0000101, 0xc0000102,
                               0xc0010015, 0xc0011029};
static const u32 refused[] = {0x174, 0x175, 0x176, 0x1d9, 0x2ff, 0x3a, 0x35, 0x48, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
            0xc0000103, 0x12345678};
static const struct { u32 msr; u64 value; } values[] = {{0x1b, 0xfee00900}, {0x277, 0x50100070406}, {0xc0000080, 0xd01}};
static const struct { const char *what; u32 msr; u64 value; s64 vector; } writes[] = {
    {"FS_BASE non-canonical", 0xc0000100, 0x800000000000UL, 13}, {"GS_BASE non-canonical", 0xc0000101, 1UL << 63, 13},
    {"EFER the same value", 0xc0000080, 0xd01, -1}, {"EFER without LME", 0xc0000080, 0xc01, 13}, {"LSTAR", 0xc0000082, 0, 13},
        {"STAR", 0xc0000081, 0, 13},
    {"SYSENTER_CS", 0x174, 0, 13}, {"an unknown one", 0x12345678, 0, 13},
};

static struct probe msr(const void *code, u32 number, u64 value)
{
    struct probe p = {.rcx = number, .rax = value & 0xffffffff, .rdx = value >> 32};
    probe(&p, code);
    return p;
}

void check_msr(void)
{
    for (u32 i = 0; i < COUNT(readable); i++)
        check(msr(do_rdmsr, readable[i], 0).vector == -1, "rdmsr 0x%x is allowed", readable[i]);
    for (u32 i = 0; i < COUNT(refused); i++) {
        struct probe p = msr(do_rdmsr, refused[i], 0);
        check(p.vector == 13 && p.frame.error == 0, "rdmsr 0x%x is #GP(0)", refused[i]);
    }
    check(msr(do_rdmsr, 0xc0010010, 0).vector == by_role(-1, 13), "rdmsr 0xc0010010 is for dom0");
    for (u32 i = 0; i < COUNT(values); i++) {
        char what[48];
        snprintf(what, sizeof what, "value of 0x%x", values[i].msr);
        equal(what, msr(do_rdmsr, values[i].msr, 0).rax, values[i].value);
    }
    for (u32 i = 0; i < COUNT(writes); i++) {
        char what[64];
        snprintf(what, sizeof what, "wrmsr %s", writes[i].what);
        answer(what, msr(do_wrmsr, writes[i].msr, writes[i].value).vector, writes[i].vector);
    }
    for (u32 number = 0xc0000100; number <= 0xc0000102; number++) {
        u64 old = msr(do_rdmsr, number, 0).rax;
        bool wrote = msr(do_wrmsr, number, KERNEL_BASE).vector == -1;
        check(wrote && msr(do_rdmsr, number, 0).rax == KERNEL_BASE, "wrmsr 0x%x takes a canonical address", number);
        msr(do_wrmsr, number, old);
    }
    u64 word = 0x123456789abcdef0UL;
    msr(do_wrmsr, 0xc0000100, (u64)&word);
    struct probe p = {0};
    probe(&p, read_through_fs);
    equal("wrmsr FS_BASE: fs then begins there", p.rax, word);
    msr(do_wrmsr, 0xc0000100, 0);
}
