/* Page tables: entries set and cleared, tables validated by a pin, the operations of mmuext_op. */
#include "measure.h"

static struct mmu_update updates[512];
static u64 *table, *below;
static s64 op(u32 cmd, u64 arg1, u64 arg2)
{
    struct mmuext_op o = {cmd, arg1, arg2};
    return hypercall_mmuext_op(&o, 1, NULL, DOMID_SELF);
}
static s64 update(u64 n) { return hypercall_mmu_update(updates, (u32)n, NULL, DOMID_SELF); }
static void set_ready(u64 n)
{
    for (u64 i = 0; i < n; i++)
        updates[i] = (struct mmu_update){slots_machine + 8 * i, va_to_mfn(pages[i % COUNT(pages)]) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U};
}
static void clear_entries(u64 n)
{
    for (u64 i = 0; i < n; i++)
        updates[i] = (struct mmu_update){slots_machine + 8 * i, 0};
}
static void clear_done(u64 n) { clear_entries(n); update(n); }
static void clear_ready(u64 n) { set_ready(n); update(n); clear_entries(n); }
static void change_ready(u64 n) /* the same frame, other flags */
{
    clear_ready(n);
    set_ready(n);
    for (u64 i = 0; i < n; i++)
        updates[i].val &= ~PTE_W;
}
static void machphys_ready(u64 n)
{
    for (u64 i = 0; i < n; i++)
        updates[i] = (struct mmu_update){va_to_mfn(pages[i]) << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, (u64)pages[i] >> PAGE_SHIFT};
}
static s64 va_set(u64 n) { (void)n; return hypercall_update_va_mapping(SCRATCH_AREA, va_to_mfn(pages[0]) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U, UVMF_INVLPG); }
static s64 va_read_only(u64 n) { (void)n; return hypercall_update_va_mapping(SCRATCH_AREA, va_to_mfn(pages[0]) << PAGE_SHIFT | PTE_P | PTE_U, UVMF_INVLPG); }
static s64 va_clear(u64 n) { (void)n; return hypercall_update_va_mapping(SCRATCH_AREA, 0, UVMF_INVLPG); }
static void va_cleared(u64 n) { va_clear(n); }
static void va_ready(u64 n) { va_set(n); }

/* Tables with n present entries; those of upper levels all point to one pinned table. */
static void entries(u64 n, u64 entry)
{
    table = page_alloc();
    for (u64 i = 0; i < n; i++)
        table[i] = entry;
    protect(table, PTE_P | PTE_U);
}
static void l1_ready(u64 n) { entries(n, va_to_mfn(pages[0]) << PAGE_SHIFT | PTE_P | PTE_U); }
static void l1_ready_rw(u64 n) { entries(n, va_to_mfn(pages[0]) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U); }
/* One with n pages of ours that nothing ever mapped: others in each round. */
static void own_ready(u64 n)
{
    static u64 pfn;
    if (!pfn)
        pfn = mm_end();
    table = page_alloc();
    for (u64 i = 0; i < n; i++)
        table[i] = pfn_to_mfn(pfn++) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
    if (pfn > start_info->nr_pages)
        panic("no page is left that nothing ever mapped");
    protect(table, PTE_P | PTE_U);
}
static void upper_ready(u64 n, u32 pin)
{
    below = page_alloc();
    protect(below, PTE_P | PTE_U);
    if (op(pin, va_to_mfn(below), 0))
        panic("a pin failed");
    entries(n, va_to_mfn(below) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U);
}
static void l2_ready(u64 n) { upper_ready(n, MMUEXT_PIN_L1_TABLE); }
static void l3_ready(u64 n) { upper_ready(n, MMUEXT_PIN_L2_TABLE); }
static void l4_ready(u64 n) { upper_ready(n, MMUEXT_PIN_L3_TABLE); }
static s64 pin_l1(u64 n) { (void)n; return op(MMUEXT_PIN_L1_TABLE, va_to_mfn(table), 0); }
static s64 pin_l2(u64 n) { (void)n; return op(MMUEXT_PIN_L2_TABLE, va_to_mfn(table), 0); }
static s64 pin_l3(u64 n) { (void)n; return op(MMUEXT_PIN_L3_TABLE, va_to_mfn(table), 0); }
static s64 pin_l4(u64 n) { (void)n; return op(MMUEXT_PIN_L4_TABLE, va_to_mfn(table), 0); }
static s64 unpin(u64 n) { (void)n; return op(MMUEXT_UNPIN_TABLE, va_to_mfn(table), 0); }
static void given_back(u64 n)
{
    (void)n;
    protect(table, PTE_P | PTE_W | PTE_U);
    page_free(table);
}
static void unpinned(u64 n) { unpin(n); given_back(n); }
static void upper_back(u64 n)
{
    given_back(n);
    op(MMUEXT_UNPIN_TABLE, va_to_mfn(below), 0);
    protect(below, PTE_P | PTE_W | PTE_U);
    page_free(below);
}
static void upper_unpinned(u64 n) { unpin(n); upper_back(n); }
#define PINNED(level, ready) static void level##_pinned(u64 n) { ready(n); if (pin_##level(n)) panic("a pin failed"); }
PINNED(l1, l1_ready)
PINNED(l2, l2_ready)
PINNED(l3, l3_ready)
PINNED(l4, l4_ready)

