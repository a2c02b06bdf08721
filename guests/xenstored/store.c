/* The requests of the protocol (docs/misc/xenstore.txt of Xen): each a function on a tree, in the store or in a transaction. */
#include "store.h"

enum { QUOTA_NODES = 1000, QUOTA_WATCHES = 128, QUOTA_VALUE = 2048, QUOTA_TRANSACTIONS = 10, WATCH_HASH = 4096 };
bool whole_copies;
static struct node *root;
static u64 generation; /* of the store: every change */
static struct watch *by_path[WATCH_HASH];
static u64 conflicts, commits, started, served; /* transactions; requests of all */
struct listed { struct listed *next; struct conn *conn; };
static struct listed *all;

/* One request at work. */
struct work {
    struct conn *conn;
    struct transaction *t;
    struct node **tree;
    u8 *body;
    u32 length;
    u8 *reply;
    u32 replied;
};
static u8 reply_buffer[PAYLOAD_MAX];

static const struct { int number; const char *name; } errors[] = {
    {EINVAL, "EINVAL"}, {EACCES, "EACCES"}, {EEXIST, "EEXIST"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"}, {ENOSPC, "ENOSPC"},
    {ENOSYS, "ENOSYS"}, {EBUSY, "EBUSY"}, {EAGAIN, "EAGAIN"}, {E2BIG, "E2BIG"}, {EPERM, "EPERM"},
};

/* -- messages out */

static void send(struct conn *c, u32 type, u32 id, u32 tx, const void *body, u32 n)
{
    struct out *o = memory_take(sizeof *o + sizeof(struct xsd_sockmsg) + n);
    if (!o)
        panic("the store is out of memory");
    struct xsd_sockmsg h = {type, id, tx, n};
    o->size = (u32)sizeof h + n;
    memcpy(o->data, &h, sizeof h);
    memcpy(o->data + sizeof h, body, n);
    if (c->first)
        c->last->next = o;
    else
        c->first = o;
    c->last = o;
    link_written(c);
}

/* -- paths */

static u32 hash_of(const char *path, u64 n)
{
    u32 hash = 2166136261U;
    for (u64 i = 0; i < n; i++)
        hash = (hash ^ (u8)path[i]) * 16777619U;
    return hash % WATCH_HASH;
}

static bool path_valid(const char *p, u64 n)
{
    if (!n || n > ABS_PATH_MAX || (n > 1 && p[n - 1] == '/'))
        return false;
    for (u64 i = 0; i < n; i++) {
        char c = p[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '/' || c == '_' || c == '@';
        if (!good || (c == '/' && i && p[i - 1] == '/'))
            return false;
    }
    return true;
}

/* The absolute path of one in a message; 0 or an errno. */
static int absolute(const struct conn *c, const char *path, char *to)
{
    u64 n = strlen(path);
    if (path[0] == '/' || path[0] == '@') {
        if (n > ABS_PATH_MAX)
            return EINVAL;
        memcpy(to, path, n + 1);
    } else {
        if (!n || n > REL_PATH_MAX)
            return EINVAL;
        n = (u64)snprintf(to, ABS_PATH_MAX + 1, "/local/domain/%u/%s", c->domid, path);
    }
    return path_valid(to, n) ? 0 : EINVAL;
}

/* -- watches */

static void tell(struct watch *w, const char *path)
{
    char home[40], body[ABS_PATH_MAX + 300];
    u64 skip = 0;
    if (w->relative)
        skip = (u64)snprintf(home, sizeof home, "/local/domain/%u/", w->conn->domid);
    u64 n = strlen(path), t = strlen(w->token);
    if (n < skip)
        skip = 0;
    memcpy(body, path + skip, n - skip + 1);
    memcpy(body + n - skip + 1, w->token, t + 1);
    w->conn->events++;
    send(w->conn, XS_WATCH_EVENT, 0, 0, body, (u32)(n - skip + t + 2));
}

static bool may_hear(const struct conn *c, const char *path)
{
    struct node *n = path[0] == '@' ? NULL : node_find(root, path);
    return !n || node_rights(n, c->domid) & PERM_READ;
}

static bool beneath(const char *path, const char *above)
{
    u64 n = strlen(above);
    return !strcmp(above, "/") ? path[0] == '/' : !strncmp(path, above, n) && (path[n] == 0 || path[n] == '/');
}

/* Mode c asks every watch of every connection. Mode o asks those at the path and above it. */
void store_fire(const char *path, bool below)
{
    if (whole_copies || below) {
        for (struct listed *l = all; l; l = l->next)
            for (struct watch *w = l->conn->watches; w; w = w->next)
                if (beneath(path, w->path) && may_hear(w->conn, path))
                    tell(w, path);
                else if (below && beneath(w->path, path))
                    tell(w, w->path);
        return;
    }
    u64 n = strlen(path);
    for (u64 end = n; end;) {
        for (struct watch *w = by_path[hash_of(path, end)]; w; w = w->next_same)
            if (strlen(w->path) == end && !strncmp(w->path, path, end) && may_hear(w->conn, path))
                tell(w, path);
        if (path[0] != '/' || end == 1)
            break;
        while (end > 1 && path[end - 1] != '/')
            end--;
        end = end > 1 ? end - 1 : 1;
    }
}

static void changed(struct work *k, const char *path, bool removed)
{
    if (!k->t) {
        generation++;
        store_fire(path, removed);
        return;
    }
    u64 n = strlen(path) + 1;
    struct change *c = memory_take(sizeof *c + n);
    if (!c)
        panic("the store is out of memory");
    c->removed = removed;
    memcpy(c->path, path, n);
    *k->t->changes_end = c;
    k->t->changes_end = &c->next;
}

/* -- the requests. Each returns 0, having put its answer into reply, or an errno. */

static void answer(struct work *k, const char *text)
{
    k->replied = (u32)strlen(text) + 1;
    memcpy(k->reply, text, k->replied);
}

/* The n-th of the strings in the body, NULL if it has no end. */
static char *string(struct work *k, u32 n)
{
    u32 at = 0;
    for (;; n--) {
        u32 end = at;
        while (end < k->length && k->body[end])
            end++;
        if (end == k->length)
            return NULL;
        if (!n)
            return (char *)k->body + at;
        at = end + 1;
    }
}

/* The node that a request names; its rights are checked. If it is not there, whoever may not read above is told less. */
static int find(struct work *k, char *path, u32 rights, struct node **found)
{
    char *given = string(k, 0);
    int rc = given ? absolute(k->conn, given, path) : EINVAL;
    if (rc || path[0] == '@')
        return EINVAL;
    struct node *n = *k->tree;
    *found = node_find(n, path);
    if (*found)
        return node_rights(*found, k->conn->domid) & rights ? 0 : EACCES;
    for (u64 end = strlen(path); end > 1;) {
        while (path[end - 1] != '/')
            end--;
        end -= end > 1;
        char saved = path[end];
        path[end] = 0;
        n = node_find(*k->tree, end ? path : "/");
        path[end] = saved;
        if (n)
            return node_rights(n, k->conn->domid) & PERM_READ ? ENOENT : EACCES;
    }
    return ENOENT;
}

static int do_read(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_READ, &n);
    if (rc)
        return rc;
    memcpy(k->reply, n->value, n->length);
    k->replied = n->length;
    return 0;
}

static u32 list_children(const struct node *n, char *to, u32 room)
{
    u32 used = 0;
    for (u32 i = 0; i < n->nkids; i++) {
        u32 length = (u32)strlen(n->kids[i]->name) + 1;
        if (used + length > room)
            return ~0U;
        memcpy(to + used, n->kids[i]->name, length);
        used += length;
    }
    return used;
}

static int do_directory(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_READ, &n);
    if (rc)
        return rc;
    k->replied = list_children(n, (char *)k->reply, PAYLOAD_MAX);
    return k->replied == ~0U ? E2BIG : 0;
}

