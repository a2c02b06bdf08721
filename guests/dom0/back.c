/* The life of a back end, and the one thread that looks after all of them: an event puts a device into its queue. */
#include "back.h"

enum { HASH = 4096 };
static struct back *devices[HASH];
static struct back *volatile stirred_first, *stirred_last;
static struct thread *worker;

static struct back **chain(u32 type, u32 frontend, u32 devid)
{
    return &devices[(frontend * 31 + type * 7 + devid) % HASH];
}

struct back *back_find(u32 type, u32 frontend, u32 devid)
{
    for (struct back *b = *chain(type, frontend, devid); b; b = b->next_same)
        if (b->kind->type == type && b->frontend == frontend && b->devid == devid)
            return b;
    return NULL;
}

struct back *back_new(const struct back_kind *kind, u32 frontend, u32 devid, const union device_config *c)
{
    struct back *b = memory_take(sizeof *b), **at = chain(kind->type, frontend, devid);
    if (!b)
        return NULL;
    b->kind = kind;
    b->frontend = frontend;
    b->devid = devid;
    if (c)
        b->config = *c;
    b->next_same = *at;
    *at = b;
    return b;
}

void back_free(struct back *b)
{
    struct back **at = chain(b->kind->type, b->frontend, b->devid);
    while (*at != b)
        at = &(*at)->next_same;
    *at = b->next_same;
    events_mask();
    for (struct back *s = stirred_first, *before = NULL; s; before = s, s = s->next_stirred)
        if (s == b) {
            if (before)
                before->next_stirred = s->next_stirred;
            else
                stirred_first = s->next_stirred;
            if (stirred_last == s)
                stirred_last = before;
            break;
        }
    events_unmask();
    memory_release(b);
}

/* Called with events masked: by a handler, or between events_mask and events_unmask. */
static void queue(struct back *b)
{
    if (b->queued)
        return;
    b->queued = true;
    b->next_stirred = NULL;
    if (stirred_first)
        stirred_last->next_stirred = b;
    else
        stirred_first = b;
    stirred_last = b;
    if (worker)
        thread_wake(worker);
}

void back_stir(struct back *b)
{
    events_mask();
    queue(b);
    events_unmask();
}

void back_event(u32 port, void *back)
{
    (void)port;
    queue(back);
}

void back_fail(struct back *b, const char *cause)
{
    b->errors++;
    if (!b->failed)
        printf("%s of domain %u: the front end is at fault: %s\n", b->kind->name, b->frontend, cause);
    b->failed = true;
}

void back_set_state(struct back *b, u32 state)
{
    b->state = state;
    b->way->publish(b, state);
}

void *back_map(struct back *b, u32 ref, u32 *handle)
{
    void *page = area_reserve();
    struct gnttab_map map = {(u64)page, GNTMAP_host_map, ref, (u16)b->frontend, 0, 0, 0};
    if (hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) || map.status) {
        area_release(page);
        return NULL;
    }
    *handle = map.handle;
    return page;
}

void back_unmap(void *page, u32 handle)
{
    struct gnttab_unmap unmap = {(u64)page, 0, handle, 0};
    hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
    area_release(page);
}

s64 back_bind(struct back *b, u32 remote_port)
{
    struct evtchn_bind_interdomain bind = {(u16)b->frontend, remote_port, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    if (rc)
        return rc;
    event_bind(bind.local_port, back_event, b);
    return bind.local_port;
}

/* What the other end's state makes of ours: pyvmm/xenbus/states.py has the same rows, with their reasons. */
#define IS(...) ((const u16)(0 __VA_ARGS__))
#define OR(state) | 1U << XenbusState##state
enum action { FOLLOW, OFFER, CONNECT, DISCONNECT };
static const struct { u16 own, other; u8 action, next; } rules[] = {
    {IS(OR(InitWait)), IS(OR(Initialised) OR(Connected)), CONNECT, XenbusStateConnected},
    {IS(OR(InitWait) OR(Connected)), IS(OR(Closing)), DISCONNECT, XenbusStateClosing},
    {IS(OR(Connected)), IS(OR(Unknown) OR(Initialising)), DISCONNECT, XenbusStateClosing},
    {IS(OR(InitWait) OR(Connected) OR(Closing)), IS(OR(Closed)), DISCONNECT, XenbusStateClosed},
    {IS(OR(Closing)), IS(OR(Initialising) OR(Unknown)), FOLLOW, XenbusStateClosed},
    {IS(OR(Closed)), IS(OR(Initialising)), OFFER, XenbusStateInitWait},
};

static void disconnect(struct back *b)
{
    if (b->connected)
        b->kind->disconnect(b);
    b->connected = false;
}

/* Until the states are at rest with each other. The other end's is read once a turn; the watch was armed before. */
static void follow(struct back *b)
{
    for (bool moved = true; moved && !b->failed;) {
        moved = false;
        u32 other = b->way->other(b);
        b->other = other <= XenbusStateReconfigured ? other : XenbusStateUnknown;
        for (u32 i = 0; i < COUNT(rules) && !moved; i++) {
            if (!(rules[i].own >> b->state & 1) || !(rules[i].other >> b->other & 1))
                continue;
            moved = true;
            if (rules[i].action == CONNECT) {
                b->connected = b->way->connect(b);
                if (!b->connected) {
                    b->kind->disconnect(b);
                    break;
                }
            } else if (rules[i].action == DISCONNECT)
                disconnect(b);
            else if (rules[i].action == OFFER)
                b->way->offer(b);
            back_set_state(b, rules[i].next);
            if (b->closer && b->state == XenbusStateClosed)
                thread_wake(b->closer);
        }
    }
    if (b->failed && b->state != XenbusStateClosing && b->state != XenbusStateClosed) {
        disconnect(b);
        back_set_state(b, XenbusStateClosing);
    }
}

static void work(void *arg)
{
    (void)arg;
    for (;;) {
        events_mask();
        struct back *b = stirred_first;
        if (b) {
            stirred_first = b->next_stirred;
            b->queued = false;
        }
        events_unmask();
        if (!b) {
            thread_sleep();
            continue;
        }
        follow(b);
        if (b->connected && !b->failed)
            b->kind->work(b);
        if (b->failed && b->connected)
            follow(b);
    }
}

void backends_init(void)
{
    worker = thread_start("back ends", work, NULL);
}

void backends_report(void)
{
    for (u32 i = 0; i < HASH; i++)
        for (struct back *b = devices[i]; b; b = b->next_same)
            printf("%s %u of domain %u: state %u, front end %u, in %lu, out %lu, dropped %lu, errors %lu\n", b->kind->name, b->devid,
                   b->frontend, b->state, b->other, b->in, b->out, b->dropped, b->errors);
}
