/* The sysctl device over noxs: a command byte in its control page, and the closing handshake to say that it was heard. */
#include "sysctlfront.h"

enum { FEATURE_POWEROFF = 1, FEATURE_REBOOT = 2 };

/* The back end goes or is gone: nobody can ask for anything any more. */
static bool let_go(struct device *d)
{
    if (d->present && STATES_GONE >> d->peer & 1)
        device_shut(d);
    device_close(d);
    return false;
}

static bool connect(struct sysctlfront *s)
{
    struct device *d = &s->device;
    u32 refusals = STATES(XenbusStateConnected) | STATES_GONE;
    if (d->present) /* again: the back end may not have left Closed yet */
        refusals = STATES(XenbusStateUnknown);
    else if (!device_open(d, &bus_noxs, noxs_dev_sysctl, 0))
        return let_go(d);
    struct noxs_sysctl *page = (struct noxs_sysctl *)d->page;
    if (device_wait(d, STATES(XenbusStateInitWait) | refusals) != XenbusStateInitWait)
        return let_go(d);
    page->command = 0; /* the back end never clears what it asked of a domain before */
    page->fe_feat = FEATURE_POWEROFF | FEATURE_REBOOT;
    device_set_state(d, XenbusStateConnected);
    if (device_wait(d, STATES(XenbusStateConnected) | STATES_GONE) != XenbusStateConnected)
        return let_go(d);
    d->changed = true; /* look once */
    return true;
}

/* The command is no state, but it is waited for by the same rule: arm, read, sleep. */
static enum sysctl_request take(struct sysctlfront *s)
{
    static const struct { u8 bit; enum sysctl_request request; } order[] = {
        {SYSCTL_poweroff, SYSCTL_POWEROFF}, {SYSCTL_reboot, SYSCTL_REBOOT}, {SYSCTL_suspend, SYSCTL_SUSPEND}, {SYSCTL_crash, SYSCTL_CRASH}};
    struct device *d = &s->device;
    if (!d->changed)
        return SYSCTL_NONE;
    device_update(d);
    if (STATES_GONE >> d->peer & 1) {
        s->connected = let_go(d);
        return SYSCTL_NONE;
    }
    u8 command = ((struct noxs_sysctl *)d->page)->command;
    for (u32 i = 0; i < COUNT(order); i++)
        if (command & order[i].bit)
            return order[i].request;
    return SYSCTL_NONE;
}

static void disconnect(struct sysctlfront *s)
{
    device_shut(&s->device);
    device_set_state(&s->device, XenbusStateInitialising);
}

const struct sysctlfront_way sysctlfront_noxs = {connect, take, disconnect};
