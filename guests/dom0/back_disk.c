/* Files of the file area as disks. They are in dom0's memory: what is written is there at once, and gone with dom0. */
#include "back.h"
#include "files.h"
#include "sha256.h"
#include "shell.h"

enum { WRITER = -1 };
static s32 *users; /* by the file's number: how many read it, or WRITER */

u32 disk_number(const struct file *file)
{
    return (u32)(file - file_nth(0));
}

int disk_open(const struct file *file, bool writes)
{
    u32 n = 0;
    while (!users && file_nth(n))
        n++;
    if (!users && !(users = memory_take(n * sizeof *users)))
        return -ENOMEM;
    s32 *u = &users[disk_number(file)];
    if (writes && !file->writable)
        return -EACCES;
    if (*u == WRITER || (writes && *u))
        return -EBUSY;
    *u = writes ? WRITER : *u + 1;
    return 0;
}

void disk_close(const struct file *file, bool writes)
{
    s32 *u = &users[disk_number(file)];
    *u = writes ? 0 : *u - 1;
}

static int hash(u32 n, char **words)
{
    const struct file *file = file_find(words[1]);
    struct sha256 s;
    char hex[65];
    (void)n;
    if (!file)
        return failure(-ENOENT, "no file %s", words[1]);
    sha256_begin(&s);
    sha256_add(&s, file->data, file->size);
    sha256_end(&s, hex);
    printf("%s %s\n", hex, file->path);
    return 0;
}
COMMAND(hash, "FILE", "SHA-256 of a file as it is now", 1, 1, hash);