static s64 flush_tlb(u64 n) { (void)n; return op(MMUEXT_TLB_FLUSH_LOCAL, 0, 0); }
static s64 invlpg(u64 n) { (void)n; return op(MMUEXT_INVLPG_LOCAL, KERNEL_BASE, 0); }
static s64 flush_all(u64 n) { (void)n; return op(MMUEXT_TLB_FLUSH_ALL, 0, 0); }
static s64 invlpg_all(u64 n) { (void)n; return op(MMUEXT_INVLPG_ALL, KERNEL_BASE, 0); }
static s64 baseptr(u64 n) { (void)n; return op(MMUEXT_NEW_BASEPTR, va_to_mfn((void *)start_info->pt_base), 0); }
static s64 user_baseptr(u64 n) { (void)n; return op(MMUEXT_NEW_USER_BASEPTR, 0, 0); }
static s64 clear_page(u64 n) { (void)n; return op(MMUEXT_CLEAR_PAGE, va_to_mfn(pages[0]), 0); }
static s64 copy_page(u64 n) { (void)n; return op(MMUEXT_COPY_PAGE, va_to_mfn(pages[0]), va_to_mfn(pages[1])); }
static s64 set_ldt(u64 n) { (void)n; return op(MMUEXT_SET_LDT, 0, 0); }
static struct mmuext_op flushes[64];
static void flush_list(u64 n)
{
    for (u64 i = 0; i < n; i++)
        flushes[i] = (struct mmuext_op){.cmd = MMUEXT_TLB_FLUSH_LOCAL};
}
static s64 flush_many(u64 n) { return hypercall_mmuext_op(flushes, (u32)n, NULL, DOMID_SELF); }

#define SOME(name, ready, run, done) \
    for (u32 i = 0; i < COUNT(some); i++) \
        MEASURE(name, some[i], ready, run, done)

void measure_mmu(void)
{
    static const u64 some[] = {1, 8, 64, 512}, present[] = {0, 1, 64, 512};
    SOME("mmu_update.map", set_ready, update, clear_done);
    SOME("mmu_update.clear", clear_ready, update, NULL);
    SOME("mmu_update.flags", change_ready, update, clear_done);
    MEASURE("mmu_update.machphys", 1, machphys_ready, update, NULL);
    MEASURE("mmu_update.machphys", 8, machphys_ready, update, NULL);
    MEASURE("mmu_update.machphys", 64, machphys_ready, update, NULL);
    MEASURE("update_va_mapping.map", 0, NULL, va_set, va_cleared);
    MEASURE("update_va_mapping.clear", 0, va_ready, va_clear, NULL);
    MEASURE("update_va_mapping.flags", 0, va_ready, va_read_only, va_cleared);
    for (u32 i = 0; i < COUNT(present); i++) {
        MEASURE("pin.l1", present[i], l1_ready, pin_l1, unpinned);
        MEASURE("pin.l1.writable", present[i], l1_ready_rw, pin_l1, unpinned);
        MEASURE("pin.l1.own", present[i], own_ready, pin_l1, unpinned);
        MEASURE("unpin.l1", present[i], l1_pinned, unpin, given_back);
        MEASURE("pin.l2", present[i], l2_ready, pin_l2, upper_unpinned);
        MEASURE("unpin.l2", present[i], l2_pinned, unpin, upper_back);
        MEASURE("pin.l3", present[i], l3_ready, pin_l3, upper_unpinned);
        MEASURE("unpin.l3", present[i], l3_pinned, unpin, upper_back);
        if (present[i] <= 256) { /* the slots behind are Xen's */
            MEASURE("pin.l4", present[i], l4_ready, pin_l4, upper_unpinned);
            MEASURE("unpin.l4", present[i], l4_pinned, unpin, upper_back);
        }
    }
    MEASURE("mmuext_op.tlb_flush_local", 0, NULL, flush_tlb, NULL);
    MEASURE("mmuext_op.many", 1, flush_list, flush_many, NULL);
    MEASURE("mmuext_op.many", 16, flush_list, flush_many, NULL);
    MEASURE("mmuext_op.many", 64, flush_list, flush_many, NULL);
    MEASURE("mmuext_op.invlpg_local", 0, NULL, invlpg, NULL);
    MEASURE("mmuext_op.tlb_flush_all", 0, NULL, flush_all, NULL);
    MEASURE("mmuext_op.invlpg_all", 0, NULL, invlpg_all, NULL);
    MEASURE("mmuext_op.new_baseptr", 0, NULL, baseptr, NULL);
    MEASURE("mmuext_op.new_user_baseptr", 0, NULL, user_baseptr, NULL);
    MEASURE("mmuext_op.clear_page", 0, NULL, clear_page, NULL);
    MEASURE("mmuext_op.copy_page", 0, NULL, copy_page, NULL);
    MEASURE("mmuext_op.set_ldt", 0, NULL, set_ldt, NULL);
}
