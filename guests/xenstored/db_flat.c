/* One block of bytes with all nodes in it, as C xenstored keeps them in a tdb file: records found by a hash of their whole path, a
 * node's record with the names of its children. A copy is a copy of the block.
 *
 * Places in the block are offsets in words of 8 bytes; 0 is none. Records are as long as one of a row of sizes; what is given up is
 * in a list for its size, and only taken again.
 */
#include "db.h"

enum { BUCKETS = 7919, SIZES = 48, START = 1 << 14, SLACK = 4096 }; /* SLACK: what most transactions add is less */
struct record {
    u32 next, room;                        /* in its bucket, or among the free; its own size, words */
    u32 hash, path, nperms, length, names; /* of its parts, in this order: bytes, but permissions are counted */
    u32 unused;
    u64 generation;
    u8 parts[];
};
struct db { u32 room, used, free[SIZES], buckets[BUCKETS]; };
#define WORDS(bytes) ((u32)(((bytes) + 7) / 8))
#define FIRST WORDS(sizeof(struct db))

static struct record *at(struct db *d, u32 place) { return (struct record *)((u64 *)d + place); }
static char *path_of(struct record *r) { return (char *)r->parts; }
static struct perm *perms_of(struct record *r) { return (struct perm *)(r->parts + ((r->path + 3) & ~3U)); }
static u8 *value_of(struct record *r) { return (u8 *)(perms_of(r) + r->nperms); }
static char *names_of(struct record *r) { return (char *)value_of(r) + r->length; }
static u32 words(u32 path, u32 nperms, u32 length, u32 names)
{
    return WORDS(sizeof(struct record) + ((path + 3) & ~3U) + nperms * sizeof(struct perm) + length + names);
}

/* The sizes of records, in words: four to each power of two. */
static u32 size_class(u32 n, u32 *size)
{
    u32 power = n <= 8 ? 3 : 31 - (u32)__builtin_clz(n - 1), step = 1U << (power - 2), steps = n <= 8 ? 4 : (n - (1U << power) + step - 1) / step;
    *size = n <= 8 ? 8 : (1U << power) + steps * step;
    return (power - 3) * 4 + (n <= 8 ? 0 : steps);
}

/* Words, as compilers' own loops do it that may not use vectors. Eight are read before eight are written: large blocks begin at powers
 * of two, where one and the same entry of a simple TLB, as emulators have, stands for a page of either.
 */
static void copy_words(u64 *to, const u64 *from, u64 n)
{
    for (; n >= 8; n -= 8, to += 8, from += 8) {
        u64 a = from[0], b = from[1], c = from[2], d = from[3], e = from[4], f = from[5], g = from[6], h = from[7];
        barrier();
        to[0] = a, to[1] = b, to[2] = c, to[3] = d, to[4] = e, to[5] = f, to[6] = g, to[7] = h;
    }
    while (n--)
        *to++ = *from++;
}

static u32 hash_of(const char *path, u32 n)
{
    u32 hash = 2166136261U;
    for (u32 i = 0; i < n; i++)
        hash = (hash ^ (u8)path[i]) * 16777619U;
    return hash;
}

static u32 lookup(struct db *d, const char *path, u32 n)
{
    u32 hash = hash_of(path, n), place = d->buckets[hash % BUCKETS];
    while (place) {
        struct record *r = at(d, place);
        if (r->hash == hash && r->path == n && !memcmp(path_of(r), path, n))
            break;
        place = r->next;
    }
    return place;
}

/* The block and the store are told apart, for the block moves when it grows. */
struct handle { struct db *block; };
static struct db *reserve; /* a block for a copy, kept: the toolstack removes what is there in transactions */

/* Whoever makes a block sees to it that there is another one for its copy. False: no memory. */
static bool reserve_for(u32 room)
{
    u64 size = 64;
    if (reserve && reserve->room >= room)
        return true;
    while (size < room * 8UL + 64) /* what the heap makes of it anyway, less its own few bytes */
        size *= 2;
    struct db *larger = store_memory_dirty(size - 64);
    if (!larger)
        return false;
    memory_release(reserve);
    reserve = larger;
    reserve->room = WORDS(size - 64);
    return true;
}

