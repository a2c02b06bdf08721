/* A disk back end: requests of one ring on a file of the file area, all by grant copies. The answers to what io/blkif.h leaves open are
 * those of Linux's blkback, as in pyvmm/backends/vbd.py.
 *
 * A request is copied from the ring, then checked, then done. What is wrong with one of them is answered with an error; what makes the
 * ring meaningless closes the device. Nothing is written unless all of a request's data could be had.
 */
#include "back.h"
#include "files.h"

enum { SECTOR = 512, A_PAGE = PAGE_SIZE / SECTOR, COPIES = 64, A_TURN = 32, TYPE_FILE = 2 };
static u8 bounce[VBD_INDIRECT * PAGE_SIZE] aligned(4096);          /* of a write; the thread of the back ends does not yield in between */
static struct blkif_segment table[VBD_INDIRECT] aligned(4096);

int vbd_open(struct back *b, const struct file *file, const struct vbd *as)
{
    if (!file)
        return -ENOENT;
    int rc = disk_open(file, !as->readonly);
    if (rc)
        return rc;
    struct vbd *v = b->own = memory_take(sizeof *v);
    if (!v) {
        disk_close(file, !as->readonly);
        return -ENOMEM;
    }
    *v = *as;
    v->file = file;
    v->sectors = file->size / SECTOR; /* a last part that is no whole sector is not part of the disk */
    return 0;
}

static void close(struct back *b)
{
    struct vbd *v = b->own;
    if (!v)
        return;
    disk_close(v->file, !v->readonly);
    memory_release(v);
    b->own = NULL;
}

u32 vbd_info(const struct vbd *v)
{
    return (v->cdrom ? VDISK_CDROM : 0) | (v->removable ? VDISK_REMOVABLE : 0) | (v->readonly ? VDISK_READONLY : 0);
}

static int offer(struct back *b)
{
    struct noxs_vbd *page = (struct noxs_vbd *)b->page;
    const struct vbd_config *c = &b->config.vbd;
    if (!b->own) {
        int rc = vbd_open(b, c->target[0] ? file_find(c->target) : NULL,
                          &(struct vbd){.readonly = c->readonly, .cdrom = c->cdrom, .removable = c->cdrom, .discard = !c->no_discard});
        if (rc)
            return rc;
    }
    page->major = LOOP_MAJOR;
    page->minor = disk_number(((struct vbd *)b->own)->file);
    page->type = TYPE_FILE;
    page->mode = c->readonly ? noxs_vbd_rdonly : noxs_vbd_rdwr;
    page->max_indirect_segments = VBD_INDIRECT;
    page->max_rings = 1;
    page->max_ring_page_order = 0;
    return 0;
}

/* Every field of the page is read once. One that leaves num_rings 0 means one. */
static bool connect(struct back *b)
{
    struct noxs_vbd *page = (struct noxs_vbd *)b->page;
    const struct vbd *v = b->own;
    struct vbd_words w = {page->ring.ref, page->ring.evtchn, page->num_rings, page->ring_page_order, ""};
    bool writes = !v->readonly;
    for (u32 i = 0; i + 1 < sizeof w.protocol; i++)
        w.protocol[i] = ((const volatile char *)page->protocol)[i];
    w.queues += !w.queues;
    if (!vbd_connect(b, &w))
        return false;
    page->discard_enable = writes && v->discard;
    page->discard_granularity = writes && v->discard ? SECTOR : 0;
    page->discard_alignment = page->discard_secure = 0;
    page->be_feat = (writes ? VBD_BE_flush_cache | VBD_BE_barrier : 0) | (writes && v->discard ? VBD_BE_discard : 0);
    page->sectors = v->sectors;
    page->info = vbd_info(v);
    page->sector_size = page->sector_size_physical = SECTOR;
    return true;
}

static void disconnect(struct back *b)
{
    struct vbd *v = b->own;
    if (v && v->port)
        event_close(v->port);
    if (v && v->ring.page)
        back_unmap(v->ring.page, v->handle);
    if (v)
        v->port = 0, v->ring.page = NULL;
}

bool vbd_connect(struct back *b, const struct vbd_words *w)
{
    struct vbd *v = b->own;
    if (w->queues != 1 || w->order || (w->protocol[0] && strcmp(w->protocol, "x86_64-abi"))) {
        back_fail(b, "it asks for rings that were not offered");
        return false;
    }
    void *page = back_map(b, w->ref, &v->handle, "its ring is not granted");
    if (!page)
        return false;
    v->ring = BACK_RING(page, struct blkif_request, struct blkif_response);
    return (v->port = back_bind(b, w->port)) != 0;
}

static bool inside(const struct vbd *v, u64 sector, u64 n)
{
    return sector <= v->sectors && n <= v->sectors - sector;
}

