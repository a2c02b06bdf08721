/* dom0's shell: lines from the console or from the file `rc`, each a command with words. */
#pragma once
#include "kernel.h"

enum { SHELL_WORDS = 8 };
struct command {
    const char *name, *usage, *help;
    u32 least, most;                        /* how many words it takes */
    int (*run)(u32 n, char **words);        /* 0 or a negative errno; has said itself what went wrong */
};
/* A command says of itself that it exists; the linker script gathers them. */
#define COMMAND(name, ...) \
    static const struct command command_##name = {#name, __VA_ARGS__}; \
    static const struct command *const command_at_##name __attribute__((used, section(".commands"))) = &command_##name

void shell_run(void);                       /* rc first, then the console; never returns */
int shell_line(char *line);
int failure(int rc, const char *format, ...) __attribute__((format(printf, 2, 3))); /* prints "error: ..."; returns rc */
const char *error_name(int rc);             /* "ENOMEM" of -ENOMEM */
bool number_of(const char *text, u64 *value); /* a whole decimal number */
