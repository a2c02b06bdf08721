/* chaos over noxs, and LightVM, which is chaos over noxs with shells prepared beforehand. The order is libh2's (lib/h2/xen.c):
 * precreate, devices, fastboot. No XenStore, no console, no wait for a back end: making a device runs its probe.
 */
#include "design.h"

static int reserve(struct guest *g)
{
    return step_reserve(g, false, false);
}

/* On a shell: what was asked for is applied to it; what does not fit was never given this shell. */
static int configure(struct guest *g)
{
    int rc = g->shell ? step_adapt(g) : 0;
    return rc || !g->shell ? rc : step_noxs_configure(g);
}

static const struct phase phases[] = {
    {"reserve", reserve, undo_reserve},
    {"devices", step_noxs_devices, undo_noxs_devices},
    {"configure", configure, NULL},
    {"load", step_load, NULL},
    {"run", step_run, NULL},
    {0},
};

static int stop(struct guest *g, u32 reason)
{
    return g->sysctl ? noxs_guest_close(g->domid, reason) : -ENODEV;
}

DESIGN(chaos_noxs, "chaos-noxs", "chaos with the device page, no XenStore", .needs_noxs = true, .phases = phases, .shutdown = stop);
DESIGN(lightvm, "lightvm", "the same with prepared shells", .needs_noxs = true, .phases = phases, .shutdown = stop, .shells = true, .execute = 2);
