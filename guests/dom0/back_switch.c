/* A learning switch for each bridge that a vif names: a table of addresses, and a list of ports for what is for all. */
#include "back.h"

enum { ADDRESSES = 4096 }; /* a power of two; each address has one place, the younger one wins it */
struct bridge {
    char name[16];
    struct bridge *next;
    struct back **ports;
    u32 nports, room;
    struct { u8 mac[6]; struct back *port; } addresses[ADDRESSES];
};
static struct bridge *bridges;

struct bridge *bridge_find(const char *name)
{
    struct bridge *g = bridges;
    while (g && strcmp(g->name, name))
        g = g->next;
    if (g || !(g = memory_take(sizeof *g)))
        return g;
    snprintf(g->name, sizeof g->name, "%s", name);
    g->next = bridges;
    return bridges = g;
}

bool bridge_join(struct bridge *g, struct back *b)
{
    if (g->nports == g->room) {
        struct back **more = memory_take((g->room * 2 + 16) * sizeof *more);
        if (!more)
            return false;
        memcpy(more, g->ports, g->nports * sizeof *more);
        memory_release(g->ports);
        g->ports = more;
        g->room = g->room * 2 + 16;
    }
    g->ports[g->nports++] = b;
    return true;
}

static u32 place_of(const u8 *mac)
{
    u32 hash = 0;
    for (u32 i = 0; i < 6; i++)
        hash = hash * 31 + mac[i];
    return hash % ADDRESSES;
}

void bridge_leave(struct bridge *g, struct back *b)
{
    for (u32 i = 0; i < g->nports; i++)
        if (g->ports[i] == b)
            g->ports[i] = g->ports[--g->nports];
    for (u32 i = 0; i < ADDRESSES; i++)
        if (g->addresses[i].port == b)
            g->addresses[i].port = NULL;
}

void bridge_frame(struct bridge *g, struct back *from, u8 *frame, u32 n, bool blank)
{
    const u8 *to = frame, *source = frame + 6;
    if (!(source[0] & 1)) { /* a group's address is nobody's */
        u32 i = place_of(source);
        memcpy(g->addresses[i].mac, source, 6);
        g->addresses[i].port = from;
    }
    u32 i = place_of(to);
    if (!(to[0] & 1) && g->addresses[i].port && !memcmp(g->addresses[i].mac, to, 6)) {
        if (g->addresses[i].port != from)
            vif_deliver(g->addresses[i].port, frame, n, &blank);
        return;
    }
    for (u32 p = 0; p < g->nports; p++)
        if (g->ports[p] != from)
            vif_deliver(g->ports[p], frame, n, &blank);
}
