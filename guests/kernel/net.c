/* The link layer of the network stack, checksums, addresses as text, waiting. */
#include "net.h"

struct link net_link;
u32 net_ip, net_mask;
struct net_counts net_counts;

u32 sum_add(u32 sum, const void *data, u32 n)
{
    const u8 *p = data;
    u64 wide = sum;
    for (; n > 1; n -= 2, p += 2)
        wide += *(const u16 *)p;
    if (n)
        wide += *p;
    while (wide >> 32)
        wide = (wide & 0xffffffff) + (wide >> 32);
    return (u32)wide;
}

u16 sum_end(u32 sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (u16)~sum;
}

bool parse_ip(const char *text, u32 *ip, u32 *mask)
{
    u32 value = 0, bits = 24;
    for (u32 i = 0; i < 4; i++) {
        u32 part = 0;
        if (*text < '0' || *text > '9')
            return false;
        for (; *text >= '0' && *text <= '9' && part < 256; text++)
            part = part * 10 + (u32)(*text - '0');
        if (part > 255 || (i < 3 && *text++ != '.'))
            return false;
        value = value << 8 | part;
    }
    if (*text == '/')
        for (bits = 0, text++; *text >= '0' && *text <= '9' && bits < 33; text++)
            bits = bits * 10 + (u32)(*text - '0');
    if (bits > 32)
        return false;
    *ip = swap32(value);
    *mask = bits ? swap32(~0U << (32 - bits)) : 0;
    return true;
}

int format_ip(char *to, u32 size, u32 ip)
{
    const u8 *b = (const u8 *)&ip;
    return snprintf(to, size, "%u.%u.%u.%u", b[0], b[1], b[2], b[3]);
}

void net_start(const struct link *link, u32 ip, u32 mask)
{
    char text[24] = "", shown[16];
    net_link = *link;
    net_ip = ip;
    net_mask = mask ? mask : swap32(0xffffff00);
    if (option("ip", text, sizeof text) && !parse_ip(text, &net_ip, &net_mask))
        printf("net: ip=%s is no address\n", text);
    format_ip(shown, sizeof shown, net_ip);
    const u8 *m = net_link.mac;
    printf("net: %s at %02x:%02x:%02x:%02x:%02x:%02x\n", shown, m[0], m[1], m[2], m[3], m[4], m[5]);
}

static void front_connected(struct netfront *n);
static bool front_send(void *arg, const void *frame, u32 bytes, u32 first, u32 flags) { return netfront_send(arg, frame, bytes, first, flags); }

static bool front_poll(void *arg, frame_handler handler)
{
    struct netfront *n = arg;
    u32 connections = n->connections;
    bool any = netfront_poll(n, handler);
    if (n->connections != connections)
        front_connected(n);
    return any;
}

/* Back ends look for the Ethernet header in a frame's first slot, and refuse the frame that has less there. */
static u32 split_size(bool say)
{
    u64 asked = option_number("split", 0), least = sizeof(struct ether);
    u64 size = !asked ? 0 : asked < least ? least : asked > PAGE_SIZE ? PAGE_SIZE : asked;
    if (size != asked && say)
        printf("net: split=%lu cannot be, it is %lu: the first slot holds %lu to %lu bytes\n", asked, size, least, PAGE_SIZE);
    return (u32)size;
}

/* Each connection is with a back end that may offer something else. */
static void front_connected(struct netfront *n)
{
    struct link link = {{0}, front_send, front_poll, netfront_stirred, n, false, 0, 1500};
    memcpy(link.mac, n->offer.mac, 6);
    link.blank = option("blank", NULL, 0) && !n->offer.no_csum_offload;
    bool known = net_link.arg == n && !memcmp(net_link.mac, link.mac, 6);
    link.split = n->offer.sg ? split_size(!known) : 0;
    net_link = link;
    if (known)
        return;
    printf("net: vif %u of domain %u over %s\n", n->device.id, n->device.backend, n->device.bus->name);
    net_start(&link, n->offer.ip, n->offer.mask);
}

bool net_start_front(struct netfront *n)
{
    net_link = (struct link){{0}, front_send, front_poll, netfront_stirred, n, false, 0, 1500};
    if (!netfront_open(n, "net", 0))
        return false;
    front_connected(n);
    return true;
}

bool net_follow(struct netfront *n)
{
    for (bool started = false;; started = net_start_front(n)) {
        if (n->device.present && !n->connected && n->device.peer == XenbusStateUnknown)
            netfront_close(n);
        if (n->device.present || !devices_changed())
            return started;
    }
}

bool net_follow_stirred(struct netfront *n)
{
    return n->device.present ? netfront_stirred(n) : devices_stirred();
}

void net_input(const u8 *frame, u32 n, u32 flags)
{
    const struct ether *e = (const struct ether *)frame;
    static const u8 everybody[6] = {255, 255, 255, 255, 255, 255};
    if (n < sizeof *e || (memcmp(e->to, net_link.mac, 6) && memcmp(e->to, everybody, 6)) || (e->from[0] & 1)) {
        net_counts.ignored++;
        return;
    }
    if (e->type == swap16(ETHER_ARP))
        arp_input(frame + sizeof *e, n - (u32)sizeof *e);
    else if (e->type == swap16(ETHER_IP))
        ip_input(frame + sizeof *e, n - (u32)sizeof *e, flags);
    else
        net_counts.ignored++;
}

bool net_send_ether(const u8 *to, u16 type, u8 *frame, u32 bytes, u32 flags)
{
    struct ether *e = (struct ether *)frame;
    memcpy(e->to, to, 6);
    memcpy(e->from, net_link.mac, 6);
    e->type = swap16(type);
    return net_link.send(net_link.arg, frame, bytes, net_link.split, flags);
}

bool net_poll(void)
{
    return net_link.poll && net_link.poll(net_link.arg, net_input);
}

static bool stirred(void *arg)
{
    u64 until = *(u64 *)arg;
    return net_link.stirred(net_link.arg) || (until && now() >= until);
}

bool net_wait(u64 until)
{
    if (net_poll())
        return true;
    if (until)
        timer_at(until);
    thread_wait(stirred, &until);
    return net_poll();
}
