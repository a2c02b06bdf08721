/* The data path of a network front end: two rings, buffers that stay granted while connected, copies in and out of them.
 *
 * Nothing in a granted page is parsed: a frame is copied out first, whatever number of slots it came in.
 */
#include "netfront.h"

static u8 whole[FRAME_MAX]; /* a received frame */

static void rang(u32 port, void *arg)
{
    (void)port, (void)arg; /* waking the domain is all */
}

static s64 channel(struct netfront *n)
{
    s64 port = event_alloc_unbound(n->device.backend);
    if (port < 0)
        panic("no event channel");
    event_bind((u32)port, rang, n);
    return port;
}

/* A page that the back end still maps stays granted, and is lost to us: it must not be used for anything else. */
static void take_back(u32 ref, void *page)
{
    if (grant_end(ref))
        page_free(page);
}

static void buffers_make(struct netfront_buffer *buffers, u32 count, u32 domid, bool readonly)
{
    for (struct netfront_buffer *b = buffers; b < buffers + count; b++) {
        b->page = page_alloc();
        b->ref = grant_access(domid, va_to_mfn(b->page), readonly);
        b->out = false;
    }
}

static void data_make(struct netfront *n)
{
    u32 peer = n->device.backend;
    struct ring_page *tx = page_alloc(), *rx = page_alloc();
    ring_page_init(tx);
    ring_page_init(rx);
    n->tx = FRONT_RING(tx, struct netif_tx_request, struct netif_tx_response);
    n->rx = FRONT_RING(rx, struct netif_rx_request, struct netif_rx_response);
    n->tx_ref = grant_access(peer, va_to_mfn(tx), false);
    n->rx_ref = grant_access(peer, va_to_mfn(rx), false);
    buffers_make(n->tx_buffers, NETFRONT_TX, peer, true);
    buffers_make(n->rx_buffers, NETFRONT_RX, peer, false);
    n->tx_port = n->rx_port = (u32)channel(n);
    if (n->offer.split_channels)
        n->rx_port = (u32)channel(n);
}

static void data_drop(struct netfront *n)
{
    for (u32 i = 0; i < NETFRONT_TX; i++)
        take_back(n->tx_buffers[i].ref, n->tx_buffers[i].page);
    for (u32 i = 0; i < NETFRONT_RX; i++)
        take_back(n->rx_buffers[i].ref, n->rx_buffers[i].page);
    take_back(n->tx_ref, n->tx.page);
    take_back(n->rx_ref, n->rx.page);
    event_close(n->tx_port);
    if (n->rx_port != n->tx_port)
        event_close(n->rx_port);
}

/* Every free receive buffer goes to the back end. */
static void refill(struct netfront *n)
{
    for (u32 i = 0; i < NETFRONT_RX; i++)
        if (!n->rx_buffers[i].out) {
            n->rx_buffers[i].out = true;
            ring_put_request(&n->rx, &(struct netif_rx_request){(u16)i, 0, n->rx_buffers[i].ref});
        }
    if (n->rx.req_prod != n->rx.page->req_prod && ring_push_requests(&n->rx))
        event_send(n->rx_port);
}

bool netfront_connect(struct netfront *n)
{
    struct device *d = &n->device;
    bool good, torn;
    do { /* until the offer is of one back end: while it was read the device may have been replaced */
        if (device_wait(d, STATES(XenbusStateInitWait, XenbusStateConnected) | STATES_GONE) != XenbusStateInitWait)
            return false;
        bool earlier = device_disturbed(d);
        d->changed = false;
        memset(&n->offer, 0, sizeof n->offer);
        good = n->way->read_offer(d, &n->offer);
        torn = device_disturbed(d);
        d->changed |= earlier;
    } while (torn);
    if (!good)
        return false;
    data_make(n);
    struct netfront_ask ask = {n->tx_ref, n->rx_ref, n->tx_port, n->rx_port, true, false};
    d->state = XenbusStateConnected;
    bool published = n->way->publish(d, &ask);
    if (!published && device_disturbed(d))
        device_lose(d);
    n->connected = published && device_wait(d, STATES(XenbusStateConnected) | STATES_GONE) == XenbusStateConnected;
    if (n->connected) {
        n->connections++;
        refill(n);
    } else {
        device_shut(d);
        data_drop(n);
    }
    return n->connected;
}

bool netfront_open(struct netfront *n, const char *option_name, u32 index)
{
    const struct bus *bus = bus_choose(option_name, noxs_dev_vif);
    memset(n, 0, sizeof *n);
    n->way = bus == &bus_noxs ? &netfront_noxs : &netfront_xs;
    if (!device_open(&n->device, bus, noxs_dev_vif, index))
        return false;
    return netfront_connect(n);
}

void netfront_disconnect(struct netfront *n)
{
    if (!n->connected)
        return;
    n->connected = false;
    device_shut(&n->device);
    data_drop(n);
}

void netfront_close(struct netfront *n)
{
    netfront_disconnect(n);
    device_close(&n->device);
}

/* Responses to what was sent: each frees a buffer. False: the back end broke the rules. */
static bool reap(struct netfront *n)
{
    s64 waiting = ring_responses(&n->tx);
    if (waiting < 0)
        device_fail(&n->device, "transmit ring: rsp_prod %u, with requests %u to %u", n->tx.page->rsp_prod, n->tx.rsp_cons, n->tx.req_prod);
    for (; waiting > 0; waiting--) {
        struct netif_tx_response r;
        ring_get_response(&n->tx, &r);
        if (r.id >= NETFRONT_TX || !n->tx_buffers[r.id].out) {
            device_fail(&n->device, "transmit response for id %u, which was not sent", r.id);
            break;
        }
        n->tx_buffers[r.id].out = false;
        if (r.status < NETIF_RSP_OKAY)
            n->errors++;
    }
    return !n->device.failed;
}

