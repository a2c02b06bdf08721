/* The requests on nodes: what is there, and who may see and change it. */
#include "store.h"

/* The path of the node above; false for the root. */
static bool parent(const char *path, char *above)
{
    u64 n = strlen(path);
    if (n == 1)
        return false;
    while (path[n - 1] != '/')
        n--;
    n = n > 1 ? n - 1 : 1;
    memcpy(above, path, n);
    above[n] = 0;
    return true;
}

/* The nearest node above a path that has none; `above` has its path then. */
static struct entry nearest(struct work *k, const char *path, char *above)
{
    struct entry e;
    while (parent(path, above) && !db->find(*k->db, above, &e))
        path = above;
    return e;
}

/* ENOENT, but EACCES where the nearest node above does not let the caller know. */
static int why_missing(struct work *k, const char *path, u32 need)
{
    static char above[ABS_PATH_MAX + 1];
    struct entry e = nearest(k, path, above);
    touched(k, READS, above);
    return rights_of(&e, k->conn) & need ? ENOENT : EACCES;
}

static int get(struct work *k, const char *path, u32 need, struct entry *e)
{
    if (!db->find(*k->db, path, e))
        return why_missing(k, path, need);
    touched(k, READS, path);
    return (rights_of(e, k->conn) & need) == need ? 0 : EACCES;
}

static char path[ABS_PATH_MAX + 1]; /* of the request at work */

/* The path that is given; from here on the request counts as one of its transaction. */
static int resolve(struct work *k, const char *given)
{
    if (!given || absolute(k->conn, given, path))
        return EINVAL;
    if (k->t && k->conn->domid && !k->again && k->t->touched++ >= QUOTA_TOUCHED) {
        k->t->failed = true;
        return ENOSPC;
    }
    k->reached = true;
    return 0;
}

/* A request whose body is a path alone. */
static int on_path(struct work *k, u32 need, struct entry *e)
{
    int rc = resolve(k, only_string(k));
    return rc ? rc : get(k, path, need, e);
}

int do_read(struct work *k)
{
    struct entry e;
    int rc = on_path(k, PERM_READ, &e);
    if (!rc && e.length > PAYLOAD_MAX)
        return E2BIG;
    if (!rc)
        memcpy(k->reply, e.value, k->replied = e.length);
    return rc;
}

int do_directory(struct work *k)
{
    struct entry e;
    int rc = on_path(k, PERM_READ, &e);
    if (!rc && e.names > PAYLOAD_MAX)
        return E2BIG;
    if (!rc)
        db->names(*k->db, path, (char *)k->reply);
    k->replied = rc ? 0 : e.names;
    return rc;
}

int do_directory_part(struct work *k)
{
    struct entry e;
    char *given = string(k, 0), *from = string(k, 1);
    int rc = !from || string(k, 2) ? EINVAL : resolve(k, given);
    if (rc || (rc = get(k, path, PERM_READ, &e)))
        return rc;
    u32 offset = (u32)number(from);
    char *names = store_memory(e.names + 1UL), *reply = (char *)k->reply;
    if (!names)
        return ENOMEM;
    if (k->t)
        k->t->whole = true; /* it is told a generation */
    db->names(*k->db, path, names);
    u32 start = (u32)snprintf(reply, 24, "%lu", e.generation) + 1, room = PAYLOAD_MAX - start - 1, n = offset < e.names ? e.names - offset : 0;
    bool all = n <= room;
    if (!all)
        for (n = room; n && names[offset + n - 1]; n--)
            ;
    memcpy(reply + start, names + (n ? offset : 0), n);
    reply[start + n] = 0;
    k->replied = start + n + all;
    memory_release(names);
    return 0;
}

static u32 size_of(const struct entry *e)
{
    return 24 + 8 * e->nperms + e->length + e->names;
}

static bool too_big(const struct work *k, u32 size)
{
    return k->conn->domid && size >= QUOTA_NODE_SIZE;
}

/* Nodes are made one below the other, and for the last one there was no memory: those above it down from `from` go again. */
static void take_back(struct work *k, char *last, u64 from)
{
    for (u64 i = strlen(last) - 1; i > from; i--)
        if (last[i] == '/') {
            last[i] = 0;
            db->remove(*k->db, last, generation);
        }
}

/* Make a node that is missing, and what is missing above it. They have the permissions of the node above; whoever is no toolstack owns
 * what he makes. All is checked first. */
