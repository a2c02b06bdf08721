/* What a disk is put through: patterns, verification, several requests in flight, the cases that must fail. */
#pragma once
#include "blkfront.h"

struct blkexercise {
    struct blkfront *disk;
    u64 first, count; /* the sectors to work on */
    u64 seed;
    u32 failures;
};
void blk_pattern(u64 seed, u64 sector, u8 *to); /* what belongs into a sector: text with its number, then numbers that follow from both */
void blk_write_all(struct blkexercise *x);      /* patterns, in requests of many sizes, several in flight, then a flush */
void blk_verify_all(struct blkexercise *x);
void blk_errors(struct blkexercise *x);         /* beyond the end, onto a disk that is read-only */
void blk_discard(struct blkexercise *x);        /* the last eighth, if the disk can; what is there then is written again */
bool blk_digest(struct blkexercise *x, char hex[65]); /* of the whole disk, as read */
bool blk_check(struct blkexercise *x, const char *what, bool good); /* says so, and counts it if it is bad */
