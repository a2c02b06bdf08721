/* A disk back end over this guest's memory: `sectors=N` of it, `readonly`, `indirect=N` segments at most (0: not offered). */
#include "back.h"
#include "blkfront.h"

static struct back back;
static struct back_ring ring;
static u32 handle, port;
static bool connected, readonly;
static u64 sectors, served;
static u32 max_indirect;
static u8 *store[2048]; /* pages */

static void rang(u32 p, void *arg)
{
    (void)p, (void)arg;
}

static void offer(void)
{
    if (back.noxs) {
        struct noxs_vbd *page = (struct noxs_vbd *)back.page;
        page->max_indirect_segments = (u16)max_indirect;
        page->mode = readonly ? noxs_vbd_rdonly : noxs_vbd_rdwr;
        page->max_rings = 1;
    } else
        xs_put(0, back.path, "feature-max-indirect-segments", "%u", max_indirect);
}

static void details(void)
{
    if (back.noxs) {
        struct noxs_vbd *page = (struct noxs_vbd *)back.page;
        page->sectors = sectors;
        page->sector_size = page->sector_size_physical = SECTOR;
        page->info = readonly ? VDISK_READONLY : 0;
        page->be_feat = VBD_BE_flush_cache | VBD_BE_discard;
        page->discard_granularity = SECTOR;
    } else {
        xs_put(0, back.path, "sectors", "%lu", sectors);
        xs_put(0, back.path, "sector-size", "%u", SECTOR);
        xs_put(0, back.path, "info", "%u", readonly ? VDISK_READONLY : 0);
        xs_put(0, back.path, "feature-flush-cache", "1");
        xs_put(0, back.path, "feature-discard", "1");
        xs_put(0, back.path, "discard-granularity", "%u", SECTOR);
    }
}

static bool connect(void)
{
    u64 ref, event;
    if (back.noxs) {
        const struct noxs_vbd *page = (const struct noxs_vbd *)back.page;
        ref = page->ring.ref;
        event = page->ring.evtchn;
    } else {
        ref = xs_number(NULL, back.front, "ring-ref", ~0U);
        event = xs_number(NULL, back.front, "event-channel", ~0U);
    }
    void *page = back_map(&back, (u32)ref, &handle, false);
    s64 bound = page ? back_bind(&back, (u32)event, rang, NULL) : -1;
    if (bound < 0) {
        back_fail(&back, "its ring or port cannot be had");
        return false;
    }
    ring = BACK_RING(page, struct blkif_request, struct blkif_response);
    port = (u32)bound;
    return connected = true;
}

static void disconnect(void)
{
    if (!connected)
        return;
    connected = false;
    event_close(port);
    back_unmap(ring.page, handle);
}

/* Between a granted page and the store, a sector at a time. */
static bool segment(const struct blkif_segment *s, u64 sector, bool write)
{
    u32 h;
    u8 *page = back_map(&back, s->gref, &h, write);
    if (!page)
        return false;
    for (u32 i = s->first_sect; i <= s->last_sect; i++, sector++) {
        u8 *ours = store[sector / 8] + sector % 8 * SECTOR, *theirs = page + i * SECTOR;
        memcpy(write ? ours : theirs, write ? theirs : ours, SECTOR);
    }
    back_unmap(page, h);
    return true;
}

static short transfer(u8 operation, u64 sector, u32 count, const struct blkif_segment *shared)
{
    struct blkif_segment s[BLKFRONT_SEGMENTS];
    u64 total = 0;
    bool write = operation == BLKIF_OP_WRITE;
    if (count > COUNT(s) || !count || (operation != BLKIF_OP_READ && !write))
        return BLKIF_RSP_ERROR;
    memcpy(s, shared, count * sizeof *s);
    for (u32 i = 0; i < count; i++) {
        if (s[i].first_sect > s[i].last_sect || s[i].last_sect > 7)
            return BLKIF_RSP_ERROR;
        total += s[i].last_sect - s[i].first_sect + 1u;
    }
    if (sector >= sectors || total > sectors - sector || (write && readonly))
        return BLKIF_RSP_ERROR;
    for (u32 i = 0; i < count; i++) {
        if (!segment(&s[i], sector, write))
            return BLKIF_RSP_ERROR;
        sector += s[i].last_sect - s[i].first_sect + 1u;
    }
    return BLKIF_RSP_OKAY;
}

