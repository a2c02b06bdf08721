/* xl's configuration files: pyvmm/toolstack/config/xlsyntax.py and xlcfg.py are the same in Python.
 *
 *   file     = { [ setting ] ( newline | ";" ) }
 *   setting  = KEY ( "=" | "+=" ) value
 *   value    = STRING | NUMBER | "[" [ value { "," value } [ "," ] ] "]"
 *
 * Inside of brackets newlines do not count; # begins a comment; the last setting of a key wins; += appends.
 */
#include "config_value.h"

enum { T_EOF, T_END, T_KEY, T_NUMBER, T_STRING, T_SIGN };
struct lexer { struct reader *r; u32 kind, line; const char *from, *end; };

static bool alnum(char c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }

static const char *shown(struct lexer *l)
{
    if (l->kind == T_EOF)
        return "the end of the file";
    if (*l->from == '\n')
        return "the end of the line";
    char *text = text_new(l->r, (u64)(l->end - l->from));
    if (!text)
        return "";
    memcpy(text, l->from, (u64)(l->end - l->from));
    return text;
}

/* The next piece of the file into l. */
static bool advance(struct lexer *l)
{
    struct reader *r = l->r;
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r' || *r->at == '#'))
        if (*r->at++ == '#')
            while (r->at < r->end && *r->at != '\n')
                r->at++;
    const char *p = l->from = r->at;
    l->line = r->line;
    l->kind = T_EOF;
    if (p == r->end)
        return true;
    char c = *p++;
    if (c == '\n' || c == ';') {
        l->kind = T_END;
        r->line += c == '\n';
    } else if (c == '"' || c == '\'') {
        l->kind = T_STRING;
        for (; p < r->end && *p != c && *p != '\n'; p++)
            if (*p == '\\' && p + 1 < r->end && p[1] != '\n')
                p++;
            else if (*p == '\\')
                break;
        if (p == r->end || *p++ != c)
            return config_fail(r, r->line, "expected a string that ends on its line, not %s", shown_char(r, l->from));
    } else if (c >= '0' && c <= '9') {
        l->kind = T_NUMBER;
        bool hex = c == '0' && p < r->end && (*p | 0x20) == 'x', plain = true;
        for (const char *from = p - 1; p < r->end && alnum(*p); p++)
            plain &= hex ? p - from == 1 || (*p | 0x20) <= 'f' : *p >= '0' && *p <= '9';
        l->end = p;
        if (!plain || (hex && p - l->from < 3))
            return config_fail(r, r->line, "expected a number or a string in quotes, not %s", shown(l));
    } else if (alnum(c) || c == '_') {
        l->kind = T_KEY;
        while (p < r->end && (alnum(*p) || *p == '_'))
            p++;
    } else if (c == '=' || c == '[' || c == ']' || c == ',' || (c == '+' && p < r->end && *p == '=')) {
        l->kind = T_SIGN;
        p += c == '+';
    } else {
        return config_fail(r, r->line, "expected a setting, not %s", shown_char(r, l->from));
    }
    r->at = l->end = p;
    return true;
}

static bool sign(const struct lexer *l, char c)
{
    return l->kind == T_SIGN && *l->from == c;
}

static bool wanted(struct lexer *l, const char *what)
{
    return config_fail(l->r, l->line, "expected %s, not %s", what, shown(l));
}

static u32 digits(const char *p, u32 n, u32 base, u32 *value)
{
    *value = 0;
    for (u32 i = 0; i < n; i++) {
        char c = p[i] | 0x20;
        u32 d = p[i] >= '0' && p[i] <= '9' ? (u32)(p[i] - '0') : c >= 'a' && c <= 'f' ? (u32)(c - 'a') + 10 : 99;
        if (d >= base)
            return 0;
        *value = *value * base + d;
    }
    return n;
}

