/* A XenStore client over the shared ring: one request at a time, whichever thread it comes from, watch events kept until somebody
 * waits for one. */
#include "kernel.h"

/* When the store is gone its ring is exchanged for one that ends every wait, for what is asked there is no other cost to those who have
 * a store; `live` is NULL then. */
static struct xenstore_ring no_ring = {.rsp_prod = 1};
static volatile struct xenstore_ring *ring, *live;
static u32 port, last_id;
static struct event { char path[128], token[32]; } few[XENSTORE_EVENTS], *events = few;
static u32 event_room = XENSTORE_EVENTS, event_first, event_count, events_lost;
static bool busy; /* a thread is at the ring: it may have to wait in the middle of a message */

void (*xenstore_when_lost)(void);

void xenstore_lost(void)
{
    ring = &no_ring;
    live = NULL;
    if (xenstore_when_lost)
        xenstore_when_lost();
}

bool xenstore_gone(void)
{
    return ring == &no_ring;
}

static void noticed(u32 p, void *arg)
{
    (void)p, (void)arg; /* the upcall itself is what wakes thread_wait */
    if (ring->error)
        xenstore_lost();
}

void xenstore_init(void)
{
    if (is_dom0() || !start_info->store_mfn)
        return;
    xenstore_attach(map_area(start_info->store_mfn), start_info->store_evtchn);
}

void xenstore_attach(void *page, u32 local_port)
{
    ring = live = page;
    port = local_port;
    event_bind(port, noticed, NULL);
}

static bool is_free(void *arg) { (void)arg; return !busy; }

static void claim(void)
{
    while (busy)
        thread_wait(is_free, NULL);
    busy = true;
}

static bool can_write(void *arg) { (void)arg; return ring->req_prod - ring->req_cons < sizeof ring->req; }
static bool can_read(void *arg) { (void)arg; return ring->rsp_prod != ring->rsp_cons; }

static void send(const void *from, u32 n)
{
    for (u32 at, here; n; from = (const char *)from + here, n -= here) {
        if (!can_write(NULL)) {
            event_send(port);
            thread_wait(can_write, NULL);
        }
        if (xenstore_gone())
            return;
        at = ring->req_prod % sizeof ring->req;
        here = (u32)sizeof ring->req - (ring->req_prod - ring->req_cons);
        here = here < n ? here : n;
        here = here < sizeof ring->req - at ? here : (u32)sizeof ring->req - at;
        memcpy((char *)ring->req + at, from, here);
        barrier();
        ring->req_prod += here;
    }
}

/* The next n bytes; those beyond `room` are dropped. The store is told of room in the ring only when there was none. */
static void receive(char *to, u32 n, u32 room)
{
    for (u32 at, here, kept; n; n -= here) {
        u32 cons = ring->rsp_cons;
        if (!can_read(NULL))
            thread_wait(can_read, NULL);
        if (xenstore_gone()) {
            memset(to, 0, room < n ? room : n);
            return;
        }
        at = cons % sizeof ring->rsp;
        here = ring->rsp_prod - cons;
        here = here < n ? here : n;
        here = here < sizeof ring->rsp - at ? here : (u32)sizeof ring->rsp - at;
        kept = here < room ? here : room;
        memcpy(to, (const char *)ring->rsp + at, kept);
        to += kept;
        room -= kept;
        barrier();
        ring->rsp_cons = cons + here;
        barrier();
        if (ring->rsp_prod - cons >= sizeof ring->rsp)
            event_send(port);
    }
}

/* Twice the room for events that wait. */
static bool more_events(void)
{
    if (XENSTORE_EVENTS == XENSTORE_EVENTS_MOST || event_room >= XENSTORE_EVENTS_MOST)
        return false;
    struct event *more = memory_take_dirty(2 * event_room * sizeof *more);
    if (!more)
        return false;
    for (u32 i = 0; i < event_count; i++)
        more[i] = events[(event_first + i) % event_room];
    if (events != few)
        memory_release(events);
    events = more;
    event_first = 0;
    event_room *= 2;
    return true;
}

