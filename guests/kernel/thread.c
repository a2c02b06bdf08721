/* Cooperative threads: a stack each, round robin, and a domain that blocks when none of them can run. */
#include "kernel.h"

struct thread {
    const char *name;
    u64 rsp;
    void *stack;
    void (*run)(void *);
    void *arg;
    bool (*ready)(void *); /* NULL: can run */
    void *ready_arg;
    bool used;
};
enum { THREADS = 8 };
static struct thread threads[THREADS] = {{.name = "main", .used = true}};
static u32 current;
void thread_swap(u64 *save, u64 load);

static void begin(void)
{
    threads[current].run(threads[current].arg);
    threads[current].used = false; /* whoever runs next frees the stack */
    thread_yield();
    panic("a finished thread ran");
}

struct thread *thread_start(const char *name, void (*run)(void *), void *arg)
{
    for (u32 i = 1; i < THREADS; i++) {
        struct thread *t = &threads[i];
        if (t->used || t->stack)
            continue;
        void *stack = page_alloc();
        *t = (struct thread){name, 0, stack, run, arg, NULL, NULL, true};
        u64 *sp = (u64 *)((char *)stack + PAGE_SIZE) - 8; /* six registers, then the address to return to */
        sp[6] = (u64)begin;
        t->rsp = (u64)sp;
        return t;
    }
    panic("too many threads");
}

/* Free the stacks of threads that have ended; never called on such a stack. */
static void reap(void)
{
    for (u32 i = 1; i < THREADS; i++)
        if (!threads[i].used && threads[i].stack) {
            page_free(threads[i].stack);
            threads[i].stack = NULL;
        }
}

static bool runnable(const struct thread *t)
{
    return t->used && (!t->ready || t->ready(t->ready_arg));
}

/* With events masked between the last look and the block no wake-up is lost: block unmasks in one step. */
void thread_yield(void)
{
    u32 old = current;
    for (;;) {
        events_mask();
        for (u32 i = 1; i <= THREADS; i++) {
            struct thread *next = &threads[(old + i) % THREADS];
            if (!runnable(next))
                continue;
            events_unmask();
            current = (old + i) % THREADS;
            if (current != old)
                thread_swap(&threads[old].rsp, next->rsp);
            reap();
            return;
        }
        hypercall_sched_op(SCHEDOP_block, NULL);
    }
}

void thread_wait(bool (*ready)(void *), void *arg)
{
    struct thread *t = &threads[current];
    t->ready = ready;
    t->ready_arg = arg;
    thread_yield();
    t->ready = NULL;
}