static u32 free_buffers(struct netfront *n)
{
    u32 count = 0;
    for (u32 i = 0; i < NETFRONT_TX; i++)
        count += !n->tx_buffers[i].out;
    return count;
}

static bool can_send(void *arg)
{
    struct netfront *n = arg;
    return device_stirred(&n->device) || !ring_idle_responses(&n->tx);
}

bool netfront_send(struct netfront *n, const void *frame, u32 bytes, u32 first, u32 flags)
{
    u32 slots = first && first < bytes ? 1 + (bytes - first + 4095) / 4096 : (bytes + 4095) / 4096;
    if (first > 4096 || !bytes || slots > NETIF_SLOTS_MAX || (slots > 1 && !n->offer.sg))
        return false;
    if (flags & NETFRONT_csum_blank && n->offer.no_csum_offload)
        return false;
    while (n->connected && reap(n) && free_buffers(n) < slots) {
        thread_wait(can_send, n);
        if (device_update(&n->device) && n->device.peer != XenbusStateConnected)
            return false; /* netfront_poll does what follows from it */
    }
    if (!n->connected || n->device.failed)
        return false;
    const u8 *from = frame;
    u32 left = bytes;
    for (u32 i = 0; left; i++) {
        struct netfront_buffer *b = &n->tx_buffers[i];
        if (b->out)
            continue;
        u32 here = left == bytes && first ? first : left;
        here = here > 4096 ? 4096 : here > left ? left : here;
        bool start = left == bytes;
        memcpy(b->page, from, here);
        b->out = true;
        /* The first request of a frame tells the size of all of it; the others their own. */
        struct netif_tx_request r = {b->ref, 0, 0, (u16)i, (u16)(start ? bytes : here)};
        if (start && flags & NETFRONT_csum_blank)
            r.flags |= NETTXF_csum_blank | NETTXF_data_validated;
        from += here;
        left -= here;
        if (left)
            r.flags |= NETTXF_more_data;
        ring_put_request(&n->tx, &r);
    }
    if (ring_push_requests(&n->tx))
        event_send(n->tx_port);
    n->frames_out++;
    return true;
}

/* The next received frame, put together in `whole`; its length, 0 for one that was bad, -1 for none. */
static s64 receive(struct netfront *n, s64 *waiting, u32 *flags)
{
    u32 length = 0;
    bool more = true, good = true;
    for (bool start = true; more; start = false) {
        struct netif_rx_response r;
        if (*waiting <= 0) {
            if (!start)
                device_fail(&n->device, "receive ring: a frame's last slot is missing");
            return -1;
        }
        ring_get_response(&n->rx, &r);
        --*waiting;
        if (r.id >= NETFRONT_RX || !n->rx_buffers[r.id].out) {
            device_fail(&n->device, "receive response for id %u, which was not posted", r.id);
            return -1;
        }
        struct netfront_buffer *b = &n->rx_buffers[r.id];
        b->out = false;
        if (start)
            *flags = (r.flags & NETRXF_csum_blank ? NETFRONT_csum_blank : 0u) | (r.flags & NETRXF_data_validated ? NETFRONT_csum_good : 0u);
        if (r.flags & (NETRXF_extra_info | NETRXF_gso_prefix)) {
            device_fail(&n->device, "receive response with flags %x, which were not asked for", r.flags);
            return -1;
        }
        if (r.status > 0 && (u32)r.offset + (u32)r.status > 4096) {
            device_fail(&n->device, "receive response of %d bytes at %u of a page", r.status, r.offset);
            return -1;
        }
        if (r.status <= 0 || length + (u32)r.status > sizeof whole)
            good = false;
        else {
            memcpy(whole + length, (u8 *)b->page + r.offset, (u64)r.status);
            length += (u32)r.status;
        }
        more = r.flags & NETRXF_more_data;
    }
    if (!good)
        n->errors++;
    return good ? length : 0;
}

/* Whether a whole frame waits: a chain may have been published in parts only by a back end that breaks the rules. */
static void take_frames(struct netfront *n, frame_handler handler, bool *any)
{
    s64 waiting = ring_responses(&n->rx);
    if (waiting < 0)
        device_fail(&n->device, "receive ring: rsp_prod %u, with requests %u to %u", n->rx.page->rsp_prod, n->rx.rsp_cons, n->rx.req_prod);
    while (waiting > 0 && n->connected) {
        u32 flags = 0;
        s64 length = receive(n, &waiting, &flags);
        if (length < 0)
            break;
        *any = true;
        if (length > 0) {
            n->frames_in++;
            handler(whole, (u32)length, flags);
        }
    }
}

bool netfront_poll(struct netfront *n, frame_handler handler)
{
    struct device *d = &n->device;
    bool any = false;
    if (!d->present)
        return false;
    if (device_update(d) || (n->connected && d->failed)) {
        if (n->connected && d->peer != XenbusStateConnected) {
            netfront_disconnect(n);
            if (d->peer != XenbusStateUnknown && !d->failed)
                device_set_state(d, XenbusStateInitialising); /* and wait to be invited again */
        } else if (n->connected && d->failed)
            netfront_disconnect(n);
    }
    if (!n->connected && !d->failed && d->state == XenbusStateInitialising && d->peer == XenbusStateInitWait)
        any = netfront_connect(n);
    if (!n->connected)
        return any;
    take_frames(n, handler, &any);
    if (n->connected && !d->failed) {
        reap(n);
        refill(n);
    }
    return any;
}

bool netfront_stirred(void *arg)
{
    struct netfront *n = arg;
    return n->device.present && (device_stirred(&n->device) || (n->connected && (n->device.failed || !ring_idle_responses(&n->rx))));
}
