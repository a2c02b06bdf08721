/* Guests and the designs that make them: the records, and the shell's commands. */
#include "design.h"

enum { HASH = 4096 };
extern const struct design *const designs_start[], *const designs_end[];
const struct design *design_chosen;
static struct guest *guests[HASH];

/* What the file leaves open is the same in every run: a number of the guests made, from which its UUID and MAC addresses come. */
struct guest *guest_new(const struct design *design, const struct config *c)
{
    static u32 made;
    struct guest *g = memory_take(sizeof *g);
    if (!g)
        return NULL;
    g->design = design;
    g->config = *c;
    made++;
    memcpy(g->uuid, c->has_uuid ? c->uuid : (const u8 *)"pyvmm\0g\x40\x80uest\0\0", 16);
    for (u32 i = 0; i < 4 && !c->has_uuid; i++)
        g->uuid[12 + i] = (u8)(made >> (24 - 8 * i));
    for (u32 i = 0; i < c->nvifs; i++) {
        struct vif_config *v = &g->config.vifs[i];
        if (v->has_mac)
            continue;
        u32 tail = made << 3 | (i & 7); /* Xen's own range of addresses, 00:16:3e */
        memcpy(v->mac, "\x00\x16\x3e", 3);
        for (u32 k = 0; k < 3; k++)
            v->mac[3 + k] = (u8)(tail >> (16 - 8 * k));
        v->has_mac = true;
    }
    return g;
}

void guest_add(struct guest *g)
{
    g->next_same = guests[g->domid % HASH];
    guests[g->domid % HASH] = g;
}

void guest_free(struct guest *g)
{
    struct guest **at = &guests[g->domid % HASH];
    while (*at && *at != g)
        at = &(*at)->next_same;
    if (*at)
        *at = g->next_same;
    dom_free(&g->dom);
    memory_release(g);
}

struct guest *guest_of(u32 domid)
{
    struct guest *g = guests[domid % HASH];
    while (g && g->domid != domid)
        g = g->next_same;
    return g;
}

struct guest *guest_find(const char *name)
{
    u64 domid;
    if (number_of(name, &domid))
        return guest_of((u32)domid);
    for (u32 i = 0; i < HASH; i++)
        for (struct guest *g = guests[i]; g; g = g->next_same)
            if (!strcmp(g->config.name, name))
                return g;
    return NULL;
}

int guest_fail(struct guest *g, int rc, const char *what)
{
    if (!g->dom.error[0])
        snprintf(g->dom.error, sizeof g->dom.error, "%s", what);
    return rc;
}

int guest_end(struct guest *g)
{
    int first = 0;
    g->ending = true;
    while (g->done) {
        const struct phase *p = &g->design->phases[--g->done];
        int rc = p->undo ? p->undo(g) : 0;
        if (rc && !first)
            first = guest_fail(g, rc, p->name);
    }
    return first;
}

int guest_run(struct guest *g, u32 end)
{
    while (g->done < end && g->design->phases[g->done].name) {
        const struct phase *p = &g->design->phases[g->done++];
        int rc = p->run(g);
        if (!rc)
            continue;
        guest_fail(g, rc, p->name);
        guest_end(g);
        return rc;
    }
    return 0;
}

static int design(u32 n, char **words)
{
    for (const struct design *const *at = designs_start; at < designs_end; at++) {
        const struct design *d = *at;
        if (n == 1) {
            printf("%c %-15s %s\n", d == design_chosen ? '*' : ' ', d->name, d->summary);
            continue;
        }
        if (strcmp(d->name, words[1]))
            continue;
        if (d->needs_noxs && !xc_devctl_present())
            return failure(-ENOSYS, "%s needs noxs, and this Xen does not know hypercall 41", d->name);
        if (d->needs_xenstore && !xenstore_usable())
            return failure(-ENODEV, "%s needs a XenStore: `store c` or `store o` starts one", d->name);
        design_chosen = d;
        return 0;
    }
    return n == 1 ? 0 : failure(-ENOENT, "no design %s", words[1]);
}
COMMAND(design, "[NAME]", "choose how guests are made", 0, 1, design);