static char letter(u32 rights)
{
    return "nrwb"[rights & 3];
}

static int do_get_perms(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_READ, &n);
    for (u32 i = 0; !rc && i < n->nperms; i++)
        k->replied += (u32)snprintf((char *)k->reply + k->replied, PAYLOAD_MAX - k->replied, "%c%u", letter(n->perms[i].rights), n->perms[i].domid) + 1;
    return rc;
}

/* Make the node, and what is missing above it. It belongs to whoever makes it. */
static int make(struct work *k, char *path, struct node **made)
{
    u64 n = strlen(path), end = n;
    struct node *above = NULL;
    while (!above) {
        while (path[end - 1] != '/')
            end--;
        char saved = path[end];
        path[end] = 0;
        above = node_find(*k->tree, path);
        path[end] = saved;
        if (!above)
            end--;
    }
    if (!(node_rights(above, k->conn->domid) & PERM_WRITE))
        return EACCES;
    if (k->conn->domid && k->conn->nodes >= QUOTA_NODES)
        return ENOSPC;
    char saved = path[end];
    path[end] = 0;
    struct node *at = node_own(k->tree, path);
    path[end] = saved;
    while (end < n) {
        u64 from = end;
        while (end < n && path[end] != '/')
            end++;
        at = node_add(at, path + from, end - from);
        if (k->conn->domid) {
            at->perms[0].domid = k->conn->domid;
            k->conn->nodes++;
        }
        end++;
    }
    *made = at;
    return 0;
}

