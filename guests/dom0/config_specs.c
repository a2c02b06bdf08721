/* The strings in xl's disk and vif lists, as pyvmm/toolstack/config/specs.py reads them: names of disks, addresses.
 * Facts: xl-disk-configuration(5), xl-network-configuration(5), xen-vbd-interface(7) of Xen 4.17. */
#include "config_value.h"

static const char *const access_words[] = {"", "ro", "r", "rw", "w", NULL}, *const formats[] = {"", "raw", "qcow", "qcow2", "vhd", "qed", NULL},
                  *const types[] = {"", "cdrom", "disk", NULL}, *const backends[] = {"", "phy", "tap", "qdisk", "standalone", NULL},
                  *const specifications[] = {"", "xen", NULL};
static const char *const old_prefixes[] = {"raw:", "qcow:", "qcow2:", "vhd:", "qed:", "phy:", "file:", "aio:", "tap:", "tap2:", "tapdisk:"};
enum { TARGET, FORMAT, VDEV, ACCESS, POSITIONS, DEVTYPE = POSITIONS, BACKEND, BACKENDTYPE, SCRIPT, SPECIFICATION, DISK_KEYS,
       DISCARD = DISK_KEYS, TRUSTED, DIRECT, FOUND };
static const char *const disk_keys[FOUND] = {"target", "format", "vdev", "access", "devtype", "backend", "backendtype", "script", "specification",
                                             "discard", "trusted", "direct-io-safe"};
static const struct { const char *flag; u32 key; const char *value; } disk_flags[] = {
    {"cdrom", DEVTYPE, "cdrom"}, {"discard", DISCARD, "1"}, {"no-discard", DISCARD, ""}, {"trusted", TRUSTED, "1"}, {"untrusted", TRUSTED, ""},
    {"direct-io-safe", DIRECT, "1"}};
enum { MAC, BRIDGE, IP, VIF_SCRIPT, VIFNAME, MTU, RATE, VIF_BACKEND, DEVID, VIF_KEYS };
static const char *const vif_keys[VIF_KEYS] = {"mac", "bridge", "ip", "script", "vifname", "mtu", "rate", "backend", "devid"};
static const char *const vif_others[] = {"model", "type", "gatewaydev", "netdev", "accel", "queues"};

