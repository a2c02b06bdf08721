/* mmuext_op: pinning, base pointers, flushes, operations on pages. */
#include "check.h"

static s64 op(u32 cmd, u64 arg1, u64 arg2)
{
    struct mmuext_op o = {cmd, arg1, arg2};
    u32 done = 99;
    return hypercall_mmuext_op(&o, 1, &done, DOMID_SELF);
}

static void pins(void)
{
    u64 top = va_to_mfn((void *)start_info->pt_base);
    u64 *l1 = page_alloc();
    u64 mfn = va_to_mfn(l1);
    answer("pin the running L4 again", op(MMUEXT_PIN_L4_TABLE, top, 0), -EINVAL);
    answer("pin a page that is writable", op(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL);
    protect(l1, PTE_P | PTE_U);
    answer("unpin a page that is not pinned", op(MMUEXT_UNPIN_TABLE, mfn, 0), -EINVAL);
    answer("pin an empty L1", op(MMUEXT_PIN_L1_TABLE, mfn, 0), 0);
    answer("pin it again", op(MMUEXT_PIN_L1_TABLE, mfn, 0), -EINVAL);
    answer("pin it as an L2", op(MMUEXT_PIN_L2_TABLE, mfn, 0), -EINVAL);
    answer("a pinned table cannot be mapped read-write", protect(l1, PTE_P | PTE_W | PTE_U), -EBUSY);
    answer("unpin it", op(MMUEXT_UNPIN_TABLE, mfn, 0), 0);
    answer("then it can", protect(l1, PTE_P | PTE_W | PTE_U), 0);
    static const u32 kinds[] = {MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE};
    for (u32 i = 0; i < COUNT(kinds); i++) {
        protect(l1, PTE_P | PTE_U);
        s64 rc = op(kinds[i], mfn, 0);
        s64 back = rc ? 0 : op(MMUEXT_UNPIN_TABLE, mfn, 0);
        check(rc == 0 && back == 0, "pin and unpin an empty L%u", i + 2);
        protect(l1, PTE_P | PTE_W | PTE_U);
    }
    l1[0] = 1UL << 51 | PTE_P;
    protect(l1, PTE_P | PTE_U);
    answer("pin an L1 that maps a frame beyond all", op(MMUEXT_PIN_L1_TABLE, mfn, 0), -EPERM);
    protect(l1, PTE_P | PTE_W | PTE_U);
    answer("pin a frame beyond all", op(MMUEXT_PIN_L1_TABLE, 0xffffffff, 0), -EINVAL);
    answer("unpin a frame beyond all", op(MMUEXT_UNPIN_TABLE, 0xffffffff, 0), -EINVAL);
    page_free(l1);
}

static void others(void)
{
    u64 top = va_to_mfn((void *)start_info->pt_base);
    u64 *a = page_alloc(), *b = page_alloc(), mask = 1;
    answer("NEW_BASEPTR: the one in use", op(MMUEXT_NEW_BASEPTR, top, 0), 0);
    answer("NEW_BASEPTR: a writable page", op(MMUEXT_NEW_BASEPTR, va_to_mfn(a), 0), -EINVAL);
    answer("NEW_BASEPTR: a frame beyond all", op(MMUEXT_NEW_BASEPTR, 0xffffffff, 0), -EINVAL);
    answer("NEW_USER_BASEPTR: none", op(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    answer("NEW_USER_BASEPTR: a writable page", op(MMUEXT_NEW_USER_BASEPTR, va_to_mfn(a), 0), -EINVAL);
    answer("TLB_FLUSH_LOCAL", op(MMUEXT_TLB_FLUSH_LOCAL, 0, 0), 0);
    answer("INVLPG_LOCAL", op(MMUEXT_INVLPG_LOCAL, KERNEL_BASE, 0), 0);
    answer("INVLPG_LOCAL of Xen's range", op(MMUEXT_INVLPG_LOCAL, M2P_TABLE, 0), 0);
    answer("TLB_FLUSH_MULTI", op(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)&mask), 0);
    answer("TLB_FLUSH_MULTI: bad pointer", op(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)WILD), -EINVAL);
    answer("INVLPG_MULTI", op(MMUEXT_INVLPG_MULTI, KERNEL_BASE, (u64)&mask), 0);
    answer("TLB_FLUSH_ALL", op(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    answer("INVLPG_ALL", op(MMUEXT_INVLPG_ALL, KERNEL_BASE, 0), 0);
    answer("FLUSH_CACHE", op(MMUEXT_FLUSH_CACHE, 0, 0), by_role(0, -EACCES));
    answer("FLUSH_CACHE_GLOBAL", op(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), by_role(0, -EINVAL));
    answer("SET_LDT 0, 0", op(MMUEXT_SET_LDT, 0, 0), 0);
    answer("SET_LDT at an odd address", op(MMUEXT_SET_LDT, (u64)a + 1, 1), -EINVAL);
    answer("SET_LDT of 8193 entries", op(MMUEXT_SET_LDT, (u64)a, 8193), -EINVAL);
    a[5] = 42;
    answer("CLEAR_PAGE", op(MMUEXT_CLEAR_PAGE, va_to_mfn(a), 0), 0);
    equal("CLEAR_PAGE: clears", a[5], 0);
    answer("CLEAR_PAGE: a page table", op(MMUEXT_CLEAR_PAGE, top, 0), -EINVAL);
    b[7] = 43;
    answer("COPY_PAGE", op(MMUEXT_COPY_PAGE, va_to_mfn(a), va_to_mfn(b)), 0);
    equal("COPY_PAGE: copies", a[7], 43);
    answer("COPY_PAGE: from beyond all", op(MMUEXT_COPY_PAGE, va_to_mfn(a), 0xffffffff), -EINVAL);
    answer("MARK_SUPER", op(MMUEXT_MARK_SUPER, va_to_mfn(a), 0), -EOPNOTSUPP);
    answer("14 is no operation", op(14, 0, 0), -ENOSYS);
    answer("99 is no operation", op(99, 0, 0), -ENOSYS);
    answer("bad pointer", hypercall_mmuext_op(WILD, 1, NULL, DOMID_SELF), -EFAULT);
    answer("a domain that is not there", hypercall_mmuext_op(a, 1, NULL, 4242), -ESRCH);
    struct mmuext_op three[3] = {{MMUEXT_TLB_FLUSH_LOCAL, 0, 0}, {99, 0, 0}, {MMUEXT_TLB_FLUSH_LOCAL, 0, 0}};
    u32 done = 9;
    answer("the second of three fails", hypercall_mmuext_op(three, 3, &done, DOMID_SELF), -ENOSYS);
    equal("one was done", done, 1);
    page_free(a);
    page_free(b);
}

void check_mmuext(void)
{
    pins();
    others();
}
