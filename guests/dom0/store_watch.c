/* Waiting for a node of the XenStore: one thread takes the events and wakes whoever they are for, by their token. */
#include "alarm.h"
#include "store_watch.h"

enum { HASH = 1024 };
static struct store_watch *watches[HASH];
static struct thread *dispatcher;
THREAD_STACK(stack);
static u32 numbered;

static struct store_watch **chain(const char *token)
{
    u32 n = 0;
    for (const char *p = token; *p; p++)
        n = n * 31 + (u8)*p;
    return &watches[n % HASH];
}

static bool pending(void *arg)
{
    (void)arg;
    return xenstore_pending();
}

static struct { const char *prefix; store_listener heard; } listeners[8];
static u32 nlisteners;

static bool listened(const char *path, const char *token)
{
    for (u32 i = 0; i < nlisteners; i++)
        if (!strncmp(token, listeners[i].prefix, strlen(listeners[i].prefix))) {
            listeners[i].heard(path, token);
            return true;
        }
    return false;
}

static void dispatch(void *arg)
{
    char path[128], token[32];
    (void)arg;
    for (;;) {
        thread_wait(pending, NULL);
        while (xenstore_next_watch(path, token, sizeof path, sizeof token)) {
            if (listened(path, token))
                continue;
            struct store_watch *w = *chain(token);
            while (w && strcmp(w->token, token))
                w = w->next;
            if (w) {
                w->fired++;
                thread_wake(w->sleeper);
            }
        }
    }
}

static void begin(void)
{
    if (!dispatcher)
        dispatcher = thread_start_on(stack, "store events", dispatch, NULL);
}

void store_listen(const char *prefix, store_listener heard)
{
    if (nlisteners == COUNT(listeners))
        panic("too many listen to the store");
    listeners[nlisteners].prefix = prefix;
    listeners[nlisteners++].heard = heard;
    begin();
}

int store_watch(struct store_watch *w, const char *path)
{
    *w = (struct store_watch){.sleeper = thread_self()};
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->token, sizeof w->token, "toolstack-%u", ++numbered);
    begin();
    struct store_watch **at = chain(w->token);
    w->next = *at;
    *at = w;
    if (xenstore_watch(w->path, w->token) >= 0)
        return 0;
    *at = w->next;
    return xenstore_gone() ? -ENOTCONN : -EINVAL;
}

bool store_watch_wait(struct store_watch *w, u64 until)
{
    struct alarm a = {.rung = false};
    if (until && !w->fired)
        alarm_set(&a, until);
    while (!w->fired && !a.rung)
        thread_sleep();
    if (until && !a.rung)
        alarm_cancel(&a);
    bool fired = w->fired;
    w->fired = 0;
    return fired;
}

void store_watches_wake(void)
{
    for (u32 i = 0; i < HASH; i++)
        for (struct store_watch *w = watches[i]; w; w = w->next) {
            w->fired++;
            thread_wake(w->sleeper);
        }
}

void store_unwatch(struct store_watch *w)
{
    struct store_watch **at = chain(w->token);
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    xenstore_unwatch(w->path, w->token);
}
