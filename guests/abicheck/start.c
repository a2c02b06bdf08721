/* Start of day: start_info, the memory layout, the shared page, the registers, the first page tables. */
#include "check.h"

void check_start(void)
{
    const struct start_info *s = start_info;
    const struct shared_info *h = &boot_shared_info;
    u64 p2m_pages = (s->nr_pages * 8 + PAGE_SIZE - 1) / PAGE_SIZE;

    text_is("magic", s->magic, is_dom0() ? "xen-3.0-x86_64p" : "xen-3.0-x86_64");
    equal("flags", s->flags & 0xff, is_dom0() ? SIF_PRIVILEGED | SIF_INITDOMAIN : 0);
    check(s->nr_pages > 4096, "nr_pages is plausible");
    check(s->shared_info && !(s->shared_info & 0xfff), "shared_info is a machine address of a page");
    check(mfn_to_pfn(s->shared_info >> PAGE_SHIFT) >= s->nr_pages, "the shared page is not one of ours in the M2P");
    equal("mod_start without a module", s->mod_start, 0);
    equal("mod_len without a module", s->mod_len, 0);
    if (is_dom0()) {
        equal("console: dom0's info_off", s->console.dom0.info_off, offsetof(struct start_info, nr_p2m_frames) + 8);
        equal("console: dom0's info_size", s->console.dom0.info_size, 0x28);
        equal("store_mfn: dom0 has none", s->store_mfn, 0);
    } else {
        u64 console = mfn_to_pfn(s->console.domU.mfn), store = mfn_to_pfn(s->store_mfn), si = (u64)s >> PAGE_SHIFT;
        equal("console page follows the store page", console, store + 1);
        equal("store page follows start_info", store, si + 1);
        check(s->store_evtchn && s->console.domU.evtchn && s->store_evtchn != s->console.domU.evtchn, "store and console ports");
    }
    check(!((u64)s & 0xfff), "start_info begins a page");
    equal("the p2m list ends before start_info", (s->mfn_list + p2m_pages * PAGE_SIZE), (u64)s);
    check(s->mfn_list >= (u64)_end && !(s->mfn_list & 0xfff), "the p2m list follows the kernel");
    equal("the page tables follow", s->pt_base, (u64)s + (is_dom0() ? 1UL : 3UL) * PAGE_SIZE);
    equal("the boot stack follows", boot_regs.rsp, s->pt_base + (s->nr_pt_frames + 1) * PAGE_SIZE);

    bool agree = true;
    for (u64 pfn = 0; pfn < s->nr_pages; pfn++)
        agree = agree && mfn_to_pfn(pfn_to_mfn(pfn)) == pfn;
    check(agree, "p2m and M2P agree for every page");

    u64 *top = (u64 *)s->pt_base, table = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D, mask = 0xfffUL | PTE_GUEST_KERNEL | PTE_NX;
    equal("flags of an L4 entry", *pte_slot(KERNEL_BASE, 4) & mask, table);
    equal("flags of an L3 entry", *pte_slot(KERNEL_BASE, 3) & mask, table);
    equal("flags of an L2 entry", *pte_slot(KERNEL_BASE, 2) & mask, table);
    equal("flags of an L1 entry: USER and GUEST_KERNEL", pte_read(KERNEL_BASE + 0x1000) & mask & ~PTE_D,
          PTE_P | PTE_W | PTE_U | PTE_A | PTE_GUEST_KERNEL);
    equal("flags of an L1 entry that maps the L4", pte_read((u64)top) & mask & ~(PTE_D | PTE_A), PTE_P | PTE_U | PTE_GUEST_KERNEL);
    equal("L4 slots 256, 258, 260 to 262 are Xen's",
          (top[256] & 1) | (top[257] & 1) << 1 | (top[258] & 1) << 2 | (top[260] & 1) << 4 | (top[261] & 1) << 5 | (top[262] & 1) << 6, 0x75);

    static const u8 in_dom0[] = {0, 3, 2, 1}, in_domu[] = {0, 1, 2, 3};
    for (u32 i = 0; i < 4; i++) {
        u64 table = i == 0 ? s->pt_base : (u64)pte_slot(KERNEL_BASE, 4 - (int)i) & ~0xfffUL;
        check((table - s->pt_base) >> PAGE_SHIFT == (is_dom0() ? in_dom0 : in_domu)[i], "the L%u is page %u of the tables", 4 - i,
              (is_dom0() ? in_dom0 : in_domu)[i]);
    }
    u64 end = (boot_regs.rsp + 0x80000 + 0x3fffff) >> 22 << 10; /* in pages: 512 KiB of room, then up to 4 MiB */
    equal("first_p2m_pfn without an INIT_P2M note: where dom0's first mapping ends", s->first_p2m_pfn, is_dom0() ? end : 0);
    extern u64 first_mapping_end;
    equal("512 KiB after the stack, then up to 4 MiB, are mapped", first_mapping_end, end);
    equal("nr_p2m_frames", s->nr_p2m_frames, 0);

    bool masked = true, unmasked = true, quiet = true;
    for (u32 i = 0; i < 32; i++)
        masked = masked && h->vcpu_info[i].evtchn_upcall_mask == 1;
    for (u32 i = 0; i < 64; i++) {
        unmasked = unmasked && !h->evtchn_mask[i];
        quiet = quiet && (!h->evtchn_pending[i] || !is_dom0());
    }
    check(masked, "evtchn_upcall_mask is 1 on every vcpu slot");
    check(unmasked, "evtchn_mask is all 0");
    check(quiet, "no port is pending in dom0");
    check(h->vcpu_info[0].time.tsc_to_system_mul && !(h->vcpu_info[0].time.version & 1), "the clock's parameters are there");
    check(h->wc_sec || h->wc_sec_hi, "the wall clock is set");
}

void check_entry(void)
{
    const struct boot_regs *r = &boot_regs;
    equal("rsi = start_info", r->rsi, (u64)start_info);
    equal("rax, rbx, rcx, rdx are 0", r->rax | r->rbx | r->rcx | r->rdx, 0);
    equal("rdi, rbp are 0", r->rdi | r->rbp, 0);
    equal("r8 to r15 are 0", r->r8 | r->r9 | r->r10 | r->r11 | r->r12 | r->r13 | r->r14 | r->r15, 0);
    equal("rflags", r->rflags, 0x202);
    equal("cs", r->cs, FLAT_RING3_CS64);
    equal("ss", r->ss, FLAT_RING3_SS64);
    equal("ds, es, fs, gs are null", r->ds | r->es | r->fs | r->gs, 0);
    equal("rsp is the end of a page", r->rsp & 0xfff, 0);
}
