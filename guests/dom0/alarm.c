/* Alarms: a list by time, and a thread that sleeps until the first of them. What was cancelled may still wake that thread, once. */
#include "alarm.h"

static struct alarm *alarms;
static struct thread *clock;
THREAD_STACK(stack);
static u64 armed; /* the timer is set to this; 0: it is not */

static void tick(void *arg)
{
    (void)arg;
    for (;;) {
        u64 t = now();
        if (armed && armed <= t)
            armed = 0;
        while (alarms && alarms->when <= t) {
            struct alarm *a = alarms;
            alarms = a->next;
            a->rung = true;
            thread_wake(a->sleeper);
        }
        if (!alarms) {
            thread_sleep();
        } else {
            armed = alarms->when;
            sleep_quietly(armed);
        }
    }
}

void alarm_set(struct alarm *a, u64 when)
{
    struct alarm **at = &alarms;
    *a = (struct alarm){when, thread_self(), false, NULL};
    while (*at && (*at)->when <= when)
        at = &(*at)->next;
    a->next = *at;
    *at = a;
    if (!clock)
        clock = thread_start_on(stack, "alarms", tick, NULL);
    else if (!armed || when < armed)
        thread_wake(clock);
}

void alarm_cancel(struct alarm *a)
{
    for (struct alarm **at = &alarms; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
}
