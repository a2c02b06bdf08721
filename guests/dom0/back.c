/* The life of a back end, and the one thread that looks after all of them: an event puts a device into its queue. */
#include "back.h"
#include "shell.h"

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

struct back *back_to_come;

struct back *back_next(struct back *after)
{
    if (after && after->next_same)
        return after->next_same;
    u32 i = after ? (u32)(chain(after->kind->type, after->frontend, after->devid) - devices) + 1 : 0;
    while (i < HASH && !devices[i])
        i++;
    return i < HASH ? devices[i] : NULL;
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

void back_disconnect(struct back *b)
{
    if (b->connected)
        b->kind->disconnect(b);
    b->connected = false;
}

void back_free(struct back *b)
{
    back_disconnect(b);
    b->kind->close(b);
    struct back **at = chain(b->kind->type, b->frontend, b->devid);
    while (*at != b)
        at = &(*at)->next_same;
    if (back_to_come == b)
        back_to_come = back_next(b);
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
static void queue(struct back *b, bool look)
{
    b->look |= look;
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
    queue(b, true);
    events_unmask();
}

void back_event(u32 port, void *back)
{
    (void)port;
    queue(back, true);
}

/* There is something in a ring. Over the XenStore the other end's state is a message away, so that it is not asked for it. */
static void rang(u32 port, void *back)
{
    (void)port;
    queue(back, false);
}

/* A guest may fail as often as it likes: it is said of each device once. */
void back_fail(struct back *b, const char *cause)
{
    b->errors++;
    if (!b->said)
        printf("%s %u of domain %u: the front end is at fault: %s\n", b->kind->name, b->devid, b->frontend, cause);
    b->failed = b->said = true;
}

bool back_is_lack(s64 rc)
{
    return rc == -ENOSPC || rc == -ENOMEM;
}

void back_lack(struct back *b, s64 rc, const char *what)
{
    b->errors++;
    if (!b->said)
        printf("%s %u of domain %u: dom0 has no %s left (%s)\n", b->kind->name, b->devid, b->frontend, what, error_name((int)rc));
    b->failed = b->said = true;
}

void back_refuse(struct back *b, const char *cause)
{
    printf("%s %u of domain %u: %s\n", b->kind->name, b->devid, b->frontend, cause);
    b->leaving = true; /* it is not offered again */
}

void back_set_state(struct back *b, u32 state)
{
    b->state = state;
    b->way->publish(b, state);
}

int back_map_of(u32 domid, u32 ref, void **page, u32 *handle)
{
    void *at = area_try();
    struct gnttab_map map = {(u64)at, GNTMAP_host_map, ref, (u16)domid, 0, 0, 0};
    if (!at)
        return -ENOMEM;
    if (hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) || map.status) {
        area_release(at);
        return map.status == GNTST_no_space ? -ENOSPC : -EPERM;
    }
    *page = at;
    *handle = map.handle;
    return 0;
}

void *back_map(struct back *b, u32 ref, u32 *handle, const char *what)
{
    void *page = NULL;
    int rc = back_map_of(b->frontend, ref, &page, handle);
    if (back_is_lack(rc))
        back_lack(b, rc, rc == -ENOMEM ? "memory" : "room for mappings");
    else if (rc)
        back_fail(b, what);
    return page;
}

void back_unmap(void *page, u32 handle)
{
    struct gnttab_unmap unmap = {(u64)page, 0, handle, 0};
    hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
    area_release(page);
}

u32 back_bind(struct back *b, u32 remote_port)
{
    struct evtchn_bind_interdomain bind = {(u16)b->frontend, remote_port, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    if (back_is_lack(rc))
        back_lack(b, rc, "event channel");
    else if (rc)
        back_fail(b, "its event channel is not for us");
    if (rc)
        return 0;
    if (event_bind(bind.local_port, rang, b)) {
        event_close(bind.local_port);
        back_lack(b, -ENOMEM, "memory");
        return 0;
    }
    return bind.local_port;
}

/* What the other end's state makes of ours: pyvmm/xenbus/states.py has the same rows, with their reasons. */
#define OR(state) | 1U << XenbusState##state
#define IS(...) ((const u16)(0 __VA_ARGS__))
enum action { FOLLOW, OFFER, CONNECT, DISCONNECT };
static const struct { u16 own, other; u8 action, next; } rules[] = {
    {IS(OR(InitWait)), IS(OR(Initialised) OR(Connected)), CONNECT, XenbusStateConnected},
    {IS(OR(InitWait) OR(Connected)), IS(OR(Closing) OR(InitWait) OR(Reconfiguring) OR(Reconfigured)), DISCONNECT, XenbusStateClosing},
    {IS(OR(Connected)), IS(OR(Closed) OR(Initialising) OR(Unknown)), DISCONNECT, XenbusStateClosed},
    {IS(OR(Closing)), IS(OR(Unknown) OR(Initialising) OR(Closed)), FOLLOW, XenbusStateClosed},
    {IS(OR(Closed)), IS(OR(Initialising)), OFFER, XenbusStateInitWait},
};

/* What the front end published, or an offer, cannot be: the connection is over, and the front end may close and begin again. */
static void give_up(struct back *b)
{
    back_disconnect(b);
    b->failed = false;
    b->look = true; /* it may have closed already */
    if (b->state != XenbusStateClosing)
        back_set_state(b, XenbusStateClosing);
}

/* One row, if there is one; whether something has changed. The other end's state is read once; the watch was armed before. */
static bool step(struct back *b)
{
    u32 other = b->way->other(b), i = 0;
    b->other = other <= XenbusStateReconfigured ? other : XenbusStateUnknown;
    while (i < COUNT(rules) && !(rules[i].own >> b->state & 1 && rules[i].other >> b->other & 1))
        i++;
    if (i == COUNT(rules) || (rules[i].action == CONNECT && !b->way->ready(b)))
        return false;
    if (rules[i].action == CONNECT) {
        b->connected = true; /* what a failed attempt took is given back as well */
        if (!b->way->connect(b)) {
            give_up(b);
            return true;
        }
    } else if (rules[i].action == DISCONNECT) {
        if (b->state == XenbusStateInitWait && b->other == XenbusStateClosing && !b->said) {
            printf("%s %u of domain %u: the front end closes, and has never connected\n", b->kind->name, b->devid, b->frontend);
            b->said = true;
        }
        if (b->connected && b->other == XenbusStateClosing)
            b->kind->work(b); /* what it asked for before it wanted to close */
        back_disconnect(b);
    } else if (rules[i].action == OFFER && (b->leaving || b->way->offer(b)))
        return false;
    back_set_state(b, rules[i].next);
    if (b->closer && b->state == XenbusStateClosed)
        thread_wake(b->closer);
    return true;
}

/* A turn is short, whatever the front end does meanwhile. Whether there is more to do. The rings are worked on at every event, the
 * other end's state is looked at when an event said that it has changed: a packet costs no look. */
enum { STEPS = 4 };
static bool turn(struct back *b)
{
    u32 n = 0;
    if (b->noticed) {
        b->noticed = false;
        if (!b->settled && b->kind->settled(b))
            b->settled = true;
    }
    if (b->failed || (b->leaving && b->state != XenbusStateClosed))
        give_up(b);
    if (b->look) {
        b->look = false; /* before it is read: a change from here on sets it again */
        while (n < STEPS && step(b))
            n++;
        b->look |= n == STEPS;
    }
    bool more = b->connected && b->kind->work(b);
    if (b->failed)
        give_up(b);
    return more || b->look;
}

static volatile bool held;

static bool is_free(void *arg)
{
    (void)arg;
    return !held;
}

void back_hold(void)
{
    while (held)
        thread_wait(is_free, NULL);
    held = true;
}

void back_let_go(void)
{
    held = false;
}

static volatile bool stopped;

bool back_stopped(void)
{
    return stopped;
}

static bool is_running(void *arg)
{
    (void)arg;
    return !stopped;
}

/* To see what a toolstack makes of it: back ends that hear nothing, as if their driver had been taken away, until they start again. */
static int backends(u32 n, char **words)
{
    if (n == 1) {
        printf("the back ends %s\n", stopped ? "are stopped" : "run");
        return 0;
    }
    bool stop = !strcmp(words[1], "stop");
    if (!stop && strcmp(words[1], "start"))
        return failure(0, "stop or start");
    back_hold(); /* none is in the middle of something */
    bool again = stopped && !stop;
    stopped = stop;
    back_let_go();
    if (again)
        backends_rescan();
    return 0;
}
COMMAND(backends, "[stop|start]", "back ends that hear nothing any more, or do again", 0, 1, backends);

static void work(void *arg)
{
    (void)arg;
    for (;;) {
        while (stopped)
            thread_wait(is_running, NULL);
        back_hold();
        events_mask();
        struct back *b = stirred_first;
        if (b) {
            stirred_first = b->next_stirred;
            b->queued = false;
        }
        events_unmask();
        if (b && turn(b)) {
            events_mask();
            queue(b, false);
            events_unmask();
        }
        back_let_go();
        if (b)
            continue;
        thread_sleep();
    }
}

void backends_init(void)
{
    worker = thread_start("back ends", work, NULL);
}

void backends_report(void)
{
    for (struct back *b = back_next(NULL); b; b = back_next(b))
        printf("%s %u of domain %u: state %u, front end %u, in %lu, out %lu, dropped %lu, errors %lu\n", b->kind->name, b->devid, b->frontend,
               b->state, b->other, b->in, b->out, b->dropped, b->errors);
}
