/* Memory of other domains: giving them some, mapping it here, pinning their tables, seeding their grant table. */
#include "xc.h"

/* A window of addresses for foreign frames. Mappings are given back in the reverse order, as a stack. */
#define FOREIGN_AREA 0x48000000000UL
enum { FOREIGN_PAGES = 16384, BATCH = 512, E820_RAM = 1 };
static u64 used, with_tables;
int xc_errno;

s64 xc_populate_physmap(u32 domid, u64 n, u32 order, u64 *frames)
{
    struct memory_reservation r = {frames, n, order, 0, (u16)domid};
    return hypercall_memory_op(XENMEM_populate_physmap, &r);
}

int xc_decrease_reservation(u32 domid, u64 n, const u64 *frames)
{
    struct memory_reservation r = {(u64 *)frames, n, 0, 0, (u16)domid};
    s64 rc = hypercall_memory_op(XENMEM_decrease_reservation, &r);
    return rc < 0 ? (int)rc : (u64)rc == n ? 0 : -EINVAL;
}

int xc_claim_pages(u32 domid, u64 pages)
{
    struct memory_reservation r = {NULL, pages, 0, 0, (u16)domid};
    return (int)hypercall_memory_op(XENMEM_claim_pages, &r);
}

int xc_domain_set_memmap_limit(u32 domid, u64 kib)
{
    struct { u64 address, size; u32 type; } __attribute__((packed)) ram = {0, kib << 10, E820_RAM};
    struct { u16 domid; struct memory_map map; } m = {(u16)domid, {1, &ram}};
    return (int)hypercall_memory_op(XENMEM_set_memory_map, &m);
}

/* Write the entries for [va, va + n pages) in as few calls as they need, each with a flush of the old ones. */
static int set_entries(u64 va, const u64 *mfns, u64 n, u64 flags, u32 domid)
{
    static struct mmu_update updates[BATCH];
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    while (n) {
        u64 part = 0;
        u64 slot = 0;
        for (; part < n && part < BATCH; part++, va += PAGE_SIZE, slot += 8) {
            if (!part || !(va & 0x1fffff))
                slot = va_to_machine(pte_slot(va, 1));
            updates[part] = (struct mmu_update){slot, mfns ? mfns[part] << PAGE_SHIFT | flags : 0};
        }
        struct multicall_entry calls[] = {{HYPERVISOR_mmu_update, 0, {(u64)updates, part, 0, domid}},
                                          {HYPERVISOR_mmuext_op, 0, {(u64)&flush, 1, 0, DOMID_SELF}}};
        s64 rc = hypercall_multicall(calls, 2);
        if (!rc)
            rc = (s64)calls[0].result;
        if (rc < 0)
            return (int)rc;
        n -= part;
        if (mfns)
            mfns += part;
    }
    return 0;
}

void *xc_map_foreign(u32 domid, const u64 *mfns, u64 n, bool writable)
{
    u64 va = FOREIGN_AREA + used * PAGE_SIZE;
    if (used + n > FOREIGN_PAGES) {
        xc_errno = -ENOSPC;
        return NULL;
    }
    while (with_tables < used + n) {
        if ((xc_errno = map_tables(FOREIGN_AREA + with_tables * PAGE_SIZE)))
            return NULL;
        with_tables += 512;
    }
    used += n;
    xc_errno = set_entries(va, mfns, n, PTE_P | PTE_U | PTE_A | PTE_NX | (writable ? PTE_W | PTE_D : 0), domid);
    if (!xc_errno)
        return (void *)va;
    xc_unmap((void *)va, n); /* some of them may be mapped */
    return NULL;
}

int xc_unmap(void *at, u64 n)
{
    if ((u64)at + n * PAGE_SIZE != FOREIGN_AREA + used * PAGE_SIZE)
        panic("foreign mappings are given back in the wrong order");
    used -= n;
    return set_entries((u64)at, NULL, n, 0, DOMID_SELF);
}

int xc_pin_l4(u32 domid, u64 mfn)
{
    struct mmuext_op op = {MMUEXT_PIN_L4_TABLE, mfn, 0};
    return (int)hypercall_mmuext_op(&op, 1, NULL, domid);
}

s64 xc_evtchn_alloc_unbound(u32 domid, u32 remote)
{
    struct evtchn_alloc_unbound a = {(u16)domid, (u16)remote, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &a);
    return rc ? rc : (s64)a.port;
}

int xc_gnttab_seed(u32 domid, u64 console_mfn, u32 console_domid, u64 store_mfn, u32 store_domid)
{
    u64 frame;
    struct gnttab_setup_table s = {(u16)domid, 1, 0, &frame};
    if (!console_mfn && !store_mfn)
        return 0;
    int rc = (int)hypercall_grant_table_op(GNTTABOP_setup_table, &s, 1);
    if (rc || s.status)
        return rc ? rc : -EINVAL;
    struct grant_entry *table = xc_map_foreign(domid, &frame, 1, true);
    if (!table)
        return xc_errno;
    if (console_mfn)
        table[0] = (struct grant_entry){GTF_permit_access, (u16)console_domid, (u32)console_mfn};
    if (store_mfn)
        table[1] = (struct grant_entry){GTF_permit_access, (u16)store_domid, (u32)store_mfn};
    return xc_unmap(table, 1);
}

s64 xc_version(u32 command, void *arg)
{
    return hypercall_xen_version(command, arg);
}
