/* update_va_mapping and mmu_update: what they take, what they refuse, with which errno. */
#include "check.h"

static s64 update(u64 ptr, u64 val, u32 domid)
{
    struct mmu_update u = {ptr, val};
    u32 done = 99;
    return hypercall_mmu_update(&u, 1, &done, domid);
}

static u64 slot_address(u64 va, int level)
{
    u64 *slot = pte_slot(va, level);
    return va_to_machine(slot);
}

static u64 of(const void *page, u64 flags) { return va_to_mfn(page) << PAGE_SHIFT | flags; }

static void va_mapping(void)
{
    void *page = page_alloc(), *top = (void *)start_info->pt_base;
    answer("update_va_mapping: a page table read-write", protect(top, PTE_P | PTE_W | PTE_U), -EBUSY);
    answer("update_va_mapping: a page table read-only", protect(top, PTE_P | PTE_U), 0);
    answer("update_va_mapping: machine frame 0x10", hypercall_update_va_mapping((u64)page, 0x10 << PAGE_SHIFT | PTE_P | PTE_U,
           UVMF_INVLPG), by_role(0, -EPERM));
    protect(page, PTE_P | PTE_W | PTE_U);
    answer("update_va_mapping: a frame beyond all", hypercall_update_va_mapping((u64)page,
           0xffffffffUL << PAGE_SHIFT | PTE_P | PTE_U, UVMF_INVLPG), -EPERM);
    answer("update_va_mapping: no L1 there", hypercall_update_va_mapping(SCRATCH_AREA, of(page, PTE_P | PTE_U), UVMF_INVLPG), -EINVAL);
    answer("update_va_mapping: Xen's range", hypercall_update_va_mapping(M2P_TABLE, of(page, PTE_P | PTE_U), UVMF_INVLPG), -EINVAL);
    answer("update_va_mapping: non-canonical", hypercall_update_va_mapping(0x800000000000UL, of(page, PTE_P | PTE_U), UVMF_INVLPG),
           -EINVAL);
    answer("update_va_mapping: the software bit 53", hypercall_update_va_mapping((u64)page, of(page, PTE_P | PTE_U | 1UL << 53),
           UVMF_INVLPG), 0);
    answer("update_va_mapping: PAT, for who has hardware", hypercall_update_va_mapping((u64)page, of(page,
           PTE_P | PTE_W | PTE_U | PTE_PS), UVMF_INVLPG), by_role(0, -EINVAL));
    protect(page, PTE_P | PTE_W | PTE_U);
    answer("update_va_mapping: flush of the whole TLB", hypercall_update_va_mapping((u64)page, of(page, PTE_P | PTE_W | PTE_U),
           UVMF_TLB_FLUSH), 0);
    answer("update_va_mapping: no flush", hypercall_update_va_mapping((u64)page, of(page, PTE_P | PTE_W | PTE_U), UVMF_NONE), 0);
    answer("update_va_mapping: an unknown flush", hypercall_update_va_mapping((u64)page, of(page, PTE_P | PTE_W | PTE_U), 3), 0);
    answer("update_va_mapping_otherdomain: ourselves",
           hypercall_update_va_mapping_otherdomain((u64)page, of(page, PTE_P | PTE_W | PTE_U), UVMF_INVLPG, DOMID_SELF), 0);
    answer("update_va_mapping_otherdomain: no such domain",
           hypercall_update_va_mapping_otherdomain((u64)page, of(page, PTE_P | PTE_W | PTE_U), UVMF_INVLPG, 4242), -ESRCH);
    page_free(page);
}

