/* Segment descriptors: set_gdt, update_descriptor, the LDT, segment bases, stack_switch. */
#include "check.h"

#define DATA_RING3 0x00cff3000000ffffUL
#define DATA_RING0 0x00cf93000000ffffUL
#define CODE_RING3 0x00affb000000ffffUL
#define TSS 0x0000890000000067UL

SNIPPET(load_es, "mov %edi, %es");
SNIPPET(through_gs, "mov %gs:0, %rax");
SNIPPET(through_fs, "mov %fs:0, %rax");

static s64 load(u64 selector)
{
    struct probe p = {.rdi = selector};
    probe(&p, load_es);
    return p.vector;
}

static void gdt(void)
{
    u64 *page = page_alloc();
    page[1] = DATA_RING3;
    page[2] = CODE_RING3;
    u64 frame = va_to_mfn(page), bad = 0xffffffff, machine = va_to_machine(page);
    answer("set_gdt: a writable page", hypercall_set_gdt(&frame, 512), -EINVAL);
    protect(page, PTE_P | PTE_U);
    answer("set_gdt: 512 entries", hypercall_set_gdt(&frame, 512), 0);
    answer("a selector of it can be loaded", load(1 * 8 + 3), -1);
    answer("a null entry cannot", load(3 * 8 + 3), 13);
    answer("update_descriptor: a data segment", hypercall_update_descriptor(machine + 3 * 8, DATA_RING3), 0);
    answer("it can be loaded", load(3 * 8 + 3), -1);
    equal("it is in the table", page[3] & ~(1UL << 40), DATA_RING3 & ~(1UL << 40));
    answer("update_descriptor: a ring 0 segment", hypercall_update_descriptor(machine + 4 * 8, DATA_RING0), 0);
    equal("it becomes ring 3's", page[4], DATA_RING3);
    answer("update_descriptor: a system descriptor", hypercall_update_descriptor(machine + 4 * 8, TSS), -EINVAL);
    answer("update_descriptor: not present", hypercall_update_descriptor(machine + 4 * 8, 0x1234UL), 0);
    answer("update_descriptor: a data segment that is not present", hypercall_update_descriptor(machine + 5 * 8,
           DATA_RING3 & ~(1UL << 47)), 0);
    struct probe np = {.rdi = 5 * 8 + 3};
    probe(&np, load_es);
    check(np.vector == 11 && np.frame.error == 5 * 8, "it cannot be loaded: #NP with the selector");
    answer("update_descriptor: unaligned", hypercall_update_descriptor(machine + 4 * 8 + 1, DATA_RING3), -EINVAL);
    answer("update_descriptor: beyond all memory", hypercall_update_descriptor(0xffffffffUL << PAGE_SHIFT, DATA_RING3), -EINVAL);
    answer("a GDT page cannot be mapped read-write", protect(page, PTE_P | PTE_W | PTE_U), -EBUSY);
    answer("set_gdt: a frame beyond all", hypercall_set_gdt(&bad, 512), -EINVAL);
    answer("set_gdt: the old one stays", load(1 * 8 + 3), -1);
    answer("set_gdt: 7169 entries", hypercall_set_gdt(&frame, 7169), -EINVAL);
    answer("set_gdt: bad pointer", hypercall_set_gdt((u64 *)WILD, 512), -EFAULT);
    load(0);
    answer("set_gdt: none", hypercall_set_gdt(NULL, 0), 0);
    answer("its selectors are gone", load(1 * 8 + 3), 13);
    answer("the page is ordinary again", protect(page, PTE_P | PTE_W | PTE_U), 0);
    page[5] = TSS;
    protect(page, PTE_P | PTE_U);
    answer("set_gdt: a page with descriptors not allowed", hypercall_set_gdt(&frame, 512), -EINVAL);
    protect(page, PTE_P | PTE_W | PTE_U);
    page_free(page);
}

