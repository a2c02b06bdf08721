/* The pool of shells: domains that have all but what depends on who asks.
 *
 * A flavour is a shape (memory, vCPUs, devices) and how many shells of it are wanted. A creation claims the shell that fits best: one
 * of exactly its shape, else the one with the least too much. Memory too much is given back to Xen page by page before the guest
 * starts (step_trim), for a guest gets what its configuration says; vCPUs and devices must be those asked for, since what a shell has
 * too many of would be seen by the guest. More than twice the memory is never taken: such a shell is somebody else's, and giving
 * the pages back would cost more than a new domain does.
 *
 * Whatever becomes of a claimed shell, it never comes back: one whose creation fails is destroyed. A while after the last request
 * was served the pool is filled up again, one shell after the other, giving way to a request in between.
 */
#include "alarm.h"
#include "design.h"

enum { FLAVOURS = 8, POOL_MOST = 10000, A_WHILE = 50000000 }; /* nanoseconds */
struct flavour {
    const struct design *design;
    struct config shape;
    u32 wanted, there;
    struct guest *shells;
};
static struct flavour flavours[FLAVOURS];
static u32 nflavours, named;
static struct thread *filler;
static u64 fill_at;  /* 0: there is no need to, or a request is being served */
static bool serving;

static bool same_devices(const struct config *a, const struct config *b)
{
    if (a->nvifs != b->nvifs || a->nvbds || b->nvbds || a->no_sysctl != b->no_sysctl)
        return false; /* a disk is what it holds: none can be made before it is known which */
    for (u32 i = 0; i < a->nvifs; i++)
        if (a->vifs[i].devid != b->vifs[i].devid)
            return false;
    return true;
}

static bool fits(const struct config *shell, const struct config *c)
{
    return same_devices(shell, c) && shell->maxvcpus == c->maxvcpus && shell->vcpus == c->vcpus && shell->memory_kib >= c->memory_kib &&
           shell->memory_kib / 2 <= c->memory_kib;
}

static struct flavour *flavour_of(const struct design *d, const struct config *c)
{
    for (u32 i = 0; i < nflavours; i++)
        if (flavours[i].design == d && fits(&flavours[i].shape, c) && flavours[i].shape.memory_kib == c->memory_kib)
            return &flavours[i];
    return NULL;
}

static struct guest *take(struct flavour *f)
{
    struct guest *g = f->shells;
    f->shells = g->next_free;
    g->next_free = NULL;
    g->pooled = false;
    f->there--;
    return g;
}

/* One more shell. A refusal is said once; the flavour then wants no more than it has. */
static int pool_fill_one(struct flavour *f)
{
    struct guest *g = guest_new(f->design, &f->shape);
    if (!g)
        return failure(-ENOMEM, "the pool stays at %u shells: dom0 has no memory left", f->wanted = f->there);
    snprintf(g->config.name, sizeof g->config.name, "[shell-%u]", ++named);
    int rc = guest_run(g, f->design->execute);
    if (rc) {
        f->wanted = f->there;
        failure(rc, "the pool stays at %u shells: %s", f->there, g->dom.error);
        guest_free(g);
        return rc;
    }
    guest_add(g);
    g->shell = g->pooled = true;
    g->next_free = f->shells;
    f->shells = g;
    f->there++;
    return 0;
}

static void pool_refill(void *arg)
{
    struct alarm a;
    (void)arg;
    for (;;) {
        while (!fill_at)
            thread_sleep();
        for (u64 when; (when = fill_at) > now();) {
            alarm_set(&a, when);
            while (!a.rung)
                thread_sleep();
        }
        if (!fill_at)
            continue;
        fill_at = 0;
        for (u32 i = 0; i < nflavours; i++)
            while (flavours[i].there < flavours[i].wanted && !fill_at && !serving && !pool_fill_one(&flavours[i]))
                thread_yield();
    }
}

bool pool_has_flavours(const struct design *d)
{
    for (u32 i = 0; i < nflavours; i++)
        if (flavours[i].design == d)
            return true;
    return false;
}

struct guest *pool_claim(const struct design *d, const struct config *c)
{
    struct flavour *best = NULL;
    for (u32 i = 0; i < nflavours; i++) {
        struct flavour *f = &flavours[i];
        if (f->design == d && fits(&f->shape, c) && f->shells && (!best || f->shape.memory_kib < best->shape.memory_kib))
            best = f;
    }
    serving = pool_has_flavours(d);
    if (serving)
        fill_at = 0;
    if (!best)
        return NULL;
    struct guest *g = take(best);
    struct config old = g->config;
    g->config = *c;
    for (u32 i = 0; i < c->nvifs; i++) /* an address that nobody asked for stays the shell's */
        if (!c->vifs[i].has_mac) {
            memcpy(g->config.vifs[i].mac, old.vifs[i].mac, sizeof old.vifs[i].mac);
            g->config.vifs[i].has_mac = true;
        }
    return g;
}

/* Used or missed: the pool is looked at again. */
void pool_served(void)
{
    if (!serving)
        return;
    serving = false;
    fill_at = now() + A_WHILE;
    thread_wake(filler);
}

static int report(void)
{
    for (u32 i = 0; i < nflavours; i++)
        printf("%s: %u of %u shells, %lu KiB, %u vCPUs, %u vifs\n", flavours[i].design->name, flavours[i].there, flavours[i].wanted,
               flavours[i].shape.memory_kib, flavours[i].shape.vcpus, flavours[i].shape.nvifs);
    return 0;
}

static int resize(struct flavour *f, u32 wanted)
{
    u64 all = wanted;
    for (u32 i = 0; i < nflavours; i++)
        all += &flavours[i] == f ? 0 : flavours[i].wanted;
    if (all > POOL_MOST)
        return failure(0, "the pool is full: it holds %d shells at most", POOL_MOST);
    f->wanted = wanted;
    while (f->there < f->wanted) {
        int rc = pool_fill_one(f);
        if (rc)
            return rc;
    }
    while (f->there > f->wanted) {
        struct guest *g = take(f);
        guest_end(g);
        guest_free(g);
    }
    printf("pool of %u shells\n", f->there);
    return 0;
}

static int pool(u32 n, char **words)
{
    char error[600];
    struct config c;
    u64 wanted;
    if (n == 1)
        return report();
    const struct file *file = file_find(words[1]);
    if (!file)
        return failure(-ENOENT, "no file %s", words[1]);
    if (n < 3 || !number_of(words[2], &wanted) || wanted > POOL_MOST)
        return failure(0, "how many shells? From 0 to %d", POOL_MOST);
    if (!design_chosen || !design_chosen->shells)
        return failure(0, "the design chosen has no shells");
    if (config_parse(words[1], (const char *)file->data, file->size, &c, error, sizeof error))
        return failure(0, "%s", error);
    if (c.nvbds)
        return failure(0, "%s: a shell has no disks", words[1]);
    struct flavour *f = flavour_of(design_chosen, &c);
    if (!f && nflavours == FLAVOURS)
        return failure(-ENOSPC, "there are %d flavours already", FLAVOURS);
    if (!f) {
        f = &flavours[nflavours++];
        *f = (struct flavour){.design = design_chosen, .shape = c};
    }
    if (!filler)
        filler = thread_start("pool", pool_refill, NULL);
    return resize(f, (u32)wanted);
}
COMMAND(pool, "[FILE SIZE]", "shells of the shape that FILE asks for", 0, 2, pool);
