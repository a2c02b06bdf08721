/* The console daemon, message by message as xenconsoled of Xen 4.8.1 (tools/console/daemon/io.c): whenever a domain is introduced or
 * released Xen is asked for every domain, one hypercall each, and each is looked for in a list; the directory of a console is watched for
 * as long as its domain lives, and read at every event, also at those that say nothing new.
 */
#include "back.h"
#include "shell.h"
#include "store_watch.h"
#include "xc.h"
#include "xen_ctl.h"

enum { HISTORY = 4096 };
struct console {
    struct console *next, *next_stirred;
    u32 domid, handle, port, remote; /* remote: the guest's port; NO_NUMBER: not bound to it */
    bool queued, seen, terminal, said_why;
    volatile struct console_ring *ring; /* NULL: it is not known yet where */
    u32 keep;                           /* bytes of the history, by the node `limit` */
    u64 said;                           /* bytes so far; the last ones are in history */
    char path[64], history[HISTORY];
};
static struct console *consoles; /* the newest first */
static struct console *volatile stirred;
static struct thread *server;
THREAD_STACK(stack);

static struct console *find(u32 domid)
{
    struct console *c = consoles;
    while (c && c->domid != domid)
        c = c->next;
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
    if (c->remote == NO_NUMBER)
        return; /* let go of since it stirred */
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

/* Once a console; the next event of its directory makes another attempt. */
static void cannot(struct console *c, const char *what, const char *why)
{
    if (!c->said_why)
        printf("console of domain %u: %s (%s)\n", c->domid, what, why);
    c->said_why = true;
}

/* The builder grants the page with the first reference. */
static bool map_ring(struct console *c)
{
    void *page;
    int rc = back_map_of(c->domid, 0, &page, &c->handle);
    if (rc)
        cannot(c, rc == -ENOMEM ? "dom0 has no memory left to map its ring" : "its ring cannot be mapped", error_name(rc));
    else
        c->ring = page;
    return !rc;
}

static void let_go(struct console *c)
{
    if (c->remote != NO_NUMBER)
        event_close(c->port);
    c->remote = NO_NUMBER;
    if (c->ring)
        back_unmap((void *)c->ring, c->handle);
    c->ring = NULL;
}

static bool still_bound(const struct console *c)
{
    struct evtchn_status s = {.dom = DOMID_SELF, .port = c->port};
    return !hypercall_event_channel_op(EVTCHNOP_status, &s) && s.status == EVTCHNSTAT_interdomain;
}

/* domain_create_tty. There is no terminal here, only the name that its node is to have; what is said is in the history. */
static bool name_terminal(struct console *c)
{
    char node[sizeof c->path + 8], name[24];
    u64 limit = back_number(c->path, "limit", 0);
    c->keep = limit && limit < HISTORY ? (u32)limit : HISTORY;
    snprintf(node, sizeof node, "%s/tty", c->path);
    snprintf(name, sizeof name, "/dev/pts/%u", c->domid);
    return c->terminal = xenstore_write(0, node, name) >= 0;
}

/* domain_create_ring: what the directory says now. */
static void look(struct console *c)
{
    char type[24];
    u32 port = back_word(c->path, "ring-ref") == NO_NUMBER ? NO_NUMBER : back_word(c->path, "port");
    if (port == NO_NUMBER || (back_text(c->path, "type", type, sizeof type) && strcmp(type, "xenconsoled")))
        return; /* not yet, or no more; or somebody else's */
    if ((!c->ring && !map_ring(c)) || (port == c->remote && still_bound(c)))
        return;
    if (c->remote != NO_NUMBER)
        event_close(c->port);
    c->remote = NO_NUMBER;
    struct evtchn_bind_interdomain bind = {(u16)c->domid, port, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    if (rc) {
        cannot(c, "no event channel for it", error_name((int)rc));
        let_go(c);
        return;
    }
    c->remote = port;
    c->port = bind.local_port;
    if (event_bind(c->port, rang, c)) {
        cannot(c, "dom0 has no memory left for its event channel", error_name(-ENOMEM));
        let_go(c);
        return;
    }
    if (!c->terminal && !name_terminal(c)) {
        cannot(c, "the store does not take its terminal's name", "tty");
        let_go(c);
        return;
    }
    drain(c);
}

/* create_domain */
static struct console *appear(u32 domid)
{
    char text[12], token[16];
    struct console *c = memory_take(sizeof *c);
    if (!c) {
        printf("console of domain %u: dom0 has no memory left for it\n", domid);
        return NULL;
    }
    c->domid = domid;
    c->remote = NO_NUMBER;
    c->keep = HISTORY;
    snprintf(text, sizeof text, "%u", domid);
    snprintf(token, sizeof token, "dom%u", domid);
    int n = xenstore_request(XS_GET_DOMAIN_PATH, 0, text, (u32)strlen(text) + 1, c->path, sizeof c->path - sizeof "/console");
    if (n >= 0)
        memcpy(c->path + strlen(c->path), "/console", sizeof "/console");
    if (n < 0 || xenstore_watch(c->path, token) < 0) {
        printf("console of domain %u: the store does not let it be watched\n", domid);
        memory_release(c);
        return NULL;
    }
    c->next = consoles;
    consoles = c;
    look(c);
    return c;
}

/* shutdown_domain */
static void disappear(struct console *c)
{
    char token[16];
    struct console **at = &consoles;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    snprintf(token, sizeof token, "dom%u", c->domid);
    xenstore_unwatch(c->path, token);
    let_go(c);
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
    u64 domid;
    (void)path;
    struct console *c = number_of(token + sizeof "dom" - 1, &domid) ? find((u32)domid) : NULL;
    if (c)
        look(c);
}

/* enum_domains */
static void domains_event(const char *path, const char *token)
{
    struct xc_info info;
    (void)path, (void)token;
    for (u32 from = 1; !xc_domain_getinfo_next(from, &info); from = info.domid + 1) {
        struct console *c = find(info.domid);
        if (!c && !(info.flags & DOMINF_dying))
            c = appear(info.domid);
        if (c)
            c->seen = !(info.flags & DOMINF_dying);
    }
    for (struct console *c = consoles, *next; c; c = next) {
        next = c->next;
        if (!c->seen)
            disappear(c);
        else
            c->seen = false;
    }
}

void consoles_forget(u32 domid)
{
    struct console *c = find(domid);
    if (c)
        disappear(c);
}

u64 console_history(u32 domid, char *to, u64 n)
{
    struct console *c = find(domid);
    u64 have = !c ? 0 : c->said < c->keep ? c->said : c->keep;
    if (n > have)
        n = have;
    for (u64 i = 0; i < n; i++)
        to[i] = c->history[(c->said - n + i) % HISTORY];
    return n;
}

int console_type(u32 domid, const char *text, u64 n)
{
    struct console *c = find(domid);
    if (!c || c->remote == NO_NUMBER)
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
    store_listen("domlist", domains_event); /* before the other one, which is how it begins */
    store_listen("dom", console_event);
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
