/* splitcheck: a front end in one guest, its back end in another, and no other end: what one says of itself the other checks.
 *
 * Command line: `role=net-front`, `net-back`, `blk-front`, `blk-back`. Back ends: `peer=DOMID`, `way=xs` or `noxs`, `rounds=N` connections (2).
 * Front ends: `net=`, `blk=` as everywhere, `count=N` packets a round, `rounds=N`; `blk-front` runs what blkcheck does.
 * A back end breaks the rules on purpose, once, with `evil=` and the name of a breach (misbehave() in netback.c and blkback.c).
 * `role=bad-net`, `bad-disk`: a front end that breaks the rules in every way it knows, for any back end to survive.
 * Over XenStore both ends' directories must be there already. Over noxs the back end says on its console what has to be put into the
 * front end's device page.
 */
#include "back.h"
#include "bad.h"
#include "blkexercise.h"
#include "net.h"

enum { SECOND = 1000000000, BACK_IP = 0x0100000a };
static u64 back_count, wrong;
static u32 size;

static void fill(u8 *data, u64 sequence)
{
    for (u32 i = 0; i < size; i++)
        data[i] = (u8)(sequence * 31 + i);
}

static void returned(u32 ip, u16 port, const u8 *data, u32 n)
{
    static u8 expected[NET_DATA];
    fill(expected, back_count);
    if (ip != BACK_IP || port != 7 || n != size || memcmp(data, expected, n))
        wrong++;
    back_count++;
}

static bool packets(u64 count)
{
    static u8 data[NET_DATA];
    u16 ping = (u16)(back_count + 1);
    icmp_answered = 0;
    for (u64 until = now() + SECOND; icmp_answered != ping && now() < until;) {
        bool sent = icmp_ping(BACK_IP, 1, ping); /* or its address was asked for */
        while (icmp_answered != ping && now() < until && (sent || !arp_find(BACK_IP)))
            net_wait(until);
    }
    if (icmp_answered != ping)
        return false;
    for (u64 i = 0, end = back_count + count; i < count; i++) {
        u64 had = back_count, until = now() + SECOND;
        size = 1 + (u32)(i * 97 % NET_DATA);
        fill(data, back_count);
        if (!udp_send(BACK_IP, 7, 4007, data, size))
            return false;
        while (back_count == had && now() < until)
            net_wait(until);
        if (back_count == had)
            return false;
        if (i + 1 == count)
            return back_count == end && !wrong;
    }
    return true;
}

/* The back end may close the device in the middle of it (`bossy`): then the round is run again once it is back. */
static void net_front(u64 rounds, u64 count)
{
    static struct netfront nic;
    bool good = net_start_front(&nic);
    if (!good)
        printf("splitcheck: no network device over %s\n", nic.device.bus->name);
    udp_listen(4007, returned);
    for (u64 round = 0; good && round < rounds; round++) {
        if (round) {
            netfront_disconnect(&nic);
            good = device_restart(&nic.device) && netfront_connect(&nic);
        }
        u32 connections = nic.connections;
        bool passed = good && packets(count);
        if (!passed && (!nic.connected || nic.connections != connections)) {
            printf("splitcheck: the back end closed the device\n");
            for (u64 until = now() + 10UL * SECOND; !nic.connected && now() < until;)
                net_wait(until);
            passed = nic.connected && packets(count);
            round++;
        }
        printf("%s round %lu: %lu packets\n", passed ? "ok  " : "FAIL", round + 1, back_count);
        good = passed;
    }
    netfront_close(&nic);
    printf("splitcheck: %s, %lu bad sums, %lu errors, %lu wrong\n", good && !wrong && !net_counts.bad_sum && !nic.errors ? "passed" : "failed",
           net_counts.bad_sum, nic.errors, wrong);
}

static void blk_front(u64 rounds)
{
    static struct blkfront disk;
    struct blkexercise x = {&disk, 0, 0, 5, 0};
    char hex[65];
    if (!blk_check(&x, "connect", blkfront_open(&disk, "blk", 0)))
        return;
    x.count = disk.offer.sectors;
    for (u64 round = 0; round < rounds; round++, x.seed++) {
        if (round) {
            blkfront_disconnect(&disk);
            if (!blk_check(&x, "connect again", device_restart(&disk.device) && blkfront_connect(&disk)))
                break;
        }
        if (!disk.offer.readonly) {
            blk_write_all(&x);
            blk_verify_all(&x);
            blk_discard(&x);
            blk_verify_all(&x);
        }
        blk_errors(&x);
        if (blk_check(&x, "read all", blk_digest(&x, hex)))
            printf("sha256 %s\n", hex);
    }
    blkfront_close(&disk);
    printf("splitcheck: %s, %lu requests, %lu indirect\n", x.failures ? "failed" : "passed", disk.requests, disk.indirect);
}

void main(void)
{
    char role[16] = "", way[8] = "";
    u64 rounds = option_number("rounds", 2);
    u32 peer = (u32)option_number("peer", DOMID_INVALID);
    option("role", role, sizeof role);
    option("way", way, sizeof way);
    bool noxs = !strcmp(way, "noxs");
    if (!strcmp(role, "net-front"))
        net_front(rounds, option_number("count", 50));
    else if (!strcmp(role, "blk-front"))
        blk_front(rounds);
    else if (!strcmp(role, "net-back"))
        netback_serve(peer, noxs, rounds);
    else if (!strcmp(role, "blk-back"))
        blkback_serve(peer, noxs, rounds);
    else if (!strcmp(role, "bad-disk"))
        bad_disk();
    else if (!strcmp(role, "bad-net"))
        bad_net();
    else
        printf("splitcheck: role=net-front, net-back, blk-front, blk-back, bad-net or bad-disk, please\n");
    if (!strncmp(role, "bad-", 4))
        printf("splitcheck: %s, %u failed\n", bad_failures ? "failed" : "passed", bad_failures);
}
