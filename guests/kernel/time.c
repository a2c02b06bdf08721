/* Time: the clock that Xen publishes in vcpu_info, and the one-shot timer. */
#include "kernel.h"

static volatile u32 ticks;
static struct thread *sleeper;

static u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

u64 now(void)
{
    const volatile struct vcpu_time_info *t = &shared_info->vcpu_info[0].time;
    for (;;) {
        u32 version = t->version;
        barrier();
        u64 delta = tsc() - t->tsc_timestamp;
        delta = t->tsc_shift < 0 ? delta >> -t->tsc_shift : delta << t->tsc_shift;
        u64 result = t->system_time + (u64)((unsigned __int128)delta * t->tsc_to_system_mul >> 32);
        barrier();
        if (!(version & 1) && version == t->version)
            return result;
    }
}

/* Xen publishes the wall clock of system time 0. */
u64 wall_clock(u32 *nanoseconds)
{
    const volatile struct shared_info *s = shared_info;
    for (;;) {
        u32 version = s->wc_version;
        barrier();
        u64 seconds = (u64)s->wc_sec_hi << 32 | s->wc_sec, rest = s->wc_nsec + now();
        barrier();
        if (version & 1 || version != s->wc_version)
            continue;
        *nanoseconds = (u32)(rest % 1000000000);
        return seconds + rest / 1000000000;
    }
}

void timer_at(u64 when)
{
    hypercall_set_timer_op(when);
}

static void tick(u32 port, void *arg)
{
    (void)port, (void)arg;
    ticks++;
    if (sleeper)
        thread_wake(sleeper);
}

u32 timer_ticks(void)
{
    return ticks;
}

void time_init(void)
{
    s64 port = event_bind_virq(VIRQ_TIMER, 0);
    if (port < 0)
        panic("no timer");
    hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL); /* Xen starts a domain with one of 100 Hz */
    event_bind((u32)port, tick, NULL);
}

static bool reached(void *when)
{
    return now() >= *(u64 *)when;
}

void sleep_until(u64 when)
{
    hypercall_set_timer_op(when);
    thread_wait(reached, &when);
}

void sleep_quietly(u64 when)
{
    sleeper = thread_self();
    hypercall_set_timer_op(when);
    thread_sleep();
    sleeper = NULL;
}
