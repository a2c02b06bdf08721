/* A small network stack on one link: ARP, IPv4 without fragments, ICMP echo, UDP. Addresses are u32 in network order, as on the
 * wire; ports are numbers.
 */
#pragma once
#include "netfront.h"

struct link { /* whatever frames come from and go to */
    u8 mac[6];
    bool (*send)(void *arg, const void *frame, u32 bytes, u32 first, u32 flags);
    bool (*poll)(void *arg, frame_handler handler); /* did anything come? */
    bool (*stirred)(void *arg);
    void *arg;
    bool blank;    /* it completes checksums that we leave to it */
    u32 split;     /* bytes of a frame's first slot; 0: as many as fit */
    u32 mtu;
};

struct arp_header { u16 hardware, protocol; u8 hardware_size, protocol_size; u16 operation; u8 mac[6]; u8 ip[4]; u8 to_mac[6]; u8 to_ip[4]; };
struct ether { u8 to[6], from[6]; u16 type; };
struct ip_header { u8 version_size, tos; u16 length, id, fragment; u8 ttl, protocol; u16 sum; u32 from, to; };
struct udp_header { u16 from, to, length, sum; };
struct icmp_header { u8 type, code; u16 sum, id, sequence; };
enum { ETHER_IP = 0x800, ETHER_ARP = 0x806, IP_ICMP = 1, IP_UDP = 17, NET_DATA = 1472 };
struct net_counts { u64 arp_in, ip_in, icmp_in, udp_in, bad_sum, ignored; };

static inline u16 swap16(u16 x) { return (u16)(x << 8 | x >> 8); }
static inline u32 swap32(u32 x) { return __builtin_bswap32(x); }

/* net.c */
extern struct link net_link;
extern u32 net_ip, net_mask;
extern struct net_counts net_counts;
u32 sum_add(u32 sum, const void *data, u32 n); /* n is odd only for the last part */
u16 sum_end(u32 sum);
bool parse_ip(const char *text, u32 *ip, u32 *mask); /* a.b.c.d or a.b.c.d/n */
int format_ip(char *to, u32 size, u32 ip);
void net_start(const struct link *link, u32 ip, u32 mask); /* `ip=` on the command line comes first */
bool net_start_front(struct netfront *n); /* opens the first vif and starts on it, and says so; one whose back end closes may connect later */
bool net_follow(struct netfront *n); /* lets go of a device whose back end is gone, takes the next one; whether it has one now */
bool net_follow_stirred(struct netfront *n); /* for thread_wait: is there something for net_poll or net_follow? */
void net_input(const u8 *frame, u32 n, u32 flags);
bool net_send_ether(const u8 *to, u16 type, u8 *frame, u32 bytes, u32 flags); /* the payload is in frame already, behind the header */
bool net_poll(void);
bool net_wait(u64 until); /* until something has come, or the time; 0: no time */

/* arp.c */
void arp_input(const u8 *data, u32 n);
void arp_learn(u32 ip, const u8 *mac);
const u8 *arp_find(u32 ip);
void arp_ask(u32 ip);

/* ip.c, icmp.c, udp.c */
void ip_input(const u8 *data, u32 n, u32 flags);
u8 *ip_payload(void);                                          /* where the next datagram's payload is to be put */
bool ip_send(u32 to, u8 protocol, u32 bytes, u32 flags);       /* false: no address for it (it has been asked for), or no link */
void icmp_input(u32 from, const u8 *data, u32 n);
bool icmp_ping(u32 to, u16 id, u16 sequence);
extern u32 icmp_answered;                                      /* sequence of the last answer to a ping */
typedef void (*udp_handler)(u32 ip, u16 port, const u8 *data, u32 n);
void udp_listen(u16 port, udp_handler handler);
void udp_input(u32 from, u32 to, const u8 *data, u32 n, u32 flags);
bool udp_send(u32 to, u16 to_port, u16 from_port, const void *data, u32 n);
