/* Memory and string functions: the compiler calls the first four by itself. */
#include "kernel.h"

void *memset(void *to, int byte, u64 n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, u64 n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

int memcmp(const void *a, const void *b, u64 n)
{
    for (const u8 *x = a, *y = b; n--; x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

u64 strlen(const char *s)
{
    u64 n = 0;
    while (s[n])
        n++;
    return n;
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