static int do_write(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_WRITE, &n);
    u32 skip = (u32)strlen((char *)k->body) + 1, length = k->length > skip ? k->length - skip : 0;
    if (rc == ENOENT || (rc == EACCES && !n))
        rc = make(k, path, &n);
    else if (!rc)
        n = node_own(k->tree, path);
    if (!rc && k->conn->domid && length > QUOTA_VALUE)
        return ENOSPC;
    if (rc)
        return rc;
    node_set_value(n, k->body + skip, length);
    changed(k, path, false);
    answer(k, "OK");
    return 0;
}

static int do_mkdir(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_WRITE, &n);
    if (rc == ENOENT || (rc == EACCES && !n)) {
        rc = make(k, path, &n);
        if (!rc)
            changed(k, path, false);
    }
    if (!rc)
        answer(k, "OK");
    return rc;
}

static int do_rm(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct node *n;
    int rc = find(k, path, PERM_WRITE, &n);
    if (rc == ENOENT) { /* nothing to do, where there is a place for it */
        u64 end = strlen(path);
        while (path[end - 1] != '/')
            end--;
        path[end] = 0;
        if (!node_find(*k->tree, path))
            return ENOENT;
        answer(k, "OK");
        return 0;
    }
    if (rc)
        return rc;
    if (!strcmp(path, "/"))
        return EINVAL;
    node_remove(k->tree, path);
    changed(k, path, true);
    answer(k, "OK");
    return 0;
}

static int do_set_perms(struct work *k)
{
    char path[ABS_PATH_MAX + 1];
    struct perm perms[64];
    struct node *n;
    u32 count = 0;
    int rc = find(k, path, PERM_OWNER, &n);
    for (char *s; !rc && (s = string(k, count + 1)); count++) {
        u32 rights = s[0] == 'n' ? 0 : s[0] == 'r' ? 1 : s[0] == 'w' ? 2 : s[0] == 'b' ? 3 : ~0U, domid = 0;
        if (rights == ~0U || count == COUNT(perms) || s[1] < '0' || s[1] > '9')
            return EINVAL;
        for (const char *p = s + 1; *p; p++)
            if (*p < '0' || *p > '9' || (domid = domid * 10 + (u32)(*p - '0')) > 0x7fff)
                return EINVAL;
        perms[count] = (struct perm){domid, rights};
    }
    if (!rc && !count)
        rc = EINVAL;
    if (!rc && k->conn->domid && perms[0].domid != n->perms[0].domid)
        rc = EPERM;
    if (rc)
        return rc;
    node_set_perms(node_own(k->tree, path), perms, count);
    changed(k, path, false);
    answer(k, "OK");
    return 0;
}

