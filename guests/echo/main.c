/* echo: sends UDP datagrams back (RFC 862, port 7), or sends them to such a server and checks what comes back.
 *
 * Command line: `net=`, `ip=`, `blank`, `split=` as in daytime. Server: `count=N` ends after N. Client: `to=10.0.0.3`, `count=N` datagrams of
 * `size=` bytes (64), `window=` of them on the way at a time (8). When its device is taken away it waits for another one.
 */
#include "net.h"
#include "sysctlfront.h"

enum { SECOND = 1000000000, HEADER = 8 };
static struct netfront nic;
static struct sysctlfront sysctl;
static u64 echoed, back, wrong;
static u32 size;

static void answer(u32 ip, u16 port, const u8 *data, u32 n)
{
    if (udp_send(ip, port, 7, data, n))
        echoed++;
}

static void fill(u8 *data, u64 sequence)
{
    memcpy(data, &sequence, HEADER);
    for (u32 i = HEADER; i < size; i++)
        data[i] = (u8)(sequence * 7 + i);
}

static void returned(u32 ip, u16 port, const u8 *data, u32 n)
{
    static u8 expected[NET_DATA];
    u64 sequence;
    (void)ip, (void)port;
    back++;
    memcpy(&sequence, data, HEADER);
    fill(expected, sequence);
    if (n != size || memcmp(data, expected, n))
        wrong++;
}

static bool stirred(void *arg)
{
    u64 until = *(u64 *)arg;
    return net_follow_stirred(&nic) || sysctlfront_stirred(&sysctl) || (until && now() >= until);
}

static void wait(u64 until)
{
    if (!net_poll() && !net_follow(&nic)) {
        if (until)
            timer_at(until);
        thread_wait(stirred, &until);
    }
    sysctlfront_obey(&sysctl);
}

/* What has not come back a second after the last that did is lost, and is not sent again: UDP promises nothing. */
static void client(u32 to, u64 count, u64 window)
{
    static u8 data[NET_DATA];
    u64 sent = 0, lost = 0, start = now();
    for (u32 i = 0; i < 10 && !arp_find(to); i++) {
        u64 until = now() + SECOND / 10;
        arp_ask(to);
        while (!arp_find(to) && now() < until)
            wait(until);
    }
    if (!arp_find(to))
        panic("echo: nobody answers");
    while (back + lost < count) {
        while (sent < count && sent - back - lost < window) {
            fill(data, sent);
            if (!udp_send(to, 7, 4007, data, size))
                break;
            sent++;
        }
        u64 had = back, until = now() + SECOND;
        while (back == had && now() < until)
            wait(until);
        if (back == had)
            lost = sent - back;
    }
    timer_at(0);
    printf("echo: %lu sent, %lu back, %lu lost, %lu wrong, %lu ns\n", sent, back, lost, wrong, now() - start);
}

void main(void)
{
    char text[24] = "";
    u32 to, mask;
    u64 count = option_number("count", 0);
    size = (u32)option_number("size", 64);
    if (size < HEADER || size > NET_DATA)
        panic("echo: size is %u to %u", HEADER, NET_DATA);
    sysctlfront_open(&sysctl, "sysctl");
    devices_watch(bus_choose("net", noxs_dev_vif), noxs_dev_vif);
    if (!net_start_front(&nic)) {
        printf("echo: no network device over %s\n", nic.device.bus->name);
        return;
    }
    if (option("to", text, sizeof text)) {
        if (!parse_ip(text, &to, &mask))
            panic("echo: to=%s is no address", text);
        udp_listen(4007, returned);
        client(to, count ? count : 100, option_number("window", 8));
    } else {
        udp_listen(7, answer);
        printf("echo: ready\n");
        while (!count || echoed < count)
            wait(0);
        printf("echo: %lu datagrams\n", echoed);
    }
    netfront_close(&nic);
    printf("echo: %lu frames in, %lu out, %lu bad sums, %lu errors\n", nic.frames_in, nic.frames_out, net_counts.bad_sum, nic.errors);
}
