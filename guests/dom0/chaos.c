/* chaos over noxs, and LightVM, which is chaos over noxs with shells prepared beforehand. The order is libh2's (lib/h2/xen.c):
 * precreate, devices, fastboot. No XenStore, no console, no wait for a back end: making a device runs its probe.
 */
#include "design.h"

static int undone(struct guest *g, int rc)
{
    undo_noxs_devices(g);
    undo_reserve(g);
    return rc;
}

static int precreate(struct guest *g)
{
    int rc = step_reserve(g, false, false);
    if (!rc)
        rc = step_noxs_devices(g);
    return rc ? undone(g, rc) : 0;
}

static int fastboot(struct guest *g)
{
    int rc = step_load(g);
    if (!rc)
        rc = step_run(g);
    return rc ? undone(g, rc) : 0;
}

static int create(struct guest *g)
{
    int rc = precreate(g);
    return rc ? rc : fastboot(g);
}

/* On a shell: what was asked for is applied to it; what does not fit was never given this shell. */
static int execute(struct guest *g)
{
    int rc = step_noxs_configure(g);
    return rc ? undone(g, rc) : fastboot(g);
}

static int destroy(struct guest *g)
{
    undo_noxs_devices(g);
    return undo_reserve(g);
}

static int stop(struct guest *g, u32 reason)
{
    return g->sysctl ? noxs_guest_close(g->domid, reason) : -ENODEV;
}

DESIGN(chaos_noxs, "chaos-noxs", "chaos with the device page, no XenStore", .needs_noxs = true, .create = create,
       .destroy = destroy, .shutdown = stop);
DESIGN(lightvm, "lightvm", "the same with prepared shells", .needs_noxs = true, .shells = true, .create = create, .destroy = destroy,
       .shutdown = stop, .prepare = precreate, .execute = execute);
