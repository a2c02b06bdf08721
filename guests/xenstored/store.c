/* The store's front: what a request is, who may make it, and its answer. */
#include "store.h"

const struct db_kind *db;
bool copies;
struct db *tree;
u64 version, generation;
struct counters counters;

static const struct { int number; const char *name; } errors[] = {
    {EINVAL, "EINVAL"}, {EACCES, "EACCES"}, {EEXIST, "EEXIST"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"}, {ENOSPC, "ENOSPC"},
    {ENOSYS, "ENOSYS"}, {EBUSY, "EBUSY"}, {EAGAIN, "EAGAIN"}, {E2BIG, "E2BIG"}, {EPERM, "EPERM"},
};

/* To remove something may take memory, too, as does an answer: for that some is kept. A request that makes the store larger is only
 * begun when that is whole.
 */
enum { SPARE = (64 << 10) - 64 };
static void *spare;
static bool grows; /* the request at work makes the store larger */

void *store_memory_dirty(u64 size)
{
    void *memory = memory_take_dirty(size);
    if (!memory && !grows && spare) {
        memory_release(spare);
        spare = NULL;
        memory = memory_take_dirty(size);
    }
    return memory;
}

void *store_memory(u64 size)
{
    void *memory = store_memory_dirty(size);
    return memory ? memset(memory, 0, size) : NULL;
}

static bool spare_is_whole(void)
{
    if (!spare)
        spare = memory_take_dirty(SPARE);
    return spare;
}

u32 hash(const char *text, u64 n)
{
    u32 value = 2166136261U;
    for (u64 i = 0; i < n; i++)
        value = (value ^ (u8)text[i]) * 16777619U;
    return value;
}

/* -- messages out */

static void send(struct conn *c, struct out *o, u32 type, u32 id, u32 tx, const void *body, u32 n)
{
    struct xsd_sockmsg h = {type, id, tx, n};
    o->next = NULL;
    o->sent = 0;
    o->size = (u32)sizeof h + n;
    memcpy(o->data, &h, sizeof h);
    memcpy(o->data + sizeof h, body, n);
    if (c->first)
        c->last->next = o;
    else
        c->first = o;
    c->last = o;
    c->unsent_bytes += o->size;
    c->unsent_replies += type != XS_WATCH_EVENT;
    link_written(c);
}

static struct out *out_new(u32 n)
{
    return store_memory(sizeof(struct out) + sizeof(struct xsd_sockmsg) + n);
}

void out_release(struct conn *c, struct out *o)
{
    if ((u8 *)o == c->reply)
        c->reply_used = false;
    else
        memory_release(o);
}

void store_event(struct conn *c, const void *body, u32 n)
{
    struct out *o = out_new(n);
    if (o)
        send(c, o, XS_WATCH_EVENT, 0, 0, body, n);
    else
        counters.lost++;
}

/* Every request is answered. Without memory a short answer goes into the connection's own room; a long one tells of nothing that
 * was changed, and ENOMEM takes its place. */
static void reply(struct conn *c, const struct xsd_sockmsg *h, u32 type, const void *body, u32 n)
{
    struct out *o = out_new(n);
    if (!o) {
        o = (struct out *)c->reply;
        c->reply_used = true;
        if (n > SHORT_REPLY) {
            type = XS_ERROR;
            body = "ENOMEM";
            n = sizeof "ENOMEM";
        }
    }
    send(c, o, type, h->req_id, h->tx_id, body, n);
}

void store_sent(struct conn *c)
{
    struct out *o = c->first;
    c->first = o->next;
    c->unsent_bytes -= o->size;
    c->unsent_replies -= ((struct xsd_sockmsg *)o->data)->type != XS_WATCH_EVENT;
    out_release(c, o);
}

/* Whether the next request is taken in: who does not read his answers has to wait. */
bool store_accepts(const struct conn *c)
{
    return (!c->domid || c->unsent_replies < QUOTA_OUTSTANDING) && !c->reply_used;
}

/* -- what comes in */

char *string(struct work *k, u32 n)
{
    for (u32 at = 0;; n--) {
        u32 end = at;
        while (end < k->length && k->body[end])
            end++;
        if (end >= k->length)
            return NULL;
        if (!n)
            return (char *)k->body + at;
        at = end + 1;
    }
}

char *only_string(struct work *k)
{
    char *s = string(k, 0);
    return s && strlen(s) + 1 == k->length ? s : NULL;
}

s32 number(const char *text)
{
    bool minus = false;
    u32 value = 0, digits = 0;
    while (*text == ' ' || (*text >= '\t' && *text <= '\r'))
        text++;
    if (*text == '-' || *text == '+')
        minus = *text++ == '-';
    for (; *text >= '0' && *text <= '9' && digits < 20; text++, digits++)
        value = value * 10 + (u32)(*text - '0');
    return (s32)(minus ? -value : value);
}

static bool in_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '@';
}

/* How long the "/local/domain/N/" is that a path begins with; 0: it does not. */
static u64 home(const char *path)
{
    static const char start[] = "/local/domain/";
    u64 n = sizeof start - 1, digits = 0;
    if (strncmp(path, start, n))
        return 0;
    while (path[n] >= '0' && path[n] <= '9')
        n++, digits++;
    return digits && digits <= 5 && path[n] == '/' ? n + 1 : 0;
}

