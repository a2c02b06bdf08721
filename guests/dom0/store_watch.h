/* Waiting for a node of the XenStore: a watch, a thread that sleeps, and a limit. */
#pragma once
#include "kernel.h"

struct store_watch { char path[96], token[24]; struct thread *sleeper; volatile u32 fired; struct store_watch *next; };
int store_watch(struct store_watch *w, const char *path); /* on behalf of the thread that calls; 0 or a negative errno. It fires at once */
bool store_watch_wait(struct store_watch *w, u64 until);  /* false: that time came first; 0: there is no limit */
void store_watches_wake(void);                            /* all who wait: there is no store any more */
void store_unwatch(struct store_watch *w);
/* Events whose token begins with `prefix` go to `heard`, in the thread of the events; it may send requests. */
typedef void (*store_listener)(const char *path, const char *token);
void store_listen(const char *prefix, store_listener heard);