static int do_watch(struct work *k)
{
    char path[ABS_PATH_MAX + 1], *given = string(k, 0), *token = string(k, 1);
    struct conn *c = k->conn;
    if (!given || !token || absolute(c, given, path))
        return EINVAL;
    for (struct watch *w = c->watches; w; w = w->next)
        if (!strcmp(w->path, path) && !strcmp(w->token, token))
            return EEXIST;
    if (c->domid && c->nwatches >= QUOTA_WATCHES)
        return E2BIG;
    u64 n = strlen(path) + 1, t = strlen(token) + 1;
    struct watch *w = memory_take(sizeof *w + n + t);
    if (!w)
        return ENOMEM;
    u32 hash = hash_of(path, n - 1);
    *w = (struct watch){c->watches, by_path[hash], c, (char *)(w + 1), (char *)(w + 1) + n, given[0] != '/' && given[0] != '@'};
    memcpy(w->path, path, n);
    memcpy(w->token, token, t);
    c->watches = by_path[hash] = w;
    c->nwatches++;
    answer(k, "OK");
    return 0;
}

static void unwatch(struct watch *w)
{
    struct watch **at = &w->conn->watches;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    at = &by_path[hash_of(w->path, strlen(w->path))];
    while (*at != w)
        at = &(*at)->next_same;
    *at = w->next_same;
    w->conn->nwatches--;
    memory_release(w);
}

static int do_unwatch(struct work *k)
{
    char path[ABS_PATH_MAX + 1], *given = string(k, 0), *token = string(k, 1);
    if (!given || !token || absolute(k->conn, given, path))
        return EINVAL;
    for (struct watch *w = k->conn->watches; w; w = w->next)
        if (!strcmp(w->path, path) && !strcmp(w->token, token)) {
            unwatch(w);
            answer(k, "OK");
            return 0;
        }
    return ENOENT;
}

static void transaction_end(struct conn *c, struct transaction *t)
{
    struct transaction **at = &c->transactions;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    c->ntransactions--;
    if (t->root)
        node_drop(t->root);
    if (t->base)
        node_drop(t->base);
    for (struct operation *o = t->operations, *next; o; o = next) {
        next = o->next;
        memory_release(o);
    }
    for (struct change *x = t->changes, *next; x; x = next) {
        next = x->next;
        memory_release(x);
    }
    memory_release(t);
}

static int do_start(struct work *k)
{
    struct conn *c = k->conn;
    if (k->t)
        return EBUSY;
    if (c->domid && c->ntransactions >= QUOTA_TRANSACTIONS)
        return ENOSPC;
    struct transaction *t = memory_take(sizeof *t);
    if (!t)
        return ENOMEM;
    t->id = ++c->last_transaction;
    started++;
    t->generation = generation;
    t->root = whole_copies ? node_copy_all(root) : node_share(root);
    t->base = whole_copies ? NULL : node_share(root);
    t->operations_end = &t->operations;
    t->changes_end = &t->changes;
    t->next = c->transactions;
    c->transactions = t;
    c->ntransactions++;
    k->replied = (u32)snprintf((char *)k->reply, 16, "%u", t->id) + 1;
    return 0;
}

static u32 answer_hash(int rc, const u8 *reply, u32 n)
{
    u32 hash = 2166136261U ^ (u32)rc;
    for (u32 i = 0; i < n; i++)
        hash = (hash ^ reply[i]) * 16777619U;
    return hash;
}

static int serve(struct work *k, u32 type);

/* Mode o: the tree has moved on. Do everything again on it: if all answers are the same, nobody was in the way. */
static bool replay(struct conn *c, struct transaction *t)
{
    struct change *changes = t->changes, **end = t->changes_end;
    struct node *tree = node_share(root);
    bool same = true;
    t->changes = NULL;
    t->changes_end = &t->changes;
    for (struct operation *o = t->operations; o && same; o = o->next) {
        static u8 body[PAYLOAD_MAX + 1], reply[PAYLOAD_MAX];
        memcpy(body, o->body, o->length);
        body[o->length] = 0;
        struct work k = {c, t, &tree, body, o->length, reply, 0};
        int rc = serve(&k, o->type);
        same = answer_hash(rc, reply, k.replied) == o->answer;
    }
    for (struct change *x = t->changes, *next; x; x = next) {
        next = x->next;
        memory_release(x);
    }
    t->changes = changes;
    t->changes_end = end;
    if (!same) {
        node_drop(tree);
        return false;
    }
    node_drop(t->root);
    t->root = tree;
    return true;
}