static bool digit(char c) { return c >= '0' && c <= '9'; }
static bool letter(char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
static bool blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* A copy of [from, end) without the blanks around it. */
static char *part(struct reader *r, const char *from, const char *end)
{
    while (from < end && blank(*from))
        from++;
    while (end > from && blank(end[-1]))
        end--;
    char *text = text_new(r, (u64)(end - from));
    if (text)
        memcpy(text, from, (u64)(end - from));
    return text;
}

static const char *until(const char *p, char c)
{
    while (*p && *p != c)
        p++;
    return p;
}

/* Python's ", ".join, without empty words. */
static const char *joined(const char *const *words, u32 n, char *to, u32 size)
{
    u32 used = 0;
    to[0] = 0;
    for (u32 i = 0; i < n && words[i]; i++)
        if (words[i][0])
            used += (u32)snprintf(to + used, size - used, "%s%s", used ? ", " : "", words[i]);
    return to;
}

static s32 index_of(const char *word, const char *const *words, u32 n)
{
    for (u32 i = 0; i < n && words[i]; i++)
        if (!strcmp(word, words[i]))
            return (s32)i;
    return -1;
}

static const char *one_of(struct reader *r, const char **found, u32 key, const char *const *words)
{
    char list[64];
    if (!found[key] || index_of(found[key], words, 99) >= 0)
        return NULL;
    return expected(r, "%s %s, not %s", disk_keys[key], joined(words, 99, list, sizeof list), found[key]);
}

static const char *set(struct reader *r, const char **found, const char *const *keys, u32 key, const char *value)
{
    if (found[key] && found[key][0])
        return expected(r, "%s once", keys[key]);
    found[key] = value;
    return NULL;
}

static const char *copy(struct reader *r, const char *what, const char *text, char *to, u32 size)
{
    if (strlen(text) >= size)
        return expected(r, "a %s of at most %u bytes", what, size - 1);
    snprintf(to, size, "%s", text);
    return NULL;
}

static const char *made(struct reader *r, const char **found, struct vbd_config *d)
{
    const char *target = found[TARGET] ? found[TARGET] : "", *error;
    u64 n = found[VDEV] ? strlen(found[VDEV]) : 0;
    if (n >= 6 && !strcmp(found[VDEV] + n - 6, ":cdrom")) { /* deprecated */
        found[VDEV] = part(r, found[VDEV], found[VDEV] + n - 6);
        found[DEVTYPE] = "cdrom";
    }
    if (!found[VDEV] || !found[VDEV][0])
        return "a vdev, for example xvda";
    if ((error = parse_vdev(r, found[VDEV], &d->devid)) || (error = one_of(r, found, DEVTYPE, types)))
        return error;
    d->cdrom = found[DEVTYPE] && !strcmp(found[DEVTYPE], "cdrom");
    if ((error = one_of(r, found, ACCESS, access_words)))
        return error;
    d->readonly = found[ACCESS] && found[ACCESS][0] ? found[ACCESS][0] == 'r' && found[ACCESS][1] != 'w' : d->cdrom;
    if (!target[0] && !d->cdrom)
        return "a target: only a cdrom may be empty";
    if ((error = one_of(r, found, SPECIFICATION, specifications)) || (error = one_of(r, found, FORMAT, formats)) ||
        (error = one_of(r, found, BACKENDTYPE, backends)))
        return error;
    d->raw = !found[FORMAT] || !found[FORMAT][0] || !strcmp(found[FORMAT], "raw");
    d->no_discard = found[DISCARD] && !found[DISCARD][0];
    d->file = false;
    if (target[0] && target[0] != '/' && !(found[SCRIPT] && found[SCRIPT][0]))
        target = expected(r, "/dev/%s", target);
    if ((error = copy(r, "target", target, d->target, sizeof d->target)))
        return error;
    return copy(r, "vdev", found[VDEV], d->vdev, sizeof d->vdev);
}

const char *parse_disk(struct reader *r, const char *text, struct vbd_config *d)
{
    const char *found[FOUND] = {NULL}, *error = NULL;
    char list[128];
    u32 position = 0;
    while (blank(*text))
        text++;
    while (*text && !error && !r->failed) {
        if (!strncmp(text, "target=", 7)) { /* takes all that follows, commas too */
            error = set(r, found, disk_keys, TARGET, text + 7);
            break;
        }
        const char *end = until(text, ','), *equals = until(text, '='), *word = part(r, text, end);
        bool named = equals < end;
        const char *key = named ? part(r, text, equals) : word;
        if (r->failed)
            break;
        for (const char *p = key; named && *p; p++)
            named = letter(*p) || (p > key && (digit(*p) || *p == '_' || *p == '-'));
        u32 flag = 0;
        while (flag < COUNT(disk_flags) && strcmp(word, disk_flags[flag].flag))
            flag++;
        if (named && *key) {
            s32 which = index_of(key, disk_keys, DISK_KEYS);
            error = which >= 0 ? set(r, found, disk_keys, (u32)which, part(r, equals + 1, end))
                               : expected(r, "one of %s, not %s", joined(disk_keys, DISK_KEYS, list, sizeof list), key);
        } else if (flag < COUNT(disk_flags)) {
            error = set(r, found, disk_keys, disk_flags[flag].key, disk_flags[flag].value);
        } else {
            while (position < POSITIONS && found[position])
                position++;
            if (position == POSITIONS)
                return expected(r, "no more than %d positional parameters, not '%s' after them", POSITIONS, word);
            for (u32 i = 0; position == TARGET && i < COUNT(old_prefixes); i++) {
                u64 n = strlen(old_prefixes[i]);
                if (strncmp(word, old_prefixes[i], n))
                    continue;
                if (!found[FORMAT]) { /* that form has no place for a format */
                    const char *format = part(r, word, word + n - 1);
                    found[FORMAT] = format && index_of(format, formats, 99) > 0 ? format : "raw";
                }
                word += n;
                break;
            }
            error = set(r, found, disk_keys, position, word);
        }
        for (text = *end ? end + 1 : end; blank(*text); text++)
            ;
    }
    return error ? error : r->failed ? "a smaller configuration" : made(r, found, d);
}

static const char *whole(struct reader *r, const char *text, const char *what, u64 low, u64 high, u64 *value)
{
    const char *p = text;
    *value = 0;
    for (; digit(*p) && p - text < 12; p++)
        *value = *value * 10 + (u64)(*p - '0');
    while (digit(*p)) /* what is behind the twelfth digit does not count */
        p++;
    return p > text && !*p && *value >= low && *value <= high ? NULL : expected(r, "%s from %lu to %lu, not %s", what, low, high, text);
}

/* digits (GB|MB|KB|B|Gb|Mb|Kb|b)/s [@ digits [ms|us|s]] */
static bool rate_fits(const char *p)
{
    if (!digit(*p))
        return false;
    while (digit(*p))
        p++;
    if (*p == 'G' || *p == 'M' || *p == 'K')
        p++;
    if ((*p != 'B' && *p != 'b') || p[1] != '/' || p[2] != 's')
        return false;
    p += 3;
    if (!*p)
        return true;
    if (*p++ != '@' || !digit(*p))
        return false;
    while (digit(*p))
        p++;
    if ((*p == 'm' || *p == 'u') && p[1] == 's')
        p++;
    return !*p || (*p == 's' && !p[1]);
}

const char *parse_vif(struct reader *r, const char *text, u32 index, struct vif_config *v)
{
    const char *found[VIF_KEYS] = {NULL}, *error = NULL;
    char list[128];
    u64 number;
    for (const char *at = text; !error && !r->failed; at++) {
        const char *end = until(at, ','), *equals = until(at, '='), *word = part(r, at, end);
        bool named = equals < end;
        const char *key = named ? part(r, at, equals) : word;
        if (r->failed)
            break;
        s32 which = index_of(key, vif_keys, VIF_KEYS);
        if (named && which >= 0)
            error = set(r, found, vif_keys, (u32)which, part(r, equals + 1, end));
        else if ((*key || named) && (named || (strcmp(key, "trusted") && strcmp(key, "untrusted"))) &&
                 (!named || index_of(key, vif_others, COUNT(vif_others)) < 0))
            error = expected(r, "one of %s with a value, not %s", joined(vif_keys, VIF_KEYS, list, sizeof list), word);
        at = end;
        if (!*at)
            break;
    }
    if (error || r->failed)
        return error ? error : "a smaller configuration";
    if (found[RATE] && !rate_fits(found[RATE]))
        return expected(r, "a rate like 10Mb/s or 1MB/s@20ms, not %s", found[RATE]);
    *v = (struct vif_config){.devid = index};
    if (found[DEVID] && (error = whole(r, found[DEVID], "a devid", 0, 0xffff, &number)))
        return error;
    if (found[DEVID])
        v->devid = (u32)number;
    v->has_mac = found[MAC] && found[MAC][0];
    if (v->has_mac && (error = parse_mac(r, found[MAC], v->mac)))
        return error;
    if (found[MTU] && (error = whole(r, found[MTU], "an mtu", 68, 65535, &number)))
        return error;
    if (found[IP] && found[IP][0] && (error = config_ip(r, found[IP], &v->ip)))
        return error;
    if ((error = copy(r, "bridge", found[BRIDGE] && found[BRIDGE][0] ? found[BRIDGE] : "xenbr0", v->bridge, sizeof v->bridge)))
        return error;
    return copy(r, "script", found[VIF_SCRIPT] && found[VIF_SCRIPT][0] ? found[VIF_SCRIPT] : "vif-bridge", v->script, sizeof v->script);
}

const char *parse_mac(struct reader *r, const char *text, u8 *mac)
{
    const char *p = text;
    for (u32 i = 0; i < 6; i++) {
        u32 value = 0, n = 0;
        for (; n < 2 && (digit(*p) || ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'f')); n++, p++)
            value = value * 16 + (digit(*p) ? (u32)(*p - '0') : (u32)(*p | 0x20) - 'a' + 10);
        if (!n || *p != (i < 5 ? ':' : 0))
            return expected(r, "a MAC address like 00:16:3e:00:00:01, not %s", text);
        p++;
        mac[i] = (u8)value;
    }
    return mac[0] & 1 ? expected(r, "a MAC address of one station, not the multicast address %s", text) : NULL;
}

