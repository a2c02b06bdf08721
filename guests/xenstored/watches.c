/* Watches: who hears of which change. Design c asks every watch of every connection; design o finds those at the path, above and below
 * it (watch_trie.c).
 */
#include "store.h"

struct special specials[2] = {{"@introduceDomain", 1, {{0, PERM_NONE, 0}}}, {"@releaseDomain", 1, {{0, PERM_NONE, 0}}}};

/* Those whose right to read, as of now or before, decides who is told. */
struct asked { struct entry entries[4]; u32 n; };

static void tell(struct watch *w, const char *path)
{
    struct conn *c = w->conn;
    static char body[PAYLOAD_MAX + ABS_PATH_MAX];
    u64 n = strlen(path), skip = w->base && w->base <= n ? w->base : 0, t = strlen(w->token);
    skip += skip && path[skip] == '/';
    u32 size = (u32)(n - skip + t + 2);
    if (size > PAYLOAD_MAX)
        return;
    memcpy(body, path + skip, n - skip + 1);
    memcpy(body + n - skip + 1, w->token, t + 1);
    for (struct out *o = path[0] == '@' ? NULL : c->first; o; o = o->next) { /* the same is waiting already */
        struct xsd_sockmsg *h = (struct xsd_sockmsg *)o->data;
        if (h->type == XS_WATCH_EVENT && h->len == size && !memcmp(o->data + sizeof *h, body, size))
            return;
    }
    if (c->domid && c->unsent_bytes + sizeof(struct xsd_sockmsg) + size > QUOTA_MEMORY)
        return;
    store_event(c, body, size);
}

static bool hears(const struct watch *w, const struct asked *a)
{
    for (u32 i = 0; i < a->n; i++)
        if (rights_of(&a->entries[i], w->conn) & PERM_READ)
            return true;
    return false;
}

/* How many levels a path of so many bytes lies below what is watched; ~0 when it does not. */
static u32 levels(const char *path, u64 length, const struct watch *w)
{
    u64 n = w->length > 1 ? w->length : 0;
    if (length < n || (path[n] && path[n] != '/') || memcmp(path, w->path, n))
        return ~0U;
    u32 count = 0;
    for (const char *p = path + n; *p && path[1]; p++)
        count += *p == '/';
    return count;
}

static void told_above(struct watch *w, const char *path, void *asked)
{
    if ((w->depth == ~0U || levels(path, strlen(path), w) <= w->depth) && hears(w, asked))
        tell(w, path);
}

/* Tell the watches of a path; `exact`: not those above it (design c only). */
static void fire(const char *path, const struct asked *a, bool exact)
{
    u64 length = strlen(path);
    if (copies) {
        for (struct conn *c = conns; c; c = c->next)
            for (struct watch *w = c->watches; w; w = w->next) {
                u32 below = w->path[0] == '@' ? ~0U : levels(path, length, w);
                if (below != ~0U && (exact ? !below : below <= w->depth) && hears(w, a))
                    tell(w, path);
            }
        return;
    }
    trie_above(path, told_above, (void *)a);
}

static void ask(struct asked *a, struct db *d, const char *path, const struct entry *e)
{
    static char above[ABS_PATH_MAX + 1];
    u64 n = strlen(path);
    a->entries[a->n++] = *e;
    if (n == 1)
        return;
    while (path[n - 1] != '/')
        n--;
    n = n > 1 ? n - 1 : 1;
    memcpy(above, path, n);
    above[n] = 0;
    if (db->find(d, above, &a->entries[a->n]))
        a->n++;
}

/* All watches of one path, if there is a node. */
static void told_below(struct watch *first, void *before)
{
    struct entry e;
    if (!db->find(before, first->path, &e))
        return;
    struct asked a = {.n = 0};
    ask(&a, before, first->path, &e);
    for (struct watch *w = first; w; w = w->next_same)
        if (hears(w, &a))
            tell(w, w->path);
}

/* Nodes below one that goes are watched, too: each is told of by its own name, children before parents. */
static void fire_lost(struct db *d, const char *path)
{
    if (!copies) {
        trie_below(path, told_below, d);
        return;
    }
    struct change *list = subtree(d, path);
    counters.lost += !list;
    for (struct change *c = list, *next; c; c = next) {
        struct entry e;
        next = c->next;
        if (next && db->find(d, c->path, &e)) { /* the last is the one itself */
            struct asked a = {.n = 0};
            ask(&a, d, c->path, &e);
            fire(c->path, &a, true);
        }
        memory_release(c);
    }
}

/* The events of one change between two trees. Written: those who may read it now; removed: as it was; permissions: either. */
static void fire_change(enum change_kind kind, const char *path, struct db *before, struct db *after, const struct entry *was)
{
    struct asked a = {.n = 0};
    struct entry old, new;
    bool had = was || (before && db->find(before, path, &old)), has = after && db->find(after, path, &new);
    if (had && (!has || kind != WRITTEN))
        ask(&a, before ? before : after, path, was ? was : &old);
    if (has && (!had || kind != REMOVED))
        ask(&a, after, path, &new);
    if (kind == REMOVED && had)
        fire_lost(before, path);
    if (a.n)
        fire(path, &a, false);
}

