/* dom0's toolstack without a machine: the C files as they are, on a Xen, a XenStore and back ends that the test plays. */
#include "design.h"
#include "store_watch.h"

typedef s64 (*call_back)(const char *name, u64 a, u64 b, u64 c);
typedef int (*request_back)(u32 type, u32 transaction, const char *body, u32 n, char *reply, u32 size);
static call_back call;
static request_back request;
static struct start_info info;
struct start_info *start_info = &info;
void *calloc(u64 n, u64 size);
void free(void *p);

static char output[1 << 16];
static u64 written;

void harness_start(call_back c, request_back r, const char *module, u64 size)
{
    call = c;
    request = r;
    info.mod_start = (u64)module;
    info.mod_len = size;
    files_init();
}

const char *harness_line(char *line)
{
    written = 0;
    output[0] = 0;
    shell_line(line);
    return output;
}

int harness_config(const char *path, const char *text, u64 n, char *out, u32 size)
{
    static struct config c;
    int rc = config_parse(path, text, n, &c, out, size);
    if (!rc)
        config_describe(&c, out, size);
    return rc;
}

void console_write(const char *text, u64 n)
{
    for (u64 i = 0; i < n && written + 1 < sizeof output; i++)
        output[written++] = text[i];
    output[written] = 0;
}
u64 console_read(char *to, u64 n) { (void)to, (void)n; return 0; }
void shutdown(u32 reason) { call("shutdown", reason, 0, 0); __builtin_trap(); }
void panic(const char *format, ...) { call("panic", (u64)format, 0, 0); __builtin_trap(); }
void *memory_take(u64 size) { return calloc(1, size); }
void memory_release(void *memory) { free(memory); }
u64 heap_free(void) { return 0; }
u64 pages_free(void) { return 0; }
u64 now(void) { return (u64)call("now", 0, 0, 0); }
u64 wall_clock(u32 *nanoseconds) { *nanoseconds = 120000000; return 1000; }
bool xenstore_gone(void) { return false; }
void backends_forget(u32 domid) { (void)domid; }
int event_bind(u32 port, event_handler handler, void *arg) { (void)port, (void)handler, (void)arg; return 0; }
s64 event_bind_virq(u32 virq, u32 vcpu) { (void)virq, (void)vcpu; return -1; }
/* Threads: one runs when somebody waits for it, up to its own first wait; there the test takes over. */
static struct { void (*run)(void *); void *arg; } waiting;
struct thread *thread_start(const char *name, void (*run)(void *), void *arg)
{
    call(name[0] == 'x' ? "watcher" : "thread", 0, 0, 0);
    waiting.run = run;
    waiting.arg = arg;
    return (struct thread *)&waiting;
}
struct thread *thread_start_on(void *stack, const char *name, void (*run)(void *), void *arg) { (void)stack; return thread_start(name, run, arg); }
struct thread *thread_try(const char *name, void (*run)(void *), void *arg) { return call("thread", 0, 0, 0) ? NULL : thread_start(name, run, arg); }
static void *stacks[5];
void thread_sleep(void)
{
    void (*run)(void *) = waiting.run;
    waiting.run = NULL;
    if (!run)
        panic("nobody can run");
    if (!__builtin_setjmp(stacks))
        run(waiting.arg);
}
void thread_wait(bool (*ready)(void *), void *arg)
{
    while (!ready(arg))
        thread_sleep();
}
void thread_yield(void) { }
void thread_wake(struct thread *t) { (void)t; }
struct thread *thread_self(void) { return NULL; }
void sleep_quietly(u64 when) { (void)when; }

bool xenstore_usable(void) { return true; }
int xenstore_request(u32 type, u32 transaction, const void *body, u32 n, char *reply, u32 size) { return request(type, transaction, body, n, reply, size); }
static int simple(u32 type, const char *path, const char *token, char *reply, u32 size)
{
    char body[256];
    u32 n = (u32)snprintf(body, sizeof body, "%s", path) + 1;
    if (token)
        n += (u32)snprintf(body + n, sizeof body - n, "%s", token) + 1;
    return request(type, 0, body, n, reply, size);
}
int xenstore_directory(u32 transaction, const char *path, char *names, u32 size) { (void)transaction; return simple(XS_DIRECTORY, path, NULL, names, size); }
int store_watch(struct store_watch *w, const char *path)
{
    static u32 n;
    char reply[32];
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->token, sizeof w->token, "t%u", ++n);
    return simple(XS_WATCH, w->path, w->token, reply, sizeof reply) < 0 ? -EINVAL : 0;
}
bool store_watch_wait(struct store_watch *w, u64 until)
{
    if (!until)
        __builtin_longjmp(stacks, 1); /* for ever: whoever waited for this thread goes on */
    return call("wait", (u64)w->path, until, 0) != 0;
}
void store_unwatch(struct store_watch *w)
{
    char reply[32];
    simple(XS_UNWATCH, w->path, w->token, reply, sizeof reply);
}

