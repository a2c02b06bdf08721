/* A network front end that breaks the rules. What no front end can mean by mistake costs the connection; a grant that is none is answered
 * with an error. With a second interface on the same switch, buffers to receive that are not granted, and a ring of them that lies.
 */
#include "bad.h"

static struct netfront nic, other;
static const struct netfront_way *good_way;
static bool wrong_tx, wrong_rx, wrong_tx_port, wrong_rx_port;
static u8 frame[64] = {255, 255, 255, 255, 255, 255};

static bool publish(struct device *d, const struct netfront_ask *ask)
{
    struct netfront_ask bad = *ask;
    bad.tx_ref = wrong_tx ? UNGRANTED : ask->tx_ref;
    bad.rx_ref = wrong_rx ? UNGRANTED : ask->rx_ref;
    bad.tx_port = wrong_tx_port ? NO_PORT : ask->tx_port;
    bad.rx_port = wrong_rx_port ? NO_PORT + 1 : ask->rx_port;
    return good_way->publish(d, &bad);
}

static void ignore(const u8 *data, u32 n, u32 flags)
{
    (void)data, (void)n, (void)flags;
}

static bool answered(void *arg)
{
    struct netfront *n = arg;
    return ring_responses(&n->tx) > 0;
}

static short answer(struct netfront *n)
{
    struct netif_tx_response r;
    if (ring_push_requests(&n->tx))
        event_send(n->tx_port);
    n->tx.page->rsp_event = n->tx.rsp_cons + 1;
    full_barrier();
    thread_wait(answered, n);
    ring_get_response(&n->tx, &r);
    return r.status;
}

/* One frame of one slot goes out, and is answered for. */
static bool works(struct netfront *n)
{
    memcpy(frame + 6, n->offer.mac, 6);
    memcpy(n->tx_buffers[0].page, frame, sizeof frame);
    if (!n->connected)
        return false;
    ring_put_request(&n->tx, &(struct netif_tx_request){n->tx_buffers[0].ref, 0, 0, 0, sizeof frame});
    return answer(n) == NETIF_RSP_OKAY;
}

static bool again(struct netfront *n)
{
    return device_restart(&n->device) && netfront_connect(n) && works(n);
}

static void publishes(const char *what, bool *wrong)
{
    *wrong = true;
    bool refused = !(device_restart(&nic.device) && netfront_connect(&nic));
    *wrong = false;
    bad_check(what, "refused, and the next one connects", refused && again(&nic));
    netfront_disconnect(&nic);
}

/* Each is put on the transmit ring `slots` times, with another id. */
static void transmits(void)
{
    const struct { const char *what; struct netif_tx_request r; u32 slots; } bad[] = {
        {"a frame past its page", {0, 4090, 0, 0, 64}, 1},
        {"a frame of no bytes", {0, 0, 0, 0, 0}, 1},
        {"a frame with no last slot", {0, 0, NETTXF_more_data, 0, 64}, 1},
        {"a frame of 19 slots", {0, 0, NETTXF_more_data, 0, 1900}, 19},
        {"a frame whose parts are more than all of it", {0, 0, NETTXF_more_data, 0, 64}, 3},
        {"an extra segment, which was not offered", {0, 0, NETTXF_extra_info, 0, 64}, 1},
    };
    for (u32 i = 0; i < COUNT(bad); i++) {
        for (u32 slot = 0; slot < bad[i].slots; slot++) {
            struct netif_tx_request r = bad[i].r;
            r.gref = nic.tx_buffers[slot].ref;
            r.id = (u16)slot;
            if (bad[i].slots == 3 && slot == 2)
                r.flags = 0;
            if (bad[i].slots == 19 && slot)
                r.size = 100;
            ring_put_request(&nic.tx, &r);
        }
        if (ring_push_requests(&nic.tx))
            event_send(nic.tx_port);
        device_wait(&nic.device, STATES_GONE);
        netfront_disconnect(&nic);
        bad_check(bad[i].what, "the connection's end, and the next one serves", again(&nic));
    }
    ring_put_request(&nic.tx, &(struct netif_tx_request){UNGRANTED, 0, 0, 0, 64});
    bad_check("a frame in a page that is not granted", "an error, and the next one is sent", answer(&nic) == NETIF_RSP_ERROR && works(&nic));
}

static void run_away(struct netfront *n, struct front_ring *ring, u32 port, const char *what)
{
    ring->page->req_prod += 1000;
    event_send(port);
    if (n == &other)
        works(&nic); /* only who is sent something looks at what it may receive to */
    device_wait(&n->device, STATES_GONE);
    netfront_disconnect(n);
    bad_check(what, "the connection's end, and the next one serves", again(n));
}

static bool received(void *arg)
{
    struct netfront *n = arg;
    return ring_responses(&n->rx) > 0;
}

/* What the other end was given to receive to is taken away before a frame comes. */
static void receives(void)
{
    struct netif_rx_response r;
    netfront_poll(&other, ignore);
    while (received(&other)) /* what has come so far */
        ring_get_response(&other.rx, &r);
    for (u32 i = 0; i < NETFRONT_RX; i++)
        grant_end(other.rx_buffers[i].ref);
    bool sent = works(&nic);
    thread_wait(received, &other);
    ring_get_response(&other.rx, &r);
    bad_check("a buffer that is granted no more", "an error, and the sender notices nothing", sent && r.status < 0);
    for (u32 i = 0; i < NETFRONT_RX; i++)
        other.rx_buffers[i].ref = grant_access(other.device.backend, va_to_mfn(other.rx_buffers[i].page), false);
    netfront_disconnect(&other);
    bad_check("second interface", "connects again", again(&other));
}

void bad_net(void)
{
    const struct bus *bus = bus_choose("net", noxs_dev_vif);
    good_way = bus == &bus_noxs ? &netfront_noxs : &netfront_xs;
    struct netfront_way bad_way = {good_way->read_offer, publish};
    nic.way = &bad_way;
    if (!bad_check("interface", "connects", device_open(&nic.device, bus, noxs_dev_vif, 0) && netfront_connect(&nic) && works(&nic)))
        return;
    bool two = netfront_open(&other, "net", 1) && works(&other);
    transmits();
    run_away(&nic, &nic.tx, nic.tx_port, "indices of what is sent that run away");
    if (bad_check("second interface", "connects", two)) {
        receives();
        run_away(&other, &other.rx, other.rx_port, "indices of buffers that run away");
    }
    netfront_disconnect(&nic);
    publishes("a transmit ring that is not granted", &wrong_tx);
    publishes("a receive ring that is not granted", &wrong_rx);
    publishes("a port to send that is not open", &wrong_tx_port);
    publishes("a port to receive that is not open", &wrong_rx_port);
    netfront_close(&nic);
    netfront_close(&other);
}