int absolute(const struct conn *c, const char *given, char *to)
{
    u64 n = strlen(given);
    if (n > ABS_PATH_MAX)
        return EINVAL;
    if (given[0] == '/' || given[0] == '@')
        memcpy(to, given, n + 1);
    else if ((n = (u64)snprintf(to, ABS_PATH_MAX + 1, "/local/domain/%u/%s", c->domid, given)) > ABS_PATH_MAX)
        return EINVAL;
    if (to[0] != '/' || n > REL_PATH_MAX + home(to))
        return EINVAL;
    for (u64 i = 1; i < n; i++)
        if (!in_name(to[i]) && (to[i] != '/' || to[i - 1] == '/'))
            return EINVAL;
    return n > 1 && to[n - 1] == '/' ? EINVAL : 0;
}

/* -- answers */

void answer(struct work *k, const char *text)
{
    k->replied = (u32)strlen(text) + 1;
    memcpy(k->reply, text, k->replied);
}

static int do_control(struct work *k)
{
    const struct counters *c = &counters;
    k->replied = (u32)snprintf((char *)k->reply, PAYLOAD_MAX, "mode %c, %lu requests, %lu transactions, %lu commits (%lu merged, %lu replayed), %lu conflicts, %lu nodes, %lu KiB free",
                               copies ? 'c' : 'o', c->requests, c->transactions, c->commits, c->merged, c->replayed, c->conflicts, c->nodes, heap_free() >> 10) + 1;
    return 0;
}

enum { ALL, DOM0 }; /* whose a request may be */
enum { PLAIN, OUTSIDE, GROWS }; /* OUTSIDE: of any transaction. GROWS: the store is larger afterwards */
static const struct { int (*run)(struct work *); u8 who, how; } requests[] = {
    [XS_CONTROL] = {do_control, DOM0, PLAIN}, [XS_DIRECTORY] = {do_directory, ALL, PLAIN}, [XS_READ] = {do_read, ALL, PLAIN},
    [XS_GET_PERMS] = {do_get_perms, ALL, PLAIN}, [XS_WATCH] = {do_watch, ALL, OUTSIDE | GROWS}, [XS_UNWATCH] = {do_unwatch, ALL, OUTSIDE},
    [XS_TRANSACTION_START] = {do_start, ALL, PLAIN}, [XS_TRANSACTION_END] = {do_end, ALL, PLAIN},
    [XS_INTRODUCE] = {do_introduce, DOM0, GROWS}, [XS_RELEASE] = {do_release, DOM0, PLAIN}, [XS_GET_DOMAIN_PATH] = {do_path, ALL, PLAIN},
    [XS_WRITE] = {do_write, ALL, GROWS}, [XS_MKDIR] = {do_mkdir, ALL, GROWS}, [XS_RM] = {do_rm, ALL, PLAIN},
    [XS_SET_PERMS] = {do_set_perms, ALL, GROWS}, [XS_IS_DOMAIN_INTRODUCED] = {do_introduced, DOM0, PLAIN},
    [XS_RESUME] = {do_resume, DOM0, PLAIN}, [XS_SET_TARGET] = {do_set_target, DOM0, PLAIN}, [XS_RESET_WATCHES] = {do_reset, ALL, PLAIN},
    [XS_DIRECTORY_PART] = {do_directory_part, ALL, PLAIN},
};

int serve(struct work *k, u32 type)
{
    int rc = requests[type].run(k);
    if (k->note)
        memory_release(k->note);
    return rc;
}

static int try(struct work *k, const struct xsd_sockmsg *h)
{
    if (h->type >= COUNT(requests) || !requests[h->type].run)
        return ENOSYS;
    if (requests[h->type].who == DOM0 && k->conn->domid)
        return EACCES;
    if (h->tx_id && !(requests[h->type].how & OUTSIDE)) {
        k->t = k->conn->transactions;
        while (k->t && k->t->id != h->tx_id)
            k->t = k->t->next;
        if (!k->t)
            return ENOENT;
        k->db = &k->t->db;
    }
    struct operation *o = NULL;
    grows = requests[h->type].how & GROWS;
    if (grows && !spare_is_whole())
        return ENOMEM;
    if (k->t && !copies && !(o = operation_new(h->type, k->body, h->len)))
        return ENOMEM;
    int rc = serve(k, h->type);
    if (o && k->t && k->reached && rc != ENOMEM)
        remember(k, o, rc);
    else if (o)
        memory_release(o);
    return rc;
}

void store_request(struct conn *c, const struct xsd_sockmsg *h, u8 *body)
{
    static u8 room[PAYLOAD_MAX + 64];
    struct work k = {.conn = c, .db = &tree, .body = body, .length = h->len, .reply = room};
    counters.requests++;
    body[h->len] = 0;
    int rc = try(&k, h);
    grows = false;
    if (!rc) {
        reply(c, h, h->type, k.reply, k.replied);
        if (k.first)
            watch_first(k.first);
        return;
    }
    const char *name = "EINVAL";
    for (u32 i = 0; i < COUNT(errors); i++)
        if (errors[i].number == rc)
            name = errors[i].name;
    reply(c, h, XS_ERROR, name, (u32)strlen(name) + 1);
}

void store_init(bool as_copies)
{
    static const struct perm dom0s = {0, PERM_NONE, 0};
    static const char *const there[] = {"/local", "/tool", "/tool/xenstored"};
    struct entry e = {&dom0s, NULL, 1, 0, 0, ++generation};
    copies = as_copies;
    db = copies ? &db_flat : &db_shared;
    tree = db->make(&e);
    for (u32 i = 0; i < COUNT(there); i++)
        if (!tree || !db->add(tree, there[i], &e))
            panic("no memory for an empty store");
    owned_add(0, COUNT(there) + 1);
}