int guest_create(const struct design *d, const struct config *c)
{
    if (!d)
        return failure(0, "no design is chosen: `design` lists them");
    if (c->method && d->needs_noxs != (c->method[0] == 'n'))
        return failure(0, "%s: it is to meet its devices over %s, and %s does not", c->path, c->method, d->name);
    struct guest *g = d->shells ? pool_claim(d, c) : NULL;
    bool shell = g != NULL;
    if (!g && !(g = guest_new(d, c))) {
        pool_served();
        return failure(-ENOMEM, "%s: dom0 has no memory left", c->name);
    }
    int rc = guest_run(g, ALL_PHASES);
    pool_served();
    if (rc) {
        failure(rc, "%s: %s", c->name, g->dom.error[0] ? g->dom.error : "it cannot be made");
        guest_free(g);
        return rc;
    }
    if (!shell)
        guest_add(g);
    printf("created %s domid %u%s\n", c->name, g->domid, !shell && pool_has_flavours(d) ? " (no shell fitted)" : "");
    return 0;
}

static int create(u32 n, char **words)
{
    char error[600];
    struct config c;
    const struct file *file = file_find(words[1]);
    if (!file)
        return failure(-ENOENT, "no file %s", words[1]);
    if (config_parse(words[1], (const char *)file->data, file->size, &c, error, sizeof error))
        return failure(0, "%s", error);
    if (n > 2 && strlen(words[2]) >= sizeof c.name)
        return failure(0, "a name has at most %lu bytes", sizeof c.name - 1);
    if (n > 2)
        snprintf(c.name, sizeof c.name, "%s", words[2]);
    return guest_create(design_chosen, &c);
}
COMMAND(create, "FILE [NAME]", "make a guest from a configuration", 1, 2, create);

static int destroy(u32 n, char **words)
{
    struct guest *g = guest_find(words[1]);
    (void)n;
    if (!g || g->pooled)
        return failure(-ESRCH, "no guest %s", words[1]);
    if (g->ending)
        return failure(-EBUSY, "%s is being ended already", words[1]);
    u32 domid = g->domid;
    int rc = guest_end(g);
    if (rc)
        failure(rc, "%s: not all of it could be given back: %s", words[1], g->dom.error);
    printf("destroyed %s domid %u\n", g->config.name, domid);
    guest_free(g);
    return rc;
}
COMMAND(destroy, "ID|NAME", "end a guest at once", 1, 1, destroy);

static int halt(u32 n, char **words)
{
    static const char *const reasons[] = {"poweroff", "reboot", "suspend"};
    struct guest *g = guest_find(words[1]);
    if (!g || g->pooled)
        return failure(-ESRCH, "no guest %s", words[1]);
    for (u32 i = 0; i < COUNT(reasons); i++)
        if (!strcmp(reasons[i], n > 2 ? words[2] : "poweroff")) {
            u32 domid = g->domid;
            if (!g->design->shutdown)
                return failure(-EOPNOTSUPP, "%s has no way to ask a guest", g->design->name);
            int rc = g->design->shutdown(g, i); /* afterwards the guest may be gone */
            if (rc)
                return failure(rc, "%s cannot be asked", words[1]);
            printf("asked %s domid %u to %s\n", words[1], domid, reasons[i]);
            return 0;
        }
    return failure(0, "reasons are poweroff, reboot and suspend");
}
COMMAND(shutdown, "ID|NAME [REASON]", "ask a guest to end", 1, 2, halt);

static int list(u32 n, char **words)
{
    struct xc_info infos[32];
    u32 first = 0;
    s64 got;
    (void)n, (void)words;
    while ((got = xc_domain_getinfolist(first, COUNT(infos), infos)) > 0) {
        for (s64 i = 0; i < got; i++) {
            struct guest *g = guest_of(infos[i].domid);
            u32 f = infos[i].flags;
            printf("%5u %-20s %8lu KiB %3u vCPUs %c%c%c%c%c%c %s\n", infos[i].domid, g ? g->config.name : !infos[i].domid ? "dom0" : infos[i].domid == store_domid ? "xenstore" : "?",
                   infos[i].tot_pages * 4, infos[i].vcpus, f & 32 ? 'r' : '-', f & 16 ? 'b' : '-', f & 8 ? 'p' : '-', f & 4 ? 's' : '-',
                   f & 4 && infos[i].shutdown_reason == SHUTDOWN_crash ? 'c' : '-', f & 1 ? 'd' : '-', g ? g->design->name : "");
        }
        first = infos[got - 1].domid + 1;
    }
    return got < 0 ? failure((int)got, "Xen does not tell") : 0;
}
COMMAND(list, "", "all domains", 0, 0, list);

static int devices(u32 n, char **words)
{
    (void)n, (void)words;
    backends_report();
    return 0;
}
COMMAND(devices, "", "what the back ends here serve", 0, 0, devices);
