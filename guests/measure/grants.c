/* Grants: to ourselves, which costs what grants of others do but for the look-up of the domain. */
#include "measure.h"

enum { MOST = 32 };
static u32 refs[MOST];
static struct gnttab_map maps[MOST];
static struct gnttab_unmap unmaps[MOST];
static struct gnttab_copy copies[MOST];
static void *area;

static void granted(u64 n)
{
    for (u64 i = 0; i < n; i++) {
        refs[i] = grant_access(0, va_to_mfn(pages[i]), false);
        maps[i] = (struct gnttab_map){.host_addr = (u64)area + i * PAGE_SIZE, .flags = GNTMAP_host_map, .ref = refs[i], .dom = 0};
    }
}
static s64 map(u64 n)
{
    s64 rc = hypercall_grant_table_op(GNTTABOP_map_grant_ref, maps, n);
    return rc ? rc : maps[n - 1].status;
}
static void mapped(u64 n)
{
    granted(n);
    map(n);
    for (u64 i = 0; i < n; i++)
        unmaps[i] = (struct gnttab_unmap){maps[i].host_addr, 0, maps[i].handle, 0};
}
static s64 unmap_run(u64 n)
{
    s64 rc = hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, unmaps, n);
    return rc ? rc : unmaps[n - 1].status;
}
static void taken_back(u64 n)
{
    for (u64 i = 0; i < n; i++)
        grant_end(refs[i]);
}
static void unmapped(u64 n)
{
    for (u64 i = 0; i < n; i++)
        unmaps[i] = (struct gnttab_unmap){maps[i].host_addr, 0, maps[i].handle, 0};
    unmap_run(n);
    taken_back(n);
}
static void copy_ready(u64 n) /* n copies of a byte */
{
    granted(n);
    for (u64 i = 0; i < n; i++)
        copies[i] = (struct gnttab_copy){.source = {.u.ref = refs[i], .domid = 0}, .dest = {.u.gmfn = va_to_mfn(pages[MOST + i]), .domid = DOMID_SELF},
                                         .len = 1, .flags = GNTCOPY_source_gref};
}
static void bytes_ready(u64 n) /* one of n bytes */
{
    copy_ready(1);
    copies[0].len = (u16)n;
}
static s64 copy(u64 n)
{
    s64 rc = hypercall_grant_table_op(GNTTABOP_copy, copies, n);
    return rc ? rc : copies[n - 1].status;
}
static s64 copy_one(u64 n) { (void)n; return copy(1); }
static void one_back(u64 n) { (void)n; taken_back(1); }
static s64 query(u64 n) { struct gnttab_query_size q = {.dom = DOMID_SELF}; (void)n; return hypercall_grant_table_op(GNTTABOP_query_size, &q, 1); }
static s64 version(u64 n) { struct gnttab_get_version v = {DOMID_SELF, 0, 0}; (void)n; return hypercall_grant_table_op(GNTTABOP_get_version, &v, 1); }
static s64 set_version(u64 n) { struct gnttab_version v = {1}; (void)n; return hypercall_grant_table_op(GNTTABOP_set_version, &v, 1); }
static s64 setup(u64 n)
{
    u64 frames[1];
    struct gnttab_setup_table s = {DOMID_SELF, (u32)n, 0, frames};
    return hypercall_grant_table_op(GNTTABOP_setup_table, &s, 1);
}

void measure_grants(void)
{
    area = area_reserve_run(MOST);
    MEASURE("grant_table_op.query_size", 0, NULL, query, NULL);
    MEASURE("grant_table_op.get_version", 0, NULL, version, NULL);
    MEASURE("grant_table_op.set_version", 0, NULL, set_version, NULL);
    MEASURE("grant_table_op.setup_table", 1, NULL, setup, NULL);
    MEASURE("grant_table_op.map_grant_ref", 1, granted, map, unmapped);
    MEASURE("grant_table_op.map_grant_ref", 8, granted, map, unmapped);
    MEASURE("grant_table_op.map_grant_ref", 32, granted, map, unmapped);
    MEASURE("grant_table_op.unmap_grant_ref", 1, mapped, unmap_run, taken_back);
    MEASURE("grant_table_op.unmap_grant_ref", 8, mapped, unmap_run, taken_back);
    MEASURE("grant_table_op.unmap_grant_ref", 32, mapped, unmap_run, taken_back);
    MEASURE("grant_table_op.copy", 1, copy_ready, copy, taken_back);
    MEASURE("grant_table_op.copy", 8, copy_ready, copy, taken_back);
    MEASURE("grant_table_op.copy", 32, copy_ready, copy, taken_back);
    MEASURE("grant_table_op.copy.bytes", 1, bytes_ready, copy_one, one_back);
    MEASURE("grant_table_op.copy.bytes", 1024, bytes_ready, copy_one, one_back);
    MEASURE("grant_table_op.copy.bytes", 4096, bytes_ready, copy_one, one_back);
}
