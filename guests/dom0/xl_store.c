/* The store's part of a domain as libxl 4.8.1 writes it: libxl_create.c libxl__domain_make, libxl_dom.c libxl__build_pre and _post.
 * Message by message and in its order; what libxl asks for every domain is asked inside the open transaction, but not as part of it.
 */
#include "xl.h"

#define READS "n0 r$d" /* dom0's, the guest may read */
#define OWN "n$d"      /* the guest's own */

static const struct message make_start[] = {
    REMOVE("$h"), WRITE_PERMS("$h", "", READS),
    REMOVE("$v"), WRITE_PERMS("$v", "", READS),
    REMOVE("$l"), WRITE_PERMS("$l", "", "n0"),
    WRITE_PERMS("$l/device", "", "n0"),
    WRITE("$h/vm", "$v"),
};
static const struct message is_stub[] = {DOMAIN_PATH("$d"), READ("$h/image/device-model-domid")};
static const struct message rename_nodes[] = {WRITE("$h/name", "$n"), WRITE("$v/name", "$n")};
static const struct message make_rest[] = {
    WRITE_PERMS("$h/cpu", "", READS), WRITE_PERMS("$h/memory", "", READS), WRITE_PERMS("$h/device", "", READS),
    WRITE_PERMS("$h/control", "", READS),
    WRITE_PERMS("$h/control/shutdown", "", OWN), WRITE_PERMS("$h/control/feature-poweroff", "", OWN),
    WRITE_PERMS("$h/control/feature-reboot", "", OWN), WRITE_PERMS("$h/control/feature-suspend", "", OWN),
    WRITE_PERMS("$h/device/suspend/event-channel", "", OWN), WRITE_PERMS("$h/data", "", OWN), WRITE_PERMS("$h/drivers", "", OWN),
    WRITE_PERMS("$h/feature", "", OWN), WRITE_PERMS("$h/attr", "", OWN),
};
static const struct message make_end[] = {
    WRITE("$v/uuid", "$u"), WRITE("$v/name", "$n"),
    WRITE("$h/control/platform-feature-multiprocessor-suspend", "1"), WRITE("$h/control/platform-feature-xs_reset_watches", "1"),
};
static const struct message device_model_version[] = {WRITE("$l/dm-version", "qemu_xen")};
static const struct message build_pre[] = {
    READ("/tool/xenstored/domid"), READ("/tool/xenconsoled/domid"),
};
static const struct message build_post_before[] = {DOMAIN_PATH("$d"), READ("$h/vm")};
static const struct message build_post_nodes[] = {
    WRITE("$h/memory/static-max", "$M"), WRITE("$h/memory/target", "$T"), WRITE("$h/memory/videoram", "0"), WRITE("$h/domid", "$d"),
    WRITE("$h/store/port", "$P"), WRITE("$h/store/ring-ref", "$R"),
};
static const struct message image_type[] = {WRITE("$v/image/ostype", "linux"), WRITE("$v/image/kernel", "$k"), WRITE("$v/start_time", "$S")};
static const struct message image_cmdline[] = {WRITE("$v/image/cmdline", "$c")};
static const struct message image_ramdisk[] = {WRITE("$v/image/ramdisk", "$r")};
static const struct message introduce[] = {{XS_INTRODUCE, "$d", "$R $P", NULL, false}};

/* libxl_list_domain: 1024 domains a call. */
static s64 list_domains(u32 **domids)
{
    static struct xc_info infos[XC_INFOS]; /* nobody sleeps here */
    s64 n = 0, got;
    u32 first = 0;
    *domids = NULL;
    do {
        got = xc_domain_getinfolist(first, XC_INFOS, infos);
        u32 *longer = got >= 0 ? memory_take((u64)(n + got) * sizeof *longer) : NULL;
        if (longer)
            memcpy(longer, *domids, (u64)n * sizeof *longer);
        memory_release(*domids);
        *domids = longer;
        if (!longer)
            return got < 0 ? got : -ENOMEM;
        for (s64 i = 0; i < got; i++)
            longer[n++] = first = infos[i].domid;
        first++;
    } while (got == XC_INFOS);
    return n;
}

/* The same for a creation, whose failure it is when there is no memory for the list. */
static s64 all_domains(struct guest *g, u32 **domids)
{
    s64 n = list_domains(domids);
    return n < 0 ? guest_fail(g, (int)n, n == -ENOMEM ? "dom0 has no memory left for the list of domains" : "Xen does not list its domains") : n;
}

/* libxl_name_to_domid: is there one of this name? A domain without a name has none. */
static int check_name(struct scope *s)
{
    char path[48];
    u32 *domids;
    s64 n = all_domains(s->guest, &domids);
    int rc = n < 0 ? (int)n : 0;
    for (s64 i = 0; i < n && !rc; i++) {
        snprintf(path, sizeof path, "/local/domain/%u/name", domids[i]);
        int got = store_read(s, path);
        if (got > 0 && !strcmp(s->reply, s->guest->config.name))
            rc = guest_fail(s->guest, -EEXIST, "there is a domain of that name");
        else if (got < 0 && got != -ENOENT)
            rc = got;
    }
    memory_release(domids);
    return rc;
}

/* libxl__domain_rename; its reads are no part of the transaction, its writes are. */
static int rename(struct scope *s)
{
    static const struct message path[] = {DOMAIN_PATH("$d")};
    u32 transaction = s->transaction;
    s->transaction = 0;
    int rc = STORE_SEND(s, path);
    if (!rc)
        rc = STORE_SEND(s, is_stub);
    if (!rc)
        rc = check_name(s);
    s->transaction = transaction;
    return rc ? rc : STORE_SEND(s, rename_nodes);
}

