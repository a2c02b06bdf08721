/* The shell's reading of lines, its table of commands, and the few that belong to nobody else. */
#include "files.h"
#include "shell.h"
#include "xc.h"

enum { LINE = 512 };
extern const struct command *const commands_start[], *const commands_end[];
static volatile bool stirred;
static struct thread *reader;

static const struct { int number; const char *name; } errors[] = {
    {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {ESRCH, "ESRCH"}, {ENXIO, "ENXIO"}, {E2BIG, "E2BIG"}, {EBADF, "EBADF"}, {EAGAIN, "EAGAIN"},
    {ENOMEM, "ENOMEM"}, {EACCES, "EACCES"}, {EFAULT, "EFAULT"}, {EBUSY, "EBUSY"}, {EEXIST, "EEXIST"}, {EXDEV, "EXDEV"}, {ENODEV, "ENODEV"},
    {EINVAL, "EINVAL"}, {ENOSPC, "ENOSPC"}, {ENOSYS, "ENOSYS"}, {ENODATA, "ENODATA"}, {EPROTO, "EPROTO"}, {EOVERFLOW, "EOVERFLOW"},
    {EOPNOTSUPP, "EOPNOTSUPP"}, {105, "ENOBUFS"},
};

const char *error_name(int rc)
{
    static char text[16];
    for (u32 i = 0; i < COUNT(errors); i++)
        if (errors[i].number == -rc)
            return errors[i].name;
    snprintf(text, sizeof text, "%d", rc);
    return text;
}

int failure(int rc, const char *format, ...)
{
    char line[320];
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    __builtin_va_end(args);
    if (rc == -ENOTCONN) /* whatever it was that was asked of it */
        printf("error: the XenStore is gone\n");
    else if (rc)
        printf("error: %s (%s)\n", line, error_name(rc));
    else
        printf("error: %s\n", line);
    return rc ? rc : -EINVAL;
}

bool number_of(const char *text, u64 *value)
{
    *value = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || p - text > 18)
            return false;
        *value = *value * 10 + (u64)(*p - '0');
    }
    return *text != 0;
}

int shell_line(char *line)
{
    char *words[SHELL_WORDS];
    u32 n = 0;
    for (char *p = line;;) {
        while (*p == ' ' || *p == '\t')
            p++;
        if (!*p || *p == '#')
            break;
        if (n == SHELL_WORDS)
            return failure(0, "a command has at most %d words", SHELL_WORDS);
        words[n++] = p;
        while (*p && *p != ' ' && *p != '\t')
            p++;
        if (*p)
            *p++ = 0;
    }
    if (!n)
        return 0;
    for (const struct command *const *at = commands_start; at < commands_end; at++) {
        const struct command *c = *at;
        if (strcmp(c->name, words[0]))
            continue;
        if (n - 1 < c->least || n - 1 > c->most)
            return failure(0, "usage: %s %s", c->name, c->usage);
        return c->run(n, words);
    }
    return failure(0, "no command %s (help lists them)", words[0]);
}

static void input(u32 port, void *arg)
{
    (void)port, (void)arg;
    stirred = true;
    if (reader)
        thread_wake(reader);
}

static void run_rc(void)
{
    const struct file *rc = file_find("rc");
    char line[LINE];
    u64 n = 0;
    for (u64 i = 0; rc && i <= rc->size; i++) {
        char c = i < rc->size ? (char)rc->data[i] : '\n';
        if (c != '\n') {
            if (n + 1 < sizeof line)
                line[n++] = c;
            continue;
        }
        line[n] = 0;
        n = 0;
        if (shell_line(line) < 0) {
            printf("rc: stopped at the first error\n");
            return;
        }
    }
}

void shell_run(void)
{
    static char line[LINE];
    char part[64];
    u64 n = 0;
    s64 port = event_bind_virq(VIRQ_CONSOLE, 0);
    reader = thread_self();
    if (port >= 0)
        event_bind((u32)port, input, NULL);
    run_rc();
    printf("dom0# ");
    for (;;) {
        stirred = false;
        u64 got = console_read(part, sizeof part);
        for (u64 i = 0; i < got; i++) {
            char c = part[i];
            if (c == '\r')
                c = '\n';
            if ((c == '\b' || c == 0x7f) && n) {
                n--;
                printf("\b \b");
            } else if (c == '\n') {
                printf("\n");
                line[n] = 0;
                n = 0;
                shell_line(line);
                printf("dom0# ");
            } else if (c >= ' ' && n + 1 < sizeof line) {
                line[n++] = c;
                printf("%c", c);
            }
        }
        if (!got && port >= 0)
            while (!stirred)
                thread_sleep();
        else if (!got)
            thread_yield();
    }
}

static int help(u32 n, char **words)
{
    (void)n, (void)words;
    for (const struct command *const *at = commands_start; at < commands_end; at++)
        printf("%-9s %-24s %s\n", (*at)->name, (*at)->usage, (*at)->help);
    return 0;
}
COMMAND(help, "", "this list", 0, 0, help);

static int files(u32 n, char **words)
{
    (void)n, (void)words;
    for (u32 i = 0; file_nth(i); i++)
        printf("%8lu %s\n", file_nth(i)->size, file_nth(i)->path);
    return 0;
}
COMMAND(files, "", "the file area", 0, 0, files);

static int memory(u32 n, char **words)
{
    u64 total = 0, left = 0;
    (void)n, (void)words;
    int rc = xc_physinfo(NULL, &total, &left);
    if (rc)
        return failure(rc, "Xen does not tell");
    printf("host %lu of %lu KiB free, dom0 %lu KiB free\n", left * 4, total * 4, (heap_free() >> 10) + pages_free() * 4);
    return 0;
}
COMMAND(memory, "", "free memory, of the host and of dom0", 0, 0, memory);

static int end(u32 n, char **words)
{
    (void)n;
    shutdown(strcmp(words[0], "reboot") ? SHUTDOWN_poweroff : SHUTDOWN_reboot);
}
COMMAND(poweroff, "", "end dom0, and with it the host", 0, 0, end);
COMMAND(reboot, "", "the same, to start again", 0, 0, end);
