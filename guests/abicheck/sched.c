/* sched_op beyond block and poll, and console_io: what is refused. */
#include "check.h"

void check_sched(void)
{
    struct sched_watchdog dog = {0, 30};
    struct sched_remote_shutdown remote = {4242, SHUTDOWN_poweroff};
    answer("yield", hypercall_sched_op(SCHEDOP_yield, NULL), 0);
    answer("yield ignores its pointer", hypercall_sched_op(SCHEDOP_yield, WILD), 0);
    answer("no such command", hypercall_sched_op(99, NULL), -ENOSYS);
    answer("shutdown: bad pointer", hypercall_sched_op(SCHEDOP_shutdown, WILD), -EFAULT);
    answer("shutdown_code: bad pointer", hypercall_sched_op(SCHEDOP_shutdown_code, WILD), -EFAULT);
    answer("remote_shutdown: bad pointer", hypercall_sched_op(SCHEDOP_remote_shutdown, WILD), -EFAULT);
    answer("remote_shutdown: a domain that is not there", hypercall_sched_op(SCHEDOP_remote_shutdown, &remote), -ESRCH);
    remote.domid = DOMID_SELF;
    answer("remote_shutdown: ourselves", hypercall_sched_op(SCHEDOP_remote_shutdown, &remote), -ESRCH);
    s64 id = hypercall_sched_op(SCHEDOP_watchdog, &dog);
    answer("watchdog: id 0 gives a new one", id, 1);
    dog.id = 1;
    answer("watchdog: poke", hypercall_sched_op(SCHEDOP_watchdog, &dog), 0);
    dog.timeout = 0;
    answer("watchdog: disarm", hypercall_sched_op(SCHEDOP_watchdog, &dog), 0);
    dog.id = 5;
    answer("watchdog: no such id", hypercall_sched_op(SCHEDOP_watchdog, &dog), -EINVAL);
    answer("watchdog: bad pointer", hypercall_sched_op(SCHEDOP_watchdog, WILD), -EFAULT);
    char text[1] = {0};
    answer("console_io: an empty write", hypercall_console_io(CONSOLEIO_write, 0, text), by_role(0, -EPERM));
    answer("console_io: bad pointer", hypercall_console_io(CONSOLEIO_write, 1, WILD), by_role(-EFAULT, -EPERM));
    answer("console_io: read with nothing there", hypercall_console_io(CONSOLEIO_read, 1, text), by_role(0, -EPERM));
    answer("console_io: no such command", hypercall_console_io(9, 0, text), by_role(-ENOSYS, -EPERM));
}