/* libxl_list_vm, whose result is thrown away: a domain that is another one's device model is no VM. */
static int list_vms(struct scope *s)
{
    char text[12], path[48];
    u32 *domids, transaction = s->transaction;
    s64 n = all_domains(s->guest, &domids);
    int rc = n < 0 ? (int)n : 0;
    s->transaction = 0;
    for (s64 i = 0; i < n && !rc; i++) {
        snprintf(text, sizeof text, "%u", domids[i]);
        snprintf(path, sizeof path, "/local/domain/%u/target", domids[i]);
        struct message pair[] = {DOMAIN_PATH(text), READ(path)};
        rc = STORE_SEND(s, pair);
    }
    s->transaction = transaction;
    memory_release(domids);
    return rc;
}

static int make(struct scope *s)
{
    int rc = STORE_SEND(s, make_start);
    if (!rc)
        rc = rename(s);
    if (!rc)
        rc = STORE_SEND(s, make_rest);
    if (!rc)
        rc = list_vms(s);
    return rc ? rc : STORE_SEND(s, make_end);
}

int xl_domain_make(struct guest *g)
{
    static const struct message path[] = {DOMAIN_PATH("$d")};
    struct scope s;
    scope_open(&s, g);
    int rc = STORE_SEND(&s, path);
    if (!rc)
        rc = store_transact(&s, make);
    if (!rc)
        rc = STORE_SEND(&s, device_model_version);
    return rc ? guest_fail(g, rc, "the store refuses the domain's nodes") : 0;
}

/* libxl__destroy_domid's end: /vm, the home, libxl's own. */
int xl_domain_forget(struct guest *g)
{
    static const struct message forget[] = {READ("$h/vm"), REMOVE("$v"), REMOVE("$h"), REMOVE("$l")};
    struct scope s;
    scope_open(&s, g);
    return STORE_SEND(&s, forget);
}

/* The pool of a domain, as libxl looks it up wherever it needs its CPUs or its scheduler: libxl__domain_cpupool, libxl_cpupool_info. */
static int pool_of(struct scope *s, u32 *scheduler)
{
    static const struct message name[] = {READ("/local/pool/0/name")};
    struct xc_info info;
    struct guest *g = s->guest;
    int rc = xc_domain_getinfo(g->domid, &info);
    if (rc || (rc = xc_cpupool_scheduler(0, scheduler)))
        return guest_fail(g, rc, "its CPU pool does not tell of itself");
    return STORE_SEND(s, name);
}

/* numa_place_domain: there is nothing to choose on a host of one node, and no other is known here. */
int xl_build_pre(struct guest *g)
{
    u32 scheduler, nodes;
    struct scope s;
    scope_open(&s, g);
    int rc = pool_of(&s, &scheduler);
    if (!rc && (rc = xc_numa_nodes(&nodes)))
        return guest_fail(g, rc, "Xen does not tell of its nodes");
    if (!rc)
        rc = STORE_SEND(&s, build_pre);
    return rc ? guest_fail(g, rc, "the store does not answer") : 0;
}

/* libxl_domain_sched_params_set: no file here asks for a weight, so that what it has is set again. */
static int schedule(struct scope *s)
{
    struct xc_sched sched;
    int rc = pool_of(s, &sched.scheduler);
    if (!rc && ((rc = xc_sched_get(s->guest->domid, &sched)) || (rc = xc_sched_set(s->guest->domid, &sched))))
        return guest_fail(s->guest, rc, "its weight cannot be set");
    return rc;
}

static int build_nodes(struct scope *s)
{
    const struct config *c = &s->guest->config;
    int rc = STORE_SEND(s, build_post_nodes);
    for (u32 i = 0; i < c->maxvcpus && !rc; i++) {
        char path[32];
        snprintf(path, sizeof path, "$h/cpu/%u/availability", i);
        struct message m = WRITE(path, i < c->vcpus ? "online" : "offline");
        rc = store_message(s, &m);
    }
    if (!rc)
        rc = STORE_SEND(s, image_type);
    if (!rc && c->ramdisk[0])
        rc = STORE_SEND(s, image_ramdisk);
    if (!rc && c->cmdline[0])
        rc = STORE_SEND(s, image_cmdline);
    return rc;
}

int xl_build_post(struct guest *g)
{
    u32 nanoseconds;
    u64 seconds = wall_clock(&nanoseconds);
    struct scope s;
    scope_open(&s, g);
    scope_word(&s, 'M', "%lu", g->config.maxmem_kib);
    scope_word(&s, 'T', "%lu", g->config.memory_kib);
    scope_word(&s, 'P', "%u", g->dom.store_port);
    scope_word(&s, 'R', "%lu", g->dom.store_mfn);
    scope_word(&s, 'S', "%lu.%02u", seconds, nanoseconds / 10000000);
    int rc = schedule(&s);
    if (!rc && (rc = xc_cpuid_apply_policy(g->domid)))
        return guest_fail(g, rc, "Xen refuses what it is to know of its CPU");
    if (!rc)
        rc = STORE_SEND(&s, build_post_before);
    if (!rc)
        rc = store_transact(&s, build_nodes);
    if (!rc)
        rc = STORE_SEND(&s, introduce);
    if (!rc)
        rc = STORE_SEND(&s, device_model_version);
    return rc ? guest_fail(g, rc, "the store refuses what was built") : 0;
}
