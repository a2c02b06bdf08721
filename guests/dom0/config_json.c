/* chaos's configuration files, JSON (RFC 8259): pyvmm/toolstack/config/jsonsyntax.py and chaos.py are the same in Python. */
#include "config_value.h"

static void skip(struct reader *r)
{
    for (; r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'); r->at++)
        r->line += *r->at == '\n';
}

static bool peek(const struct reader *r, char c)
{
    return r->at < r->end && *r->at == c;
}

static bool wanted(struct reader *r, const char *what)
{
    return config_fail(r, r->line, "expected %s, not %s", what, r->at < r->end ? shown_char(r, r->at) : "the end of the file");
}

static bool hex4(const struct reader *r, const char *p, u32 *code)
{
    *code = 0;
    for (u32 i = 0; i < 4; i++) {
        char c = p + i < r->end ? p[i] : 0;
        if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')))
            return false;
        *code = *code << 4 | (u32)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return true;
}

static bool bad_string(struct reader *r, const char *why)
{
    return config_fail(r, r->line, "expected a JSON string (%s)", why);
}

static char *string(struct reader *r)
{
    static const char names[] = "\"\\/bfnrt", codes[] = "\"\\/\b\f\n\r\t";
    const char *p = r->at + 1, *end = p;
    while (end < r->end && *end != '"' && (u8)*end >= ' ')
        end += *end == '\\' ? 2 : 1;
    char *text = end <= r->end ? text_new(r, (u64)(end - p)) : NULL, *to = text;
    bool strange = false;
    if (end >= r->end) {
        bad_string(r, "Unterminated string starting at");
        return NULL;
    }
    if (!text)
        return NULL;
    while (p < r->end && *p != '"') {
        if ((u8)*p < ' ') {
            bad_string(r, "Invalid control character at");
            return NULL;
        }
        if (*p != '\\') {
            *to++ = *p++;
            continue;
        }
        u32 code, low, i = 0;
        if (p[1] == 'u') {
            if (!hex4(r, p + 2, &code)) {
                bad_string(r, "Invalid \\uXXXX escape");
                return NULL;
            }
            p += 6;
            if (code >> 10 == 0x36 && p + 1 < r->end && p[0] == '\\' && p[1] == 'u' && hex4(r, p + 2, &low) && low >> 10 == 0x37) {
                code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
                p += 6;
            }
            strange |= !code || code >> 11 == 0x1b;
            utf8_put(&to, code);
            continue;
        }
        while (names[i] && names[i] != p[1])
            i++;
        if (!names[i]) {
            bad_string(r, "Invalid \\escape");
            return NULL;
        }
        *to++ = codes[i];
        p += 2;
    }
    *to = 0;
    r->at = p + 1;
    if (strange) {
        config_fail(r, r->line, "expected a string without \\u0000 and lone surrogates");
        return NULL;
    }
    return text;
}

static struct value *value(struct reader *r, u32 depth);

static bool comma(struct reader *r, char close)
{
    char what[16];
    skip(r);
    if (peek(r, ',')) {
        r->at++;
        skip(r);
        return !peek(r, close) || wanted(r, "a value after the comma");
    }
    snprintf(what, sizeof what, ", or %c", close);
    return peek(r, close) || wanted(r, what);
}

static struct value *object(struct reader *r, u32 depth)
{
    struct value *o = value_new(r, VALUE_OBJECT, r->line), *v;
    if (!o)
        return NULL;
    r->at++;
    skip(r);
    while (!peek(r, '}')) {
        u32 line = r->line;
        if (!peek(r, '"')) {
            wanted(r, "a name in double quotes");
            return NULL;
        }
        char *name = string(r);
        if (!name)
            return NULL;
        for (v = o->first; v; v = v->next)
            if (!strcmp(v->key, name)) {
                config_fail(r, line, "expected %s once, it is there twice", name);
                return NULL;
            }
        skip(r);
        if (!peek(r, ':')) {
            wanted(r, expected(r, ": after %s", name));
            return NULL;
        }
        r->at++;
        skip(r);
        if (!(v = value(r, depth + 1)))
            return NULL;
        v->key = name;
        value_append(o, v);
        if (!comma(r, '}'))
            return NULL;
    }
    r->at++;
    return o;
}

static struct value *list(struct reader *r, u32 depth)
{
    struct value *l = value_new(r, VALUE_LIST, r->line), *v;
    if (!l)
        return NULL;
    r->at++;
    skip(r);
    while (!peek(r, ']')) {
        if (!(v = value(r, depth + 1)))
            return NULL;
        value_append(l, v);
        if (!comma(r, ']'))
            return NULL;
    }
    r->at++;
    return l;
}

static bool digit(const struct reader *r, const char *p) { return p < r->end && *p >= '0' && *p <= '9'; }

/* Where the number at r->at ends; NULL: there is none. */
static const char *number(const struct reader *r, bool *whole)
{
    const char *p = r->at, *q;
    *whole = true;
    if (p < r->end && *p == '-')
        p++;
    if (!digit(r, p))
        return NULL;
    if (*p++ != '0')
        while (digit(r, p))
            p++;
    if (p < r->end && *p == '.' && digit(r, p + 1)) {
        *whole = false;
        for (p++; digit(r, p); p++)
            ;
    }
    if (p < r->end && (*p | 0x20) == 'e') {
        q = p + 1 + (p + 1 < r->end && (p[1] == '-' || p[1] == '+'));
        if (digit(r, q)) {
            *whole = false;
            for (p = q; digit(r, p); p++)
                ;
        }
    }
    return p;
}

static struct value *value(struct reader *r, u32 depth)
{
    static const struct { const char *word; u32 kind; } words[] = {{"true", VALUE_TRUE}, {"false", VALUE_FALSE}, {"null", VALUE_NULL}};
    struct value *v;
    bool whole;
    if (peek(r, '{') || peek(r, '[')) {
        if (depth >= CONFIG_DEPTH) {
            wanted(r, "less nesting");
            return NULL;
        }
        return peek(r, '{') ? object(r, depth) : list(r, depth);
    }
    if (peek(r, '"')) {
        if ((v = value_new(r, VALUE_STRING, r->line)))
            v->text = string(r);
        return r->failed ? NULL : v;
    }
    const char *end = number(r, &whole);
    if (end) {
        char *text = text_new(r, (u64)(end - r->at));
        if (!text || !(v = value_new(r, whole ? VALUE_NUMBER : VALUE_FLOAT, r->line)))
            return NULL;
        memcpy(text, r->at, (u64)(end - r->at));
        v->text = text;
        r->at = end;
        return v;
    }
    for (u32 i = 0; i < COUNT(words); i++) {
        u64 n = strlen(words[i].word);
        const char *after = r->at + n;
        if ((u64)(r->end - r->at) < n || strncmp(r->at, words[i].word, n) || (after < r->end && (*after | 0x20) >= 'a' && (*after | 0x20) <= 'z'))
            continue;
        r->at = after;
        return value_new(r, words[i].kind, r->line);
    }
    wanted(r, "a value");
    return NULL;
}

static const char *prefixed(const struct settings *s, const char *key, u32 index)
{
    return index == ~0U ? expected(s->r, "%s%s.", s->prefix, key) : expected(s->r, "%s%s[%u].", s->prefix, key, index);
}

static bool vcpus(const struct settings *s, struct config *c)
{
    struct value *v = setting(s, "vcpus");
    u64 n = 1;
    if (v && v->kind == VALUE_OBJECT) {
        struct settings inner = setting_object(s, "vcpus", v, prefixed(s, "vcpus", ~0U));
        n = setting_number(&inner, "count", 1, 128, "", &n) ? n : 1;
    } else if (!setting_number(s, "vcpus", 1, 128, "", &n)) {
        n = 1;
    }
    c->vcpus = c->maxvcpus = (u32)n;
    return !s->r->failed;
}

static bool actions(const struct settings *s, struct config *c)
{
    static const char *const keys[ON_COUNT] = {"on_poweroff", "on_reboot", "on_crash", "on_watchdog"};
    static const char *const words[] = {"destroy", "restart", "preserve", NULL};
    for (u32 how = 0; how < ON_COUNT; how++) {
        const char *word = setting_choice(s, keys[how], words);
        c->on[how] = !word || *word == 'd' ? ACTION_destroy : *word == 'r' ? ACTION_restart : ACTION_preserve;
    }
    return !s->r->failed;
}

static bool vbds(const struct settings *s, struct config *c)
{
    static const char *const types[] = {"phy", "file", NULL}, *const accesses[] = {"r", "w", NULL};
    struct reader *r = s->r;
    u32 n = 0;
    for (const struct value *v = setting_list(s, "vbds", "a list of objects"); v; v = v->next)
        if (n++ == CONFIG_VBDS)
            return setting_error(s, "vbds", v, expected(r, "at most %u of them", CONFIG_VBDS));
    n = 0;
    for (struct value *v = setting_list(s, "vbds", "a list of objects"); v; v = v->next) /* all are objects, before any is looked at */
        setting_object(s, expected(r, "vbds[%u]", n++), v, "");
    for (struct value *v = r->failed ? NULL : setting_list(s, "vbds", "a list of objects"); v; v = v->next) {
        struct settings inner = setting_object(s, "vbds", v, prefixed(s, "vbds", c->nvbds));
        struct vbd_config *d = &c->vbds[c->nvbds];
        *d = (struct vbd_config){.raw = true};
        const char *target = setting_text(&inner, "target", "a string"), *vdev = setting_text(&inner, "vdev", "a string");
        if (r->failed)
            return false;
        if (!target || !*target)
            return setting_error(&inner, "target", NULL, "the path of an image or a block device");
        if (!vdev || parse_vdev(r, vdev, &d->devid))
            return setting_error(&inner, "vdev", NULL, "the name of a disk like xvda");
        for (u32 i = 0; i < c->nvbds; i++)
            if (c->vbds[i].devid == d->devid)
                return config_fail(r, inner.last_line, "%svdev: expected a disk of its own", inner.prefix);
        setting_copy(&inner, "target", d->target, sizeof d->target, target);
        setting_copy(&inner, "vdev", d->vdev, sizeof d->vdev, vdev);
        const char *type = setting_choice(&inner, "type", types), *access = setting_choice(&inner, "access", accesses);
        if (r->failed)
            return false;
        d->file = type && !strcmp(type, "file");
        d->readonly = access && !strcmp(access, "r");
        c->nvbds++;
    }
    return !r->failed;
}

static bool vifs(const struct settings *s, struct config *c)
{
    struct reader *r = s->r;
    u32 n = 0;
    for (const struct value *v = setting_list(s, "vifs", "a list of objects"); v; v = v->next)
        if (n++ == CONFIG_VIFS)
            return setting_error(s, "vifs", v, expected(r, "at most %u of them", CONFIG_VIFS));
    n = 0;
    for (struct value *v = setting_list(s, "vifs", "a list of objects"); v; v = v->next)
        setting_object(s, expected(r, "vifs[%u]", n++), v, "");
    for (struct value *v = r->failed ? NULL : setting_list(s, "vifs", "a list of objects"); v; v = v->next) {
        struct settings inner = setting_object(s, "vifs", v, prefixed(s, "vifs", c->nvifs));
        struct vif_config *d = &c->vifs[c->nvifs];
        *d = (struct vif_config){.devid = c->nvifs, .script = "vif-bridge"};
        const char *mac = setting_text(&inner, "mac", "a string");
        d->has_mac = mac && *mac;
        if (d->has_mac && parse_mac(r, mac, d->mac))
            return setting_error(&inner, "mac", NULL, "a MAC address like 00:16:3e:00:00:01");
        const char *bridge = setting_text(&inner, "bridge", "a string");
        setting_copy(&inner, "bridge", d->bridge, sizeof d->bridge, bridge && *bridge ? bridge : "xenbr0");
        const char *ip = setting_text(&inner, "ip", "a string");
        if (ip && *ip && config_ip(r, ip, &d->ip))
            return setting_error(&inner, "ip", NULL, "an IPv4 address like 10.0.0.2");
        if (r->failed)
            return false;
        c->nvifs++;
    }
    return !r->failed;
}

static bool printable(const char *text)
{
    for (; *text; text++)
        if ((u8)*text < ' ' || *text == 0x7f || *text == '/')
            return false;
    return true;
}

static bool method(const struct settings *s, struct config *c)
{
    static const char *const methods[] = {"xenstore", "noxs", NULL};
    struct value *v = setting(s, "xen");
    if (!v)
        return !s->r->failed;
    struct settings inner = setting_object(s, "xen", v, prefixed(s, "xen", ~0U));
    if (setting_flag(&inner, "pvh"))
        return setting_error(&inner, "pvh", NULL, "false: this host has PV guests only");
    c->method = setting_choice(&inner, "dev_method", methods);
    return !s->r->failed;
}

bool config_read_json(struct reader *r, struct config *c)
{
    struct settings s = {.r = r, .prefix = ""};
    u64 n;
    skip(r);
    if (!peek(r, '{'))
        return wanted(r, "an object in { }");
    if (!(r->root = object(r, 0)))
        return false;
    skip(r);
    if (r->at < r->end)
        return wanted(r, "the end of the file");
    s.object = r->root;
    s.last_line = r->line;
    const char *name = setting_text(&s, "name", "a string");
    if (!name || !*name || !printable(name))
        return setting_error(&s, "name", NULL, "a string without a slash");
    const char *kernel = setting_text(&s, "kernel", "a string");
    if (!kernel || !*kernel)
        return setting_error(&s, "kernel", NULL, "the name of a file");
    setting_copy(&s, "name", c->name, sizeof c->name, name);
    setting_copy(&s, "kernel", c->kernel, sizeof c->kernel, kernel);
    c->memory_kib = c->maxmem_kib = (setting_number(&s, "memory", 1, 1 << 24, " of MiB", &n) ? n : 32) << 10;
    if (r->failed || !vcpus(&s, c))
        return false;
    if (setting_number(&s, "address_size", 32, 64, "", &n) && n != 64)
        return setting_error(&s, "address_size", NULL, "64: this host has no 32-bit guests");
    setting_copy(&s, "ramdisk", c->ramdisk, sizeof c->ramdisk, setting_text(&s, "ramdisk", "a string"));
    setting_copy(&s, "cmdline", c->cmdline, sizeof c->cmdline, setting_text(&s, "cmdline", "a string"));
    if (r->failed || !actions(&s, c) || !vbds(&s, c) || !vifs(&s, c))
        return false;
    c->paused = setting_flag(&s, "paused");
    return !r->failed && method(&s, c);
}
