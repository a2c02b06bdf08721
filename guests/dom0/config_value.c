/* Values of a configuration file, and reading settings as what they should be. */
#include "config_value.h"

static u8 arena[CONFIG_ARENA] aligned(16);

bool config_fail(struct reader *r, u32 line, const char *format, ...)
{
    if (r->failed)
        return false;
    va_list args;
    __builtin_va_start(args, format);
    int n = snprintf(r->error, r->error_size, "%s:%u: ", r->path, line);
    if ((u32)n < r->error_size)
        vsnprintf(r->error + n, r->error_size - (u32)n, format, args);
    __builtin_va_end(args);
    r->failed = true;
    return false;
}

static void *take(struct reader *r, u64 n)
{
    n = (n + 15) & ~15UL;
    if (n > sizeof arena - r->used) {
        config_fail(r, r->line, "expected a smaller configuration");
        return NULL;
    }
    r->used += n;
    return arena + r->used - n;
}

struct value *value_new(struct reader *r, u32 kind, u32 line)
{
    struct value *v = take(r, sizeof *v);
    if (v)
        *v = (struct value){.kind = (u8)kind, .line = line};
    return v;
}

char *text_new(struct reader *r, u64 n)
{
    char *text = take(r, n + 1);
    if (text)
        text[n] = 0;
    return text;
}

void value_append(struct value *to, struct value *v)
{
    v->next = NULL;
    if (to->last)
        to->last->next = v;
    else
        to->first = v;
    to->last = v;
}

const char *expected(struct reader *r, const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    char *text = text_new(r, 600);
    if (text)
        vsnprintf(text, 600, format, args);
    __builtin_va_end(args);
    return text ? text : "a smaller configuration";
}

const char *shown_char(struct reader *r, const char *at)
{
    u8 c = (u8)*at;
    u32 n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (c == '\n' || c == '\r' || c == '\t')
        return c == '\n' ? "'\\n'" : c == '\r' ? "'\\r'" : "'\\t'";
    if (c < ' ' || c == 0x7f)
        return expected(r, "'\\x%02x'", c);
    if (c == '\'')
        return "\"'\"";
    if (c == '\\')
        return "'\\\\'";
    char text[8] = {0};
    memcpy(text, at, n <= (u64)(r->end - at) ? n : (u64)(r->end - at));
    return expected(r, "'%s'", text);
}

bool utf8_put(char **to, u32 code)
{
    char *p = *to;
    if (code < 0x80) {
        *p++ = (char)code;
    } else if (code < 0x800) {
        *p++ = (char)(0xc0 | code >> 6);
        *p++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *p++ = (char)(0xe0 | code >> 12);
        *p++ = (char)(0x80 | (code >> 6 & 0x3f));
        *p++ = (char)(0x80 | (code & 0x3f));
    } else {
        *p++ = (char)(0xf0 | code >> 18);
        *p++ = (char)(0x80 | (code >> 12 & 0x3f));
        *p++ = (char)(0x80 | (code >> 6 & 0x3f));
        *p++ = (char)(0x80 | (code & 0x3f));
    }
    *to = p;
    return code != 0;
}

static const char *describe(struct reader *r, const struct value *v)
{
    static const char *const words[] = {[VALUE_TRUE] = "true", [VALUE_FALSE] = "false", [VALUE_NULL] = "null", [VALUE_LIST] = "a list",
                                        [VALUE_OBJECT] = "an object"};
    if (v->kind != VALUE_STRING)
        return v->kind == VALUE_NUMBER || v->kind == VALUE_FLOAT ? v->text : words[v->kind];
    if (strlen(v->text) <= 40)
        return expected(r, "\"%s\"", v->text);
    char start[38];
    snprintf(start, sizeof start, "%s", v->text);
    return expected(r, "\"%s...\"", start);
}

static struct value *member(const struct settings *s, const char *key)
{
    struct value *v = s->object->first;
    while (v && strcmp(v->key, key))
        v = v->next;
    return v;
}

struct value *setting(const struct settings *s, const char *key)
{
    struct value *v = member(s, key);
    return v && v->kind != VALUE_NULL ? v : NULL;
}

