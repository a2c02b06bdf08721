/* The tree of nodes. A node may be part of several trees (the store's and those of transactions): it is then counted, and whoever
 * changes one makes it his own first, with the nodes above it. */
#pragma once
#include "kernel.h"

enum { PERM_NONE, PERM_READ = 1, PERM_WRITE = 2, PERM_OWNER = 4 };
struct perm { u32 domid, rights; };
struct node {
    u32 refs, nkids, room, length, nperms;
    struct node **kids; /* by name */
    char *name;
    u8 *value;
    struct perm *perms; /* the first is the owner, with what others may do */
};
extern u64 nodes_live, nodes_made;

struct node *node_new(const char *name, u64 name_length, const struct perm *perms, u32 nperms);
struct node *node_share(struct node *n);
void node_drop(struct node *n);
struct node *node_copy_all(const struct node *n);                /* every node anew: what a whole-store copy is */
struct node *node_find(struct node *root, const char *path);     /* NULL: there is none */
struct node *node_own(struct node **root, const char *path);     /* it exists; it and those above are nobody else's now */
struct node *node_add(struct node *parent, const char *name, u64 length); /* an own parent; with the parent's permissions */
void node_remove(struct node **root, const char *path);          /* it exists and is not the root */
bool node_set_value(struct node *own, const u8 *value, u32 length);
bool node_set_perms(struct node *own, const struct perm *perms, u32 n);
u32 node_rights(const struct node *n, u32 domid);