bool note(struct work *k, enum change_kind kind, const char *path)
{
    if (!k->t)
        return true;
    u64 n = strlen(path) + 1;
    struct change *c = store_memory(sizeof *c + n);
    if (!c)
        return false;
    c->kind = kind;
    memcpy(c->path, path, n);
    k->note = c;
    return true;
}

/* Something changed. At once it is told: of a node that goes, before it does; `before`: whose permissions changed, as it was. */
void changed(struct work *k, enum change_kind kind, const char *path, const struct entry *before)
{
    if (!k->t) {
        version++;
        if (kind == REMOVED)
            fire_change(kind, path, tree, NULL, NULL);
        else
            fire_change(kind, path, NULL, tree, before);
        return;
    }
    *k->t->changes_end = k->note;
    k->t->changes_end = &k->note->next;
    k->note = NULL;
}

void fire_commit(const struct change *c, struct db *before, struct db *after)
{
    fire_change(c->kind, c->path, before, after, NULL);
}

struct special *special_of(const char *name)
{
    for (u32 i = 0; i < COUNT(specials); i++)
        if (!strcmp(specials[i].name, name))
            return &specials[i];
    return NULL;
}

void fire_special(const char *name, u32 domid)
{
    struct special *s = special_of(name);
    struct entry e = {.perms = s->perms, .nperms = s->nperms};
    char exact[48];
    snprintf(exact, sizeof exact, "%s/%u", name, domid);
    for (struct conn *c = conns; c; c = c->next)
        for (struct watch *w = c->watches; w; w = w->next)
            if (w->path[0] == '@' && rights_of(&e, c) & PERM_READ) {
                if (!strcmp(w->path, name))
                    tell(w, w->depth == 1 ? exact : name);
                else if (s == &specials[1] && !strcmp(w->path, exact))
                    tell(w, exact);
            }
}

/* -- the requests */

/* What is watched, as an absolute path: a special one is any name that begins so. */
static int watched(const struct conn *c, const char *given, char *path)
{
    if (given[0] != '@')
        return absolute(c, given, path);
    u64 n = strlen(given);
    for (u64 i = 0; i < n; i++)
        if (given[i] & 0x80)
            return EINVAL;
    if (n > REL_PATH_MAX)
        return EINVAL;
    memcpy(path, given, n + 1);
    return 0;
}

static struct watch *find(const struct conn *c, const char *path, const char *token)
{
    struct watch *w = c->watches;
    while (w && (strcmp(w->path, path) || strcmp(w->token, token)))
        w = w->next;
    return w;
}

int do_watch(struct work *k)
{
    static char path[ABS_PATH_MAX + 1];
    char *given = string(k, 0), *token = string(k, 1), *deep = string(k, 2);
    struct conn *c = k->conn;
    u32 depth = ~0U;
    if (!token || string(k, 3))
        return EINVAL;
    if (deep) {
        for (const char *p = deep; *p || p == deep; p++)
            if (*p < '0' || *p > '9')
                return EINVAL;
        depth = (u32)number(deep);
    }
    if (watched(c, given, path) || (path[0] == '@' && deep && depth != 1))
        return EINVAL;
    if (find(c, path, token))
        return EEXIST;
    if (c->domid && c->nwatches > QUOTA_WATCHES)
        return E2BIG;
    u64 n = strlen(path) + 1, t = strlen(token) + 1;
    struct watch *w = store_memory(sizeof *w + n + t);
    if (!w)
        return ENOMEM;
    *w = (struct watch){NULL, NULL, NULL, c, (char *)(w + 1), (char *)(w + 1) + n, (u32)(n - 1), 0, depth};
    if (given[0] != '/' && given[0] != '@')
        w->base = (u32)(n - 1 - strlen(given) - 1); /* without the / between */
    memcpy(w->path, path, n);
    memcpy(w->token, token, t);
    if (!copies && path[0] == '/' && !trie_add(w)) {
        memory_release(w);
        return ENOMEM;
    }
    *c->watches_end = w;
    c->watches_end = &w->next;
    c->nwatches++;
    answer(k, "OK");
    k->first = w; /* told of at once, after the reply */
    return 0;
}

void watch_first(struct watch *w)
{
    tell(w, w->path);
}

static void unwatch(struct watch *w)
{
    struct watch **at = &w->conn->watches;
    while (*at != w)
        at = &(*at)->next;
    if (!(*at = w->next))
        w->conn->watches_end = at;
    if (w->spot)
        trie_remove(w);
    w->conn->nwatches--;
    memory_release(w);
}

int do_unwatch(struct work *k)
{
    static char path[ABS_PATH_MAX + PAYLOAD_MAX];
    char *given = string(k, 0), *token = string(k, 1);
    if (!token || string(k, 2))
        return EINVAL;
    if (given[0] == '/' || given[0] == '@')
        snprintf(path, sizeof path, "%s", given);
    else
        snprintf(path, sizeof path, "/local/domain/%u/%s", k->conn->domid, given);
    struct watch *w = find(k->conn, path, token);
    if (!w)
        return ENOENT;
    unwatch(w);
    answer(k, "OK");
    return 0;
}

void watches_drop(struct conn *c)
{
    while (c->watches)
        unwatch(c->watches);
}
