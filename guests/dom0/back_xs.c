/* Devices found by the XenStore, as Linux's xenbus finds them (drivers/xen/xenbus): one watch on our directory of back ends; each of
 * its events makes us look at the device's directory; a new one is probed, one that has gone is let go.
 */
#include "back.h"
#include "store_watch.h"
#include "xc.h"

enum { PARTS = 4, SCAN = 32 };
static const struct back_kind *const kinds[] = {&back_vif, &back_vbd};
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

u32 back_word(const char *directory, const char *name)
{
    u64 value = back_number(directory, name, NO_NUMBER);
    return value < NO_NUMBER ? (u32)value : NO_NUMBER;
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

/* With the store its state is gone, too, but not the front end: it is as it was last. */
static u32 other(struct back *b)
{
    u32 state = (u32)back_number(b->front, "state", XenbusStateUnknown);
    return xenstore_gone() ? b->other : state;
}

static void publish(struct back *b, u32 state) { back_put(b, "state", "%u", state); }
static bool connect(struct back *b) { return b->kind->connect_xs(b); }

/* Once the toolstack has taken it offline there is no next time. */
static int offer(struct back *b)
{
    return back_number(b->path, "online", 1) ? b->kind->offer_xs(b) : -ENODEV;
}

void back_await(struct back *b, bool on)
{
    char path[96], token[40];
    if (b->awaiting == on)
        return;
    b->awaiting = on;
    snprintf(path, sizeof path, "%s/%s", b->path, b->kind->awaits);
    snprintf(token, sizeof token, "await:%u:%u:%u", b->kind->type, b->frontend, b->devid);
    if (on)
        xenstore_watch(path, token);
    else
        xenstore_unwatch(path, token);
}

static bool ready(struct back *b)
{
    if (!b->settled)
        back_await(b, true);
    return b->settled;
}

const struct back_way way_xs = {other, publish, offer, ready, connect};

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
    b->kind->offer_xs(b);
    back_set_state(b, XenbusStateInitWait);
    xendevd(b);
    watch_state(b, true);
}

static void device_gone(struct back *b)
{
    watch_state(b, false);
    back_await(b, false);
    back_free(b);
}

/* The length of a directory's names; -ENOENT: it is not there; -1: that is not known, for the store is gone, or has no memory to say it. */
static int names_in(const char *path)
{
    static char children[1024];
    int n = xenstore_directory(0, path, children, sizeof children);
    return n < 0 && !strcmp(children, "ENOENT") ? -ENOENT : n;
}

/* A directory above those of devices has changed: when it is gone, so are they. */
static void directory_event(const char *path)
{
    u64 n = strlen(path);
    if (names_in(path) != -ENOENT)
        return;
    for (struct back *b = back_next(NULL); b; b = back_to_come) {
        back_to_come = back_next(b);
        if (b->way == &way_xs && !strncmp(b->path, path, n) && b->path[n] == '/')
            device_gone(b);
    }
}

static void device_event(const struct back_kind *kind, u32 frontend, u32 devid)
{
    char device[64];
    snprintf(device, sizeof device, "%s/%s/%u/%u", ROOT, kind->name, frontend, devid);
    int there = names_in(device);
    struct back *b = back_find(kind->type, frontend, devid);
    if (there > 0 && !b)
        device_probe(kind, frontend, devid, device);
    else if ((!there || there == -ENOENT) && b && b->way == &way_xs)
        device_gone(b);
}

static void backend_event(const char *path, const char *token)
{
    static char names[PARTS][32];
    u32 frontend, devid, n = parts(path, names);
    (void)token;
    if (back_stopped())
        return; /* what has come and gone is looked for when they start again */
    back_hold();
    if (n == 1 || n == 2)
        directory_event(path);
    for (u32 i = 0; i < COUNT(kinds) && n >= 3; i++)
        if (!strcmp(kinds[i]->name, names[0]) && number(names[1], &frontend) && number(names[2], &devid))
            device_event(kinds[i], frontend, devid);
    back_let_go();
}

/* Without a store nobody hears that a device's nodes have gone: who ends the domain says so. */
void backends_forget(u32 domid)
{
    back_hold();
    for (struct back *b = back_next(NULL); b; b = back_to_come) {
        back_to_come = back_next(b);
        if (b->way == &way_xs && b->frontend == domid)
            device_gone(b);
    }
    back_let_go();
    consoles_forget(domid);
}

/* As a driver of Linux's does when it is registered (xenbus_probe_devices). */
void backends_rescan(void)
{
    static struct xc_info infos[SCAN];
    static char devices[1024];
    char path[64];
    u32 first = 0, devid;
    s64 got;
    if (!store_domid)
        return;
    back_hold();
    for (struct back *b = back_next(NULL); b; b = back_to_come) {
        back_to_come = back_next(b);
        if (b->way == &way_xs)
            device_event(b->kind, b->frontend, b->devid);
    }
    for (; (got = xc_domain_getinfolist(first, SCAN, infos)) > 0; first = infos[got - 1].domid + 1)
        for (s64 i = 0; i < got; i++)
            for (u32 k = 0; k < COUNT(kinds); k++) {
                snprintf(path, sizeof path, "%s/%s/%u", ROOT, kinds[k]->name, infos[i].domid);
                int n = xenstore_directory(0, path, devices, sizeof devices);
                for (char *p = devices; n < (int)sizeof devices && p < devices + n; p += strlen(p) + 1)
                    if (number(p, &devid))
                        device_event(kinds[k], infos[i].domid, devid);
            }
    back_let_go();
    for (struct back *b = back_next(NULL); b; b = back_next(b))
        back_stir(b); /* what happened meanwhile */
}

static struct back *named(const char *token)
{
    u32 words[3] = {0, 0, 0}, n = 0;
    for (const char *p = token + sizeof "front:" - 1; *p && n < 3; p++)
        if (*p == ':')
            n++;
        else
            words[n] = words[n] * 10 + (u32)(*p - '0');
    return back_find(words[0], words[1], words[2]);
}

static void front_event(const char *path, const char *token)
{
    struct back *b = named(token);
    (void)path;
    if (b)
        back_stir(b);
}

static void awaited_event(const char *path, const char *token)
{
    struct back *b = named(token);
    (void)path;
    if (!b || !b->awaiting)
        return;
    b->noticed = true;
    back_stir(b);
}

void backends_xenstore(void)
{
    store_listen("backend", backend_event);
    store_listen("front:", front_event);
    store_listen("await:", awaited_event);
    xenstore_watch(ROOT, "backend");
    consoles_init();
}
