/* Taking a device from a guest that runs. The guest is asked, as libxl's device_remove and noxs's table of states ask it: Closing, the front
 * end lets go, Closed. One that does not within ten seconds loses it only if that is insisted on. A device that nobody is connected to
 * goes at once.
 */
#include "messages.h"
#include "store_watch.h"

enum { LIMIT = 10 };

static int close_noxs(struct guest *g, u32 type, u32 devid, bool force)
{
    int rc = force ? 0 : noxs_device_close(type, g->domid, devid, now() + LIMIT * 1000000000UL);
    if (rc)
        return rc;
    rc = xc_devctl_remove(g->domid, type, 0, devid);
    int gone = noxs_device_destroy(type, g->domid, devid);
    return rc ? rc : gone;
}

static int wait_closed(struct scope *s)
{
    static const struct message offline[] = {WRITE("$b/online", "0"), WRITE("$b/state", "5")};
    struct store_watch w;
    char state[128];
    u64 limit = now() + LIMIT * 1000000000UL;
    scope_expand(s, "$b/state", state, sizeof state);
    int rc = store_transact_list(s, offline, COUNT(offline));
    if (rc || (rc = store_watch(&w, state)))
        return rc;
    do {
        if (!store_watch_wait(&w, limit)) {
            rc = -EAGAIN;
            break;
        }
        rc = store_read(s, "$b/state");
    } while (rc > 0 && s->reply[0] != '0' + XenbusStateClosed);
    store_unwatch(&w);
    return rc > 0 || rc == -ENOENT ? 0 : rc;
}

static int close_xs(struct scope *s, bool force)
{
    static const struct message gone[] = {REMOVE("$b"), REMOVE("$f"), REMOVE("$p")};
    int rc = store_read(s, "$b/state");
    if (rc > 0 && s->reply[0] == '0' + XenbusStateConnected && !force && (rc = wait_closed(s)))
        return rc;
    return rc < 0 ? rc : STORE_SEND(s, gone);
}

static int detach(u32 n, char **words)
{
    struct guest *g = guest_find(words[1]);
    bool vif = !strcmp(words[2], "vif"), force = n > 4 && !strcmp(words[4], "force");
    u64 devid;
    struct scope s;
    if (!g || g->pooled)
        return failure(-ESRCH, "no guest %s", words[1]);
    if (!number_of(words[3], &devid) || (!vif && strcmp(words[2], "vbd")) || (n > 4 && !force))
        return failure(0, "usage: detach ID|NAME vif|vbd NUMBER [force]");
    u32 i = 0, *count = vif ? &g->nvifs : &g->nvbds;
    while (i < *count && (vif ? g->config.vifs[i].devid : g->config.vbds[i].devid) != devid)
        i++;
    if (i == *count)
        return failure(-ENODEV, "%s has no %s %lu", words[1], words[2], devid);
    u32 domid = g->domid;
    int rc;
    if (g->design->needs_noxs) {
        rc = close_noxs(g, vif ? noxs_dev_vif : noxs_dev_vbd, (u32)devid, force);
    } else {
        scope_open(&s, g);
        scope_device(&s, words[2], (u32)devid);
        rc = close_xs(&s, force);
    }
    if (guest_of(domid) != g)
        return failure(-ESRCH, "%s went before its device", words[1]);
    if (rc == -EAGAIN)
        return failure(rc, "%s does not let go of its %s %lu (force takes it)", words[1], words[2], devid);
    for (--*count; i < *count; i++)
        if (vif)
            g->config.vifs[i] = g->config.vifs[i + 1];
        else
            g->config.vbds[i] = g->config.vbds[i + 1];
    *(vif ? &g->config.nvifs : &g->config.nvbds) = *count;
    if (rc)
        return failure(rc, "%s: not all of its %s %lu could be given back", words[1], words[2], devid);
    printf("detached %s %lu of %s domid %u\n", words[2], devid, words[1], domid);
    return 0;
}
COMMAND(detach, "ID|NAME vif|vbd N [force]", "take a device from a guest that runs", 3, 4, detach);
