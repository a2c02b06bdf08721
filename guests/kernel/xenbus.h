/* A device as its front end sees it, and the two ways to its back end, with the same operations: over XenStore
 * (xenbus_xs.c) and over noxs (xenbus_noxs.c). Both know states and where a device is found, but no kind of device.
 *
 * Waiting for the other end follows one rule in both: arm (from now on a change wakes us), then read the state again, then sleep.
 */
#pragma once
#include "kernel.h"
#include "io.h"
#include "ring.h"

struct device;
struct bus {
    const char *name;
    bool (*open)(struct device *d, u32 index); /* find device number `index` of its kind, get ready to talk */
    void (*close)(struct device *d);           /* give back what open took */
    void (*set_state)(struct device *d, u32 state); /* and tell the back end */
    u32 (*peer_state)(struct device *d);       /* XenbusStateUnknown when there is no back end any more */
    bool (*is_ours)(struct device *d);         /* not another one that took the place of the device that was opened */
    void (*arm)(struct device *d);
    void (*notice)(struct device *d);          /* never blocks on the peer: note what has come in as d->changed */
    bool (*stirred)(struct device *d);         /* asks nobody: is there something to notice? */
    volatile bool *(*watch_list)(u32 kind);    /* a flag that is set when a device of that kind may have come or gone */
};
extern const struct bus bus_xs, bus_noxs;

struct device {
    const struct bus *bus;
    u32 kind; /* noxs_dev_... */
    u32 id, backend, state, peer;
    volatile bool changed;
    bool present, failed; /* failed: the back end broke the rules; it was reported and is not to be used */
    bool lost; /* it is not there any more; another one may be in its place */
    char front[40], back[64]; /* over XenStore: both directories */
    u32 watch;
    struct noxs_header *page; /* over noxs: the control page, its grant handle, the port to the back end */
    u32 handle, port;
    struct noxs_entry entry; /* as it was opened; `watch` is its slot */
};

#define STATES(...) device_mask((const u8[]){__VA_ARGS__, 255})
static inline u32 device_mask(const u8 *states)
{
    u32 mask = 0;
    for (; *states != 255; states++)
        mask |= 1U << *states;
    return mask;
}
#define STATES_GONE STATES(XenbusStateUnknown, XenbusStateClosing, XenbusStateClosed)

const struct bus *bus_choose(const char *option_name, u32 kind); /* as the command line says, else as the host offers */
bool device_open(struct device *d, const struct bus *bus, u32 kind, u32 index);
void device_close(struct device *d);
void devices_watch(const struct bus *bus, u32 kind); /* from now on devices_changed() tells of devices that come and go */
bool devices_changed(void); /* since it was last asked */
bool devices_stirred(void); /* for thread_wait */
void device_set_state(struct device *d, u32 state);
u32 device_wait(struct device *d, u32 states); /* until the back end is in one of them */
bool device_update(struct device *d); /* has the back end's state changed since last asked for? it is in d->peer then */
bool device_stirred(struct device *d); /* for thread_wait */
bool device_disturbed(struct device *d); /* has something come in since its back end was last looked at? */
void device_lose(struct device *d); /* whatever has its name now is left alone */
void device_fail(struct device *d, const char *format, ...); /* report the other end's fault, once */
void device_shut(struct device *d); /* Closing, Closed, with the back end following */
bool device_restart(struct device *d); /* Initialising; whether the back end waits for us again */

/* xenbus_xs.c: nodes of either end */
int xs_get(const struct device *d, const char *where, const char *name, char *value, u32 size); /* length or -1 */
u64 xs_number(const struct device *d, const char *where, const char *name, u64 otherwise);
bool xs_put(u32 transaction, const char *where, const char *name, const char *format, ...);
void xs_watch_flag(const char *path, u32 *watch, volatile bool *flag); /* flag is set whenever a watch on path fires */
void xs_unwatch_flag(const char *path, u32 watch);
void xs_dispatch(void); /* takes what watch events there are */

/* xenbus_noxs.c */
bool noxs_offers(u32 kind); /* the device page lists one */
