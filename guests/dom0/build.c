/* The domain builder, in libxc's order and with its layout (tools/libs/guest/xg_dom_*.c):
 *
 *   kernel [ramdisk] p2m start_info store console L4 L3.. L2.. L1.. stack padding  [ramdisk] [p2m L3.. L2.. L1..]
 *
 * mapped at virt_base + pfn * 4096 up to a 4 MiB boundary that leaves at least 512 KiB behind the boot stack. What kernels want outside of
 * that comes after it: a ramdisk to be found by its frame number, a p2m list at an address of its own (Linux).
 */
#include "build.h"

enum { SUPERPAGE = 9, PADDING = (512 << 10) / PAGE_SIZE, A_BATCH = 1024 };
#define BOUNDARY ((1UL << 22) - 1)
#define ADDRESS ((1UL << 48) - 1) /* those bits of an address that are translated */
#define LEAF 0x23UL /* what the builder asks for: present, writable, accessed; tables read-only */
#define LEAF_READ_ONLY 0x21UL
#define TABLE 0x67UL
#define MAGIC "xen-3.0-x86_64"

static int failed(struct dom *d, int rc, const char *what)
{
    snprintf(d->error, sizeof d->error, "%s", what);
    return rc < 0 ? rc : -EINVAL;
}

/* Of what is done in dom0's own memory: tables for its mappings, records. */
static int failed_here(struct dom *d, int rc, const char *what)
{
    return failed(d, rc, rc == -ENOMEM ? "dom0 has no memory left to build it" : what);
}

