/* memory_op: giving pages back, taking more, exchanging them; questions about memory. */
#include "check.h"

static s64 op(u64 cmd, void *arg) { return hypercall_memory_op(cmd, arg); }
static s64 of_domain(u64 cmd, u16 domid) { return op(cmd, &domid); }

static void questions(void)
{
    s64 current = of_domain(XENMEM_current_reservation, DOMID_SELF), most = of_domain(XENMEM_maximum_reservation, DOMID_SELF);
    check(op(XENMEM_maximum_ram_page, NULL) >= (s64)start_info->nr_pages, "maximum_ram_page is at least our memory");
    check(current >= (s64)start_info->nr_pages, "current_reservation is at least nr_pages");
    check(most >= current, "maximum_reservation is at least the current one");
    check(is_dom0() || most == (s64)start_info->nr_pages + 256, "maximum_reservation of a domU: 1 MiB more than it has");
    answer("current_reservation: a domain that is not there", of_domain(XENMEM_current_reservation, 4242), -ESRCH);
    answer("maximum_reservation: a domain that is not there", of_domain(XENMEM_maximum_reservation, 4242), -ESRCH);
    answer("current_reservation: bad pointer", op(XENMEM_current_reservation, WILD), -EFAULT);
    struct machphys_mapping m = {0};
    answer("machphys_mapping", op(XENMEM_machphys_mapping, &m), 0);
    check(m.v_start == M2P_TABLE && m.v_end == M2P_TABLE + (1UL << 38), "machphys_mapping: where the M2P is");
    check(is_dom0() ? m.max_mfn < 0x7ffffffff : m.max_mfn == 0x7ffffffff, "machphys_mapping: max_mfn, real for dom0 only");
    answer("machphys_mapping: bad pointer", op(XENMEM_machphys_mapping, WILD), -EFAULT);
    u8 entries[10 * 20];
    struct memory_map map = {10, entries};
    answer("memory_map: a domU has one", op(XENMEM_memory_map, &map), by_role(-ENOSYS, 0));
    u64 base, size;
    memcpy(&base, entries, 8);
    memcpy(&size, entries + 8, 8);
    check(is_dom0() || (map.nr_entries == 1 && base == 0 && size >= start_info->nr_pages * PAGE_SIZE),
          "memory_map: one entry of RAM from 0");
    answer("memory_map: bad pointer", op(XENMEM_memory_map, WILD), -EFAULT);
    map = (struct memory_map){10, entries};
    answer("machine_memory_map: for dom0", op(XENMEM_machine_memory_map, &map), by_role(0, -EPERM));
    u64 list[2];
    struct machphys_mfn_list ml = {2, list, 0};
    answer("machphys_mfn_list", op(XENMEM_machphys_mfn_list, &ml), 0);
    answer("no such command", op(63, NULL), -ENOSYS);
    struct add_to_physmap add = {DOMID_SELF, 1, 0, 0, 5};
    answer("add_to_physmap: is not for a PV domain", op(XENMEM_add_to_physmap, &add), -EACCES);
    answer("add_to_physmap: bad pointer", op(XENMEM_add_to_physmap, WILD), -EFAULT);
    answer("set_memory_map: bad pointer", op(XENMEM_set_memory_map, WILD), -EFAULT);
}

static s64 reserve(u64 cmd, u64 *frames, u64 count, u32 order, u16 domid)
{
    struct memory_reservation r = {frames, count, order, 0, domid};
    return op(cmd, &r);
}

