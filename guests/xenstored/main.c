/* xenstored: the XenStore as a domain of its own. It serves a ring to each domain that is introduced, and one to dom0, which made
 * it: `mode=c` or `mode=o` (the store's design), `dom0-ref=N dom0-port=N` (dom0's ring page and port, granted to us).
 *
 * Mode c is C xenstored's design of Xen 4.8: a transaction copies the whole store and fails if anything changed meanwhile; a change
 * asks every watch. Mode o is oxenstored's: a transaction shares the tree, and is merged, or replayed on the new one, when that has
 * changed; a change finds the watches of its path in a trie.
 */
#include "store.h"

enum { XENSTORE_REF = 1, A_TURN = 8 };
struct link {
    struct link *next_stirred;
    struct conn *conn;
    volatile struct xenstore_ring *ring;
    u32 handle, port;
    bool queued, broken;
    u32 got;                                      /* bytes of the message that comes in */
    struct xsd_sockmsg header;
    u8 body[PAYLOAD_MAX + 1];
};
static struct link *volatile stirred_first, *stirred_last;
static struct thread *server;
static volatile bool look_at_domains;
static bool someone_leaving; /* a domain's nodes could not be removed for lack of memory: again when a request may have given some back */

static void queue(struct link *l)
{
    if (l->queued)
        return;
    l->queued = true;
    l->next_stirred = NULL;
    if (stirred_first)
        stirred_last->next_stirred = l;
    else
        stirred_first = l;
    stirred_last = l;
    if (server)
        thread_wake(server);
}

static void rang(u32 port, void *arg)
{
    (void)port;
    queue(arg);
}

static void stir(struct link *l)
{
    events_mask();
    queue(l);
    events_unmask();
}

void link_written(struct conn *c)
{
    stir(c->link);
}

/* Map a domain's ring by the grant for it, and bind its port. */
static int open(struct conn *c, u32 ref, u32 port)
{
    struct gnttab_map map = {(u64)area_reserve(), GNTMAP_host_map, ref, (u16)c->domid, 0, 0, 0};
    struct evtchn_bind_interdomain bind = {(u16)c->domid, port, 0};
    struct link *l = store_memory(sizeof *l);
    if (!l) {
        area_release((void *)map.host_addr);
        return ENOMEM;
    }
    if (hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) || map.status) {
        area_release((void *)map.host_addr);
        memory_release(l);
        return EINVAL;
    }
    s64 rc = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
    if (rc) {
        struct gnttab_unmap unmap = {map.host_addr, 0, map.handle, 0};
        hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
        area_release((void *)map.host_addr);
        memory_release(l);
        return rc == -ENOSPC ? ENOSPC : EINVAL; /* no port is left, or none that is meant for us */
    }
    *l = (struct link){.conn = c, .ring = (volatile struct xenstore_ring *)map.host_addr, .handle = map.handle, .port = bind.local_port};
    c->link = l;
    event_bind(l->port, rang, l);
    stir(l);
    return 0;
}

int link_open(struct conn *c, u64 mfn, u32 port)
{
    (void)mfn; /* a domain without rights over others reaches the page by the grant that the toolstack left */
    return open(c, XENSTORE_REF, port);
}

void link_reset(struct conn *c)
{
    struct link *l = c->link;
    l->got = 0;
    l->broken = false;
    stir(l);
}

void link_close(struct conn *c)
{
    struct link *l = c->link;
    struct gnttab_unmap unmap = {(u64)l->ring, 0, l->handle, 0};
    event_close(l->port);
    events_mask();
    for (struct link *s = stirred_first, *before = NULL; s; before = s, s = s->next_stirred)
        if (s == l) {
            if (before)
                before->next_stirred = s->next_stirred;
            else
                stirred_first = s->next_stirred;
            if (stirred_last == s)
                stirred_last = before;
            break;
        }
    events_unmask();
    hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);
    area_release((void *)l->ring);
    memory_release(l);
}

/* Copy out of the ring's request half as much as there is; false when its indices cannot be. */
static bool take(struct link *l, u8 *to, u32 wanted, u32 *got)
{
    volatile struct xenstore_ring *r = l->ring;
    u32 prod = r->req_prod, cons = r->req_cons, n = prod - cons;
    if (n > sizeof r->req)
        return false;
    if (n > wanted)
        n = wanted;
    barrier();
    for (u32 done = 0, here; done < n; done += here) {
        u32 at = (cons + done) % sizeof r->req;
        here = sizeof r->req - at < n - done ? (u32)sizeof r->req - at : n - done;
        memcpy(to + done, (const u8 *)r->req + at, here);
    }
    barrier();
    r->req_cons = cons + n;
    *got = n;
    return true;
}

/* Nothing more is taken from it until it is introduced again. */
static void broken(struct link *l)
{
    l->broken = true;
    printf("xenstored: domain %u broke its ring\n", l->conn->domid);
    conn_reset(l->conn);
}

