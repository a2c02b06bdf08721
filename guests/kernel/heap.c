/* Memory in pieces of any size: runs of pages, and blocks. Both come in sizes that are powers of two, from lists of what was
 * given back, else from the memory that mm.c has left alone. What a guest of ours needs most of, it needs again: pieces are
 * joined only when there is nothing else left. All other operations take the same time, however much is in use.
 */
#include "kernel.h"

enum { ORDERS = 20, SMALLEST = 5 }; /* runs of up to 2 GiB; blocks from 32 bytes */
struct piece { struct piece *next; u64 size; }; /* size: bytes, while pieces are joined */
static struct piece *runs[ORDERS], *blocks[PAGE_SHIFT];
static u64 fresh, fresh_end; /* pfns mapped and not used yet */
static u64 free_bytes;       /* in the lists */
static struct { char *at, *end; } uncut[PAGE_SHIFT]; /* of a page for blocks: what is left. Cut at once, it would be a bill for whoever comes first */
static bool released;        /* something was given back since pieces were joined */

static u32 order_of(u64 n) /* of the smallest power of two that is not less */
{
    return n <= 1 ? 0 : 64 - (u32)__builtin_clzl(n - 1);
}

static void give(u32 order, void *run)
{
    struct piece *p = run;
    p->next = runs[order];
    runs[order] = p;
    free_bytes += PAGE_SIZE << order;
}

static inline void block_give(u32 order, void *block)
{
    struct piece *p = block;
    p->next = blocks[order];
    blocks[order] = p;
    free_bytes += 1UL << order;
}

/* Lists by address made one. */
static struct piece *merge(struct piece *a, struct piece *b)
{
    struct piece *first = NULL, **end = &first;
    while (a && b) {
        struct piece **less = a < b ? &a : &b;
        *end = *less;
        end = &(*end)->next;
        *less = *end;
    }
    *end = a ? a : b;
    return first;
}

/* All pieces of a list, in order of their addresses; the list is empty then. */
static struct piece *sorted(struct piece **list, u64 size)
{
    struct piece *bins[48] = {NULL}, *all = NULL; /* bin n: none, or 2^n pieces */
    for (struct piece *p = *list, *next; p; p = next) {
        u32 n = 0;
        next = p->next;
        p->next = NULL;
        p->size = size;
        for (; bins[n]; bins[n++] = NULL)
            p = merge(bins[n], p);
        bins[n] = p;
    }
    for (u32 n = 0; n < COUNT(bins); n++)
        all = merge(bins[n], all);
    *list = NULL;
    return all;
}

static void cut_all(void)
{
    for (u32 order = SMALLEST; order < PAGE_SHIFT; order++)
        for (; uncut[order].at < uncut[order].end; uncut[order].at += 1UL << order) {
            block_give(order, uncut[order].at);
            free_bytes -= 1UL << order; /* it was counted */
        }
}

/* Nothing is left of the size that is asked for: whatever is free and lies side by side becomes one. Pages go back as runs, as
 * large as they can be; what is less than a page as the blocks it was. */
static void join(void)
{
    struct piece *all = NULL;
    cut_all();
    for (u32 order = SMALLEST; order < PAGE_SHIFT; order++)
        all = merge(all, sorted(&blocks[order], 1UL << order));
    for (u32 order = 0; order < ORDERS; order++)
        all = merge(all, sorted(&runs[order], PAGE_SIZE << order));
    free_bytes = 0;
    while (all) {
        u64 at = (u64)all, end = at;
        struct piece *last = all;
        for (; last && (u64)last == end; last = last->next)
            end += last->size;
        while (at < end) { /* `all` and its followers up to `last` are still in the list, as long as they are not given */
            u64 left = end - at;
            if (!(at % PAGE_SIZE) && left >= PAGE_SIZE) {
                u32 order = 63 - (u32)__builtin_clzl(left / PAGE_SIZE);
                order = order < ORDERS ? order : ORDERS - 1;
                while ((u64)all < at + (PAGE_SIZE << order) && all != last)
                    all = all->next;
                give(order, (void *)at);
                at += PAGE_SIZE << order;
            } else {
                struct piece *block = all;
                all = all->next;
                at += block->size;
                block_give(order_of(block->size), block);
            }
        }
        all = last;
    }
}

