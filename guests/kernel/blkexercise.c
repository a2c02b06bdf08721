/* What a disk is put through: see blkexercise.h. */
#include "blkexercise.h"
#include "sha256.h"

enum { FLIGHT = 12 };
static struct { struct block_request request; void *pages[BLKFRONT_SEGMENTS]; u32 count; } flight[FLIGHT];

bool blk_check(struct blkexercise *x, const char *what, bool good)
{
    printf("%s %s\n", good ? "ok  " : "FAIL", what);
    x->failures += !good;
    return good;
}

void blk_pattern(u64 seed, u64 sector, u8 *to)
{
    u64 *words = (u64 *)to, state = seed * 0x9e3779b97f4a7c15UL + sector * 0xd1342543de82ef95UL + 1;
    for (u32 i = 0; i < SECTOR / 8; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
    snprintf((char *)to, 32, "sector %08lu seed %08lu", sector, seed);
}

static void pages_ready(u32 slot, u32 pages)
{
    while (flight[slot].count < pages)
        flight[slot].pages[flight[slot].count++] = page_alloc();
}

static u8 *sector_of(u32 slot, u32 i)
{
    u32 at = flight[slot].request.skip + i;
    return (u8 *)flight[slot].pages[at / 8] + at % 8 * SECTOR;
}

/* Sizes run through all that a request can be: a sector, parts of pages, many segments, more than fit without an indirect table. */
static u32 next_size(u32 n, u32 largest)
{
    static const u32 sectors[] = {1, 8, 3, 88, 7, 40, 200, 16, 512, 9, 96};
    u32 size = sectors[n % COUNT(sectors)];
    return size <= largest * 8 ? size : largest * 8;
}

/* Run over the sectors with up to FLIGHT requests on their way; `finish` looks at each that is done, in the order of sectors. */
static void sweep(struct blkexercise *x, u8 operation, bool (*finish)(struct blkexercise *x, u32 slot), bool *good)
{
    u64 at = x->first, end = x->first + x->count;
    u32 issued = 0, finished = 0;
    while (at < end || finished < issued) {
        if (at < end && issued - finished < FLIGHT) {
            u32 slot = issued % FLIGHT, skip = issued % 3 == 2 ? issued % 8 : 0;
            u32 size = next_size(issued, blkfront_largest(x->disk) - 1);
            size = at + size > end ? (u32)(end - at) : size;
            pages_ready(slot, (skip + size + 7) / 8);
            flight[slot].request = (struct block_request){operation, at, size, skip, flight[slot].pages, false, 0};
            for (u32 i = 0; operation == BLKIF_OP_WRITE && i < size; i++)
                blk_pattern(x->seed, at + i, sector_of(slot, i));
            if (!blkfront_submit(x->disk, &flight[slot].request)) {
                *good = false;
                return;
            }
            at += size;
            issued++;
            continue;
        }
        u32 slot = finished++ % FLIGHT;
        blkfront_wait(x->disk, &flight[slot].request);
        *good &= flight[slot].request.status == BLKIF_RSP_OKAY && finish(x, slot);
    }
}

static bool wrote(struct blkexercise *x, u32 slot)
{
    (void)x, (void)slot;
    return true;
}

static bool verify(struct blkexercise *x, u32 slot)
{
    u8 expected[SECTOR];
    const struct block_request *r = &flight[slot].request;
    for (u32 i = 0; i < r->sectors; i++) {
        blk_pattern(x->seed, r->sector + i, expected);
        if (memcmp(expected, sector_of(slot, i), SECTOR)) {
            printf("blk: sector %lu is not what was written\n", r->sector + i);
            return false;
        }
    }
    return true;
}

void blk_write_all(struct blkexercise *x)
{
    bool good = true;
    sweep(x, BLKIF_OP_WRITE, wrote, &good);
    blk_check(x, "write", good);
    short flushed = blkfront_do(x->disk, BLKIF_OP_FLUSH_DISKCACHE, 0, 0, NULL);
    if (x->disk->offer.flush)
        blk_check(x, "flush", flushed == BLKIF_RSP_OKAY);
    else
        blk_check(x, "flush, which was not offered, is refused", flushed != BLKIF_RSP_OKAY);
}

void blk_verify_all(struct blkexercise *x)
{
    bool good = true;
    sweep(x, BLKIF_OP_READ, verify, &good);
    blk_check(x, "verify", good);
}

void blk_errors(struct blkexercise *x)
{
    u64 end = x->disk->offer.sectors;
    pages_ready(0, 2);
    void *const *pages = flight[0].pages;
    blk_check(x, "read beyond the end is refused", blkfront_do(x->disk, BLKIF_OP_READ, end, 1, pages) == BLKIF_RSP_ERROR);
    blk_check(x, "read across the end is refused", blkfront_do(x->disk, BLKIF_OP_READ, end - 1, 2, pages) == BLKIF_RSP_ERROR);
    blk_check(x, "read near 2^64 is refused", blkfront_do(x->disk, BLKIF_OP_READ, ~0UL, 2, pages) == BLKIF_RSP_ERROR);
    blk_check(x, "read of the last sector", blkfront_do(x->disk, BLKIF_OP_READ, end - 1, 1, pages) == BLKIF_RSP_OKAY);
    if (x->disk->offer.readonly)
        blk_check(x, "write to a read-only disk is refused", blkfront_do(x->disk, BLKIF_OP_WRITE, 0, 1, pages) != BLKIF_RSP_OKAY);
    else {
        blk_check(x, "write beyond the end is refused", blkfront_do(x->disk, BLKIF_OP_WRITE, end, 1, pages) == BLKIF_RSP_ERROR);
        blk_check(x, "write across the end is refused", blkfront_do(x->disk, BLKIF_OP_WRITE, end - 1, 2, pages) == BLKIF_RSP_ERROR);
    }
    blk_check(x, "an unknown operation is refused", blkfront_do(x->disk, 77, 0, 0, NULL) != BLKIF_RSP_OKAY);
}

void blk_discard(struct blkexercise *x)
{
    u32 grain = x->disk->offer.discard_granularity / SECTOR;
    u64 part = x->count / 8, at = x->first + x->count - part;
    if (!x->disk->offer.discard) {
        blk_check(x, "discard, which was not offered, is refused", blkfront_do(x->disk, BLKIF_OP_DISCARD, at, 8, NULL) != BLKIF_RSP_OKAY);
        return;
    }
    if (grain) {
        at += grain - 1 - (at + grain - 1) % grain;
        part -= part % grain;
    }
    blk_check(x, "discard", blkfront_do(x->disk, BLKIF_OP_DISCARD, at, (u32)part, NULL) == BLKIF_RSP_OKAY);
    blk_check(x, "discard beyond the end is refused",
              blkfront_do(x->disk, BLKIF_OP_DISCARD, x->disk->offer.sectors, 8, NULL) != BLKIF_RSP_OKAY);
    blk_write_all(x);
}

bool blk_digest(struct blkexercise *x, char hex[65])
{
    struct sha256 s;
    u32 largest = blkfront_largest(x->disk) * 8;
    pages_ready(0, largest / 8);
    sha256_begin(&s);
    for (u64 at = 0, end = x->disk->offer.sectors; at < end;) {
        u32 size = end - at < largest ? (u32)(end - at) : largest;
        if (blkfront_do(x->disk, BLKIF_OP_READ, at, size, flight[0].pages) != BLKIF_RSP_OKAY)
            return false;
        for (u32 i = 0; i < size; i += 8)
            sha256_add(&s, flight[0].pages[i / 8], size - i < 8 ? (size - i) * SECTOR : PAGE_SIZE);
        at += size;
    }
    sha256_end(&s, hex);
    return true;
}
