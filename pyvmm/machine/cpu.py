"""The one Unicorn CPU, through ctypes: registers, saved contexts, TLB, translations, and the private memory it starts
from.

Facts about Unicorn 2.1.4 that shape this file (read in its source, `uc.c`, `qemu/target/i386/cpu.h`,
`translate-all.c`):

* A context is the CPU structure byte for byte behind a header, so fields that no API reads (the pending exception's
  error
  code, whether it was a software interrupt) are found there. Their offsets are found by experiment when a machine
  starts.
* An exception is never "delivered", so the structure's record of an exception in flight stays, and a second page
  fault would
  be reported as a double fault. It is reset after each one.
* `uc_ctl(TB_REMOVE_CACHE)` takes *linear* addresses of the current address space. So there is a private address space
  in which all physical memory lies at `IDENTITY`; translations are dropped with that context loaded.
* Without an exit address nothing but a hook ends a run: "exits" are switched on with an empty set.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import weakref
from typing import Final

from unicorn import unicorn_const as uc
from unicorn import x86_const as x86
from unicorn.unicorn_py3 import unicorn as binding

from pyvmm.machine import firmware
from pyvmm.machine.exits import MachineError
from pyvmm.machine.paging import PAGE_SIZE
from pyvmm.machine.ram import Ram
from pyvmm.machine.registers import CR0, CR4, EFER, ENCODING_ORDER, MSR_EFER, Reg

#: Translated code's buffer. The default reserves 1 GiB a machine.
TCG_BUFFER: Final = 128 << 20

# Private memory, above all RAM: page tables and descriptors that only the machine itself uses.
PRIVATE: Final = 1 << 36
PRIVATE_SIZE: Final = 4 * PAGE_SIZE
#: Where the private address space shows physical memory. Only CPL-0 accesses ever use it.
IDENTITY: Final = 0xFFFF_FF00_0000_0000
_ROOT, _PDPT, _TABLE = (PRIVATE + i * PAGE_SIZE for i in range(3))
_GIB_PAGE: Final = 0xE3  # present, writable, accessed, dirty, 1 GiB page; supervisor

# Flat descriptors (Intel SDM volume 3, 3.4.5): code and data for ring 0, then for ring 3.
_DESCRIPTORS: Final = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
FLAT_CS: Final = 0x23
FLAT_SS: Final = 0x1B

CONTEXT_HEADER: Final = 40
# Offsets in the CPU structure (cpu.h: CPUX86State); checked against the API when a machine starts.
ENV_RIP: Final = 128
ENV_HFLAGS: Final = 176
ENV_SEGMENTS: Final = 184
SEGMENT_SIZE: Final = 24
_HFLAGS_CS32: Final = 1 << 4
_HFLAGS_CS64: Final = 1 << 15
_DESCRIPTOR_B: Final = 1 << 22
ENV_GDT: Final = 376
ENV_CR: Final = 424
#: Order of the segment registers in the CPU structure.
SEGMENT_ORDER: Final = ("es", "cs", "ss", "ds", "fs", "gs")

_CTL_WRITE: Final = 1 << 30


class _Descriptor(ctypes.Structure):
    """`uc_x86_mmr`: GDTR, LDTR and the like."""

    _fields_ = (
        ("selector", ctypes.c_uint16),
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class _Msr(ctypes.Structure):
    _fields_ = (("rid", ctypes.c_uint32), ("value", ctypes.c_uint64))


def load_library() -> ctypes.CDLL:
    """The library that the `unicorn` package has loaded, with prototypes of our own."""
    library = ctypes.CDLL(binding.uclib._name)
    handle, u64, pointer = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p
    for name, arguments in {
        "uc_open": (ctypes.c_int, ctypes.c_int, pointer),
        "uc_close": (handle,),
        "uc_reg_read": (handle, ctypes.c_int, pointer),
        "uc_reg_write": (handle, ctypes.c_int, pointer),
        "uc_mem_map_ptr": (handle, u64, u64, ctypes.c_uint32, pointer),
        "uc_emu_start": (handle, u64, u64, u64, ctypes.c_size_t),
        "uc_emu_stop": (handle,),
        "uc_context_alloc": (handle, pointer),
        "uc_context_save": (handle, pointer),
        "uc_context_restore": (handle, pointer),
        "uc_context_free": (pointer,),
    }.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    library.uc_strerror.restype = ctypes.c_char_p
    return library


class SavedCpu:
    """A saved CPU state in Unicorn's own format. `data` is the CPU structure, writable."""

    def __init__(self, cpu: Cpu) -> None:
        pointer = ctypes.c_void_p()
        cpu.check(cpu.lib.uc_context_alloc(cpu.handle, ctypes.byref(pointer)))
        assert pointer.value is not None
        self.pointer: int = pointer.value
        size = ctypes.c_size_t.from_address(self.pointer).value
        raw = (ctypes.c_char * size).from_address(self.pointer + CONTEXT_HEADER)
        self.data = memoryview(raw).cast("B")
        self._free = weakref.finalize(self, cpu.lib.uc_context_free, self.pointer)

    def free(self) -> None:
        """Gives the memory back."""
        self._free()

    def u64(self, offset: int) -> int:
        """A 64-bit field of the CPU structure."""
        return int.from_bytes(self.data[offset : offset + 8], "little")

    def put_u64(self, offset: int, value: int) -> None:
        """Changes a 64-bit field."""
        self.data[offset : offset + 8] = value.to_bytes(8, "little")

    def code_segment(self) -> tuple[int, int]:
        """(bits, base) of the code segment; its base does not count in 64-bit mode."""
        hflags = self.data[ENV_HFLAGS + 1] << 8 | self.data[ENV_HFLAGS]
        bits = 64 if hflags & _HFLAGS_CS64 else 32 if hflags & _HFLAGS_CS32 else 16
        return bits, self.u64(ENV_SEGMENTS + SEGMENT_SIZE * SEGMENT_ORDER.index("cs") + 8)

    def stack_top(self, offset: int) -> int:
        """The linear address `offset` bytes above the stack pointer."""
        rsp = self.u64(8 * ENCODING_ORDER.index(Reg.RSP)) + offset
        if self.code_segment()[0] == 64:
            return rsp & 0xFFFF_FFFF_FFFF_FFFF
        at = ENV_SEGMENTS + SEGMENT_SIZE * SEGMENT_ORDER.index("ss")
        wide = self.i32(at + 20) & _DESCRIPTOR_B
        return self.u64(at + 8) + (rsp & (0xFFFFFFFF if wide else 0xFFFF)) & 0xFFFFFFFF

    def i32(self, offset: int) -> int:
        """A signed 32-bit field."""
        return int.from_bytes(self.data[offset : offset + 4], "little", signed=True)


