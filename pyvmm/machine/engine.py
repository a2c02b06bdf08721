"""The run loop that all engines share, the stepper, and the bookkeeping of counts.

Engines differ in `go`: how they run whole translated blocks. Everything exceptional (the last instructions of a
budget, port I/O, `cpuid`) is done here, one instruction at a time, with the CPU's own trap flag: the trap after each
instruction is what counts it, so stepping knows nothing of blocks and is the oracle for engines that count by blocks.
They answer `rdtsc` in the middle of a block (`timed`): what is counted of the block and still to come is taken off.

Counting by blocks. A block's instructions are counted when it is entered. What did not retire is taken back: the tail
of the block from the faulting instruction on. A store into the block that executes makes Unicorn leave it there without
any notice and execute the storing instruction alone; the one-instruction block inside the previous block is the sign of
it. A `call` may also be there again because it was taken: then RSP, or what is on the stack, has changed (`redone`).

A repeated string instruction is a block that is entered once an iteration. It is counted at the first entry only. An
iteration is known by RCX having changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from unicorn import unicorn_const as uc
from unicorn import x86_const as x86

from pyvmm.machine import faults, opcodes
from pyvmm.machine.cpu import Cpu
from pyvmm.machine.exits import (
    WITH_ERROR_CODE,
    BudgetUsed,
    Exit,
    Fault,
    MachineError,
    PageFault,
    SoftInt,
    Stopped,
    Syscall,
)
from pyvmm.machine.lengths import length
from pyvmm.machine.opcodes import Op, Plan
from pyvmm.machine.paging import PF_I, walk
from pyvmm.machine.registers import CR2, CR4, CR4_TSD, FLAG_TF, RAX, RBX, RCX, RDX, RFLAGS, RIP, RSP

#: A run leaves the CPU engine this often, in instructions, so that Ctrl-C is noticed.
SLICE: Final = 50_000_000
#: Blocks of a log that an engine keeps itself.
LOG_MOST: Final = 1 << 18
#: A single repeated instruction is interrupted after so many iterations in one run, as an interrupt would do.
REP_LIMIT: Final = 1 << 24

SyscallHandler = Callable[[int, int, int, int, int, int], int | None]
CpuidHandler = Callable[[int, int], tuple[int, int, int, int] | None]
_MASK64: Final = (1 << 64) - 1


class Mode:
    """What the CPU is being run for. (Plain numbers: members of an enum cost ten times as much to look up.)"""

    BLOCKS = 0
    STEP = 1
    FIRMWARE = 2
    ONE_BLOCK = 3  # stop before the next block
    STEPPING = 4  # instructions one after another, without leaving the CPU; fast_step.c only


class Why:
    """Why `go` came back."""

    NOTHING = 0
    FIT = 1  # the next block does not fit into the budget
    STEP = 2  # the next `step_count` instructions must be stepped
    EXCEPTION = 3
    INVALID = 4
    SYSCALL = 5
    STOP = 6
    SLICE = 7
    REP_LIMIT = 8
    ERROR = 9  # a callback raised; `error` has it
    PAUSED = 10  # the stepping in C stopped between two instructions


class Engine:
    """Base of the engines. One a machine."""

    name = ""
    timed = False  # `rdtsc` has a hook of its own: blocks with it in them run as others do

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.ram = cpu.ram
        self.lib = cpu.lib
        self.handle = cpu.handle
        self.on_syscall: SyscallHandler | None = None
        self.on_cpuid: CpuidHandler | None = None
        if self.timed:  # a hook answers, so that it need not fault
            cpu.write(x86.UC_X86_REG_CR4, CR4 & ~CR4_TSD)
            cpu.save(cpu.ring0)
        self.tsc_offset = 0
        self.in_callback = False
        self.stop_requested = False
        self.mode = Mode.BLOCKS
        self.why = Why.NOTHING
        self.vector = 0
        self.error_code = 0
        self.software = False
        self.error: BaseException | None = None
        self.step_count = 0
        self._plans: dict[int, dict[bytes, Plan]] = {64: {}, 32: {}, 16: {}}
        #: The block entered last that was nothing but a `call`: (pc, size, RSP).
        self._call = (0, 0, 0)
        self._step_tf = False
        self._step_counted = False
        self._rep_run = 0
        self.one_block_at = 0
        self._flush = False
        self.log: list[npt.NDArray[np.uint64]] = []
        self.log_full: Callable[[], None] | None = None  # called when LOG_MOST blocks have not been drained
        self.sysret_cs = self.sysret_ss = 0  # see Machine.sysret_selectors
        #: The firmware ran in a callback: the run is left and entered again, for Unicorn is not quite reentrant.
        self.restart = False

    # What a subclass provides.

    instructions: int
    rep_iterations: int
    limit: int

    def set_log(self, on: bool) -> None:
        """Begin or end the log of entered blocks, which is empty then. The engine was made with `profile`."""
        raise NotImplementedError

    def drain_log(self) -> None:
        """Move what was logged to `log`: arrays of rows (pc, instructions before, RSP), all u64."""
        raise NotImplementedError

    def go(self) -> None:
        """Runs whole blocks until `why` says something."""
        raise NotImplementedError

    def block(self) -> tuple[int, int]:
        """(pc, size) of the block entered last in this run; size 0 when there is none."""
        raise NotImplementedError

    def rep_at(self) -> int | None:
        """The address of the repeated instruction in progress."""
        raise NotImplementedError

    def end_rep(self) -> None:
        """Settles the iterations of the repeated instruction in progress."""
        raise NotImplementedError

    def forget_block(self) -> None:
        """No block is being executed."""
        raise NotImplementedError

    def flush_tlb(self) -> None:
        """Forgets all translations of linear addresses before the guest goes on. (Not at once: a hypercall may change
        many page-table entries.)"""
        self._flush = True

    def address_space_changed(self) -> None:
        """CR3 changed or the TLB was flushed: what is known by linear address is void."""

    def flush_now(self) -> None:
        """Does what `flush_tlb` asked for."""
        if self._flush:
            self._flush = False
            self.cpu.flush_tlb()
            self.address_space_changed()

    # Registers, overridden where faster ways exist.

    def read(self, reg: int) -> int:
        """A register."""
        return self.cpu.read(reg)

    def write(self, reg: int, value: int) -> None:
        """Sets a register."""
        self.cpu.write(reg, value)

    def read_many(self, regs: Any) -> list[int]:
        """Several registers."""
        return [self.read(r) for r in regs]

    def write_many(self, regs: Any, values: Any) -> None:
        """Sets several registers."""
        for reg, value in zip(regs, values, strict=True):
            self.write(reg, value)

    # Code.

    def code_segment(self) -> tuple[int, int]:
        """(bits, base) of the current code segment; its base does not count in 64-bit mode."""
        self.cpu.save(self.cpu.scratch)
        return self.cpu.scratch.code_segment()

    def linear(self, ip: int) -> int:
        """The linear address of `ip` in the code segment."""
        bits, base = self.code_segment()
        return ip if bits == 64 else ip + base & 0xFFFFFFFF

    def redone(self, plan: Plan, pc: int) -> bool:
        """Whether the instruction that is a block of its own (SINGLE) at `pc`, which lies in the block before, is
        executed once more because it did not retire there."""
        if plan.k not in (1, 2):
            return True
        rsp = self.read(RSP)
        before, its_size = self.block()
        if pc == before:
            return (pc, its_size, rsp) == self._call
        if plan.k == 1:
            return True
        try:
            pa = walk(self.ram.u64, self.read(x86.UC_X86_REG_CR3), rsp, False, True, False)
        except PageFault:
            return True
        return self.ram.read_u32(pa) != (before + its_size) & 0xFFFFFFFF

    def fetch(self, va: int, n: int) -> bytes:
        """At most `n` bytes of code at `va`, fewer where the address space ends."""
        cr3 = self.read(x86.UC_X86_REG_CR3)
        parts = []
        while n > 0:
            try:
                pa = walk(self.ram.u64, cr3, va & _MASK64, False, True, True)
            except PageFault:
                break
            part = min(n, 4096 - (pa & 4095))
            parts.append(bytes(self.ram.bytes[pa : pa + part]))
            va += part
            n -= part
        return b"".join(parts)

    def plan(self, pc: int, size: int, count: int = 0) -> Plan:
        """The plan for the block of `size` bytes at `pc`; `count` is the engine's number of instructions, 0 if not
        known.

        Plans are kept by content, so they cannot be stale.
        """
        code = self.fetch(pc, size)
        bits = self.code_segment()[0]
        plan = self._plans[bits].get(code)
        if plan is None:
            plan = self._plans[bits][code] = opcodes.plan(code, count, bits, self.timed)
        return plan

    # Running.

    def run(self, budget: int) -> Exit:
        """Retires at most `budget` instructions."""
        self.limit = self.instructions + budget
        self.stop_requested = False
        self.forget_block()
        self._rep_run = 0
        try:
            while True:
                if self.instructions >= self.limit and self.rep_at() is None:
                    return BudgetUsed()
                self.why = Why.NOTHING
                self.mode = Mode.BLOCKS
                self.go()
                result = self._after_go()
                if result is not None:
                    return result
        finally:
            self.forget_block()

    def _after_go(self) -> Exit | None:
        why = self.why
        if why == Why.SLICE:
            return None
        if why == Why.FIT:
            return self._step_many(self.limit - self.instructions) or BudgetUsed()
        if why == Why.STEP:
            self.forget_block()
            return self._step_many(min(self.step_count, self.limit - self.instructions))
        if why == Why.SYSCALL:
            return Syscall()
        if why == Why.STOP:
            return Stopped()
        if why == Why.ERROR:
            error, self.error = self.error, None
            assert error is not None
            raise error
        if why == Why.REP_LIMIT:
            self.instructions -= 1
            return BudgetUsed()
        return self._exception()

    def _exception(self) -> Exit | None:
        """An exception while running blocks."""
        rip = self.linear(self.read(RIP))
        if self.why == Why.EXCEPTION:
            vector, error, software = self.vector, self.error_code, self.software
        elif self.why == Why.INVALID:
            vector, error, software = 6, 0, False
        else:  # the engine gave up without an exception: a page-table entry points outside memory
            vector, error, software = 18, 0, False
        rep = self.rep_at()
        if rep is not None:
            self.end_rep()
        if software:
            return self._block_soft_interrupt(vector, rip)
        if vector == 1:
            if rep == rip:  # the trap flag is the guest's: one iteration was done
                self.instructions -= 1
            return Fault(1, None)
        fetching = vector == 14 and error & PF_I
        if not fetching:
            pc, size = self.block()
            if pc <= rip < pc + size:
                self.instructions -= opcodes.not_retired(self.plan(pc, size).sizes, rip - pc)
        elif rep == rip:
            self.instructions -= 1
        elif self.read(CR2) ^ rip > 0xFFF:
            # The engine translates ahead: the fault may belong to a later instruction than the one at RIP.
            self.forget_block()
            return self._step_many(1)
        return self._fault(vector, error)

    def _fault(self, vector: int, error: int) -> Fault:
        if vector == 13 and error == 0 and faults.near_the_border(self.read):
            rip = self.linear(self.read(RIP))
            if faults.is_stack_fault(self.fetch(rip, 15), rip, self.read):
                vector = 12
        code = error if vector in WITH_ERROR_CODE else None
        return Fault(vector, code, self.read(CR2) if vector == 14 else 0)

    def _block_soft_interrupt(self, vector: int, rip: int) -> SoftInt:
        """`rip` is behind the instruction, which need not be the block's last (`into`)."""
        pc, size = self.block()
        sizes = self.plan(pc, size).sizes
        self.instructions -= opcodes.not_retired(sizes, rip - pc)
        return SoftInt(vector, opcodes.size_before(sizes, rip - pc))

    # Stepping.

    def _step_many(self, n: int) -> Exit | None:
        for _ in range(n):
            result = self.step()
            if result is not None:
                return result
            if self.stop_requested:
                return Stopped()
        return None

    def step(self) -> Exit | None:
        """Executes the instruction at RIP (a repeated one to its end). None: it retired and nothing else happened."""
        pc = self.read(RIP)
        bits, base = self.code_segment()
        va = pc if bits == 64 else pc + base & 0xFFFFFFFF
        code = self.fetch(va, 15)
        op = opcodes.classify(code, 0, bits)
        if op == Op.PORT:
            return Fault(13, 0)  # IOPL is 0 and there is no I/O bitmap
        if op == Op.ABSENT:
            return Fault(6, None)
        guest_tf = self.read(RFLAGS) & FLAG_TF
        if op == Op.RDTSC or (op == Op.CPUID and self.on_cpuid is not None and self._cpuid()):
            if op == Op.RDTSC:
                now = self.instructions + self.tsc_offset
                self.write(RAX, now & 0xFFFFFFFF)
                self.write(RDX, now >> 32 & 0xFFFFFFFF)
            self.write(RIP, pc + length(code, 0, bits))
            self.instructions += 1
            return Fault(1, None) if guest_tf else None
        if op in (Op.STACK_SEGMENT, Op.PAUSE):
            result = self._untrapped(pc, va)
            return Fault(1, None) if result is None and op == Op.PAUSE and guest_tf else result
        repeated = op in (Op.REP, Op.REP_COMPARE)
        self._rep_run = 0
        while True:
            rcx = self.read(RCX) if repeated else 0
            self._run_one(guest_tf)
            rip = self.read(RIP)
            trapped = self.why == Why.EXCEPTION and self.vector == 1 and not self.software
            if not guest_tf:
                self._clear_trap_flag(op, trapped)
            if repeated:
                self._iterated(opcodes.counter_mask(code, bits), rcx)
                if trapped and rip == pc:
                    if guest_tf:
                        return Fault(1, None)
                    if self._rep_run >= REP_LIMIT:
                        return BudgetUsed()
                    continue
            return self._stepped(trapped, guest_tf, rip - pc)

    def _untrapped(self, pc: int, va: int) -> Exit | None:
        """`mov` to SS (Intel SDM volume 3, 6.8.3: no trap after it) or `pause`, at linear address `va`: seen to be done
        when the next block comes."""
        self.why = Why.NOTHING
        self.one_block_at = va
        self.mode = Mode.ONE_BLOCK
        self.start()
        self.mode = Mode.BLOCKS
        if self.read(RIP) == pc:
            return self._fault(self.vector, self.error_code)
        # Retired; a fault in fetching the next instruction will come again.
        self.instructions += 1
        return None

    def _iterated(self, mask: int, rcx: int) -> None:
        if (rcx ^ self.read(RCX)) & mask:
            self.rep_iterations += 1
            self._rep_run += 1

    def _run_one(self, guest_tf: int) -> None:
        self._step_tf = not guest_tf
        self._step_counted = False
        self.why = Why.NOTHING
        if not guest_tf:
            self.write(RFLAGS, self.read(RFLAGS) | FLAG_TF)
        self.mode = Mode.STEP
        self.start()
        self.mode = Mode.BLOCKS
        self._step_tf = False

    def _clear_trap_flag(self, op: int, trapped: bool) -> None:
        """Takes our trap flag away again, also where the instruction stored it; keeps one that it loaded."""
        if trapped and op == Op.LOAD_FLAGS:
            return
        self.write(RFLAGS, self.read(RFLAGS) & ~FLAG_TF)
        if trapped and op == Op.PUSHF:
            # The image is at the stack pointer, whatever the operand size; its bit 8 is in the second byte.
            self.cpu.save(self.cpu.scratch)
            top = self.cpu.scratch.stack_top(1)
            pa = walk(self.ram.u64, self.read(x86.UC_X86_REG_CR3), top, True, True, False)
            self.ram.write_u8(pa, self.ram.read_u8(pa) & ~1)

    def _stepped(self, trapped: bool, guest_tf: int, size: int) -> Exit | None:
        """What came of a step; RIP is `size` further than before."""
        if trapped:
            if not self._step_counted:
                self.instructions += 1
            return Fault(1, None) if guest_tf else None
        why = self.why
        if why == Why.EXCEPTION:
            if self.software:
                self.instructions += 1
                return SoftInt(self.vector, size & 15)
            return self._fault(self.vector, self.error_code)
        if why == Why.INVALID:
            return self._fault(6, 0)
        if why == Why.SLICE:  # a syscall, done and counted, whose callback used the firmware
            return Fault(1, None) if guest_tf else None
        if why in (Why.SYSCALL, Why.STOP, Why.ERROR):
            return self._after_go()
        return self._fault(18, 0)

    def _cpuid(self) -> bool:
        assert self.on_cpuid is not None
        leaf, subleaf = self.read(RAX) & 0xFFFFFFFF, self.read(RCX) & 0xFFFFFFFF
        self.in_callback = True
        try:
            answer = self.on_cpuid(leaf, subleaf)
        finally:
            self.in_callback = False
        if answer is None:
            return False
        for reg, value in zip((RAX, RBX, RCX, RDX), answer, strict=True):
            self.write(reg, value & 0xFFFFFFFF)
        return True

    def start(self) -> None:
        """Enters the CPU at RIP; returns when a hook has stopped it."""
        self.flush_now()
        error = self.lib.uc_emu_start(self.handle, self.read(RIP), 0, 0, 0)
        if self.why == Why.NOTHING and not error and self.mode == Mode.BLOCKS:
            self.why = Why.SLICE

    def firmware(self, rip: int) -> tuple[int, int]:
        """Runs CPL-0 code at `rip` until an exception: (vector, error code). Nothing is counted."""
        mode, why = self.mode, self.why
        self.mode = Mode.FIRMWARE
        self.why = Why.NOTHING
        self.write(RIP, rip)
        try:
            self.start()
            if self.why != Why.EXCEPTION:
                raise MachineError(f"the firmware at {rip:#x} did not run (reason {self.why}): is it mapped?")
        finally:
            self.mode, self.why = mode, why
            self.restart = self.in_callback
        return self.vector, self.error_code


#: Hooks that every engine installs: (kind, instruction, first address, last address).
HOOK_TYPES: Final = {
    "block": uc.UC_HOOK_BLOCK,
    "intr": uc.UC_HOOK_INTR,
    "insn": uc.UC_HOOK_INSN,
    "time": uc.UC_HOOK_INSN,
    "invalid": uc.UC_HOOK_INSN_INVALID,
    "edge": uc.UC_HOOK_EDGE_GENERATED,
}