static void requests(void)
{
    void *page = page_alloc();
    u64 l1 = slot_address((u64)page, 1), l4 = va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT, mfn = va_to_mfn(page);
    answer("mmu_update: an L1 entry", update(l1, of(page, PTE_P | PTE_W | PTE_U), DOMID_SELF), 0);
    answer("mmu_update: of a page that is no table", update(va_to_machine(page), 0x1234567800, DOMID_SELF), 0);
    equal("mmu_update: writes such a page", *(u64 *)page, 0x1234567800);
    answer("mmu_update: L4[5] = 0", update(l4 + 5 * 8, 0, DOMID_SELF), 0);
    answer("mmu_update: L4[256] is Xen's", update(l4 + 256 * 8, 0, DOMID_SELF), -EINVAL);
    answer("mmu_update: L4[271] is Xen's", update(l4 + 271 * 8, 0, DOMID_SELF), -EINVAL);
    answer("mmu_update: L4[272] is the guest's", update(l4 + 272 * 8, 0, DOMID_SELF), 0);
    answer("mmu_update: L4 entry to a page that is writable", update(l4 + 5 * 8, of(page, 0x67), DOMID_SELF), -EINVAL);
    answer("mmu_update: L4 entry with PSE", update(l4 + 5 * 8, of(page, 0xe7), DOMID_SELF), -EINVAL);
    answer("mmu_update: L1 entry that maps the L4 read-write", update(l1, l4 | PTE_P | PTE_W | PTE_U, DOMID_SELF), -EBUSY);
    answer("mmu_update: L2 entry with PSE", update(slot_address((u64)page, 2), (va_to_mfn(page) & ~511UL) << PAGE_SHIFT | 0xe7,
           DOMID_SELF), -EINVAL);
    protect(page, PTE_P | PTE_W | PTE_U);
    *(volatile u64 *)page = 1;
    answer("mmu_update: preserving accessed and dirty", update(l1 | MMU_PT_UPDATE_PRESERVE_AD, of(page, PTE_P | PTE_W | PTE_U),
           DOMID_SELF), 0);
    equal("mmu_update: they are preserved", pte_read((u64)page) & (PTE_A | PTE_D), PTE_A | PTE_D);
    answer("mmu_update: unknown kind", update(l1 | 4, of(page, PTE_P | PTE_W | PTE_U), DOMID_SELF), -ENOSYS);
    answer("mmu_update: MACHPHYS of a page of ours", update(mfn << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 0x4321, DOMID_SELF), 0);
    equal("mmu_update: MACHPHYS is seen in the M2P", mfn_to_pfn(mfn), 0x4321);
    update(mfn << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, (u64)page >> PAGE_SHIFT, DOMID_SELF);
    answer("mmu_update: MACHPHYS of a frame beyond all", update(0xffffffffUL << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, 1, DOMID_SELF), -EINVAL);
    answer("mmu_update: a table beyond all memory", update(0xffffffffUL << PAGE_SHIFT, 0, DOMID_SELF), -EINVAL);
    answer("mmu_update: for a domain that is not there", update(l1, 0, 4242), -ESRCH);
    answer("mmu_update: bad pointer", hypercall_mmu_update(WILD, 1, NULL, DOMID_SELF), -EFAULT);
    answer("mmu_update: no requests", hypercall_mmu_update(WILD, 0, NULL, DOMID_SELF), 0);

    struct mmu_update two[3] = {{l1, of(page, PTE_P | PTE_W | PTE_U)}, {l4 + 256 * 8, 0}, {l1, of(page, PTE_P | PTE_U)}};
    u32 done = 99;
    answer("mmu_update: the second of three fails", hypercall_mmu_update(two, 3, &done, DOMID_SELF), -EINVAL);
    equal("mmu_update: one was done", done, 1);
    equal("mmu_update: the third was not", pte_read((u64)page) & PTE_W, PTE_W);
    answer("mmu_update: all of three", (two[1] = two[0], hypercall_mmu_update(two, 3, &done, DOMID_SELF)), 0);
    equal("mmu_update: three were done", done, 3);
    protect(page, PTE_P | PTE_W | PTE_U);
    page_free(page);
}

static void tables(void)
{
    void *page = page_alloc();
    answer("a mapping that needs three tables", map_frame(SCRATCH_AREA, va_to_mfn(page), PTE_P | PTE_W | PTE_U), 0);
    void *l1 = (void *)(mfn_to_pfn(PTE_MFN(*pte_slot(SCRATCH_AREA, 2))) << PAGE_SHIFT);
    answer("its L1 cannot be mapped read-write", protect(l1, PTE_P | PTE_W | PTE_U), -EBUSY);
    answer("nor be an L2 as well", update(slot_address(SCRATCH_AREA, 3), of(l1, 0x67), DOMID_SELF), -EINVAL);
    answer("it can be hung in twice", update(slot_address(SCRATCH_AREA + (2UL << 20), 2), of(l1, 0x67), DOMID_SELF), 0);
    u64 value = 0;
    *(u64 *)page = 77;
    answer("and is then seen twice", try_read(SCRATCH_AREA + (2UL << 20), &value) == -1 ? (s64)value : -1, 77);
    update(slot_address(SCRATCH_AREA + (2UL << 20), 2), 0, DOMID_SELF);
    unmap(SCRATCH_AREA);
    answer("a table with a bad entry is refused", ({
        u64 *bad = page_alloc();
        bad[3] = va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
        protect(bad, PTE_P | PTE_U);
        s64 rc = update(slot_address(SCRATCH_AREA + (4UL << 20), 2), of(bad, 0x67), DOMID_SELF);
        protect(bad, PTE_P | PTE_W | PTE_U);
        page_free(bad);
        rc;
    }), -EBUSY);
    answer("take the three empty tables back", drop_tables(SCRATCH_AREA), 0);
    page_free(page);
}

void check_mmu(void)
{
    va_mapping();
    requests();
    tables();
}