class Cpu:
    """The Unicorn instance. No hooks here: they belong to the engine."""

    def __init__(self, ram: Ram) -> None:
        self.lib = load_library()
        handle = ctypes.c_void_p()
        self.check(self.lib.uc_open(uc.UC_ARCH_X86, uc.UC_MODE_64, ctypes.byref(handle)))
        assert handle.value is not None
        self.handle: int = handle.value
        self._close = weakref.finalize(self, self.lib.uc_close, self.handle)
        self.ctl(uc.UC_CTL_CPU_MODEL, ctypes.c_int(x86.UC_CPU_X86_QEMU64), arguments=1)
        self.ctl(uc.UC_CTL_TCG_BUFFER_SIZE, ctypes.c_uint32(TCG_BUFFER), arguments=1)
        self.ctl(uc.UC_CTL_UC_USE_EXITS, ctypes.c_int(1), arguments=1)
        self.ram = ram
        self._value = ctypes.c_uint64()
        self._pointer = ctypes.byref(self._value)
        self._map(0, ram.map, ram.size)
        self._private = mmap.mmap(-1, PRIVATE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map(PRIVATE, self._private, PRIVATE_SIZE)
        self.firmware_frame = ram.size - PAGE_SIZE
        ram.bytes[self.firmware_frame : ram.size] = firmware.page()
        self._power_on()

    def check(self, error: int) -> None:
        """Raises `MachineError` for an error code of Unicorn's."""
        if error:
            raise MachineError(f"CPU engine: {self.lib.uc_strerror(error).decode()}")

    def ctl(self, number: int, *values: object, arguments: int = 0) -> None:
        """`uc_ctl`, writing."""
        self.check(
            self.lib.uc_ctl(
                ctypes.c_void_p(self.handle), ctypes.c_uint32(number | arguments << 26 | _CTL_WRITE), *values
            )
        )

    def _map(self, pa: int, buffer: mmap.mmap, size: int) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self.check(self.lib.uc_mem_map_ptr(self.handle, pa, size, uc.UC_PROT_ALL, address))

    def _power_on(self) -> None:
        """Long mode in the private address space, then ring 3; what is found on the way calibrates the offsets."""
        table = memoryview(self._private).cast("Q")
        table[IDENTITY >> 39 & 511] = _PDPT | 3
        for gib in [*range(self.ram.size + (1 << 30) - 1 >> 30), PRIVATE >> 30]:
            table[512 + gib] = gib << 30 | _GIB_PAGE
        for i, descriptor in enumerate(_DESCRIPTORS):
            table[1024 + i] = descriptor
        self.write(x86.UC_X86_REG_CR4, CR4)
        self.write(x86.UC_X86_REG_CR3, _ROOT)
        msr = _Msr(MSR_EFER, EFER)
        self.check(self.lib.uc_reg_write(self.handle, x86.UC_X86_REG_MSR, ctypes.byref(msr)))
        self.write(x86.UC_X86_REG_CR0, CR0)
        self.set_table(x86.UC_X86_REG_GDTR, IDENTITY + _TABLE, 8 * len(_DESCRIPTORS) - 1)
        self.set_table(x86.UC_X86_REG_IDTR, 0, 0)
        for index, reg in enumerate((Reg.RAX, Reg.RCX, Reg.RDX, Reg.RBX)):
            self.write(reg, 0x1122334455667700 + index)
        self.write(Reg.GS_BASE, 0x123456789)
        self.scratch = SavedCpu(self)
        self.save(self.scratch)
        env = self.scratch
        good = (
            [env.u64(8 * i) & 0xFF for i in range(4)] == [0, 1, 2, 3]
            and env.u64(0) == 0x1122334455667700
            and env.u64(ENV_SEGMENTS + 5 * SEGMENT_SIZE + 8) == 0x123456789
            and env.u64(ENV_CR + 24) == _ROOT
            and env.u64(ENV_GDT + 8) == IDENTITY + _TABLE
        )
        if not good:
            raise MachineError("this build of Unicorn has another CPU structure than 2.1.4")
        self.write(Reg.GS_BASE, 0)
        #: Ring 0 in the private address space: for the firmware, and for dropping translations.
        self.ring0 = SavedCpu(self)
        self.save(self.ring0)
        self.error_offset = 0
        self.old_exception_offset = 0

    def calibrate(self) -> None:
        """Finds the exception fields; called when a page fault with error code 0x15 at the firmware page is pending."""
        env = self.scratch
        target = IDENTITY + self.firmware_frame
        for offset in range(ENV_CR, len(env.data) - 128, 4):
            after = offset + 8 + 7 & ~7
            old = after + 8 + 64 + 32
            if env.i32(offset) == 0x15 and env.i32(offset + 4) == 0 and env.u64(after) == target and env.i32(old) == 14:
                self.error_offset, self.old_exception_offset = offset, old
                return
        raise MachineError("this build of Unicorn keeps exceptions elsewhere than 2.1.4")

    # Registers.

    def read(self, reg: int) -> int:
        """A register of up to 64 bits."""
        self._value.value = 0
        self.lib.uc_reg_read(self.handle, reg, self._pointer)
        return self._value.value

    def write(self, reg: int, value: int) -> None:
        """Sets a register; `value` is taken modulo 2**64."""
        self._value.value = value
        if error := self.lib.uc_reg_write(self.handle, reg, self._pointer):
            self.check(error)

    def set_table(self, reg: int, base: int, limit: int, selector: int = 0, flags: int = 0) -> None:
        """Sets GDTR, IDTR or LDTR."""
        value = _Descriptor(selector, base, limit, flags)
        self.check(self.lib.uc_reg_write(self.handle, reg, ctypes.byref(value)))

    # Contexts.

    def save(self, state: SavedCpu) -> None:
        """Saves the CPU into `state`."""
        self.lib.uc_context_save(self.handle, state.pointer)

    def restore(self, state: SavedCpu) -> None:
        """Loads `state`. The TLB is not flushed: callers who change CR3 do it."""
        self.lib.uc_context_restore(self.handle, state.pointer)

    def flush_tlb(self) -> None:
        """Forgets all cached translations of linear addresses, at once, also from inside a hook."""
        self.ctl(uc.UC_CTL_TLB_FLUSH)

    def drop_translations(self, start: int, end: int) -> None:
        """Forgets translated code that overlaps the physical range [start, end). Allowed inside a hook."""
        self.save(self.scratch)
        self.restore(self.ring0)
        begin, limit = ctypes.c_uint64(IDENTITY + start), ctypes.c_uint64(IDENTITY + end)
        try:
            self.ctl(uc.UC_CTL_TB_REMOVE_CACHE, begin, limit, arguments=2)
        finally:
            self.restore(self.scratch)

    def take_exception(self) -> tuple[int, bool]:
        """(error code, is a software interrupt) of the exception being reported; forgets that it is in flight."""
        env = self.scratch
        self.save(env)
        if not self.error_offset:
            self.calibrate()
        error = env.i32(self.error_offset)
        software = env.i32(self.error_offset + 4) != 0
        env.data[self.old_exception_offset : self.old_exception_offset + 4] = struct.pack("<i", -1)
        self.restore(env)
        return error, software
