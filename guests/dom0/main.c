/* dom0: the control domain as x86 code. A shell on the console, a file area (the module), the toolstack's designs and the
 * back ends of the devices. What it does at its start, the file `rc` says. */
#include "backend.h"
#include "files.h"
#include "shell.h"

void main(void)
{
    if (!is_dom0())
        panic("this is a dom0's kernel: it wants to be the first domain");
    mm_data_is_no_code();
    files_init();
    backends_init();
    shell_run();
}
