/* Instructions that only a kernel may use: what Xen emulates, what it ignores, what reaches the guest. */
#include "check.h"

#define INSN(name, text) SNIPPET(insn_##name, text)
INSN(cpuid_forced, "ud2\n.ascii \"xen\"\ncpuid");
INSN(cpuid, "cpuid");
INSN(ud2_xen_nop, "ud2\n.ascii \"xen\"\nnop");
INSN(ud2_xen_rdtsc, "ud2\n.ascii \"xen\"\nrdtsc");
INSN(rdtsc, "rdtsc\nmov %eax, %ebx\nmov %edx, %esi\nrdtsc\nshl $32, %rdx\nor %rdx, %rax\nshl $32, %rsi\nor %rsi, %rbx");
INSN(read_cr0, "mov %cr0, %rax");
INSN(read_cr2, "mov %cr2, %rax");
INSN(read_cr3, "mov %cr3, %rax");
INSN(read_cr4, "mov %cr4, %rax");
INSN(read_cr8, "mov %cr8, %rax");
INSN(write_cr0, "mov %rdi, %cr0\nmov %cr0, %rax");
INSN(write_cr2, "mov %rdi, %cr2\nmov %cr2, %rax");
INSN(write_cr3, "mov %cr3, %rdi\nmov %rdi, %cr3");
INSN(write_cr4, "mov %cr4, %rdi\nmov %rdi, %cr4");
INSN(write_cr8, "xor %eax, %eax\nmov %rax, %cr8");
INSN(clts, "clts\nmov %cr0, %rax");
INSN(read_dr6, "mov %rdi, %dr6\nmov %dr6, %rax");
INSN(read_dr7, "mov %dr7, %rax");
INSN(write_dr0, "mov %rdi, %dr0\nmov %dr0, %rax\nxor %edi, %edi\nmov %rdi, %dr0");
INSN(wbinvd, "wbinvd");
INSN(invd, "invd");
INSN(hlt, "hlt");
INSN(cli, "cli");
INSN(sti, "sti");
INSN(popf_if, "pushf\nandq $~0x200, (%rsp)\npopf\npushf\npop %rax");
INSN(in_80, "in $0x80, %al");
INSN(out_80, "out %al, $0x80");
INSN(in_3fd, "mov $0x3fd, %edx\nin %dx, %al");
INSN(insb, "mov $0x61, %edx\nlea -64(%rsp), %rdi\ninsb");
INSN(lgdt, "lgdt -64(%rsp)");
INSN(lidt, "lidt -64(%rsp)");
INSN(lldt, "xor %eax, %eax\nlldt %ax");
INSN(ltr, "mov $0xe040, %eax\nltr %ax");
INSN(invlpg, "invlpg (%rsp)");
INSN(lmsw, "mov $1, %eax\nlmsw %ax");
INSN(swapgs, "swapgs");
INSN(sysretq, "sysretq");
INSN(rdpmc, "xor %ecx, %ecx\nrdpmc");
INSN(smsw, "smsw %rax");
INSN(sgdt, "sgdt -64(%rsp)\nmovzwl -64(%rsp), %eax");
INSN(sidt, "sidt -64(%rsp)\nmovzwl -64(%rsp), %eax");
INSN(sldt, "sldt %rax");
INSN(str, "str %rax");
INSN(xgetbv, "xor %ecx, %ecx\n.byte 0x0f, 0x01, 0xd0");
INSN(xsetbv, "xor %ecx, %ecx\n.byte 0x0f, 0x01, 0xd1");
INSN(rdfsbase, ".byte 0xf3, 0x48, 0x0f, 0xae, 0xc0");
INSN(vmcall, ".byte 0x0f, 0x01, 0xc1");
INSN(vmmcall, ".byte 0x0f, 0x01, 0xd9");
INSN(monitor, ".byte 0x0f, 0x01, 0xc8");
INSN(rdtscp, ".byte 0x0f, 0x01, 0xf9");
INSN(lar_cs, "mov $0xe033, %ecx\nlar %ecx, %eax");
INSN(lar_ss, "mov $0xe02b, %ecx\nlar %ecx, %eax");
INSN(lar_cs32, "mov $0xe023, %ecx\nlar %ecx, %eax");

