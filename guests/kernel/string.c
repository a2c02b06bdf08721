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

/* As many instructions wherever the string lies: else a text more in one design would change what all the others take. So byte by byte:
 * whole words may only be read at their own places, and `repne scasb` takes an emulator longer than all of this. */
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
