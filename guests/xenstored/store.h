/* The store: requests in, replies and watch events out; it knows nothing of rings. */
#pragma once
#include "tree.h"

enum { PAYLOAD_MAX = 4096, ABS_PATH_MAX = 3072, REL_PATH_MAX = 2048 };
/* io/xs_wire.h, where kernel.h's own list ends */
enum { XS_IS_DOMAIN_INTRODUCED = 17, XS_RESUME, XS_SET_TARGET, XS_RESET_WATCHES = 21, XS_DIRECTORY_PART = 22 };

struct out { struct out *next; u32 size, sent; u8 data[]; }; /* a message on its way */
struct watch { struct watch *next, *next_same; struct conn *conn; char *path, *token; bool relative; };
struct operation { struct operation *next; u32 type, length, answer; u8 body[]; }; /* answer: a hash of what was said */
struct change { struct change *next; bool removed; char path[]; };
struct transaction {
    struct transaction *next;
    u32 id;
    u64 generation;            /* mode c: of the store when it began */
    struct node *root, *base;  /* base: mode o: the store's tree then */
    struct operation *operations, **operations_end;
    struct change *changes, **changes_end;
};
struct conn {
    u32 domid, last_transaction, ntransactions, nwatches, nodes;
    struct transaction *transactions;
    struct watch *watches;
    struct out *first, *last;
    u64 requests, events;
    void *link;                /* the transport's */
};

/* What only the transport can do. 0 or a positive errno. */
int link_introduce(u32 domid, u64 mfn, u32 port);
int link_release(u32 domid);
bool link_known(u32 domid);
void link_written(struct conn *c); /* there is something to send */

extern bool whole_copies; /* mode c; else mode o */
void store_init(void);
struct conn *store_connect(u32 domid);
void store_disconnect(struct conn *c);
void store_request(struct conn *c, const struct xsd_sockmsg *h, u8 *body); /* body has room for a NUL behind it */
void store_fire(const char *path, bool below); /* a special path; `below` also wakes watches beneath it */