enum { FINE = -1, UD = 6, GP = 13 };
static const struct { const char *name; const void *code; s64 vector; } faults[] = {
    {"ud2; xen; nop", insn_ud2_xen_nop, UD}, {"ud2; xen; rdtsc", insn_ud2_xen_rdtsc, UD},
    {"wbinvd", insn_wbinvd, FINE}, {"invd", insn_invd, FINE}, {"hlt", insn_hlt, GP},
    {"mov from cr8", insn_read_cr8, GP}, {"mov to cr8", insn_write_cr8, GP}, {"cli", insn_cli, GP}, {"sti", insn_sti, GP},
    {"in 0x80", insn_in_80, GP}, {"out 0x80", insn_out_80, GP}, {"in 0x3fd", insn_in_3fd, GP}, {"insb", insn_insb, GP}, {"lgdt",
                insn_lgdt, GP},
    {"lidt", insn_lidt, GP}, {"lldt", insn_lldt, GP}, {"ltr", insn_ltr, GP}, {"invlpg", insn_invlpg, GP}, {"lmsw", insn_lmsw, GP},
    {"swapgs", insn_swapgs, GP}, {"sysretq", insn_sysretq, GP}, {"rdpmc", insn_rdpmc, GP}, {"xgetbv", insn_xgetbv, UD}, {"xsetbv",
                insn_xsetbv, UD},
    {"rdfsbase", insn_rdfsbase, UD}, {"vmcall", insn_vmcall, UD}, {"vmmcall", insn_vmmcall, UD}, {"monitor", insn_monitor, UD},
        {"rdtscp", insn_rdtscp, UD},
    {"smsw", insn_smsw, FINE}, {"sgdt", insn_sgdt, FINE}, {"sidt", insn_sidt, FINE}, {"sldt", insn_sldt, FINE}, {"str", insn_str, FINE},
    {"mov same value to cr3", insn_write_cr3, FINE}, {"mov same value to cr4", insn_write_cr4, FINE},
};

static u64 value(const void *code, u64 rdi)
{
    struct probe p = {.rdi = rdi};
    probe(&p, code);
    return p.vector == -1 ? p.rax : 0xdead0000UL | (u64)p.vector;
}

static void control_registers(void)
{
    u64 ignored;
    equal("cr0", value(insn_read_cr0, 0), 0x80050033);
    try_read(0x7f0000123000UL, &ignored);
    equal("cr2 is the last page fault's address", value(insn_read_cr2, 0), 0x7f0000123000UL);
    equal("cr3 is the L4's machine address", value(insn_read_cr3, 0), va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT);
    equal("cr4", value(insn_read_cr4, 0), 0x660);
    equal("cr2 takes a value", value(insn_write_cr2, 0x12345678), 0x12345678);
    equal("cr0 takes TS", value(insn_write_cr0, 0x8005003b), 0x8005003b);
    equal("clts clears it", value(insn_clts, 0), 0x80050033);
    equal("cr0 takes nothing else", value(insn_write_cr0, 0x80050032) == 0xdead000d, 1);
    equal("dr6 has its fixed bits", value(insn_read_dr6, 0), 0xffff0ff0);
    equal("dr7", value(insn_read_dr7, 0), 0x400);
    equal("dr0 takes a value", value(insn_write_dr0, KERNEL_BASE), KERNEL_BASE);
}

static void cpuid_forced(void)
{
    struct probe p = {.rax = 0x40000000};
    probe(&p, insn_cpuid_forced);
    answer("forced cpuid 0x40000000: no fault", p.vector, -1);
    check(p.rbx == 0x566e6558 && p.rcx == 0x65584d4d && p.rdx == 0x4d4d566e, "forced cpuid 0x40000000: XenVMMXenVMM");
    equal("forced cpuid 0x40000000: highest leaf", p.rax, 0x40000005);
    p = (struct probe){.rax = 0x40000001};
    probe(&p, insn_cpuid_forced);
    equal("forced cpuid 0x40000001: version", p.rax, 0x40011);
    p = (struct probe){.rax = 0x40000002};
    probe(&p, insn_cpuid_forced);
    check(p.rax == 1 && p.rbx == 0x40000000, "forced cpuid 0x40000002: one page, msr 0x40000000");
    p = (struct probe){.rax = 0};
    probe(&p, insn_cpuid);
    check(p.vector == -1 && p.rax >= 1, "plain cpuid runs");
    p = (struct probe){.rax = 1};
    probe(&p, insn_cpuid_forced);
    check(p.vector == -1 && p.rdx & 1 << 0 && !(p.rcx & 1UL << 5), "forced cpuid 1: FPU, no VMX");
}

void check_privileged(void)
{
    for (u32 i = 0; i < COUNT(faults); i++) {
        struct probe p = {0};
        probe(&p, faults[i].code);
        char what[64];
        snprintf(what, sizeof what, "%s", faults[i].name);
        if (p.vector != faults[i].vector || p.vector != GP || p.frame.error == 0)
            answer(what, p.vector, faults[i].vector);
        else
            equal(what, p.frame.error, 0);
    }
    control_registers();
    cpuid_forced();
    struct probe p = {0};
    probe(&p, insn_rdtsc);
    check(p.vector == -1 && p.rax >= p.rbx, "rdtsc runs and does not go back");
    equal("popf does not change IF", value(insn_popf_if, 0) >> 9 & 1, 1);
    equal("lar 0xe033", value(insn_lar_cs, 0), 0xa0fb00);
    equal("lar 0xe02b", value(insn_lar_ss, 0), 0xc0f300);
    equal("lar 0xe023", value(insn_lar_cs32, 0), 0xc0fb00);
}
