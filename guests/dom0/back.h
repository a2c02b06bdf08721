/* One device's back end: its life, common to all kinds and to both ways of finding the front end; and what a kind adds. */
#pragma once
#include "backend.h"
#include "io.h"
#include "ring.h"

struct back;
struct file;
struct back_kind {
    u32 type;
    const char *name;
    int (*offer)(struct back *b);       /* write what the front end reads before it connects; negative errno: there is no device */
    bool (*connect)(struct back *b);    /* read what the front end wrote once; false: it is at fault, and back_fail was called */
    int (*offer_xs)(struct back *b);    /* the same with nodes */
    bool (*connect_xs)(struct back *b);
    const char *awaits;                 /* a node of its directory that somebody else writes, and that it must not connect before */
    bool (*settled)(struct back *b);    /* that node was written: is it what it waits for? */
    void (*disconnect)(struct back *b); /* everything of the connection is given back; also after half a connect */
    void (*close)(struct back *b);      /* what `offer` took */
    bool (*work)(struct back *b);       /* the other end has stirred while connected; true: there is more, once others had their turn */
};
extern const struct back_kind back_vif, back_vbd, back_sysctl;

struct back_way { /* how the two ends hear of each other's states */
    u32 (*other)(struct back *b);             /* the front end's; a change from here on will be told */
    void (*publish)(struct back *b, u32 state);
    int (*offer)(struct back *b);
    bool (*ready)(struct back *b);            /* nothing is missing on this side; false: it will be stirred */
    bool (*connect)(struct back *b);
};
extern const struct back_way way_noxs, way_xs;

struct back {
    const struct back_kind *kind;
    const struct back_way *way;
    u32 frontend, devid, state, other;
    bool connected, failed, queued, said, leaving; /* leaving: it closes for good */
    bool look;                             /* the other end's state may have changed; a ring's event does not say so */
    struct back *next_stirred, *next_same; /* in the queue of work; in the hash chain */
    struct noxs_header *page;              /* over noxs: ours, granted to the front end */
    struct left *left;                     /* that page and its grant, which may outlive the device */
    u32 port;
    char path[64], front[64];              /* over XenStore: both directories */
    bool awaiting, noticed, settled;       /* over XenStore: the awaited node is watched; has changed; is as it should be */
    union device_config config;
    void *own;                             /* the kind's */
    u64 in, out, dropped, errors;
    struct thread *closer;                 /* sleeps until the front end has closed */
};

/* back.c */
struct back *back_find(u32 type, u32 frontend, u32 devid);
struct back *back_next(struct back *after); /* all of them, one after the other; the first after NULL */
extern struct back *back_to_come;          /* by whoever holds them and may sleep on his way through all: the next one, also when that goes meanwhile */
struct back *back_new(const struct back_kind *kind, u32 frontend, u32 devid, const union device_config *c); /* NULL: no memory */
void back_disconnect(struct back *b);
void back_free(struct back *b);            /* disconnected, closed and forgotten */
void back_stir(struct back *b);            /* have it looked at; also from the handler of an event */
void back_event(u32 port, void *back);     /* such a handler, for an event channel that tells of states */
void back_set_state(struct back *b, u32 state);
void back_fail(struct back *b, const char *cause); /* the front end's fault */
void back_lack(struct back *b, s64 rc, const char *what); /* ours: -ENOSPC, -ENOMEM; the front end can do nothing for it */
bool back_is_lack(s64 rc);                 /* is it such an errno? */
void back_refuse(struct back *b, const char *cause); /* there is no such device: whose fault ever, not the front end's */
void back_hold(void);                      /* no device is worked on meanwhile: for who sleeps in the middle of a change */
void back_let_go(void);
bool back_stopped(void);                   /* by the command `backends stop` */
int back_map_of(u32 domid, u32 ref, void **page, u32 *handle); /* -EPERM: not granted; -ENOMEM, -ENOSPC: not enough here to map it */
void *back_map(struct back *b, u32 ref, u32 *handle, const char *what); /* the same; NULL: what is wrong has been said, `what` if not granted */
void back_unmap(void *page, u32 handle);
u32 back_bind(struct back *b, u32 remote_port); /* our port of a ring; 0: there is none, and that has been said */

/* back_copy.c: between pages of the front end and our own memory, by grant copies */
struct back_copy { struct gnttab_copy *list; u32 room, used; bool failed; };
void back_copy_add(struct back_copy *c, struct back *b, bool to_front, u32 ref, u32 offset, const u8 *ours, u32 n);
bool back_copy_end(struct back_copy *c);   /* all of them went well */

/* back_switch.c */
struct bridge;
struct bridge *bridge_find(const char *name);  /* made if there is none; NULL: no memory */
bool bridge_join(struct bridge *g, struct back *b);
void bridge_leave(struct bridge *g, struct back *b);
void bridge_frame(struct bridge *g, struct back *from, u8 *frame, u32 n, bool blank); /* to whom it may concern */

/* back_xs.c: all devices are looked for, and those known whether they are still there */
void backends_rescan(void);
/* nodes of either end; "" or the number given where there is none */
void back_put(struct back *b, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool back_text(const char *directory, const char *name, char *to, u32 size);
u64 back_number(const char *directory, const char *name, u64 otherwise);
#define NO_NUMBER (~0U)                    /* what no reference and no port is */
u32 back_word(const char *directory, const char *name); /* of 32 bits, or NO_NUMBER */
void back_await(struct back *b, bool on);  /* watch the node that its kind awaits, or no more */

/* back_xendevd.c: what stands in for xl's hotplug scripts where a device names none */
void xendevd(struct back *b);

/* back_vif.c */
struct vif_words { u32 tx_ref, rx_ref, tx_port, rx_port, queues; bool copies, sg, needs_sums; };
bool vif_connect(struct back *b, const struct vif_words *w);
int vif_offer_xs(struct back *b);
bool vif_connect_xs(struct back *b);
bool vif_settled(struct back *b);
void vif_deliver(struct back *b, u8 *frame, u32 n, bool *blank); /* a blank checksum may be filled in; then it is not blank any more */

/* back_vbd.c */
struct vbd_words { u32 ref, port, queues, order; char protocol[64]; };
struct vbd {
    const struct file *file;
    u64 sectors;
    bool readonly, cdrom, removable, discard;
    struct back_ring ring;
    u32 handle, port;
};
enum { VBD_INDIRECT = 256, LOOP_MAJOR = 7 }; /* a file's number in the file area is its loop device's */
int vbd_open(struct back *b, const struct file *file, const struct vbd *as); /* -ENOENT, -EACCES, -EBUSY, -ENOMEM */
bool vbd_connect(struct back *b, const struct vbd_words *w);
u32 vbd_info(const struct vbd *v);
int vbd_offer_xs(struct back *b);
bool vbd_connect_xs(struct back *b);
bool vbd_settled(struct back *b);

/* back_disk.c: who has which file as a disk: any number of readers, or one that writes */
int disk_open(const struct file *file, bool writes);
void disk_close(const struct file *file, bool writes);
u32 disk_number(const struct file *file);
