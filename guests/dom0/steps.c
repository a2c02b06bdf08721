/* The steps that the designs are made of. */
#include "design.h"

enum { SLACK_KIB = 1024, MAX_EVTCHN_PORT = 1023, GRANT_FRAMES_GUEST = 64, MAPTRACK_FRAMES_GUEST = 1024 }; /* as xl gives them */

static int limit(struct guest *g)
{
    int rc = xc_domain_setmaxmem(g->domid, g->config.maxmem_kib + SLACK_KIB);
    g->limit_kib = g->config.maxmem_kib;
    return rc ? guest_fail(g, rc, "its limits cannot be set") : 0;
}

int step_reserve(struct guest *g, bool console, bool store)
{
    struct dom *d = &g->dom;
    struct xc_create create = {{0}, 0, g->config.maxvcpus, MAX_EVTCHN_PORT, GRANT_FRAMES_GUEST, MAPTRACK_FRAMES_GUEST};
    u32 cpus;
    memcpy(create.handle, g->uuid, sizeof create.handle);
    g->domid = 0;
    int rc = xc_domain_create(&g->domid, &create);
    if (rc)
        return guest_fail(g, rc, "the host cannot take another domain");
    g->built = true;
    d->domid = g->domid;
    d->vcpus = g->config.maxvcpus;
    d->pages = g->config.memory_kib / (PAGE_SIZE >> 10);
    d->store_domid = store_domid;
    if ((rc = xc_domain_max_vcpus(g->domid, g->config.maxvcpus)) || (rc = xc_physinfo(&cpus, NULL, NULL)))
        return guest_fail(g, rc, "it cannot have so many vCPUs");
    if ((rc = limit(g)) || (rc = xc_domain_set_tsc_info(g->domid, 0)))
        return guest_fail(g, rc, "its limits cannot be set");
    if ((rc = xc_cpuid_apply_policy(g->domid)))
        return guest_fail(g, rc, "Xen refuses what it is to know of its CPU");
    if (store) {
        s64 port = xc_evtchn_alloc_unbound(g->domid, store_domid);
        if (port < 0)
            return guest_fail(g, (int)port, "no event channel for its XenStore");
        d->store_port = (u32)port;
    }
    if (console) {
        s64 port = xc_evtchn_alloc_unbound(g->domid, 0);
        if (port < 0)
            return guest_fail(g, (int)port, "no event channel for its console");
        d->console_port = (u32)port;
    }
    if ((rc = dom_memory(d)))
        return rc;
    rc = xc_claim_pages(g->domid, 0);
    return rc ? guest_fail(g, rc, "its memory cannot be claimed") : 0;
}

static int noxs_add(struct guest *g, u32 type, u32 devid, const union device_config *c)
{
    u32 grant, port;
    int rc = noxs_device_create(type, g->domid, devid, c, &grant, &port);
    if (rc)
        return guest_fail(g, rc, "its back end refuses a device");
    rc = xc_devctl_add(g->domid, type, devid, 0, grant, port);
    if (rc) {
        noxs_device_destroy(type, g->domid, devid);
        return guest_fail(g, rc, "Xen refuses a device");
    }
    return 0;
}

int step_noxs_devices(struct guest *g)
{
    int rc;
    if (!g->config.no_sysctl) {
        if ((rc = noxs_add(g, noxs_dev_sysctl, 0, NULL)))
            return rc;
        g->sysctl = true;
    }
    for (; g->nvifs < g->config.nvifs; g->nvifs++) {
        union device_config c = {.vif = g->config.vifs[g->nvifs]};
        if ((rc = noxs_add(g, noxs_dev_vif, c.vif.devid, &c)))
            return rc;
    }
    for (; g->nvbds < g->config.nvbds; g->nvbds++) {
        union device_config c = {.vbd = g->config.vbds[g->nvbds]};
        if (!c.vbd.raw)
            return guest_fail(g, -EOPNOTSUPP, "its disk is of a format that no back end here knows");
        if ((rc = noxs_add(g, noxs_dev_vbd, c.vbd.devid, &c)))
            return rc;
    }
    return 0;
}

int step_noxs_configure(struct guest *g)
{
    for (u32 i = 0; i < g->nvifs; i++) {
        union device_config c = {.vif = g->config.vifs[i]};
        int rc = noxs_device_configure(noxs_dev_vif, g->domid, c.vif.devid, &c);
        if (rc)
            return guest_fail(g, rc, "its vif cannot be configured");
    }
    return 0;
}

int step_adapt(struct guest *g)
{
    struct dom *d = &g->dom;
    u64 pages = g->config.memory_kib / (PAGE_SIZE >> 10);
    int rc;
    if (d->pages != pages && (rc = xc_decrease_reservation(g->domid, d->pages - pages, d->p2m + pages)))
        return guest_fail(g, rc, "what its shell has too much of cannot be given back");
    d->pages = pages;
    if (g->limit_kib != g->config.maxmem_kib && (rc = limit(g)))
        return rc;
    if (g->config.has_uuid && (rc = xc_domain_sethandle(g->domid, g->config.uuid)))
        return guest_fail(g, rc, "its shell cannot have its UUID");
    return 0;
}

int step_load(struct guest *g)
{
    const struct file *kernel = file_find(g->config.kernel), *ramdisk = NULL;
    int rc;
    if (!kernel)
        return guest_fail(g, -ENOENT, "its kernel is not in the file area");
    if (g->config.ramdisk[0] && !(ramdisk = file_find(g->config.ramdisk)))
        return guest_fail(g, -ENOENT, "its ramdisk is not in the file area");
    g->dom.kernel = kernel->data;
    g->dom.kernel_size = kernel->size;
    g->dom.ramdisk = ramdisk ? ramdisk->data : NULL;
    g->dom.ramdisk_size = ramdisk ? ramdisk->size : 0;
    g->dom.cmdline = g->config.cmdline;
    if ((rc = dom_kernel(&g->dom)) || (rc = dom_boot(&g->dom)))
        return rc;
    dom_free(&g->dom);
    return 0;
}

int step_run(struct guest *g)
{
    return g->config.paused ? 0 : xc_domain_unpause(g->domid);
}

int undo_noxs_devices(struct guest *g)
{
    while (g->nvbds) {
        u32 devid = g->config.vbds[--g->nvbds].devid;
        xc_devctl_remove(g->domid, noxs_dev_vbd, 0, devid);
        noxs_device_destroy(noxs_dev_vbd, g->domid, devid);
    }
    while (g->nvifs) {
        u32 devid = g->config.vifs[--g->nvifs].devid;
        xc_devctl_remove(g->domid, noxs_dev_vif, 0, devid);
        noxs_device_destroy(noxs_dev_vif, g->domid, devid);
    }
    if (g->sysctl) {
        xc_devctl_remove(g->domid, noxs_dev_sysctl, 0, 0);
        noxs_device_destroy(noxs_dev_sysctl, g->domid, 0);
        g->sysctl = false;
    }
    return 0;
}

int undo_reserve(struct guest *g)
{
    int rc = g->built ? xc_domain_destroy(g->domid) : 0;
    if (rc == -ESRCH)
        rc = 0; /* somebody else has destroyed it */
    if (!rc)
        g->built = false;
    if (xenstore_gone())
        backends_forget(g->domid);
    dom_free(&g->dom);
    noxs_collect();
    return rc;
}
