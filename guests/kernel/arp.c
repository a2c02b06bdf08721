/* ARP for IPv4 on Ethernet (RFC 826): answers, asks, and remembers a few neighbours. */
#include "net.h"

enum { NEIGHBOURS = 16, ARP_REQUEST = 1, ARP_REPLY = 2 };
static struct { u32 ip; u8 mac[6]; bool known; } neighbours[NEIGHBOURS];
static u32 oldest;
static const u8 everybody[6] = {255, 255, 255, 255, 255, 255};
static u8 frame[60] aligned(4); /* Ethernet's shortest frame */

void arp_learn(u32 ip, const u8 *mac)
{
    u32 i = 0;
    while (i < NEIGHBOURS && !(neighbours[i].known && neighbours[i].ip == ip))
        i++;
    if (i == NEIGHBOURS)
        i = oldest++ % NEIGHBOURS;
    neighbours[i].ip = ip;
    neighbours[i].known = true;
    memcpy(neighbours[i].mac, mac, 6);
}

const u8 *arp_find(u32 ip)
{
    if (!~(ip | net_mask))
        return everybody; /* the broadcast address of this network */
    for (u32 i = 0; i < NEIGHBOURS; i++)
        if (neighbours[i].known && neighbours[i].ip == ip)
            return neighbours[i].mac;
    return NULL;
}

static void send(u16 operation, const u8 *to_mac, u32 to_ip)
{
    struct arp_header *a = (struct arp_header *)(frame + sizeof(struct ether));
    memset(frame, 0, sizeof frame);
    a->hardware = swap16(1);
    a->protocol = swap16(ETHER_IP);
    a->hardware_size = 6;
    a->protocol_size = 4;
    a->operation = swap16(operation);
    memcpy(a->mac, net_link.mac, 6);
    memcpy(a->ip, &net_ip, 4);
    if (operation == ARP_REPLY)
        memcpy(a->to_mac, to_mac, 6);
    memcpy(a->to_ip, &to_ip, 4);
    net_send_ether(to_mac, ETHER_ARP, frame, sizeof frame, 0);
}

void arp_ask(u32 ip)
{
    send(ARP_REQUEST, everybody, ip);
}

void arp_input(const u8 *data, u32 n)
{
    const struct arp_header *a = (const struct arp_header *)data;
    u32 from, to;
    if (n < sizeof *a || a->hardware != swap16(1) || a->protocol != swap16(ETHER_IP) || a->hardware_size != 6 || a->protocol_size != 4) {
        net_counts.ignored++;
        return;
    }
    net_counts.arp_in++;
    memcpy(&from, a->ip, 4);
    memcpy(&to, a->to_ip, 4);
    if (to != net_ip)
        return;
    arp_learn(from, a->mac);
    if (a->operation == swap16(ARP_REQUEST))
        send(ARP_REPLY, a->mac, from);
}
