/* Front ends that break the rules: see bad_disk.c and bad_net.c. Each says after every breach how the back end took it. */
#pragma once
#include "blkexercise.h"
#include "net.h"

enum { UNGRANTED = 511, NO_PORT = 1000 }; /* a reference that is never granted here; a port that is never open */
void bad_disk(void);
void bad_net(void);
bool bad_check(const char *what, const char *end, bool good);
extern u32 bad_failures;
