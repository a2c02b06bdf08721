/* The pool of shells: domains that have all but a kernel. A flavour is a shape (memory, vCPUs, devices) and how many shells of it
 * are wanted. A creation claims a shell of exactly its shape, so that nothing has to be trimmed; a while after the last request the
 * pool is filled up again, one shell after the other, and gives way to a request in between.
 */
#include "design.h"

enum { FLAVOURS = 8, A_WHILE = 10000000 }; /* nanoseconds */
struct flavour {
    const struct design *design;
    struct config shape;
    u32 wanted, there;
    struct guest *shells;
};
static struct flavour flavours[FLAVOURS];
static u32 nflavours, named;
static struct thread *filler;
static u64 fill_at;

static bool same_shape(const struct config *a, const struct config *b)
{
    return a->memory_kib == b->memory_kib && a->vcpus == b->vcpus && a->nvifs == b->nvifs && a->nvbds == b->nvbds &&
           a->no_sysctl == b->no_sysctl;
}

static struct flavour *flavour_of(const struct design *d, const struct config *c)
{
    for (u32 i = 0; i < nflavours; i++)
        if (flavours[i].design == d && same_shape(&flavours[i].shape, c))
            return &flavours[i];
    return NULL;
}

/* One more shell. A refusal is said once; the flavour then wants no more than it has. */
static int pool_fill_one(struct flavour *f)
{
    struct guest *g = guest_new(f->design, &f->shape);
    if (!g)
        return failure(-ENOMEM, "no memory left for another shell");
    snprintf(g->config.name, sizeof g->config.name, "[shell-%u]", ++named);
    int rc = f->design->prepare(g);
    if (rc) {
        f->wanted = f->there;
        failure(rc, "the pool stays at %u shells: %s", f->there, g->dom.error);
        guest_free(g);
        return rc;
    }
    guest_add(g);
    g->next_free = f->shells;
    f->shells = g;
    f->there++;
    return 0;
}

static void pool_refill(void *arg)
{
    (void)arg;
    for (;;) {
        while (!fill_at)
            thread_sleep();
        while (now() < fill_at)
            sleep_quietly(fill_at);
        fill_at = 0;
        for (u32 i = 0; i < nflavours; i++)
            while (flavours[i].there < flavours[i].wanted && !fill_at && !pool_fill_one(&flavours[i]))
                thread_yield();
    }
}

struct guest *pool_claim(const struct design *d, const struct config *c)
{
    struct flavour *f = flavour_of(d, c);
    if (!f || !f->shells)
        return NULL;
    struct guest *g = f->shells;
    f->shells = g->next_free;
    g->next_free = NULL;
    f->there--;
    for (u32 i = 0; i < g->nvifs; i++) /* the devices keep their numbers: they are known by them */
        if (g->config.vifs[i].devid != c->vifs[i].devid)
            panic("a shell of another shape was claimed");
    g->config = *c;
    fill_at = now() + A_WHILE;
    thread_wake(filler);
    return g;
}

static int pool(u32 n, char **words)
{
    char error[160];
    struct config c;
    u64 wanted;
    extern const struct design *design_chosen;
    if (n == 1) {
        for (u32 i = 0; i < nflavours; i++)
            printf("%s: %u of %u shells, %lu KiB, %u vCPUs, %u vifs\n", flavours[i].design->name, flavours[i].there,
                   flavours[i].wanted, flavours[i].shape.memory_kib, flavours[i].shape.vcpus, flavours[i].shape.nvifs);
        return 0;
    }
    const struct file *file = file_find(words[1]);
    if (!file)
        return failure(-ENOENT, "no file %s", words[1]);
    if (n < 3 || !number_of(words[2], &wanted) || wanted > 10000)
        return failure(0, "how many shells? From 0 to 10000");
    if (!design_chosen || !design_chosen->prepare)
        return failure(0, "the design chosen has no shells");
    if (config_parse(words[1], (const char *)file->data, file->size, &c, error, sizeof error))
        return failure(0, "%s", error);
    struct flavour *f = flavour_of(design_chosen, &c);
    if (!f && nflavours == FLAVOURS)
        return failure(-ENOSPC, "there are %d flavours already", FLAVOURS);
    if (!f) {
        f = &flavours[nflavours++];
        *f = (struct flavour){.design = design_chosen, .shape = c};
    }
    if (!filler)
        filler = thread_start("pool", pool_refill, NULL);
    f->wanted = (u32)wanted;
    while (f->there < f->wanted)
        if (pool_fill_one(f))
            return -ENOMEM;
    while (f->there > f->wanted) {
        struct guest *g = f->shells;
        f->shells = g->next_free;
        f->there--;
        g->design->destroy(g);
        guest_free(g);
    }
    printf("pool of %u shells\n", f->there);
    return 0;
}
COMMAND(pool, "[FILE SIZE]", "shells of the shape that FILE asks for", 0, 2, pool);