static short indirect(const struct blkif_request *q)
{
    u32 h, count = q->handle; /* where an indirect request has its nr_segments */
    if (!max_indirect || count > max_indirect)
        return BLKIF_RSP_ERROR;
    struct blkif_segment *table = back_map(&back, q->u.indirect.gref[0], &h, true);
    if (!table)
        return BLKIF_RSP_ERROR;
    short status = transfer(q->nr_segments, q->sector, count, table);
    back_unmap(table, h);
    return status;
}

static short serve(const struct blkif_request *q)
{
    switch (q->operation) {
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
        return q->nr_segments > BLKIF_SEGMENTS ? BLKIF_RSP_ERROR : transfer(q->operation, q->sector, q->nr_segments, q->u.seg);
    case BLKIF_OP_INDIRECT:
        return indirect(q);
    case BLKIF_OP_FLUSH_DISKCACHE:
        return BLKIF_RSP_OKAY;
    case BLKIF_OP_DISCARD:
        if (readonly || q->sector >= sectors || q->u.nr_sectors > sectors - q->sector)
            return BLKIF_RSP_ERROR;
        for (u64 i = q->sector; i < q->sector + q->u.nr_sectors; i++)
            memset(store[i / 8] + i % 8 * SECTOR, 0, SECTOR);
        return BLKIF_RSP_OKAY;
    default:
        return BLKIF_RSP_EOPNOTSUPP;
    }
}

/* What a front end has to survive: one breach of the rules, named on the command line, after a few good requests. */
static bool misbehave(struct blkif_response *r)
{
    char way[16] = "";
    if (served != 5 || !option("evil", way, sizeof way))
        return true;
    if (!strcmp(way, "prod"))
        ring.rsp_prod += 1000; /* published with this response */
    else if (!strcmp(way, "id"))
        r->id = 0xffffffff00000000;
    else if (!strcmp(way, "idle-id"))
        r->id = BLKFRONT_SLOTS - 1;
    else if (!strcmp(way, "operation"))
        r->operation ^= 1;
    else if (!strcmp(way, "state"))
        back_set_state(&back, 77);
    return strcmp(way, "silent"); /* it is never answered */
}

static bool poll(void)
{
    s64 waiting = ring_requests(&ring), n = waiting;
    if (waiting < 0)
        back_fail(&back, "impossible req_prod");
    for (; n > 0; n--, served++) {
        struct blkif_request q;
        ring_get_request(&ring, &q);
        u8 operation = q.operation == BLKIF_OP_INDIRECT ? q.nr_segments : q.operation; /* indirect_op: what is done, not how it is said */
        struct blkif_response r = {q.id, operation, serve(&q)};
        if (misbehave(&r))
            ring_put_response(&ring, &r);
    }
    if (waiting > 0 && ring_push_responses(&ring))
        event_send(port);
    return waiting > 0;
}

static bool stirred(void *arg)
{
    (void)arg;
    return back_stirred(&back) || (connected && !ring_idle_requests(&ring));
}

void blkback_serve(u32 peer, bool noxs, u64 rounds)
{
    sectors = option_number("sectors", 2048);
    max_indirect = (u32)option_number("indirect", 32);
    readonly = option("readonly", NULL, 0);
    if (sectors > COUNT(store) * 8)
        panic("a disk has up to %lu sectors", COUNT(store) * 8);
    for (u64 i = 0; i * 8 < sectors; i++)
        store[i] = page_alloc();
    back_open(&back, noxs_dev_vbd, peer, noxs);
    for (u64 round = 0; round < rounds; round++) {
        offer();
        back_offer(&back);
        back_wait(&back, STATES(XenbusStateInitialised, XenbusStateConnected));
        if (connect()) {
            details();
            back_set_state(&back, XenbusStateConnected);
            while (!back.failed && (back.other == XenbusStateInitialised || back.other == XenbusStateConnected)) {
                if (!poll())
                    thread_wait(stirred, NULL);
                back_update(&back);
            }
        }
        disconnect();
        back_set_state(&back, XenbusStateClosing);
        back_wait(&back, STATES(XenbusStateUnknown, XenbusStateClosed, XenbusStateInitialising));
        back_set_state(&back, XenbusStateClosed);
        if (round + 1 < rounds)
            back_wait(&back, STATES(XenbusStateInitialising));
    }
    printf("blkback: %lu requests\n", served);
}
