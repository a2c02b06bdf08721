/* Transactions: a private continuation of the store, and whether it may become everybody's. Design c: only if nothing has changed since
 * it began. Design o: also if all that was done in it would be answered the same now.
 */
#include "store.h"

static void owners_drop(struct owner *o)
{
    for (struct owner *next; o; o = next) {
        next = o->next;
        memory_release(o);
    }
}

void changes_drop(struct change *c)
{
    for (struct change *next; c; c = next) {
        next = c->next;
        memory_release(c);
    }
}

static void end(struct conn *c, struct transaction *t)
{
    struct transaction **at = &c->transactions;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    c->ntransactions--;
    if (t->db)
        db->drop(t->db);
    for (struct operation *o = t->operations, *next; o; o = next) {
        next = o->next;
        memory_release(o);
    }
    changes_drop(t->changes);
    owners_drop(t->owners);
    memory_release(t);
}

void transactions_drop(struct conn *c)
{
    while (c->transactions)
        end(c, c->transactions);
}

int do_start(struct work *k)
{
    struct conn *c = k->conn;
    if (k->t)
        return EBUSY;
    if (c->domid && c->ntransactions > QUOTA_TRANSACTIONS)
        return ENOSPC;
    struct transaction *t = store_memory(sizeof *t), *other;
    if (!t || !(t->db = db->copy(tree, !c->domid))) {
        memory_release(t);
        return ENOMEM;
    }
    do {
        t->id = c->next_transaction++;
        for (other = c->transactions; other && other->id != t->id;)
            other = other->next;
    } while (!t->id || other);
    t->version = version;
    t->operations_end = &t->operations;
    t->changes_end = &t->changes;
    t->next = c->transactions;
    c->transactions = t;
    c->ntransactions++;
    counters.transactions++;
    k->replied = (u32)snprintf((char *)k->reply, 16, "%u", t->id) + 1;
    return 0;
}

static u32 answer_hash(const struct work *k, int rc)
{
    return hash((const char *)k->reply, rc ? 0 : k->replied) ^ (u32)rc * 2654435761U;
}

/* What is done again if the transaction is overtaken; NULL: no memory. */
struct operation *operation_new(u32 type, const u8 *body, u32 n)
{
    struct operation *o = store_memory(sizeof *o + n);
    if (!o)
        return NULL;
    *o = (struct operation){NULL, type, n, 0};
    memcpy(o->body, body, n);
    return o;
}

void remember(struct work *k, struct operation *o, int rc)
{
    o->answer = answer_hash(k, rc);
    *k->t->operations_end = o;
    k->t->operations_end = &o->next;
}

/* Everything once more, on the store as it is now. If all answers are the same, that is what the transaction has done. 0, EAGAIN or
 * ENOMEM. */
static int replay(struct conn *c, struct transaction *t)
{
    static u8 body[PAYLOAD_MAX + 1], reply[PAYLOAD_MAX + 1];
    struct db *now = db->copy(tree, true);
    int failed = now ? 0 : ENOMEM;
    if (failed)
        return failed;
    changes_drop(t->changes);
    owners_drop(t->owners);
    t->owners = NULL;
    t->changes = NULL;
    t->changes_end = &t->changes;
    db->drop(t->db);
    t->db = now;
    for (struct operation *o = t->operations; o && !failed; o = o->next) {
        struct work k = {.conn = c, .t = t, .db = &t->db, .body = body, .length = o->length, .reply = reply, .again = true};
        memcpy(body, o->body, o->length);
        body[o->length] = 0;
        int rc = serve(&k, o->type);
        if (rc == ENOMEM || answer_hash(&k, rc) != o->answer)
            failed = rc == ENOMEM ? ENOMEM : EAGAIN;
    }
    return failed;
}

static int commit(struct conn *c, struct transaction *t)
{
    if (t->failed)
        return ENOMEM;
    for (struct owner *o = t->owners; o; o = o->next)
        if (o->named && o->incarnation != NEVER && o->incarnation != incarnation(o->domid))
            return EAGAIN;
    int rc = t->version == version ? 0 : copies ? EAGAIN : replay(c, t);
    if (rc)
        return rc;
    counters.commits++;
    if (!t->changes)
        return 0;
    struct db *before = tree;
    tree = t->db;
    t->db = NULL;
    version++;
    for (struct owner *o = t->owners; o; o = o->next)
        owned_add(o->domid, o->nodes);
    for (struct change *x = t->changes; x; x = x->next)
        fire_commit(x, before, tree);
    db->drop(before);
    return 0;
}

int do_end(struct work *k)
{
    struct transaction *t = k->t;
    char *how = only_string(k);
    if (!how || (strcmp(how, "T") && strcmp(how, "F")))
        return EINVAL;
    if (!t)
        return ENOENT;
    int rc = how[0] == 'T' ? commit(k->conn, t) : 0;
    counters.conflicts += rc == EAGAIN;
    end(k->conn, t);
    k->t = NULL;
    if (!rc)
        answer(k, "OK");
    return rc;
}
