/* The grant table: set up one frame of it, give and take back access. */
#include "kernel.h"

struct grant_entry *grant_table;
enum { FIRST = 8, ENTRIES = 512 }; /* the first eight are reserved for the toolstack: console, store */
static u8 used[ENTRIES];

void grants_init(void)
{
    u64 frame;
    struct gnttab_setup_table s = {DOMID_SELF, 1, 0, &frame};
    if (hypercall_grant_table_op(GNTTABOP_setup_table, &s, 1) || s.status)
        panic("no grant table");
    grant_table = map_area(frame);
}

u32 grant_access(u32 domid, u64 mfn, bool readonly)
{
    static u32 next = FIRST; /* where the search goes on: a reference just given back rests for a while */
    for (u32 i = FIRST; i < ENTRIES; i++) {
        u32 ref = next;
        next = next + 1 < ENTRIES ? next + 1 : FIRST;
        if (!used[ref]) {
            used[ref] = 1;
            grant_table[ref].domid = (u16)domid;
            grant_table[ref].frame = (u32)mfn;
            barrier();
            grant_table[ref].flags = GTF_permit_access | (readonly ? GTF_readonly : 0);
            return ref;
        }
    }
    panic("out of grants");
}

/* False: the other side still has it mapped. */
bool grant_end(u32 ref)
{
    u16 flags = grant_table[ref].flags;
    do
        if (flags & (GTF_reading | GTF_writing))
            return false;
    while (!__atomic_compare_exchange_n(&grant_table[ref].flags, &flags, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    used[ref] = 0;
    return true;
}
