/* The address space of a guest, in one picture.
 *
 *   0x0                    page 0, unmapped at boot, so that a null pointer faults
 *   0x100000               the image: .text .rodata .data .bss          (linked here: kernel.ld)
 *   ...                    p2m list, start_info, store and console page, first page tables, boot stack (Xen's builder)
 *   ... 16 MiB             free pages; virtual address = pfn * 4096 throughout
 *   0x40000000000          MAP_AREA: pages mapped by machine frame (rings, grants, frames of others)
 *   0x50000000000          SCRATCH_AREA: where a test builds and tears down page tables
 *   0x60000000000          USER_AREA: user-mode code and stack (mapped in the user page tables only)
 *   0xffff800000000000     M2P: Xen's table from machine frame to pfn, readable
 *
 * Both kernel and user mode of a PV64 guest run at CPL 3; Xen keeps the modes apart by two page-table bases.
 */
#pragma once

/* A guest that needs more than most says so in a limits.h of its own. */
#if __has_include("../guest/limits.h")
#include "../guest/limits.h"
#endif
#ifndef MEMORY_PAGES
#define MEMORY_PAGES 4096UL /* the guest manages 16 MiB behind its boot stack and leaves the rest alone */
#endif
#ifndef MAP_AREA_PAGES
#define MAP_AREA_PAGES 256UL
#endif
#ifndef EVENT_PORTS
#define EVENT_PORTS 1024U
#endif
#ifndef GRANT_FRAMES
#define GRANT_FRAMES 1U /* of 512 entries each, taken as they are needed */
#endif
#ifndef XENSTORE_EVENTS
#define XENSTORE_EVENTS 32 /* watch events that wait to be taken: there is room for so many, */
#endif
#ifndef XENSTORE_EVENTS_MOST
#define XENSTORE_EVENTS_MOST XENSTORE_EVENTS /* and with memory from the heap for so many */
#endif
#ifndef THREAD_STACK_PAGES
#define THREAD_STACK_PAGES 1UL
#endif

#define KERNEL_BASE 0x100000UL
#define MAP_AREA 0x40000000000UL
#define SCRATCH_AREA 0x50000000000UL
#define USER_AREA 0x60000000000UL
#define M2P_TABLE 0xffff800000000000UL
#define STACK_SIZE 16384
