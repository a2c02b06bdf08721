/* One device's back end: its life, common to all kinds and to both ways of finding the front end; and what a kind adds. */
#pragma once
#include "backend.h"
#include "io.h"
#include "ring.h"

struct back;
struct back_kind {
    u32 type;
    const char *name;
    void (*offer)(struct back *b);      /* write what the front end reads before it connects */
    bool (*connect)(struct back *b);    /* read what the front end wrote once; false: it is at fault, and back_fail was called */
    void (*offer_xs)(struct back *b);   /* the same with nodes */
    bool (*connect_xs)(struct back *b);
    void (*disconnect)(struct back *b); /* everything of the connection is given back; also after half a connect */
    void (*work)(struct back *b);       /* the other end has stirred while connected */
};
extern const struct back_kind back_vif, back_vbd, back_sysctl;

struct back_way { /* how the two ends hear of each other's states */
    u32 (*other)(struct back *b);             /* the front end's; a change from here on will be told */
    void (*publish)(struct back *b, u32 state);
    void (*offer)(struct back *b);
    bool (*connect)(struct back *b);
};
extern const struct back_way way_noxs, way_xs;

struct back {
    const struct back_kind *kind;
    const struct back_way *way;
    u32 frontend, devid, state, other;
    bool connected, failed, queued;
    struct back *next_stirred, *next_same; /* in the queue of work; in the hash chain */
    struct noxs_header *page;              /* over noxs: ours, granted to the front end */
    u32 grant, port;
    char path[64], front[64];              /* over XenStore: both directories */
    bool online;
    union device_config config;
    void *own;                             /* the kind's */
    u64 in, out, dropped, errors;
    struct thread *closer;                 /* sleeps until the front end has closed */
};

/* back.c */
struct back *back_find(u32 type, u32 frontend, u32 devid);
struct back *back_new(const struct back_kind *kind, u32 frontend, u32 devid, const union device_config *c); /* NULL: no memory */
void back_free(struct back *b);
void back_stir(struct back *b);            /* have it looked at; also from the handler of an event */
void back_event(u32 port, void *back);     /* such a handler */
void back_set_state(struct back *b, u32 state);
void back_fail(struct back *b, const char *cause);
void *back_map(struct back *b, u32 ref, u32 *handle); /* NULL: not granted */
void back_unmap(void *page, u32 handle);
s64 back_bind(struct back *b, u32 remote_port);

/* back_switch.c */
struct bridge;
struct bridge *bridge_find(const char *name);  /* made if there is none; NULL: no memory */
bool bridge_join(struct bridge *g, struct back *b);
void bridge_leave(struct bridge *g, struct back *b);
void bridge_frame(struct bridge *g, struct back *from, const u8 *frame, u32 n, bool blank); /* to whom it may concern */

/* back_xs.c: nodes of either end; "" or the number given where there is none */
void back_put(struct back *b, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool back_text(const char *directory, const char *name, char *to, u32 size);
u64 back_number(const char *directory, const char *name, u64 otherwise);

/* back_vif.c */
struct vif_words { u32 tx_ref, rx_ref, tx_port, rx_port; bool copies, sg, needs_sums; };
bool vif_connect(struct back *b, const struct vif_words *w);
void vif_offer_xs(struct back *b);
bool vif_connect_xs(struct back *b);
void vif_deliver(struct back *b, const u8 *frame, u32 n, bool blank);
