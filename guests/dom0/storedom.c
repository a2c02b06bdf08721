/* The XenStore's domain, made the way init-xenstore-domain of Xen's tools makes it: it may look at all domains, hears of their ends
 * in place of dom0, and finds dom0's ring by a grant and a port on its command line.
 */
#include "design.h"
#include "store_watch.h"

enum { MEMORY_MIB = 64, MEMORY_LEAST = 5, MEMORY_MOST = 4096, /* the least: in less, an empty store finds no room, or no guest does */
       CDF_XS_DOMAIN = 1 << 4 };
u32 store_domid;

static int make(const struct file *image, const char *mode, u64 mib, struct dom *d, void **page, u32 *ref, u32 *port)
{
    struct xc_create create = {"pyvmm xenstored", CDF_XS_DOMAIN, 1, 4095, 64, 1024};
    static char cmdline[64];
    int rc = xc_domain_create(&d->domid, &create);
    if (rc)
        return rc;
    d->pages = mib << 8;
    if ((rc = xc_domain_max_vcpus(d->domid, 1)) || (rc = xc_domain_setmaxmem(d->domid, (mib << 10) + 1024)) || (rc = dom_memory(d)))
        return rc;
    s64 unbound = event_alloc_unbound(d->domid);
    if (unbound < 0)
        return (int)unbound;
    *port = (u32)unbound;
    *page = page_try();
    if (!*page) {
        snprintf(d->error, sizeof d->error, "dom0 has no memory left for its ring");
        return -ENOMEM;
    }
    *ref = grant_access(d->domid, va_to_mfn(*page), false);
    snprintf(cmdline, sizeof cmdline, "mode=%s dom0-ref=%u dom0-port=%u", mode, *ref, *port);
    d->kernel = image->data;
    d->kernel_size = image->size;
    d->cmdline = cmdline;
    if ((rc = dom_kernel(d)) || (rc = dom_boot(d)) || (rc = xc_set_virq_handler(d->domid, VIRQ_DOM_EXC)))
        return rc;
    xenstore_attach(*page, *port);
    return xc_domain_unpause(d->domid);
}

/* What xen-init-dom0 and init-xenstore-domain write once there is a store. */
static int announce(void)
{
    char domid[12], name[48];
    snprintf(domid, sizeof domid, "%u", store_domid);
    snprintf(name, sizeof name, "/local/domain/%u/name", store_domid);
    const char *const nodes[][2] = {{"/local/domain/0/domid", "0"}, {"/local/domain/0/name", "Domain-0"}, {"/tool/xenstored/domid", domid},
                                    {name, "Xenstore"}};
    for (u32 i = 0; i < COUNT(nodes); i++)
        if (xenstore_write(0, nodes[i][0], nodes[i][1]) < 0)
            return failure(0, "the XenStore does not take %s", nodes[i][0]);
    return 0;
}

/* One that has crashed still has the rings of all guests mapped: they could not go. */
static void lost(void)
{
    store_watches_wake();
    xc_domain_destroy(store_domid);
}

/* Xen tells the store of ends of domains, and dom0 again once the store's own domain is no more. */
static void domain_event(u32 port, void *arg)
{
    struct xc_info info;
    (void)port, (void)arg;
    if (xenstore_gone() || (!xc_domain_getinfo(store_domid, &info) && !(info.flags & 5))) /* dying, shut down */
        return;
    xenstore_lost();
}

static void listen(void)
{
    s64 port = event_bind_virq(VIRQ_DOM_EXC, 0);
    xenstore_when_lost = lost;
    if (port >= 0)
        event_bind((u32)port, domain_event, NULL);
}

static int store(u32 n, char **words)
{
    const struct file *image = file_find("xenstored");
    struct dom d = {.vcpus = 1};
    void *page = NULL;
    u32 ref = 0, port = 0;
    u64 mib = MEMORY_MIB;
    if (xenstore_gone())
        return failure(-ENOTCONN, "");
    if (xenstore_usable()) {
        char reply[256];
        if (n > 1 || xenstore_request(XS_CONTROL, 0, "", 1, reply, sizeof reply) < 0)
            return failure(-EEXIST, "there is a XenStore already, in domain %u", store_domid);
        printf("domain %u: %s\n", store_domid, reply);
        return 0;
    }
    if (n == 1 || (strcmp(words[1], "c") && strcmp(words[1], "o")))
        return failure(0, "which design: c (copies, one generation) or o (shared trees, merged or replayed)?");
    if (n > 2 && (!number_of(words[2], &mib) || mib < MEMORY_LEAST || mib > MEMORY_MOST))
        return failure(0, "its memory is to be from %d to %d MiB", MEMORY_LEAST, MEMORY_MOST);
    if (!image)
        return failure(-ENOENT, "there is no file xenstored");
    int rc = make(image, words[1], mib, &d, &page, &ref, &port);
    dom_free(&d);
    if (rc) {
        if (d.domid)
            xc_domain_destroy(d.domid);
        if (port)
            event_close(port);
        if (page && grant_end(ref))
            page_free(page);
        return failure(rc, "the XenStore's domain cannot be made%s%s", d.error[0] ? ": " : "", d.error);
    }
    store_domid = d.domid;
    printf("XenStore %s in domain %u\n", words[1], d.domid);
    backends_xenstore();
    listen();
    return announce();
}
COMMAND(store, "[c|o [MIB]]", "start a XenStore in a domain of its own, or tell of it", 0, 2, store);
