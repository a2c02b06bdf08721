/* A guest's configuration, from xl's syntax (config_xl.c) or chaos's JSON (config_json.c): the same structure. */
#pragma once
#include "kernel.h"

enum { CONFIG_VIFS = 8, CONFIG_VBDS = 8 };
enum { ACTION_destroy, ACTION_restart, ACTION_preserve };
enum { ON_poweroff, ON_reboot, ON_crash, ON_watchdog, ON_COUNT };
struct vif_config { u32 devid; u8 mac[6]; bool has_mac; u32 ip; /* network order, 0: none */ char bridge[16], script[48]; };
struct vbd_config { u32 devid; char target[96], vdev[16]; bool file, readonly, cdrom, raw, no_discard; };
struct config {
    char name[64], kernel[96], ramdisk[96], cmdline[256], path[96];
    u64 memory_kib, maxmem_kib;
    u32 vcpus, maxvcpus, nvifs, nvbds;
    struct vif_config vifs[CONFIG_VIFS];
    struct vbd_config vbds[CONFIG_VBDS];
    u8 uuid[16], on[ON_COUNT];
    bool has_uuid, paused, no_sysctl; /* no_sysctl: over noxs it is to have no device for power operations */
    const char *method; /* chaos's dev_method: "xenstore", "noxs" or NULL, when the file leaves it open */
};
/* 0, or -EINVAL with one line in error: path, line, what was expected. What the syntax is, the text itself shows. */
int config_parse(const char *path, const char *text, u64 n, struct config *c, char *error, u32 size);
/* Everything it says, one setting a line, for the shell's `config` and for tests. The length. */
u32 config_describe(const struct config *c, char *to, u32 size);
