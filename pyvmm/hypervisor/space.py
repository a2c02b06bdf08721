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


class PageTableSpace:
    """See `Space`. Pages that were walked are remembered until any page table changes."""

    def __init__(self, v: VCpu) -> None:
        self._v = v
        self._mmu = v.hv.mmu
        self._ram = v.hv.machine.ram
        self._bytes = v.hv.machine.ram.bytes
        self._generation = -1
        # Page number to physical address: for reads and for writes, in kernel and in user mode.
        self._readable: tuple[dict[int, int], dict[int, int]] = {}, {}
        self._writable: tuple[dict[int, int], dict[int, int]] = {}, {}

    def read(self, va: int, n: int) -> bytes:
        """See `Space.read`."""
        offset = va & 0xFFF
        if 0 < n <= PAGE - offset:  # the common case: within one page
            if self._generation != self._mmu.generation:
                self._forget()
            pa = self._readable[self._v.user_mode].get(va >> 12)
            if pa is None:
                pa = self._walk(va, False)
            pa += offset
            return bytes(self._bytes[pa : pa + n])
        return b"".join(bytes(self._bytes[pa : pa + size]) for pa, size in self._pieces(va, n, False))

    def read_u32(self, va: int) -> int:
        """See `Space.read_u32`."""
        if va & 3 or self._generation != self._mmu.generation:
            return int.from_bytes(self.read(va, 4), "little")
        pa = self._readable[self._v.user_mode].get(va >> 12)
        return self._ram.read_u32((self._walk(va, False) if pa is None else pa) + (va & 0xFFF))

    def write(self, va: int, data: bytes) -> None:
        """See `Space.write`. All or nothing: a page that cannot be written is noticed before the first store."""
        n = len(data)
        offset = va & 0xFFF
        if 0 < n <= PAGE - offset:
            self._ram.write(self.translate(va, True), data)
            return
        done = 0
        for pa, size in self._pieces(va, n, True):
            self._ram.write(pa, data[done : done + size])
            done += size

    def translate(self, va: int, write: bool = False) -> int:
        """The physical address of `va`; XenError(EFAULT) if the guest could not read (write) it."""
        if self._generation != self._mmu.generation:
            self._forget()
        pa = (self._writable if write else self._readable)[self._v.user_mode].get(va >> 12)
        if pa is None:
            pa = self._walk(va, write)
        return pa + (va & 0xFFF)

    def _pieces(self, va: int, n: int, write: bool) -> list[tuple[int, int]]:
        pieces = []
        while n > 0:
            size = min(n, PAGE - (va & 0xFFF))
            pieces.append((self.translate(va, write), size))
            va, n = va + size, n - size
        return pieces

    def _forget(self) -> None:
        for cache in (*self._readable, *self._writable):
            cache.clear()
        self._generation = self._mmu.generation

    def _walk(self, va: int, write: bool) -> int:
        """Walk the tables, set accessed and dirty bits, remember the page; its physical address."""
        v, ram = self._v, self._ram
        if not access_ok(va):
            raise XenError(errno.EFAULT)
        table = v.l4_user if v.user_mode else v.l4_kernel
        if not table:
            raise XenError(errno.EFAULT)
        needed = P.PRESENT | P.RW if write else P.PRESENT
        slots = []
        for level in (4, 3, 2, 1):
            slot = (table << 12) + P.index(va, level) * 8
            entry = ram.read_u64(slot)
            if entry & needed != needed:
                raise XenError(errno.EFAULT)
            slots.append((slot, entry))
            table = P.frame_of(entry)
        if table << 12 >= ram.size:  # device memory, of which there is none
            raise XenError(errno.EFAULT)
        for slot, entry in slots:
            used = entry | P.ACCESSED
            if write and slot == slots[-1][0]:
                used |= P.DIRTY
            if used != entry:
                ram.write_u64(slot, used)
        cache = self._writable if write else self._readable
        cache[v.user_mode][va >> 12] = table << 12
        return table << 12
