/* The parts of the design xl, which is libxl's way to make a guest, cut by what they are about. */
#pragma once
#include "messages.h"

/* xl_store.c: what the store holds of a domain */
int xl_domain_make(struct guest *g);    /* libxl__domain_make's part */
int xl_domain_forget(struct guest *g);
int xl_build_pre(struct guest *g);
int xl_build_post(struct guest *g);

/* xl_devices.c */
int xl_add_disks(struct guest *g);
int xl_add_console(struct guest *g);
int xl_add_nics(struct guest *g);
int xl_remove_disks(struct guest *g);
int xl_remove_console(struct guest *g);
int xl_remove_nics(struct guest *g);

/* xl_hotplug.c: the messages of the scripts that libxl has run; the processes themselves are a parameter of the model */
int hotplug_vif(struct scope *s);
int hotplug_block(struct scope *s);

/* xl_death.c: what stays of xl for each guest */
int xl_watch_death(struct guest *g);
