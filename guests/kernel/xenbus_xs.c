/* A front end's way over XenStore: two directories, a node `state` in each, a watch on the back end's.
 *
 * One thread uses the store at a time. A watch fires once when it is set, and that event is as good as any: it says "read".
 */
#include "xenbus.h"

static const char *const directories[] = {"", "", "vif", "vbd"};
enum { WATCHES = 8 };
static volatile bool *flags[WATCHES]; /* by token */

int xs_get(const struct device *d, const char *where, const char *name, char *value, u32 size)
{
    char path[128];
    (void)d;
    snprintf(path, sizeof path, "%s/%s", where, name);
    return xenstore_read(0, path, value, size);
}

u64 xs_number(const struct device *d, const char *where, const char *name, u64 otherwise)
{
    char text[24];
    u64 n = 0;
    if (xs_get(d, where, name, text, sizeof text) <= 0)
        return otherwise;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || n > ~0UL / 10 - 9)
            return otherwise;
        n = n * 10 + (u64)(*p - '0');
    }
    return n;
}

bool xs_put(u32 transaction, const char *where, const char *name, const char *format, ...)
{
    char path[128], value[128];
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    __builtin_va_end(args);
    snprintf(path, sizeof path, "%s/%s", where, name);
    return xenstore_write(transaction, path, value) >= 0;
}

void xs_watch_flag(const char *path, u32 *watch, volatile bool *flag)
{
    char token[8];
    for (*watch = 0; flags[*watch]; ++*watch)
        if (*watch + 1 == WATCHES)
            panic("too many watches");
    flags[*watch] = flag;
    snprintf(token, sizeof token, "%u", *watch);
    xenstore_watch(path, token);
}

void xs_unwatch_flag(const char *path, u32 watch)
{
    char token[8];
    snprintf(token, sizeof token, "%u", watch);
    xenstore_unwatch(path, token);
    xs_dispatch(); /* what was still on its way is nobody else's */
    flags[watch] = NULL;
}

void xs_dispatch(void)
{
    char path[128], token[32];
    while (xenstore_pending()) {
        if (!xenstore_next_watch(path, token, sizeof path, sizeof token))
            continue;
        u32 watch = (u32)(token[0] - '0');
        if (watch < WATCHES && !token[1] && flags[watch])
            *flags[watch] = true;
    }
}

/* The devices of a kind are the children of device/KIND; the command line's order is theirs. */
static bool open(struct device *d, u32 index)
{
    char names[256] = "", path[96];
    if (!xenstore_usable())
        return false;
    snprintf(path, sizeof path, "device/%s", directories[d->kind]);
    int n = xenstore_directory(0, path, names, sizeof names);
    const char *name = names, *end = names + (n > 0 ? (u32)n < sizeof names ? (u32)n : sizeof names - 1 : 0);
    for (; index && name < end; index--)
        name += strlen(name) + 1;
    if (name >= end || !*name)
        return false;
    snprintf(d->front, sizeof d->front, "device/%s/%s", directories[d->kind], name);
    d->id = 0;
    for (const char *p = name; *p >= '0' && *p <= '9'; p++)
        d->id = d->id * 10 + (u32)(*p - '0');
    d->backend = (u32)xs_number(d, d->front, "backend-id", DOMID_INVALID);
    int got = xs_get(d, d->front, "backend", d->back, sizeof d->back);
    if (d->backend >= DOMID_SELF || got <= 0 || got >= (int)sizeof d->back)
        return false;
    snprintf(path, sizeof path, "%s/state", d->back);
    xs_watch_flag(path, &d->watch, &d->changed);
    d->state = (u32)xs_number(d, d->front, "state", XenbusStateUnknown);
    return true;
}

static void close(struct device *d)
{
    char path[96];
    snprintf(path, sizeof path, "%s/state", d->back);
    xs_unwatch_flag(path, d->watch);
}

static void set_state(struct device *d, u32 state)
{
    xs_put(0, d->front, "state", "%u", state);
}

static u32 peer_state(struct device *d)
{
    u64 state = xs_number(d, d->back, "state", XenbusStateUnknown);
    return state <= XenbusStateReconfigured ? (u32)state : XenbusStateUnknown;
}

/* A directory that was removed and made again between two looks is another device: the toolstack's Initialising is in it, and
 * not what we wrote last. (Linux's xenbus_dev_changed goes by the same.) */
static bool is_ours(struct device *d)
{
    return xs_number(d, d->front, "state", XenbusStateUnknown) == d->state;
}

static void arm(struct device *d)
{
    (void)d; /* the watch stays armed */
}

static void notice(struct device *d)
{
    (void)d;
    xs_dispatch();
}

static bool stirred(struct device *d)
{
    (void)d;
    return xenstore_pending();
}

static volatile bool *watch_list(u32 kind)
{
    static volatile bool changed;
    static u32 watch;
    char path[32];
    snprintf(path, sizeof path, "device/%s", directories[kind]);
    if (xenstore_usable())
        xs_watch_flag(path, &watch, &changed);
    return &changed;
}

const struct bus bus_xs = {"xs", open, close, set_state, peer_state, is_ours, arm, notice, stirred, watch_list};
