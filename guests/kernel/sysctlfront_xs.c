/* control/shutdown over XenStore: a watch, a word, and the node emptied to say that it was heard. It has no states. */
#include "sysctlfront.h"

static const char node[] = "control/shutdown";

static bool connect(struct sysctlfront *s)
{
    if (!xenstore_usable())
        return false;
    xenstore_write(0, "control/feature-poweroff", "1");
    xenstore_write(0, "control/feature-reboot", "1");
    xs_watch_flag(node, &s->device.watch, &s->device.changed);
    return true;
}

static enum sysctl_request take(struct sysctlfront *s)
{
    char word[16];
    xs_dispatch();
    if (!s->device.changed)
        return SYSCTL_NONE;
    s->device.changed = false;
    if (xenstore_read(0, node, word, sizeof word) <= 0)
        return SYSCTL_NONE;
    xenstore_write(0, node, "");
    if (!strcmp(word, "poweroff") || !strcmp(word, "halt"))
        return SYSCTL_POWEROFF;
    if (!strcmp(word, "reboot"))
        return SYSCTL_REBOOT;
    if (!strcmp(word, "suspend"))
        return SYSCTL_SUSPEND;
    printf("sysctl: cannot %s\n", word);
    return SYSCTL_NONE;
}

static void disconnect(struct sysctlfront *s)
{
    xs_unwatch_flag(node, s->device.watch);
}

const struct sysctlfront_way sysctlfront_xs = {connect, take, disconnect};