static void pages(void)
{
    u64 *page = page_alloc(), old = va_to_mfn(page), pfn = (u64)page >> PAGE_SHIFT, frame = old;
    s64 before = of_domain(XENMEM_current_reservation, DOMID_SELF);
    answer("decrease: bad pointer: nothing was done", op(XENMEM_decrease_reservation, WILD), 0);
    answer("decrease: bad pointer to the frames: none was given", reserve(XENMEM_decrease_reservation, WILD, 1, 0, DOMID_SELF), 0);
    frame = 0xffffffff;
    answer("decrease: a frame beyond all", reserve(XENMEM_decrease_reservation, &frame, 1, 0, DOMID_SELF), 0);
    frame = start_info->shared_info >> PAGE_SHIFT;
    answer("decrease: a domain that is not there: nothing was done", reserve(XENMEM_decrease_reservation, &frame, 1, 0, 4242), 0);
    answer("decrease: none", reserve(XENMEM_decrease_reservation, &frame, 0, 0, DOMID_SELF), 0);
    answer("decrease: order 21", reserve(XENMEM_decrease_reservation, &frame, 1, 21, DOMID_SELF), 0);

    unmap((u64)page);
    frame = old;
    answer("decrease: one page", reserve(XENMEM_decrease_reservation, &frame, 1, 0, DOMID_SELF), 1);
    answer("current_reservation is one less", of_domain(XENMEM_current_reservation, DOMID_SELF), before - 1);
    answer("the page is no longer ours", hypercall_update_va_mapping((u64)page, old << PAGE_SHIFT | 7, UVMF_INVLPG), -EBUSY);
    frame = pfn;
    answer("populate_physmap: one page", reserve(XENMEM_populate_physmap, &frame, 1, 0, DOMID_SELF), 1);
    equal("populate_physmap: the M2P says which", mfn_to_pfn(frame), pfn);
    ((u64 *)start_info->mfn_list)[pfn] = frame;
    answer("populate_physmap: it can be mapped", protect(page, PTE_P | PTE_W | PTE_U), 0);
    answer("current_reservation is as before", of_domain(XENMEM_current_reservation, DOMID_SELF), before);
    answer("populate_physmap: bad pointer: nothing was done", op(XENMEM_populate_physmap, WILD), 0);
    answer("populate_physmap: bad pointer to the frames", reserve(XENMEM_populate_physmap, WILD, 1, 0, DOMID_SELF), 0);
    answer("populate_physmap: order 21", reserve(XENMEM_populate_physmap, &frame, 1, 21, DOMID_SELF), 0);
    answer("populate_physmap: a domain that is not there: nothing was done", reserve(XENMEM_populate_physmap, &frame, 1, 0, 4242), 0);

    unmap((u64)page);
    frame = va_to_mfn(page);
    reserve(XENMEM_decrease_reservation, &frame, 1, 0, DOMID_SELF);
    answer("increase: one page", reserve(XENMEM_increase_reservation, &frame, 1, 0, DOMID_SELF), 1);
    answer("increase: the M2P is set by the guest", hypercall_mmu_update(&(struct mmu_update){frame << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, pfn}, 1, NULL, DOMID_SELF), 0);
    ((u64 *)start_info->mfn_list)[pfn] = frame;
    answer("increase: it can be mapped", protect(page, PTE_P | PTE_W | PTE_U), 0);
    answer("increase: bad pointer: nothing was done", op(XENMEM_increase_reservation, WILD), 0);
    page_free(page);
}

static void exchange(void)
{
    u64 *page = page_alloc(), pfn = (u64)page >> PAGE_SHIFT, in = va_to_mfn(page), out = pfn, old = in;
    struct memory_exchange x = {{&in, 1, 0, 0, DOMID_SELF}, {&out, 1, 0, 0, DOMID_SELF}, 0};
    unmap((u64)page);
    answer("exchange: one page for another", op(XENMEM_exchange, &x), 0);
    equal("exchange: one was", x.nr_exchanged, 1);
    check(out != old && mfn_to_pfn(out) == pfn, "exchange: the new one is in the M2P");
    ((u64 *)start_info->mfn_list)[pfn] = out;
    answer("exchange: it can be mapped", protect(page, PTE_P | PTE_W | PTE_U), 0);
    x.nr_exchanged = 1;
    answer("exchange: with all of it done before", op(XENMEM_exchange, &x), 0);
    x = (struct memory_exchange){{&in, 2, 0, 0, DOMID_SELF}, {&out, 1, 0, 0, DOMID_SELF}, 0};
    answer("exchange: two for one", op(XENMEM_exchange, &x), -EINVAL);
    x = (struct memory_exchange){{&in, 1, 0, 0, 4242}, {&out, 1, 0, 0, 4242}, 0};
    answer("exchange: a domain that is not there", op(XENMEM_exchange, &x), -ESRCH);
    in = va_to_mfn((void *)start_info->pt_base);
    out = pfn;
    x = (struct memory_exchange){{&in, 1, 0, 0, DOMID_SELF}, {&out, 1, 0, 0, DOMID_SELF}, 0};
    answer("exchange: a page table", op(XENMEM_exchange, &x), -EINVAL);
    answer("exchange: bad pointer", op(XENMEM_exchange, WILD), -EFAULT);
    page_free(page);
}

void check_reservation(void)
{
    questions();
    pages();
    exchange();
}
