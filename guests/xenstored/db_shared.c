/* Trees that share their nodes: a node may be part of several, and is counted. Whoever changes one makes it his own first, with the
 * nodes above it; so a copy is one more owner of the root.
 */
#include "db.h"

struct node {
    u32 refs, nkids, room, length, nperms;
    u64 generation;
    struct node **kids; /* by name */
    struct node *next;  /* on its way out */
    u8 *value;
    struct perm *perms;
    char name[];
};
struct db { struct node *root; };

/* Nothing has no place of its own. False: no memory. */
static bool copied(void *to, const void *from, u64 n)
{
    void *copy = n ? store_memory(n) : NULL;
    *(void **)to = copy;
    if (copy)
        memcpy(copy, from, n);
    return copy || !n;
}

static void node_drop(struct node *n);

static struct node *node_new(const char *name, u64 length, const struct entry *e)
{
    struct node *n = store_memory(sizeof *n + length + 1);
    if (!n)
        return NULL;
    *n = (struct node){.refs = 1, .generation = e->generation, .length = e->length, .nperms = e->nperms};
    memcpy(n->name, name, length);
    if (copied(&n->perms, e->perms, e->nperms * sizeof *e->perms) && copied(&n->value, e->value, e->length))
        return n;
    node_drop(n);
    return NULL;
}

static void node_drop(struct node *n)
{
    if (--n->refs)
        return;
    n->next = NULL;
    while (n) {
        struct node *gone = n;
        n = gone->next;
        for (u32 i = 0; i < gone->nkids; i++)
            if (!--gone->kids[i]->refs) {
                gone->kids[i]->next = n;
                n = gone->kids[i];
            }
        memory_release(gone->kids);
        memory_release(gone->value);
        memory_release(gone->perms);
        memory_release(gone);
    }
}

static struct entry entry_of(const struct node *n)
{
    struct entry e = {n->perms, n->value, n->nperms, n->length, 0, n->generation};
    for (u32 i = 0; i < n->nkids; i++)
        e.names += (u32)strlen(n->kids[i]->name) + 1;
    return e;
}

/* The next part of a path: its length; *path is behind it then. */
static u64 part(const char **path, const char **name)
{
    const char *p = *path;
    while (*p == '/')
        p++;
    *name = p;
    while (*p && *p != '/')
        p++;
    *path = p;
    return (u64)(p - *name);
}

