/* What a store keeps its nodes in. Two ways of doing it: `flat` copies itself as a block of bytes, `shared` shares what has not
 * changed. Paths are valid and absolute; whoever adds a node has made sure that its parent is there.
 */
#pragma once
#include "kernel.h"

enum { PERM_NONE, PERM_READ = 1, PERM_WRITE = 2, PERM_OWNER = 4, PERMS_MOST = 512 };
struct perm { u32 domid, rights, incarnation; }; /* of the first: the owner, and what those may do whom no other names */

/* A node as it is found. What it points to is good until the next change. */
struct entry { const struct perm *perms; const u8 *value; u32 nperms, length, names; u64 generation; }; /* names: bytes of its children's */

/* What happened to a node, or a node in a list. */
enum change_kind { WRITTEN, REMOVED, PERMISSIONS };
struct change { struct change *next; enum change_kind kind; char path[]; };

/* Where memory is needed it may be missing: NULL or false then, and what is in the store is as it was. */
struct db;
struct db_kind {
    bool deep; /* `remove` takes all below a node with it; else it has to be without children */
    struct db *(*make)(const struct entry *root);
    struct db *(*copy)(struct db *d, bool spare);  /* for a transaction; from what is kept for one, if there is nothing else */
    void (*drop)(struct db *d);
    bool (*find)(struct db *d, const char *path, struct entry *e);
    void (*names)(struct db *d, const char *path, char *to); /* of a node's children, each with its NUL */
    bool (*add)(struct db *d, const char *path, const struct entry *e);
    bool (*set)(struct db *d, const char *path, const struct entry *e); /* permissions, value and generation of one that is there */
    bool (*ready)(struct db *d, const char *path);  /* to remove the node: after this it needs no memory */
    void (*remove)(struct db *d, const char *path, u64 generation); /* its parent gets the generation */
    /* For merging, `shared` only: whether what is at the path, and who may do what above it, is in both the same one; put what `from`
     * has there in its place. */
    bool (*same)(struct db *a, struct db *b, const char *path);
    bool (*graft)(struct db *d, const char *path, struct db *from);
};
extern const struct db_kind db_flat, db_shared;
void *store_memory(u64 size);       /* zeroed; NULL: there is none */
void *store_memory_dirty(u64 size); /* as it was left */
