/* Nodes, and trees that share them. */
#include "tree.h"

u64 nodes_live, nodes_made;

static void *copy_of(const void *from, u64 n)
{
    void *to = memory_take(n ? n : 1);
    if (!to)
        panic("the store is out of memory");
    return memcpy(to, from, n);
}

struct node *node_new(const char *name, u64 length, const struct perm *perms, u32 nperms)
{
    struct node *n = memory_take(sizeof *n);
    char *text = memory_take(length + 1);
    if (!n || !text)
        panic("the store is out of memory");
    memcpy(text, name, length);
    *n = (struct node){.refs = 1, .name = text, .nperms = nperms, .perms = copy_of(perms, nperms * sizeof *perms)};
    nodes_live++;
    nodes_made++;
    return n;
}

struct node *node_share(struct node *n)
{
    n->refs++;
    return n;
}

void node_drop(struct node *n)
{
    if (--n->refs)
        return;
    for (u32 i = 0; i < n->nkids; i++)
        node_drop(n->kids[i]);
    memory_release(n->kids);
    memory_release(n->value);
    memory_release(n->perms);
    memory_release(n->name);
    memory_release(n);
    nodes_live--;
}

static struct node *clone(const struct node *n)
{
    struct node *c = node_new(n->name, strlen(n->name), n->perms, n->nperms);
    c->length = n->length;
    if (n->length)
        c->value = copy_of(n->value, n->length);
    c->nkids = n->nkids;
    c->room = n->room;
    if (n->room) {
        c->kids = memory_take(n->room * sizeof *c->kids);
        if (!c->kids)
            panic("the store is out of memory");
        memcpy(c->kids, n->kids, n->nkids * sizeof *c->kids);
    }
    return c;
}

struct node *node_copy_all(const struct node *n)
{
    struct node *c = clone(n);
    for (u32 i = 0; i < c->nkids; i++)
        c->kids[i] = node_copy_all(n->kids[i]);
    return c;
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

struct node *node_find(struct node *root, const char *path)
{
    const char *name;
    u64 length;
    u32 at;
    while (root && (length = part(&path, &name)))
        root = search(root, name, length, &at) ? root->kids[at] : NULL;
    return root;
}

static struct node *own(struct node **slot)
{
    struct node *n = *slot;
    if (n->refs == 1)
        return n;
    struct node *mine = clone(n);
    for (u32 i = 0; i < mine->nkids; i++)
        mine->kids[i]->refs++;
    n->refs--;
    return *slot = mine;
}

struct node *node_own(struct node **root, const char *path)
{
    struct node *n = own(root);
    const char *name;
    u64 length;
    u32 at;
    while ((length = part(&path, &name))) {
        search(n, name, length, &at);
        n = own(&n->kids[at]);
    }
    return n;
}

struct node *node_add(struct node *parent, const char *name, u64 length)
{
    u32 at;
    search(parent, name, length, &at);
    if (parent->nkids == parent->room) {
        u32 room = parent->room ? parent->room * 2 : 4;
        struct node **kids = memory_take(room * sizeof *kids);
        if (!kids)
            panic("the store is out of memory");
        memcpy(kids, parent->kids, parent->nkids * sizeof *kids);
        memory_release(parent->kids);
        parent->kids = kids;
        parent->room = room;
    }
    for (u32 i = parent->nkids++; i > at; i--)
        parent->kids[i] = parent->kids[i - 1];
    return parent->kids[at] = node_new(name, length, parent->perms, parent->nperms);
}

void node_remove(struct node **root, const char *path)
{
    char above[3100];
    u64 n = strlen(path);
    u32 at;
    while (path[n - 1] != '/')
        n--;
    memcpy(above, path, n);
    above[n] = 0;
    struct node *parent = node_own(root, above);
    search(parent, path + n, strlen(path + n), &at);
    node_drop(parent->kids[at]);
    parent->nkids--;
    for (u32 i = at; i < parent->nkids; i++)
        parent->kids[i] = parent->kids[i + 1];
}

bool node_set_value(struct node *n, const u8 *value, u32 length)
{
    memory_release(n->value);
    n->value = length ? copy_of(value, length) : NULL;
    n->length = length;
    return true;
}

bool node_set_perms(struct node *n, const struct perm *perms, u32 count)
{
    struct perm *mine = copy_of(perms, count * sizeof *perms);
    memory_release(n->perms);
    n->perms = mine;
    n->nperms = count;
    return true;
}

u32 node_rights(const struct node *n, u32 domid)
{
    if (!domid || n->perms[0].domid == domid)
        return PERM_READ | PERM_WRITE | PERM_OWNER;
    for (u32 i = 1; i < n->nperms; i++)
        if (n->perms[i].domid == domid)
            return n->perms[i].rights;
    return n->perms[0].rights;
}
