/* The pool of shells: domains that have all but what depends on who asks.
 *
 * A flavour is a shape (memory, vCPUs, devices) and how many shells of it are wanted. A creation claims the shell that fits best: one
 * of exactly its shape, else the one with the least too much. Memory too much is given back to Xen page by page before the guest
 * starts (step_adapt), for a guest gets what its configuration says; vCPUs and devices must be those asked for, since what a shell has
 * too many of would be seen by the guest. More than twice the memory is never taken: such a shell is somebody else's, and giving
 * the pages back would cost more than a new domain does.
 *
 * Whatever becomes of a claimed shell, it never comes back: one whose creation fails is destroyed. A while after the last request
 * was served the pool is filled up again, one shell after the other, giving way to a request in between. If the host has no room for one
 * more, that is said once, and tried again after the next request: a shortage may pass.
 */
#include "alarm.h"
#include "design.h"

enum { FLAVOURS = 8, POOL_MOST = 10000, A_WHILE = 50000000 }; /* nanoseconds */
struct flavour {
    const struct design *design;
    struct config shape;
    u32 wanted, there;
    bool short_of;       /* it was said that there are fewer than wanted, and why */
    struct guest *shells;
};
static struct flavour flavours[FLAVOURS]; /* without a design: a free place */
static u32 named;
static struct thread *filler;
static bool filling; /* in the background a shell is being made */
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
    for (u32 i = 0; i < FLAVOURS; i++)
        if (flavours[i].design == d && fits(&flavours[i].shape, c) && flavours[i].shape.memory_kib == c->memory_kib)
            return &flavours[i];
    return NULL;
}

static struct flavour *flavour_new(const struct design *d, const struct config *c)
{
    for (u32 i = 0; i < FLAVOURS; i++)
        if (!flavours[i].design) {
            flavours[i] = (struct flavour){.design = d, .shape = *c};
            return &flavours[i];
        }
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

/* One more shell, or why there is none. */
static int pool_fill_one(struct flavour *f, char *why, u32 size)
{
    struct guest *g = guest_new(f->design, &f->shape);
    if (!g) {
        snprintf(why, size, "dom0 has no memory left");
        return -ENOMEM;
    }
    snprintf(g->config.name, sizeof g->config.name, "[shell-%u]", ++named);
    int rc = guest_run(g, f->design->execute);
    if (rc) {
        snprintf(why, size, "%s", g->dom.error);
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

/* In the background, where no command waits for an answer: it is no refusal of the next one. Whether there may be one more. */
static bool pool_grow(struct flavour *f)
{
    char why[sizeof f->shells->dom.error];
    filling = true;
    int rc = pool_fill_one(f, why, sizeof why);
    filling = false;
    if (rc && !f->short_of)
        printf("pool: %u of %u shells for now: %s (%s)\n", f->there, f->wanted, why, error_name(rc));
    f->short_of = rc != 0;
    return !rc;
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
        for (u32 i = 0; i < FLAVOURS; i++)
            while (flavours[i].there < flavours[i].wanted && !fill_at && !serving && pool_grow(&flavours[i]))
                thread_yield();
    }
}

bool pool_has_flavours(const struct design *d)
{
    for (u32 i = 0; i < FLAVOURS; i++)
        if (flavours[i].design == d)
            return true;
    return false;
}

struct guest *pool_claim(const struct design *d, const struct config *c)
{
    struct flavour *best = NULL;
    for (u32 i = 0; i < FLAVOURS; i++) {
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
    if (c->has_uuid)
        memcpy(g->uuid, c->uuid, sizeof g->uuid);
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
    for (u32 i = 0; i < FLAVOURS; i++)
        if (flavours[i].design)
            printf("%s: %u of %u shells, %lu KiB, %u vCPUs, %u vifs\n", flavours[i].design->name, flavours[i].there, flavours[i].wanted,
               flavours[i].shape.memory_kib, flavours[i].shape.vcpus, flavours[i].shape.nvifs);
    return 0;
}

static int resize(struct flavour *f, u32 wanted)
{
    char why[sizeof f->shells->dom.error];
    u64 all = wanted;
    int rc = 0;
    for (u32 i = 0; i < FLAVOURS; i++)
        all += &flavours[i] == f ? 0 : flavours[i].wanted;
    if (all > POOL_MOST)
        return failure(0, "the pool is full: it holds %d shells at most", POOL_MOST);
    f->wanted = wanted;
    f->short_of = false;
    while (f->there < f->wanted && !rc)
        rc = pool_fill_one(f, why, sizeof why);
    if (rc) {
        f->wanted = f->there;
        failure(rc, "the pool stays at %u shells: %s", f->there, why);
    }
    while (f->there > f->wanted) {
        struct guest *g = take(f);
        int ended = guest_end(g);
        if (ended && !rc) /* of all of them the first: it is one error */
            rc = failure(ended, "%s: not all of it could be given back: %s", g->config.name, g->dom.error);
        guest_free(g);
    }
    if (!rc)
        printf("pool of %u shells\n", f->there);
    if (!f->wanted)
        *f = (struct flavour){0}; /* its place is free for another one */
    return rc;
}

static bool is_quiet(void *arg)
{
    (void)arg;
    return !filling;
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
    while (filling) /* whoever is filling a flavour knows it by its place */
        thread_wait(is_quiet, NULL);
    if (!filler && !(filler = thread_try("pool", pool_refill, NULL)))
        return failure(-ENOMEM, "dom0 has no memory left for the thread that fills the pool");
    struct flavour *f = flavour_of(design_chosen, &c);
    if (!f && !(f = flavour_new(design_chosen, &c)))
        return failure(-ENOSPC, "there are %d flavours already: `pool FILE 0` gives one up", FLAVOURS);
    bool due = fill_at;
    serving = true; /* not two at once */
    fill_at = 0;
    int rc = resize(f, (u32)wanted);
    if (due)
        pool_served();
    serving = false;
    return rc;
}
COMMAND(pool, "[FILE SIZE]", "shells of the shape that FILE asks for", 0, 2, pool);
