/* A guest's configuration file, whichever its syntax: told apart by the first character. */
#include "config_value.h"
#include "files.h"
#include "shell.h"

/* Where the text stops being UTF-8; NULL: nowhere. */
static const char *not_utf8(const char *p, const char *end)
{
    while (p < end) {
        u8 c = (u8)*p;
        u32 more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 9;
        if (more > (u64)(end - p - 1))
            return p;
        for (u32 i = 1; i <= more; i++)
            if (((u8)p[i] & 0xc0) != 0x80)
                return p;
        if ((c == 0xe0 && (u8)p[1] < 0xa0) || (c == 0xed && (u8)p[1] > 0x9f) || (c == 0xf0 && (u8)p[1] < 0x90) || (c == 0xf4 && (u8)p[1] > 0x8f))
            return p;
        p += more + 1;
    }
    return NULL;
}

int config_parse(const char *path, const char *text, u64 n, struct config *c, char *error, u32 size)
{
    struct reader r = {.path = path, .at = text, .end = text + n, .line = 1, .error = error, .error_size = size};
    const char *bad = not_utf8(text, text + n), *first = text;
    *c = (struct config){.path = ""};
    snprintf(c->path, sizeof c->path, "%s", path);
    if (bad) {
        for (const char *p = text; p < bad; p++)
            r.line += *p == '\n';
        config_fail(&r, r.line, "expected UTF-8 text, not the byte 0x%02x", (u8)*bad);
        return -EINVAL;
    }
    while (first < r.end && (*first == ' ' || (*first >= '\t' && *first <= '\r')))
        first++;
    bool json = first < r.end && *first == '{';
    bool done = json ? config_read_json(&r, c) : config_read_xl(&r, c);
    return done && !r.failed ? 0 : -EINVAL;
}

u32 config_describe(const struct config *c, char *to, u32 size)
{
    static const char *const actions[] = {"destroy", "restart", "preserve"};
    u32 n = 0;
#define SAY(...) (n += (u32)snprintf(n < size ? to + n : to, n < size ? size - n : 0, __VA_ARGS__))
    SAY("name %s\nkernel %s\nramdisk %s\ncmdline %s\nmemory %lu\nmaxmem %lu\nvcpus %u\nmaxvcpus %u\n", c->name, c->kernel, c->ramdisk, c->cmdline,
        c->memory_kib, c->maxmem_kib, c->vcpus, c->maxvcpus);
    SAY("on %s %s %s %s\npaused %d\nmethod %s\nuuid ", actions[c->on[0]], actions[c->on[1]], actions[c->on[2]], actions[c->on[3]], c->paused,
        c->method ? c->method : "");
    for (u32 i = 0; c->has_uuid && i < 16; i++)
        SAY("%02x", c->uuid[i]);
    SAY("\n");
    for (u32 i = 0; i < c->nvbds; i++) {
        const struct vbd_config *d = &c->vbds[i];
        SAY("vbd %u %s %s%s%s%s%s %s\n", d->devid, d->vdev, d->readonly ? "r" : "w", d->cdrom ? " cdrom" : "", d->raw ? " raw" : "",
            d->file ? " file" : "", d->no_discard ? " no-discard" : "", d->target);
    }
    for (u32 i = 0; i < c->nvifs; i++) {
        const struct vif_config *v = &c->vifs[i];
        SAY("vif %u ", v->devid);
        for (u32 k = 0; v->has_mac && k < 6; k++)
            SAY("%s%02x", k ? ":" : "", v->mac[k]);
        const u8 *ip = (const u8 *)&v->ip;
        SAY(" %u.%u.%u.%u %s %s\n", ip[0], ip[1], ip[2], ip[3], v->bridge, v->script);
    }
#undef SAY
    return n;
}

static int config(u32 n, char **words)
{
    static struct config c;
    static char text[4096], error[512];
    const struct file *f = file_find(words[1]);
    (void)n;
    if (!f)
        return failure(-ENOENT, "no file %s", words[1]);
    if (config_parse(words[1], (const char *)f->data, f->size, &c, error, sizeof error))
        return failure(0, "%s", error);
    u32 length = config_describe(&c, text, sizeof text);
    console_write(text, length < sizeof text ? length : sizeof text - 1);
    return 0;
}
COMMAND(config, "FILE", "read a configuration and say what it means", 1, 1, config);
