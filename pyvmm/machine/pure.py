"""The engines in Python alone: hooks are ctypes callbacks.

`PureEngine` counts by blocks, exactly as the C engine does (`fast.c` is the same algorithm).
`StepEngine` steps every instruction; where there is the C extension, `fast.FastStepEngine` does it in its place.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from unicorn import x86_const as x86

from pyvmm.machine import opcodes
from pyvmm.machine.cpu import Cpu
from pyvmm.machine.engine import HOOK_TYPES, LOG_MOST, REP_LIMIT, SLICE, Engine, Mode, Why
from pyvmm.machine.exits import BudgetUsed, Exit, PageFault
from pyvmm.machine.opcodes import Kind, Plan
from pyvmm.machine.paging import walk
from pyvmm.machine.registers import CS, FLAG_TF, R8, R10, R11, RAX, RCX, RDI, RDX, RFLAGS, RIP, RSI, RSP, SS

_MASK64: Final = (1 << 64) - 1

_HANDLE = ctypes.c_void_p
_PROTOTYPES = {
    "block": ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p),
    "intr": ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_uint32, ctypes.c_void_p),
    "insn": ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_void_p),
    "time": ctypes.CFUNCTYPE(ctypes.c_int, _HANDLE, ctypes.c_void_p),
    "invalid": ctypes.CFUNCTYPE(ctypes.c_bool, _HANDLE, ctypes.c_void_p),
    "edge": ctypes.CFUNCTYPE(None, _HANDLE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
}


class _Block(ctypes.Structure):
    """`uc_tb`."""

    _fields_ = (("pc", ctypes.c_uint64), ("icount", ctypes.c_uint16), ("size", ctypes.c_uint16))


class PythonHooks(Engine):
    """What the Python engines share: hooks for exceptions and `syscall`."""

    def __init__(self, cpu: Cpu, profile: bool = False) -> None:
        super().__init__(cpu)
        self._rows: list[tuple[int, int, int]] | None = None
        self.instructions = 0
        self.rep_iterations = 0
        self.limit = 0
        self.mode = Mode.BLOCKS
        self._callbacks: list[Any] = []
        self._known: dict[tuple[int, int, int], Plan] = {}  # by pc, size, and width of the code
        #: Code of other widths than 64 bits was seen, so the width must be asked for.
        self._widths = False
        self._counts: dict[int, int] = {}
        self.lib.uc_hook_add.restype = ctypes.c_int
        self._hook("intr", self._on_intr)
        self._hook("invalid", self._on_invalid)
        self._hook("insn", self._on_syscall_hook, x86.UC_X86_INS_SYSCALL)
        self._hook("edge", self._on_edge)
        if profile:
            self._hook("block", self._on_profile)

    def set_log(self, on: bool) -> None:
        """See `Engine.set_log`."""
        self._rows = [] if on else None
        self.log = []

    def drain_log(self) -> None:
        """See `Engine.drain_log`."""
        assert self._rows is not None
        self.log.append(np.array(self._rows, np.uint64).reshape(-1, 3))
        self._rows = []

    def _on_profile(self, handle: int, pc: int, size: int, data: int) -> None:
        """Called before the engine's own hook: the counter still is what it was before this block."""
        if self._rows is not None and self.mode != Mode.FIRMWARE:
            if len(self._rows) == LOG_MOST and self.log_full is not None:
                self.log_full()
            self._rows.append((pc, self.instructions, self.cpu.read(RSP)))

    def _hook(self, kind: str, function: Any, *instruction: int) -> None:
        callback = _PROTOTYPES[kind](function)
        self._callbacks.append(callback)
        handle = ctypes.c_size_t()
        self.cpu.check(
            self.lib.uc_hook_add(
                ctypes.c_void_p(self.handle), ctypes.byref(handle), ctypes.c_int(HOOK_TYPES[kind]),
                ctypes.cast(callback, ctypes.c_void_p), None, ctypes.c_uint64(1), ctypes.c_uint64(0),
                *(ctypes.c_int(i) for i in instruction),
            )
        )  # fmt: skip

    def _on_other_block(self, pc: int) -> None:
        """A block is entered while stepping or in the firmware."""
        if self.mode == Mode.ONE_BLOCK and pc != self.one_block_at:
            self._stop(Why.STOP)

    def _on_edge(self, handle: int, current: int, previous: int, data: int) -> None:
        """A block was translated: what was known of it is void, and its pages hold translated code."""
        if self.mode == Mode.FIRMWARE:
            return
        block = _Block.from_address(current)
        bits = self.code_segment()[0]
        self._known.pop((block.pc, block.size, bits if self._widths else 64), None)
        if bits != 64 and not self._widths:
            self._widths = True
            self._known.clear()
        if block.size:
            self._counts[block.pc] = block.icount
        cr3 = self.read(x86.UC_X86_REG_CR3)
        for va in {block.pc, block.pc + max(block.size, 1) - 1}:
            try:
                pa = walk(self.ram.u64, cr3, va & _MASK64, False, True, True)
            except PageFault:
                continue
            if pa < self.ram.size:
                self.ram.code[pa >> 12] = 1

    def _stop(self, why: int) -> None:
        if self.why == Why.NOTHING:
            self.why = why
        self.lib.uc_emu_stop(self.handle)

    def _on_intr(self, handle: int, vector: int, data: int) -> None:
        try:
            error, software = self.cpu.take_exception()
            if self.why == Why.NOTHING:
                self.vector, self.error_code, self.software = vector, error, software
        except BaseException as e:
            self.error = e
            self._stop(Why.ERROR)
            return
        self._stop(Why.EXCEPTION)

    def _on_invalid(self, handle: int, data: int) -> bool:
        if self.why == Why.NOTHING:
            self.why = Why.INVALID
        return False

    def _on_syscall_hook(self, handle: int, data: int) -> None:
        if self.why != Why.NOTHING:
            return
        if self.mode == Mode.STEP:
            self._step_counted = True
            self.instructions += 1
        handler = self.on_syscall
        if handler is None:
            self._stop(Why.SYSCALL)
            return
        read = self.read
        ours = self._step_tf
        if ours:  # the callback must not see our trap flag
            self.write(RFLAGS, read(RFLAGS) & ~FLAG_TF)
        try:
            self.in_callback = True
            rax = handler(
                read(RAX), read(RDI), read(RSI), read(RDX), read(R10), read(R8)
            )  # fmt: skip
        except BaseException as e:
            self.error = e
            self._stop(Why.ERROR)
            return
        finally:
            self.in_callback = False
            self.flush_now()
        if rax is None:
            self._stop(Why.SYSCALL)
            return
        if self.sysret_cs and (read(CS) != self.sysret_cs or read(SS) != self.sysret_ss):
            self.write(CS, self.sysret_cs)
            self.write(SS, self.sysret_ss)
        flags = read(RFLAGS)
        self.write(RAX, rax)
        self.write(RCX, read(RIP) + 2)
        self.write(R11, flags)
        if ours:
            self.write(RFLAGS, flags | FLAG_TF)
        if self.stop_requested:
            self._stop(Why.STOP)
        elif self.restart:
            self.restart = False
            self._stop(Why.SLICE)


