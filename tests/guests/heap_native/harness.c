/* The heap of guests/kernel in an area of this process, whose pages' numbers are their addresses'. */
#include "kernel.h"

enum { STEP = 512 };
static struct start_info info;
static u64 next;
struct start_info *start_info = &info;
void __attribute__((noreturn)) abort(void);

void panic(const char *format, ...) { (void)format; abort(); }
void *page_alloc(void) { abort(); }
void *page_try(void) { abort(); }
void page_free(void *page) { (void)page; abort(); }
u64 mm_end(void) { return next; }

u64 mm_extend(void)
{
    u64 first = next, n = info.nr_pages - next;
    next += n < STEP ? n : STEP;
    return n ? first : 0;
}

void harness_start(u64 address, u64 pages)
{
    next = address >> PAGE_SHIFT;
    info.nr_pages = next + pages;
}
