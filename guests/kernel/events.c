/* Event channels: the upcall, a handler a port, and the calls that make and close ports. */
#include "kernel.h"

enum { PORTS = EVENT_PORTS, FIFO = PORTS > 4096 }; /* more ports than the shared page has bits for */
static struct { event_handler run; void *arg; } handlers[PORTS];

void event_run(u32 port)
{
    if (port < PORTS && handlers[port].run)
        handlers[port].run(port, handlers[port].arg);
}

static void upcall(struct frame *f)
{
    (void)f;
    struct vcpu_info *v = &shared_info->vcpu_info[0];
    while (v->evtchn_upcall_pending) {
        v->evtchn_upcall_pending = 0;
        if (FIFO) {
            fifo_run();
            continue;
        }
        u64 words = __atomic_exchange_n(&v->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
        for (u32 w = 0; words; w++, words >>= 1) {
            if (!(words & 1))
                continue;
            volatile u64 *pending = &shared_info->evtchn_pending[w];
            u64 ports;
            while ((ports = *pending & ~((volatile u64 *)shared_info->evtchn_mask)[w])) {
                u32 port = w * 64 + (u32)__builtin_ctzl(ports);
                clear_bit(shared_info->evtchn_pending, port);
                event_run(port);
            }
        }
    }
}

void events_init(void)
{
    for (u32 w = 0; w < 64; w++)
        shared_info->evtchn_mask[w] = ~0UL;
    if (FIFO)
        fifo_init();
    trap_handlers[VECTOR_UPCALL] = upcall;
    struct callback_register calls[] = {{CALLBACKTYPE_event, 0, upcall_entry}, {CALLBACKTYPE_failsafe, 0, failsafe_entry},
                                        {CALLBACKTYPE_syscall, 0, syscall_entry}};
    for (u32 i = 0; i < COUNT(calls); i++)
        if (hypercall_callback_op(CALLBACKOP_register, &calls[i]))
            panic("callback_op failed");
    events_unmask();
}

void events_mask(void)
{
    ((volatile struct vcpu_info *)&shared_info->vcpu_info[0])->evtchn_upcall_mask = 1;
    barrier();
}

/* Clearing the mask by a store delivers nothing: the return from the next hypercall does. */
void events_unmask(void)
{
    volatile struct vcpu_info *v = &shared_info->vcpu_info[0];
    barrier();
    v->evtchn_upcall_mask = 0;
    barrier();
    if (v->evtchn_upcall_pending)
        hypercall_xen_version(XENVER_version, NULL);
}

int event_bind(u32 port, event_handler handler, void *arg)
{
    struct evtchn_port p = {port};
    if (FIFO && fifo_reach(port))
        return -ENOMEM;
    handlers[port].run = handler;
    handlers[port].arg = arg;
    hypercall_event_channel_op(EVTCHNOP_unmask, &p);
    return 0;
}

void event_unbind(u32 port)
{
    if (FIFO)
        fifo_mask(port);
    else
        set_bit(shared_info->evtchn_mask, port);
    handlers[port].run = NULL;
}

void event_send(u32 port)
{
    struct evtchn_port p = {port};
    hypercall_event_channel_op(EVTCHNOP_send, &p);
}

s64 event_alloc_unbound(u32 remote)
{
    struct evtchn_alloc_unbound a = {DOMID_SELF, (u16)remote, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &a);
    return rc ? rc : (s64)a.port;
}

s64 event_bind_virq(u32 virq, u32 vcpu)
{
    struct evtchn_bind_virq b = {virq, vcpu, 0};
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_virq, &b);
    return rc ? rc : (s64)b.port;
}

void event_close(u32 port)
{
    struct evtchn_port p = {port};
    event_unbind(port);
    hypercall_event_channel_op(EVTCHNOP_close, &p);
    if (!FIFO)
        clear_bit(shared_info->evtchn_pending, port);
}
