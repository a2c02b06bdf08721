/* Building a PV domain: what libxc's xc_dom_* does, cut where the split toolstack cuts it.
 *
 *   dom_memory    needs the size only: address size, the memory itself                  (can be done for a shell, before any request)
 *   dom_kernel    parse the image, put everything in its place, load it                 (needs the image)
 *   dom_boot      p2m list, page tables, start_info, rings, grants, the first registers (the domain may then be unpaused)
 *
 * All three return 0 or a negative errno and say on failure what failed in d->error. dom_free gives back what dom0 holds, never the domain.
 */
#pragma once
#include "elf.h"
#include "xc.h"

struct span { u64 start, pages, pfn, tables; }; /* pages mapped in a row: address, how many, first frame, first page table */

struct dom {
    u32 domid, vcpus, store_domid, console_domid;
    u64 pages;
    u64 *p2m;                                  /* pfn to mfn, `pages` entries */
    u32 store_port, console_port;              /* of the guest; 0: it has none */
    u64 store_pfn, console_pfn, store_mfn, console_mfn;
    const u8 *kernel, *ramdisk; u64 kernel_size, ramdisk_size; /* files; stay the caller's */
    const char *cmdline;
    u32 flags;                                 /* SIF_... of start_info */
    u64 shared_info_frame;
    struct image image;
    u64 module_pfn, module_start, p2m_va, p2m_pfn, start_info_pfn, tables_pfn, ntables, stack_pfn, needed; /* the layout, in pages */
    struct span boot, outer;                   /* the initial mapping; that of a p2m list outside of it (no pages: there is none) */
    char error[96];
};
int dom_memory(struct dom *d);
int dom_kernel(struct dom *d);
int dom_boot(struct dom *d);
void dom_free(struct dom *d);
