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

static void *copy_of(const void *from, u64 n)
{
    return n ? memcpy(db_memory(n), from, n) : NULL;
}

static struct node *node_new(const char *name, u64 length, const struct entry *e)
{
    struct node *n = db_memory(sizeof *n + length + 1);
    *n = (struct node){.refs = 1, .generation = e->generation, .length = e->length, .nperms = e->nperms};
    memcpy(n->name, name, length);
    n->perms = copy_of(e->perms, e->nperms * sizeof *e->perms);
    n->value = copy_of(e->value, e->length);
    return n;
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

static struct node *own(struct node **slot)
{
    struct node *n = *slot;
    if (n->refs == 1)
        return n;
    struct entry e = {n->perms, n->value, n->nperms, n->length, 0, n->generation};
    struct node *mine = node_new(n->name, strlen(n->name), &e);
    mine->nkids = n->nkids;
    mine->room = n->room;
    if (n->room)
        mine->kids = memcpy(db_memory(n->room * sizeof *n->kids), n->kids, n->nkids * sizeof *n->kids);
    for (u32 i = 0; i < mine->nkids; i++)
        mine->kids[i]->refs++;
    n->refs--;
    return *slot = mine;
}

/* The node `up` names above the one at the path, nobody else's now; *rest is the path from there. */
static struct node *own_at(struct db *d, const char *path, u32 up, const char **rest)
{
    struct node *n = own(&d->root);
    const char *name;
    u64 length;
    u32 at, parts = 0;
    for (const char *p = path; part(&p, &name);)
        parts++;
    for (*rest = path; parts > up && (length = part(rest, &name)); parts--) {
        search(n, name, length, &at);
        n = own(&n->kids[at]);
    }
    return n;
}

static struct db *shared_make(const struct entry *root)
{
    struct db *d = db_memory(sizeof *d);
    d->root = node_new("", 0, root);
    return d;
}

static struct db *shared_copy(struct db *d)
{
    struct db *c = db_memory(sizeof *c);
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

static void shared_add(struct db *d, const char *path, const struct entry *e)
{
    const char *name;
    u32 at;
    struct node *parent = own_at(d, path, 1, &path);
    u64 length = part(&path, &name);
    search(parent, name, length, &at);
    if (parent->nkids == parent->room) {
        u32 room = parent->room ? parent->room * 2 : 4;
        struct node **kids = db_memory(room * sizeof *kids);
        memcpy(kids, parent->kids, parent->nkids * sizeof *kids);
        memory_release(parent->kids);
        parent->kids = kids;
        parent->room = room;
    }
    for (u32 i = parent->nkids++; i > at; i--)
        parent->kids[i] = parent->kids[i - 1];
    parent->kids[at] = node_new(name, length, e);
    parent->generation = e->generation;
}

static void shared_set(struct db *d, const char *path, const struct entry *e)
{
    struct node *n = own_at(d, path, 0, &path);
    void *value = copy_of(e->value, e->length), *perms = copy_of(e->perms, e->nperms * sizeof *e->perms);
    memory_release(n->value);
    memory_release(n->perms);
    n->value = value;
    n->perms = perms;
    n->length = e->length;
    n->nperms = e->nperms;
    n->generation = e->generation;
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

const struct db_kind db_shared = {shared_make, shared_copy, shared_drop, shared_find, shared_names, shared_add, shared_set, shared_remove};
