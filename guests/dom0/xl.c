/* xl: stock Xen's toolstack (xl create_domain, libxl_domain_create_new of 4.8.1) in its order: names are checked against every
 * domain's, the domain is made and built, every device is added and waited for, and a watcher stays behind. Messages, one by one:
 * xl_store.c, xl_devices.c, xl_hotplug.c. One creation at a time: the shell is what xl's lock file is there.
 */
#include "xl.h"
#include "store_watch.h"

enum { MAX_EVTCHN_PORT = 1023, GRANT_FRAMES_GUEST = 64, MAPTRACK_FRAMES_GUEST = 1024, SLACK_KIB = 1024 };

/* The pool that it is to be in; whether there is room (xl's freemem). */
static int check(struct guest *g)
{
    static const struct message pool[] = {READ("/local/pool/0/name")};
    u64 total, left;
    struct scope s;
    scope_open(&s, g);
    int rc = xc_physinfo(NULL, &total, &left);
    if (rc)
        return guest_fail(g, rc, "Xen does not tell what it has");
    if (left * (PAGE_SIZE >> 10) < g->config.memory_kib)
        return guest_fail(g, -ENOMEM, "the host has not so much memory left");
    rc = STORE_SEND(&s, pool);
    return rc ? guest_fail(g, rc, "the store does not answer") : 0;
}

static int domain(struct guest *g)
{
    struct xc_create create = {{0}, 0, g->config.maxvcpus, MAX_EVTCHN_PORT, GRANT_FRAMES_GUEST, MAPTRACK_FRAMES_GUEST};
    memcpy(create.handle, g->uuid, sizeof create.handle);
    g->domid = 0;
    int rc = xc_domain_create(&g->domid, &create);
    if (rc)
        return guest_fail(g, rc, "the host cannot take another domain");
    g->built = true;
    g->dom.domid = g->domid;
    if ((rc = xc_cpupool_movedomain(0, g->domid)))
        return guest_fail(g, rc, "its CPU pool does not take it");
    return 0;
}

/* libxl__build_pre */
static int limits(struct guest *g)
{
    struct dom *d = &g->dom;
    s64 store, console;
    int rc = xc_domain_max_vcpus(g->domid, g->config.maxvcpus);
    if (rc)
        return guest_fail(g, rc, "it cannot have so many vCPUs");
    if ((rc = xl_build_pre(g)))
        return rc;
    if ((rc = xc_domain_setmaxmem(g->domid, g->config.maxmem_kib + SLACK_KIB)))
        return guest_fail(g, rc, "its limits cannot be set");
    if ((store = xc_evtchn_alloc_unbound(g->domid, store_domid)) < 0 || (console = xc_evtchn_alloc_unbound(g->domid, 0)) < 0)
        return guest_fail(g, (int)(store < 0 ? store : console), "no event channels for its store and its console");
    if ((rc = xc_domain_set_memmap_limit(g->domid, g->config.maxmem_kib + SLACK_KIB)) || (rc = xc_domain_set_tsc_info(g->domid, 0)))
        return guest_fail(g, rc, "its limits cannot be set");
    d->vcpus = g->config.maxvcpus;
    d->pages = g->config.memory_kib / (PAGE_SIZE >> 10);
    d->store_domid = store_domid;
    d->store_port = (u32)store;
    d->console_port = (u32)console;
    return 0;
}

static int build(struct guest *g)
{
    int rc = dom_memory(&g->dom);
    if (!rc && (rc = xc_claim_pages(g->domid, 0)))
        return guest_fail(g, rc, "its memory cannot be claimed");
    return rc ? rc : step_load(g);
}

/* libxl_domain_unpause looks first what kind of domain it is. */
static int run(struct guest *g)
{
    struct xc_info info;
    int rc = xc_domain_getinfo(g->domid, &info);
    return rc ? guest_fail(g, rc, "it is gone") : step_run(g);
}

/* libxl_domain_destroy pauses it before its devices go. */
static int halt(struct guest *g)
{
    int rc = xc_domain_pause(g->domid);
    return rc == -ESRCH ? 0 : rc; /* it is gone already */
}

/* libxl_domain_shutdown: the node, in a transaction, then until the guest has taken note of it, for at most 60 seconds. */
enum { ACKNOWLEDGE_LIMIT = 60 };

static int ask(struct guest *g, u32 reason)
{
    static const char *const words[] = {"poweroff", "reboot", "suspend"};
    static const struct message path[] = {DOMAIN_PATH("$d")};
    struct message request[] = {WRITE("$h/control/shutdown", words[reason])};
    struct store_watch w;
    struct scope s;
    char node[64];
    u64 limit = now() + ACKNOWLEDGE_LIMIT * 1000000000UL;
    scope_open(&s, g);
    scope_expand(&s, "$h/control/shutdown", node, sizeof node);
    int rc = STORE_SEND(&s, path);
    if (!rc)
        rc = store_transact_list(&s, request, COUNT(request));
    if (rc || (rc = store_watch(&w, node)))
        return rc;
    do {
        if (!store_watch_wait(&w, limit)) {
            rc = -EAGAIN;
            break;
        }
        rc = store_read(&s, node);
    } while (rc > 0); /* "" is the acknowledgement; gone with the guest is as good */
    store_unwatch(&w);
    return rc == -ENOENT ? 0 : rc;
}

static const struct phase phases[] = {
    {"check", check, NULL},
    {"domain", domain, undo_reserve},
    {"store", xl_domain_make, xl_domain_forget},
    {"limits", limits, NULL},
    {"build", build, NULL},
    {"introduce", xl_build_post, NULL},
    {"disks", xl_add_disks, xl_remove_disks},
    {"console", xl_add_console, xl_remove_console},
    {"nics", xl_add_nics, xl_remove_nics},
    {"run", run, halt},
    {"watch", xl_watch_death, NULL},
    {0},
};
DESIGN(xl, "xl", "stock Xen: libxl's messages, checks and waits", .needs_xenstore = true, .phases = phases, .shutdown = ask);
