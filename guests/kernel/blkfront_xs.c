/* What a disk front end reads and says over XenStore: the nodes of io/blkif.h. */
#include "blkfront.h"

static void read_offer(struct device *d, struct blkfront_offer *offer)
{
    char mode[8] = "";
    offer->max_indirect = (u32)xs_number(d, d->back, "feature-max-indirect-segments", 0);
    xs_get(d, d->back, "mode", mode, sizeof mode);
    offer->readonly = mode[0] != 'w';
}

static bool publish(struct device *d, u32 ring_ref, u32 port)
{
    d->state = XenbusStateInitialised;
    for (;;) {
        u32 t = xenstore_begin();
        bool good = t && xs_put(t, d->front, "ring-ref", "%u", ring_ref) && xs_put(t, d->front, "event-channel", "%u", port) &&
                    xs_put(t, d->front, "protocol", "x86_64-abi") && xs_put(t, d->front, "state", "%u", XenbusStateInitialised);
        int ended = xenstore_end(t, good);
        if (!good || ended != -EAGAIN)
            return good && ended >= 0;
    }
}

static bool read_details(struct device *d, struct blkfront_offer *offer)
{
    offer->sectors = xs_number(d, d->back, "sectors", 0);
    offer->sector_size = (u32)xs_number(d, d->back, "sector-size", 0);
    offer->info = (u32)xs_number(d, d->back, "info", 0);
    offer->flush = xs_number(d, d->back, "feature-flush-cache", 0) == 1;
    offer->barrier = xs_number(d, d->back, "feature-barrier", 0) == 1;
    offer->discard = xs_number(d, d->back, "feature-discard", 0) == 1;
    offer->discard_granularity = (u32)xs_number(d, d->back, "discard-granularity", offer->sector_size);
    offer->readonly |= (offer->info & VDISK_READONLY) != 0;
    return offer->sector_size >= SECTOR;
}

const struct blkfront_way blkfront_xs = {read_offer, publish, read_details};
