/* The data path of a disk front end: one ring of one page, each request's pages granted for as long as it is on its way. */
#include "blkfront.h"

static void rang(u32 port, void *arg)
{
    (void)port, (void)arg; /* waking the domain is all */
}

static u32 slots_out(const struct blkfront *b)
{
    return b->ring.size - ring_free(&b->ring);
}

/* A page that the back end still maps must not be used for anything else; it cannot be the caller's either. */
static void end_slot(struct blkfront *b, u32 id, short status)
{
    struct block_request *r = b->slots[id].request;
    bool clean = true;
    for (u32 i = 0; i < b->slots[id].segments; i++)
        clean &= grant_end(b->slots[id].refs[i]);
    b->refs_out -= b->slots[id].segments;
    if (b->slots[id].table && grant_end(b->slots[id].table_ref))
        page_free(b->slots[id].table);
    b->refs_out -= b->slots[id].table != NULL;
    b->slots[id].table = NULL;
    b->slots[id].request = NULL;
    if (!clean)
        device_fail(&b->device, "pages of request %u are still mapped", id);
    r->status = clean ? status : BLKIF_RSP_ERROR;
    barrier();
    r->done = true;
}

bool blkfront_connect(struct blkfront *b)
{
    struct device *d = &b->device;
    bool torn;
    do { /* until the offer is of one back end: while it was read the device may have been replaced */
        if (device_wait(d, STATES(XenbusStateInitWait, XenbusStateConnected) | STATES_GONE) != XenbusStateInitWait)
            return false;
        bool earlier = device_disturbed(d);
        d->changed = false;
        memset(&b->offer, 0, sizeof b->offer);
        b->way->read_offer(d, &b->offer);
        torn = device_disturbed(d);
        d->changed |= earlier;
    } while (torn);
    struct ring_page *page = page_alloc();
    ring_page_init(page);
    b->ring = FRONT_RING(page, struct blkif_request, struct blkif_response);
    b->ring_ref = grant_access(d->backend, va_to_mfn(page), false);
    s64 port = event_alloc_unbound(d->backend);
    if (port < 0)
        panic("no event channel");
    b->port = (u32)port;
    event_bind(b->port, rang, b);
    bool published = b->way->publish(d, b->ring_ref, b->port);
    if (!published && device_disturbed(d))
        device_lose(d);
    b->connected = published &&
                   device_wait(d, STATES(XenbusStateConnected) | STATES_GONE) == XenbusStateConnected && b->way->read_details(d, &b->offer);
    if (b->connected && d->state != XenbusStateConnected)
        device_set_state(d, XenbusStateConnected);
    if (!b->connected) {
        b->connected = true;
        blkfront_disconnect(b);
    }
    return b->connected;
}

bool blkfront_open(struct blkfront *b, const char *option_name, u32 index)
{
    const struct bus *bus = bus_choose(option_name, noxs_dev_vbd);
    memset(b, 0, sizeof *b);
    b->way = bus == &bus_noxs ? &blkfront_noxs : &blkfront_xs;
    return device_open(&b->device, bus, noxs_dev_vbd, index) && blkfront_connect(b);
}

void blkfront_disconnect(struct blkfront *b)
{
    if (!b->connected)
        return;
    b->connected = false;
    device_shut(&b->device);
    for (u32 i = 0; i < BLKFRONT_SLOTS; i++)
        if (b->slots[i].request)
            end_slot(b, i, BLKIF_RSP_ERROR);
    if (grant_end(b->ring_ref))
        page_free(b->ring.page);
    event_close(b->port);
}

void blkfront_close(struct blkfront *b)
{
    blkfront_disconnect(b);
    device_close(&b->device);
}

u32 blkfront_largest(const struct blkfront *b)
{
    u32 most = b->offer.max_indirect > BLKIF_SEGMENTS ? b->offer.max_indirect : BLKIF_SEGMENTS;
    return most < BLKFRONT_SEGMENTS ? most : BLKFRONT_SEGMENTS;
}

static void take_responses(struct blkfront *b)
{
    s64 waiting = ring_responses(&b->ring);
    if (waiting < 0)
        device_fail(&b->device, "ring: rsp_prod %u, with requests %u to %u", b->ring.page->rsp_prod, b->ring.rsp_cons, b->ring.req_prod);
    for (; waiting > 0; waiting--) {
        struct blkif_response r;
        ring_get_response(&b->ring, &r);
        if (r.id >= BLKFRONT_SLOTS || !b->slots[r.id].request || r.operation != b->slots[r.id].operation) {
            device_fail(&b->device, "response for id %lu, operation %u, which is not on its way", r.id, r.operation);
            return;
        }
        end_slot(b, (u32)r.id, r.status);
    }
}

