/* xendevd: the daemon that LightVM's authors put in place of hotplug scripts. It runs all the time, starts no processes and asks no other
 * disks. A device whose toolstack names a script is left to that. What it sends is the original's; here the back end's thread is the one
 * that a uevent would wake.
 */
#include "back.h"
#include "files.h"

static void vif(struct back *b)
{
    char name[16];
    back_text(b->path, "bridge", name, sizeof name); /* the port is added when the back end connects: a shell's bridge may still change */
    back_put(b, "hotplug-status", "connected");
}

static void vbd(struct back *b)
{
    char toolstack[16], target[96], type[8], mode[8];
    back_text(b->path, "toolstack", toolstack, sizeof toolstack);
    if (strcmp(toolstack, "chaos"))
        return;
    back_text(b->path, "params", target, sizeof target);
    back_text(b->path, "type", type, sizeof type);
    back_text(b->path, "mode", mode, sizeof mode);
    const struct file *file = target[0] ? file_find(target) : NULL;
    if (!file) {
        printf("xendevd: vbd %u of domain %u: there is no file %s\n", b->devid, b->frontend, target);
        back_put(b, "hotplug-error", "no file %s", target);
        back_put(b, "hotplug-status", "error");
        return;
    }
    back_put(b, "node", "/dev/loop%u", disk_number(file));
    back_put(b, "physical-device", "%x:%x", LOOP_MAJOR, disk_number(file));
}

void xendevd(struct back *b)
{
    char script[64];
    if (back_text(b->path, "script", script, sizeof script) && script[0])
        return;
    if (b->kind == &back_vif)
        vif(b);
    else
        vbd(b);
}
