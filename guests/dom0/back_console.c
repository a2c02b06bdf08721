/* The console daemon, as xenconsoled does it: whenever a domain is introduced or released all domains are looked at; of one that is new
 * the directory of its console is watched until it says where the console is, and its ring is served from then on.
 */
#include "back.h"
#include "shell.h"
#include "store_watch.h"
#include "xc.h"

enum { HISTORY = 4096, HASH = 1024, A_BATCH = 128 };
struct console {
    struct console *next_same, *next_stirred;
    u32 domid, handle, port;
    bool queued, seen;
    volatile struct console_ring *ring; /* NULL: it is not known yet where */
    u64 said; /* bytes so far; the last ones are in history */
    char history[HISTORY];
};
static struct console *consoles[HASH];
static struct console *volatile stirred;
static struct thread *server;
THREAD_STACK(stack);

static struct console *find(u32 domid)
{
    struct console *c = consoles[domid % HASH];
    while (c && c->domid != domid)
        c = c->next_same;
    return c;
}

static void rang(u32 port, void *arg)
{
    struct console *c = arg;
    (void)port;
    if (c->queued)
        return;
    c->queued = true;
    c->next_stirred = stirred;
    stirred = c;
    thread_wake(server);
}

static void drain(struct console *c)
{
    volatile struct console_ring *r = c->ring;
    u32 cons = r->out_cons, n = r->out_prod - cons;
    if (n > sizeof r->out)
        return; /* no console that could be read */
    barrier();
    for (u32 i = 0; i < n; i++)
        c->history[c->said++ % HISTORY] = r->out[(cons + i) % sizeof r->out];
    barrier();
    r->out_cons = cons + n;
    if (n)
        event_send(c->port);
}

static void serve(void *arg)
{
    (void)arg;
    for (;;) {
        events_mask();
        struct console *c = stirred;
        if (c) {
            stirred = c->next_stirred;
            c->queued = false;
        }
        events_unmask();
        if (c)
            drain(c);
        else
            thread_sleep();
    }
}

static void watch(struct console *c, bool on)
{
    char path[48], token[24];
    snprintf(path, sizeof path, "/local/domain/%u/console", c->domid);
    snprintf(token, sizeof token, "console:%u", c->domid);
    if (on)
        xenstore_watch(path, token);
    else
        xenstore_unwatch(path, token);
}

static void appear(u32 domid)
{
    struct console *c = memory_take(sizeof *c);
    if (!c) {
        printf("console of domain %u: dom0 has no memory left for it\n", domid);
        return;
    }
    c->domid = domid;
    c->next_same = consoles[domid % HASH];
    consoles[domid % HASH] = c;
    watch(c, true);
}

static void attach(struct console *c)
{
    char directory[48];
    u32 handle;
    snprintf(directory, sizeof directory, "/local/domain/%u/console", c->domid);
    u32 port = back_word(directory, "port");
    if (port == NO_NUMBER)
        return; /* not yet */
    struct evtchn_bind_interdomain bind = {(u16)c->domid, port, 0};
    void *page;
    if (back_map_of(c->domid, 0, &page, &handle)) /* its builder grants it with the first reference */
        return;
    if (hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind)) {
        back_unmap(page, handle);
        return;
    }
    c->ring = page;
    c->handle = handle;
    c->port = bind.local_port;
    event_bind(c->port, rang, c);
    watch(c, false);
    drain(c);
}

static void detach(struct console *c)
{
    struct console **at = &consoles[c->domid % HASH];
    while (*at != c)
        at = &(*at)->next_same;
    *at = c->next_same;
    if (c->ring) {
        event_close(c->port);
        back_unmap((void *)c->ring, c->handle);
    } else
        watch(c, false);
    events_mask();
    for (struct console *volatile *s = &stirred; *s; s = (struct console *volatile *)&(*s)->next_stirred)
        if (*s == c) {
            *s = c->next_stirred;
            break;
        }
    events_unmask();
    memory_release(c);
}

static void console_event(const char *path, const char *token)
{
    u32 domid = 0;
    (void)path;
    for (const char *p = token + sizeof "console:" - 1; *p; p++)
        domid = domid * 10 + (u32)(*p - '0');
    struct console *c = find(domid);
    if (c && !c->ring)
        attach(c);
}

static void domains_event(const char *path, const char *token)
{
    static struct xc_info infos[A_BATCH];
    u32 from = 1;
    s64 got;
    (void)path, (void)token;
    while ((got = xc_domain_getinfolist(from, A_BATCH, infos)) > 0) {
        for (s64 i = 0; i < got; i++) {
            struct console *c = find(infos[i].domid);
            bool dying = infos[i].flags & 1;
            if (!c && !dying && infos[i].domid != store_domid)
                appear(infos[i].domid);
            c = find(infos[i].domid);
            if (c && !dying)
                c->seen = true;
        }
        from = infos[got - 1].domid + 1;
    }
    for (u32 i = 0; i < HASH; i++)
        for (struct console *c = consoles[i], *next; c; c = next) {
            next = c->next_same;
            if (!c->seen)
                detach(c);
            else
                c->seen = false;
        }
}

u64 console_history(u32 domid, char *to, u64 n)
{
    struct console *c = find(domid);
    u64 have = !c ? 0 : c->said < HISTORY ? c->said : HISTORY;
    if (n > have)
        n = have;
    for (u64 i = 0; i < n; i++)
        to[i] = c->history[(c->said - n + i) % HISTORY];
    return n;
}

int console_type(u32 domid, const char *text, u64 n)
{
    struct console *c = find(domid);
    if (!c || !c->ring)
        return -ENODEV;
    volatile struct console_ring *r = c->ring;
    if (n > sizeof r->in - (r->in_prod - r->in_cons))
        return -EAGAIN;
    for (u64 i = 0; i < n; i++)
        r->in[(r->in_prod + i) % sizeof r->in] = text[i];
    barrier();
    r->in_prod += (u32)n;
    event_send(c->port);
    return 0;
}

void consoles_init(void)
{
    server = thread_start_on(stack, "consoles", serve, NULL);
    store_listen("domlist", domains_event);
    store_listen("console:", console_event);
    xenstore_watch("@introduceDomain", "domlist");
    xenstore_watch("@releaseDomain", "domlist");
}

static int console(u32 n, char **words)
{
    static char text[HISTORY + 1];
    u64 domid;
    (void)n;
    if (!number_of(words[1], &domid) || !find((u32)domid))
        return failure(-ENODEV, "no console of a domain %s", words[1]);
    u64 length = console_history((u32)domid, text, HISTORY);
    for (u64 at = 0; at < length; at += 256) /* a few lines a write */
        console_write(text + at, length - at < 256 ? length - at : 256);
    return 0;
}
COMMAND(console, "ID", "what a guest said last", 1, 1, console);