void blkfront_poll(struct blkfront *b)
{
    struct device *d = &b->device;
    device_update(d);
    if (b->connected)
        take_responses(b);
    if (b->connected && (d->failed || d->peer != XenbusStateConnected)) {
        blkfront_disconnect(b);
        if (!d->failed && d->peer != XenbusStateUnknown)
            device_set_state(d, XenbusStateInitialising); /* and wait to be invited again */
    }
    if (!b->connected && !d->failed && d->state == XenbusStateInitialising && d->peer == XenbusStateInitWait)
        blkfront_connect(b);
}

static bool stirred(void *arg)
{
    struct blkfront *b = arg;
    return !b->connected || b->device.failed || device_stirred(&b->device) || !ring_idle_responses(&b->ring);
}

static void wait(struct blkfront *b)
{
    blkfront_push(b);
    thread_wait(stirred, b);
    blkfront_poll(b);
}

void blkfront_wait(struct blkfront *b, struct block_request *r)
{
    blkfront_push(b);
    while (!r->done)
        wait(b);
}

void blkfront_push(struct blkfront *b)
{
    if (b->connected && b->ring.req_prod != b->ring.page->req_prod && ring_push_requests(&b->ring))
        event_send(b->port);
}

/* The pages of r as segments: the first may begin late, the last may end early. */
static void fill_segments(struct blkfront *b, u32 id, const struct block_request *r, struct blkif_segment *segments)
{
    u32 left = r->sectors, first = r->skip;
    for (u32 i = 0; i < b->slots[id].segments; i++, first = 0) {
        u32 last = first + left > 8 ? 7 : first + left - 1;
        u32 ref = grant_access(b->device.backend, va_to_mfn(r->pages[i]), r->operation == BLKIF_OP_WRITE);
        b->slots[id].refs[i] = ref;
        segments[i] = (struct blkif_segment){ref, (u8)first, (u8)last};
        left -= last - first + 1;
    }
}

bool blkfront_submit(struct blkfront *b, struct block_request *r)
{
    bool data = r->operation == BLKIF_OP_READ || r->operation == BLKIF_OP_WRITE;
    u32 pages = data ? (r->skip + r->sectors + 7) / 8 : 0, refs = pages + (pages > BLKIF_SEGMENTS);
    r->done = false;
    r->status = BLKIF_RSP_ERROR;
    if (pages > blkfront_largest(b) || (data && (!r->sectors || r->skip > 7)))
        return false;
    while (b->connected && !b->device.failed && (slots_out(b) == BLKFRONT_SLOTS || b->refs_out + refs > BLKFRONT_REFS))
        wait(b);
    if (!b->connected || b->device.failed)
        return false;
    u32 id = 0;
    while (b->slots[id].request)
        id++;
    b->slots[id].request = r;
    b->slots[id].segments = pages;
    b->refs_out += refs;
    struct blkif_request q = {r->operation, (u8)pages, (u16)b->device.id, id, r->sector, {{{0}}}};
    if (r->operation == BLKIF_OP_DISCARD)
        q.u.nr_sectors = r->sectors;
    else if (pages <= BLKIF_SEGMENTS)
        fill_segments(b, id, r, q.u.seg);
    else {
        b->slots[id].table = page_alloc();
        b->slots[id].table_ref = grant_access(b->device.backend, va_to_mfn(b->slots[id].table), true);
        fill_segments(b, id, r, b->slots[id].table);
        q.operation = BLKIF_OP_INDIRECT;
        q.nr_segments = r->operation; /* indirect_op */
        q.handle = (u16)pages;        /* nr_segments */
        q.u.indirect.handle = (u16)b->device.id;
        q.u.indirect.gref[0] = b->slots[id].table_ref;
        b->indirect++;
    }
    b->slots[id].operation = r->operation; /* also of an indirect request: so Linux's blkback answers */
    ring_put_request(&b->ring, &q);
    b->requests++;
    return true;
}

short blkfront_do(struct blkfront *b, u8 operation, u64 sector, u32 sectors, void *const *pages)
{
    struct block_request r = {operation, sector, sectors, 0, pages, false, 0};
    if (!blkfront_submit(b, &r))
        return BLKIF_RSP_ERROR;
    blkfront_wait(b, &r);
    return r.status;
}
