"""Page-table entries as the CPU and Xen's PV ABI define them (Intel SDM vol. 3, 4.5; Xen's asm/x86_64/page.h)."""

from __future__ import annotations

PRESENT = 1 << 0
RW = 1 << 1
USER = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
ACCESSED = 1 << 5
DIRTY = 1 << 6
PSE = 1 << 7  # in L2 and L3; in L1 the same bit is PAT
PAT = 1 << 7
GLOBAL = 1 << 8
AVAIL = 7 << 9
GUEST_KERNEL = 1 << 52  # the guest asked for a page of its kernel: Xen sets USER, and this to remember
AVAIL_HIGH = 0x7FF << 52
NX = 1 << 63

FRAME_MASK = (1 << 52) - (1 << 12)
INVALID_FRAME = (1 << 40) - 1  # all bits of the frame number set: "no frame" rather than a wrong one
CACHE_ATTRS = PWT | PCD | PAT

# What no guest may set. L1: cache attributes are for domains with I/O memory only.
L1_DISALLOWED = CACHE_ATTRS
UPPER_DISALLOWED = PWT | PCD | PSE | GLOBAL

# What may change in an entry in use without looking at it again.
HARMLESS = NX | AVAIL_HIGH | AVAIL | GLOBAL | DIRTY | ACCESSED | USER

U64 = (1 << 64) - 1


def frame_of(pte: int) -> int:
    """The frame number in an entry."""
    return (pte & FRAME_MASK) >> 12


def adjust_l1(pte: int) -> int:
    """An L1 entry as Xen stores it: always USER; a kernel page is marked, a user page is GLOBAL (both modes run at CPL
    3)."""
    if pte & PRESENT:
        if not pte & USER:
            pte |= GUEST_KERNEL | USER
        if not pte & GUEST_KERNEL:
            pte |= GLOBAL | USER
    return pte


def adjust_upper(pte: int, level: int) -> int:
    """An L2 to L4 entry as Xen stores it: USER, and in L4 ACCESSED."""
    if pte & PRESENT:
        pte |= USER | ACCESSED if level == 4 else USER
    return pte


def index(va: int, level: int) -> int:
    """Which entry of a table of `level` maps `va`."""
    return (va >> (3 + 9 * level)) & 511