static void ldt(void)
{
    u64 *page = page_alloc();
    page[1] = DATA_RING3;
    protect(page, PTE_P | PTE_U);
    struct mmuext_op set = {MMUEXT_SET_LDT, (u64)page, 512}, none = {MMUEXT_SET_LDT, 0, 0};
    answer("without an LDT its selectors fault", load(1 * 8 + 7), 13);
    answer("SET_LDT", hypercall_mmuext_op(&set, 1, NULL, DOMID_SELF), 0);
    answer("a selector of the LDT can be loaded", load(1 * 8 + 7), -1);
    answer("a null entry of the LDT cannot", load(2 * 8 + 7), 13);
    answer("update_descriptor in the LDT", hypercall_update_descriptor(va_to_machine(page) + 16, DATA_RING3), 0);
    answer("then it can", load(2 * 8 + 7), -1);
    load(0);
    answer("an LDT page cannot be mapped read-write", protect(page, PTE_P | PTE_W | PTE_U), -EBUSY);
    answer("SET_LDT: none", hypercall_mmuext_op(&none, 1, NULL, DOMID_SELF), 0);
    answer("its selectors are gone again", load(1 * 8 + 7), 13);
    answer("the page is ordinary again", protect(page, PTE_P | PTE_W | PTE_U), 0);
    page_free(page);
}

static void bases(void)
{
    u64 word = 0xfeedface12345678UL;
    struct probe p = {0};
    answer("set_segment_base: fs", hypercall_set_segment_base(SEGBASE_FS, (u64)&word), 0);
    probe(&p, through_fs);
    equal("fs begins there", p.rax, word);
    answer("set_segment_base: kernel gs", hypercall_set_segment_base(SEGBASE_GS_KERNEL, (u64)&word), 0);
    probe(&p, through_gs);
    equal("gs begins there", p.rax, word);
    answer("set_segment_base: user gs", hypercall_set_segment_base(SEGBASE_GS_USER, 0x1000), 0);
    probe(&p, through_gs);
    equal("gs of the kernel is another", p.rax, word);
    answer("set_segment_base: user gs selector", hypercall_set_segment_base(SEGBASE_GS_USER_SEL, FLAT_RING3_SS64), 0);
    answer("set_segment_base: user gs selector that is null", hypercall_set_segment_base(SEGBASE_GS_USER_SEL, 0), 0);
    answer("set_segment_base: non-canonical", hypercall_set_segment_base(SEGBASE_FS, 0x800000000000UL), -EINVAL);
    answer("set_segment_base: no such base", hypercall_set_segment_base(4, 0), -EINVAL);
    hypercall_set_segment_base(SEGBASE_FS, 0);
    hypercall_set_segment_base(SEGBASE_GS_KERNEL, 0);
    hypercall_set_segment_base(SEGBASE_GS_USER, 0);
}

void check_descriptors(void)
{
    gdt();
    ldt();
    bases();
    answer("stack_switch", hypercall_stack_switch(FLAT_RING3_SS64, (u64)boot_stack_end), 0);
    answer("stack_switch: non-canonical", hypercall_stack_switch(FLAT_RING3_SS64, 0x800000000000UL), 0);
    hypercall_stack_switch(FLAT_RING3_SS64, (u64)boot_stack_end);
    extern const char insn_read_cr0[];
    struct probe p = {0};
    s64 set = hypercall_fpu_taskswitch(1);
    probe(&p, insn_read_cr0);
    s64 clear = hypercall_fpu_taskswitch(0);
    answer("fpu_taskswitch: set", set, 0);
    equal("fpu_taskswitch: TS is seen in cr0", p.rax, 0x8005003b);
    answer("fpu_taskswitch: clear", clear, 0);
    answer("set_debugreg: 0", hypercall_set_debugreg(0, KERNEL_BASE), 0);
    equal("get_debugreg: 0", (u64)hypercall_get_debugreg(0), KERNEL_BASE);
    answer("set_debugreg: an address of Xen's", hypercall_set_debugreg(0, M2P_TABLE), -EPERM);
    answer("set_debugreg: no such register", hypercall_set_debugreg(8, 0), -ENODEV);
    answer("get_debugreg: no such register", hypercall_get_debugreg(8), -ENODEV);
    answer("set_debugreg: 4 means 6", hypercall_set_debugreg(4, 0xffff0ff0), 0);
    equal("get_debugreg: 6", (u64)hypercall_get_debugreg(6) & 0xffffffffUL, 0xffff0ff0);
    answer("set_debugreg: 7, general detect", hypercall_set_debugreg(7, 0x2400), -EPERM);
    answer("set_debugreg: 7, an I/O breakpoint", hypercall_set_debugreg(7, 0x20401), -EPERM);
    answer("set_debugreg: 0 again", hypercall_set_debugreg(0, 0), 0);
}
