/* A network front end: the data path (netfront.c) and what the two ends tell each other, over XenStore (netfront_xs.c) or noxs
 * (netfront_noxs.c).
 */
#pragma once
#include "xenbus.h"

enum { NETFRONT_TX = 32, NETFRONT_RX = 64, FRAME_MAX = NETIF_SLOTS_MAX * 4096 };
enum { NETFRONT_csum_blank = 1, NETFRONT_csum_good = 2 }; /* of a frame: its sum is left to others; somebody has checked it */

struct netfront_offer { /* what the back end says of itself */
    bool rx_copy, sg, split_channels, no_csum_offload;
    u8 mac[6];
    u32 ip, mask; /* 0: it does not say */
};
struct netfront_ask { /* what we say */
    u32 tx_ref, rx_ref, tx_port, rx_port;
    bool sg, no_csum_offload;
};
struct netfront_way {
    bool (*read_offer)(struct device *d, struct netfront_offer *offer);
    bool (*publish)(struct device *d, const struct netfront_ask *ask); /* and go to Connected */
};
extern const struct netfront_way netfront_xs, netfront_noxs;

struct netfront_buffer { void *page; u32 ref; bool out; };
struct netfront {
    struct device device;
    const struct netfront_way *way;
    struct netfront_offer offer;
    bool connected;
    struct front_ring tx, rx;
    u32 tx_ref, rx_ref, tx_port, rx_port;
    struct netfront_buffer tx_buffers[NETFRONT_TX], rx_buffers[NETFRONT_RX];
    u64 frames_in, frames_out, errors;
    u32 connections; /* so far */
};
typedef void (*frame_handler)(const u8 *frame, u32 n, u32 flags);

bool netfront_open(struct netfront *n, const char *option_name, u32 index); /* finds it and connects; option_name: "net" */
bool netfront_connect(struct netfront *n);
void netfront_disconnect(struct netfront *n); /* the closing handshake; everything granted is taken back */
void netfront_close(struct netfront *n);
bool netfront_send(struct netfront *n, const void *frame, u32 bytes, u32 first, u32 flags); /* first: bytes in the first slot, 0 any */
bool netfront_poll(struct netfront *n, frame_handler handler); /* what has come in; follows the back end's closing and return */
bool netfront_stirred(void *netfront); /* for thread_wait: is there something for netfront_poll? */
