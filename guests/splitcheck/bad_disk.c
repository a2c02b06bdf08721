/* A disk front end that breaks the rules, one after the other. A request that cannot be is answered with an error; what makes the ring
 * meaningless costs the connection; either way the disk serves the next good request as if nothing had been.
 */
#include "bad.h"

u32 bad_failures;
static struct blkfront disk;
static const struct blkfront_way *good_way;
static bool wrong_ref, wrong_port;
static u32 page_ref;

bool bad_check(const char *what, const char *end, bool good)
{
    printf("%s %s: %s\n", good ? "ok  " : "FAIL", what, end);
    bad_failures += !good;
    return good;
}

static bool publish(struct device *d, u32 ref, u32 port)
{
    return good_way->publish(d, wrong_ref ? UNGRANTED : ref, wrong_port ? NO_PORT : port);
}

static bool works(void)
{
    static void *page;
    if (!page)
        page = page_alloc();
    return disk.connected && blkfront_do(&disk, BLKIF_OP_READ, 0, 1, &page) == BLKIF_RSP_OKAY;
}

static bool again(void)
{
    return device_restart(&disk.device) && blkfront_connect(&disk) && works();
}

static void publishes(const char *what, bool *wrong)
{
    *wrong = true;
    bool refused = !(device_restart(&disk.device) && blkfront_connect(&disk));
    *wrong = false;
    bad_check(what, "refused, and the next one connects", refused && again());
    blkfront_disconnect(&disk);
}

static bool answered(void *ring)
{
    return ring_responses(ring) > 0;
}

/* One request as it is, with no other on its way. */
static short ask(const struct blkif_request *q)
{
    struct blkif_response r;
    ring_put_request(&disk.ring, q);
    blkfront_push(&disk);
    disk.ring.page->rsp_event = disk.ring.rsp_cons + 1;
    full_barrier();
    thread_wait(answered, &disk.ring);
    ring_get_response(&disk.ring, &r);
    u8 operation = q->operation == BLKIF_OP_INDIRECT ? q->nr_segments : q->operation;
    return r.id == q->id && r.operation == operation ? r.status : 1;
}

static void requests(void)
{
    u64 end = disk.offer.sectors;
    const struct { const char *what; struct blkif_request q; } bad[] = {
        {"read to a page that is not granted", {BLKIF_OP_READ, 1, 0, 1, 0, {{{UNGRANTED, 0, 7}}}}},
        {"write from a page that is not granted", {BLKIF_OP_WRITE, 2, 0, 2, 0, {{{page_ref, 0, 7}, {UNGRANTED, 0, 7}}}}},
        {"read past the end", {BLKIF_OP_READ, 1, 0, 3, end - 1, {{{page_ref, 0, 1}}}}},
        {"read at the last sector that a number can name", {BLKIF_OP_READ, 1, 0, 4, ~0UL, {{{page_ref, 0, 0}}}}},
        {"write past the end", {BLKIF_OP_WRITE, 1, 0, 5, end, {{{page_ref, 0, 0}}}}},
        {"no segments", {BLKIF_OP_READ, 0, 0, 6, 0, {{{0}}}}},
        {"200 segments", {BLKIF_OP_READ, 200, 0, 7, 0, {{{page_ref, 0, 7}}}}},
        {"a segment that ends before it begins", {BLKIF_OP_WRITE, 1, 0, 8, 0, {{{page_ref, 5, 4}}}}},
        {"a segment past its page", {BLKIF_OP_READ, 1, 0, 9, 0, {{{page_ref, 0, 8}}}}},
        {"a table that is not granted", {BLKIF_OP_INDIRECT, BLKIF_OP_READ, 20, 10, 0, {.indirect = {0, {UNGRANTED}}}}},
        {"a table of nothing", {BLKIF_OP_INDIRECT, BLKIF_OP_READ, 0, 11, 0, {.indirect = {0, {page_ref}}}}},
        {"a table too long", {BLKIF_OP_INDIRECT, BLKIF_OP_WRITE, 4096, 12, 0, {.indirect = {0, {page_ref}}}}},
        {"a table for another operation", {BLKIF_OP_INDIRECT, BLKIF_OP_DISCARD, 1, 13, 0, {.indirect = {0, {page_ref}}}}},
        {"discard of more than there is", {BLKIF_OP_DISCARD, 0, 0, 14, 1, {.nr_sectors = ~0UL}}},
        {"discard past the end", {BLKIF_OP_DISCARD, 0, 0, 15, end - 1, {.nr_sectors = 2}}},
        {"an operation that there is not", {200, 1, 0, 16, 0, {{{page_ref, 0, 0}}}}},
    };
    for (u32 i = 0; i < COUNT(bad); i++)
        bad_check(bad[i].what, "an error, and the next one is served", ask(&bad[i].q) < BLKIF_RSP_OKAY && works());
}

static void runs_away(void)
{
    disk.ring.page->req_prod += 1000;
    event_send(disk.port);
}

static void closes_port(void)
{
    event_close(disk.port);
    disk.ring.page->req_prod += 1; /* nobody is told */
}

static void no_state(void) { device_set_state(&disk.device, 77); }
static void begins_anew(void) { device_set_state(&disk.device, XenbusStateInitialising); }
static void just_closed(void) { device_set_state(&disk.device, XenbusStateClosed); }

void bad_disk(void)
{
    static const struct { const char *what; void (*breach)(void); bool leaves; } breaches[] = {
        {"indices that run away", runs_away, true}, {"a port closed too early", closes_port, false}, {"a state that there is not", no_state, true},
        {"beginning anew without closing", begins_anew, true}, {"closing without waiting", just_closed, true}};
    const struct bus *bus = bus_choose("blk", noxs_dev_vbd);
    good_way = bus == &bus_noxs ? &blkfront_noxs : &blkfront_xs;
    struct blkfront_way bad_way = {good_way->read_offer, publish, good_way->read_details};
    disk.way = &bad_way;
    if (!bad_check("disk", "connects", device_open(&disk.device, bus, noxs_dev_vbd, 0) && blkfront_connect(&disk) && works()))
        return;
    page_ref = grant_access(disk.device.backend, va_to_mfn(page_alloc()), false);
    requests();
    for (u32 i = 0; i < COUNT(breaches); i++) {
        breaches[i].breach();
        if (breaches[i].leaves)
            device_wait(&disk.device, STATES_GONE | STATES(XenbusStateInitWait));
        blkfront_disconnect(&disk);
        bad_check(breaches[i].what, "the connection's end, and the next one serves", again());
    }
    blkfront_disconnect(&disk);
    publishes("a ring that is not granted", &wrong_ref);
    publishes("a port that is not open", &wrong_port);
    bad_check("disk", "all pages came back", grant_end(page_ref));
    blkfront_close(&disk);
}
