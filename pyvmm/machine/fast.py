"""The engine whose hooks are C (`fast.c`): the same algorithm as `PureEngine`, one Python call a `syscall`, none a
block."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np

from pyvmm.machine import opcodes
from pyvmm.machine._fast import ffi, lib
from pyvmm.machine.cpu import Cpu
from pyvmm.machine.engine import LOG_MOST, SLICE, Engine, Mode, SyscallHandler, Why
from pyvmm.machine.exits import BudgetUsed, Exit
from pyvmm.machine.opcodes import Kind
from pyvmm.machine.registers import FLAG_TF, RFLAGS

_FUNCTIONS: Final = (
    "uc_reg_read", "uc_reg_write", "uc_emu_start", "uc_emu_stop", "uc_hook_add", "uc_context_save",
    "uc_context_restore", "uc_ctl",
)  # fmt: skip
_MASK64: Final = (1 << 64) - 1
#: Single steps at a time: between them Ctrl-C is noticed.
_STEPS: Final = 1_000_000
_ARRAYS: Final = 256  # lists of registers remembered
_active: Any = None
_handler: Any = None


def _failed(kind: Any, error: BaseException, trace: Any) -> None:
    """A callback raised: the C side sees `failed` and stops the CPU."""
    _active.error = error
    _active._c.failed = 1


@ffi.def_extern(onerror=_failed)
def pv_py_syscall(rax: int, rdi: int, rsi: int, rdx: int, r10: int, r8: int) -> int:
    """A guest's `syscall`."""
    result = _handler(rax, rdi, rsi, rdx, r10, r8)
    if result is None:
        _active._c.declined = 1
        return 0
    return result & _MASK64  # type: ignore[no-any-return]


@ffi.def_extern(onerror=_failed)
def pv_py_plan(pc: int, size: int, count: int, out: Any) -> None:
    """The plan of a block seen for the first time."""
    plan = _active.plan(pc, size, count)
    out.n, out.kind, out.k = plan.n, plan.kind, plan.k
    if plan.kind == Kind.REP:
        out.mask = opcodes.counter_mask(_active.fetch(pc + plan.k, size - plan.k), _active.code_segment()[0])


@ffi.def_extern(onerror=_failed)
def pv_py_tail(pc: int, size: int, offset: int) -> int:
    """How many instructions of a block start at `offset` or later."""
    return opcodes.not_retired(_active.plan(pc, size).sizes, offset)


@ffi.def_extern(onerror=_failed)
def pv_py_calibrate() -> None:
    """Finds the exception fields in the CPU structure, at the first exception."""
    _active.cpu.calibrate()
    _active._c.error_offset = _active.cpu.error_offset
    _active._c.old_offset = _active.cpu.old_exception_offset


@ffi.def_extern(onerror=_failed)
def pv_py_log_full() -> None:
    """The profile's buffer is to be emptied."""
    assert _active.log_full is not None
    _active.log_full()


def _field(name: str) -> Any:
    return property(attrgetter(f"_c.{name}"), lambda self, value: setattr(self._c, name, value))


