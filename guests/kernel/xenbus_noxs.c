/* A front end's way over noxs: the device page lists the devices; each has a control page, granted by the back end and mapped
 * here, with both ends' states, and an event channel that tells the other end to look.
 *
 * Source: public/devctl.h and public/io/noxs.h of LightVM's Xen, and what its guests do. Ours differs from the original guest in three
 * points: all 32 slots are looked at, for removed devices leave holes; the watch is armed before the state is read again, so
 * that no wake-up is lost; and a first event is sent once the channel is bound, since the back end keeps silent until then.
 */
#include "xenbus.h"

static const struct noxs_page *page; /* ours, read-only; NULL: not asked for yet */
static bool asked;
static struct device *open_devices[NOXS_DEVICES];
static volatile bool list_changed;

static void page_changed(u32 port, void *arg)
{
    (void)port, (void)arg;
    list_changed = true;
    for (u32 i = 0; i < NOXS_DEVICES; i++)
        if (open_devices[i])
            open_devices[i]->changed = true;
}

static const struct noxs_page *device_page(void)
{
    struct xen_devctl op = {XEN_DEVCTL_VERSION, XEN_DEVCTL_get, DOMID_SELF, 0, {0}};
    if (asked)
        return page;
    asked = true;
    if (hypercall(HYPERVISOR_devctl, (u64)&op, 0, 0, 0, 0) || !op.address)
        return NULL;
    s64 port = event_bind_virq(VIRQ_NOXS, 0);
    if (port >= 0) /* else a hypervisor that does not tell of changes */
        event_bind((u32)port, page_changed, NULL);
    return page = map_area_flags(op.address >> PAGE_SHIFT, PTE_P | PTE_U | PTE_A); /* not writable: Xen would refuse */
}

bool noxs_offers(u32 kind)
{
    const struct noxs_page *p = device_page();
    for (u32 i = 0; p && i < NOXS_DEVICES; i++)
        if (p->devs[i].type == kind)
            return true;
    return false;
}

static void rang(u32 port, void *arg)
{
    struct device *d = arg;
    (void)port;
    if (d->page->fe_watch == noxs_watch_updated)
        d->page->fe_watch = noxs_watch_none;
    d->changed = true;
}

static bool same(const struct noxs_entry *a, const struct noxs_entry *b)
{
    return a->type == b->type && a->id == b->id && a->be_id == b->be_id && a->grant == b->grant && a->evtchn == b->evtchn;
}

/* The slot of a device that has gone may have been given to another one before we let go of the first. */
static bool is_open(const struct noxs_entry *entry)
{
    for (u32 i = 0; i < NOXS_DEVICES; i++)
        if (open_devices[i] && same(&open_devices[i]->entry, entry))
            return true;
    return false;
}

static bool open(struct device *d, u32 index)
{
    const struct noxs_page *p = device_page();
    u32 place = 0;
    while (place < NOXS_DEVICES && open_devices[place])
        place++;
    for (u32 i = 0; p && i < NOXS_DEVICES; i++) {
        if (p->devs[i].type != d->kind || index--)
            continue;
        d->entry = p->devs[i];
        if (place == NOXS_DEVICES || is_open(&d->entry))
            return false;
        struct gnttab_map map = {0, GNTMAP_host_map, d->entry.grant, d->entry.be_id, 0, 0, 0};
        struct evtchn_bind_interdomain bind = {d->entry.be_id, d->entry.evtchn, 0};
        d->watch = i; /* the slot */
        d->id = d->entry.id;
        d->backend = map.dom;
        map.host_addr = (u64)area_reserve();
        if (hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) || map.status) {
            printf("noxs: slot %u: grant %u of domain %u cannot be mapped: %d\n", i, map.ref, map.dom, map.status);
            area_release((void *)map.host_addr);
            return false;
        }
        d->page = (struct noxs_header *)map.host_addr;
        d->handle = map.handle;
        if (hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind)) {
            struct gnttab_unmap unmap = {map.host_addr, 0, map.handle, 0};
            printf("noxs: slot %u: port %u of domain %u cannot be bound\n", i, bind.remote_port, bind.remote_dom);
            hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
            area_release((void *)map.host_addr);
            return false;
        }
        open_devices[place] = d;
        d->port = bind.local_port;
        d->state = d->page->fe_state;
        event_bind(d->port, rang, d);
        event_send(d->port);
        return true;
    }
    return false;
}

static void close(struct device *d)
{
    struct gnttab_unmap unmap = {(u64)d->page, 0, d->handle, 0};
    event_close(d->port);
    hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
    area_release(d->page);
    for (u32 i = 0; i < NOXS_DEVICES; i++)
        if (open_devices[i] == d)
            open_devices[i] = NULL;
}

static void set_state(struct device *d, u32 state)
{
    d->page->fe_state = state;
    full_barrier();
    if (d->page->be_watch == noxs_watch_requested)
        d->page->be_watch = noxs_watch_updated;
    event_send(d->port); /* always: the published back end does not arm its watch */
}

static bool is_ours(struct device *d)
{
    return same(&page->devs[d->watch], &d->entry);
}

/* A device that has left the page has no back end any more; neither has one whose slot holds another entry, be it the same device's
 * second life: that one has a control page of its own. */
static u32 peer_state(struct device *d)
{
    u32 state = d->page->be_state;
    return is_ours(d) && state <= XenbusStateReconfigured ? state : XenbusStateUnknown;
}

static void arm(struct device *d)
{
    d->page->fe_watch = noxs_watch_requested;
    full_barrier(); /* a change from here on finds the wish, one before it will be read */
}

static void notice(struct device *d)
{
    (void)d; /* the handler has done it */
}

static bool stirred(struct device *d)
{
    return d->changed;
}

static volatile bool *watch_list(u32 kind)
{
    (void)kind;
    device_page();
    return &list_changed;
}

const struct bus bus_noxs = {"noxs", open, close, set_state, peer_state, is_ours, arm, notice, stirred, watch_list};
