/* Who is served: connections, which come and go with domains. */
#include "store.h"

enum { HASH = 1024 };
struct conn *conns;
static struct conn **conns_end = &conns, *by_domid[HASH];
static u32 incarnations[DOMIDS]; /* how many bearers of a number have gone */

u32 lives;

u32 incarnation(u32 domid)
{
    return domid < DOMIDS ? incarnations[domid] : 0;
}

u32 incarnation_if_exists(u32 domid)
{
    return conn_of(domid) || (domid < DOMIDS && link_domain_exists(domid)) ? incarnation(domid) : NEVER;
}

struct conn *conn_of(u32 domid)
{
    struct conn *c = by_domid[domid % HASH];
    while (c && c->domid != domid)
        c = c->next_same;
    return c;
}

struct conn *conn_new(u32 domid)
{
    struct conn *c = store_memory(sizeof *c);
    if (!c)
        return NULL;
    *c = (struct conn){.domid = domid, .incarnation = incarnation(domid), .target = ~0U, .next_transaction = 1};
    c->watches_end = &c->watches;
    c->next_same = by_domid[domid % HASH];
    by_domid[domid % HASH] = c;
    *conns_end = c;
    conns_end = &c->next;
    lives++;
    return c;
}

static void forget(struct conn *c)
{
    watches_drop(c);
    transactions_drop(c);
}

/* Start over, as after a ring reconnection. */
void conn_reset(struct conn *c)
{
    forget(c);
    for (struct out *o = c->first, *next; o; o = next) {
        next = o->next;
        out_release(c, o);
    }
    c->first = c->last = NULL;
    c->unsent_bytes = 0;
    c->unsent_replies = 0;
    c->next_transaction = 1;
}

static void conn_drop(struct conn *c)
{
    struct conn **at = &conns;
    conn_reset(c);
    while (*at != c)
        at = &(*at)->next;
    if (!(*at = c->next))
        conns_end = at;
    at = &by_domid[c->domid % HASH];
    while (*at != c)
        at = &(*at)->next_same;
    *at = c->next_same;
    memory_release(c);
}

void domain_shut_down(struct conn *c)
{
    if (!c->shut_down)
        fire_special("@releaseDomain", c->domid);
    c->shut_down = true;
}

/* Its connection, its nodes, and what its number was allowed. Nodes may need memory to go; what it held itself is given back for that. */
int domain_gone(struct conn *gone)
{
    u32 domid = gone->domid;
    gone->leaving = nodes_remove_of(domid);
    if (gone->leaving) {
        conn_reset(gone);
        if (nodes_remove_of(domid))
            return ENOMEM;
    }
    incarnations[domid]++;
    lives++;
    for (u32 i = 0; i < COUNT(specials); i++) {
        struct special *s = &specials[i];
        u32 n = 1;
        if (s->perms[0].domid == domid)
            s->perms[0].domid = 0;
        for (u32 at = 1; at < s->nperms; at++)
            if (s->perms[at].domid != domid)
                s->perms[n++] = s->perms[at];
        s->nperms = n;
    }
    for (struct conn *c = conns; c; c = c->next)
        if (c->target == domid) {
            c->target = ~0U;
            transactions_whole(c);
        }
    link_close(gone);
    conn_drop(gone);
    fire_special("@releaseDomain", domid);
    return 0;
}

/* -- the requests */

int do_introduce(struct work *k)
{
    const char *a = string(k, 0), *b = string(k, 1), *c = string(k, 2);
    if (!c || number(a) <= 0 || number(a) >= (s32)DOMIDS || number(c) <= 0)
        return EINVAL;
    u32 domid = (u32)number(a);
    struct conn *conn = conn_of(domid);
    if (conn) {
        conn_reset(conn);
        link_reset(conn);
    } else {
        if (!(conn = conn_new(domid)))
            return ENOMEM;
        int rc = link_open(conn, (u64)number(b), (u32)number(c));
        if (rc) {
            conn_drop(conn);
            return rc;
        }
        fire_special("@introduceDomain", domid);
    }
    answer(k, "OK");
    return 0;
}

static int introduced(struct work *k, struct conn **c)
{
    const char *given = only_string(k);
    if (!given || !number(given))
        return EINVAL;
    *c = conn_of((u32)number(given));
    return *c ? 0 : ENOENT;
}

int do_release(struct work *k)
{
    struct conn *c;
    int rc = introduced(k, &c);
    if (rc)
        return rc;
    if (!(rc = domain_gone(c)))
        answer(k, "OK");
    return rc;
}

int do_resume(struct work *k)
{
    struct conn *c;
    int rc = introduced(k, &c);
    if (rc)
        return rc;
    c->shut_down = false;
    answer(k, "OK");
    return 0;
}

int do_path(struct work *k)
{
    const char *given = only_string(k);
    if (!given)
        return EINVAL;
    k->replied = (u32)snprintf((char *)k->reply, 40, "/local/domain/%u", (u32)number(given)) + 1;
    return 0;
}

int do_introduced(struct work *k)
{
    const char *given = only_string(k);
    if (!given)
        return EINVAL;
    u32 domid = (u32)number(given);
    answer(k, !domid || domid == DOMID_OWN || conn_of(domid) ? "T" : "F");
    return 0;
}

int do_set_target(struct work *k)
{
    const char *a = string(k, 0), *b = string(k, 1);
    if (!b)
        return EINVAL;
    u32 domid = (u32)number(a), target = (u32)number(b);
    struct conn *c = domid ? conn_of(domid) : NULL;
    if (!c || !target || !conn_of(target))
        return ENOENT;
    transactions_whole(c);
    c->target = target;
    c->target_incarnation = incarnation(target);
    answer(k, "OK");
    return 0;
}

int do_reset(struct work *k)
{
    forget(k->conn);
    k->t = NULL;
    answer(k, "OK");
    return 0;
}