bool setting_error(const struct settings *s, const char *key, const struct value *v, const char *what)
{
    if (!v)
        v = member(s, key);
    if (!v)
        return config_fail(s->r, s->last_line, "%s%s is missing: expected %s", s->prefix, key, what);
    return config_fail(s->r, v->line, "%s%s: expected %s, not %s", s->prefix, key, what, describe(s->r, v));
}

const char *setting_text(const struct settings *s, const char *key, const char *what)
{
    const struct value *v = setting(s, key);
    if (!v)
        return NULL;
    if (v->kind <= VALUE_FLOAT)
        return v->text;
    setting_error(s, key, v, what);
    return NULL;
}

bool setting_copy(const struct settings *s, const char *key, char *to, u32 size, const char *text)
{
    if (!text)
        return false;
    if (strlen(text) >= size)
        return setting_error(s, key, NULL, expected(s->r, "at most %u bytes", size - 1));
    snprintf(to, size, "%s", text);
    return true;
}

static bool digits(const char *p, u32 base, u64 *value)
{
    *value = 0;
    for (; *p; p++) {
        char c = *p | 0x20;
        u32 digit = *p >= '0' && *p <= '9' ? (u32)(*p - '0') : base == 16 && c >= 'a' && c <= 'f' ? (u32)(c - 'a') + 10 : 99;
        if (digit >= base)
            return false;
        *value = *value > ~0UL >> 5 ? *value : *value * base + digit; /* what is too large stays too large */
    }
    return true;
}

bool to_number(const char *text, u64 *value)
{
    if (text[0] == '0' && (text[1] | 0x20) == 'x')
        return text[2] && digits(text + 2, 16, value);
    return text[0] && digits(text, text[0] == '0' ? 8 : 10, value);
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool setting_number(const struct settings *s, const char *key, u64 low, u64 high, const char *unit, u64 *value)
{
    const struct value *v = setting(s, key);
    char plain[32];
    u32 n = 0;
    if (!v)
        return false;
    if (v->kind <= VALUE_NUMBER) {
        const char *p = v->text, *end = p + strlen(p);
        while (blank(*p))
            p++;
        while (end > p && blank(end[-1]))
            end--;
        for (; p < end && n < sizeof plain - 1; p++)
            plain[n++] = *p;
        plain[n] = 0;
        if (p == end && to_number(plain, value) && *value >= low && *value <= high)
            return true;
    }
    return setting_error(s, key, v, expected(s->r, "a whole number%s from %lu to %lu", unit, low, high));
}

bool setting_flag(const struct settings *s, const char *key)
{
    const struct value *v = setting(s, key);
    u64 number;
    if (!v || v->kind == VALUE_FALSE)
        return false;
    if (v->kind == VALUE_TRUE)
        return true;
    if (v->kind <= VALUE_NUMBER && to_number(v->text[0] == '-' && v->kind == VALUE_NUMBER ? v->text + 1 : v->text, &number))
        return number != 0;
    return setting_error(s, key, v, "0 or 1");
}

const char *setting_choice(const struct settings *s, const char *key, const char *const *words)
{
    const struct value *v = setting(s, key);
    char list[128] = "";
    u32 n = 0;
    if (!v)
        return NULL;
    for (const char *const *w = words; *w; w++) {
        if ((v->kind == VALUE_STRING) && !strcmp(v->text, *w))
            return *w;
        n += (u32)snprintf(list + n, sizeof list - n, "%s\"%s\"", w == words ? "" : w[1] ? ", " : " or ", *w);
    }
    setting_error(s, key, v, list);
    return NULL;
}

struct value *setting_list(const struct settings *s, const char *key, const char *what)
{
    struct value *v = setting(s, key);
    if (v && v->kind != VALUE_LIST) {
        setting_error(s, key, v, what);
        return NULL;
    }
    return v ? v->first : NULL;
}

struct settings setting_object(const struct settings *s, const char *key, struct value *v, const char *prefix)
{
    static struct value nothing = {.kind = VALUE_OBJECT};
    bool fits = v->kind == VALUE_OBJECT;
    if (!fits)
        setting_error(s, key, v, "an object");
    return (struct settings){s->r, fits ? v : &nothing, prefix, v->line};
}
