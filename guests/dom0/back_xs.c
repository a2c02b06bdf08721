/* Devices found by the XenStore, as Linux's xenbus finds them (drivers/xen/xenbus): one watch on our directory of back ends; each of
 * its events makes us look at the device's directory; a new one is probed, one that has gone is let go.
 */
#include "back.h"
#include "store_watch.h"

enum { PARTS = 4 };
static const struct back_kind *const kinds[] = {&back_vif};
#define ROOT "/local/domain/0/backend"

bool back_text(const char *directory, const char *name, char *to, u32 size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int n = xenstore_read(0, path, to, size);
    if (n < 0)
        to[0] = 0;
    return n >= 0;
}

u64 back_number(const char *directory, const char *name, u64 otherwise)
{
    char text[24];
    u64 value = 0;
    if (!back_text(directory, name, text, sizeof text) || !text[0])
        return otherwise;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || p - text > 18)
            return otherwise;
        value = value * 10 + (u64)(*p - '0');
    }
    return value;
}

void back_put(struct back *b, const char *name, const char *format, ...)
{
    char path[128], value[64];
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    __builtin_va_end(args);
    snprintf(path, sizeof path, "%s/%s", b->path, name);
    xenstore_write(0, path, value);
}

static u32 other(struct back *b)
{
    return (u32)back_number(b->front, "state", XenbusStateUnknown);
}

static void publish(struct back *b, u32 state) { back_put(b, "state", "%u", state); }
static void offer(struct back *b) { b->kind->offer_xs(b); }
static bool connect(struct back *b) { return b->kind->connect_xs(b); }
const struct back_way way_xs = {other, publish, offer, connect};

/* The parts of "kind/frontend/devid" behind ROOT; how many there are. */
static u32 parts(const char *path, char names[PARTS][32])
{
    u32 n = 0;
    for (const char *p = path + sizeof ROOT - 1; *p == '/' && n < PARTS; n++) {
        u32 i = 0;
        for (p++; *p && *p != '/'; p++)
            if (i + 1 < sizeof names[n])
                names[n][i++] = *p;
        names[n][i] = 0;
    }
    return n;
}

static bool number(const char *text, u32 *value)
{
    *value = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || p - text > 8)
            return false;
        *value = *value * 10 + (u32)(*p - '0');
    }
    return *text != 0;
}

static void watch_state(struct back *b, bool on)
{
    char path[96], token[40];
    snprintf(path, sizeof path, "%s/state", b->front);
    snprintf(token, sizeof token, "front:%u:%u:%u", b->kind->type, b->frontend, b->devid);
    if (on)
        xenstore_watch(path, token);
    else
        xenstore_unwatch(path, token);
}

static void device_probe(const struct back_kind *kind, u32 frontend, u32 devid, const char *path)
{
    char front[64];
    if (back_number(path, "state", XenbusStateUnknown) != XenbusStateInitialising || back_number(path, "frontend-id", ~0UL) != frontend ||
        !back_text(path, "frontend", front, sizeof front))
        return; /* not whole yet, or not for us */
    struct back *b = back_new(kind, frontend, devid, NULL);
    if (!b) {
        printf("%s %u of domain %u: dom0 has no memory left for it\n", kind->name, devid, frontend);
        return;
    }
    b->way = &way_xs;
    snprintf(b->path, sizeof b->path, "%s", path);
    snprintf(b->front, sizeof b->front, "%s", front);
    b->way->offer(b);
    back_set_state(b, XenbusStateInitWait);
    watch_state(b, true);
}

static void backend_event(const char *path, const char *token)
{
    static char names[PARTS][32], children[1024];
    char device[64];
    u32 frontend, devid;
    (void)token;
    if (parts(path, names) < 3 || !number(names[1], &frontend) || !number(names[2], &devid))
        return;
    for (u32 i = 0; i < COUNT(kinds); i++) {
        if (strcmp(kinds[i]->name, names[0]))
            continue;
        snprintf(device, sizeof device, "%s/%s/%u/%u", ROOT, names[0], frontend, devid);
        bool there = xenstore_directory(0, device, children, sizeof children) > 0;
        struct back *b = back_find(kinds[i]->type, frontend, devid);
        if (there && !b)
            device_probe(kinds[i], frontend, devid, device);
        else if (!there && b && b->way == &way_xs) {
            if (b->connected)
                b->kind->disconnect(b);
            watch_state(b, false);
            back_free(b);
        }
    }
}

static void front_event(const char *path, const char *token)
{
    u32 words[3] = {0, 0, 0}, n = 0;
    (void)path;
    for (const char *p = token + 6; *p && n < 3; p++)
        if (*p == ':')
            n++;
        else
            words[n] = words[n] * 10 + (u32)(*p - '0');
    struct back *b = back_find(words[0], words[1], words[2]);
    if (b)
        back_stir(b);
}

void backends_xenstore(void)
{
    store_listen("backend", backend_event);
    store_listen("front:", front_event);
    xenstore_watch(ROOT, "backend");
    consoles_init();
}
