/* Times at which threads are woken: one timer event for all of them. */
#pragma once
#include "kernel.h"

struct alarm { u64 when; struct thread *sleeper; bool rung; struct alarm *next; };
void alarm_set(struct alarm *a, u64 when); /* wakes the thread that calls this; the alarm stays the caller's until it has rung or is cancelled */
void alarm_cancel(struct alarm *a);
