"""The machine: one CPU on which many contexts take turns, one physical memory, one clock, one instruction counter.

Contract: `docs/design.md`, section "machine". Nothing here knows Xen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from unicorn import x86_const as x86

from pyvmm.machine import firmware, fpu, segments
from pyvmm.machine.context import Context
from pyvmm.machine.cpu import (
    ENV_CR,
    ENV_SEGMENTS,
    FLAT_CS,
    FLAT_SS,
    IDENTITY,
    SEGMENT_SIZE,
    Cpu,
    SavedCpu,
)
from pyvmm.machine.engine import CpuidHandler, Engine, SyscallHandler
from pyvmm.machine.exits import Exit, MachineError, SegmentFault
from pyvmm.machine.paging import PF_I, PF_P, PF_U, walk
from pyvmm.machine.pure import PureEngine, StepEngine
from pyvmm.machine.ram import Ram
from pyvmm.machine.registers import CR0, FLAG_FIXED, FLAG_IF, SELECTORS, Reg
from pyvmm.machine.segments import Segments

#: "python-step" is "step" without the C extension, for tests.
LOG_PART: Final = 1 << 20  # blocks after which a log is handed on
ENGINES: Final = ("auto", "fast", "pure", "step", "python-step")
_CR3: Final = x86.UC_X86_REG_CR3
_RING3_REACHED: Final = PF_P | PF_U | PF_I
_CR0_TS: Final = 8
_LDT_FLAGS: Final = 0x8200  # present, type LDT (Intel SDM volume 3, 3.5)


@dataclass(frozen=True)
class BlockLog:
    """The blocks that were entered, in order: `pc`, and before each `before`, the instructions retired since power-on,
    and `rsp`. `marks`: (number of blocks so far, instructions so far, the context that is on the CPU from then on), the
    last one at the end. What is retired between two rows belongs to the former's block."""

    pc: npt.NDArray[np.uint64]
    before: npt.NDArray[np.uint64]
    rsp: npt.NDArray[np.uint64]
    marks: tuple[tuple[int, int, Context], ...]


def _engine(name: str, cpu: Cpu, profile: bool) -> Engine:
    name = os.environ.get("PYVMM_ENGINE", "auto") if name == "auto" else name
    if name not in ENGINES:
        raise MachineError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    if name in ("auto", "fast", "step"):
        try:
            from pyvmm.machine.fast import FastEngine, FastStepEngine
        except ImportError:
            if name == "fast":
                raise MachineError("the fast engine's extension is not built") from None
            name = "pure" if name == "auto" else name
        else:
            return FastStepEngine(cpu, profile) if name == "step" else FastEngine(cpu, profile)
    return PureEngine(cpu, profile) if name == "pure" else StepEngine(cpu, profile)