static int make(struct work *k, const char *value, u32 length)
{
    static char above[ABS_PATH_MAX + 1];
    static struct perm perms[PERMS_MOST];
    struct conn *c = k->conn;
    struct entry e = nearest(k, path, above), new = {perms, NULL, e.nperms, 0, 0, 0};
    touched(k, WRITES, above);
    if (!(rights_of(&e, c) & PERM_WRITE))
        return EACCES;
    u64 from = above[1] ? strlen(above) : 0, n = strlen(path);
    u32 missing = 0, first = 0, longest = 0; /* the names that are to be listed above: in what is there, in what is new */
    for (u64 i = from; path[i];) {
        u32 length_of = 1;
        for (i++; path[i] && path[i] != '/'; i++)
            length_of++;
        if (!missing++)
            first = length_of;
        else if (length_of > longest)
            longest = length_of;
    }
    memcpy(perms, e.perms, e.nperms * sizeof *perms);
    if (c->domid) {
        perms[0].domid = c->domid;
        perms[0].incarnation = c->incarnation;
        if (owned_in(k, c->domid) + (s32)missing > QUOTA_NODES)
            return ENOSPC;
    }
    new.length = length;
    if (too_big(k, size_of(&new)) || too_big(k, 24 + 8 * new.nperms + longest) || too_big(k, size_of(&e) + first))
        return ENOSPC;
    if (!own_ready(k, perms[0].domid) || !note(k, WRITTEN, path))
        return ENOMEM;
    new.generation = ++generation;
    for (u64 i = from + 1; i <= n; i++)
        if (path[i] == '/' || !path[i]) {
            char saved = path[i];
            path[i] = 0;
            new.length = i == n ? length : 0;
            new.value = i == n ? (const u8 *)value : NULL;
            if (!db->add(*k->db, path, &new)) {
                take_back(k, path, from);
                return ENOMEM;
            }
            path[i] = saved;
        }
    own(k, perms[0].domid, (s32)missing);
    changed(k, WRITTEN, path, NULL);
    return 0;
}

int do_write(struct work *k)
{
    struct entry e;
    char *given = string(k, 0);
    int rc = resolve(k, given);
    if (rc)
        return rc;
    u32 skip = (u32)strlen(given) + 1, length = k->length - skip;
    if (!db->find(*k->db, path, &e)) {
        rc = make(k, given + skip, length);
        if (!rc)
            answer(k, "OK");
        return rc;
    }
    touched(k, WRITES, path);
    if (!(rights_of(&e, k->conn) & PERM_WRITE))
        return EACCES;
    e.value = (const u8 *)given + skip;
    e.length = length;
    if (too_big(k, size_of(&e)))
        return ENOSPC;
    e.generation = generation + 1;
    if (!note(k, WRITTEN, path) || !db->set(*k->db, path, &e))
        return ENOMEM;
    generation++;
    changed(k, WRITTEN, path, NULL);
    answer(k, "OK");
    return 0;
}

int do_mkdir(struct work *k)
{
    struct entry e;
    int rc = resolve(k, only_string(k));
    if (rc)
        return rc;
    if (!db->find(*k->db, path, &e))
        rc = make(k, NULL, 0);
    else {
        touched(k, READS, path);
        rc = rights_of(&e, k->conn) & PERM_WRITE ? 0 : EACCES;
    }
    if (!rc)
        answer(k, "OK");
    return rc;
}

/* The paths in the order in which they are found, turned round: children before their parents. */
struct change *subtree(struct db *d, const char *top)
{
    u64 length = strlen(top) + 1;
    struct change *found = store_memory(sizeof *found + length), **end, *list = NULL;
    if (!found)
        return NULL;
    end = &found->next;
    memcpy(found->path, top, length);
    for (struct change *c = found, *next; c; c = next) {
        struct entry e;
        db->find(d, c->path, &e);
        u64 n = strlen(c->path);
        char *names = store_memory(e.names + 1UL);
        bool whole = names;
        if (whole)
            db->names(d, c->path, names);
        for (char *name = names; whole && name < names + e.names; name += strlen(name) + 1) {
            struct change *child = store_memory(sizeof *child + n + strlen(name) + 2);
            if (!(whole = child))
                break;
            snprintf(child->path, n + strlen(name) + 2, "%s/%s", n > 1 ? c->path : "", name);
            *end = child;
            end = &child->next;
        }
        memory_release(names);
        if (!whole) {
            changes_drop(c);
            changes_drop(list);
            return NULL;
        }
        next = c->next;
        c->next = list;
        list = c;
    }
    return list;
}

/* A node that is there, with all below it. 0 or ENOMEM. */
static int nodes_remove(struct work *k, const char *top)
{
    struct entry e;
    struct change *list = subtree(*k->db, top);
    bool ready = list && note(k, REMOVED, top) && db->ready(*k->db, top);
    for (struct change *c = list; k->t && ready && c; c = c->next) {
        db->find(*k->db, c->path, &e);
        ready = own_ready(k, e.perms->domid);
    }
    if (!ready) {
        changes_drop(list);
        return ENOMEM;
    }
    changed(k, REMOVED, top, NULL);
    generation++;
    for (struct change *c = list, *next; c; c = next) {
        next = c->next;
        db->find(*k->db, c->path, &e);
        own(k, e.perms->domid, -1);
        if (!next || !db->deep)
            db->remove(*k->db, c->path, generation);
        memory_release(c);
    }
    return 0;
}

