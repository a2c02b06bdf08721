"""A PV domain that runs a few instructions given as bytes: for tests of what the CPU and Xen make of them.

Page `pfn` of the domain is mapped at `BASE + pfn * 4096`. The code is at CODE, an endless row of `nop` at HANDLER is
where traps and callbacks go, and the guest runs exactly as many instructions as a test says. Then the registers are as
the guest would find them before its next instruction.
"""

from __future__ import annotations

import struct
from typing import Any

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import xen
from pyvmm.hypervisor import cpu, lifecycle, subsystems  # noqa: F401 (registers the hypercalls)
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor.bounce import CS64, SS, U64
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.vcpu import Trap
from pyvmm.machine import Machine, Reg

PAGE = 4096
BASE = 0x100000
L4, L3, L2, L1, USER_L4, SPARE = range(6)
PAGES = 48
CODE, HANDLER, DATA, GDT = (BASE + pfn * PAGE for pfn in (8, 12, 16, 20))
STACK, KERNEL_STACK, USER_STACK = (BASE + pfn * PAGE for pfn in (28, 36, 44))  # tops: the page below each is mapped
READ_ONLY = BASE + L1 * PAGE
UNMAPPED = 0x180000
NON_CANONICAL = 0x8000_0000_0000
XEN_TEXT = 0xFFFF_82D0_4020_0000
NOP = b"\x90"
SYSCALL = b"\x0f\x05"
WILD = 0x7F00_0000_0000  # not mapped, but the guest's own

TABLE, RW, RO = 0x27, 0x67, 0x25


