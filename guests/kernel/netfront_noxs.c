/* What a network front end reads and says over noxs: the fields of the vif's control page. */
#include "net.h"

static bool read_offer(struct device *d, struct netfront_offer *offer)
{
    const struct noxs_vif *page = (const struct noxs_vif *)d->page;
    u32 features = page->be_feat;
    offer->rx_copy = features & VIF_BE_rx_copy;
    offer->sg = features & VIF_BE_sg;
    offer->split_channels = features & VIF_BE_split_event_channels;
    offer->no_csum_offload = features & VIF_BE_no_csum_offload;
    for (u32 i = 0; i < sizeof offer->mac; i++)
        offer->mac[i] = page->mac[i];
    offer->ip = page->ip;
    return offer->rx_copy;
}

static bool publish(struct device *d, const struct netfront_ask *ask)
{
    struct noxs_vif *page = (struct noxs_vif *)d->page;
    page->tx_ring_ref = ask->tx_ref;
    page->rx_ring_ref = ask->rx_ref;
    page->event_channel_tx = ask->tx_port;
    page->event_channel_rx = ask->rx_port;
    page->request_rx_copy = 1;
    page->num_queues = 1;
    page->fe_feat = (u16)(VIF_FE_rx_notify | (ask->sg ? VIF_FE_sg : 0) | (ask->no_csum_offload ? VIF_FE_no_csum_offload : 0));
    device_set_state(d, XenbusStateConnected);
    return true;
}

const struct netfront_way netfront_noxs = {read_offer, publish};
