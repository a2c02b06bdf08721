/* ICMP (RFC 792): answers echo requests, and can ask. */
#include "net.h"

enum { ECHO_REPLY = 0, ECHO = 8 };
u32 icmp_answered;

static bool send(u32 to, u32 n)
{
    struct icmp_header *h = (struct icmp_header *)ip_payload();
    h->sum = 0;
    h->sum = sum_end(sum_add(0, h, n));
    return ip_send(to, IP_ICMP, n, 0);
}

void icmp_input(u32 from, const u8 *data, u32 n)
{
    const struct icmp_header *h = (const struct icmp_header *)data;
    if (n < sizeof *h || sum_end(sum_add(0, data, n))) {
        net_counts.bad_sum++;
        return;
    }
    net_counts.icmp_in++;
    if (h->type == ECHO_REPLY)
        icmp_answered = swap16(h->sequence);
    if (h->type != ECHO || h->code || n + sizeof(struct ip_header) > net_link.mtu)
        return;
    struct icmp_header *answer = (struct icmp_header *)ip_payload();
    memcpy(answer, data, n);
    answer->type = ECHO_REPLY;
    send(from, n);
}

bool icmp_ping(u32 to, u16 id, u16 sequence)
{
    struct icmp_header *h = (struct icmp_header *)ip_payload();
    *h = (struct icmp_header){ECHO, 0, 0, swap16(id), swap16(sequence)};
    memset(h + 1, 'p', 56);
    return send(to, sizeof *h + 56);
}
