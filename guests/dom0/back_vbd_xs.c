/* What a vbd's back end says and reads over XenStore (io/blkif.h of Xen; the order is Linux's blkback's). */
#include "back.h"
#include "files.h"
#include "shell.h"

int vbd_offer_xs(struct back *b)
{
    back_put(b, "feature-max-indirect-segments", "%u", VBD_INDIRECT);
    back_put(b, "multi-queue-max-queues", "1");
    back_put(b, "max-ring-page-order", "0");
    back_await(b, true);
    return 0;
}

/* The device that a script, or xendevd, has made of the file: "7:number", in hexadecimal digits. */
static const struct file *file_of(const char *device)
{
    u32 words[2] = {0, 0}, n = 0, digits = 0;
    for (const char *p = device; *p; p++, digits++) {
        u32 c = (u8)*p | 0x20, digit = c >= 'a' ? c - 'a' + 10 : c - '0';
        if (*p == ':' && !n) {
            n++;
            continue;
        }
        if (digit > 15 || digits > 12)
            return NULL;
        words[n] = words[n] * 16 + digit;
    }
    return n && words[0] == LOOP_MAJOR ? file_nth(words[1]) : NULL;
}

bool vbd_settled(struct back *b)
{
    char device[24], mode[8], type[16], line[64];
    if (!back_text(b->path, "physical-device", device, sizeof device) || !device[0])
        return false; /* not yet */
    back_text(b->path, "mode", mode, sizeof mode);
    back_text(b->path, "device-type", type, sizeof type);
    struct vbd as = {.readonly = mode[0] != 'w', .cdrom = !strcmp(type, "cdrom")};
    as.removable = back_number(b->path, "removable", 0) == 1;
    as.discard = back_number(b->path, "discard-enable", 1) != 0;
    int rc = vbd_open(b, file_of(device), &as);
    back_await(b, false);
    if (!rc)
        return true;
    snprintf(line, sizeof line, "the device %s cannot be opened (%s)", device, error_name(rc));
    back_refuse(b, line);
    return false;
}

bool vbd_connect_xs(struct back *b)
{
    struct vbd_words w;
    struct vbd *v = b->own;
    bool writes = !v->readonly;
    back_text(b->front, "protocol", w.protocol, sizeof w.protocol);
    w.queues = (u32)back_number(b->front, "multi-queue-num-queues", 1);
    w.port = back_word(b->front, "event-channel");
    w.order = back_word(b->front, "ring-page-order");
    w.ref = back_word(b->front, w.order == NO_NUMBER ? "ring-ref" : "ring-ref0");
    w.order = w.order == NO_NUMBER ? 0 : w.order;
    if (!vbd_connect(b, &w))
        return false;
    back_put(b, "feature-flush-cache", "%d", writes);
    if (writes && v->discard) {
        back_put(b, "discard-granularity", "512");
        back_put(b, "discard-alignment", "0");
        back_put(b, "discard-secure", "0");
        back_put(b, "feature-discard", "1");
    }
    back_put(b, "feature-barrier", "%d", writes);
    back_put(b, "feature-persistent", "0");
    back_put(b, "sectors", "%lu", v->sectors);
    back_put(b, "info", "%u", vbd_info(v));
    back_put(b, "sector-size", "512");
    back_put(b, "physical-sector-size", "512");
    return true;
}
