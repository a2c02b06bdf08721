/* Messages to the XenStore as data: what a toolstack sends is a table, a line a message, in the order in which it goes out.
 *
 * In paths, values and permissions $x stands for a word that the scope knows: "$h/name" is the name node in the guest's home.
 * Permissions are as in the protocol, with spaces between them: "n0 r$d".
 */
#pragma once
#include "design.h"

struct message {
    u8 op;               /* XS_... */
    const char *path;    /* of GET_DOMAIN_PATH and INTRODUCE: the domid */
    const char *value;   /* to write; a transaction's "T" */
    const char *perms;   /* SET_PERMS right after a WRITE or MKDIR */
    bool needed;         /* of READ: that there is no such node is an error, -ENOENT */
};
#define WRITE(path, value) {XS_WRITE, path, value, NULL, false}
#define WRITE_PERMS(path, value, perms) {XS_WRITE, path, value, perms, false} /* two messages */
#define MAKE(path, perms) {XS_MKDIR, path, NULL, perms, false}                  /* two messages */
#define READ(path) {XS_READ, path, NULL, NULL, false}
#define READ_NEEDED(path) {XS_READ, path, NULL, NULL, true}
#define REMOVE(path) {XS_RM, path, NULL, NULL, false}
#define DOMAIN_PATH(domid) {XS_GET_DOMAIN_PATH, domid, NULL, NULL, false}

enum { SCOPE_WORDS = 64, SCOPE_TEXT = 1024, SCOPE_REPLY = 1024 };
struct scope {
    struct guest *guest;
    u32 transaction;                /* that messages are part of; 0: none */
    u32 used;
    int length;                     /* of the last reply */
    const char *words[SCOPE_WORDS]; /* by letter, from 'A' on */
    char text[SCOPE_TEXT];          /* where the words are */
    char reply[SCOPE_REPLY];
};

/* $d domid, $e of the back ends (0), $h home, $n name, $u UUID, $v /vm/UUID, $l /libxl/domid, $k kernel, $r ramdisk, $c command line */
void scope_open(struct scope *s, struct guest *g);
void scope_word(struct scope *s, char letter, const char *format, ...) __attribute__((format(printf, 3, 4)));
void scope_expand(const struct scope *s, const char *pattern, char *to, u32 size);
void scope_device(struct scope *s, const char *kind, u32 devid); /* $i, $f front, $b back, $p the toolstack's record (/libxl/...) */
void scope_vif(struct scope *s, const struct vif_config *v);     /* $m MAC, $g bridge, $a IP ("" if none), $s script */
void scope_vbd(struct scope *s, const struct vbd_config *d);     /* $t target, $y type, $x vdev, $o mode, $s script, $z device type */

/* 0, or what the store said as a negative errno. That a node is not there is no failure of READ, RM and DIRECTORY, unless it is needed.
 * A domain's path is the one that is told of here, or -EPROTO. */
int store_message(struct scope *s, const struct message *m);
int store_send(struct scope *s, const struct message *list, u32 n);
#define STORE_SEND(s, list) store_send(s, list, COUNT(list))
int store_read(struct scope *s, const char *path); /* length, or -ENOENT: the value is in s->reply */
int store_begin(struct scope *s);
int store_commit(struct scope *s);                  /* -EAGAIN: another one was quicker; start again */
void store_abort(struct scope *s);
int store_transact(struct scope *s, int (*body)(struct scope *s)); /* until it is not in another one's way */
/* The same where the transaction is a table. */
int store_transact_list(struct scope *s, const struct message *list, u32 n);

/* messages_xs.c: the steps that libh2 takes over XenStore, shared by the designs with chaos's messages. */
