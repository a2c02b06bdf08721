/* Grant copies in batches. A range of ours may cross the ends of pages, which a single copy may not. */
#include "back.h"

static void flush(struct back_copy *c)
{
    if (c->used && hypercall_grant_table_op(GNTTABOP_copy, c->list, c->used))
        c->failed = true;
    for (u32 i = 0; i < c->used; i++)
        c->failed |= c->list[i].status != GNTST_okay;
    c->used = 0;
}

void back_copy_add(struct back_copy *c, struct back *b, bool to_front, u32 ref, u32 offset, const u8 *ours, u32 n)
{
    for (u32 here; n; n -= here, offset += here, ours += here) {
        if (c->used == c->room)
            flush(c);
        here = (u32)(PAGE_SIZE - ((u64)ours & (PAGE_SIZE - 1)));
        here = here < n ? here : n;
        struct gnttab_copy_end theirs = {{.ref = ref}, (u16)b->frontend, (u16)offset};
        struct gnttab_copy_end own = {{.gmfn = va_to_mfn(ours)}, DOMID_SELF, (u16)((u64)ours & (PAGE_SIZE - 1))};
        c->list[c->used++] = to_front ? (struct gnttab_copy){own, theirs, (u16)here, GNTCOPY_dest_gref, GNTST_general_error}
                                      : (struct gnttab_copy){theirs, own, (u16)here, GNTCOPY_source_gref, GNTST_general_error};
    }
}

bool back_copy_end(struct back_copy *c)
{
    flush(c);
    return !c->failed;
}
