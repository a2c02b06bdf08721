/* Obeying the toolstack: which request becomes which end. */
#include "sysctlfront.h"

bool sysctlfront_open(struct sysctlfront *s, const char *option_name)
{
    const struct bus *bus = bus_choose(option_name, noxs_dev_sysctl);
    memset(s, 0, sizeof *s);
    s->way = bus == &bus_noxs ? &sysctlfront_noxs : &sysctlfront_xs;
    s->device.bus = bus;
    s->connected = s->way->connect(s);
    return s->connected;
}

bool sysctlfront_stirred(void *arg)
{
    struct sysctlfront *s = arg;
    return s->connected && device_stirred(&s->device);
}

enum sysctl_request sysctlfront_poll(struct sysctlfront *s)
{
    return s->connected ? s->way->take(s) : SYSCTL_NONE;
}

void sysctlfront_obey(struct sysctlfront *s)
{
    enum sysctl_request request = sysctlfront_poll(s);
    if (request == SYSCTL_NONE)
        return;
    s->way->disconnect(s);
    s->connected = false;
    if (request == SYSCTL_SUSPEND) {
        printf("sysctl: this guest cannot suspend\n");
        s->connected = s->way->connect(s);
        return;
    }
    static const u32 reasons[] = {[SYSCTL_POWEROFF] = SHUTDOWN_poweroff, [SYSCTL_REBOOT] = SHUTDOWN_reboot, [SYSCTL_CRASH] = SHUTDOWN_crash};
    static const char *const names[] = {[SYSCTL_POWEROFF] = "poweroff", [SYSCTL_REBOOT] = "reboot", [SYSCTL_CRASH] = "crash"};
    printf("sysctl: %s\n", names[request]);
    shutdown(reasons[request]);
}