int do_rm(struct work *k)
{
    static char above[ABS_PATH_MAX + 1];
    struct entry e;
    int rc = resolve(k, only_string(k));
    if (rc)
        return rc;
    if (db->find(*k->db, path, &e)) {
        parent(path, above);
        touched(k, WRITES, path[1] ? above : path);
        if (!(rights_of(&e, k->conn) & PERM_WRITE))
            return EACCES;
        if (!path[1])
            return EINVAL;
        if ((rc = nodes_remove(k, path)))
            return rc;
    } else { /* no error where there would be a place for it */
        parent(path, above);
        if (why_missing(k, path, PERM_WRITE) == EACCES)
            return EACCES;
        if (!db->find(*k->db, above, &e))
            return ENOENT;
    }
    answer(k, "OK");
    return 0;
}

int nodes_remove_of(u32 domid)
{
    char home[32];
    struct work k = {.db = &tree};
    int rc = 0;
    snprintf(home, sizeof home, "/local/domain/%u", domid);
    for (u32 i = 0; i < 2 && owned(domid); i++) {
        struct entry e;
        const char *start = i ? "/" : home;
        if (!db->find(tree, start, &e))
            continue;
        struct change *below = subtree(tree, start), *list = NULL;
        if (!below)
            return ENOMEM;
        for (struct change *c = below, *next; c; c = next) { /* parents first */
            next = c->next;
            c->next = list;
            list = c;
        }
        for (struct change *c = list, *next; c; c = next) {
            next = c->next;
            if (!rc && c->path[1] && db->find(tree, c->path, &e) && e.perms->domid == domid)
                rc = nodes_remove(&k, c->path);
            memory_release(c);
        }
        if (rc)
            return rc;
    }
    struct entry e;
    db->find(tree, "/", &e);
    if (e.perms->domid == domid) {
        static const struct perm dom0s = {0, PERM_NONE, 0};
        struct entry before = e;
        static struct perm old[PERMS_MOST];
        memcpy(old, e.perms, e.nperms * sizeof *old);
        before.perms = old;
        e.perms = &dom0s;
        e.nperms = 1;
        e.generation = ++generation;
        if (!db->set(tree, "/", &e))
            return ENOMEM;
        own(&k, domid, -1);
        own(&k, 0, 1);
        changed(&k, PERMISSIONS, "/", &before);
    }
    return 0;
}

/* -- permissions */

int do_get_perms(struct work *k)
{
    struct entry e;
    int rc = on_path(k, PERM_READ, &e);
    if (!rc)
        tell_perms(k, e.perms, e.nperms);
    return rc;
}

int do_set_perms(struct work *k)
{
    static struct perm perms[PERMS_MOST], old[PERMS_MOST];
    struct conn *c = k->conn;
    const char *given = string(k, 0);
    u32 n;
    struct entry e, before;
    if (!given || !string(k, 1))
        return EINVAL;
    if (c->domid && string(k, QUOTA_PERMS + 1))
        return ENOSPC;
    int rc = parse_perms(k, perms, &n);
    if (rc)
        return rc;
    if (k->perms) /* a number may have another bearer by now, for whom they were not meant */
        memcpy(perms, k->perms, n * sizeof *perms);
    k->perms = perms;
    k->nperms = n;
    if (perms[0].incarnation == NEVER)
        return ENOENT;
    if (given[0] == '@') {
        struct special *s = special_of(given);
        if (!s)
            return EINVAL;
        e = (struct entry){.perms = s->perms, .nperms = s->nperms};
        if (!(rights_of(&e, c) & PERM_OWNER))
            return EACCES;
        if (n > COUNT(s->perms))
            return ENOSPC;
        memcpy(s->perms, perms, n * sizeof *perms);
        s->nperms = n;
        answer(k, "OK");
        return 0;
    }
    if ((rc = resolve(k, given)) || (rc = get(k, path, PERM_WRITE | PERM_OWNER, &e)))
        return rc;
    if (c->domid && perms[0].domid != e.perms->domid)
        return EPERM;
    before = e;
    memcpy(old, e.perms, e.nperms * sizeof *old);
    before.perms = old;
    e.perms = perms;
    e.nperms = n;
    if (too_big(k, size_of(&e)))
        return ENOSPC;
    touched(k, WRITES, path);
    e.generation = generation + 1;
    struct owner *named = NULL;
    if (!own_ready(k, old->domid) || !own_ready(k, perms->domid) || !note(k, PERMISSIONS, path) || (k->t && !(named = store_memory(sizeof *named))))
        return ENOMEM;
    if (!db->set(*k->db, path, &e)) {
        memory_release(named);
        return ENOMEM;
    }
    generation++;
    own(k, old->domid, -1);
    own(k, perms->domid, 1);
    if (named) {
        *named = (struct owner){k->t->owners, perms->domid, perms->incarnation, 0, true};
        k->t->owners = named;
    }
    changed(k, PERMISSIONS, path, &before);
    answer(k, "OK");
    return 0;
}
