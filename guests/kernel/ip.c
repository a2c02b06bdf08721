/* IPv4 (RFC 791) without options in what it sends, without fragments, for hosts on the same network. */
#include "net.h"

static u8 frame[sizeof(struct ether) + sizeof(struct ip_header) + 65536] aligned(4);
static u16 next_id;

void ip_input(const u8 *data, u32 n, u32 flags)
{
    const struct ip_header *h = (const struct ip_header *)data;
    if (n < sizeof *h || h->version_size >> 4 != 4) {
        net_counts.ignored++;
        return;
    }
    u32 size = (h->version_size & 15) * 4u, length = swap16(h->length);
    if (size < sizeof *h || size > length || length > n || sum_end(sum_add(0, data, size))) {
        net_counts.bad_sum++;
        return;
    }
    bool ours = h->to == net_ip || !~(h->to | net_mask);
    if (!ours || h->fragment & swap16(0x3fff)) {
        net_counts.ignored++;
        return;
    }
    net_counts.ip_in++;
    if ((h->from & net_mask) == (net_ip & net_mask) && !arp_find(h->from))
        arp_learn(h->from, ((const struct ether *)(data - sizeof(struct ether)))->from);
    if (h->protocol == IP_ICMP)
        icmp_input(h->from, data + size, length - size);
    else if (h->protocol == IP_UDP)
        udp_input(h->from, h->to, data + size, length - size, flags);
    else
        net_counts.ignored++;
}

u8 *ip_payload(void)
{
    return frame + sizeof(struct ether) + sizeof(struct ip_header);
}

bool ip_send(u32 to, u8 protocol, u32 bytes, u32 flags)
{
    struct ip_header *h = (struct ip_header *)(frame + sizeof(struct ether));
    u32 total = bytes + (u32)sizeof *h;
    const u8 *mac = arp_find(to);
    if (total > net_link.mtu)
        return false;
    if (!mac) {
        arp_ask(to);
        return false;
    }
    *h = (struct ip_header){0x45, 0, swap16((u16)total), swap16(next_id++), swap16(0x4000), 64, protocol, 0, net_ip, to};
    h->sum = sum_end(sum_add(0, h, sizeof *h));
    u32 size = total + (u32)sizeof(struct ether);
    for (; size < 60; size++)
        frame[size] = 0; /* Ethernet has no shorter frames */
    return net_send_ether(mac, ETHER_IP, frame, size, flags);
}
