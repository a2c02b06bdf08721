/* What stays of xl for each guest: a thread in place of the process that xl leaves behind. It watches @releaseDomain, so it is woken
 * whenever any domain ends, asks Xen about its own, and does what the configuration says once that one has ended.
 */
#include "xl.h"
#include "store_watch.h"

struct death { u32 domid; u8 uuid[16]; struct store_watch watch; int rc; bool begun; struct thread *creator; };

/* The guest if it is still the one that was created, and nobody else is at it. */
static struct guest *mine(const struct death *d)
{
    struct guest *g = guest_of(d->domid);
    return g && !memcmp(g->uuid, d->uuid, sizeof d->uuid) && !g->ending ? g : NULL;
}

static void ended(struct guest *g, u32 reason)
{
    static const struct { const char *word; u32 how; } ends[] = {
        [SHUTDOWN_poweroff] = {"poweroff", ON_poweroff}, [SHUTDOWN_reboot] = {"reboot", ON_reboot}, [SHUTDOWN_suspend] = {"suspend", ON_COUNT},
        [SHUTDOWN_crash] = {"crash", ON_crash}, [4] = {"watchdog", ON_watchdog}};
    static const char *const words[] = {"destroyed", "restarted", "preserved"};
    if (reason >= COUNT(ends))
        reason = SHUTDOWN_crash;
    u8 action = ends[reason].how == ON_COUNT ? ACTION_preserve : g->config.on[ends[reason].how];
    printf("domain %u %s ended: %s, %s\n", g->domid, g->config.name, ends[reason].word, words[action]);
    if (action == ACTION_preserve)
        return;
    struct config *again = action == ACTION_restart ? memory_take(sizeof *again) : NULL;
    if (again) {
        *again = g->config;
        memcpy(again->uuid, g->uuid, sizeof again->uuid);
        again->has_uuid = true;
    }
    const struct design *design = g->design;
    int rc = guest_end(g);
    if (rc)
        failure(rc, "%s: not all of it could be given back: %s", g->config.name, g->dom.error);
    if (action == ACTION_restart && !again)
        failure(-ENOMEM, "%s: it is not restarted: dom0 has no memory left", g->config.name);
    guest_free(g);
    if (again)
        guest_create(design, again); /* whichever is chosen by now */
    memory_release(again);
}

static void watch(void *arg)
{
    struct death *d = arg;
    d->rc = store_watch(&d->watch, "@releaseDomain");
    d->begun = true;
    thread_wake(d->creator);
    if (d->rc) /* the creator gives d back */
        return;
    for (bool done = false; !done;) {
        struct xc_info info;
        store_watch_wait(&d->watch, 0);
        int rc = xc_domain_getinfo(d->domid, &info);
        struct guest *g = mine(d);
        done = rc || !g || info.flags & 1;
        if (!done && info.flags & 4) {
            store_unwatch(&d->watch);
            ended(g, info.shutdown_reason);
            memory_release(d);
            return;
        }
    }
    store_unwatch(&d->watch);
    memory_release(d);
}

int xl_watch_death(struct guest *g)
{
    struct death *d = memory_take(sizeof *d);
    if (!d)
        return guest_fail(g, -ENOMEM, "dom0 has no memory left for the thread that watches it");
    d->domid = g->domid;
    memcpy(d->uuid, g->uuid, sizeof d->uuid);
    d->creator = thread_self();
    if (!thread_try("xl", watch, d)) {
        memory_release(d);
        return guest_fail(g, -ENOMEM, "dom0 has no memory left for the thread that watches it");
    }
    while (!d->begun)
        thread_sleep();
    int rc = d->rc; /* nobody has run since: the thread waits for its first event */
    if (rc)
        memory_release(d);
    return rc ? guest_fail(g, rc, "its end cannot be watched") : 0;
}