static u64 pages_of(u64 bytes)
{
    return (bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;
}

/* The memory itself: 2 MiB at a time as far as that goes, then page by page. */
static int populate(struct dom *d)
{
    u64 done = 0, frames[64];
    while (d->pages - done >= 1UL << SUPERPAGE) {
        u64 n = (d->pages - done) >> SUPERPAGE;
        if (n > COUNT(frames))
            n = COUNT(frames);
        for (u64 i = 0; i < n; i++)
            frames[i] = done + (i << SUPERPAGE);
        s64 got = xc_populate_physmap(d->domid, n, SUPERPAGE, frames);
        if (got < 0)
            return (int)got;
        for (u64 i = 0; i < (u64)got; i++)
            for (u64 k = 0; k < 1UL << SUPERPAGE; k++)
                d->p2m[done++] = frames[i] + k;
        if ((u64)got < n)
            break; /* no such piece is left */
    }
    while (done < d->pages) {
        u64 n = d->pages - done < A_BATCH ? d->pages - done : A_BATCH;
        for (u64 i = 0; i < n; i++)
            d->p2m[done + i] = done + i;
        s64 got = xc_populate_physmap(d->domid, n, 0, d->p2m + done);
        if (got < 0)
            return (int)got;
        if ((u64)got < n)
            return -ENOMEM;
        done += n;
    }
    return 0;
}

int dom_memory(struct dom *d)
{
    int rc = xc_domain_set_address_size(d->domid, 64);
    if (rc)
        return failed(d, rc, "the domain cannot be a 64-bit one");
    d->p2m = memory_take(d->pages * sizeof *d->p2m);
    if (!d->p2m)
        return failed(d, -ENOMEM, "dom0 has no memory left for its list of frames");
    rc = populate(d);
    if (rc)
        return failed(d, rc, "the host has not so much memory left");
    return 0;
}

/* How many tables of a level [start, end) needs. */
static u64 tables_at(u64 start, u64 end, int level)
{
    u32 bits = 12 + 9 * (u32)level;
    return ((end - 1) >> bits) - (start >> bits) + 1;
}

static u64 tables_for(u64 start, u64 end)
{
    u64 n = 0;
    start &= ADDRESS;
    end = ((end - 1) & ADDRESS) + 1;
    for (int level = 4; level; level--)
        n += tables_at(start, end, level);
    return n;
}

static int lay_out(struct dom *d)
{
    const struct image *m = &d->image;
    u64 base = m->virt_base, end, n = 1 + PADDING, at;
    if (m->end - base > d->pages << PAGE_SHIFT)
        return failed(d, -ENOMEM, "the kernel does not fit into the domain's memory");
    at = pages_of(m->end - base);
    d->module_pfn = d->module_start = 0;
    if (d->ramdisk_size && !m->module_by_pfn) {
        d->module_pfn = at;
        d->module_start = base + at * PAGE_SIZE;
        at += pages_of(d->ramdisk_size);
    }
    bool outside = m->p2m_base != NONE && m->p2m_base < base && m->p2m_base % PAGE_SIZE == 0;
    u64 p2m_pages = pages_of(d->pages * sizeof(u64));
    d->p2m_va = base + at * PAGE_SIZE;
    d->p2m_pfn = at;
    if (!outside)
        at += p2m_pages;
    d->start_info_pfn = at;
    d->store_pfn = at + 1;
    d->console_pfn = at + 2;
    d->tables_pfn = at += 3; /* the boot tables */
    do {
        u64 last = base + (at + n) * PAGE_SIZE;
        if (last < base || last >= ~BOUNDARY)
            return failed(d, -EINVAL, "the kernel lies where there are no addresses left for its first page tables");
        end = (last | BOUNDARY) + 1;
        n = tables_for(base, end) + 1 + PADDING;
    } while (base + (at + n) * PAGE_SIZE > end);
    d->ntables = tables_for(base, end);
    d->stack_pfn = at + d->ntables;
    d->boot = (struct span){base & ADDRESS, (end - base) >> PAGE_SHIFT, 0, at};
    u64 needed = d->boot.pages;
    if (d->ramdisk_size && m->module_by_pfn) {
        d->module_pfn = d->module_start = needed;
        needed += pages_of(d->ramdisk_size);
    }
    d->outer = (struct span){0};
    if (outside) {
        u64 start = m->p2m_base & ADDRESS, last = start + p2m_pages * PAGE_SIZE - 1;
        if (start >> 39 != last >> 39 || start >> 39 == d->boot.start >> 39)
            return failed(d, -EOPNOTSUPP, "the kernel wants its p2m list where this builder cannot put it");
        d->p2m_va = m->p2m_base;
        d->p2m_pfn = needed;
        d->outer = (struct span){start, p2m_pages, needed, needed + p2m_pages};
        needed += p2m_pages + tables_for(start, last + 1) - 1; /* the top table is there */
    }
    d->needed = needed;
    if (needed > d->pages)
        return failed(d, -ENOMEM, "the domain has too little memory for kernel, ramdisk and first page tables");
    if (m->hypercall_page != NONE && (m->hypercall_page < base || m->hypercall_page >= end || m->hypercall_page % PAGE_SIZE))
        return failed(d, -EINVAL, "the kernel's hypercall page is no page of its own");
    return 0;
}

/* Copy to the domain's memory at byte `address`, whatever is there besides in the pages. */
static int put(struct dom *d, u64 address, const u8 *data, u64 size)
{
    while (size) {
        u64 pfn = address >> PAGE_SHIFT, offset = address % PAGE_SIZE, n = pages_of(offset + size);
        if (n > A_BATCH)
            n = A_BATCH;
        u8 *at = xc_map_foreign(d->domid, d->p2m + pfn, n, true);
        if (!at)
            return xc_errno;
        u64 part = n * PAGE_SIZE - offset < size ? n * PAGE_SIZE - offset : size;
        memcpy(at + offset, data, part);
        int rc = xc_unmap(at, n);
        if (rc)
            return rc;
        address += part;
        data += part;
        size -= part;
    }
    return 0;
}

int dom_kernel(struct dom *d)
{
    struct image *m = &d->image;
    int rc = elf_parse(d->kernel, d->kernel_size, m, d->error, sizeof d->error);
    if (rc || (rc = lay_out(d)))
        return rc;
    for (u32 i = 0; i < m->nsegments && !rc; i++) /* pages are zero until they are written */
        rc = put(d, m->segments[i].va - m->virt_base, m->segments[i].data, m->segments[i].file_size);
    if (!rc && d->ramdisk_size)
        rc = put(d, d->module_pfn * PAGE_SIZE, d->ramdisk, d->ramdisk_size);
    return rc ? failed_here(d, rc, "the kernel cannot be copied to the domain") : 0;
}

/* A span's tables from level `top` on, in the order of levels and addresses; `at` is where they are mapped in a row here. */
static void fill_tables(struct dom *d, const struct span *s, int top, u64 *at)
{
    u64 end = s->start + s->pages * PAGE_SIZE, first[5], pfn = s->tables;
    for (int level = top; level; level--) {
        first[level] = pfn;
        pfn += tables_at(s->start, end, level);
    }
    for (int level = top; level > 1; level--) {
        u32 bits = 12 + 9 * (u32)(level - 1);
        for (u64 i = s->start >> bits, k = 0; i <= (end - 1) >> bits; i++, k++) {
            u64 *table = at + 512 * (first[level] - s->tables + (i >> 9) - (s->start >> (bits + 9)));
            table[i & 511] = d->p2m[first[level - 1] + k] << PAGE_SHIFT | TABLE;
        }
    }
    u64 *entry = at + 512 * (first[1] - s->tables) + (s->start >> PAGE_SHIFT & 511);
    u64 tables_end = d->tables_pfn + d->ntables;
    for (u64 i = 0; i < s->pages; i++) {
        pfn = s->pfn + i;
        entry[i] = d->p2m[pfn] << PAGE_SHIFT | (pfn >= d->tables_pfn && pfn < tables_end ? LEAF_READ_ONLY : LEAF);
    }
}

static void fill_start_info(struct dom *d, struct start_info *s)
{
    const struct image *m = &d->image;
    memcpy(s->magic, MAGIC, sizeof MAGIC);
    s->nr_pages = d->pages;
    s->shared_info = d->shared_info_frame << PAGE_SHIFT;
    s->flags = d->flags | (d->ramdisk_size && m->module_by_pfn ? SIF_MOD_START_PFN : 0);
    s->store_mfn = d->store_mfn;
    s->store_evtchn = d->store_port;
    s->console.domU.mfn = d->console_mfn;
    s->console.domU.evtchn = d->console_port;
    s->pt_base = m->virt_base + d->tables_pfn * PAGE_SIZE;
    s->nr_pt_frames = d->ntables;
    s->mfn_list = d->p2m_va;
    if (d->outer.pages) {
        s->first_p2m_pfn = d->p2m_pfn;
        s->nr_p2m_frames = d->needed - d->p2m_pfn;
    }
    s->mod_start = d->module_start;
    s->mod_len = d->ramdisk_size && m->module_by_pfn ? pages_of(d->ramdisk_size) * PAGE_SIZE : d->ramdisk_size;
    snprintf(s->cmd_line, sizeof s->cmd_line, "%s", d->cmdline ? d->cmdline : "");
}

/* p2m, start_info, rings and tables lie in a row: one mapping for them all. A p2m outside lies in a row with its own tables. */
static int fill(struct dom *d)
{
    u64 first = d->outer.pages ? d->start_info_pfn : d->p2m_pfn, n = d->stack_pfn - first, *outer = NULL;
    u8 *at = xc_map_foreign(d->domid, d->p2m + first, n, true);
    if (!at)
        return xc_errno;
    u64 *tables = (u64 *)(at + (d->tables_pfn - first) * PAGE_SIZE), *list = (u64 *)at;
    fill_start_info(d, (struct start_info *)(at + (d->start_info_pfn - first) * PAGE_SIZE));
    fill_tables(d, &d->boot, 4, tables);
    if (d->outer.pages) {
        outer = list = xc_map_foreign(d->domid, d->p2m + d->p2m_pfn, d->needed - d->p2m_pfn, true);
        if (!outer) {
            xc_unmap(at, n);
            return xc_errno;
        }
        fill_tables(d, &d->outer, 3, outer + 512 * d->outer.pages);
        tables[d->outer.start >> 39] = d->p2m[d->outer.tables] << PAGE_SHIFT | TABLE;
    }
    memcpy(list, d->p2m, d->pages * sizeof *d->p2m);
    int rc = outer ? xc_unmap(outer, d->needed - d->p2m_pfn) : 0; /* the last one mapped goes first */
    return rc ? rc : xc_unmap(at, n);
}

/* The shared page begins with upcalls masked, on every vCPU that has its vcpu_info there. */
static int mask_upcalls(struct dom *d)
{
    struct shared_info *s = xc_map_foreign(d->domid, &d->shared_info_frame, 1, true);
    if (!s)
        return xc_errno;
    for (u32 i = 0; i < COUNT(s->vcpu_info); i++)
        s->vcpu_info[i].evtchn_upcall_mask = 1;
    return xc_unmap(s, 1);
}

static int first_registers(struct dom *d)
{
    struct vcpu_guest_context *c = memory_take(sizeof *c);
    u64 base = d->image.virt_base;
    if (!c)
        return -ENOMEM;
    c->flags = VGCF_in_kernel | VGCF_online;
    c->user_regs.rip = d->image.entry;
    c->user_regs.rsp = c->kernel_sp = base + (d->stack_pfn + 1) * PAGE_SIZE;
    c->user_regs.rsi = base + d->start_info_pfn * PAGE_SIZE;
    c->user_regs.rflags = 0x200;
    c->user_regs.cs = 0xe033;
    c->user_regs.ss = c->kernel_ss = 0xe02b;
    c->ctrlreg[3] = d->p2m[d->tables_pfn] << PAGE_SHIFT;
    c->debugreg[6] = 0xffff0ff0;
    c->debugreg[7] = 0x400;
    int rc = xc_vcpu_setcontext(d->domid, 0, c);
    memory_release(c);
    return rc;
}

int dom_boot(struct dom *d)
{
    struct xc_info info;
    int rc = xc_domain_getinfo(d->domid, &info);
    if (rc)
        return failed(d, rc, "the domain is gone");
    d->shared_info_frame = info.shared_info_frame;
    d->store_mfn = d->store_port ? d->p2m[d->store_pfn] : 0;
    d->console_mfn = d->console_port ? d->p2m[d->console_pfn] : 0;
    if ((rc = fill(d)))
        return failed_here(d, rc, "p2m list and page tables cannot be written");
    u64 page = d->image.hypercall_page;
    if (page != NONE && (rc = xc_domain_hypercall_init(d->domid, d->p2m[(page - d->image.virt_base) >> PAGE_SHIFT])))
        return failed(d, rc, "Xen refuses the hypercall page");
    if ((rc = xc_pin_l4(d->domid, d->p2m[d->tables_pfn])))
        return failed(d, rc, "Xen refuses the page tables");
    if ((rc = mask_upcalls(d)))
        return failed_here(d, rc, "the shared page cannot be mapped");
    if ((rc = xc_gnttab_seed(d->domid, d->console_mfn, d->console_domid, d->store_mfn, d->store_domid)))
        return failed_here(d, rc, "the rings cannot be granted");
    if ((rc = first_registers(d)))
        return failed_here(d, rc, "Xen refuses the first registers");
    return 0;
}

void dom_free(struct dom *d)
{
    memory_release(d->p2m);
    d->p2m = NULL;
}