const char *config_ip(struct reader *r, const char *text, u32 *ip)
{
    const char *p = text;
    u8 *byte = (u8 *)ip;
    for (u32 i = 0; i < 4; i++) {
        u32 value = 0, n = 0;
        for (; n < 3 && digit(*p); n++, p++)
            value = value * 10 + (u32)(*p - '0');
        if (!n || value > 255 || *p != (i < 3 ? '.' : 0))
            return expected(r, "an IPv4 address like 10.0.0.2, not %s", text);
        p++;
        byte[i] = (u8)value;
    }
    return NULL;
}

static const struct { const char *prefix; u32 major, bits, first, count; } disks[] = {
    {"xvd", 202, 4, 0, 16}, {"sd", 8, 4, 0, 16}, {"hd", 3, 6, 0, 2}, {"hd", 22, 6, 2, 2}};

static bool count_of(const char **p, u64 *value)
{
    const char *from = *p;
    for (*value = 0; digit(**p); (*p)++)
        *value = *value > 1UL << 40 ? *value : *value * 10 + (u64)(**p - '0');
    return *p > from;
}

const char *parse_vdev(struct reader *r, const char *text, u32 *devid)
{
    const char *p = text, *prefix = NULL;
    u64 disk = 0, partition = 0;
    bool fits;
    if (digit(*text)) {
        u64 number;
        fits = to_number(text, &number);
        if (fits && number < 2UL << 28) {
            *devid = (u32)number;
            return NULL;
        }
        for (p = text; digit(*p); p++)
            ;
        return fits || !*p ? expected(r, "a number of a disk, not %s", text) : expected(r, "the name of a disk like xvda, not %s", text);
    }
    if (*p == 'd') {
        p++;
        fits = count_of(&p, &disk);
        if (fits && *p == 'p') {
            p++;
            fits = count_of(&p, &partition);
        }
        prefix = "xvd";
    } else {
        for (u32 i = 0; i < COUNT(disks) && !prefix; i++)
            if (!strncmp(p, disks[i].prefix, strlen(disks[i].prefix)))
                prefix = disks[i].prefix;
        fits = prefix != NULL;
        if (fits) {
            u32 letters = 0;
            for (p += strlen(prefix); letters < 4 && *p >= 'a' && *p <= 'z'; p++, letters++)
                disk = disk * 26 + (u64)(*p - 'a') + 1;
            disk--;
            fits = letters > 0;
            count_of(&p, &partition);
        }
    }
    if (!fits || *p)
        return expected(r, "the name of a disk like xvda, not %s", text);
    for (u32 i = 0; i < COUNT(disks); i++)
        if (!strcmp(prefix, disks[i].prefix) && disk >= disks[i].first && disk < disks[i].first + disks[i].count && partition < 1UL << disks[i].bits) {
            *devid = (u32)(disks[i].major << 8 | (disk - disks[i].first) << disks[i].bits | partition);
            return NULL;
        }
    if (prefix[0] == 'x' && disk < 1 << 20 && partition < 256) {
        *devid = (u32)(1U << 28 | disk << 8 | partition);
        return NULL;
    }
    return expected(r, "a disk that there is a number for, not %s", text);
}
