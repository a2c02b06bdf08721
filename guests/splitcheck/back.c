/* A back end in a guest: see back.h. */
#include "back.h"

static const char *const kinds[] = {"", "sysctl", "vif", "vbd"};

static void rang(u32 port, void *arg)
{
    (void)port;
    ((struct back *)arg)->changed = true;
}

/* Over noxs whoever may change the front end's device page has to be told what to put there: on the console. */
void back_open(struct back *b, u32 kind, u32 peer, bool noxs)
{
    memset(b, 0, sizeof *b);
    b->kind = kind;
    b->peer = peer;
    b->noxs = noxs;
    if (noxs) {
        b->page = page_alloc();
        b->grant = grant_access(peer, va_to_mfn(b->page), false);
        s64 port = event_alloc_unbound(peer);
        if (port < 0)
            panic("no event channel for domain %u", peer);
        b->port = (u32)port;
        event_bind(b->port, rang, b);
        return;
    }
    char path[96];
    snprintf(b->path, sizeof b->path, "backend/%s/%u/0", kinds[kind], peer);
    snprintf(path, sizeof path, "%s/frontend", b->path);
    if (xenstore_read(0, path, b->front, sizeof b->front) <= 0)
        panic("no node %s", path);
    snprintf(path, sizeof path, "%s/state", b->front);
    xs_watch_flag(path, &b->watch, &b->changed);
}

void back_offer(struct back *b)
{
    bool first = !b->state;
    back_set_state(b, XenbusStateInitWait);
    if (b->noxs && first)
        printf("noxs: type %u id 0 grant %u port %u\n", b->kind, b->grant, b->port);
}

void back_set_state(struct back *b, u32 state)
{
    b->state = state;
    if (!b->noxs) {
        xs_put(0, b->path, "state", "%u", state);
        return;
    }
    b->page->be_state = state;
    full_barrier();
    if (b->page->fe_watch == noxs_watch_requested) {
        b->page->fe_watch = noxs_watch_updated;
        event_send(b->port);
    }
}

static u32 look(struct back *b)
{
    u64 state;
    b->changed = false;
    if (b->noxs) {
        b->page->be_watch = noxs_watch_requested;
        full_barrier();
        state = b->page->fe_state;
    } else
        state = xs_number(NULL, b->front, "state", XenbusStateUnknown);
    return b->other = state <= XenbusStateReconfigured ? (u32)state : XenbusStateUnknown;
}

bool back_stirred(struct back *b)
{
    return b->changed || (!b->noxs && xenstore_pending());
}

static bool stirred(void *arg)
{
    return back_stirred(arg);
}

u32 back_wait(struct back *b, u32 states)
{
    while (!(states >> look(b) & 1))
        while (!b->changed) {
            thread_wait(stirred, b);
            if (!b->noxs)
                xs_dispatch();
        }
    return b->other;
}

bool back_update(struct back *b)
{
    u32 before = b->other;
    if (!b->noxs)
        xs_dispatch();
    return b->changed && look(b) != before;
}

void back_fail(struct back *b, const char *cause)
{
    if (!b->failed)
        printf("%s: the front end is at fault: %s\n", kinds[b->kind], cause);
    b->failed = true;
}

void *back_map(struct back *b, u32 ref, u32 *handle, bool readonly)
{
    void *page = area_reserve();
    struct gnttab_map map = {(u64)page, GNTMAP_host_map | (readonly ? GNTMAP_readonly : 0u), ref, (u16)b->peer, 0, 0, 0};
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

s64 back_bind(struct back *b, u32 remote_port, event_handler handler, void *arg)
{
    struct evtchn_bind_interdomain bind = {(u16)b->peer, remote_port, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    if (rc)
        return rc;
    event_bind(bind.local_port, handler, arg);
    return bind.local_port;
}
