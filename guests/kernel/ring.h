/* Rings of requests and responses in a page that two domains share: the layout and the rules of io/ring.h.
 *
 * A page begins with four free-running counters; the entries, a power of two of them, come at byte 64, and a response takes the
 * place of a request. A producer fills entries, then publishes them by one store to its counter, and sends an event only if the other
 * end has asked to hear of one of them: its `event` counter is the number of the next entry that is worth an event. A consumer
 * that runs dry sets that counter and looks once more before it sleeps. Counters of the other end are read once and checked
 * against what is possible before anything is used; entries are copied out before they are looked at.
 */
#pragma once
#include "types.h"

struct ring_page { volatile u32 req_prod, req_event, rsp_prod, rsp_event; u8 pad[48]; u8 entries[]; };
struct front_ring { struct ring_page *page; u32 size, request_bytes, response_bytes, stride, req_prod, rsp_cons; };
struct back_ring { struct ring_page *page; u32 size, request_bytes, response_bytes, stride, rsp_prod, req_cons; };

#define full_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* How many entries of that many bytes fit one page: the largest power of two. */
static inline u32 ring_size(u32 stride)
{
    u32 fit = (u32)(PAGE_SIZE - sizeof(struct ring_page)) / stride;
    return 1U << (31 - __builtin_clz(fit));
}
#define FRONT_RING(ring_page, request, response) \
    (struct front_ring){ring_page, ring_size(sizeof(union { request a; response b; })), sizeof(request), sizeof(response), \
                        sizeof(union { request a; response b; }), 0, 0}
#define BACK_RING(ring_page, request, response) \
    (struct back_ring){ring_page, ring_size(sizeof(union { request a; response b; })), sizeof(request), sizeof(response), \
                       sizeof(union { request a; response b; }), 0, 0}
#define RING_ENTRY(r, i) ((r)->page->entries + ((i) & ((r)->size - 1)) * (r)->stride)

void ring_page_init(struct ring_page *page); /* by the front end, before it grants the page */

/* The front end's side. */
static inline u32 ring_free(const struct front_ring *r) { return r->size - (r->req_prod - r->rsp_cons); }
void ring_put_request(struct front_ring *r, const void *request); /* needs a free entry; private until pushed */
bool ring_push_requests(struct front_ring *r); /* publish; whether the back end wants an event */
s64 ring_responses(const struct front_ring *r); /* how many wait; -1 if the counter is impossible */
void ring_get_response(struct front_ring *r, void *response); /* the next one of those, copied out */
bool ring_idle_responses(struct front_ring *r); /* ask for an event, look again: nothing waits */

/* The back end's. */
s64 ring_requests(const struct back_ring *r);
void ring_get_request(struct back_ring *r, void *request);
bool ring_idle_requests(struct back_ring *r);
void ring_put_response(struct back_ring *r, const void *response);
bool ring_push_responses(struct back_ring *r);
