"""Scheduling by a guest's own wish: yield, block, poll, shutdown, watchdogs.

Source: Xen 4.17 public/sched.h.
The argument of `SCHEDOP_x` is the structure `sched_x`, where it has one.
"""

from pyvmm.abi.layout import Struct, handle, number_names, s32, u16, u32, u64

# Sub-operations.
SCHEDOP_yield = 0
SCHEDOP_block = 1
SCHEDOP_shutdown = 2
SCHEDOP_poll = 3
SCHEDOP_remote_shutdown = 4
SCHEDOP_shutdown_code = 5
SCHEDOP_watchdog = 6
SCHEDOP_pin_override = 7

# Why a domain stopped.
SHUTDOWN_poweroff = 0
SHUTDOWN_reboot = 1
SHUTDOWN_suspend = 2
SHUTDOWN_crash = 3
SHUTDOWN_watchdog = 4
SHUTDOWN_soft_reset = 5
SHUTDOWN_MAX = 5

sched_shutdown = Struct("sched_shutdown", ("reason", u32))

sched_poll = Struct(
    "sched_poll",
    ("ports", handle),
    ("nr_ports", u32),
    ("timeout", u64),
)

sched_remote_shutdown = Struct("sched_remote_shutdown", ("domain_id", u16), ("reason", u32))

sched_watchdog = Struct("sched_watchdog", ("id", u32), ("timeout", u32))

sched_pin_override = Struct("sched_pin_override", ("pcpu", s32))

SCHEDOP_NAMES = number_names(globals(), "SCHEDOP_", keep=False)
SHUTDOWN_NAMES = {n: name for n, name in number_names(globals(), "SHUTDOWN_", keep=False).items() if name != "MAX"}

SHUTDOWN_TEXT = {
    SHUTDOWN_poweroff: "exited normally",
    SHUTDOWN_reboot: "wants to be started again",
    SHUTDOWN_suspend: "is ready to be saved",
    SHUTDOWN_crash: "crashed",
    SHUTDOWN_watchdog: "let its watchdog expire",
    SHUTDOWN_soft_reset: "wants its state cleared, keeping memory (kexec)",
}
"""What a domain that stopped for this reason did, for people."""