/* Without its quotes, and with what its escapes mean. */
static char *unquoted(struct lexer *l)
{
    static const char names[] = "abfnrtv\\'\"", codes[] = "\a\b\f\n\r\t\v\\'\"";
    u64 n = (u64)(l->end - l->from) - 2;
    char *text = text_new(l->r, 2 * n), *to = text; /* an octal code may become two bytes of UTF-8 */
    bool zero = false;
    if (!text)
        return NULL;
    for (const char *p = l->from + 1, *end = p + n; p < end;) {
        u32 code = 0, used;
        if (*p != '\\') {
            zero |= !*p;
            *to++ = *p++;
        } else if (p[1] == 'x' && end - p >= 4 && (used = digits(p + 2, 2, 16, &code))) {
            zero |= !utf8_put(&to, code);
            p += 4;
        } else if (end - p >= 4 && (used = digits(p + 1, 3, 8, &code))) {
            zero |= !utf8_put(&to, code & 0xff);
            p += 4;
        } else {
            u32 i = 0;
            while (names[i] && names[i] != p[1])
                i++;
            if (!names[i]) {
                char word[8] = {0}; /* a whole character, however many bytes it has */
                u32 size = (u8)p[1] < 0x80 ? 1 : (u8)p[1] < 0xe0 ? 2 : (u8)p[1] < 0xf0 ? 3 : 4;
                memcpy(word, p + 1, size);
                config_fail(l->r, l->line, "expected a known escape in the string, not \\%s", word);
                return NULL;
            }
            *to++ = codes[i];
            p += 2;
        }
    }
    *to = 0;
    if (zero) {
        config_fail(l->r, l->line, "expected a string without the byte 0");
        return NULL;
    }
    return text;
}

static struct value *value(struct lexer *l, u32 line, u32 depth);

static struct value *list(struct lexer *l, u32 depth)
{
    struct value *found = value_new(l->r, VALUE_LIST, l->line);
    char what[48];
    if (!found || !advance(l))
        return NULL;
    for (;;) {
        while (l->kind == T_END && *l->from == '\n')
            if (!advance(l))
                return NULL;
        if (sign(l, ']'))
            break;
        if (found->first && l->kind == T_EOF) {
            snprintf(what, sizeof what, "] for the [ of line %u", found->line);
            wanted(l, what);
            return NULL;
        }
        struct value *v = value(l, l->line, depth + 1);
        if (!v)
            return NULL;
        value_append(found, v);
        while (l->kind == T_END && *l->from == '\n')
            if (!advance(l))
                return NULL;
        if (sign(l, ',')) {
            if (!advance(l))
                return NULL;
        } else if (!sign(l, ']')) {
            snprintf(what, sizeof what, ", or ] in the list of line %u", found->line);
            wanted(l, what);
            return NULL;
        }
    }
    return advance(l) ? found : NULL;
}

/* The lexer is one piece ahead, and a mistake in that piece comes before what the string holds: as in Python. */
static struct value *value(struct lexer *l, u32 line, u32 depth)
{
    struct value *v;
    if (l->kind == T_STRING || l->kind == T_NUMBER) {
        struct lexer token = *l;
        if (!advance(l) || !(v = value_new(l->r, token.kind == T_STRING ? VALUE_STRING : VALUE_NUMBER, line)))
            return NULL;
        v->text = token.kind == T_STRING ? unquoted(&token) : shown(&token);
        return l->r->failed ? NULL : v;
    }
    if (sign(l, '[') && depth < CONFIG_DEPTH)
        return list(l, depth);
    wanted(l, depth < CONFIG_DEPTH ? "a string in quotes, a number, or a list in [ ]" : "less nesting");
    return NULL;
}

static bool joined(struct lexer *l, struct value *old, struct value *new, u32 line, const char *key)
{
    if (old->kind == VALUE_LIST && new->kind == VALUE_LIST) {
        for (struct value *v = new->first, *next; v; v = next) {
            next = v->next;
            value_append(old, v);
        }
    } else if (old->kind != VALUE_LIST && new->kind != VALUE_LIST) {
        u64 a = strlen(old->text), b = strlen(new->text);
        char *text = text_new(l->r, a + b);
        if (!text)
            return false;
        memcpy(text, old->text, a);
        memcpy(text + a, new->text, b);
        old->text = text;
        old->kind = VALUE_STRING;
    } else {
        return config_fail(l->r, line, "%s: expected += with two lists or two strings", key);
    }
    old->line = line;
    return true;
}

