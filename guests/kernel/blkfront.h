/* A disk front end: the data path (blkfront.c) and what the two ends tell each other, over XenStore (blkfront_xs.c) or noxs
 * (blkfront_noxs.c). Sectors are of 512 bytes, as on the ring.
 */
#pragma once
#include "xenbus.h"

enum { SECTOR = 512, BLKFRONT_SLOTS = 32, BLKFRONT_SEGMENTS = 64, BLKFRONT_REFS = 256 };

struct blkfront_offer { /* what the back end says of itself and of the disk */
    u64 sectors;
    u32 sector_size, info, max_indirect, discard_granularity;
    bool readonly, flush, barrier, discard;
};
struct blkfront_way {
    void (*read_offer)(struct device *d, struct blkfront_offer *offer);           /* while it waits for us */
    bool (*publish)(struct device *d, u32 ring_ref, u32 port);                    /* and go to Initialised or Connected */
    bool (*read_details)(struct device *d, struct blkfront_offer *offer);         /* once it is connected */
};
extern const struct blkfront_way blkfront_xs, blkfront_noxs;

struct block_request { /* the caller's, until done */
    u8 operation;        /* BLKIF_OP_READ, _WRITE, _FLUSH_DISKCACHE, _DISCARD */
    u64 sector;
    u32 sectors, skip;   /* skip: sectors left out at the start of the first page */
    void *const *pages;
    volatile bool done;
    short status;        /* BLKIF_RSP_* */
};
struct blkfront {
    struct device device;
    const struct blkfront_way *way;
    struct blkfront_offer offer;
    bool connected;
    struct front_ring ring;
    u32 ring_ref, port, refs_out;
    struct { struct block_request *request; u32 segments, refs[BLKFRONT_SEGMENTS], table_ref; struct blkif_segment *table; u8 operation; } slots[BLKFRONT_SLOTS];
    u64 requests, indirect;
};

bool blkfront_open(struct blkfront *b, const char *option_name, u32 index); /* finds it and connects; option_name: "blk" */
bool blkfront_connect(struct blkfront *b);
void blkfront_disconnect(struct blkfront *b); /* what is on its way fails */
void blkfront_close(struct blkfront *b);
u32 blkfront_largest(const struct blkfront *b); /* pages one request may have */
bool blkfront_submit(struct blkfront *b, struct block_request *r); /* waits for room; false: not connected, or too large */
void blkfront_push(struct blkfront *b);     /* what was submitted is shown to the back end */
void blkfront_poll(struct blkfront *b);     /* takes responses; follows the back end's closing and return */
void blkfront_wait(struct blkfront *b, struct block_request *r);
short blkfront_do(struct blkfront *b, u8 operation, u64 sector, u32 sectors, void *const *pages); /* one request, and its status */
