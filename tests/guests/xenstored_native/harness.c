/* The store of guests/xenstored without its rings: the C files as they are; the test plays the domains. */
#include "store.h"

enum { LARGEST = 64 };
static u64 in_use;
static bool gone[LARGEST + 1];
void *malloc(u64 size);
void free(void *p);
void __attribute__((noreturn)) abort(void);

/* Memory ends after so many pieces more, once it is told when. */
static u64 until = ~0UL, refused;
void *memory_take_dirty(u64 size)
{
    if (!until) {
        refused++;
        return NULL;
    }
    until -= until != ~0UL;
    in_use++;
    u8 *p = malloc(size ? size : 1);
    for (u64 i = 0; i < size; i++)
        p[i] = 0xa5; /* nobody may count on zeroes */
    return p;
}
void memory_release(void *p) { in_use -= p != NULL; free(p); }
u64 heap_free(void) { return 0; }
void panic(const char *format, ...) { (void)format; abort(); }
void console_write(const char *text, u64 n) { (void)text, (void)n; }
void link_written(struct conn *c) { (void)c; }
void link_close(struct conn *c) { (void)c; }
void link_reset(struct conn *c) { (void)c; }
bool link_domain_exists(u32 domid) { return domid < LARGEST && !gone[domid]; }
int link_open(struct conn *c, u64 mfn, u32 port) { (void)mfn, (void)port; return link_domain_exists(c->domid) ? 0 : EINVAL; }

void harness_start(bool c) { store_init(c); conn_new(0); }
u64 harness_in_use(void) { return in_use; }
void harness_shut_down(u32 domid) { domain_shut_down(conn_of(domid)); }
int harness_gone(u32 domid) { return domain_gone(conn_of(domid)); }
void harness_memory(u64 pieces) { until = pieces, refused = 0; }
u64 harness_refused(void) { return refused; }
bool harness_accepts(u32 domid) { return store_accepts(conn_of(domid)); }
u64 harness_ended(u32 how) { return how == 0 ? counters.merged : how == 1 ? counters.replayed : how == 2 ? counters.conflicts : counters.commits; }
u64 harness_lost(void) { return counters.lost; }
u32 harness_owned(u32 domid) { return owned(domid); }

void harness_request(u32 domid, u32 type, u32 tx, const u8 *body, u32 n)
{
    static u8 copy[PAYLOAD_MAX + 1];
    struct xsd_sockmsg h = {type, 7, tx, n};
    memcpy(copy, body, n);
    store_request(conn_of(domid), &h, copy);
}

/* The next message for a domain; its size, 0 when there is none. */
u32 harness_take(u32 domid, u8 *to)
{
    struct conn *c = conn_of(domid);
    if (!c || !c->first)
        return 0;
    u32 n = c->first->size;
    memcpy(to, c->first->data, n);
    store_sent(c);
    return n;
}
