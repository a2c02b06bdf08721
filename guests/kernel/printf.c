/* Formatted output: %d %u %x %lx %ld %lu %s %c %p %%, with width and zero padding. */
#include "kernel.h"

struct out { char *to; u64 used, size; };

static void put(struct out *o, char c)
{
    if (o->used + 1 < o->size)
        o->to[o->used] = c;
    o->used++;
}

static void number(struct out *o, u64 value, u32 base, bool negative, u32 width, char pad)
{
    char digits[24];
    u32 n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    if (negative)
        digits[n++] = '-';
    for (u32 i = n; i < width; i++)
        put(o, pad);
    while (n)
        put(o, digits[--n]);
}

int vsnprintf(char *to, u64 size, const char *f, va_list args)
{
    struct out o = {to, 0, size};
    for (; *f; f++) {
        if (*f != '%') {
            put(&o, *f);
            continue;
        }
        char pad = ' ';
        u32 width = 0;
        bool left = false, wide = false;
        for (f++; *f == '-' || *f == '0'; f++)
            *f == '-' ? (left = true) : (pad = '0');
        for (; *f >= '0' && *f <= '9'; f++)
            width = width * 10 + (u32)(*f - '0');
        for (; *f == 'l'; f++)
            wide = true;
        if (*f == 'd') {
            s64 v = wide ? __builtin_va_arg(args, s64) : __builtin_va_arg(args, int);
            number(&o, v < 0 ? -(u64)v : (u64)v, 10, v < 0, width, pad);
        } else if (*f == 'u' || *f == 'x') {
            u64 v = wide ? __builtin_va_arg(args, u64) : __builtin_va_arg(args, u32);
            number(&o, v, *f == 'x' ? 16 : 10, false, width, pad);
        } else if (*f == 'p') {
            number(&o, __builtin_va_arg(args, u64), 16, false, 0, ' ');
        } else if (*f == 's') {
            const char *s = __builtin_va_arg(args, const char *);
            u64 n = strlen(s);
            for (u64 i = n; !left && i < width; i++)
                put(&o, ' ');
            while (*s)
                put(&o, *s++);
            for (u64 i = n; left && i < width; i++)
                put(&o, ' ');
        } else if (*f == 'c') {
            put(&o, (char)__builtin_va_arg(args, int));
        } else {
            put(&o, *f);
        }
    }
    if (size)
        o.to[o.used < size ? o.used : size - 1] = 0;
    return (int)o.used;
}

int snprintf(char *to, u64 size, const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    int n = vsnprintf(to, size, format, args);
    __builtin_va_end(args);
    return n;
}

/* One call, one console write: lines stay whole whoever else writes to the console. */
int printf(const char *format, ...)
{
    char line[512];
    va_list args;
    __builtin_va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    __builtin_va_end(args);
    console_write(line, (u64)n < sizeof line ? (u64)n : sizeof line - 1);
    return n;
}