static bool setting_line(struct lexer *l, struct value *all)
{
    u32 line = l->line;
    char *key, what[80];
    if (l->kind != T_KEY)
        return wanted(l, "the name of a setting");
    if (!(key = text_new(l->r, (u64)(l->end - l->from))))
        return false;
    memcpy(key, l->from, (u64)(l->end - l->from));
    if (!advance(l))
        return false;
    bool append = sign(l, '+');
    if (!append && !sign(l, '=')) {
        snprintf(what, sizeof what, "= or += after %s", key);
        return wanted(l, what);
    }
    struct value *v = advance(l) ? value(l, line, 0) : NULL, *old = all->first;
    if (!v)
        return false;
    if (l->kind != T_END && l->kind != T_EOF)
        return wanted(l, "a new line or ; after a setting");
    while (old && strcmp(old->key, key))
        old = old->next;
    if (append && old)
        return joined(l, old, v, line, key);
    v->key = key;
    if (old) {
        v->next = old->next;
        *old = *v;
    } else {
        value_append(all, v);
    }
    return true;
}

static bool syntax(struct reader *r, u32 *last_line)
{
    struct lexer l = {.r = r};
    if (!(r->root = value_new(r, VALUE_OBJECT, 1)) || !advance(&l))
        return false;
    while (l.kind != T_EOF)
        if (!(l.kind == T_END ? advance(&l) : setting_line(&l, r->root)))
            return false;
    *last_line = l.line;
    return true;
}

static bool uuid(const char *text, u8 *to)
{
    u32 n = 0;
    if (!strncmp(text, "urn:", 4))
        text += 4;
    if (!strncmp(text, "uuid:", 5))
        text += 5;
    u64 size = strlen(text);
    while (*text == '{' || *text == '}')
        text++, size--;
    while (size && (text[size - 1] == '{' || text[size - 1] == '}'))
        size--;
    for (u64 i = 0; i < size; i++) {
        u32 digit;
        if (text[i] == '-')
            continue;
        if (n == 32 || !digits(text + i, 1, 16, &digit))
            return false;
        to[n / 2] = (u8)(n % 2 ? to[n / 2] | digit : digit << 4);
        n++;
    }
    return n == 32;
}

static bool actions(const struct settings *s, struct config *c)
{
    static const char *const keys[ON_COUNT] = {"on_poweroff", "on_reboot", "on_crash", "on_watchdog"};
    static const struct { const char *word; u8 action; } words[] = {
        {"destroy", ACTION_destroy}, {"restart", ACTION_restart}, {"preserve", ACTION_preserve}, {"coredump-destroy", ACTION_destroy},
        {"coredump-restart", ACTION_restart}};
    for (u32 how = 0; how < ON_COUNT; how++) {
        const char *word = setting_text(s, keys[how], "a string");
        u32 i = 0;
        c->on[how] = how == ON_reboot ? ACTION_restart : ACTION_destroy;
        if (!word)
            continue;
        while (i < COUNT(words) && strcmp(words[i].word, word))
            i++;
        if (i == COUNT(words))
            return setting_error(s, keys[how], NULL, "destroy, restart or preserve");
        c->on[how] = words[i].action;
    }
    return !s->r->failed;
}

static bool devices(const struct settings *s, struct config *c)
{
    struct reader *r = s->r;
    static const char *const kinds[] = {"disk", "vif"};
    for (u32 kind = 0; kind < 2; kind++) {
        u32 *n = kind ? &c->nvifs : &c->nvbds, most = kind ? CONFIG_VIFS : CONFIG_VBDS;
        const char *what = kind ? "a list of strings like 'mac=00:16:3e:00:00:01'" : "a list of strings like '/path/to/image,raw,xvda,rw'";
        for (const struct value *v = setting_list(s, kinds[kind], what); v; v = v->next) {
            const char *error;
            u32 devid, before = 0;
            if (v->kind > VALUE_NUMBER)
                return setting_error(s, kinds[kind], v, "a string in the list");
            if (*n == most)
                return setting_error(s, kinds[kind], v, expected(r, "at most %u of them", most));
            error = kind ? parse_vif(r, v->text, *n, &c->vifs[*n]) : parse_disk(r, v->text, &c->vbds[*n]);
            devid = kind ? c->vifs[*n].devid : c->vbds[*n].devid;
            while (!error && before < *n && (kind ? c->vifs[before].devid : c->vbds[before].devid) != devid)
                before++;
            if (!error && before < *n)
                error = "a number of its own";
            if (error)
                return config_fail(r, v->line, "%s \"%s\": expected %s", kinds[kind], v->text, error);
            (*n)++;
        }
    }
    return !r->failed;
}

