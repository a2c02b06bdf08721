/* The file area. The format is that of an initrd: cpio's "newc" (cpio(5)): a header of 110 bytes with hexadecimal fields,
 * the name, the data, each padded to 4 bytes, up to an entry TRAILER!!!.
 */
#include "files.h"

enum { HEADER = 110, HASH = 4096, FIELD_SIZE = 6, FIELD_NAME = 11, FIELD_MODE = 1 };
static struct file *files;
static u32 count, room, first[HASH]; /* the first file of a hash chain, by index + 1 */
static u32 *next;                    /* the rest of the chains */

static const char *plain(const char *path)
{
    while (*path == '/' || (path[0] == '.' && path[1] == '/'))
        path++;
    return path;
}

static u32 place(const char *path)
{
    u32 hash = 2166136261U; /* FNV-1a */
    for (path = plain(path); *path; path++)
        hash = (hash ^ (u8)*path) * 16777619U;
    return hash % HASH;
}

static bool add(struct file file)
{
    if (count == room) {
        u32 more = room * 2 + 64;
        struct file *f = memory_take(more * sizeof *f);
        u32 *n = memory_take(more * sizeof *n);
        if (!f || !n) {
            memory_release(f);
            memory_release(n);
            return false;
        }
        memcpy(f, files, count * sizeof *f);
        memcpy(n, next, count * sizeof *n);
        memory_release(files);
        memory_release(next);
        files = f;
        next = n;
        room = more;
    }
    u32 at = place(file.path);
    next[count] = first[at];
    files[count++] = file;
    first[at] = count;
    return true;
}

static u64 field(const char *header, u32 n)
{
    u64 value = 0;
    for (const char *p = header + 6 + 8 * n, *end = p + 8; p < end; p++) {
        u32 c = (u32)(u8)*p | 0x20;
        value = value * 16 + (c >= 'a' ? c - 'a' + 10 : c - '0');
    }
    return value;
}

static u64 padded(u64 n)
{
    return (n + 3) & ~3UL;
}

void files_init(void)
{
    const char *at = (const char *)start_info->mod_start, *end = at + start_info->mod_len;
    if (start_info->flags & SIF_MOD_START_PFN)
        panic("the module is outside of the mapping");
    while (start_info->mod_len) {
        if (at + HEADER > end || memcmp(at, "070701", 6)) {
            printf("error: the module is no cpio archive (newc), or is cut off\n");
            return;
        }
        u64 name_size = field(at, FIELD_NAME), size = field(at, FIELD_SIZE);
        const char *name = at + HEADER, *data = at + padded(HEADER + name_size);
        if (name_size == 0 || name_size > 4096 || size > (u64)(end - at) || data + size > end || name[name_size - 1]) {
            printf("error: the module is cut off in an entry's middle\n");
            return;
        }
        if (!strcmp(name, "TRAILER!!!"))
            return;
        bool regular = (field(at, FIELD_MODE) & 0170000) == 0100000;
        if (regular && !add((struct file){name, (const u8 *)data, size, (field(at, FIELD_MODE) & 0200) != 0})) {
            printf("error: dom0 has no memory left for the list of files: those from %s on are not there\n", name);
            return;
        }
        at = data + padded(size);
    }
}

const struct file *file_nth(u32 n)
{
    return n < count ? &files[n] : NULL;
}

const struct file *file_find(const char *path)
{
    for (u32 i = first[place(path)]; i; i = next[i - 1])
        if (!strcmp(plain(files[i - 1].path), plain(path)))
            return &files[i - 1];
    return NULL;
}