class Machine:
    """A CPU at CPL 3 with its memory.

    `memory` is in bytes, a multiple of 4096, at most 60 GiB (committed as it is used). `engine` is "fast" (needs the C
    extension), "pure", "step" (one instruction at a time) or "auto": the environment's PYVMM_ENGINE if set, else the
    fastest there is. All give the same results. With `profile` the blocks that are entered can be logged.
    """

    def __init__(self, memory: int = 512 << 20, engine: str = "auto", profile: bool = False) -> None:
        self.ram = Ram(memory)
        self._cpu = Cpu(self.ram)
        self._engine = _engine(engine, self._cpu, profile)
        self.engine = self._engine.name
        self.charged = 0
        self.skipped = 0
        self._firmware_va: int | None = None
        self._running = False
        self._profiled = profile
        self._marks: list[tuple[int, int, Context]] | None = None
        self._sink: Callable[[BlockLog], None] | None = None
        self._logged = 0  # blocks that `_sink` has not been given
        self._mine, self._ring0 = SavedCpu(self._cpu), SavedCpu(self._cpu)
        self._segments = Segments(self.ram)
        self._blank = self._make_blank()
        self.ram.on_code_write(self._cpu.drop_translations)
        self._current = self.new_context()
        self._cpu.restore(self._current.saved)

    def _make_blank(self) -> SavedCpu:
        """Enters ring 3 once, by the firmware in the private address space, and keeps that state, zeroed, for new
        contexts."""
        base = IDENTITY + self.firmware_frame
        self._frame(base, FLAT_CS, FLAT_SS)
        self._engine.write(Reg.RSP, base + firmware.FRAME)
        vector, error = self._engine.firmware(base + firmware.ENTRY_IRETQ)
        if (vector, error) != (14, _RING3_REACHED):
            raise MachineError(f"ring 3 was not reached: exception {vector}, error code {error:#x}")
        for reg in Reg:
            if reg not in SELECTORS:
                self._engine.write(reg, 0)
        self._engine.write(Reg.RFLAGS, FLAG_FIXED | FLAG_IF)
        self._engine.write(_CR3, 0)
        self._cpu.set_table(x86.UC_X86_REG_GDTR, 0, 0)
        fpu.load(self._cpu, fpu.RESET)
        blank = SavedCpu(self._cpu)
        self._cpu.save(blank)
        return blank

    # Counting and time.

    @property
    def instructions(self) -> int:
        """Instructions retired since power-on."""
        return self._engine.instructions

    @property
    def rep_iterations(self) -> int:
        """Iterations of repeated string instructions since power-on."""
        return self._engine.rep_iterations

    @property
    def now(self) -> int:
        """Virtual nanoseconds: executed + charged + skipped."""
        return self._engine.instructions + self.charged + self.skipped

    def retire(self, n: int, iterations: int = 0) -> None:
        """Adjusts the counters, for instructions emulated (or refused) above; `iterations` are those of a repeated
        one."""
        self._engine.instructions += n
        self._engine.rep_iterations += iterations

    def charge(self, n: int) -> None:
        """Charges `n` instructions for work that the host did."""
        self.charged += n
        self._engine.tsc_offset += n

    def skip_to(self, t: int) -> None:
        """Lets idle time pass until the virtual nanosecond `t`, if that is in the future."""
        idle = max(0, t - self.now)
        self.skipped += idle
        self._engine.tsc_offset += idle

    # Running.

    @property
    def on_syscall(self) -> SyscallHandler | None:
        """Called in place for every `syscall`; see the contract."""
        return self._engine.on_syscall

    @on_syscall.setter
    def on_syscall(self, handler: SyscallHandler | None) -> None:
        self._engine.on_syscall = handler

    @property
    def sysret_selectors(self) -> tuple[int, int]:
        """CS and SS after a `syscall` that was served in place: what SYSRET loads (Intel SDM volume 2, from IA32_STAR),
        without a look at any descriptor. The guest may have come with others. (0, 0): they stay as they are."""
        return self._engine.sysret_cs, self._engine.sysret_ss

    @sysret_selectors.setter
    def sysret_selectors(self, selectors: tuple[int, int]) -> None:
        self._engine.sysret_cs, self._engine.sysret_ss = selectors

    @property
    def on_cpuid(self) -> CpuidHandler | None:
        """`f(leaf, subleaf)` gives EAX, EBX, ECX, EDX, or None for the CPU model's own answer."""
        return self._engine.on_cpuid

    @on_cpuid.setter
    def on_cpuid(self, handler: CpuidHandler | None) -> None:
        self._engine.on_cpuid = handler

    def run(self, budget: int) -> Exit:
        """Runs the current context until an exit, for at most `budget` retired instructions.

        A single repeated string instruction is interrupted, and `BudgetUsed` returned early, after 2**24 iterations.
        """
        if self._running:
            raise MachineError("run called from a callback")
        self._running = True
        context = self._current
        try:
            return self._engine.run(budget)
        finally:
            self._running = False
            if self._current is not context:
                raise MachineError("a callback left another context current")

    def request_stop(self) -> None:
        """In a callback: makes `run` return `Stopped` after the instruction."""
        self._engine.stop_requested = True

    # The log of blocks.

    def _mark(self, context: Context) -> None:
        assert self._marks is not None
        self._engine.drain_log()
        self._logged += len(self._engine.log[-1])
        self._marks.append((self._logged, self.instructions, context))
        if self._logged >= LOG_PART:
            self._deliver()

    def _deliver(self) -> None:
        assert self._marks is not None and self._sink is not None
        rows = np.concatenate(self._engine.log)
        self._sink(BlockLog(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].copy(), tuple(self._marks)))
        _, instructions, context = self._marks[-1]
        self._engine.log.clear()
        self._marks, self._logged = [(0, instructions, context)], 0

    def log_start(self, sink: Callable[[BlockLog], None]) -> None:
        """Begin to log the blocks that are entered. `sink` is given the log in parts, the later ones in the middle of
        the run, so that a long one needs no more memory; it must not touch the machine. `MachineError`: the machine
        was not made with `profile`."""
        if not self._profiled:
            raise MachineError("the machine was not made for a profile")
        self._engine.set_log(True)
        self._engine.log_full = lambda: self._mark(self._current)
        self._marks, self._logged, self._sink = [], 0, sink
        self._mark(self._current)

    def log_stop(self) -> None:
        """End the log; `sink` has been given all of it."""
        self._mark(self._current)
        assert self._marks is not None
        if len(self._marks) > 1:  # else the mark itself made a part full
            self._deliver()
        self._engine.set_log(False)
        self._engine.log_full = self._marks = self._sink = None

    # Contexts.

    def new_context(self) -> Context:
        """A context with all registers zero (RFLAGS 0x202), CPL 3, 64-bit."""
        saved = SavedCpu(self._cpu)
        saved.data[:] = self._blank.data
        return Context(saved)

    @property
    def current(self) -> Context:
        """The context whose registers are in the CPU."""
        return self._current

    def switch(self, context: Context) -> None:
        """Saves the current context and makes `context` current. A callback must switch back before it returns."""
        if context is self._current:
            return
        old = self._current
        if self._marks is not None:
            self._mark(context)
        self._cpu.save(old.saved)
        self._cpu.restore(context.saved)
        self._current = context
        if old.cr3 != context.cr3:
            self.flush_tlb()

    def drop_context(self, context: Context) -> None:
        """Frees a context that is not needed any more; it must not be current."""
        if context is self._current:
            raise MachineError("the current context cannot be dropped")
        context.saved.free()

    def get(self, reg: int) -> int:
        """A register of the current context. In a syscall callback RIP is that of the `syscall`."""
        return self._engine.read(reg)

    def set(self, reg: int, value: int) -> None:
        """Sets a register of the current context; not a selector."""
        if reg in SELECTORS:
            raise MachineError("selectors are loaded by load_segments")
        self._engine.write(reg, value)

    def get_many(self, regs: Sequence[int]) -> list[int]:
        """Several registers."""
        return self._engine.read_many(regs)

    def set_many(self, regs: Iterable[int], values: Iterable[int]) -> None:
        """Sets several registers."""
        self._engine.write_many(regs, values)

    @property
    def cr3(self) -> int:
        """The physical address of the current context's top page table."""
        return self._current.cr3

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._current.cr3 = value
        self._engine.write(_CR3, value)
        self._engine.address_space_changed()

    def set_gdt(self, base: int, limit: int) -> None:
        """The current context's GDTR: linear address and limit in bytes less one."""
        self._cpu.set_table(x86.UC_X86_REG_GDTR, base, limit)

    def set_ldt(self, base: int, limit: int) -> None:
        """The current context's LDT: linear address and limit in bytes less one; limit 0 for none."""
        self._cpu.set_table(x86.UC_X86_REG_LDTR, base, limit, 0xFFF8 if limit else 0, _LDT_FLAGS if limit else 0)

    @property
    def firmware_frame(self) -> int:
        """The physical address of the page of CPL-0 code: the last one of memory."""
        return self._cpu.firmware_frame

    @property
    def firmware_va(self) -> int | None:
        """Where every address space maps the firmware (supervisor, executable)."""
        return self._firmware_va

    @firmware_va.setter
    def firmware_va(self, va: int) -> None:
        if self._firmware_va is not None and self._firmware_va != va:
            raise MachineError("firmware_va can be set only once")
        self._firmware_va = va

    def _frame(self, target: int, cs: int, ss: int) -> None:
        frame = self.firmware_frame + firmware.FRAME
        for i, value in enumerate((target, cs, FLAG_FIXED, 0, ss)):
            self.ram.write_u64(frame + 8 * i, value)

    def load_segments(
        self,
        *,
        cs: int | None = None,
        ss: int | None = None,
        ds: int | None = None,
        es: int | None = None,
        fs: int | None = None,
        gs: int | None = None,
    ) -> None:
        """Loads selectors for real, by the firmware. Raises `SegmentFault` when the CPU refuses one; the state is
        then unchanged.

        CS and SS are loaded together by `iretq`: the one not given is loaded again as it is.
        """
        base = self._firmware_va
        if base is None:
            raise MachineError("firmware_va is not set")
        data = {n: s for n, s in (("ds", ds), ("es", es), ("fs", fs), ("gs", gs)) if s is not None}
        mine, cr3 = self._mine, self._current.cr3
        self._cpu.save(mine)
        code = None
        if cs is not None or ss is not None:
            code = (
                segments.selector(mine, "cs") if cs is None else cs,
                segments.selector(mine, "ss") if ss is None else ss,
            )
        if self._segments.load(mine, cr3, data, code):
            self._cpu.restore(mine)
            return
        ring0 = self._ring0
        ring0.data[:] = self._cpu.ring0.data
        ring0.data[ENV_SEGMENTS + 6 * SEGMENT_SIZE : ENV_CR] = mine.data[ENV_SEGMENTS + 6 * SEGMENT_SIZE : ENV_CR]
        ring0.put_u64(ENV_CR + 24, cr3)
        try:
            self._cpu.restore(ring0)
            self.flush_tlb()
            for name, selector in data.items():
                self._engine.write(Reg.RAX, selector)
                vector, error = self._engine.firmware(base + firmware.ENTRY[name])
                if vector != 3:
                    raise SegmentFault(selector, vector, error)
            if code is not None:
                self._iretq(base, *code)
            self._cpu.save(ring0)
            self._segments.remember(ring0, cr3, data, code)
            segments.move(mine, ring0, [*data, *(("cs", "ss") if code else ())])
        finally:
            self._cpu.restore(mine)
            self.flush_tlb()

    def _iretq(self, base: int, cs: int, ss: int) -> None:
        self._frame(base, cs, ss)
        self._engine.write(Reg.RSP, base + firmware.FRAME)
        vector, error = self._engine.firmware(base + firmware.ENTRY_IRETQ)
        # With a base, the code segment does not lead to the firmware's page: nothing is mapped there.
        if (vector, error | PF_P) != (14, _RING3_REACHED):
            # The error code names the selector; 0 means a null one.
            selector = ss if error & 0xFFFC == ss & 0xFFFC and ss != cs else cs
            raise SegmentFault(selector, vector, error)

    @property
    def task_switched(self) -> bool:
        """CR0.TS of the current context: its next use of the FPU raises #NM (Intel SDM volume 3, 2.5)."""
        return bool(self._engine.read(x86.UC_X86_REG_CR0) & _CR0_TS)

    @task_switched.setter
    def task_switched(self, on: bool) -> None:
        self._engine.write(x86.UC_X86_REG_CR0, CR0 | _CR0_TS if on else CR0)

    def get_fpu(self) -> bytes:
        """The 512-byte FXSAVE image of the current context."""
        return fpu.save(self._cpu)

    def set_fpu(self, image: bytes) -> None:
        """Loads an FXSAVE image. Raises ValueError when it has not 512 bytes."""
        fpu.load(self._cpu, image)

    # Memory.

    def write_pte(self, pa: int, value: int) -> None:
        """Writes a page-table entry; when the guest runs again, no stale translation of a linear address is used."""
        ram = self.ram
        old = ram.read_u64(pa)
        ram.write_u64(pa, value)
        if old & PF_P:  # what is not present is not in the TLB (Intel SDM volume 3, 4.10.2.3)
            self._engine.flush_tlb()

    def flush_tlb(self) -> None:
        """Forgets all cached translations of linear addresses, before the guest runs again."""
        self._engine.flush_tlb()

    def translate(
        self, va: int, *, write: bool = False, user: bool = True, execute: bool = False, cr3: int | None = None
    ) -> int:
        """The physical address of a linear one in the current (or the given) address space. Raises `PageFault`."""
        return walk(self.ram.u64, self._current.cr3 if cr3 is None else cr3, va, write, user, execute)
