/* What a disk front end reads and says over noxs: the fields of the vbd's control page. */
#include "blkfront.h"

static void read_offer(struct device *d, struct blkfront_offer *offer)
{
    const struct noxs_vbd *page = (const struct noxs_vbd *)d->page;
    offer->max_indirect = page->max_indirect_segments;
    offer->readonly = page->mode != noxs_vbd_rdwr;
}

static bool publish(struct device *d, u32 ring_ref, u32 port)
{
    struct noxs_vbd *page = (struct noxs_vbd *)d->page;
    page->ring.evtchn = port;
    page->ring.ref = ring_ref;
    page->num_rings = 1;
    page->ring_page_order = 0;
    page->fe_feat = 0;
    memcpy(page->protocol, "x86_64-abi", sizeof "x86_64-abi");
    device_set_state(d, XenbusStateConnected);
    return true;
}

static bool read_details(struct device *d, struct blkfront_offer *offer)
{
    const struct noxs_vbd *page = (const struct noxs_vbd *)d->page;
    u8 features = page->be_feat;
    offer->sectors = page->sectors;
    offer->sector_size = (u32)page->sector_size;
    offer->info = page->info;
    offer->flush = features & VBD_BE_flush_cache;
    offer->barrier = features & VBD_BE_barrier;
    offer->discard = features & VBD_BE_discard;
    offer->discard_granularity = page->discard_granularity;
    offer->readonly |= (offer->info & VDISK_READONLY) != 0;
    return offer->sector_size >= SECTOR;
}

const struct blkfront_way blkfront_noxs = {read_offer, publish, read_details};
