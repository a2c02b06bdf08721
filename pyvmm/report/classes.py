"""What an instruction is executed for: the six classes of the paper's Fig. 5, boot, and preparation.

A function belongs to a class by its source file. One that serves all (memcpy, printf, threads, the heap: files that no
row names) belongs to that of its nearest caller with a class. So does what an interrupt does on its way to its handler.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

CONFIG, HYPERVISOR, XENSTORE, DEVICES, LOAD, TOOLSTACK, BOOT, PREPARE = CLASSES = (
    "config", "hypervisor", "xenstore", "devices", "load", "toolstack", "boot", "prepare",
)  # fmt: skip
MEANING = {
    CONFIG: "reading the configuration",
    HYPERVISOR: "asking the hypervisor for the domain, its vCPUs and its memory",
    XENSTORE: "the XenStore: its daemon's domain, and its clients in dom0",
    DEVICES: "making devices, and dom0's back ends",
    LOAD: "the kernel: reading the file, building the domain's memory, its first registers",
    TOOLSTACK: "the design's own bookkeeping, the shell",
    BOOT: "the guest itself",
    PREPARE: "shells made ahead of any request",
}

# Where a control domain's class comes from: (pattern of the function, pattern of its file, class); the first that fits.
CONTROL = (
    ("pool_refill", "pool.c", PREPARE),
    ("pool_fill_one", "pool.c", PREPARE),
    ("*", "config*.c", CONFIG),
    ("*", "xc_*.c", HYPERVISOR),
    ("*", "xenstore*.c", XENSTORE),
    ("*", "store*.c", XENSTORE),
    ("*", "messages.c", XENSTORE),
    ("*", "back*.c", DEVICES),
    ("*", "xl_devices.c", DEVICES),
    ("*", "xl_hotplug.c", DEVICES),
    ("*", "elf.c", LOAD),
    ("*", "build*.c", LOAD),
    ("*", "files.c", LOAD),
    ("*", "design*.c", TOOLSTACK),
    ("*", "steps.c", TOOLSTACK),
    ("*", "chaos*.c", TOOLSTACK),
    ("*", "xl*.c", TOOLSTACK),
    ("*", "pool.c", TOOLSTACK),
    ("*", "shell.c", TOOLSTACK),
    ("*", "main.c", TOOLSTACK),
)


def class_of(role: str, path: tuple[tuple[str, str], ...]) -> str:
    """The class of what is executed under the call path `path` ((function, file), the outermost first) in a domain that
    is a "guest", the "xenstored" or "dom0". What is prepared stays preparation, whoever is called for it."""
    if role == "guest":
        return BOOT
    if role == "xenstored":
        return XENSTORE
    classes = [found for name, file in path if (found := _of(name, file)) is not None]
    if PREPARE in classes:
        return PREPARE
    return classes[-1] if classes else TOOLSTACK


def _of(name: str, file: str) -> str | None:
    for function, source, found in CONTROL:
        if fnmatchcase(name, function) and fnmatchcase(file, source):
            return found
    return None


def prepares(stack: tuple[str, str, tuple[tuple[str, str], ...], int]) -> bool:
    """Whether a stack (domain, role, call path, instructions) is work for guests that nobody has asked for yet."""
    return class_of(stack[1], stack[2]) == PREPARE
