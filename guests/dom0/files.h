/* The file area: the module dom0 was started with, a cpio archive ("newc", as of an initrd). Files are read in place. */
#pragma once
#include "kernel.h"

struct file { const char *path; const u8 *data; u64 size; bool writable; };
void files_init(void);
const struct file *file_find(const char *path); /* NULL: none; a leading / is the same path */
const struct file *file_nth(u32 n);             /* NULL after the last */