/* One message if it is all here. Whether more may be. */
static bool receive(struct link *l, bool *moved)
{
    u32 got;
    while (l->got < sizeof l->header) {
        if (!take(l, (u8 *)&l->header + l->got, (u32)sizeof l->header - l->got, &got)) {
            broken(l);
            return false;
        }
        if (!got)
            return false;
        *moved = true;
        l->got += got;
    }
    if (l->header.len > PAYLOAD_MAX) {
        broken(l);
        return false;
    }
    while (l->got < sizeof l->header + l->header.len) {
        u32 at = l->got - (u32)sizeof l->header;
        if (!take(l, l->body + at, l->header.len - at, &got)) {
            broken(l);
            return false;
        }
        if (!got)
            return false;
        *moved = true;
        l->got += got;
    }
    l->got = 0;
    struct xsd_sockmsg h = l->header;
    store_request(l->conn, &h, l->body);
    look_at_domains |= someone_leaving;
    return true;
}

/* What waits for the domain, as far as the ring has room. */
static void transmit(struct link *l, bool *moved)
{
    volatile struct xenstore_ring *r = l->ring;
    struct out *o;
    while ((o = l->conn->first)) {
        u32 prod = r->rsp_prod, used = prod - r->rsp_cons;
        if (used > sizeof r->rsp) {
            broken(l);
            return;
        }
        u32 n = (u32)sizeof r->rsp - used, left = o->size - o->sent;
        n = n < left ? n : left;
        if (!n)
            return;
        barrier();
        for (u32 done = 0, here; done < n; done += here) {
            u32 at = (prod + done) % sizeof r->rsp;
            here = sizeof r->rsp - at < n - done ? (u32)sizeof r->rsp - at : n - done;
            memcpy((u8 *)r->rsp + at, o->data + o->sent + done, here);
        }
        barrier();
        r->rsp_prod = prod + n;
        *moved = true;
        o->sent += n;
        if (o->sent == o->size)
            store_sent(l->conn);
    }
}

/* A few messages at a time, so that nobody waits for one who never stops. */
static void attend(struct link *l)
{
    bool moved = false, more = true;
    transmit(l, &moved);
    for (u32 i = 0; i < A_TURN && more && !l->broken && store_accepts(l->conn); i++) {
        more = receive(l, &moved);
        transmit(l, &moved);
    }
    if (moved)
        event_send(l->port);
    if (more && !l->broken && store_accepts(l->conn))
        stir(l);
}

struct domctl_info { u32 cmd, version; u16 domain, pad[3]; struct { u16 domain, pad1; u32 flags; u8 rest[120]; } info; };

static bool info_of(u32 domid, u32 *flags)
{
    struct domctl_info c = {5, 0x15, (u16)domid, {0}, {0}}; /* XEN_DOMCTL_getdomaininfo */
    if (hypercall_domctl(&c) || c.info.domain != domid)
        return false;
    *flags = c.info.flags;
    return true;
}

bool link_domain_exists(u32 domid)
{
    u32 flags;
    return info_of(domid, &flags);
}

/* Somebody shut down or is gone. Xen does not say who: all are asked about, as the real daemons do it. */
static void check_domains(void)
{
    someone_leaving = false;
    for (struct conn *c = conns, *next; c; c = next) {
        u32 flags;
        next = c->next;
        if (!c->domid)
            continue;
        if (!info_of(c->domid, &flags) || flags & 1) /* XEN_DOMINF_dying */
            someone_leaving |= domain_gone(c) != 0;
        else if (flags & 4) /* XEN_DOMINF_shutdown */
            domain_shut_down(c);
    }
}

/* Whoever waits for an answer of a store that panics is told that there will be none. */
static void farewell(void)
{
    for (struct conn *c = conns; c; c = c->next) {
        struct link *l = c->link;
        if (!l)
            continue;
        l->ring->error = XENSTORE_ERROR_COMM;
        event_send(l->port);
    }
}

static void domain_event(u32 port, void *arg)
{
    (void)port, (void)arg;
    look_at_domains = true;
    thread_wake(server);
}

void main(void)
{
    char mode[8] = "c";
    mm_data_is_no_code();
    option("mode", mode, sizeof mode);
    server = thread_self();
    last_words = farewell;
    for (u64 i = 0; i <= (EVENT_PORTS + GRANT_FRAMES) / 512; i++) /* no introduction is to need a page for a table */
        if (map_tables(MAP_AREA + (i << 21)))
            panic("no tables for the rings");
    store_init(mode[0] == 'c');
    s64 port = event_bind_virq(VIRQ_DOM_EXC, 0);
    if (port >= 0)
        event_bind((u32)port, domain_event, NULL);
    struct conn *dom0 = conn_new(0);
    if (!dom0 || open(dom0, (u32)option_number("dom0-ref", 0), (u32)option_number("dom0-port", 0)))
        panic("dom0's ring cannot be had");
    for (;;) {
        events_mask();
        struct link *l = stirred_first;
        if (l) {
            stirred_first = l->next_stirred;
            l->queued = false;
        }
        events_unmask();
        if (l && !l->broken)
            attend(l);
        else if (look_at_domains) {
            look_at_domains = false;
            check_domains();
        } else if (!l)
            thread_sleep();
    }
}
