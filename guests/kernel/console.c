/* The console: the ring in start_info's console page in a domU; console_io in dom0, whose start_info has other things there. */
#include "kernel.h"

static struct console_ring *ring;
static u32 port;

void console_init(void)
{
    if (is_dom0() || !start_info->console.domU.mfn)
        return;
    ring = map_area(start_info->console.domU.mfn);
    port = start_info->console.domU.evtchn;
}

/* The port stays masked: a poll sees its pending bit all the same, and no upcall can take the bit away before the poll. */
static void wait_for_peer(void)
{
    struct sched_poll poll = {&port, 1, 0};
    event_send(port);
    hypercall_sched_op(SCHEDOP_poll, &poll);
    clear_bit(shared_info->evtchn_pending, port);
}

static void ring_put(char c)
{
    volatile struct console_ring *r = ring;
    while (r->out_prod - r->out_cons >= sizeof r->out)
        wait_for_peer();
    r->out[r->out_prod % sizeof r->out] = c;
    barrier();
    r->out_prod++;
}

void console_write(const char *text, u64 n)
{
    if (!ring) {
        hypercall_console_io(CONSOLEIO_write, n, (void *)text);
        return;
    }
    for (u64 i = 0; i < n; i++) {
        if (text[i] == '\n')
            ring_put('\r');
        ring_put(text[i]);
    }
    event_send(port);
}

u64 console_read(char *to, u64 n)
{
    volatile struct console_ring *r = ring;
    u64 got = 0;
    if (!ring) {
        s64 count = hypercall_console_io(CONSOLEIO_read, n, to);
        return count > 0 ? (u64)count : 0;
    }
    for (; got < n && r->in_cons != r->in_prod; r->in_cons++)
        to[got++] = r->in[r->in_cons % sizeof r->in];
    if (got)
        event_send(port);
    return got;
}

/* Wait until the other end has taken everything. */
void console_flush(void)
{
    volatile struct console_ring *r = ring;
    while (ring && r->out_cons != r->out_prod)
        wait_for_peer();
}
