/* What the scripts that libxl has run say to the store (tools/hotplug/Linux/vif-bridge and block of Xen 4.8.1), message by message. The
 * shells and tools that say it are no code that could run here: how many processes they are is a parameter of the model
 * (pyvmm/toolstack/model.py), and the bridge is joined by the back end.
 */
#include "xl.h"

int hotplug_vif(struct scope *s)
{
    static const struct message online[] = {READ("$b/vifname"), READ("$b/ip"), READ("$b/bridge"), WRITE("$b/hotplug-status", "connected")};
    return STORE_SEND(s, online);
}

enum { LOOP_MAJOR = 7, NAMES = 4096 }; /* of Linux's loop devices */

/* A file's number stands for the loop device that it would be bound to. */
static u32 file_number(const char *target)
{
    const struct file *file = file_find(target);
    for (u32 i = 0; file && file_nth(i); i++)
        if (file_nth(i) == file)
            return i;
    return ~0U;
}

/* check_sharing: every disk of every domain is looked at; one that writes shares with nobody. */
static int check_sharing(struct scope *s, const char *device)
{
    char *names = memory_take(2 * NAMES), *disks = names + NAMES, path[80];
    bool writes = *s->words['o' - 'A'] == 'w';
    int n, rc;
    if (!names)
        return guest_fail(s->guest, -ENOMEM, "dom0 has no memory left for the list of disks");
    n = xenstore_directory(0, "/local/domain/0/backend/vbd", names, NAMES);
    rc = n < 0 && strcmp(names, "ENOENT") ? guest_fail(s->guest, -EBUSY, "it cannot be seen who has its disk") : 0;
    for (char *domain = names; n > 0 && domain < names + n && !rc; domain += strlen(domain) + 1) {
        snprintf(path, sizeof path, "/local/domain/0/backend/vbd/%s", domain);
        int m = xenstore_directory(0, path, disks, NAMES);
        if (m < 0)
            rc = guest_fail(s->guest, -EBUSY, "it cannot be seen who has its disk");
        for (char *disk = disks; m > 0 && disk < disks + m && !rc; disk += strlen(disk) + 1) {
            bool same = !strcmp(domain, s->words['d' - 'A']) && !strcmp(disk, s->words['i' - 'A']);
            snprintf(path, sizeof path, "/local/domain/0/backend/vbd/%s/%s/physical-device", domain, disk);
            int got = store_read(s, path);
            if (got == -ENOENT || (got >= 0 && (same || strcmp(s->reply, device))))
                continue;
            snprintf(path, sizeof path, "/local/domain/0/backend/vbd/%s/%s/mode", domain, disk);
            if (got >= 0 && !writes)
                got = store_read(s, path);
            if (got < 0 && got != -ENOENT)
                rc = got;
            else if (writes || (got > 0 && s->reply[0] == 'w'))
                rc = guest_fail(s->guest, -EBUSY, "another guest has its disk, and one of them would write to it");
        }
    }
    memory_release(names);
    return rc;
}

int hotplug_block(struct scope *s)
{
    static const struct message asks[] = {READ("$b/type"), READ_NEEDED("$b/params"), READ_NEEDED("$b/mode"), READ("$b/physical-device"),
                                          READ_NEEDED("$b/frontend-id"), READ("$h/vm")};
    char device[16];
    int rc = STORE_SEND(s, asks);
    u32 number = file_number(s->words['t' - 'A']);
    if (number == ~0U)
        return rc ? rc : guest_fail(s->guest, -ENOENT, "its disk is not in the file area");
    if (!rc && *s->words['o' - 'A'] == 'w' && !file_nth(number)->writable)
        return guest_fail(s->guest, -EACCES, "its disk is a file that may not be written to");
    snprintf(device, sizeof device, "%x:%x", LOOP_MAJOR, number);
    if (rc || (rc = check_sharing(s, device)))
        return rc;
    struct message found[] = {WRITE("$b/physical-device", device), WRITE("$b/physical-device-path", "$t"),
                              WRITE("$b/hotplug-status", "connected")};
    return STORE_SEND(s, found);
}
