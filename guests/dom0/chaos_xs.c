/* chaos over the XenStore, message by message as libh2 sends them (lib/h2/xen/xs.c), with and without prepared shells. No name is
 * checked, no back end is waited for; what the bridge needs is done by the back end on its own.
 */
#include "messages.h"

static const struct message domain_path[] = {DOMAIN_PATH("$d")}, backend_path[] = {DOMAIN_PATH("$e")};
static const struct message domain_nodes[] = {
    MAKE("$h", "n0 r$d"), MAKE("$h/data", "n$d"), MAKE("$h/control/shutdown", "n$d"), WRITE("$h/name", "$n"), WRITE("$h/domid", "$d"),
};
static const struct message vif_front[] = {
    MAKE("$f", "n$d r$e"), WRITE("$f/backend", "$b"), WRITE("$f/backend-id", "$e"), WRITE("$f/state", "1"), WRITE("$f/handle", "$i"),
    WRITE("$f/mac", "$m"),
};
static const struct message vif_back[] = {
    MAKE("$b", "n$e r$d"), WRITE("$b/frontend", "$f"), WRITE("$b/frontend-id", "$d"), WRITE("$b/online", "1"), WRITE("$b/bridge", "$g"),
    WRITE("$b/ip", "$a"), WRITE("$b/handle", "$i"), WRITE("$b/mac", "$m"), WRITE("$b/state", "1"), WRITE("$b/type", "vif"),
    WRITE("$b/hotplug-status", ""), WRITE("$b/script", ""),
};
static const struct message vbd_nodes[] = {
    MAKE("$f", "n$d r$e"), WRITE("$f/backend", "$b"), WRITE("$f/backend-id", "$e"), WRITE("$f/state", "1"),
    MAKE("$b", "n$e r$d"), WRITE("$b/toolstack", "chaos"), WRITE("$b/frontend", "$f"), WRITE("$b/frontend-id", "$d"), WRITE("$b/online", "1"),
    WRITE("$b/state", "1"), WRITE("$b/params", "$t"), WRITE("$b/type", "$y"), WRITE("$b/dev", "$x"), WRITE("$b/mode", "$o"),
    WRITE("$b/hotplug-status", ""), WRITE("$b/script", ""),
};
static const struct message console_nodes[] = {
    MAKE("$h/console", "n$d"), WRITE("$h/console/type", "xenconsoled"), WRITE("$h/console/ring-ref", "$R"), WRITE("$h/console/port", "$P"),
};
static const struct message introduce[] = {{XS_INTRODUCE, "$d", "$R $P", NULL, false}};

static int reserve(struct guest *g)
{
    return step_reserve(g, true, true);
}

static int add_domain(struct guest *g)
{
    struct scope s;
    scope_open(&s, g);
    int rc = STORE_SEND(&s, domain_path);
    if (!rc)
        rc = store_transact_list(&s, domain_nodes, COUNT(domain_nodes));
    return rc ? guest_fail(g, rc, "the store refuses the domain's nodes") : 0;
}

static int vif_body(struct scope *s)
{
    int rc = STORE_SEND(s, vif_front);
    return rc ? rc : STORE_SEND(s, vif_back);
}

static int add_devices(struct guest *g)
{
    struct scope s;
    int rc = 0;
    scope_open(&s, g);
    for (; g->nvifs < g->config.nvifs && !rc; g->nvifs++) {
        scope_vif(&s, &g->config.vifs[g->nvifs]);
        if (!(rc = STORE_SEND(&s, backend_path)))
            rc = store_transact(&s, vif_body);
    }
    for (; g->nvbds < g->config.nvbds && !rc; g->nvbds++) {
        if (!g->config.vbds[g->nvbds].raw)
            return guest_fail(g, -EOPNOTSUPP, "its disk is of a format that no back end here knows");
        scope_vbd(&s, &g->config.vbds[g->nvbds]);
        if (!(rc = STORE_SEND(&s, backend_path)))
            rc = store_transact_list(&s, vbd_nodes, COUNT(vbd_nodes));
    }
    return rc ? guest_fail(g, rc, "the store refuses a device's nodes") : 0;
}

