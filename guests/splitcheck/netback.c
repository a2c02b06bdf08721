/* A network back end whose other side is this guest's own network stack: frames of the front end come in here, ours go to it.
 *
 * Frames are copied by grant, in both directions; nothing of the front end's but its rings is mapped.
 */
#include "back.h"
#include "net.h"

enum { BACK_IP = 0x0100000a }; /* 10.0.0.1 */
static struct back back;
static struct back_ring tx, rx;
static u32 tx_handle, rx_handle, port_tx, port_rx;
static bool connected, front_sg, split_channels, front_needs_sums;
static u64 frames_in, frames_out, dropped, blanks;
static u8 whole[FRAME_MAX] aligned(4096);

static void rang(u32 port, void *arg)
{
    (void)port, (void)arg;
}

static void offer(void)
{
    static const u8 mac[6] = {0, 0x16, 0x3e, 0, 0, 2};
    split_channels = option("split-channels", NULL, 0);
    bool no_offload = option("no-offload", NULL, 0);
    if (back.noxs) {
        struct noxs_vif *page = (struct noxs_vif *)back.page;
        page->be_feat = (u16)(VIF_BE_rx_copy | VIF_BE_sg | (split_channels ? VIF_BE_split_event_channels : 0) |
                              (no_offload ? VIF_BE_no_csum_offload : 0));
        for (u32 i = 0; i < 6; i++)
            page->mac[i] = mac[i];
    } else {
        xs_put(0, back.path, "feature-rx-copy", "1");
        xs_put(0, back.path, "feature-sg", "1");
        xs_put(0, back.path, "feature-split-event-channels", "%u", split_channels);
        xs_put(0, back.path, "feature-no-csum-offload", "%u", no_offload);
    }
}

static void disconnect(void)
{
    if (!connected)
        return;
    connected = false;
    event_close(port_tx);
    if (port_rx != port_tx)
        event_close(port_rx);
    back_unmap(tx.page, tx_handle);
    back_unmap(rx.page, rx_handle);
}

static bool connect(void)
{
    u64 tx_ref, rx_ref, event_tx, event_rx;
    if (back.noxs) {
        const struct noxs_vif *page = (const struct noxs_vif *)back.page;
        tx_ref = page->tx_ring_ref;
        rx_ref = page->rx_ring_ref;
        event_tx = page->event_channel_tx;
        event_rx = page->event_channel_rx;
        front_sg = page->fe_feat & VIF_FE_sg;
        front_needs_sums = page->fe_feat & VIF_FE_no_csum_offload;
    } else {
        tx_ref = xs_number(NULL, back.front, "tx-ring-ref", ~0U);
        rx_ref = xs_number(NULL, back.front, "rx-ring-ref", ~0U);
        event_tx = event_rx = xs_number(NULL, back.front, "event-channel", ~0U);
        if (split_channels) {
            event_tx = xs_number(NULL, back.front, "event-channel-tx", event_tx);
            event_rx = xs_number(NULL, back.front, "event-channel-rx", event_rx);
        }
        front_sg = xs_number(NULL, back.front, "feature-sg", 0) == 1;
        front_needs_sums = xs_number(NULL, back.front, "feature-no-csum-offload", 0) == 1;
    }
    void *tx_page = back_map(&back, (u32)tx_ref, &tx_handle, false);
    void *rx_page = tx_page ? back_map(&back, (u32)rx_ref, &rx_handle, false) : NULL;
    s64 one = rx_page ? back_bind(&back, (u32)event_tx, rang, NULL) : -1;
    s64 two = event_tx == event_rx || one < 0 ? one : back_bind(&back, (u32)event_rx, rang, NULL);
    if (two < 0) {
        back_fail(&back, "its rings or ports cannot be had");
        return false;
    }
    tx = BACK_RING(tx_page, struct netif_tx_request, struct netif_tx_response);
    rx = BACK_RING(rx_page, struct netif_rx_request, struct netif_rx_response);
    port_tx = (u32)one;
    port_rx = (u32)two;
    return connected = true;
}

