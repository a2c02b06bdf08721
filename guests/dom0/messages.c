/* Messages to the XenStore as data: words into paths and values, and one request after the other. */
#include "messages.h"

static const struct { const char *name; int number; } errors[] = {
    {"ENOENT", ENOENT}, {"EAGAIN", EAGAIN}, {"EACCES", EACCES}, {"EEXIST", EEXIST}, {"EINVAL", EINVAL}, {"ENOSPC", ENOSPC},
    {"EBUSY", EBUSY}, {"ENOMEM", ENOMEM}, {"E2BIG", E2BIG}, {"EPERM", EPERM}, {"ENOSYS", ENOSYS}, {"ENOTCONN", ENOTCONN}};

void scope_word(struct scope *s, char letter, const char *format, ...)
{
    va_list args;
    char *at = s->text + s->used;
    __builtin_va_start(args, format);
    u32 n = (u32)vsnprintf(at, sizeof s->text - s->used, format, args) + 1;
    __builtin_va_end(args);
    if (n > sizeof s->text - s->used)
        panic("a scope's words are too long");
    s->used += n;
    s->words[letter - 'A'] = at;
}

void scope_open(struct scope *s, struct guest *g)
{
    const u8 *u = g->uuid;
    s->guest = g;
    s->transaction = s->used = 0;
    memset(s->words, 0, sizeof s->words);
    scope_word(s, 'd', "%u", g->domid);
    scope_word(s, 'e', "0");
    scope_word(s, 'h', "/local/domain/%u", g->domid);
    scope_word(s, 'l', "/libxl/%u", g->domid);
    scope_word(s, 'u', "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7],
               u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    scope_word(s, 'v', "/vm/%s", s->words['u' - 'A']);
    s->words['n' - 'A'] = g->config.name;
    s->words['k' - 'A'] = g->config.kernel;
    s->words['r' - 'A'] = g->config.ramdisk;
    s->words['c' - 'A'] = g->config.cmdline;
}

void scope_device(struct scope *s, const char *kind, u32 devid)
{
    u32 domid = s->guest->domid;
    s->used = s->words['f' - 'A'] ? (u32)(s->words['i' - 'A'] - s->text) : s->used; /* the last device's words make room */
    scope_word(s, 'i', "%u", devid);
    scope_word(s, 'f', "/local/domain/%u/device/%s/%u", domid, kind, devid);
    scope_word(s, 'b', "/local/domain/0/backend/%s/%u/%u", kind, domid, devid);
    scope_word(s, 'p', "/libxl/%u/device/%s/%u", domid, kind, devid);
}

void scope_vif(struct scope *s, const struct vif_config *v)
{
    const u8 *m = v->mac, *ip = (const u8 *)&v->ip;
    scope_device(s, "vif", v->devid);
    scope_word(s, 'm', "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
    scope_word(s, 'g', "%s", v->bridge);
    scope_word(s, 's', "%s%s", v->script[0] == '/' || !v->script[0] ? "" : "/etc/xen/scripts/", v->script);
    if (v->ip)
        scope_word(s, 'a', "%u.%u.%u.%u", ip[0], ip[1], ip[2], ip[3]);
    else
        scope_word(s, 'a', "%s", "");
}

void scope_vbd(struct scope *s, const struct vbd_config *d)
{
    scope_device(s, "vbd", d->devid);
    scope_word(s, 't', "%s", d->target);
    scope_word(s, 'y', "%s", d->file ? "file" : "phy");
    scope_word(s, 'x', "%s", d->vdev);
    scope_word(s, 'o', "%s", d->readonly ? "r" : "w");
    scope_word(s, 's', "/etc/xen/scripts/block");
    scope_word(s, 'z', "%s", d->cdrom ? "cdrom" : "disk");
    scope_word(s, 'w', "%d", !d->no_discard);
}

void scope_expand(const struct scope *s, const char *pattern, char *to, u32 size)
{
    char *end = to + size - 1;
    for (; *pattern && to < end; pattern++) {
        if (*pattern != '$') {
            *to++ = *pattern;
            continue;
        }
        const char *word = s->words[*++pattern - 'A'];
        if (!word)
            panic("no word for $%c", *pattern);
        while (*word && to < end)
            *to++ = *word++;
    }
    *to = 0;
}

static int request(struct scope *s, u32 op, const char *body, u32 n)
{
    s->length = xenstore_request(op, s->transaction, body, n, s->reply, sizeof s->reply);
    if (s->length >= 0)
        return 0;
    for (u32 i = 0; i < COUNT(errors); i++)
        if (!strcmp(errors[i].name, s->reply))
            return -errors[i].number;
    return -EOPNOTSUPP;
}

static int permissions(struct scope *s, const char *path, const char *perms)
{
    char body[256];
    scope_expand(s, path, body, 160);
    u32 n = (u32)strlen(body) + 1;
    scope_expand(s, perms, body + n, sizeof body - n);
    char *p = body + n;
    n += (u32)strlen(p) + 1;
    for (; *p; p++)
        if (*p == ' ')
            *p = 0;
    return request(s, XS_SET_PERMS, body, n);
}

static bool is_path_of(const char *path, const char *domid)
{
    static const char above[] = "/local/domain/";
    return !strncmp(path, above, sizeof above - 1) && !strcmp(path + sizeof above - 1, domid);
}

int store_message(struct scope *s, const struct message *m)
{
    char body[XENSTORE_MAX];
    scope_expand(s, m->path, body, sizeof body / 2);
    u32 n = (u32)strlen(body) + 1;
    if (m->value) { /* of WRITE without its 0; of INTRODUCE further words, each with it */
        scope_expand(s, m->value, body + n, sizeof body - n);
        char *p = body + n;
        n += (u32)strlen(p) + (m->op != XS_WRITE);
        for (; m->op == XS_INTRODUCE && *p; p++)
            if (*p == ' ')
                *p = 0;
    }
    int rc = request(s, m->op, body, n);
    if (!rc && m->op == XS_GET_DOMAIN_PATH && !is_path_of(s->reply, body))
        rc = -EPROTO;
    if (rc == -ENOENT && !m->needed && (m->op == XS_READ || m->op == XS_RM || m->op == XS_DIRECTORY))
        rc = 0;
    return rc || !m->perms ? rc : permissions(s, m->path, m->perms);
}

int store_send(struct scope *s, const struct message *list, u32 n)
{
    int rc = 0;
    for (u32 i = 0; i < n && !rc; i++)
        rc = store_message(s, &list[i]);
    return rc;
}

int store_read(struct scope *s, const char *path)
{
    struct message m = READ(path);
    int rc = store_message(s, &m);
    return rc ? rc : s->length < 0 ? -ENOENT : s->length;
}

int store_begin(struct scope *s)
{
    int rc;
    s->transaction = 0;
    if ((rc = request(s, XS_TRANSACTION_START, "", 1)))
        return rc;
    for (const char *p = s->reply; *p >= '0' && *p <= '9'; p++)
        s->transaction = s->transaction * 10 + (u32)(*p - '0');
    return s->transaction ? 0 : -EINVAL;
}

int store_commit(struct scope *s)
{
    int rc = request(s, XS_TRANSACTION_END, "T", 2);
    s->transaction = 0;
    return rc;
}

void store_abort(struct scope *s)
{
    if (s->transaction)
        request(s, XS_TRANSACTION_END, "F", 2);
    s->transaction = 0;
}

enum { ATTEMPTS = 1000 }; /* libxl and libh2 have no limit: so many in a row mean that somebody never lets go */

int store_transact(struct scope *s, int (*body)(struct scope *s))
{
    for (u32 i = 0; i < ATTEMPTS; i++) {
        int rc = store_begin(s);
        if (rc)
            return rc;
        rc = body(s);
        if (rc) {
            store_abort(s);
            return rc;
        }
        rc = store_commit(s);
        if (rc != -EAGAIN)
            return rc;
    }
    return -EAGAIN;
}

int store_transact_list(struct scope *s, const struct message *list, u32 n)
{
    for (u32 i = 0; i < ATTEMPTS; i++) {
        int rc = store_begin(s);
        if (rc)
            return rc;
        rc = store_send(s, list, n);
        if (rc) {
            store_abort(s);
            return rc;
        }
        rc = store_commit(s);
        if (rc != -EAGAIN)
            return rc;
    }
    return -EAGAIN;
}
