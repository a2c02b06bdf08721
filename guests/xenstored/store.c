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

void *db_memory(u64 size)
{
    void *memory = memory_take(size);
    if (!memory)
        panic("the store is out of memory");
    return memory;
}

u32 hash(const char *text, u64 n)
{
    u32 value = 2166136261U;
    for (u64 i = 0; i < n; i++)
        value = (value ^ (u8)text[i]) * 16777619U;
    return value;
}

/* -- messages out */

void store_send(struct conn *c, u32 type, u32 id, u32 tx, const void *body, u32 n)
{
    struct out *o = db_memory(sizeof *o + sizeof(struct xsd_sockmsg) + n);
    struct xsd_sockmsg h = {type, id, tx, n};
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

void store_sent(struct conn *c)
{
    struct out *o = c->first;
    c->first = o->next;
    c->unsent_bytes -= o->size;
    c->unsent_replies -= ((struct xsd_sockmsg *)o->data)->type != XS_WATCH_EVENT;
    memory_release(o);
}

/* Whether the next request is taken in: who does not read his answers has to wait. */
bool store_accepts(const struct conn *c)
{
    return !c->domid || c->unsent_replies < QUOTA_OUTSTANDING;
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
    k->replied = (u32)snprintf((char *)k->reply, PAYLOAD_MAX, "mode %c, %lu requests, %lu transactions, %lu commits, %lu conflicts, %lu nodes, %lu KiB free",
                               copies ? 'c' : 'o', c->requests, c->transactions, c->commits, c->conflicts, c->nodes, heap_free() >> 10) + 1;
    return 0;
}

enum { ALL, DOM0 }; /* whose a request may be */
static const struct { int (*run)(struct work *); u8 who; bool outside; } requests[] = { /* outside: of any transaction */
    [XS_CONTROL] = {do_control, DOM0, false}, [XS_DIRECTORY] = {do_directory, ALL, false}, [XS_READ] = {do_read, ALL, false},
    [XS_GET_PERMS] = {do_get_perms, ALL, false}, [XS_WATCH] = {do_watch, ALL, true}, [XS_UNWATCH] = {do_unwatch, ALL, true},
    [XS_TRANSACTION_START] = {do_start, ALL, false}, [XS_TRANSACTION_END] = {do_end, ALL, false},
    [XS_INTRODUCE] = {do_introduce, DOM0, false}, [XS_RELEASE] = {do_release, DOM0, false}, [XS_GET_DOMAIN_PATH] = {do_path, ALL, false},
    [XS_WRITE] = {do_write, ALL, false}, [XS_MKDIR] = {do_mkdir, ALL, false}, [XS_RM] = {do_rm, ALL, false},
    [XS_SET_PERMS] = {do_set_perms, ALL, false}, [XS_IS_DOMAIN_INTRODUCED] = {do_introduced, DOM0, false},
    [XS_RESUME] = {do_resume, DOM0, false}, [XS_SET_TARGET] = {do_set_target, DOM0, false}, [XS_RESET_WATCHES] = {do_reset, ALL, false},
    [XS_DIRECTORY_PART] = {do_directory_part, ALL, false},
};

int serve(struct work *k, u32 type)
{
    return requests[type].run(k);
}

static int try(struct work *k, const struct xsd_sockmsg *h)
{
    if (h->type >= COUNT(requests) || !requests[h->type].run)
        return ENOSYS;
    if (requests[h->type].who == DOM0 && k->conn->domid)
        return EACCES;
    if (h->tx_id && !requests[h->type].outside) {
        k->t = k->conn->transactions;
        while (k->t && k->t->id != h->tx_id)
            k->t = k->t->next;
        if (!k->t)
            return ENOENT;
        k->db = &k->t->db;
    }
    return serve(k, h->type);
}

void store_request(struct conn *c, const struct xsd_sockmsg *h, u8 *body)
{
    static u8 sent[PAYLOAD_MAX], reply[PAYLOAD_MAX + 64];
    struct work k = {.conn = c, .db = &tree, .body = body, .length = h->len, .reply = reply};
    counters.requests++;
    body[h->len] = 0;
    if (h->tx_id && !copies)
        memcpy(sent, body, h->len); /* what is done again if the transaction is overtaken */
    int rc = try(&k, h);
    if (k.t && k.reached && !copies)
        remember(&k, h->type, sent, h->len, rc);
    if (!rc) {
        store_send(c, h->type, h->req_id, h->tx_id, k.reply, k.replied);
        if (k.first)
            watch_first(k.first);
        return;
    }
    const char *name = "EINVAL";
    for (u32 i = 0; i < COUNT(errors); i++)
        if (errors[i].number == rc)
            name = errors[i].name;
    store_send(c, XS_ERROR, h->req_id, h->tx_id, name, (u32)strlen(name) + 1);
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
        db->add(tree, there[i], &e);
    owned_add(0, COUNT(there) + 1);
}
