/* A PV kernel as its ELF file tells of it. */
#pragma once
#include "kernel.h"

struct image {
    u64 virt_base, start, end, entry;  /* virtual addresses */
    u64 hypercall_page, p2m_base;      /* NONE: not asked for */
    bool module_by_pfn;                /* the ramdisk is to be found by its frame number, outside of the mapping */
    u32 nsegments;
    struct { u64 va, size, file_size; const u8 *data; } segments[16];
};
#define NONE (~0UL)

/* 0, or -EINVAL with what is wrong in error. Everything is checked before it is used: the file may be any. */
int elf_parse(const u8 *file, u64 size, struct image *image, char *error, u32 error_size);
