/* A network back end: frames of the front end go to the switch, the switch's to the front end, all by grant copies. */
#include "back.h"

enum { FRAME_MAX = NETIF_SLOTS_MAX * 4096, HEADER = 14 };
struct vif {
    struct bridge *bridge;
    struct back_ring tx, rx;
    u32 tx_handle, rx_handle, port_tx, port_rx;
    bool joined, sg, needs_sums;
};
static u8 frame[FRAME_MAX] aligned(4096); /* one at a time: the thread of the back ends does not yield in between */

static int offer(struct back *b)
{
    struct noxs_vif *page = (struct noxs_vif *)b->page;
    const struct vif_config *c = &b->config.vif;
    page->vifid = b->devid;
    page->be_feat = VIF_BE_rx_copy | VIF_BE_sg | VIF_BE_split_event_channels;
    page->max_queues = 1;
    page->num_queues = 1;
    page->tx_ring_ref = page->rx_ring_ref = ~0U;
    page->ip = c->ip;
    for (u32 i = 0; i < 6; i++)
        page->mac[i] = c->mac[i];
    memcpy(page->bridge, c->bridge, sizeof page->bridge);
    return 0;
}

static void disconnect(struct back *b)
{
    struct vif *v = b->own;
    if (!v)
        return;
    if (v->joined)
        bridge_leave(v->bridge, b);
    if (v->port_tx)
        event_close(v->port_tx);
    if (v->port_rx && v->port_rx != v->port_tx)
        event_close(v->port_rx);
    if (v->tx.page)
        back_unmap(v->tx.page, v->tx_handle);
    if (v->rx.page)
        back_unmap(v->rx.page, v->rx_handle);
    memory_release(v);
    b->own = NULL;
}

/* Every field of the page is read once. */
static bool connect(struct back *b)
{
    const struct noxs_vif *page = (const struct noxs_vif *)b->page;
    u32 features = page->fe_feat;
    struct vif_words w = {page->tx_ring_ref, page->rx_ring_ref, page->event_channel_tx, page->event_channel_rx, page->num_queues,
                          page->request_rx_copy, features & VIF_FE_sg, features & VIF_FE_no_csum_offload};
    return vif_connect(b, &w);
}

bool vif_connect(struct back *b, const struct vif_words *w)
{
    struct vif *v = b->own = memory_take(sizeof *v);
    if (!v) {
        back_lack(b, -ENOMEM, "memory");
        return false;
    }
    v->sg = w->sg;
    v->needs_sums = w->needs_sums;
    if (!w->copies || w->queues != 1) {
        back_fail(b, w->copies ? "it asks for more queues than were offered" : "it does not let its buffers be copied to");
        return false;
    }
    void *tx = back_map(b, w->tx_ref, &v->tx_handle, "its rings are not granted");
    if (tx)
        v->tx = BACK_RING(tx, struct netif_tx_request, struct netif_tx_response);
    void *rx = tx ? back_map(b, w->rx_ref, &v->rx_handle, "its rings are not granted") : NULL;
    if (rx)
        v->rx = BACK_RING(rx, struct netif_rx_request, struct netif_rx_response);
    if (!rx || !(v->port_tx = v->port_rx = back_bind(b, w->tx_port)))
        return false;
    if (w->tx_port != w->rx_port && !(v->port_rx = back_bind(b, w->rx_port)))
        return false;
    v->bridge = bridge_find(b->config.vif.bridge);
    v->joined = v->bridge && bridge_join(v->bridge, b);
    if (!v->joined)
        back_lack(b, -ENOMEM, "memory");
    return v->joined;
}

static u32 sum_add(u32 sum, const u8 *data, u32 n)
{
    for (u32 i = 0; i + 1 < n; i += 2)
        sum += (u32)data[i] << 8 | data[i + 1];
    return n & 1 ? sum + ((u32)data[n - 1] << 8) : sum;
}

/* TCP's or UDP's checksum, which the sender left to whoever needs it, into a frame of IPv4. */
static void fill_sum(u8 *f, u32 n)
{
    u32 header = (f[HEADER] & 15u) * 4, at = HEADER + header;
    if (n < HEADER + 20 || f[12] != 8 || f[13] || f[HEADER] >> 4 != 4 || header < 20 || at + 20 > n + 12)
        return;
    u32 length = ((u32)f[HEADER + 2] << 8 | f[HEADER + 3]), protocol = f[HEADER + 9], place = at + (protocol == 6 ? 16 : 6);
    if ((protocol != 6 && protocol != 17) || length < header + 8 || HEADER + length > n || place + 2 > n)
        return;
    f[place] = f[place + 1] = 0;
    u32 sum = sum_add(protocol + length - header, f + HEADER + 12, 8);
    sum = sum_add(sum, f + at, length - header);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    sum = ~sum & 0xffff;
    if (!sum && protocol == 17)
        sum = 0xffff;
    f[place] = (u8)(sum >> 8);
    f[place + 1] = (u8)sum;
}

