/* Memory: pfn and mfn, the free pages, the page tables. The tables stay read-only to us and are changed through Xen. */
#include "kernel.h"

static const u64 *p2m;
static u64 *top;         /* the L4, as mapped read-only */
/* Runs of free pages, written into the first one only: a page that is never used is never touched. */
static struct run { struct run *next; u64 pages; } *free_runs;
static u64 free_count;
static u64 mapped_end; /* the first pfn that is not mapped at its own address */
static u32 area_next[MAP_AREA_PAGES]; /* single pages given back: a chain of index + 1 */
static u32 area_free, area_fresh;     /* the chain; pages from area_fresh on were never used */
u64 first_mapping_end; /* the pfn at which Xen's own mapping ended, for abicheck */
#define JUNK 0xa5

u64 pfn_to_mfn(u64 pfn) { return p2m[pfn]; }
u64 mfn_to_pfn(u64 mfn) { return ((const u64 *)M2P_TABLE)[mfn]; }
u64 va_to_mfn(const void *va) { return p2m[(u64)va >> PAGE_SHIFT]; }
u64 va_to_machine(const void *va) { return va_to_mfn(va) << PAGE_SHIFT | ((u64)va & (PAGE_SIZE - 1)); }
u64 pages_free(void) { return free_count; }

static void run_add(void *first, u64 pages)
{
    struct run *run = first;
    run->next = free_runs;
    run->pages = pages;
    free_runs = run;
    free_count += pages;
}

void *page_try(void)
{
    static bool growing;
    if (free_count <= 1 && !growing) { /* the last one becomes the table for more */
        growing = true;
        u64 pfn = free_count ? mm_extend() : 0;
        if (pfn)
            run_add((void *)(pfn << PAGE_SHIFT), mapped_end - pfn);
        growing = false;
    }
    struct run *run = free_runs;
    if (!run)
        return NULL;
    if (!--run->pages)
        free_runs = run->next;
    free_count--;
    return memset((char *)run + run->pages * PAGE_SIZE, 0, PAGE_SIZE);
}

void *page_alloc(void)
{
    void *page = page_try();
    if (!page)
        panic("out of memory");
    return page;
}

void page_free(void *page)
{
    memset(page, JUNK, PAGE_SIZE);
    run_add(page, 1);
}

u64 *pte_slot(u64 va, int level)
{
    u64 *table = top;
    for (int l = 4;; l--) {
        u64 *slot = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (l == level)
            return slot;
        if (!(*slot & PTE_P) || *slot & PTE_PS)
            return NULL;
        table = (u64 *)(mfn_to_pfn(PTE_MFN(*slot)) << PAGE_SHIFT);
    }
}

u64 pte_read(u64 va)
{
    u64 *slot = pte_slot(va, 1);
    return slot ? *slot : 0;
}

int protect(const void *page, u64 flags)
{
    return (int)hypercall_update_va_mapping((u64)page, va_to_mfn(page) << PAGE_SHIFT | flags, UVMF_INVLPG);
}

/* Hang a full table under the entry that covers va at `level`. */
static int hang(u64 va, int level, void *table)
{
    struct mmu_update u = {va_to_machine(pte_slot(va, level)), va_to_mfn(table) << PAGE_SHIFT | PTE_LEAF};
    int rc = protect(table, PTE_P | PTE_U);
    return rc ? rc : (int)hypercall_mmu_update(&u, 1, NULL, DOMID_SELF);
}

int map_tables(u64 va)
{
    for (int level = 4; level > 1; level--) {
        if (*pte_slot(va, level) & PTE_P)
            continue;
        void *table = page_try();
        int rc = table ? hang(va, level, table) : -ENOMEM;
        if (rc)
            return rc;
    }
    return 0;
}

int map_frame(u64 va, u64 mfn, u64 flags)
{
    int rc = map_tables(va);
    return rc ? rc : (int)hypercall_update_va_mapping(va, mfn << PAGE_SHIFT | flags, UVMF_INVLPG);
}

int unmap(u64 va)
{
    return (int)hypercall_update_va_mapping(va, 0, UVMF_INVLPG);
}

/* With no mapping left beneath them: take the tables over va out and free them. Negative errno of the first refusal. */
int drop_tables(u64 va)
{
    for (int level = 2; level <= 4; level++) {
        u64 *slot = pte_slot(va, level);
        void *table = (void *)(mfn_to_pfn(PTE_MFN(*slot)) << PAGE_SHIFT);
        struct mmu_update u = {va_to_machine(slot), 0};
        int rc = (int)hypercall_mmu_update(&u, 1, NULL, DOMID_SELF);
        if (rc || (rc = protect(table, PTE_DATA)))
            return rc;
        page_free(table);
    }
    return 0;
}

