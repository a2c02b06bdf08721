/* Memory and string functions: the compiler calls the first four by itself. */
#include "kernel.h"

void *memset(void *to, int byte, u64 n)
{
    void *start = to; /* eight bytes an iteration: iterations are what takes time */
    u64 words = n / 8, rest = n % 8, value = (u8)byte * 0x0101010101010101UL;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(value) : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(rest) : "a"(value) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, u64 n)
{
    void *start = to;
    u64 words = n / 8, rest = n % 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
    return start;
}

int memcmp(const void *a, const void *b, u64 n)
{
    const u8 *x = a, *y = b;
    for (; n >= 8 && *(const u64 *)x == *(const u64 *)y; n -= 8)
        x += 8, y += 8;
    for (; n--; x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

u64 strlen(const char *s)
{
    const char *p = s;
    for (; (u64)p % 8; p++)
        if (!*p)
            return (u64)(p - s);
    const u64 *words = (const u64 *)p; /* a word does not reach into another page */
    u64 zero;
    while (!(zero = (*words - 0x0101010101010101UL) & ~*words & 0x8080808080808080UL))
        words++;
    return (u64)((const char *)words - s) + (u64)__builtin_ctzl(zero) / 8;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

int strncmp(const char *a, const char *b, u64 n)
{
    while (n && *a && *a == *b)
        a++, b++, n--;
    return n ? (u8)*a - (u8)*b : 0;
}