void vif_deliver(struct back *b, u8 *data, u32 n, bool *blank)
{
    struct vif *v = b->own;
    struct gnttab_copy copies[NETIF_SLOTS_MAX];
    struct back_copy c = {copies, COUNT(copies), 0, false};
    struct netif_rx_request q[NETIF_SLOTS_MAX];
    u32 slots = (n + 4095) / 4096;
    if (!b->connected || b->failed)
        return;
    s64 there = ring_requests(&v->rx);
    if (there < 0) {
        back_fail(b, "impossible req_prod on the receive ring");
        back_stir(b);
        return;
    }
    if (there < slots || (slots > 1 && !v->sg)) {
        b->dropped++;
        return;
    }
    if (*blank && v->needs_sums) {
        fill_sum(data, n);
        *blank = false;
    }
    for (u32 i = 0; i < slots; i++) { /* `data` begins a page, so no piece crosses one */
        u32 here = n - i * 4096 < 4096 ? n - i * 4096 : 4096;
        ring_get_request(&v->rx, &q[i]);
        back_copy_add(&c, b, true, q[i].gref, 0, data + i * 4096, here);
    }
    back_copy_end(&c);
    for (u32 i = 0; i < slots; i++) {
        bool good = copies[i].status == GNTST_okay;
        u16 flags = i + 1 < slots ? NETRXF_more_data : 0;
        if (!i && *blank)
            flags |= NETRXF_csum_blank | NETRXF_data_validated;
        ring_put_response(&v->rx, &(struct netif_rx_response){q[i].id, 0, flags, good ? (short)copies[i].len : (short)NETIF_RSP_ERROR});
        b->errors += !good;
    }
    b->out++;
    if (ring_push_responses(&v->rx))
        event_send(v->port_rx);
}

/* The next frame that the front end sends: its length, 0 when it could not be copied, -1 when it broke the rules. */
static s64 take(struct back *b, struct vif *v, s64 *waiting, bool *blank)
{
    struct netif_tx_request q[NETIF_SLOTS_MAX];
    struct gnttab_copy copies[2 * NETIF_SLOTS_MAX];
    struct back_copy c = {copies, COUNT(copies), 0, false};
    u32 n = 0, at = 0;
    do {
        if (*waiting <= 0 || n == NETIF_SLOTS_MAX)
            return -1;
        ring_get_request(&v->tx, &q[n]);
        --*waiting;
        if (q[n].flags & NETTXF_extra_info)
            return -1;
    } while (q[n++].flags & NETTXF_more_data);
    u32 head = q[0].size; /* the first one's size is the frame's */
    for (u32 i = 1; i < n; i++) {
        if (q[i].size > head)
            return -1;
        head -= q[i].size;
    }
    for (u32 i = 0; i < n; i++) {
        u32 size = i ? q[i].size : head;
        if (!size || q[i].offset + size > PAGE_SIZE || at + size > FRAME_MAX)
            return -1;
        back_copy_add(&c, b, false, q[i].gref, q[i].offset, frame + at, size);
        at += size;
    }
    bool good = back_copy_end(&c) && at >= HEADER;
    *blank = q[0].flags & NETTXF_csum_blank;
    for (u32 i = 0; i < n; i++)
        ring_put_response(&v->tx, &(struct netif_tx_response){q[i].id, good ? NETIF_RSP_OKAY : NETIF_RSP_ERROR});
    return good ? at : 0;
}

static bool work(struct back *b)
{
    struct vif *v = b->own;
    s64 waiting = ring_requests(&v->tx);
    if (waiting < 0)
        back_fail(b, "impossible req_prod on the transmit ring");
    bool any = waiting > 0;
    while (waiting > 0 && !b->failed) {
        bool blank = false;
        s64 n = take(b, v, &waiting, &blank);
        if (n < 0)
            back_fail(b, "a transmit request that nobody may send");
        else if (n)
            bridge_frame(v->bridge, b, frame, (u32)n, blank);
        b->in += n > 0;
        b->errors += !n;
    }
    if (any && !b->failed && ring_push_responses(&v->tx))
        event_send(v->port_tx);
    return !b->failed && !ring_idle_requests(&v->tx);
}

static void close(struct back *b)
{
    (void)b;
}

const struct back_kind back_vif = {noxs_dev_vif, "vif", offer, connect, vif_offer_xs, vif_connect_xs, "hotplug-status", vif_settled, disconnect,
                                   close, work};
