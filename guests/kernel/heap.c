/* Memory in pieces of any size: runs of pages, and blocks. Both come in sizes that are powers of two, from lists of what was
 * given back, else from the memory that mm.c has left alone. Nothing is ever joined again: what a guest of ours needs most
 * of, it needs again. All operations take the same time, however much is in use.
 */
#include "kernel.h"

enum { ORDERS = 20, SMALLEST = 5 }; /* runs of up to 2 GiB; blocks from 32 bytes */
struct piece { struct piece *next; };
static struct piece *runs[ORDERS], *blocks[PAGE_SHIFT];
static u64 fresh, fresh_end; /* pfns mapped and not used yet */
static u64 free_bytes;       /* in the lists */

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
            return NULL;
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
    if (n == 1)
        page_free(pages);
    else
        give(order_of(n), pages);
}

/* A block's size stands in the 16 bytes before it. Those smaller than a page are cut from one. */
void *memory_take(u64 size)
{
    u32 order = order_of(size + 16);
    if (order < SMALLEST)
        order = SMALLEST;
    u64 *block;
    if (order >= PAGE_SHIFT) {
        block = run_take(order - PAGE_SHIFT);
    } else {
        if (!blocks[order]) {
            char *page = run_take(0);
            for (u64 at = 0; page && at < PAGE_SIZE; at += 1UL << order) {
                struct piece *p = (struct piece *)(page + at);
                p->next = blocks[order];
                blocks[order] = p;
                free_bytes += 1UL << order;
            }
        }
        struct piece *p = blocks[order];
        if (p) {
            blocks[order] = p->next;
            free_bytes -= 1UL << order;
        }
        block = (u64 *)p;
    }
    if (!block)
        return NULL;
    block[0] = order;
    return memset(block + 2, 0, size);
}

void memory_release(void *memory)
{
    if (!memory)
        return;
    u64 *block = (u64 *)memory - 2;
    u32 order = (u32)block[0];
    if (order >= PAGE_SHIFT) {
        give(order - PAGE_SHIFT, block);
        return;
    }
    struct piece *p = (struct piece *)block;
    p->next = blocks[order];
    blocks[order] = p;
    free_bytes += 1UL << order;
}

u64 heap_free(void)
{
    return free_bytes + (fresh_end - fresh + start_info->nr_pages - mm_end()) * PAGE_SIZE;
}