/* A record of so many words; 0: there is no memory. */
static u32 take(struct handle *h, u32 n)
{
    u32 size, kind = size_class(n, &size);
    if (kind >= SIZES)
        return 0;
    struct db *d = h->block;
    u32 place = d->free[kind];
    if (place) {
        d->free[kind] = at(d, place)->next;
        return place;
    }
    if (d->used + size > d->room) {
        u32 room = d->room;
        while (d->used + size > room)
            room *= 2;
        struct db *bigger = store_memory_dirty(room * 8UL);
        if (!bigger || !reserve_for(room)) {
            memory_release(bigger);
            return 0;
        }
        copy_words((u64 *)bigger, (u64 *)d, d->used);
        bigger->room = room;
        memory_release(d);
        h->block = d = bigger;
    }
    place = d->used;
    d->used += size;
    at(d, place)->room = size;
    return place;
}

static void give(struct db *d, u32 place)
{
    u32 size;
    struct record *r = at(d, place);
    u32 kind = size_class(r->room, &size);
    r->next = d->free[kind];
    d->free[kind] = place;
}

static void link_in(struct db *d, u32 place)
{
    u32 *bucket = &d->buckets[at(d, place)->hash % BUCKETS];
    at(d, place)->next = *bucket;
    *bucket = place;
}

static void unlink(struct db *d, u32 place)
{
    u32 *from = &d->buckets[at(d, place)->hash % BUCKETS];
    while (*from != place)
        from = &at(d, *from)->next;
    *from = at(d, place)->next;
}

/* There is no memory for a larger block: what was given up is closed up, and records are as small again as they can be. */
static void compact(struct db *d)
{
    u32 to = FIRST, room;
    for (u32 kind = 0; kind < SIZES; kind++)
        for (u32 place = d->free[kind]; place; place = at(d, place)->next)
            at(d, place)->path = 0; /* as no record has it */
    memset(d->free, 0, sizeof d->free);
    memset(d->buckets, 0, sizeof d->buckets);
    for (u32 from = FIRST; from < d->used; from += room) {
        struct record *r = at(d, from);
        u32 size;
        room = r->room;
        if (!r->path)
            continue;
        size_class(words(r->path, r->nperms, r->length, r->names), &size);
        r->room = size;
        if (to != from)
            copy_words((u64 *)at(d, to), (u64 *)r, size);
        link_in(d, to);
        to += size;
    }
    d->used = to;
}

/* The record with room for so much, which may be another one now; 0: no memory. */
static u32 resize(struct handle *h, u32 place, u32 nperms, u32 length, u32 names)
{
    struct record *r = at(h->block, place);
    u32 need = words(r->path, nperms, length, names);
    if (need <= r->room)
        return place;
    u32 bigger = take(h, need);
    if (!bigger)
        return 0;
    u32 room = at(h->block, bigger)->room;
    r = at(h->block, place);
    copy_words((u64 *)at(h->block, bigger), (u64 *)r, words(r->path, r->nperms, r->length, r->names));
    at(h->block, bigger)->room = room;
    unlink(h->block, place);
    link_in(h->block, bigger);
    give(h->block, place);
    return bigger;
}

static bool insert(struct handle *h, const char *path, u32 n, const struct entry *e)
{
    u32 place = take(h, words(n, e->nperms, e->length, 0));
    if (!place)
        return false;
    struct record *r = at(h->block, place);
    *r = (struct record){0, r->room, hash_of(path, n), n, e->nperms, e->length, 0, 0, e->generation};
    memcpy(path_of(r), path, n);
    memcpy(perms_of(r), e->perms, e->nperms * sizeof *e->perms);
    memcpy(value_of(r), e->value, e->length);
    link_in(h->block, place);
    return true;
}

static struct db *flat_make(const struct entry *root)
{
    struct handle *h = store_memory(sizeof *h);
    if (!h || !(h->block = store_memory_dirty(START * 8UL)) || !(reserve = store_memory_dirty(START * 8UL)))
        return NULL;
    memset(h->block, 0, sizeof *h->block);
    h->block->room = reserve->room = START;
    h->block->used = FIRST;
    return insert(h, "/", 1, root) ? (struct db *)h : NULL;
}