/* Copy between a granted page of the front end and memory of ours that does not cross a page. */
static bool copy(u32 ref, u32 offset, void *ours, u32 n, bool to_front)
{
    struct gnttab_copy_end theirs = {{.ref = ref}, (u16)back.peer, (u16)offset};
    struct gnttab_copy_end mine = {{.gmfn = va_to_mfn(ours)}, DOMID_SELF, (u16)((u64)ours & (PAGE_SIZE - 1))};
    struct gnttab_copy c = {to_front ? mine : theirs, to_front ? theirs : mine, (u16)n, to_front ? GNTCOPY_dest_gref : GNTCOPY_source_gref, 0};
    return !hypercall_grant_table_op(GNTTABOP_copy, &c, 1) && c.status == GNTST_okay;
}

/* One frame of n bytes in as many slots as it takes; `first` of them, if asked, in the first. */
static bool send(void *arg, const void *frame, u32 bytes, u32 first, u32 flags)
{
    static u8 bounce[PAGE_SIZE] aligned(4096);
    (void)arg;
    if (!connected || !front_sg || first >= bytes)
        first = 0;
    u32 slots = first ? 1 + (bytes - first + 4095) / 4096 : (bytes + 4095) / 4096;
    s64 there = connected ? ring_requests(&rx) : 0;
    if (there < 0)
        back_fail(&back, "impossible req_prod on the receive ring");
    if (there < slots) {
        dropped++;
        return false;
    }
    for (u32 done = 0, here; done < bytes; done += here) {
        struct netif_rx_request q;
        here = bytes - done < 4096 ? bytes - done : 4096;
        if (!done && first)
            here = first;
        memcpy(bounce, (const u8 *)frame + done, here);
        ring_get_request(&rx, &q);
        bool good = copy(q.gref, 0, bounce, here, true);
        u16 flag = done + here < bytes ? NETRXF_more_data : 0;
        if (!done && flags & NETFRONT_csum_blank)
            flag |= NETRXF_csum_blank | NETRXF_data_validated;
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 0, flag, good ? (short)here : (short)NETIF_RSP_ERROR});
    }
    if (ring_push_responses(&rx))
        event_send(port_rx);
    frames_out++;
    return true;
}

/* The next frame that the front end sends, whole; -1 when it broke the rules. */
static s64 take_frame(s64 *waiting, u32 *flags)
{
    struct netif_tx_request q[NETIF_SLOTS_MAX];
    u32 n = 0, at = 0;
    do {
        if (*waiting <= 0 || n == NETIF_SLOTS_MAX)
            return -1;
        ring_get_request(&tx, &q[n]);
        --*waiting;
        if (q[n].flags & NETTXF_extra_info)
            return -1;
    } while (q[n++].flags & NETTXF_more_data);
    *flags = q[0].flags & NETTXF_csum_blank ? NETFRONT_csum_blank : q[0].flags & NETTXF_data_validated ? NETFRONT_csum_good : 0;
    u32 head = q[0].size; /* the first one's size is the frame's */
    for (u32 i = 1; i < n; i++) {
        if (q[i].size > head)
            return -1;
        head -= q[i].size;
    }
    bool good = true;
    for (u32 i = 0; i < n; i++) {
        static u8 bounce[PAGE_SIZE] aligned(4096);
        u32 size = i ? q[i].size : head;
        if (!size || q[i].offset + size > 4096)
            return -1;
        good &= copy(q[i].gref, q[i].offset, bounce, size, false);
        memcpy(whole + at, bounce, size);
        at += size;
    }
    for (u32 i = 0; i < n; i++)
        ring_put_response(&tx, &(struct netif_tx_response){q[i].id, good ? NETIF_RSP_OKAY : NETIF_RSP_ERROR});
    return good ? at : 0;
}