class FastEngine(Engine):
    """Counts by blocks, in C."""

    name = "fast"
    timed = True

    instructions = _field("instructions")
    rep_iterations = _field("rep_iterations")
    limit = _field("limit")
    stop_requested = _field("stop_requested")
    in_callback = _field("in_callback")
    one_block_at = _field("one_block_at")
    tsc_offset = _field("tsc_offset")
    restart = _field("restart")
    sysret_cs = _field("sysret_cs")
    sysret_ss = _field("sysret_ss")
    _rep_run = _field("rep_run")

    def __init__(self, cpu: Cpu, profile: bool = False) -> None:
        functions = ffi.new("void *[]", [ffi.cast("void *", self._address(cpu, name)) for name in _FUNCTIONS])
        ram = ctypes.addressof(ctypes.c_char.from_buffer(cpu.ram.map))
        code = ctypes.addressof(ctypes.c_char.from_buffer(cpu.ram.code))
        self._c = lib.pv_new(
            ffi.cast("void *", cpu.handle), functions, ram, cpu.ram.size, code, cpu.scratch.pointer, profile
        )
        if not self._c:
            raise MemoryError("fast engine")
        super().__init__(cpu)
        self._log_buffer: Any = None
        # The hooks must outlive the CPU that calls them.
        self._free = weakref.finalize(cpu, lib.pv_free, self._c)
        self._handler: SyscallHandler | None = None
        self._arrays: dict[int, tuple[Sequence[int], int, Any, Any]] = {}

    def set_log(self, on: bool) -> None:
        """See `Engine.set_log`."""
        if on and self._log_buffer is None:
            self._log_buffer = ffi.new("pv_entry[]", LOG_MOST)
        self._c.log_used, self._c.log_size = 0, LOG_MOST
        self._c.log = self._log_buffer if on else ffi.NULL
        self.log = []

    def drain_log(self) -> None:
        """See `Engine.drain_log`."""
        used = self._c.log_used
        self.log.append(np.frombuffer(ffi.buffer(self._log_buffer, used * 24), np.uint64).reshape(-1, 3).copy())
        self._c.log_used = 0

    @staticmethod
    def _address(cpu: Cpu, name: str) -> int:
        return ctypes.cast(getattr(cpu.lib, name), ctypes.c_void_p).value or 0

    @property
    def on_syscall(self) -> SyscallHandler | None:
        """The handler of `syscall`."""
        return self._handler

    @on_syscall.setter
    def on_syscall(self, handler: SyscallHandler | None) -> None:
        global _handler
        self._handler = handler
        self._c.has_handler = handler is not None
        if _active is self:
            _handler = handler

    def _enter(self, mode: int) -> None:
        """Runs the CPU; the callbacks in this module serve this engine meanwhile."""
        global _active, _handler
        before = _active, _handler
        _active, _handler = self, self._handler
        c = self._c
        try:
            self.why = lib.pv_go(c, mode, SLICE)
        finally:
            _active, _handler = before
        self.vector, self.error_code, self.software = c.vector, c.error_code, bool(c.software)
        self.step_count = c.step_count
        c.failed = 0

    def run(self, budget: int) -> Exit:
        # As in the base class, with the C structure at hand.
        c = self._c
        c.limit = c.instructions + budget
        c.stop_requested = 0
        c.rep_run = 0
        self.forget_block()
        self.mode = Mode.BLOCKS
        try:
            while c.instructions < c.limit or c.rep_active:
                self._enter(Mode.BLOCKS)
                result = self._after_go()
                if result is not None:
                    return result
            return BudgetUsed()
        finally:
            self.forget_block()

    def go(self) -> None:
        self._enter(Mode.BLOCKS)

    def start(self) -> None:
        self._enter(self.mode)

    def _run_one(self, guest_tf: int) -> None:
        c = self._c
        c.step_tf = not guest_tf
        c.step_counted = 0
        if not guest_tf:
            self.write(RFLAGS, self.read(RFLAGS) | FLAG_TF)
        self._enter(Mode.STEP)
        self._step_counted = bool(c.step_counted)
        c.step_tf = 0

    def fetch(self, va: int, n: int) -> bytes:
        buffer = ffi.new("uint8_t[]", n)
        got = lib.pv_fetch(self._c, va & _MASK64, n, buffer)
        return ffi.buffer(buffer, got)[:]  # type: ignore[no-any-return]

    def _step_many(self, n: int) -> Exit | None:
        global _active, _handler
        c = self._c
        while n > 0:
            before = _active, _handler
            _active, _handler = self, self._handler
            try:
                done = lib.pv_step_many(c, min(n, _STEPS))
            finally:
                _active, _handler = before
            n -= done
            why = self.why = c.why
            if why == Why.REP_LIMIT:
                return BudgetUsed()
            if why != Why.NOTHING:
                self.vector, self.error_code, self.software = c.vector, c.error_code, bool(c.software)
                c.failed = 0
                return self._stepped(False, 0, 0)
            if n > 0 and done < _STEPS:  # an instruction that needs care
                result = super()._step_many(1)
                if result is not None:
                    return result
                n -= 1
        return None

    def code_segment(self) -> tuple[int, int]:
        lib.pv_code_segment(self._c)
        return self._c.code_bits, self._c.code_base

    def block(self) -> tuple[int, int]:
        return self._c.block_pc, self._c.block_size

    def rep_at(self) -> int | None:
        return self._c.rep_pc if self._c.rep_active else None

    def end_rep(self) -> None:
        lib.pv_end_rep(self._c)

    def forget_block(self) -> None:
        lib.pv_end_rep(self._c)
        self._c.block_size = 0

    def flush_tlb(self) -> None:
        self._c.flush = 1

    def address_space_changed(self) -> None:
        self._c.flush = 0  # a change of CR3 is a flush
        lib.pv_forget_addresses(self._c)

    def read(self, reg: int) -> int:
        return lib.pv_read(self._c, reg)  # type: ignore[no-any-return]

    def write(self, reg: int, value: int) -> None:
        self.cpu.check(lib.pv_write(self._c, reg, value & _MASK64))

    def _array(self, regs: Sequence[int]) -> tuple[Sequence[int], int, Any, Any]:
        """The C arrays for the numbers and the values of `regs`; a tuple's are remembered."""
        known = self._arrays.get(id(regs))
        if known is None:
            n = len(regs)
            known = regs, n, ffi.new("int[]", regs), ffi.new("uint64_t[]", n)
            if type(regs) is tuple:
                # It is kept together with its array, so that its id stays its own.
                if len(self._arrays) >= _ARRAYS:
                    self._arrays.clear()
                self._arrays[id(regs)] = known
        return known

    def read_many(self, regs: Sequence[int]) -> list[int]:
        _, n, numbers, values = self._array(regs)
        lib.pv_read_many(self._c, numbers, values, n)
        return ffi.unpack(values, n)  # type: ignore[no-any-return]

    def write_many(self, regs: Iterable[int], values: Iterable[int]) -> None:
        _, n, numbers, array = self._array(regs if isinstance(regs, tuple) else list(regs))
        array[0:n] = [v & _MASK64 for v in values]
        lib.pv_write_many(self._c, numbers, array, n)


class FastStepEngine(FastEngine):
    """Executes one instruction at a time, in C (`fast_step.c`): the same rules as `StepEngine`."""

    name = "step"

    def run(self, budget: int) -> Exit:
        self.limit = self.instructions + budget
        self.stop_requested = False
        self.forget_block()
        return self._step_many(budget) or BudgetUsed()