static int do_end(struct work *k)
{
    struct transaction *t = k->t;
    struct conn *c = k->conn;
    char *how = string(k, 0);
    if (!t)
        return ENOENT;
    if (!how || (strcmp(how, "T") && strcmp(how, "F")))
        return EINVAL;
    bool good = how[0] == 'F';
    if (!good) {
        good = whole_copies ? t->generation == generation || !t->changes : t->base == root || !t->changes || replay(c, t);
        if (good && t->changes) {
            struct change *changes = t->changes;
            node_drop(root);
            root = t->root;
            t->root = NULL;
            t->changes = NULL;
            generation++;
            commits++;
            for (struct change *x = changes, *next; x; x = next) {
                next = x->next;
                store_fire(x->path, x->removed);
                memory_release(x);
            }
        }
        conflicts += !good;
    }
    transaction_end(c, t);
    k->t = NULL;
    if (!good)
        return EAGAIN;
    answer(k, "OK");
    return 0;
}

static bool number(const char *s, u64 *value)
{
    *value = 0;
    for (const char *p = s; s && *p; p++) {
        if (*p < '0' || *p > '9')
            return false;
        *value = *value * 10 + (u64)(*p - '0');
    }
    return s && *s;
}

static int do_introduce(struct work *k)
{
    u64 domid, mfn, port;
    if (k->conn->domid)
        return EACCES;
    if (!number(string(k, 0), &domid) || !number(string(k, 1), &mfn) || !number(string(k, 2), &port) || domid > 0x7fef)
        return EINVAL;
    bool before = link_known((u32)domid);
    int rc = link_introduce((u32)domid, mfn, (u32)port);
    if (rc)
        return rc;
    answer(k, "OK");
    if (!before)
        store_fire("@introduceDomain", false);
    return 0;
}

static int do_release(struct work *k)
{
    u64 domid;
    if (k->conn->domid)
        return EACCES;
    if (!number(string(k, 0), &domid) || !domid)
        return EINVAL;
    int rc = link_release((u32)domid);
    if (rc)
        return rc;
    answer(k, "OK");
    store_fire("@releaseDomain", false);
    return 0;
}

static int do_path(struct work *k)
{
    u64 domid;
    if (!number(string(k, 0), &domid) || domid > 0xffff)
        return EINVAL;
    k->replied = (u32)snprintf((char *)k->reply, 40, "/local/domain/%u", (u32)domid) + 1;
    return 0;
}

static int do_introduced(struct work *k)
{
    u64 domid;
    if (!number(string(k, 0), &domid))
        return EINVAL;
    answer(k, domid == 0 || link_known((u32)domid) ? "T" : "F");
    return 0;
}

static int do_resume(struct work *k)
{
    u64 domid;
    if (k->conn->domid)
        return EACCES;
    if (!number(string(k, 0), &domid))
        return EINVAL;
    if (!link_known((u32)domid))
        return ENOENT;
    answer(k, "OK");
    return 0;
}

static int do_reset(struct work *k)
{
    while (k->conn->watches)
        unwatch(k->conn->watches);
    while (k->conn->transactions)
        transaction_end(k->conn, k->conn->transactions);
    k->t = NULL;
    answer(k, "OK");
    return 0;
}

static int do_control(struct work *k)
{
    if (k->conn->domid)
        return EACCES;
    k->replied = (u32)snprintf((char *)k->reply, PAYLOAD_MAX, "mode %c, %lu requests, %lu transactions, %lu commits, %lu conflicts, %lu nodes, %lu made, %lu KiB free",
                               whole_copies ? 'c' : 'o', served, started, commits, conflicts, nodes_live, nodes_made, heap_free() >> 10) + 1;
    return 0;
}