/* What was asked for, into a shell's nodes. The original leaves a shell's name, addresses and bridge as they are. */
static int configure_body(struct scope *s)
{
    static const struct message name[] = {WRITE("$h/name", "$n")};
    static const struct message vif[] = {WRITE("$f/mac", "$m"), WRITE("$b/mac", "$m"), WRITE("$b/bridge", "$g"), WRITE("$b/ip", "$a")};
    const struct guest *g = s->guest;
    int rc = STORE_SEND(s, name);
    for (u32 i = 0; i < g->nvifs && !rc; i++) {
        scope_vif(s, &g->config.vifs[i]);
        rc = STORE_SEND(s, vif);
    }
    return rc;
}

static int configure(struct guest *g)
{
    struct scope s;
    if (!g->shell)
        return 0;
    int rc = step_adapt(g);
    if (rc)
        return rc;
    scope_open(&s, g);
    rc = store_transact(&s, configure_body);
    return rc ? guest_fail(g, rc, "the store refuses the shell's new nodes") : 0;
}

static int add_console(struct guest *g)
{
    struct scope s;
    scope_open(&s, g);
    scope_word(&s, 'P', "%u", g->dom.console_port);
    scope_word(&s, 'R', "%lu", g->dom.console_mfn);
    int rc = store_transact_list(&s, console_nodes, COUNT(console_nodes));
    return rc ? guest_fail(g, rc, "the store refuses its console") : 0;
}

static int introduced(struct guest *g)
{
    struct scope s;
    scope_open(&s, g);
    scope_word(&s, 'P', "%u", g->dom.store_port);
    scope_word(&s, 'R', "%lu", g->dom.store_mfn);
    int rc = STORE_SEND(&s, introduce);
    return rc ? guest_fail(g, rc, "the store does not take the domain in") : 0;
}

static int remove_domain(struct guest *g)
{
    static const struct message nodes[] = {REMOVE("$h")};
    struct scope s;
    scope_open(&s, g);
    return STORE_SEND(&s, nodes);
}

/* Where the back end's nodes are is asked of the front end's; this toolstack knows it all the same. What a directory of a domain's
 * devices held is removed with the last of them. */
static int remove_one(struct scope *s, const char *above)
{
    static const struct message where[] = {READ("$f/backend")}, both[] = {REMOVE("$f"), REMOVE("$b")};
    struct message last = REMOVE(above);
    int rc = STORE_SEND(s, where);
    if (!rc)
        rc = store_transact_list(s, both, COUNT(both));
    return rc || !above ? rc : store_message(s, &last);
}

static int remove_devices(struct guest *g)
{
    struct scope s;
    int first = 0, rc;
    scope_open(&s, g);
    while (g->nvbds) {
        scope_vbd(&s, &g->config.vbds[--g->nvbds]);
        rc = remove_one(&s, g->nvbds ? NULL : "/local/domain/0/backend/vbd/$d");
        first = first ? first : rc;
    }
    while (g->nvifs) {
        scope_vif(&s, &g->config.vifs[--g->nvifs]);
        rc = remove_one(&s, g->nvifs ? NULL : "/local/domain/0/backend/vif/$d");
        first = first ? first : rc;
    }
    return first;
}

/* h2_xen_domain_shutdown without its wait */
static int ask(struct guest *g, u32 reason)
{
    static const char *const words[] = {"poweroff", "reboot", "suspend"};
    struct message request[] = {WRITE("$h/control/shutdown", words[reason])};
    struct scope s;
    scope_open(&s, g);
    return store_transact_list(&s, request, COUNT(request));
}

static const struct phase phases[] = {
    {"reserve", reserve, undo_reserve},
    {"store", add_domain, remove_domain},
    {"devices", add_devices, remove_devices},
    {"configure", configure, NULL},
    {"load", step_load, NULL},
    {"console", add_console, NULL},
    {"introduce", introduced, NULL},
    {"run", step_run, NULL},
    {0},
};
DESIGN(chaos_xs, "chaos-xs", "chaos over the XenStore", .needs_xenstore = true, .phases = phases, .shutdown = ask);
DESIGN(chaos_xs_split, "chaos-xs-split", "the same with prepared shells", .needs_xenstore = true, .phases = phases, .shutdown = ask,
       .shells = true, .execute = 3);
