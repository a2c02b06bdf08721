/* UDP (RFC 768). Where the link completes checksums, only the pseudo-header's sum is put in, as Xen's back ends expect it. */
#include "net.h"

enum { LISTENERS = 4 };
static struct { u16 port; udp_handler handler; } listeners[LISTENERS];

void udp_listen(u16 port, udp_handler handler)
{
    for (u32 i = 0; i < LISTENERS; i++)
        if (!listeners[i].handler || listeners[i].port == port) {
            listeners[i].port = port;
            listeners[i].handler = handler;
            return;
        }
    panic("too many UDP ports");
}

static u32 pseudo_header(u32 from, u32 to, u32 n)
{
    struct { u32 from, to; u8 zero, protocol; u16 length; } p = {from, to, 0, IP_UDP, swap16((u16)n)};
    return sum_add(0, &p, sizeof p);
}

void udp_input(u32 from, u32 to, const u8 *data, u32 n, u32 flags)
{
    const struct udp_header *h = (const struct udp_header *)data;
    if (n < sizeof *h || swap16(h->length) < sizeof *h || swap16(h->length) > n) {
        net_counts.ignored++;
        return;
    }
    n = swap16(h->length);
    bool trusted = flags & (NETFRONT_csum_blank | NETFRONT_csum_good); /* never filled in, or checked already */
    if (h->sum && !trusted && sum_end(sum_add(pseudo_header(from, to, n), data, n))) {
        net_counts.bad_sum++;
        return;
    }
    net_counts.udp_in++;
    for (u32 i = 0; i < LISTENERS; i++)
        if (listeners[i].handler && listeners[i].port == swap16(h->to))
            listeners[i].handler(from, swap16(h->from), data + sizeof *h, n - (u32)sizeof *h);
}

bool udp_send(u32 to, u16 to_port, u16 from_port, const void *data, u32 n)
{
    struct udp_header *h = (struct udp_header *)ip_payload();
    u32 total = n + (u32)sizeof *h;
    if (total + sizeof(struct ip_header) > net_link.mtu)
        return false;
    memcpy(h + 1, data, n);
    *h = (struct udp_header){swap16(from_port), swap16(to_port), swap16((u16)total), 0};
    u32 sum = pseudo_header(net_ip, to, total);
    if (net_link.blank)
        h->sum = (u16)~sum_end(sum);
    else {
        h->sum = sum_end(sum_add(sum, h, total));
        if (!h->sum)
            h->sum = 0xffff; /* zero means: no checksum */
    }
    return ip_send(to, IP_UDP, total, net_link.blank ? NETFRONT_csum_blank : 0);
}
