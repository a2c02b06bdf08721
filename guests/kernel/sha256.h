/* SHA-256 (FIPS 180-4). */
#pragma once
#include "types.h"

struct sha256 { u32 state[8]; u64 bytes; u8 block[64]; };
void sha256_begin(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, u64 n);
void sha256_end(struct sha256 *s, char hex[65]);
