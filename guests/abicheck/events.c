/* Event channels: ports, their states, pending and mask bits, when an upcall comes. */
#include "check.h"

static volatile u32 upcalls, last_mask;
static void counted(u32 port, void *arg)
{
    (void)port, (void)arg;
    upcalls++;
    last_mask = shared_info->vcpu_info[0].evtchn_upcall_mask;
}

static s64 op(u32 cmd, void *arg) { return hypercall_event_channel_op(cmd, arg); }
static s64 port_op(u32 cmd, u32 port) { return op(cmd, &(struct evtchn_port){port}); }
static s64 close_port(u32 port) { return op(EVTCHNOP_close, &(struct evtchn_port){port}); }
static struct evtchn_status status(u32 port)
{
    struct evtchn_status s = {.dom = DOMID_SELF, .port = port};
    if (op(EVTCHNOP_status, &s))
        s.status = 99;
    return s;
}
static s64 virq(u32 virq, u32 vcpu, u32 *port)
{
    struct evtchn_bind_virq b = {virq, vcpu, 0};
    s64 rc = op(EVTCHNOP_bind_virq, &b);
    *port = b.port;
    return rc;
}

static void errors(void)
{
    u32 port;
    answer("send: port 0", port_op(EVTCHNOP_send, 0), -EINVAL);
    answer("send: a closed port", port_op(EVTCHNOP_send, 900), -EINVAL);
    answer("send: port 4096", port_op(EVTCHNOP_send, 4096), -EINVAL);
    answer("close: port 0", close_port(0), -EINVAL);
    answer("close: a closed port", close_port(900), -EINVAL);
    answer("unmask: port 4096", port_op(EVTCHNOP_unmask, 4096), -EINVAL);
    answer("unmask: a closed port", port_op(EVTCHNOP_unmask, 1000), -EINVAL);
    answer("status: port 4096", op(EVTCHNOP_status, &(struct evtchn_status){.dom = DOMID_SELF, .port = 4096}), -EINVAL);
    answer("status: of a domain that is not there", op(EVTCHNOP_status, &(struct evtchn_status){.dom = 4242, .port = 1}), -ESRCH);
    answer("bind_virq: the timer twice", virq(VIRQ_TIMER, 0, &port), -EEXIST);
    answer("bind_virq: no such virq", virq(24, 0, &port), -EINVAL);
    answer("bind_virq: no such vcpu", virq(VIRQ_DEBUG, 40, &port), -ENOENT);
    answer("bind_virq: a global one on vcpu 1", virq(VIRQ_DOM_EXC, 1, &port), -EINVAL);
    answer("bind_virq: dom_exc, though it will never come to a domU", virq(VIRQ_DOM_EXC, 0, &port), 0);
    close_port(port);
    answer("bind_ipi: no such vcpu", op(EVTCHNOP_bind_ipi, &(struct evtchn_bind_ipi){40, 0}), -ENOENT);
    answer("bind_pirq: no such pirq", op(EVTCHNOP_bind_pirq, &(struct evtchn_bind_pirq){100000, 0, 0}), -EINVAL);
    answer("bind_interdomain: a domain that is not there", op(EVTCHNOP_bind_interdomain, &(struct evtchn_bind_interdomain){4242, 1,
           0}), -ESRCH);
    answer("bind_interdomain: a closed port", op(EVTCHNOP_bind_interdomain, &(struct evtchn_bind_interdomain){DOMID_SELF, 900, 0}),
           -EINVAL);
    answer("bind_interdomain: a port that is not unbound", op(EVTCHNOP_bind_interdomain,
           &(struct evtchn_bind_interdomain){DOMID_SELF, 4096, 0}), -EINVAL);
    answer("alloc_unbound: for another domain", op(EVTCHNOP_alloc_unbound, &(struct evtchn_alloc_unbound){4242, 0, 0}), -ESRCH);
    answer("bad pointer", op(EVTCHNOP_send, WILD), -EFAULT);
    answer("no such operation", op(99, WILD), -ENOSYS);
    answer("set_priority without FIFO", op(EVTCHNOP_set_priority, &(struct { u32 port, priority; }){1, 1}), -ENOSYS);
}

