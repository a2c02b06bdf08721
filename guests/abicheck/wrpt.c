/* Stores to a page table that is mapped read-only: with vm_assist(writable_pagetables) Xen emulates those to an L1. */
#include "check.h"

SNIPPET(store32, "mov %eax, (%rdi)");
SNIPPET(store8, "mov %al, (%rdi)");
SNIPPET(locked_xchg, "xchg %rax, (%rdi)");
SNIPPET(locked_cmpxchg, "lock cmpxchg %rbx, (%rdi)");
SNIPPET(locked_or, "lock orq %rbx, (%rdi)");

static struct probe run(const void *code, u64 rdi, u64 rax, u64 rbx)
{
    struct probe p = {.rdi = rdi, .rax = rax, .rbx = rbx};
    probe(&p, code);
    return p;
}

void check_wrpt(void)
{
    u64 *page = page_alloc(), *slot = pte_slot((u64)page, 1), old;
    *page = 5;
    old = *slot;
    hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_writable_pagetables);
    struct probe p = run(probe_store, (u64)slot, old, 0);
    answer("without vm_assist: a domU gets the page fault, dom0 the emulation", p.vector, by_role(-1, 14));
    answer("vm_assist: enable writable_pagetables", hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0);
    check(run(probe_store, (u64)slot, old, 0).vector == -1 && *slot == old, "the same value, 64 bits");
    check(run(store32, (u64)slot, old & 0xffffffff, 0).vector == -1 && *slot == old, "the same value, 32 bits");
    answer("take write permission away", run(probe_store, (u64)slot, old & ~PTE_W, 0).vector, -1);
    equal("it is gone from the entry", *slot & PTE_W, 0);
    hypercall_mmuext_op(&(struct mmuext_op){MMUEXT_INVLPG_LOCAL, (u64)page, 0}, 1, NULL, DOMID_SELF);
    answer("and a write faults", try_write((u64)page, 6), 14);
    p = run(locked_xchg, (u64)slot, old, 0);
    check(p.vector == -1 && (*slot & PTE_W), "xchg gives it back");
    equal("xchg gives the old value", p.rax & PTE_W, 0);
    old = *slot;
    p = run(locked_cmpxchg, (u64)slot, old, old & ~PTE_W);
    check(p.vector == -1 && p.rax == old && !(*slot & PTE_W), "cmpxchg with the right old value");
    p = run(locked_cmpxchg, (u64)slot, old, 0);
    check(p.vector == -1 && *slot && p.rax == *slot, "cmpxchg with a wrong one changes nothing");
    p = run(locked_or, (u64)slot, 0, PTE_W);
    check(p.vector == -1 && (*slot & PTE_W), "lock or");
    p = run(probe_store, (u64)slot, va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U, 0);
    check(p.vector == 14 && p.frame.error == 3, "a value that is not allowed: the page fault comes to us");
    equal("and the entry is as it was", PTE_MFN(*slot), va_to_mfn(page));
    p = run(probe_store, (u64)(slot) + 4, old, 0);
    check(p.vector == 14, "an unaligned store: the page fault comes to us");
    p = run(probe_store, (u64)pte_slot((u64)page, 2), *pte_slot((u64)page, 2), 0);
    check(p.vector == 14 && p.frame.error == 3, "a store to an L2: the page fault comes to us");
    p = run(store8, (u64)slot, old & 0xff, 0);
    answer("one byte", p.vector, -1);
    answer("vm_assist: disable writable_pagetables", hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0);
    protect(page, PTE_P | PTE_W | PTE_U);
    page_free(page);
}
