/* Guests and the designs that make them: the records, and the shell's commands. */
#include "design.h"

enum { HASH = 4096 };
extern const struct design *const designs_start[], *const designs_end[];
const struct design *design_chosen;
static struct guest *guests[HASH];

struct guest *guest_new(const struct design *design, const struct config *c)
{
    struct guest *g = memory_take(sizeof *g);
    if (!g)
        return NULL;
    g->design = design;
    g->config = *c;
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

struct guest *guest_find(const char *name)
{
    u64 domid;
    if (number_of(name, &domid)) {
        struct guest *g = guests[domid % HASH];
        while (g && g->domid != domid)
            g = g->next_same;
        return g;
    }
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

static int create(u32 n, char **words)
{
    char error[160];
    struct config c;
    (void)n;
    if (!design_chosen)
        return failure(0, "no design is chosen");
    const struct file *file = file_find(words[1]);
    if (!file)
        return failure(-ENOENT, "no file %s", words[1]);
    if (config_parse(words[1], (const char *)file->data, file->size, &c, error, sizeof error))
        return failure(0, "%s", error);
    if (n > 2)
        snprintf(c.name, sizeof c.name, "%s", words[2]);
    if (!c.name[0])
        return failure(0, "%s: name is missing", words[1]);
    struct guest *g = design_chosen->execute ? pool_claim(design_chosen, &c) : NULL;
    bool shell = g != NULL;
    if (!g && !(g = guest_new(design_chosen, &c)))
        return failure(-ENOMEM, "%s: dom0 has no memory left", c.name);
    int rc = shell ? design_chosen->execute(g) : design_chosen->create(g);
    if (rc) {
        failure(rc, "%s: %s", c.name, g->dom.error[0] ? g->dom.error : "it cannot be made");
        guest_free(g);
        return rc;
    }
    if (!shell)
        guest_add(g);
    printf("created %s domid %u%s\n", c.name, g->domid, design_chosen->execute && !shell ? " (no shell fitted)" : "");
    return 0;
}
COMMAND(create, "FILE [NAME]", "make a guest from a configuration", 1, 2, create);

static int destroy(u32 n, char **words)
{
    struct guest *g = guest_find(words[1]);
    (void)n;
    if (!g)
        return failure(-ESRCH, "no guest %s", words[1]);
    u32 domid = g->domid;
    int rc = g->design->destroy(g);
    if (rc)
        return failure(rc, "%s cannot be destroyed", words[1]);
    printf("destroyed %s domid %u\n", g->config.name, domid);
    guest_free(g);
    return 0;
}
COMMAND(destroy, "ID|NAME", "end a guest at once", 1, 1, destroy);

static int halt(u32 n, char **words)
{
    static const char *const reasons[] = {"poweroff", "reboot", "suspend"};
    struct guest *g = guest_find(words[1]);
    if (!g)
        return failure(-ESRCH, "no guest %s", words[1]);
    for (u32 i = 0; i < COUNT(reasons); i++)
        if (!strcmp(reasons[i], n > 2 ? words[2] : "poweroff")) {
            int rc = g->design->shutdown(g, i);
            if (rc)
                return failure(rc, "%s cannot be asked", words[1]);
            printf("asked %s domid %u to %s\n", g->config.name, g->domid, reasons[i]);
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
            char domid[12];
            snprintf(domid, sizeof domid, "%u", infos[i].domid);
            struct guest *g = guest_find(domid);
            u32 f = infos[i].flags;
            printf("%5u %-20s %8lu KiB %3u vCPUs %c%c%c%c%c %s\n", infos[i].domid, g ? g->config.name : infos[i].domid ? "?" : "dom0",
                   infos[i].tot_pages * 4, infos[i].vcpus, f & 32 ? 'r' : '-', f & 16 ? 'b' : '-', f & 8 ? 'p' : '-', f & 4 ? 's' : '-',
                   f & 1 ? 'd' : '-', g ? g->design->name : "");
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
