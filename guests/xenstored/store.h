/* The store: requests in, replies and watch events out; it knows nothing of rings. Everything that is the same in both of its
 * designs. What each request does, and which error it gets when, is as in xenstored of Xen 4.17 (docs/xenstore.md).
 */
#pragma once
#include "db.h"

enum { PAYLOAD_MAX = 4096, ABS_PATH_MAX = 3072, REL_PATH_MAX = 2048, DOMIDS = 0x7ff0, DOMID_OWN = 0x7ff0, NEVER = ~0U };
enum { QUOTA_NODES = 1000, QUOTA_WATCHES = 128, QUOTA_TRANSACTIONS = 10, QUOTA_OUTSTANDING = 20, QUOTA_TOUCHED = 1024,
       QUOTA_MEMORY = 2560 * 1024, QUOTA_NODE_SIZE = 2048, QUOTA_PERMS = 5 };
/* io/xs_wire.h, where kernel.h's own list ends */
enum { XS_IS_DOMAIN_INTRODUCED = 17, XS_RESUME, XS_SET_TARGET, XS_RESET_WATCHES = 21, XS_DIRECTORY_PART = 22 };
enum { SHORT_REPLY = 24 }; /* longer than an error's name, "OK" and a transaction's number */

struct out { struct out *next; u32 size, sent; u8 data[]; }; /* a message on its way */
struct spot;
struct watch { struct watch *next, *next_same; struct spot *spot; struct conn *conn; char *path, *token; u32 length, base, depth; }; /* base: bytes not told */
struct operation { struct operation *next; u32 type, length, replied; int rc; struct perm *perms; u8 *answer, body[]; }; /* answer: NULL: "OK", or nothing */
struct owner { struct owner *next; u32 domid, incarnation; s32 nodes; bool named; };
struct transaction {
    struct transaction *next;
    u32 id, touched;
    bool failed;               /* over its quota: it cannot be committed */
    u64 version;               /* of the store when it began */
    struct db *db, *base;      /* base: the store when it began. Design o only, like all that is for merging */
    char *low[2];              /* what all that it read, and all that it wrote, is at or below; NULL: nothing */
    u32 owned, lives;          /* by its domain; of all domains */
    bool whole;                /* only all of it together can be done again: it is not merged */
    bool forgotten;            /* there was no memory for an answer: it cannot be done again */
    struct operation *operations, **operations_end;
    struct change *changes, **changes_end;
    struct owner *owners;      /* whose nodes it made more or fewer, and for whom SET_PERMS made some */
};
struct conn {
    struct conn *next, *next_same;
    u32 domid, incarnation, target, target_incarnation; /* target: ~0: none */
    u32 next_transaction, ntransactions, nwatches, unsent_replies;
    bool shut_down;            /* @releaseDomain has been told of it */
    struct transaction *transactions;
    struct watch *watches, **watches_end;
    struct out *first, *last;
    u64 unsent_bytes;
    bool reply_used;           /* `reply`, a struct out for when there is no memory for another, is in the list */
    u8 reply[sizeof(struct out) + sizeof(struct xsd_sockmsg) + SHORT_REPLY] aligned(8);
    bool leaving;              /* its domain is gone, and there was no memory to remove its nodes */
    void *link;                /* the transport's */
};

/* One request at work: on the store or in a transaction. */
struct work {
    struct conn *conn;
    struct transaction *t;
    struct db **db;
    u8 *body;
    u32 length;
    u8 *reply;
    u32 replied;
    struct watch *first;       /* a new one, to be told after the reply */
    struct change *note;       /* a transaction's, had before anything is changed */
    struct perm *perms;        /* of SET_PERMS, with the bearers of numbers at that time; when it is done again: those of the first time */
    u32 nperms;
    bool again, reached;       /* a transaction's, done again when that ends; it got as far as to look at the tree */
};

/* What only the transport can do. 0 or a positive errno. */
int link_open(struct conn *c, u64 mfn, u32 port);
void link_close(struct conn *c);
void link_reset(struct conn *c);   /* it begins again: no half message is left */
void link_written(struct conn *c); /* there is something to send */
bool link_domain_exists(u32 domid);

