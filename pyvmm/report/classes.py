"""What an instruction is executed for: the six classes of the paper's Fig. 5, boot, and preparation.

The innermost function of a call path that the table names says the class. What serves all is not in the table (memcpy,
printf, threads, the heap; the file area and the control library, xc_*.c, which map, ask and load for whoever calls) and
belongs to its nearest caller that is. So does what an interrupt does on its way to its handler.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

CONFIG, HYPERVISOR, XENSTORE, DEVICES, LOAD, TOOLSTACK, BOOT, PREPARE = CLASSES = (
    "config", "hypervisor", "xenstore", "devices", "load", "toolstack", "boot", "prepare",
)  # fmt: skip
MEANING = {
    CONFIG: "reading the configuration",
    HYPERVISOR: "making the domain: asking the hypervisor for it, its vCPUs, its ports and its memory",
    XENSTORE: "the XenStore: its daemon's domain, and its clients in dom0",
    DEVICES: "making devices, and dom0's back ends",
    LOAD: "the kernel: reading the file, copying it, the domain's first page tables and registers",
    TOOLSTACK: "the design's own bookkeeping, the shell",
    BOOT: "the guest itself",
    PREPARE: "shells made ahead of any request",
}

# Where a control domain's class comes from: (pattern of the function, pattern of its file, class); the first that fits.
CONTROL = (
    ("pool_refill", "pool.c", PREPARE),
    ("pool_fill_one", "pool.c", PREPARE),
    # Making a domain: the phases that do nothing else, and the operations that nobody asks for otherwise
    ("step_reserve", "steps.c", HYPERVISOR),
    ("undo_reserve", "steps.c", HYPERVISOR),
    ("step_adapt", "steps.c", HYPERVISOR),  # gives back what a shell has too much of
    ("domain", "xl.c", HYPERVISOR),
    ("limits", "xl.c", HYPERVISOR),
    ("dom_memory", "build.c", HYPERVISOR),  # populates the domain, and keeps the list of its frames
    ("populate", "build.c", HYPERVISOR),
    ("xc_domain_create", "xc_domain.c", HYPERVISOR),
    ("xc_domain_destroy", "xc_domain.c", HYPERVISOR),
    ("xc_domain_max_vcpus", "xc_domain.c", HYPERVISOR),
    ("xc_vcpu_setaffinity", "xc_domain.c", HYPERVISOR),
    ("xc_cpuid_apply_policy", "xc_domain.c", HYPERVISOR),
    ("xc_domain_set*", "xc_domain.c", HYPERVISOR),  # the limit of its memory, its TSC, its address size
    ("xc_populate_physmap", "xc_memory.c", HYPERVISOR),
    ("xc_decrease_reservation", "xc_memory.c", HYPERVISOR),
    ("xc_claim_pages", "xc_memory.c", HYPERVISOR),
    ("xc_evtchn_alloc_unbound", "xc_memory.c", HYPERVISOR),  # a new domain's ports for its store and console
    # Functions of another class than the rest of their file
    ("step_load", "steps.c", LOAD),
    ("*noxs*", "steps.c", DEVICES),
    ("*device*", "chaos_xs.c", DEVICES),
    ("*vif*", "chaos_xs.c", DEVICES),
    ("add_console", "chaos_xs.c", DEVICES),
    # All others by their file
    ("*", "config*.c", CONFIG),
    ("*", "xenstore*.c", XENSTORE),
    ("*", "store*.c", XENSTORE),
    ("*", "messages.c", XENSTORE),
    ("*", "back*.c", DEVICES),
    ("*", "xl_devices.c", DEVICES),
    ("*", "xl_hotplug.c", DEVICES),
    ("*", "elf.c", LOAD),
    ("*", "build*.c", LOAD),
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


@cache
def _of(name: str, file: str) -> str | None:
    for function, source, found in CONTROL:
        if fnmatchcase(name, function) and fnmatchcase(file, source):
            return found
    return None


def prepares(stack: tuple[str, str, tuple[tuple[str, str], ...], int]) -> bool:
    """Whether a stack (domain, role, call path, instructions) is work for guests that nobody has asked for yet."""
    return class_of(stack[1], stack[2]) == PREPARE
