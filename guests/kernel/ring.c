/* Rings of requests and responses: see ring.h. */
#include "kernel.h"
#include "ring.h"

void ring_page_init(struct ring_page *page)
{
    memset(page, 0, PAGE_SIZE);
    page->req_event = page->rsp_event = 1;
}

void ring_put_request(struct front_ring *r, const void *request)
{
    memcpy(RING_ENTRY(r, r->req_prod), request, r->request_bytes);
    r->req_prod++;
}

/* The other end's `event` counter lies among the entries just published: it waits for one of them. */
static bool push(volatile u32 *shared, u32 next, const volatile u32 *event)
{
    u32 old = *shared;
    barrier(); /* x86 keeps stores in order; the compiler has to, too */
    *shared = next;
    full_barrier(); /* the counter is out before the other end's wish is read */
    return next - *event < next - old;
}

bool ring_push_requests(struct front_ring *r)
{
    return push(&r->page->req_prod, r->req_prod, &r->page->req_event);
}

s64 ring_responses(const struct front_ring *r)
{
    u32 count = r->page->rsp_prod - r->rsp_cons;
    barrier();
    return count <= r->req_prod - r->rsp_cons ? (s64)count : -1;
}

void ring_get_response(struct front_ring *r, void *response)
{
    memcpy(response, RING_ENTRY(r, r->rsp_cons), r->response_bytes);
    barrier();
    r->rsp_cons++;
}

bool ring_idle_responses(struct front_ring *r)
{
    if (r->page->rsp_prod != r->rsp_cons)
        return false;
    r->page->rsp_event = r->rsp_cons + 1;
    full_barrier(); /* asked before looked at again: whoever publishes in between sees the wish */
    return r->page->rsp_prod == r->rsp_cons;
}

s64 ring_requests(const struct back_ring *r)
{
    u32 count = r->page->req_prod - r->req_cons;
    barrier();
    return count <= r->size - (r->req_cons - r->rsp_prod) ? (s64)count : -1;
}

void ring_get_request(struct back_ring *r, void *request)
{
    memcpy(request, RING_ENTRY(r, r->req_cons), r->request_bytes);
    barrier();
    r->req_cons++;
}

bool ring_idle_requests(struct back_ring *r)
{
    if (r->page->req_prod != r->req_cons)
        return false;
    r->page->req_event = r->req_cons + 1;
    full_barrier();
    return r->page->req_prod == r->req_cons;
}

void ring_put_response(struct back_ring *r, const void *response)
{
    memcpy(RING_ENTRY(r, r->rsp_prod), response, r->response_bytes);
    r->rsp_prod++;
}

bool ring_push_responses(struct back_ring *r)
{
    return push(&r->page->rsp_prod, r->rsp_prod, &r->page->rsp_event);
}
