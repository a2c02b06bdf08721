/* The sysctl device: power operations by a byte in the control page; the guest says that it heard by closing the device. */
#include "back.h"

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
    if (!b)
        return -ENODEV;
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
    while ((b = back_find(noxs_dev_sysctl, domid, 0)) && b->connected)
        thread_sleep();
    if (b)
        b->closer = NULL;
    return 0;
}
