/* Watches by path, part by part: a change finds those at its path and above it, a removal those below. Only design o has them here.
 * A spot is there as long as it, or one below it, is watched; it is found by the one above it and its name.
 */
#include "store.h"

enum { HASH = 4096 };
struct spot {
    struct spot *same, *above, *below, *next, *previous; /* same: of the hash; below: its first; next: of those of the same above */
    struct watch *watches, **end;
    u32 length;
    char name[];
};
static struct spot root = {.end = &root.watches}, *spots[HASH];

static struct spot **place(const struct spot *above, const char *name, u64 length)
{
    return &spots[(hash(name, length) + (u32)((u64)above >> 5) * 2654435761U) % HASH];
}

static struct spot *find(const struct spot *above, const char *name, u64 length)
{
    struct spot *s = *place(above, name, length);
    while (s && (s->above != above || s->length != length || memcmp(s->name, name, length)))
        s = s->same;
    return s;
}

static u64 part(const char **path, const char **name)
{
    const char *p = *path;
    p += *p == '/';
    *name = p;
    while (*p && *p != '/')
        p++;
    *path = p;
    return (u64)(p - *name);
}

static struct spot *spot_new(struct spot *above, const char *name, u64 length)
{
    struct spot *s = store_memory(sizeof *s + length), **at = place(above, name, length);
    if (!s)
        return NULL;
    *s = (struct spot){.same = *at, .above = above, .next = above->below, .end = &s->watches, .length = (u32)length};
    memcpy(s->name, name, length);
    if (s->next)
        s->next->previous = s;
    above->below = s;
    *at = s;
    return s;
}

static void tidy(struct spot *s)
{
    for (struct spot *above; s != &root && !s->watches && !s->below; s = above) {
        struct spot **at = place(s->above, s->name, s->length);
        above = s->above;
        while (*at != s)
            at = &(*at)->same;
        *at = s->same;
        if (s->previous)
            s->previous->next = s->next;
        else
            above->below = s->next;
        if (s->next)
            s->next->previous = s->previous;
        memory_release(s);
    }
}

bool trie_add(struct watch *w)
{
    struct spot *s = &root, *next;
    const char *path = w->path, *name;
    u64 length;
    for (; (length = part(&path, &name)); s = next)
        if (!(next = find(s, name, length)) && !(next = spot_new(s, name, length))) {
            tidy(s);
            return false;
        }
    w->spot = s;
    *s->end = w;
    s->end = &w->next_same;
    return true;
}

void trie_remove(struct watch *w)
{
    struct watch **at = &w->spot->watches;
    while (*at != w)
        at = &(*at)->next_same;
    if (!(*at = w->next_same))
        w->spot->end = at;
    tidy(w->spot);
}

void trie_above(const char *path, watch_visitor visit, void *arg)
{
    const char *rest = path, *name;
    u64 length = 1;
    for (struct spot *s = &root; s && length; s = length ? find(s, name, length) : NULL) {
        for (struct watch *w = s->watches; w; w = w->next_same)
            visit(w, path, arg);
        length = part(&rest, &name);
    }
}

static struct spot *deepest(struct spot *s)
{
    while (s->below)
        s = s->below;
    return s;
}

void trie_below(const char *path, void (*visit)(struct watch *first, void *arg), void *arg)
{
    struct spot *top = &root;
    const char *name;
    u64 length;
    while (top && (length = part(&path, &name)))
        top = find(top, name, length);
    for (struct spot *s = top ? deepest(top) : NULL; s && s != top; s = s->next ? deepest(s->next) : s->above)
        if (s->watches)
            visit(s->watches, arg);
}
