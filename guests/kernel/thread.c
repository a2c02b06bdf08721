/* Cooperative threads: a stack each, round robin, and a domain that blocks when none of them can run.
 *
 * Threads that may run, or that ask themselves whether they may (thread_wait), stand in a ring. A sleeping one (thread_sleep)
 * is not in it and costs nothing until somebody, maybe the handler of an event, wakes it.
 */
#include "kernel.h"

struct thread {
    const char *name;
    u64 rsp;
    void (*run)(void *);
    void *arg;
    bool (*ready)(void *); /* NULL: can run */
    void *ready_arg;
    struct thread *next, *previous; /* in the ring; NULL: asleep, or ended */
    bool woken; /* while it was awake */
};
static struct thread ring, first = {.name = "main", .next = &ring, .previous = &ring};
static struct thread ring = {.next = &first, .previous = &first};
static struct thread *current = &first, *ended; /* ended: whoever runs next frees its stack */
void thread_swap(u64 *save, u64 load);

static void enter(struct thread *t)
{
    t->next = &ring;
    t->previous = ring.previous;
    ring.previous->next = t;
    ring.previous = t;
}

static void leave(struct thread *t)
{
    t->previous->next = t->next;
    t->next->previous = t->previous;
    t->next = t->previous = NULL;
}

/* Free the stack of a thread that has ended; never called on that stack. */
static void reap(void)
{
    if (ended)
        pages_release(ended, THREAD_STACK_PAGES);
    ended = NULL;
}

/* Run the next in the ring that can. Called, and looked for, with events masked: between the last look and the block no
 * wake-up is lost, since block unmasks in one step. */
static void schedule(void)
{
    struct thread *old = current;
    for (;; events_mask()) {
        struct thread *from = old->next ? old : &ring, *t = from;
        do {
            t = t->next;
            if (t == &ring || (t->ready && !t->ready(t->ready_arg)))
                continue;
            events_unmask();
            current = t;
            if (t != old)
                thread_swap(&old->rsp, t->rsp);
            reap();
            return;
        } while (t != from);
        hypercall_sched_op(SCHEDOP_block, NULL);
    }
}

void thread_yield(void)
{
    events_mask();
    schedule();
}

void thread_sleep(void)
{
    events_mask();
    if (!current->woken)
        leave(current);
    current->woken = false;
    schedule();
}

void thread_wake(struct thread *t)
{
    if (t->next)
        t->woken = true;
    else
        enter(t);
}

static void begin(void)
{
    reap();
    current->run(current->arg);
    events_mask();
    leave(current);
    ended = current;
    schedule();
    panic("a finished thread ran");
}

/* The thread itself lies at the far end of its stack. */
struct thread *thread_start_on(void *stack, const char *name, void (*run)(void *), void *arg)
{
    struct thread *t = stack;
    *t = (struct thread){.name = name, .run = run, .arg = arg};
    u64 *sp = (u64 *)((char *)t + THREAD_STACK_PAGES * PAGE_SIZE) - 8; /* six registers, then the address to return to */
    sp[6] = (u64)begin;
    t->rsp = (u64)sp;
    events_mask();
    enter(t);
    events_unmask();
    return t;
}

struct thread *thread_try(const char *name, void (*run)(void *), void *arg)
{
    void *stack = pages_try(THREAD_STACK_PAGES);
    return stack ? thread_start_on(stack, name, run, arg) : NULL;
}

struct thread *thread_start(const char *name, void (*run)(void *), void *arg)
{
    return thread_start_on(pages_take(THREAD_STACK_PAGES), name, run, arg);
}

struct thread *thread_self(void)
{
    return current;
}

void thread_wait(bool (*ready)(void *), void *arg)
{
    current->ready = ready;
    current->ready_arg = arg;
    thread_yield();
    current->ready = NULL;
}