static struct db *flat_copy(struct db *d, bool spare)
{
    struct handle *h = store_memory(sizeof *h);
    struct db *from = ((struct handle *)d)->block;
    u32 room = from->used + SLACK;
    if (!h)
        return NULL;
    h->block = reserve_for(room) ? store_memory_dirty(room * 8UL) : NULL;
    if (!h->block && spare && reserve && reserve->room >= from->used) {
        h->block = reserve;
        room = from->room < reserve->room ? from->room : reserve->room; /* no more: when it is the store, the other one is its reserve */
        reserve = NULL;
    }
    if (!h->block) {
        memory_release(h);
        return NULL;
    }
    copy_words((u64 *)h->block, (u64 *)from, from->used);
    h->block->room = room;
    return (struct db *)h;
}

static void flat_drop(struct db *d)
{
    struct db *block = ((struct handle *)d)->block;
    if (reserve)
        memory_release(block);
    else
        reserve = block;
    memory_release(d);
}

static bool flat_find(struct db *d, const char *path, struct entry *e)
{
    struct db *block = ((struct handle *)d)->block;
    u32 place = lookup(block, path, (u32)strlen(path));
    if (!place)
        return false;
    struct record *r = at(block, place);
    *e = (struct entry){perms_of(r), value_of(r), r->nperms, r->length, r->names, r->generation};
    return true;
}

static void flat_names(struct db *d, const char *path, char *to)
{
    struct db *block = ((struct handle *)d)->block;
    struct record *r = at(block, lookup(block, path, (u32)strlen(path)));
    memcpy(to, names_of(r), r->names);
}

/* The parent's record, and the name below it. */
static u32 parent_of(struct db *block, const char *path, const char **name)
{
    u32 n = (u32)strlen(path);
    while (path[n - 1] != '/')
        n--;
    *name = path + n;
    return lookup(block, path, n > 1 ? n - 1 : 1);
}

static bool add(struct handle *h, const char *path, const struct entry *e)
{
    const char *name;
    u32 parent = parent_of(h->block, path, &name), n = (u32)strlen(name) + 1;
    struct record *r = at(h->block, parent);
    parent = resize(h, parent, r->nperms, r->length, r->names + n);
    if (!parent || !insert(h, path, (u32)strlen(path), e))
        return false;
    r = at(h->block, parent);
    memcpy(names_of(r) + r->names, name, n);
    r->names += n;
    r->generation = e->generation;
    return true;
}

static bool flat_add(struct db *d, const char *path, const struct entry *e)
{
    struct handle *h = (struct handle *)d;
    if (add(h, path, e))
        return true;
    compact(h->block);
    return add(h, path, e);
}

static bool flat_set(struct db *d, const char *path, const struct entry *e)
{
    struct handle *h = (struct handle *)d;
    u32 place = lookup(h->block, path, (u32)strlen(path)), names = at(h->block, place)->names;
    /* What comes in may lie in the block itself, which may move: it is put aside. */
    u64 nperms = e->nperms * sizeof *e->perms;
    u8 *aside = store_memory(nperms + e->length + names);
    if (!aside)
        return false;
    memcpy(aside, e->perms, nperms);
    memcpy(aside + nperms, e->value, e->length);
    memcpy(aside + nperms + e->length, names_of(at(h->block, place)), names);
    place = resize(h, place, e->nperms, e->length, names);
    if (!place) {
        compact(h->block);
        place = resize(h, lookup(h->block, path, (u32)strlen(path)), e->nperms, e->length, names);
    }
    if (!place) {
        memory_release(aside);
        return false;
    }
    struct record *r = at(h->block, place);
    r->nperms = e->nperms;
    r->length = e->length;
    r->generation = e->generation;
    memcpy(perms_of(r), aside, nperms + e->length + names);
    memory_release(aside);
    return true;
}

static bool flat_ready(struct db *d, const char *path)
{
    (void)d, (void)path; /* records only become free */
    return true;
}

static void flat_remove(struct db *d, const char *path, u64 generation)
{
    struct db *block = ((struct handle *)d)->block;
    const char *name;
    u32 place = lookup(block, path, (u32)strlen(path));
    unlink(block, place);
    give(block, place);
    struct record *r = at(block, parent_of(block, path, &name));
    char *names = names_of(r), *one = names;
    u32 n = (u32)strlen(name) + 1;
    while (strcmp(one, name))
        one += strlen(one) + 1;
    for (char *p = one; p + n < names + r->names; p++)
        *p = p[n];
    r->names -= n;
    r->generation = generation;
}

const struct db_kind db_flat = {false, flat_make, flat_copy, flat_drop, flat_find, flat_names, flat_add, flat_set, flat_ready, flat_remove, NULL, NULL};
