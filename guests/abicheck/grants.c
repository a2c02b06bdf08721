/* grant_table_op: the table's size and version, mapping and copying our own pages, what is refused. */
#include "check.h"

static s64 op(u32 cmd, void *arg) { return hypercall_grant_table_op(cmd, arg, 1); }

static void table(void)
{
    struct gnttab_query_size q = {.dom = DOMID_SELF, .status = 9};
    answer("query_size", op(GNTTABOP_query_size, &q), 0);
    check(q.status == GNTST_okay && q.nr_frames == 1 && q.max_nr_frames == 64, "query_size: 1 of 64 frames");
    q.dom = 4242;
    answer("query_size: a domain that is not there", (op(GNTTABOP_query_size, &q), q.status), GNTST_bad_domain);
    u64 frames[2] = {0, 0};
    struct gnttab_setup_table s = {DOMID_SELF, 65, 9, frames};
    answer("setup_table: 65 frames", (op(GNTTABOP_setup_table, &s), s.status), GNTST_general_error);
    s = (struct gnttab_setup_table){DOMID_SELF, 1, 9, frames};
    answer("setup_table", op(GNTTABOP_setup_table, &s), 0);
    answer("setup_table: status", s.status, GNTST_okay);
    equal("setup_table: the frame is the one that is mapped", frames[0], PTE_MFN(pte_read((u64)grant_table)));
    s = (struct gnttab_setup_table){4242, 1, 9, frames};
    answer("setup_table: a domain that is not there", (op(GNTTABOP_setup_table, &s), s.status), GNTST_bad_domain);
    answer("setup_table: bad pointer", op(GNTTABOP_setup_table, WILD), -EFAULT);
    answer("setup_table: takes one at a time", hypercall_grant_table_op(GNTTABOP_setup_table, &s, 2), -EINVAL);
    struct gnttab_get_version v = {DOMID_SELF, 0, 9};
    answer("get_version", op(GNTTABOP_get_version, &v), 0);
    equal("get_version: 1 by default", v.version, 1);
    struct gnttab_version set = {3};
    answer("set_version: 3", op(GNTTABOP_set_version, &set), -EINVAL);
    set.version = 2;
    answer("set_version: 2", op(GNTTABOP_set_version, &set), 0);
    equal("set_version: tells the one before", set.version, 2);
    op(GNTTABOP_get_version, &v);
    equal("get_version: 2 now", v.version, 2);
    set.version = 1;
    answer("set_version: back to 1", op(GNTTABOP_set_version, &set), 0);
    if (!is_dom0()) {
        check(grant_table[0].flags == (GTF_permit_access | GTF_reading | GTF_writing) && grant_table[0].domid == 0,
              "entry 0 is the console's, for dom0, in use");
        check(grant_table[1].flags == (GTF_permit_access | GTF_reading | GTF_writing) && grant_table[1].domid == 0,
              "entry 1 is the store's, for dom0, in use");
        check(grant_table[0].frame == start_info->console.domU.mfn && grant_table[1].frame == start_info->store_mfn,
              "they name the pages of start_info");
    }
    answer("no such operation", op(99, WILD), -ENOSYS);
    answer("map: none", hypercall_grant_table_op(GNTTABOP_map_grant_ref, WILD, 0), 0);
    answer("map: bad pointer", op(GNTTABOP_map_grant_ref, WILD), -EFAULT);
    answer("unmap: bad pointer", op(GNTTABOP_unmap_grant_ref, WILD), -EFAULT);
    answer("copy: bad pointer", op(GNTTABOP_copy, WILD), -EFAULT);
}

static struct gnttab_map map(u64 va, u32 flags, u32 ref, u16 dom)
{
    struct gnttab_map m = {.host_addr = va, .flags = flags, .ref = ref, .dom = dom, .status = 99};
    if (op(GNTTABOP_map_grant_ref, &m))
        m.status = 98;
    return m;
}

static short unmap_grant(u64 va, u64 bus, u32 handle)
{
    struct gnttab_unmap u = {va, bus, handle, 99};
    return op(GNTTABOP_unmap_grant_ref, &u) ? 98 : u.status;
}