/* One message; a watch event is put aside. Returns its length or -1 for an event. */
static int message(struct xsd_sockmsg *h, char *body, u32 size)
{
    receive((char *)h, sizeof *h, sizeof *h);
    if (h->type != XS_WATCH_EVENT) {
        receive(body, h->len, size - 1);
        body[h->len < size ? h->len : size - 1] = 0;
        return (int)h->len;
    }
    char text[XENSTORE_MAX] = {0};
    receive(text, h->len, sizeof text - 1);
    if (event_count == event_room && !more_events()) { /* nobody listens: the oldest goes */
        event_first = (event_first + 1) % event_room;
        event_count--;
        events_lost++;
    }
    u32 i = (event_first + event_count) % event_room;
    snprintf(events[i].path, sizeof events[i].path, "%s", text);
    snprintf(events[i].token, sizeof events[i].token, "%s", text + strlen(text) + 1);
    event_count++;
    return -1;
}

int xenstore_request(u32 type, u32 transaction, const void *body, u32 n, char *reply, u32 size)
{
    struct xsd_sockmsg h = {type, ++last_id, transaction, n};
    if (!ring)
        panic("no XenStore here");
    claim();
    send(&h, sizeof h);
    send(body, n);
    event_send(port);
    int got;
    while ((got = message(&h, reply, size)) < 0)
        ;
    busy = false;
    if (xenstore_gone()) {
        snprintf(reply, size, "ENOTCONN");
        return -1;
    }
    return h.type == XS_ERROR ? -1 : got;
}

static int with_path(u32 type, u32 transaction, const char *path, const char *rest, u32 rest_size, char *reply, u32 size)
{
    char body[XENSTORE_MAX];
    u32 n = (u32)strlen(path) + 1;
    if (n + rest_size > sizeof body)
        return -1;
    memcpy(body, path, n);
    memcpy(body + n, rest, rest_size);
    return xenstore_request(type, transaction, body, n + rest_size, reply, size);
}

int xenstore_read(u32 transaction, const char *path, char *value, u32 size)
{
    return with_path(XS_READ, transaction, path, "", 0, value, size);
}

int xenstore_write(u32 transaction, const char *path, const char *value)
{
    char reply[32];
    return with_path(XS_WRITE, transaction, path, value, (u32)strlen(value), reply, sizeof reply);
}

int xenstore_directory(u32 transaction, const char *path, char *names, u32 size)
{
    return with_path(XS_DIRECTORY, transaction, path, "", 0, names, size);
}

int xenstore_remove(u32 transaction, const char *path)
{
    char reply[32];
    return with_path(XS_RM, transaction, path, "", 0, reply, sizeof reply);
}

int xenstore_watch(const char *path, const char *token)
{
    char reply[32];
    return with_path(XS_WATCH, 0, path, token, (u32)strlen(token) + 1, reply, sizeof reply);
}

int xenstore_unwatch(const char *path, const char *token)
{
    char reply[32];
    return with_path(XS_UNWATCH, 0, path, token, (u32)strlen(token) + 1, reply, sizeof reply);
}

void xenstore_wait_watch(char *path, char *token, u32 size)
{
    struct xsd_sockmsg h;
    char body[XENSTORE_MAX];
    path[0] = token[0] = 0;
    while (!event_count && live) {
        claim();
        message(&h, body, sizeof body);
        busy = false;
    }
    xenstore_next_watch(path, token, size, size); /* the store is gone: both are empty */
}

bool xenstore_usable(void)
{
    return ring != NULL;
}

bool xenstore_pending(void)
{
    return live && (event_count || (!busy && can_read(NULL)));
}

bool xenstore_next_watch(char *path, char *token, u32 path_size, u32 token_size)
{
    struct xsd_sockmsg h;
    char body[XENSTORE_MAX];
    if (!event_count && !busy && live && can_read(NULL)) {
        busy = true;
        message(&h, body, sizeof body);
        busy = false;
    }
    if (events_lost) {
        printf("XenStore: %u watch events are lost: more than %u were waiting\n", events_lost, event_room);
        events_lost = 0;
    }
    if (!event_count)
        return false;
    snprintf(path, path_size, "%s", events[event_first].path);
    snprintf(token, token_size, "%s", events[event_first].token);
    event_first = (event_first + 1) % event_room;
    event_count--;
    return true;
}

u32 xenstore_begin(void)
{
    char id[16];
    u32 n = 0;
    if (xenstore_request(XS_TRANSACTION_START, 0, "", 1, id, sizeof id) < 0)
        return 0;
    for (const char *p = id; *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (u32)(*p - '0');
    return n;
}

int xenstore_end(u32 transaction, bool commit)
{
    char reply[32];
    int got = xenstore_request(XS_TRANSACTION_END, transaction, commit ? "T" : "F", 2, reply, sizeof reply);
    return got < 0 && !strcmp(reply, "EAGAIN") ? -EAGAIN : got;
}
