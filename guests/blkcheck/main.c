/* blkcheck: writes patterns to its first disk, reads them back, tries what must fail, and says the SHA-256 of the whole disk as it
 * reads it.
 *
 * Command line: `blk=xs` or `blk=noxs` (else: what the host offers), `seed=N`, `first=SECTOR`, `count=SECTORS` (else all), `verify`: only read
 * what a run with the same seed wrote; `flushes=N`: write and flush N single sectors and say after each that it is safe; `close`: halfway
 * close the device and connect again. A read-only disk is only read.
 */
#include "blkexercise.h"

static struct blkfront disk;

static void flushes(struct blkexercise *x, u64 n)
{
    void *page = page_alloc();
    for (u64 i = 0; i < n; i++) {
        u64 sector = x->first + i % x->count;
        blk_pattern(x->seed, sector, page);
        if (blkfront_do(&disk, BLKIF_OP_WRITE, sector, 1, &page) || blkfront_do(&disk, BLKIF_OP_FLUSH_DISKCACHE, 0, 0, NULL)) {
            blk_check(x, "write and flush", false);
            break;
        }
        printf("safe: sector %lu\n", sector);
        console_flush();
    }
    page_free(page);
}

void main(void)
{
    struct blkexercise x = {&disk, option_number("first", 0), 0, option_number("seed", 1), 0};
    char hex[65];
    if (!blkfront_open(&disk, "blk", 0)) {
        printf("blkcheck: no disk over %s\n", disk.device.bus->name);
        return;
    }
    const struct blkfront_offer *o = &disk.offer;
    printf("blkcheck: vbd %u of domain %u over %s: %lu sectors of %u bytes%s%s%s, %u segments\n", disk.device.id, disk.device.backend,
           disk.device.bus->name, o->sectors, o->sector_size, o->readonly ? ", read-only" : "", o->flush ? ", flush" : "",
           o->discard ? ", discard" : "", blkfront_largest(&disk));
    x.count = option_number("count", o->sectors - x.first);
    if (x.first + x.count > o->sectors || x.count < 16)
        panic("blkcheck: the disk has no sectors %lu to %lu", x.first, x.first + x.count - 1);
    u64 n = option_number("flushes", 0);
    if (n)
        flushes(&x, n);
    else if (option("verify", NULL, 0))
        blk_verify_all(&x);
    else if (!o->readonly) {
        blk_write_all(&x);
        if (option("close", NULL, 0)) {
            blkfront_disconnect(&disk);
            blk_check(&x, "closed, and connected again", device_restart(&disk.device) && blkfront_connect(&disk));
        }
        blk_verify_all(&x);
        blk_errors(&x);
        blk_discard(&x);
        blk_verify_all(&x);
    } else
        blk_errors(&x);
    if (blk_check(&x, "read all", blk_digest(&x, hex)))
        printf("sha256 %s\n", hex);
    printf("blkcheck: %lu requests, %lu of them indirect, %u failed checks\n", disk.requests, disk.indirect, x.failures);
    blkfront_close(&disk);
}