static void loopback(void)
{
    struct evtchn_alloc_unbound a = {DOMID_SELF, DOMID_SELF, 0};
    answer("alloc_unbound: for ourselves", op(EVTCHNOP_alloc_unbound, &a), 0);
    struct evtchn_status s = status(a.port);
    check(s.status == EVTCHNSTAT_unbound && s.vcpu == 0, "its status: unbound, vcpu 0");
    answer("send: an unbound port", port_op(EVTCHNOP_send, a.port), 0);
    struct evtchn_bind_interdomain b = {DOMID_SELF, a.port, 0};
    answer("bind_interdomain: to it", op(EVTCHNOP_bind_interdomain, &b), 0);
    check(b.local_port && b.local_port != a.port, "it gives another port");
    s = status(b.local_port);
    check(s.status == EVTCHNSTAT_interdomain && s.u.interdomain.port == a.port, "its status: interdomain, the other end's port");
    equal("the new local port is pending", test_bit(shared_info->evtchn_pending, b.local_port), 1);
    clear_bit(shared_info->evtchn_pending, b.local_port);
    volatile struct vcpu_info *v = &shared_info->vcpu_info[0];
    events_mask();
    answer("send", port_op(EVTCHNOP_send, b.local_port), 0);
    equal("sets the peer's bit", test_bit(shared_info->evtchn_pending, a.port), 1);
    equal("a masked port touches neither the selector nor upcall_pending", v->evtchn_pending_sel | v->evtchn_upcall_pending, 0);
    clear_bit(shared_info->evtchn_mask, a.port);
    hypercall_xen_version(XENVER_version, NULL);
    equal("clearing the mask bit by a store sets nothing", v->evtchn_pending_sel | v->evtchn_upcall_pending, 0);
    answer("unmask: of a port whose mask bit is clear", port_op(EVTCHNOP_unmask, a.port), 0);
    equal("sets nothing either", v->evtchn_pending_sel | v->evtchn_upcall_pending, 0);
    set_bit(shared_info->evtchn_mask, a.port);
    answer("unmask", port_op(EVTCHNOP_unmask, a.port), 0);
    check(v->evtchn_pending_sel == 1UL << (a.port / 64) && v->evtchn_upcall_pending == 1, "unmask sets both");
    answer("bind it for real", (event_bind(a.port, counted, NULL), 0), 0);
    equal("no upcall while upcall_mask is set", upcalls, 0);
    v->evtchn_upcall_mask = 0;
    barrier();
    equal("clearing upcall_mask by a store delivers nothing", upcalls, 0);
    hypercall_xen_version(XENVER_version, NULL);
    equal("the next hypercall's return does", upcalls, 1);
    equal("the mask is set inside the upcall", last_mask, 1);
    equal("and clear after it", v->evtchn_upcall_mask, 0);
    port_op(EVTCHNOP_send, b.local_port);
    equal("with everything open send delivers at once", upcalls, 2);
    events_mask();
    port_op(EVTCHNOP_send, b.local_port);
    port_op(EVTCHNOP_send, b.local_port);
    u64 ignored;
    v->evtchn_upcall_mask = 0;
    barrier();
    try_read((u64)WILD, &ignored);
    equal("so does a trap's return; two sends make one upcall", upcalls, 3);
    extern const char do_iret_self[];
    struct probe p = {0};
    events_mask();
    port_op(EVTCHNOP_send, b.local_port);
    probe(&p, do_iret_self);
    check(p.vector == -1 && upcalls == 4 && v->evtchn_upcall_mask == 0, "so does the iret that unmasks");
    answer("bind_vcpu: to vcpu 0", op(EVTCHNOP_bind_vcpu, &(struct evtchn_bind_vcpu){a.port, 0}), 0);
    answer("bind_vcpu: to no such vcpu", op(EVTCHNOP_bind_vcpu, &(struct evtchn_bind_vcpu){a.port, 40}), -ENOENT);
    answer("bind_vcpu: of a closed port", op(EVTCHNOP_bind_vcpu, &(struct evtchn_bind_vcpu){900, 0}), -EINVAL);
    answer("close one end", close_port(b.local_port), 0);
    equal("the other is unbound again", status(a.port).status, EVTCHNSTAT_unbound);
    event_unbind(a.port);
    answer("close the other", close_port(a.port), 0);
    equal("its status: closed", status(a.port).status, EVTCHNSTAT_closed);
}

void check_events(void)
{
    upcalls = 0;
    errors();
    loopback();
    struct evtchn_bind_ipi ipi = {0, 0};
    answer("bind_ipi", op(EVTCHNOP_bind_ipi, &ipi), 0);
    equal("bind_ipi: status", status(ipi.port).status, EVTCHNSTAT_ipi);
    answer("bind_vcpu: an ipi stays where it is", op(EVTCHNOP_bind_vcpu, &(struct evtchn_bind_vcpu){ipi.port, 0}), -EINVAL);
    upcalls = 0;
    event_bind(ipi.port, counted, NULL);
    answer("send to the ipi's port", port_op(EVTCHNOP_send, ipi.port), 0);
    equal("it arrives", upcalls, 1);
    event_unbind(ipi.port);
    u32 first = ipi.port;
    answer("close it", close_port(ipi.port), 0);
    answer("bind_ipi again", op(EVTCHNOP_bind_ipi, &ipi), 0);
    equal("the lowest free port is given", ipi.port, first);
    close_port(ipi.port);
    u32 port;
    answer("bind_virq: debug", virq(VIRQ_DEBUG, 0, &port), 0);
    struct evtchn_status s = status(port);
    check(s.status == EVTCHNSTAT_virq && s.u.virq == VIRQ_DEBUG, "bind_virq: status");
    answer("send to a virq's port", port_op(EVTCHNOP_send, port), -EINVAL);
    close_port(port);
}
