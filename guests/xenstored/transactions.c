/* Transactions: a private continuation of the store, and whether it may become everybody's. Design c: only if nothing has changed since
 * it began. Design o: also if nothing has changed at the lowest path that has all that it read, and at that of all that it wrote, which
 * is merged then; and also if all that was done in it would be answered the same now. (oxenstored: Transaction.commit, Process.
 * transaction_replay)
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
    if (t->base)
        db->drop(t->base);
    memory_release(t->low[READS]);
    memory_release(t->low[WRITES]);
    for (struct operation *o = t->operations, *next; o; o = next) {
        next = o->next;
        memory_release(o->answer);
        memory_release(o->perms);
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
    if (!t || !(t->db = db->copy(tree, !c->domid)) || (!copies && !(t->base = db->copy(tree, true)))) {
        if (t && t->db)
            db->drop(t->db);
        memory_release(t);
        return ENOMEM;
    }
    t->owned = owned(c->domid);
    t->lives = lives;
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

void transactions_whole(struct conn *c)
{
    for (struct transaction *t = c->transactions; t; t = t->next)
        t->whole = true;
}

/* The path, or as much of it as it has in common with what was touched before. */
void touched(struct work *k, u32 how, const char *path)
{
    if (!k->t || copies || k->again)
        return;
    char *low = k->t->low[how];
    u64 n = strlen(path) + 1, end = 1;
    if (!low) {
        if ((low = k->t->low[how] = store_memory(n)))
            memcpy(low, path, n);
        else
            k->t->whole = true;
        return;
    }
    for (n = 1;; n++) {
        if ((!low[n] || low[n] == '/') && (!path[n] || path[n] == '/'))
            end = n;
        if (!low[n] || low[n] != path[n])
            break;
    }
    low[end] = 0;
}

static bool is_ok(const struct work *k)
{
    return k->replied == sizeof "OK" && !memcmp(k->reply, "OK", sizeof "OK");
}

static bool same_answer(const struct operation *o, const struct work *k, int rc)
{
    if (rc || o->rc)
        return rc == o->rc;
    return o->replied == k->replied && (o->answer ? !memcmp(o->answer, k->reply, k->replied) : !k->replied || is_ok(k));
}

/* What is done again if the transaction is overtaken; NULL: no memory. */
struct operation *operation_new(u32 type, const u8 *body, u32 n)
{
    struct operation *o = store_memory(sizeof *o + n);
    if (!o)
        return NULL;
    *o = (struct operation){.type = type, .length = n};
    memcpy(o->body, body, n);
    return o;
}

void remember(struct work *k, struct operation *o, int rc)
{
    o->rc = rc;
    o->replied = k->replied;
    if (!rc && k->replied && !is_ok(k)) {
        if ((o->answer = store_memory(k->replied)))
            memcpy(o->answer, k->reply, k->replied);
        else
            k->t->forgotten = true;
    }
    if (!rc && k->nperms) {
        if ((o->perms = store_memory(k->nperms * sizeof *o->perms)))
            memcpy(o->perms, k->perms, k->nperms * sizeof *o->perms);
        else
            k->t->forgotten = true;
    }
    *k->t->operations_end = o;
    k->t->operations_end = &o->next;
}

/* Everything once more, on the store as it is now. If all answers are the same, that is what the transaction has done. 0, EAGAIN or
 * ENOMEM. */
static int replay(struct conn *c, struct transaction *t)
{
    static u8 body[PAYLOAD_MAX + 1], reply[PAYLOAD_MAX + 1];
    struct db *now = t->forgotten ? NULL : db->copy(tree, true);
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
        struct work k = {.conn = c, .t = t, .db = &t->db, .body = body, .length = o->length, .reply = reply, .perms = o->perms, .again = true};
        memcpy(body, o->body, o->length);
        body[o->length] = 0;
        int rc = serve(&k, o->type);
        if (rc == ENOMEM || !same_answer(o, &k, rc))
            failed = rc == ENOMEM ? ENOMEM : EAGAIN;
    }
    return failed;
}

/* Whether the same would have been answered, and done, for all that it touched is as it was, and so is who may do what with it. Of a
 * domain's quota, of owners named, nothing may have changed either. */
static bool can_merge(const struct conn *c, const struct transaction *t)
{
    if (t->whole || (c->domid && t->owned != owned(c->domid)))
        return false;
    for (struct owner *o = t->owners; o; o = o->next)
        if (o->named && t->lives != lives)
            return false;
    for (u32 how = READS; how <= WRITES; how++)
        if (t->low[how] && !db->same(t->base, tree, t->low[how]))
            return false;
    return true;
}

static int merge(struct transaction *t)
{
    struct db *now = db->copy(tree, true);
    if (!now || (t->changes && !db->graft(now, t->low[WRITES], t->db))) {
        if (now)
            db->drop(now);
        return ENOMEM;
    }
    db->drop(t->db);
    t->db = now;
    return 0;
}

static int commit(struct conn *c, struct transaction *t)
{
    if (t->failed)
        return ENOMEM;
    for (struct owner *o = t->owners; o; o = o->next)
        if (o->named && o->incarnation != NEVER && o->incarnation != incarnation(o->domid))
            return EAGAIN;
    if (t->version != version) {
        bool merges = !copies && can_merge(c, t);
        int rc = copies ? EAGAIN : merges ? merge(t) : replay(c, t);
        if (rc)
            return rc;
        counters.merged += merges;
        counters.replayed += !merges;
    }
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
