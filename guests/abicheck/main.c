/* abicheck: walks through the Xen PV ABI, one printed line a case, a verdict last; then it powers off.
 *
 * Every expectation is what the real Xen 4.17 does. Lines are the same in every run: what may vary is checked, not printed.
 * Command line: `list` names the groups, `only=GROUP[,GROUP...]` runs some of them (`+` separates them too).
 */
#include "check.h"

static const struct group { const char *name; void (*run)(void); } groups[] = {
    {"kernel", check_kernel},
    {"start", check_start},
    {"entry", check_entry},
    {"hypercalls", check_hypercalls},
    {"version", check_version},
    {"traps", check_traps},
    {"privileged", check_privileged},
    {"msr", check_msr},
    {"memory", check_memory},
    {"mmu", check_mmu},
    {"mmuext", check_mmuext},
    {"wrpt", check_wrpt},
    {"descriptors", check_descriptors},
    {"events", check_events},
    {"time", check_time},
    {"sched", check_sched},
    {"vcpu", check_vcpu},
    {"smp", check_smp},
    {"grants", check_grants},
    {"reservation", check_reservation},
    {"multicall", check_multicall},
    {"misc", check_misc},
    {"user", check_user},
    {"store", check_store},
};
static const char *group;
static u32 cases, failed;

static void result(bool ok, const char *what, const char *detail)
{
    cases++;
    failed += !ok;
    printf("%s %s: %s%s\n", ok ? "ok  " : "FAIL", group, what, ok ? "" : detail);
}

void check(bool ok, const char *format, ...)
{
    char what[160];
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    __builtin_va_end(args);
    result(ok, what, "");
}

void equal(const char *what, u64 got, u64 expected)
{
    char detail[80];
    snprintf(detail, sizeof detail, ": got %lx, expected %lx", got, expected);
    result(got == expected, what, detail);
}

void answer(const char *what, s64 got, s64 expected)
{
    char detail[80];
    snprintf(detail, sizeof detail, ": got %ld, expected %ld", got, expected);
    result(got == expected, what, detail);
}

void text_is(const char *what, const char *got, const char *expected)
{
    char detail[200];
    snprintf(detail, sizeof detail, ": got \"%s\", expected \"%s\"", got, expected);
    result(!strcmp(got, expected), what, detail);
}

static bool wanted(const char *name, const char *list)
{
    u64 n = strlen(name);
    for (const char *p = list; *p; p++) {
        if (!strncmp(p, name, n) && (p[n] == 0 || p[n] == ',' || p[n] == '+'))
            return true;
        while (*p && *p != ',' && *p != '+')
            p++;
        if (!*p)
            break;
    }
    return false;
}

void main(void)
{
    char only[128];
    bool some = option("only", only, sizeof only);
    if (option("list", NULL, 0)) {
        for (u32 i = 0; i < COUNT(groups); i++)
            printf("%s\n", groups[i].name);
        return;
    }
    for (u32 i = 0; i < COUNT(groups); i++) {
        if (some && !wanted(groups[i].name, only))
            continue;
        group = groups[i].name;
        u64 before = pages_free();
        groups[i].run();
        check(pages_free() == before, "no page of ours was lost");
    }
    printf("abicheck: %u cases, %u failed\n", cases, failed);
}