static const struct { int (*run)(struct work *); bool logged; } requests[] = {
    [XS_CONTROL] = {do_control, false}, [XS_DIRECTORY] = {do_directory, true}, [XS_READ] = {do_read, true},
    [XS_GET_PERMS] = {do_get_perms, true}, [XS_WATCH] = {do_watch, false}, [XS_UNWATCH] = {do_unwatch, false},
    [XS_TRANSACTION_START] = {do_start, false}, [XS_TRANSACTION_END] = {do_end, false}, [XS_INTRODUCE] = {do_introduce, false},
    [XS_RELEASE] = {do_release, false}, [XS_GET_DOMAIN_PATH] = {do_path, false}, [XS_WRITE] = {do_write, true},
    [XS_MKDIR] = {do_mkdir, true}, [XS_RM] = {do_rm, true}, [XS_SET_PERMS] = {do_set_perms, true},
    [XS_IS_DOMAIN_INTRODUCED] = {do_introduced, false}, [XS_RESUME] = {do_resume, false}, [XS_RESET_WATCHES] = {do_reset, false},
};

static int serve(struct work *k, u32 type)
{
    return type < COUNT(requests) && requests[type].run ? requests[type].run(k) : ENOSYS;
}

static void remember(struct transaction *t, u32 type, const u8 *body, u32 n, u32 hash)
{
    struct operation *o = memory_take(sizeof *o + n);
    if (!o)
        panic("the store is out of memory");
    o->type = type;
    o->length = n;
    o->answer = hash;
    memcpy(o->body, body, n);
    *t->operations_end = o;
    t->operations_end = &o->next;
}

void store_request(struct conn *c, const struct xsd_sockmsg *h, u8 *body)
{
    struct work k = {c, NULL, &root, body, h->len, reply_buffer, 0};
    static u8 sent[PAYLOAD_MAX];
    int rc = 0;
    body[h->len] = 0;
    c->requests++;
    served++;
    if (h->tx_id) {
        k.t = c->transactions;
        while (k.t && k.t->id != h->tx_id)
            k.t = k.t->next;
        if (k.t)
            k.tree = &k.t->root;
        else
            rc = ENOENT;
    }
    bool logged = k.t && !whole_copies && h->type < COUNT(requests) && requests[h->type].logged;
    if (logged)
        memcpy(sent, body, h->len);
    if (!rc)
        rc = serve(&k, h->type);
    if (logged)
        remember(k.t, h->type, sent, h->len, answer_hash(rc, k.reply, k.replied));
    if (!rc) {
        /* Events that a request causes come before its answer, as with Xen's own daemons; but a watch's first one after. */
        send(c, h->type, h->req_id, h->tx_id, k.reply, k.replied);
        if (h->type == XS_WATCH)
            tell(c->watches, c->watches->path);
        return;
    }
    const char *name = "EINVAL";
    for (u32 i = 0; i < COUNT(errors); i++)
        if (errors[i].number == rc)
            name = errors[i].name;
    send(c, XS_ERROR, h->req_id, h->tx_id, name, (u32)strlen(name) + 1);
}

/* -- connections */

void store_init(void)
{
    static const struct perm dom0s = {0, PERM_NONE};
    root = node_new("", 0, &dom0s, 1);
    struct node *tool = node_add(root, "tool", 4);
    node_add(tool, "xenstored", 9);
    node_add(root, "local", 5);
}

struct conn *store_connect(u32 domid)
{
    struct conn *c = memory_take(sizeof *c);
    struct listed *l = memory_take(sizeof *l);
    if (!c || !l) {
        memory_release(c);
        memory_release(l);
        return NULL;
    }
    c->domid = domid;
    *l = (struct listed){all, c};
    all = l;
    return c;
}

void store_disconnect(struct conn *c)
{
    while (c->watches)
        unwatch(c->watches);
    while (c->transactions)
        transaction_end(c, c->transactions);
    for (struct out *o = c->first, *next; o; o = next) {
        next = o->next;
        memory_release(o);
    }
    struct listed **at = &all;
    while ((*at)->conn != c)
        at = &(*at)->next;
    struct listed *l = *at;
    *at = l->next;
    memory_release(l);
    memory_release(c);
}
