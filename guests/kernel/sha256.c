/* SHA-256 (FIPS 180-4). The constants are computed, as the standard defines them: the first 32 bits of the fractions of the square
 * and cube roots of the first primes. */
#include "kernel.h"
#include "sha256.h"

static u32 start[8], rounds[64];

/* The first 32 bits of the fraction of p^(1/power): those of the largest x with x^power <= p * 2^(32 * power). */
static u32 root_fraction(u32 p, u32 power)
{
    u64 x = 0;
    for (u64 bit = 1UL << 36; bit; bit >>= 1) {
        u64 y = x | bit;
        unsigned __int128 z = (unsigned __int128)y * y;
        if (power == 3)
            z *= y;
        if (z <= (unsigned __int128)p << 32 * power)
            x = y;
    }
    return (u32)x;
}

static void prepare(void)
{
    for (u32 n = 0, p = 2; n < 64; p++) {
        bool prime = true;
        for (u32 q = 2; q * q <= p; q++)
            prime &= p % q != 0;
        if (!prime)
            continue;
        if (n < 8)
            start[n] = root_fraction(p, 2);
        rounds[n++] = root_fraction(p, 3);
    }
}

static u32 turn(u32 x, u32 n) { return x >> n | x << (32 - n); }

static void digest(u32 *state, const u8 *block)
{
    u32 w[64], v[8];
    for (u32 i = 0; i < 16; i++)
        w[i] = __builtin_bswap32(((const u32 *)block)[i]);
    for (u32 i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    for (u32 i = 0; i < 8; i++)
        v[i] = state[i];
    for (u32 i = 0; i < 64; i++) {
        u32 one = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + rounds[i] + w[i];
        u32 two = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        for (u32 j = 7; j > 0; j--)
            v[j] = v[j - 1];
        v[4] += one;
        v[0] = one + two;
    }
    for (u32 i = 0; i < 8; i++)
        state[i] += v[i];
}

void sha256_begin(struct sha256 *s)
{
    if (!rounds[0])
        prepare();
    memcpy(s->state, start, sizeof start);
    s->bytes = 0;
}

void sha256_add(struct sha256 *s, const void *data, u64 n)
{
    for (const u8 *p = data; n;) {
        u64 at = s->bytes % 64, part = n < 64 - at ? n : 64 - at;
        memcpy(s->block + at, p, part);
        s->bytes += part;
        p += part;
        n -= part;
        if (s->bytes % 64 == 0)
            digest(s->state, s->block);
    }
}

void sha256_end(struct sha256 *s, char hex[65])
{
    u64 bits = __builtin_bswap64(s->bytes * 8);
    sha256_add(s, "\x80", 1);
    while (s->bytes % 64 != 56)
        sha256_add(s, "", 1);
    sha256_add(s, &bits, 8);
    for (u32 i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", s->state[i]);
}
