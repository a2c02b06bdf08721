"""The address space of an x86 vCPU as the hypervisor reads and writes it on the guest's behalf.

What Xen's copy_from_guest and copy_to_guest can reach: the guest's part of the address space (`permissions.access_ok`;
not even the M2P), through the page tables of the vCPU's present mode, with the CPU's own rules: the entry present at
every level, and RW for a store (CR0.WP is set), so that page tables are read-only here too. Accessed and dirty bits
are set as the CPU would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.permissions import access_ok

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
# What an L1 entry must have for an access that changes nothing in it.
_READ = P.PRESENT | P.ACCESSED
_WRITTEN = P.PRESENT | P.RW | P.ACCESSED | P.DIRTY


class PageTableSpace:
    """See `Space`. The L1 table for each 2 MiB that was walked is remembered until a table above L1 changes."""

    def __init__(self, v: VCpu) -> None:
        self._v = v
        self._mmu = v.hv.mmu
        self._ram = v.hv.machine.ram
        self._bytes = v.hv.machine.ram.bytes
        self._code = v.hv.machine.ram.code
        self._words = v.hv.machine.ram.u64
        self._size = v.hv.machine.ram.size
        self._generation = -1
        # va >> 21 to the number of the L1 table's first word in memory: for reads and for writes, in kernel and in
        # user mode.
        self._readable: tuple[dict[int, int], dict[int, int]] = {}, {}
        self._writable: tuple[dict[int, int], dict[int, int]] = {}, {}

    def read(self, va: int, n: int) -> bytes:
        """See `Space.read`."""
        offset = va & 0xFFF
        if 0 < n <= PAGE - offset:  # the common case: within one page
            if self._generation == self._mmu.generation:
                table = self._readable[self._v.user_mode].get(va >> 21)
                if table is not None:
                    entry = self._words[table + (va >> 12 & 511)]
                    pa = (entry & P.FRAME_MASK) + offset
                    if entry & _READ == _READ and pa < self._size:
                        return bytes(self._bytes[pa : pa + n])
            pa = self._walk(va, False) + offset
            return bytes(self._bytes[pa : pa + n])
        return b"".join(bytes(self._bytes[pa : pa + size]) for pa, size in self._pieces(va, n, False))

    def read_u32(self, va: int) -> int:
        """See `Space.read_u32`."""
        if va & 3:
            return int.from_bytes(self.read(va, 4), "little")
        return self._ram.read_u32(self.translate(va))

    def write(self, va: int, data: bytes) -> None:
        """See `Space.write`. All or nothing: a page that cannot be written is noticed before the first store."""
        n = len(data)
        offset = va & 0xFFF
        if 0 < n <= PAGE - offset:
            pa = self.translate(va, True)
            self._bytes[pa : pa + n] = data
            if self._code[pa >> 12]:
                self._ram.written(pa, n)
            return
        done = 0
        for pa, size in self._pieces(va, n, True):
            self._ram.write(pa, data[done : done + size])
            done += size

    def translate(self, va: int, write: bool = False) -> int:
        """The physical address of `va`; XenError(EFAULT) if the guest could not read (write) it."""
        if self._generation == self._mmu.generation:
            table = (self._writable if write else self._readable)[self._v.user_mode].get(va >> 21)
            if table is not None:
                entry = self._words[table + (va >> 12 & 511)]
                pa = (entry & P.FRAME_MASK) + (va & 0xFFF)
                needed = _WRITTEN if write else _READ
                if entry & needed == needed and pa < self._size:
                    return pa
        return self._walk(va, write) + (va & 0xFFF)

    def _pieces(self, va: int, n: int, write: bool) -> list[tuple[int, int]]:
        pieces = []
        while n > 0:
            size = min(n, PAGE - (va & 0xFFF))
            pieces.append((self.translate(va, write), size))
            va, n = va + size, n - size
        return pieces

    def l1_table(self, va: int, write: bool = False) -> int | None:
        """The number of the first word in memory of the L1 table for `va`; None if there is none, or if a store cannot
        get to it."""
        if self._generation != self._mmu.generation:
            for cache in (*self._readable, *self._writable):
                cache.clear()
            self._generation = self._mmu.generation
        v, words = self._v, self._words
        tables = (self._writable if write else self._readable)[v.user_mode]
        found = tables.get(va >> 21)
        if found is not None:
            return found
        mfn = v.l4_user if v.user_mode else v.l4_kernel
        if not mfn or not access_ok(va):
            return None
        needed = P.PRESENT | P.RW if write else P.PRESENT
        for level in (4, 3, 2):
            slot = (mfn << 9) + P.index(va, level)
            entry = words[slot]
            if entry & needed != needed:
                return None
            if not entry & P.ACCESSED:
                words[slot] = entry | P.ACCESSED
            mfn = P.frame_of(entry)
        tables[va >> 21] = mfn << 9
        return mfn << 9

    def _walk(self, va: int, write: bool) -> int:
        """The physical address of the page of `va`, with accessed and dirty bits set as the CPU would."""
        table = self.l1_table(va, write)
        if table is None:
            raise XenError(errno.EFAULT)
        slot = table + (va >> 12 & 511)
        entry = self._words[slot]
        needed = P.PRESENT | P.RW if write else P.PRESENT
        pa = entry & P.FRAME_MASK
        if entry & needed != needed or pa >= self._size:  # (there is no device memory to be copied)
            raise XenError(errno.EFAULT)
        self._words[slot] = entry | (_WRITTEN if write else _READ)
        return pa
