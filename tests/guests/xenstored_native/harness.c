/* The store of guests/xenstored without its rings: the C files as they are; the test plays the domains. */
#include "store.h"

enum { DOMAINS = 64 };
static struct conn *conns[DOMAINS];
static u64 in_use;
void *calloc(u64 n, u64 size);
void free(void *p);
void __attribute__((noreturn)) abort(void);

void *memory_take(u64 size) { in_use++; return calloc(1, size); }
void memory_release(void *p) { in_use -= p != NULL; free(p); }
u64 heap_free(void) { return 0; }
void console_write(const char *text, u64 n) { (void)text, (void)n; }
void panic(const char *format, ...) { (void)format; abort(); }
void link_written(struct conn *c) { (void)c; }
bool link_known(u32 domid) { return domid < DOMAINS && conns[domid]; }

int link_introduce(u32 domid, u64 mfn, u32 port)
{
    (void)mfn, (void)port;
    if (domid >= DOMAINS)
        return EINVAL;
    if (!conns[domid])
        conns[domid] = store_connect(domid);
    return 0;
}

int link_release(u32 domid)
{
    if (!link_known(domid))
        return ENOENT;
    store_disconnect(conns[domid]);
    conns[domid] = NULL;
    return 0;
}

void harness_start(bool c) { whole_copies = c; store_init(); link_introduce(0, 0, 0); }
u64 harness_in_use(void) { return in_use; }

void harness_request(u32 domid, u32 type, u32 tx, const u8 *body, u32 n)
{
    static u8 copy[PAYLOAD_MAX + 1];
    struct xsd_sockmsg h = {type, 7, tx, n};
    memcpy(copy, body, n);
    store_request(conns[domid], &h, copy);
}

/* The next message for a domain; its size, 0 when there is none. */
u32 harness_take(u32 domid, u8 *to)
{
    struct out *o = link_known(domid) ? conns[domid]->first : NULL;
    if (!o)
        return 0;
    u32 n = o->size;
    memcpy(to, o->data, n);
    conns[domid]->first = o->next;
    memory_release(o);
    return n;
}