static bool cmdline(const struct settings *s, struct config *c)
{
    const char *all = setting_text(s, "cmdline", "a string"), *root = setting_text(s, "root", "a string"),
               *extra = setting_text(s, "extra", "a string");
    if (s->r->failed)
        return false;
    if (all)
        return setting_copy(s, "cmdline", c->cmdline, sizeof c->cmdline, all);
    root = root && *root ? root : NULL;
    extra = extra && *extra ? extra : NULL;
    if (!root && !extra)
        return true;
    return setting_copy(s, extra ? "extra" : "root", c->cmdline, sizeof c->cmdline,
                        expected(s->r, "%s%s%s%s", root ? "root=" : "", root ? root : "", root && extra ? " " : "", extra ? extra : ""));
}

static bool printable(const char *text)
{
    for (; *text; text++)
        if ((u8)*text < ' ' || *text == 0x7f || *text == '/')
            return false;
    return true;
}

bool config_read_xl(struct reader *r, struct config *c)
{
    static const char *const pv[] = {"pv", "pvh", "hvm", NULL};
    struct settings s = {.r = r, .prefix = ""};
    u64 n;
    if (!syntax(r, &s.last_line))
        return false;
    s.object = r->root;
    const char *type = setting_choice(&s, "type", pv), *builder;
    if (type && strcmp(type, "pv"))
        return setting_error(&s, "type", NULL, "\"pv\": this host has no other guests");
    if (!r->failed && (builder = setting_text(&s, "builder", "a string")) && strcmp(builder, "generic") && strcmp(builder, "linux"))
        return setting_error(&s, "builder", NULL, "\"generic\": this host has PV guests only");
    const char *name = setting_text(&s, "name", "name = \"NAME\"");
    if (!name || !*name || !printable(name))
        return setting_error(&s, "name", NULL, "name = \"NAME\", without a slash");
    const char *kernel = setting_text(&s, "kernel", "kernel = \"FILE\"");
    if (!kernel || !*kernel)
        return setting_error(&s, "kernel", NULL, "kernel = \"FILE\": this host starts kernels, not boot loaders");
    setting_copy(&s, "name", c->name, sizeof c->name, name);
    setting_copy(&s, "kernel", c->kernel, sizeof c->kernel, kernel);
    bool memory = setting_number(&s, "memory", 1, 1 << 24, " of MiB", &n);
    c->memory_kib = memory ? n << 10 : 0;
    bool maxmem = setting_number(&s, "maxmem", 1, 1 << 24, " of MiB", &n);
    c->maxmem_kib = maxmem ? n << 10 : 0;
    if (memory && maxmem && c->maxmem_kib < c->memory_kib)
        return setting_error(&s, "maxmem", NULL, expected(r, "at least the %lu of memory", c->memory_kib >> 10));
    c->memory_kib = memory ? c->memory_kib : maxmem ? c->maxmem_kib : 32 << 10;
    c->maxmem_kib = maxmem ? c->maxmem_kib : c->memory_kib;
    c->vcpus = setting_number(&s, "vcpus", 1, 128, "", &n) ? (u32)n : 0;
    c->maxvcpus = setting_number(&s, "maxvcpus", 1, 128, "", &n) ? (u32)n : 0;
    if (c->maxvcpus && c->maxvcpus < c->vcpus)
        return setting_error(&s, "maxvcpus", NULL, expected(r, "at least the %u of vcpus", c->vcpus));
    c->vcpus = c->vcpus ? c->vcpus : c->maxvcpus ? c->maxvcpus : 1;
    c->maxvcpus = c->maxvcpus ? c->maxvcpus : c->vcpus;
    setting_copy(&s, "ramdisk", c->ramdisk, sizeof c->ramdisk, setting_text(&s, "ramdisk", "a string"));
    if (!cmdline(&s, c) && r->failed)
        return false;
    const char *id = setting_text(&s, "uuid", "a string");
    c->has_uuid = id && uuid(id, c->uuid);
    if (id && !c->has_uuid)
        return setting_error(&s, "uuid", NULL, "a UUID like 7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10");
    return actions(&s, c) && devices(&s, c);
}