/* A domain may map what it granted to itself. */
static void mapping(u16 self)
{
    u64 *page = page_alloc(), *slot = page_alloc(), value = 0;
    u32 ref = grant_access(self, va_to_mfn(page), false);
    *page = 0x1234;
    answer("map: domains are named by number, DOMID_SELF is none", map((u64)slot, GNTMAP_host_map, ref, DOMID_SELF).status,
           GNTST_bad_domain);
    answer("map: no such reference", map((u64)slot, GNTMAP_host_map, 511, self).status, GNTST_general_error);
    answer("map: a reference beyond the table", map((u64)slot, GNTMAP_host_map, 100000, self).status, GNTST_bad_gntref);
    answer("map: a domain that is not there", map((u64)slot, GNTMAP_host_map, ref, 4242).status, GNTST_bad_domain);
    answer("map: no kind of mapping asked for", map((u64)slot, 0, ref, self).status, GNTST_bad_gntref);
    unmap((u64)slot);
    struct gnttab_map m = map((u64)slot, GNTMAP_host_map, ref, self);
    answer("map: our own page", m.status, GNTST_okay);
    equal("map: bus address", m.dev_bus_addr, va_to_mfn(page) << PAGE_SHIFT);
    try_read((u64)slot, &value);
    equal("map: it shows the page", value, 0x1234);
    check((grant_table[ref].flags & (GTF_reading | GTF_writing)) == (GTF_reading | GTF_writing), "map: the entry says reading and writing");
    check(!grant_end(ref), "it cannot be taken back while mapped");
    answer("unmap: no such handle", unmap_grant((u64)slot, 0, 4000), GNTST_bad_handle);
    answer("unmap: another address", unmap_grant((u64)grant_table, 0, m.handle), GNTST_general_error);
    answer("unmap", unmap_grant((u64)slot, 0, m.handle), GNTST_okay);
    answer("unmap: a second time", unmap_grant((u64)slot, 0, m.handle), GNTST_bad_handle);
    answer("the mapping is gone", try_read((u64)slot, &value), 14);
    equal("unmap: the entry is free of them", grant_table[ref].flags, GTF_permit_access);
    m = map((u64)slot, GNTMAP_host_map | GNTMAP_readonly, ref, self);
    answer("map: read-only", m.status, GNTST_okay);
    answer("map: a write then faults", try_write((u64)slot, 1), 14);
    equal("map: the entry says reading", grant_table[ref].flags & (GTF_reading | GTF_writing), GTF_reading);
    unmap_grant((u64)slot, 0, m.handle);
    check(grant_end(ref), "it can be taken back");
    answer("map: one that was taken back", map((u64)slot, GNTMAP_host_map, ref, self).status, GNTST_general_error);
    ref = grant_access(self, va_to_mfn(page), true);
    answer("map: a read-only grant for writing", map((u64)slot, GNTMAP_host_map, ref, self).status, GNTST_general_error);
    grant_end(ref);
    ref = grant_access(77, va_to_mfn(page), false);
    answer("map: one that is another's", map((u64)slot, GNTMAP_host_map, ref, self).status, GNTST_general_error);
    grant_end(ref);
    ref = grant_access(self, 0xffffffff, false);
    answer("map: a frame beyond all", map((u64)slot, GNTMAP_host_map, ref, self).status, GNTST_bad_page);
    grant_end(ref);
    ref = grant_access(self, va_to_mfn((void *)start_info->pt_base), false);
    answer("map: a page table for writing", map((u64)slot, GNTMAP_host_map, ref, self).status, GNTST_general_error);
    grant_end(ref);
    protect(slot, PTE_P | PTE_W | PTE_U);
    page_free(page);
    page_free(slot);
}

static short copy(struct gnttab_copy c)
{
    c.status = 99;
    return op(GNTTABOP_copy, &c) ? 98 : c.status;
}

static struct gnttab_copy_end by_frame(const void *page, u16 offset)
{
    return (struct gnttab_copy_end){.u.gmfn = va_to_mfn(page), .domid = DOMID_SELF, .offset = offset};
}

static struct gnttab_copy_end by_ref(u32 ref, u16 offset)
{
    return (struct gnttab_copy_end){.u.ref = ref, .domid = DOMID_SELF, .offset = offset};
}

static void copying(u16 self)
{
    u64 *from = page_alloc(), *to = page_alloc();
    from[2] = 0xabcdef;
    answer("copy: frame to frame", copy((struct gnttab_copy){by_frame(from, 16), by_frame(to, 800), 8, 0, 0}), GNTST_okay);
    equal("copy: it is there", to[100], 0xabcdef);
    u32 in = grant_access(self, va_to_mfn(from), true), out = grant_access(self, va_to_mfn(to), false);
    answer("copy: from a grant", copy((struct gnttab_copy){by_ref(in, 16), by_frame(to, 808), 8, GNTCOPY_source_gref, 0}), GNTST_okay);
    equal("copy: from a grant it is there", to[101], 0xabcdef);
    answer("copy: to a grant", copy((struct gnttab_copy){by_frame(from, 16), by_ref(out, 816), 8, GNTCOPY_dest_gref, 0}), GNTST_okay);
    equal("copy: to a grant it is there", to[102], 0xabcdef);
    answer("copy: grant to grant", copy((struct gnttab_copy){by_ref(in, 16), by_ref(out, 824), 8, 3, 0}), GNTST_okay);
    answer("copy: to a read-only grant", copy((struct gnttab_copy){by_frame(to, 0), by_ref(in, 0), 8, GNTCOPY_dest_gref, 0}),
           GNTST_general_error);
    answer("copy: no such reference", copy((struct gnttab_copy){by_ref(500, 0), by_frame(to, 0), 8, GNTCOPY_source_gref, 0}),
           GNTST_general_error);
    answer("copy: a reference beyond the table", copy((struct gnttab_copy){by_ref(100000, 0), by_frame(to, 0), 8,
           GNTCOPY_source_gref, 0}), GNTST_bad_gntref);
    answer("copy: across the source's end", copy((struct gnttab_copy){by_frame(from, 4090), by_frame(to, 0), 8, 0, 0}), GNTST_bad_copy_arg);
    answer("copy: across the destination's end", copy((struct gnttab_copy){by_frame(from, 0), by_frame(to, 4090), 8, 0, 0}),
           GNTST_bad_copy_arg);
    struct gnttab_copy c = {by_frame(from, 0), by_frame(to, 0), 8, 0, 0};
    c.source.domid = 4242;
    answer("copy: a domain that is not there", copy(c), GNTST_bad_domain);
    if (!is_dom0()) {
        c.source.domid = 0;
        answer("copy: a frame of another domain", copy(c), GNTST_permission_denied);
    }
    c.source = by_frame((void *)start_info->pt_base, 0);
    c.dest = by_frame((void *)start_info->pt_base, 0);
    answer("copy: onto a page table", copy(c), GNTST_general_error);
    check(grant_end(in) && grant_end(out), "copies leave nothing in use");
    page_free(from);
    page_free(to);
}

void check_grants(void)
{
    u16 self = 0;
    char id[16] = "0";
    if (!is_dom0() && xenstore_read(0, "domid", id, sizeof id) < 0)
        panic("no domid");
    for (char *p = id; *p; p++)
        self = (u16)(self * 10 + (*p - '0'));
    table();
    mapping(self);
    copying(self);
}
