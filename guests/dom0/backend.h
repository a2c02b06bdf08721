/* The back ends of dom0: vif (with the switch), vbd (on files of the file area), console, sysctl; found over XenStore or noxs. */
#pragma once
#include "kernel.h"
#include "config.h"
#include "io.h"

void backends_init(void);  /* what needs no XenStore: noxs, the switch */
void backends_xenstore(void); /* once there is a XenStore: watch our backend directory, serve consoles */
extern u32 store_domid;       /* where the XenStore is; 0: nowhere */

/* What chaos asks of the noxs kernel module by ioctl. 0 or a negative errno. */
union device_config { struct vif_config vif; struct vbd_config vbd; };
int noxs_device_create(u32 type, u32 frontend, u32 devid, const union device_config *c, u32 *grant, u32 *port);
int noxs_device_configure(u32 type, u32 frontend, u32 devid, const union device_config *c); /* before the guest has started */
int noxs_device_close(u32 type, u32 frontend, u32 devid, u64 until); /* the front end lets go; -EAGAIN: it has not until then */
int noxs_device_destroy(u32 type, u32 frontend, u32 devid);
int noxs_guest_close(u32 domid, u32 reason); /* by its sysctl device: SHUTDOWN_poweroff, _reboot or _suspend; waits for the guest's Closed */

void consoles_init(void);
void consoles_forget(u32 domid);
void backends_forget(u32 domid); /* over the XenStore: a domain has ended, and there is no store any more that would tell */

/* The console daemon: what a guest said last, and what it is to read. */
u64 console_history(u32 domid, char *to, u64 n);
int console_type(u32 domid, const char *text, u64 n);
void noxs_collect(void); /* pages that a guest had mapped when its device went: after its domain went */
void backends_report(void); /* one line a device: state of both ends, counters */
