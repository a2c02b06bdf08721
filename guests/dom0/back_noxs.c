/* Devices found by the device page: what the noxs module of LightVM's dom0 does when chaos asks it (its drivers/xen/noxs).
 *
 * Making a device is a page of ours, granted to the guest, an event channel whose local end is here, and what the kind of device
 * writes into the page. The state InitWait is set in silence: the guest reads it when it comes.
 */
#include "alarm.h"
#include "back.h"

static u32 other(struct back *b)
{
    b->page->be_watch = noxs_watch_requested; /* armed, then read */
    full_barrier();
    return b->page->fe_state;
}

static void publish(struct back *b, u32 state)
{
    b->page->be_state = state;
    full_barrier(); /* the state is out before the wish is read: the other end arms, then reads */
    if (b->page->fe_watch == noxs_watch_requested) {
        b->page->fe_watch = noxs_watch_updated;
        event_send(b->port);
    }
}

static int offer(struct back *b) { return b->kind->offer(b); }
static bool connect(struct back *b) { return b->kind->connect(b); }

static bool ready(struct back *b)
{
    (void)b;
    return true; /* what a script would do is done when the device is made */
}

const struct back_way way_noxs = {other, publish, offer, ready, connect};

static const struct back_kind *const kinds[] = {NULL, &back_sysctl, &back_vif, &back_vbd};
/* A control page, granted to its guest. It outlives its device for as long as the guest has it mapped. */
struct left { struct noxs_header *page; u32 grant; struct left *next; };
static struct left *leftovers;

static int page_offer(u32 frontend, struct left **made)
{
    struct left *l = memory_take(sizeof *l);
    if (!l || !(l->page = page_try())) {
        memory_release(l);
        return -ENOMEM;
    }
    s64 ref = grant_try(frontend, va_to_mfn(l->page), false);
    if (ref < 0) {
        page_free(l->page);
        memory_release(l);
        return (int)ref;
    }
    l->grant = (u32)ref;
    *made = l;
    return 0;
}

static bool page_back(struct left *l)
{
    if (!grant_end(l->grant))
        return false;
    page_free(l->page);
    memory_release(l);
    return true;
}

static void collect(void)
{
    for (struct left **at = &leftovers; *at;) {
        struct left *l = *at, *next = l->next;
        if (page_back(l))
            *at = next;
        else
            at = &l->next;
    }
}

int noxs_device_create(u32 type, u32 frontend, u32 devid, const union device_config *c, u32 *grant, u32 *port)
{
    struct left *l;
    if (type >= COUNT(kinds) || !kinds[type] || back_stopped())
        return -ENODEV;
    if (back_find(type, frontend, devid))
        return -EEXIST;
    int rc = page_offer(frontend, &l);
    if (rc)
        return rc;
    s64 local = event_alloc_unbound(frontend);
    struct back *b = local < 0 ? NULL : back_new(kinds[type], frontend, devid, c);
    if (!b) {
        if (local >= 0)
            event_close((u32)local);
        page_back(l);
        return local < 0 ? (int)local : -ENOMEM;
    }
    b->way = &way_noxs;
    b->left = l;
    b->page = l->page;
    b->page->devid = devid;
    b->page->fe_state = type == noxs_dev_vif ? XenbusStateUnknown : XenbusStateInitialising;
    *grant = l->grant;
    b->port = *port = (u32)local;
    rc = event_bind(b->port, back_event, b);
    if (!rc)
        rc = b->kind->offer(b);
    if (rc) {
        noxs_device_destroy(type, frontend, devid);
        return rc;
    }
    back_set_state(b, XenbusStateInitWait);
    return 0;
}

int noxs_device_configure(u32 type, u32 frontend, u32 devid, const union device_config *c)
{
    struct back *b = back_find(type, frontend, devid);
    if (!b)
        return -ENOENT;
    if (b->state != XenbusStateInitWait)
        return -EBUSY;
    b->config = *c;
    return b->kind->offer(b);
}

int noxs_device_close(u32 type, u32 frontend, u32 devid, u64 until)
{
    struct alarm a;
    struct back *b = back_find(type, frontend, devid);
    if (!b)
        return -ENOENT;
    if (b->closer)
        return -EBUSY;
    b->leaving = true;
    b->closer = thread_self();
    alarm_set(&a, until);
    back_stir(b);
    while ((b = back_find(type, frontend, devid)) && b->state != XenbusStateClosed && !a.rung)
        thread_sleep();
    if (!a.rung)
        alarm_cancel(&a);
    if (b)
        b->closer = NULL;
    return !b || b->state == XenbusStateClosed ? 0 : -EAGAIN;
}

int noxs_device_destroy(u32 type, u32 frontend, u32 devid)
{
    struct back *b = back_find(type, frontend, devid);
    if (!b)
        return -ENOENT;
    back_disconnect(b); /* before the front end hears of it, and takes its pages back */
    back_set_state(b, XenbusStateClosed);
    event_close(b->port);
    b->left->next = leftovers;
    leftovers = b->left;
    if (b->closer)
        thread_wake(b->closer);
    back_free(b);
    collect();
    return 0;
}

void noxs_collect(void)
{
    collect();
}
