/* What a network front end reads and says over XenStore: the nodes of io/netif.h. */
#include "net.h"

static bool parse_mac(const char *text, u8 *mac)
{
    for (u32 i = 0; i < 12; i++) {
        char c = *text++;
        u32 digit = c >= '0' && c <= '9' ? (u32)(c - '0') : (c | 32) >= 'a' && (c | 32) <= 'f' ? (u32)((c | 32) - 'a' + 10) : 16;
        if (digit == 16)
            return false;
        mac[i / 2] = (u8)(mac[i / 2] << 4 | digit);
        if (i % 2 && i < 11 && *text++ != ':')
            return false;
    }
    return true;
}

static bool read_offer(struct device *d, struct netfront_offer *offer)
{
    char text[64];
    offer->rx_copy = xs_number(d, d->back, "feature-rx-copy", 0) == 1;
    offer->sg = xs_number(d, d->back, "feature-sg", 0) == 1;
    offer->split_channels = xs_number(d, d->back, "feature-split-event-channels", 0) == 1;
    offer->no_csum_offload = xs_number(d, d->back, "feature-no-csum-offload", 0) == 1;
    if (xs_get(d, d->front, "mac", text, sizeof text) <= 0 || !parse_mac(text, offer->mac))
        return false;
    if (xs_get(d, d->back, "ip", text, sizeof text) > 0)
        parse_ip(text, &offer->ip, &offer->mask);
    return offer->rx_copy;
}

static bool publish(struct device *d, const struct netfront_ask *ask)
{
    for (;;) {
        u32 t = xenstore_begin();
        bool good = t && xs_put(t, d->front, "tx-ring-ref", "%u", ask->tx_ref) && xs_put(t, d->front, "rx-ring-ref", "%u", ask->rx_ref);
        if (ask->tx_port == ask->rx_port)
            good = good && xs_put(t, d->front, "event-channel", "%u", ask->tx_port);
        else
            good = good && xs_put(t, d->front, "event-channel-tx", "%u", ask->tx_port) &&
                   xs_put(t, d->front, "event-channel-rx", "%u", ask->rx_port);
        good = good && xs_put(t, d->front, "request-rx-copy", "1") && xs_put(t, d->front, "feature-rx-notify", "1") &&
               xs_put(t, d->front, "feature-sg", "%u", ask->sg) &&
               xs_put(t, d->front, "feature-no-csum-offload", "%u", ask->no_csum_offload) &&
               xs_put(t, d->front, "state", "%u", XenbusStateConnected);
        int ended = xenstore_end(t, good);
        if (!good || ended != -EAGAIN)
            return good && ended >= 0;
    }
}

const struct netfront_way netfront_xs = {read_offer, publish};
