/* The grant table: its frames are set up one by one as they are needed; give and take back access. */
#include "kernel.h"

struct grant_entry *grant_table;
enum { FIRST = 8, A_FRAME = PAGE_SIZE / sizeof(struct grant_entry) }; /* the first eight are reserved for the toolstack: console, store */
static u32 free_next[GRANT_FRAMES * A_FRAME]; /* a chain of free references; in use: IN_USE */
static u32 first_free, last_free, frames;
#define IN_USE (~0U)

static void release(u32 ref)
{
    free_next[ref] = 0; /* at the end of the chain: a reference just given back rests for a while */
    if (first_free)
        free_next[last_free] = ref;
    else
        first_free = ref;
    last_free = ref;
}

/* One frame more. -ENOSPC: neither we nor Xen have room for one. */
static int grow(void)
{
    u64 list[GRANT_FRAMES];
    struct gnttab_setup_table s = {DOMID_SELF, frames + 1, 0, list};
    if (frames == GRANT_FRAMES || hypercall_grant_table_op(GNTTABOP_setup_table, &s, 1) || s.status)
        return -ENOSPC;
    char *at = (char *)grant_table + frames * PAGE_SIZE;
    if (!frames)
        at = (char *)(grant_table = area_reserve_run(GRANT_FRAMES));
    if (map_frame((u64)at, list[frames], PTE_DATA))
        return -ENOMEM;
    for (u32 ref = frames ? frames * A_FRAME : FIRST; ref < (frames + 1) * A_FRAME; ref++)
        release(ref);
    frames++;
    return 0;
}

void grants_init(void)
{
    if (grow())
        panic("no grant table");
}

s64 grant_try(u32 domid, u64 mfn, bool readonly)
{
    int rc = first_free ? 0 : grow();
    if (rc)
        return rc;
    u32 ref = first_free;
    first_free = free_next[ref];
    free_next[ref] = IN_USE;
    grant_table[ref].domid = (u16)domid;
    grant_table[ref].frame = (u32)mfn;
    barrier();
    grant_table[ref].flags = GTF_permit_access | (readonly ? GTF_readonly : 0);
    return ref;
}

u32 grant_access(u32 domid, u64 mfn, bool readonly)
{
    s64 ref = grant_try(domid, mfn, readonly);
    if (ref < 0)
        panic("out of grants");
    return (u32)ref;
}

/* False: the other side still has it mapped. */
bool grant_end(u32 ref)
{
    u16 flags = grant_table[ref].flags;
    do
        if (flags & (GTF_reading | GTF_writing))
            return false;
    while (!__atomic_compare_exchange_n(&grant_table[ref].flags, &flags, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    release(ref);
    return true;
}
