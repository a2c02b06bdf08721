/* Bring-up in Mini-OS's order, then the guest's main(), then power off; panic and shutdown. */
#include "kernel.h"

struct start_info *start_info;
struct shared_info *shared_info;
struct shared_info boot_shared_info;
static u8 shared_info_page[PAGE_SIZE] aligned(4096); /* the shared page is mapped over this one */

bool is_dom0(void) { return start_info->flags & SIF_INITDOMAIN; }

void shutdown(u32 reason)
{
    console_flush();
    for (;;)
        hypercall_sched_op(SCHEDOP_shutdown, &reason);
}

void (*last_words)(void);

void panic(const char *format, ...)
{
    char line[256];
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    __builtin_va_end(args);
    printf("panic: %s\n", line);
    if (last_words)
        last_words();
    shutdown(SHUTDOWN_crash);
}

bool option(const char *name, char *value, u64 size)
{
    u64 n = strlen(name);
    for (const char *p = start_info->cmd_line; *p;) {
        while (*p == ' ')
            p++;
        bool hit = !strncmp(p, name, n) && (p[n] == 0 || p[n] == ' ' || p[n] == '=');
        const char *end = p;
        while (*end && *end != ' ')
            end++;
        if (hit) {
            u64 i = 0;
            for (p += n + (p[n] == '='); value && p < end && i + 1 < size;)
                value[i++] = *p++;
            if (value && size)
                value[i] = 0;
            return true;
        }
        p = end;
    }
    return false;
}

u64 option_number(const char *name, u64 otherwise)
{
    char text[24] = "";
    u64 n = 0;
    if (!option(name, text, sizeof text) || !text[0])
        return otherwise;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9')
            panic("%s=%s is no number", name, text);
        n = n * 10 + (u64)(*p - '0');
    }
    return n;
}

void kernel_start(struct start_info *si)
{
    start_info = si;
    shared_info = (struct shared_info *)shared_info_page;
    if (hypercall_update_va_mapping((u64)shared_info_page, si->shared_info | PTE_P | PTE_W | PTE_U | PTE_NX, UVMF_INVLPG))
        shutdown(SHUTDOWN_crash);
    boot_shared_info = *shared_info;
    traps_init();
    mm_init();
    events_init();
    console_init();
    time_init();
    grants_init();
    xenstore_init();
    main();
    shutdown(SHUTDOWN_poweroff);
}