/* Where a name is among the children, or would be. */
static bool search(const struct node *n, const char *name, u64 length, u32 *at)
{
    u32 low = 0, high = n->nkids;
    while (low < high) {
        u32 middle = (low + high) / 2;
        const char *other = n->kids[middle]->name;
        int order = strncmp(name, other, length);
        if (!order && other[length])
            order = -1;
        if (!order) {
            *at = middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    *at = low;
    return false;
}

static struct node *node_at(struct node *n, const char *path)
{
    const char *name;
    u64 length;
    u32 at;
    while (n && (length = part(&path, &name)))
        n = search(n, name, length, &at) ? n->kids[at] : NULL;
    return n;
}

/* The node as one that nobody else has, which is no change; NULL: no memory. */
static struct node *own(struct node **slot)
{
    struct node *n = *slot;
    if (n->refs == 1)
        return n;
    struct entry e = {n->perms, n->value, n->nperms, n->length, 0, n->generation};
    struct node *mine = node_new(n->name, strlen(n->name), &e);
    if (!mine)
        return NULL;
    if (n->room && !(mine->kids = store_memory(n->room * sizeof *n->kids))) {
        node_drop(mine);
        return NULL;
    }
    memcpy(mine->kids, n->kids, n->nkids * sizeof *n->kids);
    mine->nkids = n->nkids;
    mine->room = n->room;
    for (u32 i = 0; i < mine->nkids; i++)
        mine->kids[i]->refs++;
    n->refs--;
    return *slot = mine;
}

/* The node `up` names above the one at the path, nobody else's now; *rest is the path from there. NULL: no memory. */
static struct node *own_at(struct db *d, const char *path, u32 up, const char **rest)
{
    struct node *n = own(&d->root);
    const char *name;
    u64 length;
    u32 at, parts = 0;
    for (const char *p = path; part(&p, &name);)
        parts++;
    for (*rest = path; n && parts > up && (length = part(rest, &name)); parts--) {
        search(n, name, length, &at);
        n = own(&n->kids[at]);
    }
    return n;
}

static struct db *shared_make(const struct entry *root)
{
    struct db *d = store_memory(sizeof *d);
    return d && (d->root = node_new("", 0, root)) ? d : NULL;
}

static struct db *shared_copy(struct db *d, bool spare)
{
    (void)spare; /* it takes next to nothing */

    struct db *c = store_memory(sizeof *c);
    if (!c)
        return NULL;
    c->root = d->root;
    c->root->refs++;
    return c;
}

static void shared_drop(struct db *d)
{
    node_drop(d->root);
    memory_release(d);
}

static bool shared_find(struct db *d, const char *path, struct entry *e)
{
    struct node *n = node_at(d->root, path);
    if (n)
        *e = entry_of(n);
    return n != NULL;
}

static void shared_names(struct db *d, const char *path, char *to)
{
    struct node *n = node_at(d->root, path);
    for (u32 i = 0; i < n->nkids; i++) {
        u64 length = strlen(n->kids[i]->name) + 1;
        memcpy(to, n->kids[i]->name, length);
        to += length;
    }
}

static bool shared_add(struct db *d, const char *path, const struct entry *e)
{
    const char *name;
    u32 at;
    struct node *parent = own_at(d, path, 1, &path), *child;
    u64 length = part(&path, &name);
    if (!parent)
        return false;
    search(parent, name, length, &at);
    if (parent->nkids == parent->room) {
        u32 room = parent->room ? parent->room * 2 : 4;
        struct node **kids = store_memory(room * sizeof *kids);
        if (!kids)
            return false;
        memcpy(kids, parent->kids, parent->nkids * sizeof *kids);
        memory_release(parent->kids);
        parent->kids = kids;
        parent->room = room;
    }
    if (!(child = node_new(name, length, e)))
        return false;
    for (u32 i = parent->nkids++; i > at; i--)
        parent->kids[i] = parent->kids[i - 1];
    parent->kids[at] = child;
    parent->generation = e->generation;
    return true;
}

static bool shared_set(struct db *d, const char *path, const struct entry *e)
{
    struct node *n = own_at(d, path, 0, &path);
    u8 *value;
    struct perm *perms;
    if (!n || !copied(&value, e->value, e->length))
        return false;
    if (!copied(&perms, e->perms, e->nperms * sizeof *e->perms)) {
        memory_release(value);
        return false;
    }
    memory_release(n->value);
    memory_release(n->perms);
    n->value = value;
    n->perms = perms;
    n->length = e->length;
    n->nperms = e->nperms;
    n->generation = e->generation;
    return true;
}

static bool shared_ready(struct db *d, const char *path)
{
    return own_at(d, path, 1, &path);
}

static void shared_remove(struct db *d, const char *path, u64 generation)
{
    const char *name;
    u32 at;
    struct node *parent = own_at(d, path, 1, &path);
    u64 length = part(&path, &name);
    search(parent, name, length, &at);
    node_drop(parent->kids[at]);
    parent->nkids--;
    parent->generation = generation;
    for (u32 i = at; i < parent->nkids; i++)
        parent->kids[i] = parent->kids[i + 1];
}

static bool shared_same(struct db *a, struct db *b, const char *path)
{
    struct node *n = a->root, *m = b->root;
    const char *name;
    u64 length;
    u32 i, j;
    while (n != m) {
        if (!(length = part(&path, &name)) || n->nperms != m->nperms || memcmp(n->perms, m->perms, n->nperms * sizeof *n->perms))
            return false;
        bool there = search(n, name, length, &i);
        if (search(m, name, length, &j) != there)
            return false;
        if (!there) /* a transaction has made it, below what it is known to have changed */
            return !part(&path, &name);
        n = n->kids[i];
        m = m->kids[j];
    }
    return true;
}

static bool shared_graft(struct db *d, const char *path, struct db *from)
{
    struct node *new = node_at(from->root, path), *parent = own_at(d, path, 1, &path);
    const char *name;
    u32 at;
    u64 length = part(&path, &name);
    if (!parent)
        return false;
    search(parent, name, length, &at);
    new->refs++;
    node_drop(parent->kids[at]);
    parent->kids[at] = new;
    return true;
}

const struct db_kind db_shared = {true, shared_make, shared_copy, shared_drop, shared_find, shared_names, shared_add, shared_set, shared_ready, shared_remove, shared_same, shared_graft};
