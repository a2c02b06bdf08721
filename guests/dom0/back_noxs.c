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
static struct left { void *page; u32 grant; struct left *next; } *leftovers; /* pages that a guest still has mapped */

static void collect(void)
{
    for (struct left **at = &leftovers; *at;) {
        struct left *l = *at;
        if (!grant_end(l->grant)) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        page_free(l->page);
        memory_release(l);
    }
}

int noxs_device_create(u32 type, u32 frontend, u32 devid, const union device_config *c, u32 *grant, u32 *port)
{
    if (type >= COUNT(kinds) || !kinds[type])
        return -ENODEV;
    if (back_find(type, frontend, devid))
        return -EEXIST;
    s64 local = event_alloc_unbound(frontend);
    if (local < 0)
        return (int)local;
    struct back *b = back_new(kinds[type], frontend, devid, c);
    if (!b) {
        event_close((u32)local);
        return -ENOMEM;
    }
    b->way = &way_noxs;
    b->page = page_alloc();
    b->page->devid = devid;
    b->page->fe_state = type == noxs_dev_vif ? XenbusStateUnknown : XenbusStateInitialising;
    b->grant = *grant = grant_access(frontend, va_to_mfn(b->page), false);
    b->port = *port = (u32)local;
    event_bind(b->port, back_event, b);
    int rc = b->kind->offer(b);
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
    struct left *l = memory_take(sizeof *l);
    if (!l)
        panic("no memory to give memory back");
    *l = (struct left){b->page, b->grant, leftovers};
    leftovers = l;
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
