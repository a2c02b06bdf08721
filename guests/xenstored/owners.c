/* How many nodes each domain owns: in the store, and as a transaction would have it. */
#include "store.h"

static s32 nodes_of[DOMIDS];

u32 owned(u32 domid)
{
    return domid < DOMIDS ? (u32)nodes_of[domid] : 0;
}

void owned_add(u32 domid, s32 nodes)
{
    counters.nodes += (u64)(s64)nodes;
    if (domid < DOMIDS)
        nodes_of[domid] += nodes;
}

static struct owner *owner_of(const struct transaction *t, u32 domid)
{
    struct owner *o = t->owners;
    while (o && (o->named || o->domid != domid))
        o = o->next;
    return o;
}

/* A transaction has to have a place for an owner's number before that is changed. */
bool own_ready(struct work *k, u32 domid)
{
    if (!k->t || owner_of(k->t, domid))
        return true;
    struct owner *o = store_memory(sizeof *o);
    if (!o)
        return false;
    *o = (struct owner){k->t->owners, domid, 0, 0, false};
    k->t->owners = o;
    return true;
}

/* So many nodes more for an owner: at once, or when the transaction ends. */
void own(struct work *k, u32 domid, s32 nodes)
{
    if (k->t)
        owner_of(k->t, domid)->nodes += nodes;
    else
        owned_add(domid, nodes);
}

s32 owned_in(const struct work *k, u32 domid)
{
    s32 n = (s32)owned(domid);
    for (struct owner *o = k->t ? k->t->owners : NULL; o; o = o->next)
        if (!o->named && o->domid == domid)
            n += o->nodes;
    return n;
}
