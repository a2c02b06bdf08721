"""A harness for machine tests: page tables, a GDT, and code at CPL 3."""

from __future__ import annotations

import struct

from pyvmm.machine import Machine, Reg

CODE = 0x400000
DATA = 0x500000
STACK = 0x600000
FIRMWARE = 0xFFFF_8300_0000_0000
GDT = 0xFFFF_8300_0000_1000

P, RW, US, NX = 1, 2, 4, 1 << 63
CS, SS, CS32 = 0x33, 0x2B, 0x23
CS16, CS_HIGH = 0x4B, 0x53  # 16-bit code; 32-bit code whose base is 0x40000000
DESCRIPTORS = {0x23: 0x00CFFB000000FFFF, 0x2B: 0x00CFF3000000FFFF, 0x33: 0x00AFFB000000FFFF, 0x08: 0x00AF9B000000FFFF,
               0x10: 0x00CF93000000FFFF, 0x3B: 0x00CF73000000FFFF, 0x43: 0x00CFF1000000FFFF,
               0x4B: 0x008FFB000000FFFF, 0x53: 0x40CFFB000000FFFF}  # fmt: skip


class Guest:
    """A machine with address spaces that map code, data and stack pages."""

    def __init__(self, engine: str = "pure", memory: int = 16 << 20) -> None:
        self.m = Machine(memory=memory, engine=engine)
        self.free = 0x1000
        self.gdt = self.frame()
        for selector, value in DESCRIPTORS.items():
            self.m.ram.write_u64(self.gdt + (selector & ~7), value)
        self.m.firmware_va = FIRMWARE
        self.code = self.frame()
        self.code2 = self.frame()
        self.data = self.frame()
        self.data2 = self.frame()
        self.stack = self.frame()
        self.cr3 = self.space()
        self.use(self.cr3)

    def frame(self) -> int:
        """A fresh frame."""
        pa = self.free
        self.free += 0x1000
        return pa

    def map(self, cr3: int, va: int, pa: int, flags: int = P | RW | US) -> None:
        """Maps a page."""
        ram = self.m.ram
        table = cr3
        for shift in (39, 30, 21):
            at = table + 8 * (va >> shift & 511)
            if not ram.read_u64(at) & 1:
                ram.write_u64(at, self.frame() | P | RW | US)
            table = ram.read_u64(at) & 0xFFFFFFFFFF000
        self.m.write_pte(table + 8 * (va >> 12 & 511), pa | flags)

    def space(self, code: int | None = None) -> int:
        """A new address space: two pages of code, two of data, one of stack, the firmware and the GDT."""
        cr3 = self.frame()
        self.map(cr3, CODE, self.code if code is None else code)
        self.map(cr3, CODE + 0x1000, self.code2)
        self.map(cr3, DATA, self.data)
        self.map(cr3, DATA + 0x1000, self.data2)
        self.map(cr3, STACK - 0x1000, self.stack)
        self.map(cr3, FIRMWARE, self.m.firmware_frame, P)
        self.map(cr3, GDT, self.gdt, P)
        return cr3

    def use(self, cr3: int) -> None:
        """Prepares the current context for `cr3`."""
        m = self.m
        m.cr3 = cr3
        m.set_gdt(GDT, 0xFFF)
        m.load_segments(cs=CS, ss=SS, ds=SS, es=SS, fs=0, gs=0)
        m.set(Reg.RIP, CODE)
        m.set(Reg.RSP, STACK)

    def put(self, *code: str | bytes, at: int = 0) -> None:
        """Writes code (hexadecimal text or bytes) into the code pages."""
        raw = b"".join(bytes.fromhex(c) if isinstance(c, str) else c for c in code)
        self.m.ram.write(self.code + at, raw)

    def words(self, n: int) -> tuple[int, ...]:
        """The first 64-bit words of the data page."""
        return struct.unpack(f"<{n}Q", self.m.ram.read(self.data, 8 * n))

    def state(self) -> tuple[int, ...]:
        """What every engine must agree on."""
        m = self.m
        regs = [Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX, Reg.RSI, Reg.RDI, Reg.RBP, Reg.RSP, Reg.R8, Reg.R15]
        regs += [Reg.RIP, Reg.RFLAGS]
        return (*m.get_many(regs), m.instructions, m.rep_iterations)