/* Between the disk and the segments, which nobody else can change any more. */
static short transfer(struct back *b, u8 operation, u64 sector, const struct blkif_segment *segments, u32 n)
{
    static struct gnttab_copy list[COPIES];
    struct vbd *v = b->own;
    struct back_copy copies = {list, COPIES, 0, false};
    bool read = operation == BLKIF_OP_READ;
    u64 total = 0;
    for (u32 i = 0; i < n; i++) {
        if (segments[i].first_sect > segments[i].last_sect || segments[i].last_sect >= A_PAGE)
            return BLKIF_RSP_ERROR;
        total += segments[i].last_sect - segments[i].first_sect + 1u;
    }
    if (!inside(v, sector, total) || (!read && v->readonly))
        return BLKIF_RSP_ERROR;
    u8 *disk = (u8 *)v->file->data + sector * SECTOR, *at = read ? disk : bounce;
    for (u32 i = 0, bytes; i < n; i++, at += bytes) {
        bytes = (segments[i].last_sect - segments[i].first_sect + 1u) * SECTOR;
        back_copy_add(&copies, b, read, segments[i].gref, segments[i].first_sect * SECTOR, at, bytes);
    }
    if (!back_copy_end(&copies))
        return BLKIF_RSP_ERROR;
    if (!read)
        memcpy(disk, bounce, total * SECTOR);
    *(read ? &b->out : &b->in) += total;
    return BLKIF_RSP_OKAY;
}

static short indirect(struct back *b, const struct blkif_request *q)
{
    struct gnttab_copy list[2];
    struct back_copy copies = {list, COUNT(list), 0, false};
    u8 operation = q->nr_segments; /* an indirect request has its operation there, and its count in the handle's place */
    u32 n = q->handle;
    if ((operation != BLKIF_OP_READ && operation != BLKIF_OP_WRITE) || !n || n > VBD_INDIRECT)
        return BLKIF_RSP_ERROR;
    back_copy_add(&copies, b, false, q->u.indirect.gref[0], 0, (u8 *)table, n * sizeof *table);
    return back_copy_end(&copies) ? transfer(b, operation, q->sector, table, n) : BLKIF_RSP_ERROR;
}

static short serve(struct back *b, const struct blkif_request *q)
{
    struct vbd *v = b->own;
    bool flush = q->operation == BLKIF_OP_FLUSH_DISKCACHE || q->operation == BLKIF_OP_WRITE_BARRIER; /* both may come without data */
    switch (q->operation) {
    case BLKIF_OP_READ:
    case BLKIF_OP_WRITE:
    case BLKIF_OP_WRITE_BARRIER:
    case BLKIF_OP_FLUSH_DISKCACHE: /* memory is as safe as it ever will be: what is left is the data that comes with it */
        if (q->nr_segments > BLKIF_SEGMENTS || (!q->nr_segments && !flush) || (flush && v->readonly))
            return BLKIF_RSP_ERROR;
        return q->nr_segments ? transfer(b, q->operation, q->sector, q->u.seg, q->nr_segments) : BLKIF_RSP_OKAY;
    case BLKIF_OP_INDIRECT:
        return indirect(b, q);
    case BLKIF_OP_DISCARD:
        if (!v->discard)
            return BLKIF_RSP_EOPNOTSUPP;
        if (v->readonly || !inside(v, q->sector, q->u.nr_sectors))
            return BLKIF_RSP_ERROR;
        memset((u8 *)v->file->data + q->sector * SECTOR, 0, q->u.nr_sectors * SECTOR);
        return BLKIF_RSP_OKAY;
    default:
        return BLKIF_RSP_EOPNOTSUPP;
    }
}

static bool work(struct back *b)
{
    struct vbd *v = b->own;
    s64 waiting = ring_requests(&v->ring), n = waiting < A_TURN ? waiting : A_TURN;
    if (waiting < 0)
        back_fail(b, "impossible req_prod on its ring");
    for (; n > 0; n--) {
        struct blkif_request q;
        ring_get_request(&v->ring, &q);
        u8 operation = q.operation == BLKIF_OP_INDIRECT ? q.nr_segments : q.operation; /* Linux's blkfront insists on what is done */
        struct blkif_response r = {q.id, operation, serve(b, &q)};
        b->errors += r.status != BLKIF_RSP_OKAY;
        ring_put_response(&v->ring, &r);
    }
    if (waiting > 0 && ring_push_responses(&v->ring))
        event_send(v->port);
    return !b->failed && !ring_idle_requests(&v->ring);
}

const struct back_kind back_vbd = {noxs_dev_vbd, "vbd", offer, connect, vbd_offer_xs, vbd_connect_xs, "physical-device", vbd_settled, disconnect,
                                   close, work};
