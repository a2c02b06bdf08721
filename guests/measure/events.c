/* Event channels, upcalls, blocking with an event that is there already. */
#include "measure.h"

static u32 port, other;
#define CALL(identifier, expression) static s64 identifier(u64 n) { (void)n; return expression; }
static s64 op(u32 cmd, void *arg) { return hypercall_event_channel_op(cmd, arg); }
static void close_port(u32 p) { op(EVTCHNOP_close, &(struct evtchn_port){p}); clear_bit(shared_info->evtchn_pending, p); }
static s64 alloc(u64 n)
{
    struct evtchn_alloc_unbound a = {DOMID_SELF, DOMID_SELF, 0};
    (void)n;
    s64 rc = op(EVTCHNOP_alloc_unbound, &a);
    port = a.port;
    return rc;
}
static void alloc_ready(u64 n) { alloc(n); }
static void close_both(u64 n) { (void)n; close_port(port); }
static s64 close_run(u64 n) { (void)n; return op(EVTCHNOP_close, &(struct evtchn_port){port}); }
static s64 close_other(u64 n) { (void)n; return op(EVTCHNOP_close, &(struct evtchn_port){other}); }
static s64 bind(u64 n)
{
    struct evtchn_bind_interdomain b = {DOMID_SELF, port, 0};
    (void)n;
    s64 rc = op(EVTCHNOP_bind_interdomain, &b);
    other = b.local_port;
    return rc;
}
static void pair(u64 n) { alloc(n); bind(n); }
static void close_pair(u64 n) { (void)n; close_port(other); close_port(port); }
static s64 virq(u64 n)
{
    struct evtchn_bind_virq b = {VIRQ_DEBUG, 0, 0};
    (void)n;
    s64 rc = op(EVTCHNOP_bind_virq, &b);
    port = b.port;
    return rc;
}
static void virq_ready(u64 n) { virq(n); }
static s64 ipi(u64 n)
{
    struct evtchn_bind_ipi b = {0, 0};
    (void)n;
    s64 rc = op(EVTCHNOP_bind_ipi, &b);
    port = b.port;
    return rc;
}
static s64 send(u64 n) { (void)n; return op(EVTCHNOP_send, &(struct evtchn_port){other}); }
static s64 status(u64 n) { struct evtchn_status s = {DOMID_SELF, port, 0, 0, {{0}}}; (void)n; return op(EVTCHNOP_status, &s); }
static s64 bind_vcpu(u64 n) { struct evtchn_bind_vcpu b = {port, 0}; (void)n; return op(EVTCHNOP_bind_vcpu, &b); }
static s64 unmask(u64 n) { (void)n; return op(EVTCHNOP_unmask, &(struct evtchn_port){port}); }
static void taken(u32 p, void *arg) { (void)p, (void)arg; }
static void heard(u64 n) { pair(n); event_bind(port, taken, NULL); }
static void heard_masked(u64 n) { heard(n); events_mask(); }
static void unheard(u64 n) { event_unbind(port); events_unmask(); close_pair(n); }
static void waiting(u64 n) { heard_masked(n); send(n); }
static s64 block(u64 n) { (void)n; return hypercall_sched_op(SCHEDOP_block, NULL); }
static s64 poll(u64 n)
{
    struct sched_poll p = {&port, 1, 0};
    (void)n;
    return hypercall_sched_op(SCHEDOP_poll, &p);
}

/* The other form of event channels. There is no way back, and the kernel here does not know it: no event arrives any more. */
static u32 *words;
static struct { u32 ready, reserved, head[16]; } *control;
static struct evtchn_init_control init;
static struct evtchn_expand_array expand;
CALL(init_control, op(EVTCHNOP_init_control, &init))
CALL(expand_array, op(EVTCHNOP_expand_array, &expand))
static void unmasked(u64 n)
{
    pair(n);
    events_mask();
    words[port] = 0;
}
static void emptied(u64 n)
{
    control->ready = control->head[7] = words[port] = 0;
    shared_info->vcpu_info[0].evtchn_upcall_pending = 0;
    events_unmask();
    close_pair(n);
}

void measure_fifo(void)
{
    words = page_alloc();
    control = page_alloc();
    init.control_gfn = va_to_mfn(control);
    expand.array_gfn = va_to_mfn(words);
    for (u32 i = 0; i < PAGE_SIZE / sizeof *words; i++)
        words[i] = 1U << 30; /* masked */
    measure_once("event_channel_op.init_control", init_control);
    measure_once("event_channel_op.expand_array", expand_array);
    MEASURE("event_channel_op.send.fifo", 0, unmasked, send, emptied);
}

void measure_events(void)
{
    MEASURE("event_channel_op.alloc_unbound", 0, NULL, alloc, close_both);
    MEASURE("event_channel_op.close", 0, alloc_ready, close_run, NULL);
    MEASURE("event_channel_op.bind_interdomain", 0, alloc_ready, bind, close_pair);
    MEASURE("event_channel_op.close.bound", 0, pair, close_other, close_both);
    MEASURE("event_channel_op.bind_virq", 0, NULL, virq, close_both);
    MEASURE("event_channel_op.close.virq", 0, virq_ready, close_run, NULL);
    MEASURE("event_channel_op.bind_ipi", 0, NULL, ipi, close_both);
    MEASURE("event_channel_op.send.masked", 0, pair, send, close_pair);
    MEASURE("event_channel_op.send", 0, heard_masked, send, unheard);
    MEASURE("event_channel_op.send.again", 0, waiting, send, unheard);
    MEASURE("upcall", 0, heard, send, unheard);
    MEASURE("event_channel_op.status", 0, pair, status, close_pair);
    MEASURE("event_channel_op.bind_vcpu", 0, pair, bind_vcpu, close_pair);
    MEASURE("event_channel_op.unmask", 0, pair, unmask, close_pair);
    MEASURE("sched_op.block", 0, waiting, block, unheard);
    MEASURE("sched_op.poll.pending", 0, waiting, poll, unheard);
}
