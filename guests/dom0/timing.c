/* How long a command takes, down to the cycle: what runs between two moments at which nobody else had anything to do. */
#include "alarm.h"
#include "shell.h"
#include "xc.h"

enum { REST = 20000000 }; /* nanoseconds after which a guest that has booted, and its back ends, are at rest */

static u64 tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

static void rest(void)
{
    struct alarm a;
    alarm_set(&a, now() + REST);
    while (!a.rung)
        thread_sleep();
}

/* Xen keeps the idle time in nanoseconds of its clock, which runs at a rate that it tells. Good for a minute. */
static u64 cycles_of(u64 nanoseconds)
{
    const volatile struct vcpu_time_info *t = &shared_info->vcpu_info[0].time;
    u64 scaled = (nanoseconds << 28) / (t->tsc_to_system_mul >> 4);
    return t->tsc_shift < 0 ? scaled << -t->tsc_shift : scaled >> t->tsc_shift;
}

static int timed(u32 n, char **words)
{
    char line[512];
    u64 start, end, idle_before = 0, idle_after = 0;
    u32 used = 0;
    for (u32 i = 1; i < n && used < sizeof line; i++)
        used += (u32)snprintf(line + used, sizeof line - used, "%s ", words[i]);
    if (used >= sizeof line)
        return failure(0, "the command is too long");
    rest();
    int rc = xc_idle_time(&idle_before);
    start = tsc();
    int done = shell_line(line);
    rest();
    if (!rc)
        rc = xc_idle_time(&idle_after);
    end = tsc();
    if (rc)
        return failure(rc, "Xen does not tell how long it was idle");
    u64 idle = cycles_of(idle_after - idle_before);
    printf("time: %lu cycles, and %lu idle\n", end - start - idle, idle);
    return done;
}
COMMAND(time, "COMMAND...", "what a command, and all that follows from it, takes", 1, SHELL_WORDS - 1, timed);
