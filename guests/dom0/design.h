/* A toolstack design: how a guest comes to be, and to its end.
 *
 * A design is a table of phases. A creation runs them one after the other; what a phase did, its undo takes back. If one fails,
 * those before it are undone, the last one first; the end of a guest is the same from its last phase on. With `shells` the phases
 * before `execute` are run beforehand, for a guest that nobody has asked for yet: the pool keeps such shells.
 *
 * One C file defines one `struct design` with DESIGN, and it is in the table: the shell's `design NAME` chooses it.
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
    u32 done;                     /* phases that are to be undone */
    bool built, sysctl;           /* there is a domain; it has a sysctl device */
    bool shell, pooled, ending;   /* it was one of the pool; it is one; somebody is ending it */
    u32 nvifs, nvbds;             /* devices made, of those in config */
    u64 limit_kib;                /* what Xen lets it have, less some slack */
    u8 uuid[16];
    struct guest *next_same, *next_free; /* by domid; in a pool */
    void *own;                    /* the design's */
};

/* 0, or a negative errno with the cause in g->dom.error. A phase that fails undoes what it began itself, or leaves that to its own
 * undo, which is called for it too. */
struct phase { const char *name; int (*run)(struct guest *g); int (*undo)(struct guest *g); };
struct design {
    const char *name, *summary;
    bool needs_xenstore, needs_noxs;
    bool shells;                  /* the phases before `execute` make a shell */
    u32 execute;                  /* the first phase that needs to know what was asked for */
    const struct phase *phases;   /* up to one without a name */
    int (*shutdown)(struct guest *g, u32 reason); /* SHUTDOWN_poweroff, _reboot, _suspend: ask the guest */
};
#define DESIGN(identifier, ...) \
    static const struct design identifier = {__VA_ARGS__}; \
    static const struct design *const identifier##_at __attribute__((used, section(".designs"))) = &identifier

/* design.c */
extern const struct design *design_chosen;
struct guest *guest_new(const struct design *design, const struct config *c); /* NULL: no memory */
void guest_add(struct guest *g);      /* its domid is known now */
void guest_free(struct guest *g);     /* the record; the domain is gone */
struct guest *guest_find(const char *name_or_domid);
struct guest *guest_of(u32 domid);
int guest_fail(struct guest *g, int rc, const char *what); /* unless something said more already; returns rc */
int guest_run(struct guest *g, u32 end); /* its phases from g->done up to that one; all undone if one fails */
int guest_end(struct guest *g);       /* every phase undone; the first failure is returned, the others are tried all the same */
int guest_create(const struct design *d, const struct config *c); /* says itself how it went */
enum { ALL_PHASES = ~0U };

/* steps.c: the steps of a creation, in libh2's order. Each is 0 or a negative errno with the cause in g->dom.error. */
int step_reserve(struct guest *g, bool console, bool store); /* the domain, its vCPUs, its memory */
int step_noxs_devices(struct guest *g);   /* sysctl and vifs, on the device page */
int step_noxs_configure(struct guest *g); /* what was asked for, into devices that are there already */
int step_adapt(struct guest *g);          /* a shell's memory, its limit and UUID, to what was asked for */
int step_load(struct guest *g);           /* kernel, ramdisk, page tables, first registers */
int step_run(struct guest *g);            /* unless it is to stay paused */
int undo_noxs_devices(struct guest *g);
int undo_reserve(struct guest *g);

/* pool.c */
struct guest *pool_claim(const struct design *d, const struct config *c); /* NULL: no shell fits */
void pool_served(void); /* whoever asked for a shell has his guest, or an error */
bool pool_has_flavours(const struct design *d);
