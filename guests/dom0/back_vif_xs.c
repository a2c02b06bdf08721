/* What a vif's back end says and reads over XenStore (io/netif.h of Xen; the order is Linux's netback's). */
#include "back.h"

int vif_offer_xs(struct back *b)
{
    static const struct { const char *name; u32 value; } features[] = { /* what is 0 is not done: neither offloads nor groups nor a control ring */
        {"feature-sg", 1}, {"feature-gso-tcpv4", 0}, {"feature-gso-tcpv6", 0}, {"feature-ipv6-csum-offload", 0}, {"feature-rx-copy", 1},
        {"feature-rx-flip", 0}, {"feature-multicast-control", 0}, {"feature-dynamic-multicast-control", 0}, {"feature-split-event-channels", 1},
        {"multi-queue-max-queues", 1}, {"feature-ctrl-ring", 0}};
    for (u32 i = 0; i < COUNT(features); i++)
        back_put(b, features[i].name, "%u", features[i].value);
    return 0;
}

/* Written when the interface is on its bridge: by xl's script, or by xendevd. */
bool vif_settled(struct back *b)
{
    char status[16];
    back_text(b->path, "hotplug-status", status, sizeof status);
    if (strcmp(status, "connected"))
        return false;
    back_await(b, false);
    return true;
}

bool vif_connect_xs(struct back *b)
{
    struct vif_config *c = &b->config.vif;
    struct vif_words w = {.queues = (u32)back_number(b->front, "multi-queue-num-queues", 1), .tx_ref = back_word(b->front, "tx-ring-ref"),
                          .rx_ref = back_word(b->front, "rx-ring-ref")};
    if (!back_text(b->path, "bridge", c->bridge, sizeof c->bridge) || !c->bridge[0])
        snprintf(c->bridge, sizeof c->bridge, "xenbr0");
    w.tx_port = w.rx_port = back_word(b->front, "event-channel-tx");
    if (w.tx_port == NO_NUMBER)
        w.tx_port = w.rx_port = back_word(b->front, "event-channel");
    else
        w.rx_port = back_word(b->front, "event-channel-rx");
    w.copies = back_number(b->front, "request-rx-copy", 0) == 1;
    w.sg = back_number(b->front, "feature-sg", 0) == 1;
    w.needs_sums = back_number(b->front, "feature-no-csum-offload", 0) == 1;
    return vif_connect(b, &w);
}
