/* The life of dom0's back ends without a machine: one step of it at a time, for any pair of states. */
#include "back.c"

static struct back it;
static u32 front, acts;
static bool refuses;
enum { DID_OFFER = 1, DID_CONNECT = 2, DID_DISCONNECT = 4 };

static u32 fake_other(struct back *b) { (void)b; return front; }
static void fake_publish(struct back *b, u32 state) { (void)b, (void)state; }
static int fake_offer(struct back *b) { (void)b; acts |= DID_OFFER; return 0; }
static bool fake_ready(struct back *b) { (void)b; return true; }
static bool fake_connect(struct back *b)
{
    acts |= DID_CONNECT;
    if (refuses)
        back_fail(b, "a test");
    return !refuses;
}
static void fake_disconnect(struct back *b) { (void)b; acts |= DID_DISCONNECT; }
static bool fake_work(struct back *b) { (void)b; return false; }
static const struct back_kind kind = {.name = "vbd", .disconnect = fake_disconnect, .work = fake_work};
static const struct back_way way = {fake_other, fake_publish, fake_offer, fake_ready, fake_connect};

void events_mask(void) {}
void events_unmask(void) {}
int printf(const char *format, ...) { (void)format; return 0; }

/* The state after one step, and what was done on the way, in the bits from 8 on. `leaves`: it is to be removed. */
u32 harness_step(u32 own, u32 other, bool fails, bool leaves)
{
    it = (struct back){.kind = &kind, .way = &way, .state = own, .connected = own == XenbusStateConnected, .leaving = leaves};
    front = other;
    acts = 0;
    refuses = fails;
    if (leaves && own != XenbusStateClosed)
        give_up(&it);
    else
        step(&it);
    return it.state | acts << 8;
}
