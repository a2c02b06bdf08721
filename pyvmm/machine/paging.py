"""The software walk of x86-64's four-level page tables.

Facts: Intel SDM volume 3, 4.5 (4-level paging), 4.6 (access rights), 4.7 (error codes). CR0.WP and EFER.NXE are set in
this machine; SMEP, SMAP and protection keys are off.
"""

from __future__ import annotations

from typing import Final

from pyvmm.machine.exits import PageFault

PAGE_SIZE: Final = 4096
PTE_P: Final = 1 << 0
PTE_RW: Final = 1 << 1
PTE_US: Final = 1 << 2
PTE_A: Final = 1 << 5
PTE_D: Final = 1 << 6
PTE_PS: Final = 1 << 7
PTE_NX: Final = 1 << 63
#: Physical addresses have 40 bits in the CPU model used (CPUID leaf 0x80000008 of qemu64).
ADDRESS: Final = (1 << 40) - 1 & ~0xFFF
RESERVED: Final = (1 << 52) - (1 << 40)

PF_P: Final = 1
PF_W: Final = 2
PF_U: Final = 4
PF_RSVD: Final = 8
PF_I: Final = 16


def is_canonical(va: int) -> bool:
    """Whether bits 63 to 47 of a linear address are equal."""
    return va < 1 << 47 or va >= (1 << 64) - (1 << 47)


def walk(table: memoryview, cr3: int, va: int, write: bool, user: bool, execute: bool) -> int:
    """The physical address of `va`. `table` is physical memory as 64-bit words. Raises `PageFault`.

    Accessed and dirty bits are not set. A non-canonical address is reported as not present.
    """
    code = (PF_W if write else 0) | (PF_U if user else 0) | (PF_I if execute else 0)
    if not is_canonical(va):
        raise PageFault(va, code)
    entry = cr3
    rights = PTE_RW | PTE_US
    nx = 0
    shift = 39
    words = len(table)
    while True:
        index = ((entry & ADDRESS) >> 3) + (va >> shift & 511)
        if index >= words:
            raise PageFault(va, code)
        entry = table[index]
        if not entry & PTE_P:
            raise PageFault(va, code)
        if entry & RESERVED or (shift == 39 and entry & PTE_PS):
            raise PageFault(va, code | PF_P | PF_RSVD)
        rights &= entry
        nx |= entry & PTE_NX
        if shift == 12 or (entry & PTE_PS and shift < 39):
            break
        shift -= 9
    offset_mask = (1 << shift) - 1
    if shift > 12 and entry & offset_mask & ~0x1FFF:
        raise PageFault(va, code | PF_P | PF_RSVD)
    if (user and not rights & PTE_US) or (write and not rights & PTE_RW) or (execute and nx):
        raise PageFault(va, code | PF_P)
    return (entry & ADDRESS & ~offset_mask) | (va & offset_mask)
