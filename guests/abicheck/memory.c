/* Addresses: whose they are, what reading and writing them does; page-table bits as they read back. */
#include "check.h"

static const struct { const char *what; u64 va; s64 vector; u64 error; } reads[] = {
    {"page 0 once unmapped", 0x8, 14, 0},
    {"the top of the lower half", 0x7ffffffff000UL, 14, 0},
    {"the first non-canonical address", 0x800000000000UL, 13, 0},
    {"the last non-canonical address", 0xffff7ffffffffff8UL, 13, 0},
    {"the M2P", M2P_TABLE, -1, 0},
    {"Xen's text", 0xffff82d040200000UL, 14, 1},
    {"the guest's part above Xen", 0xffff880000000000UL, 14, 0},
    {"the last page", 0xfffffffffffff000UL, 14, 0},
};

/* Map `page` with the flags asked for and give the entry as it reads back, without accessed and dirty. */
static u64 as_read(const void *page, u64 flags)
{
    if (protect(page, flags))
        return ~0UL;
    u64 pte = pte_read((u64)page);
    return (pte & 0xfff0000000000fffUL) | (PTE_MFN(pte) == va_to_mfn(page) ? 0 : 1UL << 40);
}

void check_memory(void)
{
    for (u32 i = 0; i < COUNT(reads); i++) {
        struct probe p = {.rdi = reads[i].va};
        probe(&p, probe_load);
        bool same = p.vector == reads[i].vector && (p.vector == -1 || p.frame.error == reads[i].error) &&
            (p.vector != 14 || p.cr2 == reads[i].va);
        if (same)
            check(true, "read of %s: %s %lx", reads[i].what, reads[i].vector == 14 ? "#PF" : reads[i].vector == 13 ? "#GP" : "fine,", reads[i].error);
        else
            check(false, "read of %s: vector %ld, error %lx", reads[i].what, p.vector, p.vector == -1 ? 0 : p.frame.error);
    }
    u64 value;
    try_read(M2P_TABLE + 8 * (start_info->shared_info >> PAGE_SHIFT), &value);
    check(value >= start_info->nr_pages, "M2P of the shared page is no pfn of ours");

    void *page = page_alloc();
    equal("PTE asked with P, W", as_read(page, PTE_P | PTE_W), PTE_GUEST_KERNEL | PTE_P | PTE_W | PTE_U);
    equal("PTE asked with P, W, U", as_read(page, PTE_P | PTE_W | PTE_U), PTE_G | PTE_P | PTE_W | PTE_U);
    equal("PTE asked with P", as_read(page, PTE_P), PTE_GUEST_KERNEL | PTE_P | PTE_U);
    equal("PTE asked with P, U", as_read(page, PTE_P | PTE_U), PTE_G | PTE_P | PTE_U);
    equal("PTE asked with P, U, A, D", as_read(page, PTE_P | PTE_U | PTE_A | PTE_D), PTE_G | PTE_P | PTE_U | PTE_A | PTE_D);
    equal("PTE asked with the three software bits", as_read(page, PTE_P | PTE_U | 0xe00), PTE_G | PTE_P | PTE_U | 0xe00);
    equal("PTE asked with NX", as_read(page, PTE_P | PTE_W | PTE_U | PTE_NX), PTE_NX | PTE_G | PTE_P | PTE_W | PTE_U);
    equal("PTE asked with PWT and PCD: for who has hardware", as_read(page, PTE_P | PTE_U | 0x18),
          is_dom0() ? PTE_G | PTE_P | PTE_U | 0x18 : ~0UL);
    equal("PTE asked without P is kept as it is", as_read(page, 0xe00), 0xe00);
    answer("a not-present mapping faults", try_read((u64)page, &value), 14);
    protect(page, PTE_P | PTE_W | PTE_U);
    *(volatile u64 *)page = 1;
    equal("a write sets accessed and dirty", pte_read((u64)page) & (PTE_A | PTE_D), PTE_A | PTE_D);
    protect(page, PTE_P | PTE_W | PTE_U);
    (void)*(volatile u64 *)page;
    equal("a read sets accessed only", pte_read((u64)page) & (PTE_A | PTE_D), PTE_A);

    answer("a second, read-only mapping", map_frame(SCRATCH_AREA, va_to_mfn(page), PTE_P | PTE_U), 0);
    *(u64 *)page = 0x1122334455667788UL;
    try_read(SCRATCH_AREA, &value);
    equal("both mappings show one page", value, 0x1122334455667788UL);
    answer("write through the read-only one", try_write(SCRATCH_AREA, 1), 14);
    answer("unmap it", unmap(SCRATCH_AREA), 0);
    answer("and it is gone", try_read(SCRATCH_AREA, &value), 14);
    drop_tables(SCRATCH_AREA);
    page_free(page);
}
