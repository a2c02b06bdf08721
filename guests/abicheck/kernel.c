/* The guest's own kernel, on which the other cases stand: threads, pages, text. */
#include "check.h"

static char order[16];
static u32 steps;

static void walker(void *arg)
{
    for (u32 i = 0; i < 3; i++) {
        order[steps++] = *(const char *)arg;
        thread_yield();
    }
}

static bool all_done(void *arg) { (void)arg; return steps == 6; }

void check_kernel(void)
{
    char text[64];
    snprintf(text, sizeof text, "%d|%5u|%-4s|%04x|%lx|%c|%%", -5, 42, "ab", 0xbeef, 1UL << 60, 'z');
    text_is("printf: numbers, text, widths", text, "-5|   42|ab  |beef|1000000000000000|z|%");
    snprintf(text, 5, "%s", "too long");
    text_is("printf: stops at the buffer's end", text, "too ");

    u64 *page = page_alloc(), sum = 0;
    for (u32 i = 0; i < 512; i++)
        sum |= page[i];
    equal("a new page is zeroed", sum, 0);
    page_free(page);
    equal("a freed page is filled with junk", page[511], 0xa5a5a5a5a5a5a5a5UL);

    steps = 0;
    memset(order, 0, sizeof order);
    thread_start("a", walker, "a");
    thread_start("b", walker, "b");
    thread_wait(all_done, NULL);
    text_is("threads take turns", order, "ababab");
    thread_yield(); /* both go on after their last turn, and end */
    thread_yield();
}
