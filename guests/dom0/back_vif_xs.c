/* What a vif's back end says and reads over XenStore (io/netif.h of Xen; the order is Linux's netback's). */
#include "back.h"

void vif_offer_xs(struct back *b)
{
    static const char *const features[] = {"feature-sg", "feature-rx-copy"};
    char mac[24];
    struct vif_config *c = &b->config.vif;
    back_text(b->path, "mac", mac, sizeof mac);
    if (!back_text(b->path, "bridge", c->bridge, sizeof c->bridge))
        snprintf(c->bridge, sizeof c->bridge, "xenbr0");
    for (u32 i = 0; i < COUNT(features); i++)
        back_put(b, features[i], "1");
    back_put(b, "feature-rx-flip", "0");
    back_put(b, "feature-split-event-channels", "1");
    back_put(b, "multi-queue-max-queues", "1");
    back_put(b, "hotplug-status", "connected"); /* what xendevd says when the interface is on its bridge: here it always is */
}

bool vif_connect_xs(struct back *b)
{
    struct vif_words w = {.tx_ref = (u32)back_number(b->front, "tx-ring-ref", ~0U), .rx_ref = (u32)back_number(b->front, "rx-ring-ref", ~0U)};
    u64 port = back_number(b->front, "event-channel-tx", ~0UL);
    w.tx_port = w.rx_port = (u32)(port == ~0UL ? back_number(b->front, "event-channel", ~0U) : port);
    if (port != ~0UL)
        w.rx_port = (u32)back_number(b->front, "event-channel-rx", ~0U);
    w.copies = back_number(b->front, "request-rx-copy", 0) == 1;
    w.sg = back_number(b->front, "feature-sg", 0) == 1;
    w.needs_sums = back_number(b->front, "feature-no-csum-offload", 0) == 1;
    return vif_connect(b, &w);
}
