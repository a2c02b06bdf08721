/* A back end in a guest: finding its front end, over XenStore or noxs, with the same operations; states, waiting, words. */
#pragma once
#include "xenbus.h"

struct back {
    u32 kind, peer, state, other; /* noxs_dev_...; the front end's domain; both ends' states */
    bool noxs, failed;
    volatile bool changed;
    char path[40], front[64];     /* over XenStore: ours, theirs */
    u32 watch;
    struct noxs_header *page;     /* over noxs: ours, granted to the front end */
    u32 grant, port;
};
void back_open(struct back *b, u32 kind, u32 peer, bool noxs);
void back_offer(struct back *b); /* what was written into the page or the nodes may be read now: InitWait */
void back_set_state(struct back *b, u32 state);
u32 back_wait(struct back *b, u32 states); /* until the front end is in one of them */
bool back_update(struct back *b);
bool back_stirred(struct back *b);
void back_fail(struct back *b, const char *cause);
void *back_map(struct back *b, u32 ref, u32 *handle, bool readonly); /* NULL: not granted */
void back_unmap(void *page, u32 handle);
s64 back_bind(struct back *b, u32 remote_port, event_handler handler, void *arg);

struct link;
void netback_serve(u32 peer, bool noxs, u64 rounds);
void blkback_serve(u32 peer, bool noxs, u64 rounds);
