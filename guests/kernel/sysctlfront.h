/* What the toolstack asks of a domain: power off, reboot, suspend. Over XenStore the node control/shutdown (sysctlfront_xs.c), over
 * noxs the sysctl device's control page (sysctlfront_noxs.c).
 */
#pragma once
#include "xenbus.h"

enum sysctl_request { SYSCTL_NONE, SYSCTL_POWEROFF, SYSCTL_REBOOT, SYSCTL_SUSPEND, SYSCTL_CRASH };
struct sysctlfront;
struct sysctlfront_way {
    bool (*connect)(struct sysctlfront *s);
    enum sysctl_request (*take)(struct sysctlfront *s); /* what is asked now; it is acknowledged where that is done */
    void (*disconnect)(struct sysctlfront *s);          /* the toolstack sees that we heard it */
};
extern const struct sysctlfront_way sysctlfront_xs, sysctlfront_noxs;
struct sysctlfront {
    struct device device;
    const struct sysctlfront_way *way;
    bool connected;
};

bool sysctlfront_open(struct sysctlfront *s, const char *option_name); /* option_name: "sysctl" */
bool sysctlfront_stirred(void *sysctlfront);
enum sysctl_request sysctlfront_poll(struct sysctlfront *s);
void sysctlfront_obey(struct sysctlfront *s); /* does what is asked, if anything: poweroff, reboot and crash do not return */
