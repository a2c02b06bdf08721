"""Stores of a guest kernel to its own L1 table, by real instructions."""

from __future__ import annotations

import pytest

from pyvmm.abi import xen
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor import ptwr
from pyvmm.machine import BudgetUsed, Exit, Fault, Reg

from .pv_host import RO_FLAGS, RW_FLAGS, Guest, Host, audit

CODE, DATA, TARGET, SPARE = 9, 10, 20, 21  # pfns: instructions, an operand, whose L1 entry is stored to, another
L1 = 3


class Kernel(Guest):
    """A guest whose vCPU runs instructions placed in its page CODE."""

    def __init__(self) -> None:
        super().__init__(Host(16 << 20), 1)
        self.start()
        self.domain.vm_assist = 1 << xen.VMASST_TYPE_writable_pagetables
        assert self.v.context is not None
        self.machine = self.host.machine
        self.machine.switch(self.v.context)
        self.host.mmu.set_cr3(self.v)
        #: Where the L1 entry that maps TARGET is in the guest's own view of its L1 table.
        self.slot = self.va(L1) + (self.va(TARGET) >> 12) * 8

    def run(self, code: str, **registers: int) -> Exit:
        """Run one instruction (hex), serving one page fault as Xen does; what came out in the end."""
        self.v.copy_out(self.va(CODE), bytes.fromhex(code) + b"\xeb\xfe")
        self.machine.set(Reg.RIP, self.va(CODE))
        self.machine.set(Reg.RFLAGS, 0x202)
        for name, value in registers.items():
            self.machine.set(Reg[name.upper()], value)
        before = self.machine.instructions
        reason = self.machine.run(1)
        if isinstance(reason, Fault) and reason.vector == 14:
            assert self.machine.instructions == before
            if ptwr.fault(self.v, reason.address, reason.error_code or 0):
                assert self.machine.instructions == before + 1
                assert self.machine.get(Reg.RIP) == self.va(CODE) + len(bytes.fromhex(code))
                audit(self.host)
                return BudgetUsed()
        return reason


@pytest.fixture
def k() -> Kernel:
    return Kernel()


def refused(k: Kernel, code: str, **registers: int) -> bool:
    """The store is a page fault, and has changed nothing."""
    table, counts = k.host.machine.ram.read(k.l1 << 12, 4096), k.host.frames.counts.tobytes()
    reason = k.run(code, **registers)
    assert k.machine.get(Reg.RIP) == k.va(CODE)
    for name, value in registers.items():
        assert k.machine.get(Reg[name.upper()]) == value
    assert k.host.frames.counts.tobytes() == counts
    after = k.host.machine.ram.read(k.l1 << 12, 4096)
    changed = [i for i in range(512) if table[i * 8 : i * 8 + 8] != after[i * 8 : i * 8 + 8]]
    for i in changed:  # the CPU sets accessed and dirty bits of the pages it used
        old, new = (int.from_bytes(t[i * 8 : i * 8 + 8], "little") for t in (table, after))
        assert (old ^ new) & ~(P.ACCESSED | P.DIRTY) == 0
    audit(k.host)
    return isinstance(reason, Fault) and reason.vector == 14


MOV64 = "488907"  # mov %rax,(%rdi)
MOV32 = "8907"
MOV8 = "8807"


def test_a_new_mapping(k: Kernel) -> None:
    new = k.mfns[SPARE] << 12 | P.PRESENT | P.RW
    assert isinstance(k.run(MOV64, rdi=k.slot, rax=new), BudgetUsed)
    assert k.l1_entry(TARGET) == new | P.USER | P.GUEST_KERNEL
    k.v.copy_out(k.va(TARGET), b"there")
    assert k.v.copy_in(k.va(SPARE), 5) == b"there"
    assert not k.entry(k.l1, k.va(L1) >> 12) & P.RW, "the table stays read-only"


def test_same_value_in_all_sizes(k: Kernel) -> None:
    value = k.l1_entry(TARGET)
    for code, shift in ((MOV64, 0), (MOV32, 0), (MOV8, 0), (MOV32, 4), (MOV8, 7)):
        assert isinstance(k.run(code, rdi=k.slot + shift, rax=value >> shift * 8), BudgetUsed)
        assert k.l1_entry(TARGET) == value


def test_unmapping_drops_the_reference(k: Kernel) -> None:
    count = k.host.frames.count(k.mfns[TARGET])
    assert isinstance(k.run(MOV64, rdi=k.slot, rax=0), BudgetUsed)
    assert k.host.frames.count(k.mfns[TARGET]) == count - 1
    # The lower half of an entry that is not present may be anything.
    assert isinstance(k.run(MOV32, rdi=k.slot, rax=0xFFFF_FFFE), BudgetUsed)
    assert k.l1_entry(TARGET) == 0xFFFF_FFFE


