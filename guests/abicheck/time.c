/* Time: the published clock, the one-shot and periodic timers, block and poll. */
#include "check.h"

#define MS 1000000UL

static s64 poll(u32 *ports, u32 count, u64 timeout)
{
    struct sched_poll p = {ports, count, timeout};
    return hypercall_sched_op(SCHEDOP_poll, &p);
}

void check_time(void)
{
    const volatile struct vcpu_info *v = &shared_info->vcpu_info[0];
    u64 a = now(), b = now();
    check(b >= a, "the clock does not go back");
    equal("the version is even", v->time.version & 1, 0);
    check(shared_info->wc_sec > 0 && shared_info->wc_nsec < 1000000000 && !(shared_info->wc_version & 1), "the wall clock is sane");

    a = now();
    sleep_until(a + 2 * MS);
    check(now() >= a + 2 * MS, "a timer wakes no earlier than asked");
    answer("set_timer_op: 0 stops it", hypercall_set_timer_op(0), 0);
    events_mask();
    hypercall_set_timer_op(now() + 2 * MS);
    answer("block", hypercall_sched_op(SCHEDOP_block, NULL), 0);
    equal("block returns with events unmasked", v->evtchn_upcall_mask, 0);
    events_mask();
    answer("set_timer_op: in the past", hypercall_set_timer_op(1), 0);
    answer("block: rings at once", hypercall_sched_op(SCHEDOP_block, NULL), 0);

    s64 port = event_alloc_unbound(DOMID_SELF);
    struct evtchn_bind_interdomain bind = {DOMID_SELF, (u32)port, 0};
    hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    u32 ports[2] = {(u32)port, bind.local_port}, bad = 4096;
    clear_bit(shared_info->evtchn_pending, bind.local_port);
    a = now();
    answer("poll: until a time", poll(ports, 1, a + 2 * MS), 0);
    check(now() >= a + 2 * MS, "poll: no earlier than asked");
    answer("poll: a time in the past", poll(ports, 1, 1), 0);
    event_send(bind.local_port);
    answer("poll: a port that is pending, though masked", poll(ports, 1, 0), 0);
    answer("poll: the second of two is pending", (clear_bit(shared_info->evtchn_pending, ports[0]), event_send(ports[0]),
           poll(ports, 2, 0)), 0);
    answer("poll: leaves the port pending", test_bit(shared_info->evtchn_pending, ports[1]), 1);
    answer("poll: port 4096", poll(&bad, 1, 1), -EINVAL);
    answer("poll: 129 ports", poll(ports, 129, 1), -EINVAL);
    answer("poll: bad pointer to the ports", poll(WILD, 1, 1), -EFAULT);
    answer("poll: bad pointer", hypercall_sched_op(SCHEDOP_poll, WILD), -EFAULT);
    event_close(ports[0]);
    event_close(ports[1]);

    events_mask();
    struct vcpu_set_singleshot_timer once = {now() + 2 * MS, 0};
    answer("vcpu_op: set_singleshot_timer", hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &once), 0);
    hypercall_sched_op(SCHEDOP_block, NULL);
    check(now() >= once.timeout_abs_ns, "vcpu_op: it rings no earlier than asked");
    once = (struct vcpu_set_singleshot_timer){1, 1};
    answer("vcpu_op: set_singleshot_timer in the past, with the flag that no longer counts",
           hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &once), 0);
    answer("vcpu_op: stop_singleshot_timer", hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0);
    answer("vcpu_op: set_singleshot_timer of another vcpu", hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 1, &once),
           hypercall_vcpu_op(VCPUOP_is_up, 1, NULL) < 0 ? -ENOENT : -EINVAL);
    struct vcpu_set_periodic_timer period = {999999};
    answer("vcpu_op: set_periodic_timer below 1 ms", hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -EINVAL);
    period.period_ns = 1UL << 63;
    answer("vcpu_op: set_periodic_timer beyond all", hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -EINVAL);
    period.period_ns = 2 * MS;
    answer("vcpu_op: set_periodic_timer", hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0);
    a = now();
    u32 first = timer_ticks();
    for (u64 i = 0; timer_ticks() < first + 3 && (i % 100000 || now() < a + 5000 * MS); i++)
        barrier(); /* a period that ends while the vCPU is blocked wakes nobody: stay awake */
    check(timer_ticks() >= first + 3, "vcpu_op: the periodic timer interrupts a running vcpu");
    check(now() >= a + 4 * MS, "vcpu_op: three periods take their time");
    answer("vcpu_op: stop_periodic_timer", hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0);
}