u32 store_domid;
int xc_domain_create(u32 *domid, const struct xc_create *c)
{
    s64 rc = call("domain_create", c->max_vcpus, 0, 0);
    *domid = rc > 0 ? (u32)rc : 0;
    return rc > 0 ? 0 : (int)rc;
}
int xc_domain_destroy(u32 domid) { return (int)call("domain_destroy", domid, 0, 0); }
int xc_domain_pause(u32 domid) { return (int)call("domain_pause", domid, 0, 0); }
int xc_domain_unpause(u32 domid) { return (int)call("domain_unpause", domid, 0, 0); }
int xc_domain_max_vcpus(u32 domid, u32 n) { return (int)call("domain_max_vcpus", domid, n, 0); }
int xc_domain_setmaxmem(u32 domid, u64 kib) { return (int)call("domain_setmaxmem", domid, kib, 0); }
int xc_domain_sethandle(u32 domid, const u8 handle[16]) { return (int)call("domain_sethandle", domid, (u64)handle, 0); }
int xc_domain_set_tsc_info(u32 domid, u32 mode) { return (int)call("domain_set_tsc_info", domid, mode, 0); }
int xc_domain_getinfo(u32 domid, struct xc_info *i)
{
    *i = (struct xc_info){.domid = domid};
    return (int)call("domain_getinfo", domid, 0, 0);
}
s64 xc_domain_getinfolist(u32 first, u32 max, struct xc_info *infos)
{
    s64 n = 0, domid = (s64)first - 1;
    while (n < (s64)max && (domid = call("domain_after", (u64)domid, 0, 0)) >= 0)
        infos[n++] = (struct xc_info){.domid = (u32)domid};
    return n;
}
int xc_physinfo(u32 *cpus, u64 *total, u64 *left)
{
    if (cpus)
        *cpus = 1;
    if (total)
        *total = 1UL << 20;
    if (left)
        *left = 1UL << 19;
    return (int)call("physinfo", 0, 0, 0);
}
int xc_cpuid_apply_policy(u32 domid) { return (int)call("cpuid_apply_policy", domid, 0, 0); }
int xc_domain_set_memmap_limit(u32 domid, u64 kib) { return (int)call("domain_set_memmap_limit", domid, kib, 0); }
int xc_sched_get(u32 domid, struct xc_sched *s) { s->weight = 256; s->cap = 0; return (int)call("sched_get", domid, s->scheduler, 0); }
int xc_sched_set(u32 domid, const struct xc_sched *s) { return (int)call("sched_set", domid, s->scheduler, s->weight); }
int xc_cpupool_scheduler(u32 pool, u32 *scheduler) { *scheduler = 6; return (int)call("cpupool_info", pool, 0, 0); }
int xc_cpupool_movedomain(u32 pool, u32 domid) { return (int)call("cpupool_movedomain", pool, domid, 0); }
int xc_numa_nodes(u32 *nodes) { *nodes = 1; return (int)call("numainfo", 0, 0, 0); }
s64 xc_evtchn_alloc_unbound(u32 domid, u32 remote) { return call("evtchn_alloc_unbound", domid, remote, 0); }
int xc_claim_pages(u32 domid, u64 pages) { return (int)call("claim_pages", domid, pages, 0); }
int xc_decrease_reservation(u32 domid, u64 n, const u64 *frames) { (void)frames; return (int)call("decrease_reservation", domid, n, 0); }
int xc_devctl_add(u32 domid, u32 type, u32 devid, u32 backend, u32 grant, u32 port) { (void)backend, (void)grant, (void)port; return (int)call("devctl_add", domid, type, devid); }
int xc_devctl_remove(u32 domid, u32 type, u32 backend, u32 devid) { (void)backend; return (int)call("devctl_remove", domid, type, devid); }
bool xc_devctl_present(void) { return true; }
int dom_memory(struct dom *d)
{
    d->p2m = calloc(d->pages, sizeof *d->p2m);
    return (int)call("memory", d->domid, d->pages, 0);
}
int dom_kernel(struct dom *d) { return (int)call("kernel", d->domid, d->kernel_size, 0); }
int dom_boot(struct dom *d)
{
    d->store_mfn = d->store_port ? 4096 + d->domid : 0;
    d->console_mfn = d->console_port ? 8192 + d->domid : 0;
    return (int)call("boot", d->domid, 0, 0);
}
void dom_free(struct dom *d) { free(d->p2m); d->p2m = NULL; }
int noxs_device_create(u32 type, u32 frontend, u32 devid, const union device_config *c, u32 *grant, u32 *port)
{
    (void)c;
    *grant = *port = 1;
    return (int)call("noxs_create", frontend, type, devid);
}
int noxs_device_configure(u32 type, u32 frontend, u32 devid, const union device_config *c) { (void)c; return (int)call("noxs_configure", frontend, type, devid); }
int noxs_device_destroy(u32 type, u32 frontend, u32 devid) { return (int)call("noxs_destroy", frontend, type, devid); }
int noxs_guest_close(u32 domid, u32 reason) { return (int)call("noxs_close", domid, reason, 0); }
void noxs_collect(void) { }
void backends_report(void) { }