def test_read_modify_write(k: Kernel) -> None:
    value = k.l1_entry(TARGET)
    k.machine.set(Reg.RAX, 0)
    assert isinstance(k.run("f0480fba3701", rdi=k.slot), BudgetUsed)  # lock btrq $1,(%rdi)
    assert k.machine.get(Reg.RFLAGS) & 1, "the carry flag tells that the bit was set"
    assert k.l1_entry(TARGET) == value & ~P.RW
    assert isinstance(k.run("488707", rdi=k.slot, rax=0), BudgetUsed)  # xchg %rax,(%rdi)
    assert k.machine.get(Reg.RAX) == value & ~P.RW and k.l1_entry(TARGET) == 0
    new = k.mfns[SPARE] << 12 | P.PRESENT | P.USER
    assert isinstance(k.run("f0480fb10f", rdi=k.slot, rax=0, rcx=new), BudgetUsed)  # lock cmpxchg %rcx,(%rdi)
    assert k.machine.get(Reg.RFLAGS) & 0x40 and k.l1_entry(TARGET) == new | P.GLOBAL
    assert isinstance(k.run("f0480fb10f", rdi=k.slot, rax=5, rcx=0), BudgetUsed)
    assert not k.machine.get(Reg.RFLAGS) & 0x40 and k.machine.get(Reg.RAX) == new | P.GLOBAL


def test_refusals(k: Kernel) -> None:
    assert refused(k, MOV64, rdi=k.slot, rax=k.l4 << 12 | RW_FLAGS)  # a writable page table
    assert refused(k, MOV64, rdi=k.slot, rax=0x10 << 12 | RW_FLAGS)  # device memory
    assert refused(k, MOV64, rdi=k.slot, rax=k.mfns[SPARE] << 12 | RW_FLAGS | P.PCD)
    assert refused(k, MOV64, rdi=k.slot + 4, rax=0)  # not aligned
    assert refused(k, "0f1107", rdi=k.slot & ~15)  # movups: 16 bytes
    assert refused(k, "660fd607", rdi=k.slot)  # movq %xmm0,(%rdi): Xen's emulator lends no FPU
    for pfn in (0, 1, 2):  # tables above L1
        assert refused(k, MOV64, rdi=k.va(pfn), rax=k.entry(k.mfns[pfn], 0))
    k.domain.vm_assist = 0
    assert refused(k, MOV64, rdi=k.slot, rax=0)
    k.domain.privileged = True  # dom0 needs no assist
    assert isinstance(k.run(MOV64, rdi=k.slot, rax=0), BudgetUsed)


def test_refused_with_side_effects(k: Kernel) -> None:
    bad = k.l4 << 12 | RW_FLAGS
    assert refused(k, "488707", rdi=k.slot, rax=bad)  # xchg: rax keeps its value
    assert refused(k, "48ab", rdi=k.slot, rax=bad)  # stosq: rdi too


def test_user_mode_is_not_served(k: Kernel) -> None:
    k.v.user_mode = True
    assert not ptwr.fault(k.v, k.slot, 7)
    k.v.user_mode = False
    for code in (5, 6, 0x17, 0xF):
        assert not ptwr.fault(k.v, k.slot, code)
    assert not ptwr.fault(k.v, 0xFFFF800000000000, 7)


def test_string_stores(k: Kernel) -> None:
    k.run(MOV64, rdi=k.slot, rax=0)
    k.run(MOV64, rdi=k.slot + 8, rax=0)
    new = k.mfns[SPARE] << 12 | RO_FLAGS
    assert isinstance(k.run("f348ab", rdi=k.slot, rcx=2, rax=new), BudgetUsed)  # rep stosq
    assert k.machine.get(Reg.RCX) == 0
    assert k.l1_entry(TARGET) == k.l1_entry(TARGET + 1) == new | P.GLOBAL


def test_the_entry_that_maps_the_table_itself(k: Kernel) -> None:
    slot = k.va(L1) + (k.va(L1) >> 12) * 8
    value = k.entry(k.l1, k.va(L1) >> 12)
    assert isinstance(k.run(MOV64, rdi=slot, rax=value & ~P.ACCESSED), BudgetUsed)
    assert k.entry(k.l1, k.va(L1) >> 12) & ~P.ACCESSED == value & ~P.ACCESSED
    assert refused(k, MOV64, rdi=slot, rax=value | P.RW)


def test_spurious(k: Kernel) -> None:
    assert ptwr.spurious(k.v, k.va(DATA), 6)
    assert not ptwr.spurious(k.v, k.va(L1), 7) and ptwr.spurious(k.v, k.va(L1), 5)
    assert not ptwr.spurious(k.v, 0xFFFF830000000000, 5)
    assert k.map(DATA, k.mfns[DATA], RW_FLAGS | P.NX) == 0
    assert not ptwr.spurious(k.v, k.va(DATA), 0x14) and ptwr.spurious(k.v, k.va(CODE), 0x14)
