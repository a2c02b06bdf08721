/* The sysctl device: power operations by a byte in the control page; the guest says that it heard by closing the device. */
#include "back.h"
#include "alarm.h"
#include "xc.h"
#include "xen_ctl.h"

enum { CLOSE_LIMIT = 60 }; /* seconds, as chaos waits for a guest to be gone */

static int offer(struct back *b)
{
    ((struct noxs_sysctl *)b->page)->command = 0;
    return 0;
}

static bool connect(struct back *b)
{
    (void)b;
    return true;
}

static void nothing(struct back *b)
{
    (void)b;
}

static bool no_work(struct back *b)
{
    (void)b;
    return false;
}

const struct back_kind back_sysctl = {noxs_dev_sysctl, "sysctl", offer, connect, NULL, NULL, NULL, NULL, nothing, nothing, no_work};

int noxs_guest_close(u32 domid, u32 reason)
{
    static const u8 bits[] = {[SHUTDOWN_poweroff] = SYSCTL_poweroff, [SHUTDOWN_reboot] = SYSCTL_reboot, [SHUTDOWN_suspend] = SYSCTL_suspend};
    struct back *b = back_find(noxs_dev_sysctl, domid, 0);
    struct xc_info info;
    if (!b)
        return -ENODEV;
    if (xc_domain_getinfo(domid, &info) || info.flags & DOMINF_shutdown)
        return -ESRCH; /* it has ended, with its device open */
    if (reason >= COUNT(bits))
        return -EINVAL;
    if (!b->connected)
        return -EAGAIN; /* nobody would hear it */
    if (b->closer)
        return -EBUSY;
    struct noxs_sysctl *page = (struct noxs_sysctl *)b->page;
    b->closer = thread_self();
    page->command = bits[reason];
    full_barrier();
    page->hdr.fe_watch = noxs_watch_updated;
    event_send(b->port);
    struct alarm alarm; /* a guest that has ended, or does not listen, never closes */
    alarm_set(&alarm, now() + CLOSE_LIMIT * 1000000000UL);
    while ((b = back_find(noxs_dev_sysctl, domid, 0)) && b->connected && !alarm.rung)
        thread_sleep();
    if (!alarm.rung)
        alarm_cancel(&alarm);
    if (!b)
        return 0;
    b->closer = NULL;
    return b->connected ? -EAGAIN : 0;
}