/* store.c */
extern const struct db_kind *db; /* chosen at start */
extern bool copies;              /* db_flat, and with it: any change in between is a conflict, a change asks every watch */
extern struct db *tree;
extern u64 version, generation;  /* of the tree: every change; of nodes: a number that none has had */
extern struct conn *conns;
extern struct counters { u64 requests, transactions, commits, merged, replayed, conflicts, nodes, lost; } counters; /* lost: events that there was no memory for */
void store_init(bool as_copies);
void store_request(struct conn *c, const struct xsd_sockmsg *h, u8 *body); /* body has room for a NUL behind it */
bool store_accepts(const struct conn *c);
void store_event(struct conn *c, const void *body, u32 n); /* no memory: it is lost, as in xenstored */
void out_release(struct conn *c, struct out *o);
void store_sent(struct conn *c); /* the first message is on its way as a whole */
int serve(struct work *k, u32 type);
void answer(struct work *k, const char *text);
char *string(struct work *k, u32 n);     /* the n-th of the body's, NULL: there are fewer that end */
char *only_string(struct work *k);
int absolute(const struct conn *c, const char *path, char *to); /* 0 or EINVAL */
s32 number(const char *text);            /* as C's atoi */
u32 hash(const char *text, u64 n);

/* nodes.c: the requests on nodes */
int do_directory(struct work *k), do_directory_part(struct work *k), do_read(struct work *k), do_write(struct work *k), do_mkdir(struct work *k),
    do_rm(struct work *k), do_get_perms(struct work *k), do_set_perms(struct work *k);
struct change *subtree(struct db *d, const char *path); /* of a node and all below it, children first; NULL: no memory */
void changes_drop(struct change *c);
int nodes_remove_of(u32 domid);                         /* what a domain that is gone owns; ENOMEM: not all */

/* owners.c */
u32 owned(u32 domid);
void owned_add(u32 domid, s32 nodes);
s32 owned_in(const struct work *k, u32 domid);
bool own_ready(struct work *k, u32 domid);         /* false: no memory; after it `own` needs none */
void own(struct work *k, u32 domid, s32 nodes);

/* perms.c */
u32 rights_of(const struct entry *e, const struct conn *c);
void tell_perms(struct work *k, const struct perm *p, u32 n);
int parse_perms(struct work *k, struct perm *perms, u32 *count); /* the body's, from its second word on */

/* watches.c */
int do_watch(struct work *k), do_unwatch(struct work *k);
bool note(struct work *k, enum change_kind kind, const char *path); /* before a change: it can be told of */
void changed(struct work *k, enum change_kind kind, const char *path, const struct entry *before);
void fire_commit(const struct change *c, struct db *before, struct db *after);
void fire_special(const char *name, u32 domid);
void watch_first(struct watch *w);
void watches_drop(struct conn *c);
extern struct special { const char *name; u32 nperms; struct perm perms[64]; } specials[2];
struct special *special_of(const char *name);

/* watch_trie.c: design o's watches by path */
typedef void (*watch_visitor)(struct watch *w, const char *path, void *arg);
bool trie_add(struct watch *w);
void trie_remove(struct watch *w);
void trie_above(const char *path, watch_visitor visit, void *arg); /* those at the path and above it */
void trie_below(const char *path, void (*visit)(struct watch *first, void *arg), void *arg); /* every watched path below, from below up */

/* transactions.c */
int do_start(struct work *k), do_end(struct work *k);
void transactions_drop(struct conn *c);
void transactions_whole(struct conn *c);                          /* of those that are open none is to be merged */
enum { READS, WRITES };
void touched(struct work *k, u32 how, const char *path);
struct operation *operation_new(u32 type, const u8 *body, u32 n);
void remember(struct work *k, struct operation *o, int rc);

/* domains.c: who is served */
int do_introduce(struct work *k), do_release(struct work *k), do_resume(struct work *k), do_path(struct work *k), do_introduced(struct work *k),
    do_set_target(struct work *k), do_reset(struct work *k);
struct conn *conn_new(u32 domid); /* NULL: no memory */
struct conn *conn_of(u32 domid);
void conn_reset(struct conn *c);
void domain_shut_down(struct conn *c);
int domain_gone(struct conn *c); /* ENOMEM: again when there is some */
extern u32 lives; /* changes with every domain that comes or goes */
u32 incarnation(u32 domid);
u32 incarnation_if_exists(u32 domid);
