/* A toolstack design: how a guest comes to be, and to its end. One C file defines one `struct design` with DESIGN, and it is in the
 * table: the shell's `design NAME` chooses it. What the designs share is here too: guests, and the steps of a creation.
 */
#pragma once
#include "backend.h"
#include "build.h"
#include "config.h"
#include "files.h"
#include "shell.h"

struct design;
struct guest {
    u32 domid;
    const struct design *design;
    struct config config;
    struct dom dom;
    bool built, sysctl;           /* it has what dom_memory gives; it has a sysctl device */
    u32 nvifs, nvbds;             /* devices made, of those in config */
    struct guest *next_same, *next_free; /* by domid; in a pool */
    void *own;                    /* the design's */
};

struct design {
    const char *name, *summary;
    bool needs_xenstore, needs_noxs, shells;
    int (*create)(struct guest *g);    /* of g->config; 0 or a negative errno with g->dom.error; undoes itself */
    int (*destroy)(struct guest *g);   /* whatever there is of it */
    int (*shutdown)(struct guest *g, u32 reason);
    int (*prepare)(struct guest *g);   /* a shell of g->config's shape; NULL: the design has none */
    int (*execute)(struct guest *g);   /* the rest of a creation, on a shell */
};
#define DESIGN(identifier, ...) \
    static const struct design identifier = {__VA_ARGS__}; \
    static const struct design *const identifier##_at __attribute__((used, section(".designs"))) = &identifier

/* design.c */
struct guest *guest_new(const struct design *design, const struct config *c); /* NULL: no memory */
void guest_add(struct guest *g);      /* its domid is known now */
void guest_free(struct guest *g);     /* the record; the domain is gone */
struct guest *guest_find(const char *name_or_domid);
int guest_fail(struct guest *g, int rc, const char *what); /* unless something said more already; returns rc */

/* steps.c: the steps of a creation, in libh2's order. Each is 0 or a negative errno with the cause in g->dom.error. */
int step_reserve(struct guest *g, bool console, bool store); /* the domain, its vCPUs, its memory */
int step_noxs_devices(struct guest *g);   /* sysctl and vifs, on the device page */
int step_noxs_configure(struct guest *g); /* what was asked for, into devices that are there already */
int step_load(struct guest *g);           /* kernel, ramdisk, page tables, first registers */
int step_run(struct guest *g);            /* unless it is to stay paused */
void undo_noxs_devices(struct guest *g);
int undo_reserve(struct guest *g);
extern u32 store_domid;                   /* where the XenStore is; 0: here or nowhere */

/* pool.c */
struct guest *pool_claim(const struct design *d, const struct config *c); /* NULL: no shell fits */
