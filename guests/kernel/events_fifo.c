/* The FIFO form of event channels, for a guest with more ports than the shared page has bits for (limits.h says so): a word a
 * port, in pages given to Xen as they are needed, and queues of ports that Xen fills at the tail and we empty at the head
 * (public/event_channel.h). Only raised ports cost anything, however many there are.
 */
#include "kernel.h"

#if EVENT_PORTS > 4096
enum { WORDS = PAGE_SIZE / 4, QUEUES = 16, LINK = (1 << 17) - 1 };
enum { PENDING = 31, MASKED = 30, LINKED = 29 }; /* bits of a word */
static struct { volatile u32 ready, reserved; volatile u32 head[QUEUES]; } *control;
static volatile u32 *words[EVENT_PORTS / WORDS];
static u32 pages, next[QUEUES]; /* next: to be taken from a queue; 0: what control says */

static volatile u32 *word(u32 port) { return &words[port / WORDS][port % WORDS]; }
static void clear(volatile u32 *w, u32 bit) { __atomic_fetch_and(w, ~(1U << bit), __ATOMIC_SEQ_CST); }

void fifo_init(void)
{
    control = page_alloc();
    struct evtchn_init_control c = {va_to_mfn(control), 0, 0, 0, {0}};
    if (hypercall_event_channel_op(EVTCHNOP_init_control, &c))
        panic("no event queues");
    if (fifo_reach(0))
        panic("no event words");
}

/* Until its page is there a port is not raised; Xen does that then. */
int fifo_reach(u32 port)
{
    while (port / WORDS >= pages) {
        u32 *page = page_try();
        if (!page)
            return -ENOMEM;
        for (u32 i = 0; i < WORDS; i++)
            page[i] = 1U << MASKED;
        struct evtchn_expand_array e = {va_to_mfn(page)};
        if (hypercall_event_channel_op(EVTCHNOP_expand_array, &e)) {
            page_free(page);
            return -ENOMEM;
        }
        words[pages++] = page;
    }
    return 0;
}

void fifo_mask(u32 port)
{
    if (port / WORDS < pages)
        __atomic_fetch_or(word(port), 1U << MASKED, __ATOMIC_SEQ_CST);
}

/* Takes one port from queue q; whether there are more. */
static bool take(u32 q)
{
    u32 port = next[q] ? next[q] : control->head[q];
    volatile u32 *w = word(port);
    u32 old = __atomic_fetch_and(w, ~(1U << LINKED | LINK), __ATOMIC_SEQ_CST);
    next[q] = old & LINK;
    if ((old & (1U << PENDING | 1U << MASKED)) == 1U << PENDING) {
        clear(w, PENDING);
        event_run(port);
    }
    return next[q];
}

void fifo_run(void)
{
    u32 ready = 0;
    while ((ready |= __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST))) {
        u32 q = (u32)__builtin_ctz(ready); /* the most urgent one */
        if (!take(q))
            ready &= ~(1U << q);
    }
}
#endif