class CodeGuest:
    """One domain, one vCPU, set up and ready to run `code`. `context` are fields of struct vcpu_guest_context to
    change. It is alone on its host, unless it is put beside another one's (`host`).
    """

    def __init__(
        self,
        code: bytes = NOP,
        *,
        privileged: bool = False,
        user: bool = False,
        engine: str = "auto",
        host: Hypervisor | None = None,
        **context: Any,
    ) -> None:
        self.hv = host or Hypervisor(Machine(16 << 20, engine))
        self.machine = self.hv.machine
        domid = 0 if privileged else 1 + len(self.hv.domains)
        self.domain = lifecycle.create_domain(self.hv, domid, privileged=privileged, max_vcpus=2)
        self.domain.max_pages = PAGES
        self.free = self.hv.frames.free_count
        self.v = lifecycle.add_vcpu(self.domain)
        self.mfns = self.hv.frames.alloc(self.domain, PAGES)
        self.hv.xen_area.set_m2p_list(self.mfns, 0)
        for table, below in ((L4, L3), (L3, L2), (L2, L1), (USER_L4, L3)):
            self.raw(table, 0, self.mfns[below] << 12 | TABLE)
        for pfn, mfn in enumerate(self.mfns):
            flags = RO if pfn < SPARE or BASE + pfn * PAGE == GDT else RW
            self.raw(L1, (BASE >> 12) + pfn, mfn << 12 | flags)
        self.poke(CODE, code)
        self.poke(HANDLER, NOP * PAGE)
        context = {
            "flags": arch.VGCF_online | (0 if user else arch.VGCF_in_kernel),
            "user_regs": {
                "rip": CODE, "rsp": USER_STACK if user else STACK, "rflags": 0x202, "cs": CS64, "ss": SS, "rax": 0xA,
                "rbx": 0xB, "rcx": 0xC, "r11": 0x11,
            },
            "kernel_sp": KERNEL_STACK, "kernel_ss": SS, "event_callback_eip": HANDLER,
            "syscall_callback_eip": HANDLER + 0x100, "failsafe_callback_eip": HANDLER + 0x200,
            "ctrlreg": [0, self.mfns[USER_L4] << 12, 0, self.mfns[L4] << 12, 0, 0, 0, 0],
        } | context  # fmt: skip
        cpu.set_context(self.v, arch.vcpu_guest_context.pack(**context))
        for vector in (*range(20), 0x21, 0x80):
            self.v.traps[vector] = Trap(CS64, HANDLER + 0x800, 0, False)
        self.mask = 0
        lifecycle.unpause(self.domain)

    # -- memory

    def pa(self, va: int) -> int:
        """Physical address of one of the domain's own pages."""
        return (self.mfns[(va - BASE) // PAGE] << 12) + va % PAGE

    def raw(self, table: int, index: int, entry: int) -> None:
        """Store a page-table entry behind everybody's back."""
        self.machine.ram.write_u64((self.mfns[table] << 12) + index * 8, entry)

    def poke(self, va: int, data: bytes) -> None:
        """Store into the domain's memory."""
        self.machine.ram.write(self.pa(va), data)

    def words(self, va: int, n: int) -> tuple[int, ...]:
        """`n` 64-bit words of the domain's memory."""
        return struct.unpack(f"<{n}Q", self.machine.ram.read(self.pa(va), n * 8))

    def handler(self, vector: int) -> Trap | None:
        """An entry of the trap table."""
        return self.v.traps[vector]

    def in_user_mode(self) -> bool:
        """The guest is in its user mode."""
        return self.v.user_mode

    @property
    def mask(self) -> int:
        """evtchn_upcall_mask."""
        return self.machine.ram.read_u8(self.v.info_pa + 1)

    @mask.setter
    def mask(self, value: int) -> None:
        self.machine.ram.write_u8(self.v.info_pa + 1, value)

    def raise_event(self) -> None:
        """Set evtchn_upcall_pending."""
        self.machine.ram.write_u8(self.v.info_pa, 1)

    # -- running

    def run(self, instructions: int = 1) -> None:
        """Run the guest for exactly so many instructions (fewer if the domain crashes)."""
        self.hv.run(lambda: self.domain.shutdown_code is not None, instructions)

    def ready(self) -> None:
        """Give the vCPU the CPU, so that its registers can be set."""
        assert self.v.context is not None
        self.machine.switch(self.v.context)
        cpu.before_guest(self.v)

    def reg(self, reg: Reg) -> int:
        """A register."""
        return self.machine.get(reg)

    def set(self, **registers: int) -> None:
        """Set registers; the vCPU must have run, or be `ready`."""
        for name, value in registers.items():
            self.machine.set(Reg[name.upper()], value)

    def call(self, number: int, *args: int) -> int:
        """A hypercall, as if the guest had made it."""
        previous, self.hv.current = self.hv.current, self.v
        try:
            return hc.call(self.v, number, *args)
        finally:
            self.hv.current = previous

    def iret(self, *frame: int) -> None:
        """Have the guest make the iret hypercall with (rax, r11, rcx, flags, rip, cs, rflags, rsp, ss) on its stack."""
        self.poke(STACK - 72, struct.pack("<9Q", *frame))
        self.ready()
        self.set(rsp=STACK - 72)
        self.call(xen.HYPERVISOR_iret)
        assert self.v.after_stop is not None
        action, self.v.after_stop = self.v.after_stop, None
        action()

    @property
    def report(self) -> str:
        """The crash report; fails if the domain has not crashed."""
        assert self.domain.shutdown_code == 3 and self.domain.crash_report is not None
        return self.domain.crash_report

    def frame(self, *, error: bool = False) -> dict[str, int]:
        """The frame at RSP, by names."""
        names = ["rcx", "r11", *(["error"] if error else []), "rip", "cs", "rflags", "rsp", "ss"]
        return dict(zip(names, self.words(self.reg(Reg.RSP), len(names)), strict=True))


def load(address: int) -> bytes:
    """mov rax, [address]"""
    return b"\x48\xa1" + struct.pack("<Q", address & U64)


def store(address: int) -> bytes:
    """mov [address], rax"""
    return b"\x48\xa3" + struct.pack("<Q", address & U64)