/* A run out of a larger one. */
static void *run_cut(u32 order)
{
    u32 from = order;
    while (from < ORDERS && !runs[from])
        from++;
    if (from == ORDERS)
        return NULL;
    struct piece *run = runs[from];
    runs[from] = run->next;
    free_bytes -= PAGE_SIZE << from;
    while (from-- > order)
        give(from, (char *)run + (PAGE_SIZE << from));
    return run;
}

/* When all memory has been in use once. */
static __attribute__((noinline)) void *run_find(u32 order)
{
    for (; fresh < fresh_end; fresh++)
        give(0, (void *)(fresh << PAGE_SHIFT));
    void *run = run_cut(order);
    if (run || !released)
        return run;
    join();
    released = false;
    return run_cut(order);
}

/* A larger block as several. */
static __attribute__((noinline)) void blocks_cut(u32 order)
{
    u32 from = order + 1;
    while (from < PAGE_SHIFT && !blocks[from])
        from++;
    if (from >= PAGE_SHIFT)
        return;
    char *block = (char *)blocks[from];
    blocks[from] = blocks[from]->next;
    free_bytes -= 1UL << from;
    for (u64 at = 0; at < 1UL << from; at += 1UL << order)
        block_give(order, block + at);
}

static void *run_take(u32 order)
{
    if (order >= ORDERS)
        return NULL;
    struct piece *p = runs[order];
    if (p) {
        runs[order] = p->next;
        free_bytes -= PAGE_SIZE << order;
        return p;
    }
    while (fresh_end - fresh < 1UL << order) {
        u64 first = mm_extend();
        if (!first)
            return run_find(order);
        if (first != fresh_end) { /* not in a row with what is left */
            for (; fresh < fresh_end; fresh++)
                give(0, (void *)(fresh << PAGE_SHIFT));
            fresh = first;
        }
        fresh_end = mm_end();
    }
    void *run = (void *)(fresh << PAGE_SHIFT);
    fresh += 1UL << order;
    return run;
}

void *pages_try(u64 n)
{
    if (n == 1)
        return page_try();
    void *run = run_take(order_of(n));
    return run ? memset(run, 0, n << PAGE_SHIFT) : NULL;
}

void *pages_take(u64 n)
{
    void *pages = pages_try(n);
    if (!pages)
        panic("out of memory");
    return pages;
}

void pages_release(void *pages, u64 n)
{
    released = true;
    if (n == 1)
        page_free(pages);
    else
        give(order_of(n), pages);
}

/* A page to cut blocks from; where there is none, larger blocks. */
static void page_for(u32 order)
{
    char *page = run_take(0);
    if (page) {
        uncut[order].at = page;
        uncut[order].end = page + PAGE_SIZE;
        free_bytes += PAGE_SIZE;
    } else {
        cut_all();
        if (!blocks[order])
            blocks_cut(order);
    }
}

/* A block's size stands in the 16 bytes before it. Those smaller than a page are cut from one. */
void *memory_take_dirty(u64 size)
{
    u32 order = order_of(size + 16);
    if (order < SMALLEST)
        order = SMALLEST;
    u64 *block;
    if (order >= PAGE_SHIFT) {
        block = run_take(order - PAGE_SHIFT);
    } else {
        if (!blocks[order] && uncut[order].at == uncut[order].end)
            page_for(order);
        if (blocks[order]) {
            block = (u64 *)blocks[order];
            blocks[order] = blocks[order]->next;
            free_bytes -= 1UL << order;
        } else if (uncut[order].at < uncut[order].end) {
            block = (u64 *)uncut[order].at;
            uncut[order].at += 1UL << order;
            free_bytes -= 1UL << order;
        } else {
            block = NULL;
        }
    }
    if (!block)
        return NULL;
    block[0] = order;
    return block + 2;
}

void *memory_take(u64 size)
{
    void *memory = memory_take_dirty(size);
    return memory ? memset(memory, 0, size) : NULL;
}

void memory_release(void *memory)
{
    if (!memory)
        return;
    u64 *block = (u64 *)memory - 2;
    released = true;
    u32 order = (u32)block[0];
    if (order >= PAGE_SHIFT) {
        give(order - PAGE_SHIFT, block);
        return;
    }
    block_give(order, block);
}

u64 heap_free(void)
{
    return free_bytes + (fresh_end - fresh + start_info->nr_pages - mm_end()) * PAGE_SIZE;
}