/* Whatever is mapped by grant at n fresh pages in a row finds its tables. */
static void *area_take(u64 n)
{
    u64 first = MAP_AREA + area_fresh * PAGE_SIZE, end = first + n * PAGE_SIZE;
    if (area_fresh + n > MAP_AREA_PAGES)
        return NULL;
    for (u64 va = first; va < end; va = (va | 0x1fffff) + 1)
        if (map_tables(va))
            return NULL;
    area_fresh += (u32)n;
    return (void *)first;
}

void *area_reserve_run(u64 n)
{
    void *run = area_take(n);
    if (!run)
        panic("MAP_AREA is full, or there is no memory for its tables");
    return run;
}

void *area_try(void)
{
    if (!area_free)
        return area_take(1);
    u64 va = MAP_AREA + (area_free - 1) * PAGE_SIZE;
    area_free = area_next[area_free - 1];
    return (void *)va;
}

void *area_reserve(void)
{
    return area_free ? area_try() : area_reserve_run(1);
}

void area_release(void *page)
{
    u64 i = ((u64)page - MAP_AREA) / PAGE_SIZE;
    area_next[i] = area_free;
    area_free = (u32)i + 1;
}

void *map_area_flags(u64 mfn, u64 flags)
{
    void *page = area_reserve();
    if (map_frame((u64)page, mfn, flags))
        panic("cannot map machine frame %lx", mfn);
    return page;
}

void *map_area(u64 mfn)
{
    return map_area_flags(mfn, PTE_DATA);
}

u64 mm_end(void) { return mapped_end; }

static void no_code(u64 va, u64 end)
{
    for (; va < end; va += PAGE_SIZE) {
        u64 pte = pte_read(va);
        if (pte & PTE_W && hypercall_update_va_mapping(va, PTE_MFN(pte) << PAGE_SHIFT | PTE_DATA, UVMF_INVLPG))
            panic("cannot map page %lx as data", va >> PAGE_SHIFT);
    }
}

/* All that Xen's builder maps can be executed. */
void mm_data_is_no_code(void)
{
    no_code((u64)data_start, (u64)_end);
    no_code((start_info->pt_base & ~(PAGE_SIZE - 1)) + (start_info->nr_pt_frames << PAGE_SHIFT), first_mapping_end << PAGE_SHIFT);
}

u64 mm_extend(void)
{
    if (mapped_end == start_info->nr_pages)
        return 0;
    u64 *table = page_try(); /* which may itself have called this */
    u64 first = mapped_end, n = start_info->nr_pages - first;
    if (n > 512 - first % 512)
        n = 512 - first % 512;
    if (table && !n)
        page_free(table);
    if (!table || !n)
        return 0;
    for (u64 i = 0; i < n; i++)
        table[i] = pfn_to_mfn(first + i) << PAGE_SHIFT | PTE_DATA;
    if (first % 512 || hang(first << PAGE_SHIFT, 2, table))
        panic("cannot map page %lx", first);
    mapped_end += n;
    return first;
}

/* Xen maps a little more than the image. Take what is free there, then map the rest of MEMORY_PAGES 2 MiB at a time. */
void mm_init(void)
{
    p2m = (const u64 *)start_info->mfn_list;
    top = (u64 *)start_info->pt_base;
    u64 pfn = (start_info->pt_base >> PAGE_SHIFT) + start_info->nr_pt_frames;
    if (pfn <= boot_regs.rsp >> PAGE_SHIFT)
        pfn = (boot_regs.rsp >> PAGE_SHIFT) + 1; /* the boot stack comes after the tables; rsp may be its very end */
    u64 first = pfn, pages = pfn + MEMORY_PAGES; /* in a large domain the p2m list alone is larger than that */
    for (; pfn < start_info->nr_pages && pte_slot(pfn << PAGE_SHIFT, 1) && pte_read(pfn << PAGE_SHIFT) & PTE_P; pfn++)
        ;
    if (pfn > first)
        run_add((void *)(first << PAGE_SHIFT), (pfn < pages ? pfn : pages) - first);
    first_mapping_end = mapped_end = pfn;
    while (mapped_end < pages && (pfn = mm_extend()))
        run_add((void *)(pfn << PAGE_SHIFT), mapped_end - pfn);
    unmap(0);
}
