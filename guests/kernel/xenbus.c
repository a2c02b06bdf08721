/* The life cycle of a front end, whichever way its back end is met. */
#include "xenbus.h"

static const char *const state_names[] = {"Unknown", "Initialising", "InitWait", "Initialised", "Connected", "Closing", "Closed",
                                          "Reconfiguring", "Reconfigured"};
static const char *const kinds[] = {"", "sysctl", "vif", "vbd"};

const struct bus *bus_choose(const char *option_name, u32 kind)
{
    char way[8] = "";
    option(option_name, way, sizeof way);
    if (!strcmp(way, "noxs"))
        return &bus_noxs;
    if (!strcmp(way, "xs"))
        return &bus_xs;
    return noxs_offers(kind) ? &bus_noxs : &bus_xs;
}

bool device_open(struct device *d, const struct bus *bus, u32 kind, u32 index)
{
    memset(d, 0, sizeof *d);
    d->bus = bus;
    d->kind = kind;
    d->present = bus->open(d, index);
    if (!d->present)
        return false;
    if (d->state == XenbusStateUnknown)
        device_set_state(d, XenbusStateInitialising);
    return d->state == XenbusStateInitialising || device_restart(d); /* whoever used it before has left it otherwise */
}

void device_close(struct device *d)
{
    if (d->present)
        d->bus->close(d);
    d->present = false;
}

static volatile bool *list_changed;
static const struct bus *list_bus;

void devices_watch(const struct bus *bus, u32 kind)
{
    list_bus = bus;
    list_changed = bus->watch_list(kind);
}

bool devices_changed(void)
{
    if (list_bus)
        list_bus->notice(NULL);
    if (!list_changed || !*list_changed)
        return false;
    *list_changed = false;
    return true;
}

bool devices_stirred(void)
{
    return list_changed && (*list_changed || (list_bus == &bus_xs && xenstore_pending()));
}

void device_set_state(struct device *d, u32 state)
{
    d->state = state;
    if (!d->lost)
        d->bus->set_state(d, state);
}

bool device_disturbed(struct device *d)
{
    d->bus->notice(d);
    return d->changed;
}

void device_lose(struct device *d)
{
    d->lost = true;
    d->peer = XenbusStateUnknown;
}

static void look(struct device *d)
{
    d->changed = false;
    d->bus->arm(d);
    if (!d->lost)
        d->peer = d->bus->peer_state(d);
    if (d->peer == XenbusStateUnknown) /* for good: what is there next, under the same name, is another device */
        device_lose(d);
}

/* Another device is where ours was, and its back end waits for a front end that begins anew: ours has none any more, and what we have
 * to say is not for that one. */
static bool is_replaced(struct device *d)
{
    if (!d->bus->is_ours(d))
        device_lose(d);
    return d->lost;
}

bool device_stirred(struct device *d)
{
    return d->changed || d->bus->stirred(d);
}

static bool stirred(void *arg)
{
    return device_stirred(arg);
}

/* What has woken us and is not what we wait for may be that the device was replaced. */
u32 device_wait(struct device *d, u32 states)
{
    for (bool woken = false;; woken = true) {
        look(d);
        if (states >> d->peer & 1)
            return d->peer;
        if (woken && states >> XenbusStateUnknown & 1 && is_replaced(d))
            return d->peer;
        while (!d->changed) {
            thread_wait(stirred, d);
            d->bus->notice(d);
        }
    }
}

bool device_update(struct device *d)
{
    u32 before = d->peer;
    d->bus->notice(d);
    if (!d->changed)
        return false;
    look(d);
    if (d->peer != before && d->state != XenbusStateInitialising && STATES(XenbusStateInitialising, XenbusStateInitWait) >> d->peer & 1)
        is_replaced(d);
    return d->peer != before;
}

void device_fail(struct device *d, const char *format, ...)
{
    char text[128];
    va_list args;
    if (d->failed)
        return;
    d->failed = true;
    __builtin_va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    __builtin_va_end(args);
    printf("%s %u over %s: the back end is at fault: %s\n", kinds[d->kind], d->id, d->bus->name, text);
}

/* A back end that has vanished is in state Unknown, and is waited for no longer. */
void device_shut(struct device *d)
{
    if (d->state == XenbusStateConnected || d->state == XenbusStateInitialised) {
        device_set_state(d, XenbusStateClosing);
        device_wait(d, STATES_GONE | STATES(XenbusStateInitialising));
    }
    device_set_state(d, XenbusStateClosed);
    device_wait(d, STATES(XenbusStateUnknown, XenbusStateClosed, XenbusStateInitialising, XenbusStateInitWait));
}

bool device_restart(struct device *d)
{
    device_set_state(d, XenbusStateInitialising);
    u32 s = device_wait(d, STATES(XenbusStateUnknown, XenbusStateInitWait));
    if (s == XenbusStateUnknown)
        printf("%s %u: the back end is gone (%s)\n", kinds[d->kind], d->id, state_names[s]);
    return s == XenbusStateInitWait;
}