class PureEngine(PythonHooks):
    """Counts by blocks."""

    name = "pure"
    timed = True

    def __init__(self, cpu: Cpu, profile: bool = False) -> None:
        super().__init__(cpu, profile)
        self._pc = 0
        self._size = 0
        self._rep: int | None = None
        self._rep_rcx: int | None = None
        self._rep_mask = 0
        self._slice = 0
        self._iterations_left = 0
        self._hook("block", self._on_block)
        self._hook("time", self._on_rdtsc, x86.UC_X86_INS_RDTSC)

    def _on_rdtsc(self, handle: int, data: int) -> int:
        """In the middle of a block, which is counted as a whole already. (Stepping does it by itself.)"""
        try:
            sizes = self.plan(self._pc, self._size).sizes
            now = self.instructions - opcodes.not_retired(sizes, self.read(RIP) - self._pc) + self.tsc_offset
            self.write(RAX, now & 0xFFFFFFFF)
            self.write(RDX, now >> 32 & 0xFFFFFFFF)
        except BaseException as e:
            self.error = e
            self._stop(Why.ERROR)
        return 1  # it is done

    def go(self) -> None:
        self._slice = self.instructions + SLICE
        self._iterations_left = SLICE // 8
        self.start()

    def block(self) -> tuple[int, int]:
        return self._pc, self._size

    def rep_at(self) -> int | None:
        return self._rep

    def forget_block(self) -> None:
        self.end_rep()
        self._size = 0

    def address_space_changed(self) -> None:
        self._known.clear()
        self._counts.clear()

    def _on_block(self, handle: int, pc: int, size: int, data: int) -> None:
        if self.mode != Mode.BLOCKS:
            self._on_other_block(pc)
            return
        if self.why != Why.NOTHING:
            self.lib.uc_emu_stop(self.handle)
            return
        try:
            self._enter(pc, size)
        except BaseException as e:
            self.error = e
            self._stop(Why.ERROR)

    def _enter(self, pc: int, size: int) -> None:
        if self._rep is not None:
            if pc == self._rep:
                self._again(pc, size)
                return
            self.end_rep()
        key = pc, size, self.code_segment()[0] if self._widths else 64
        plan = self._known.get(key)
        if plan is None:
            plan = self._known[key] = self.plan(pc, size, self._counts.pop(pc, 0))
        if plan.kind == Kind.SINGLE and self._pc <= pc < self._pc + self._size and self.redone(plan, pc):
            # A store into the block before: it was left at this instruction, which is now executed alone.
            self.instructions -= opcodes.not_retired(self.plan(self._pc, self._size).sizes, pc - self._pc)
        after = self.instructions + plan.n
        if after > self.limit:
            self._size = 0
            self._stop(Why.FIT)
            return
        trapped_pause = plan.kind == Kind.SINGLE and plan.k == 3 and self.read(RFLAGS) & FLAG_TF
        if plan.kind == Kind.STEP or trapped_pause:
            self.step_count = 1 if trapped_pause else plan.k
            self._size = 0
            self._stop(Why.STEP)
            return
        if after > self._slice:
            self._size = 0
            self._stop(Why.SLICE)
            return
        self.instructions = after
        self._pc, self._size = pc, size
        if plan.kind == Kind.SINGLE and plan.k:
            self._call = pc, size, self.read(RSP)
        if plan.kind == Kind.REP:
            self._rep = pc + plan.k
            self._rep_run = 0
            code = self.fetch(self._rep, size - plan.k)
            self._rep_mask = opcodes.counter_mask(code, self.code_segment()[0])
            self._rep_rcx = self.read(RCX) & self._rep_mask if plan.n == 1 else None

    def _again(self, pc: int, size: int) -> None:
        """The repeated instruction is entered once more."""
        rcx = self.read(RCX) & self._rep_mask
        if rcx != self._rep_rcx:
            self.rep_iterations += 1
            self._rep_run += 1
            self._iterations_left -= 1
        self._rep_rcx = rcx
        self._pc, self._size = pc, size
        if self._rep_run >= REP_LIMIT and rcx:
            self._stop(Why.REP_LIMIT)
        elif self._iterations_left <= 0:
            self._stop(Why.SLICE)

    def end_rep(self) -> None:
        if self._rep is None:
            return
        if self._rep_rcx is not None and self.read(RCX) & self._rep_mask != self._rep_rcx:
            self.rep_iterations += 1
        self._rep = None


class StepEngine(PythonHooks):
    """Executes one instruction at a time: slow, simple, the oracle for counts."""

    name = "step"

    def __init__(self, cpu: Cpu, profile: bool = False) -> None:
        super().__init__(cpu, profile)
        self._hook("block", lambda handle, pc, size, data: self._on_other_block(pc))

    def go(self) -> None:
        raise NotImplementedError

    def block(self) -> tuple[int, int]:
        return 0, 0

    def rep_at(self) -> int | None:
        return None

    def end_rep(self) -> None:
        return

    def forget_block(self) -> None:
        return

    def run(self, budget: int) -> Exit:
        self.limit = self.instructions + budget
        self.stop_requested = False
        self._rep_run = 0
        return self._step_many(budget) or BudgetUsed()