/* What a front end has to survive: one breach of the rules, named on the command line, after a few good frames. */
static void misbehave(void)
{
    static bool done;
    char way[16] = "";
    if (done || frames_in < 5 || !option("evil", way, sizeof way))
        return;
    done = true;
    struct netif_rx_request q = {0};
    bool on_rx = !strncmp(way, "rx-", 3);
    if (on_rx && ring_requests(&rx) > 0)
        ring_get_request(&rx, &q);
    if (!strcmp(way, "tx-prod"))
        tx.page->rsp_prod += 1000;
    else if (!strcmp(way, "rx-prod"))
        rx.page->rsp_prod += 1000;
    else if (!strcmp(way, "tx-id"))
        ring_put_response(&tx, &(struct netif_tx_response){999, NETIF_RSP_OKAY});
    else if (!strcmp(way, "rx-id"))
        ring_put_response(&rx, &(struct netif_rx_response){999, 0, 0, 60});
    else if (!strcmp(way, "rx-length"))
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 4000, 0, 97});
    else if (!strcmp(way, "rx-offset"))
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 65535, 0, 32767});
    else if (!strcmp(way, "rx-chain"))
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 0, NETRXF_more_data, 60});
    else if (!strcmp(way, "rx-extra"))
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 0, NETRXF_extra_info, 60});
    else if (!strcmp(way, "rx-error"))
        ring_put_response(&rx, &(struct netif_rx_response){q.id, 0, 0, NETIF_RSP_ERROR});
    else if (!strcmp(way, "state"))
        back_set_state(&back, 77);
    if (on_rx && strcmp(way, "rx-prod"))
        ring_push_responses(&rx);
    if (!strcmp(way, "tx-id"))
        ring_push_responses(&tx);
    event_send(port_tx);
    event_send(port_rx);
}

static bool poll(void *arg, frame_handler handler)
{
    bool any = false;
    (void)arg;
    s64 waiting = connected ? ring_requests(&tx) : 0;
    if (waiting < 0)
        back_fail(&back, "impossible req_prod on the transmit ring");
    while (waiting > 0 && !back.failed) {
        u32 flags = 0;
        s64 n = take_frame(&waiting, &flags);
        if (n < 0) {
            back_fail(&back, "a transmit request that nobody may send");
            break;
        }
        any = true;
        frames_in++;
        blanks += flags == NETFRONT_csum_blank;
        if (n > 0)
            handler(whole, (u32)n, flags);
    }
    if (any && ring_push_responses(&tx))
        event_send(port_tx);
    if (connected)
        misbehave();
    return any;
}

static bool stirred(void *arg)
{
    (void)arg;
    return back_stirred(&back) || (connected && !ring_idle_requests(&tx));
}

static void answer(u32 ip, u16 port, const u8 *data, u32 n)
{
    udp_send(ip, port, 7, data, n);
}

/* With `bossy=N` the first connection is closed by us, after N frames. */
void netback_serve(u32 peer, bool noxs, u64 rounds)
{
    struct link link = {{0, 0x16, 0x3e, 0, 0, 1}, send, poll, stirred, NULL, false, 0, 1500};
    u64 bossy = option_number("bossy", 0);
    back_open(&back, noxs_dev_vif, peer, noxs);
    link.split = (u32)option_number("split", 0);
    net_start(&link, BACK_IP, 0);
    udp_listen(7, answer);
    for (u64 round = 0; round < rounds; round++) {
        offer();
        back_offer(&back);
        back_wait(&back, STATES(XenbusStateInitialised, XenbusStateConnected));
        if (connect()) {
            net_link.blank = option("blank", NULL, 0) && !front_needs_sums;
            back_set_state(&back, XenbusStateConnected);
            while (!back.failed && (back.other == XenbusStateInitialised || back.other == XenbusStateConnected) &&
                   !(bossy && frames_in >= bossy)) {
                if (!net_poll())
                    thread_wait(stirred, NULL);
                back_update(&back);
            }
            bossy = 0;
        }
        disconnect();
        back_set_state(&back, XenbusStateClosing);
        back_wait(&back, STATES(XenbusStateUnknown, XenbusStateClosed, XenbusStateInitialising));
        back_set_state(&back, XenbusStateClosed);
        if (round + 1 < rounds)
            back_wait(&back, STATES(XenbusStateInitialising));
    }
    printf("netback: %lu frames in, %lu with their sum left to us, %lu out, %lu dropped\n", frames_in, blanks, frames_out, dropped);
}
