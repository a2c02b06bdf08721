"""What the machine layer costs: `python bench/bench_machine.py [--json]`.

Counted speed is given as a ratio of what the same Unicorn does without any hook on the same code in the same run; the
other
figures are microseconds of CPU time, each the best of several repetitions, since disturbances only add.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unicorn
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL
from unicorn import x86_const as x86

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyvmm.machine import BudgetUsed, Machine, Reg, SoftInt, Syscall

UNICORN: Any = unicorn  # the package has types only in part
PAIRS = 20
CODE, STACK, GDT, FIRMWARE = 0x400000, 0x600000, 0x700000, 0xFFFF_8300_0000_0000
DATA, NO_CODE, FAR = 0x500000, 0x520000, 0x1520000  # 16 pages each; the last are 16 MiB from those before
NX = 1 << 63

# mov $n,%ecx; then a loop; then int3.
SHORT = ("b9{n}", "01d8 89c3 ffc9 75f8")
# A sum over memory with calls, stores and branches, as compiled code has: 5 blocks, 30 instructions a round.
LONG = (
    "b9{n} 41b800005000",
    "e823000000"  # call f
    "4189c1 4183e107 43890c88 438b1488 01d0 3d00100000 7205 2d00100000 ffc9 75da eb28"
    "55 4889e5 4883ec20 897dfc 8b45fc 0fafc1 8945f8 8b55f8 c1ea03 31d0 89c2 c1e205 01d0 83c007 c9 c3",
)


def code(parts: tuple[str, str], n: int) -> bytes:
    """The program with `n` rounds."""
    return bytes.fromhex(parts[0].format(n=n.to_bytes(4, "little").hex()) + parts[1]) + b"\xcc"


def guest(engine: str) -> Machine:
    """A machine at CPL 3 with flat segments and a few pages."""
    m = Machine(memory=32 << 20, engine=engine)
    ram = m.ram
    root, nxt = 0x1000, 0x2000

    def map_page(va: int, pa: int, flags: int) -> None:
        nonlocal nxt
        table = root
        for shift in (39, 30, 21):
            at = table + 8 * (va >> shift & 511)
            if not ram.read_u64(at):
                ram.write_u64(at, nxt | 7)
                nxt += 0x1000
            table = ram.read_u64(at) & ~0xFFF
        ram.write_u64(table + 8 * (va >> 12 & 511), pa | flags)

    for i in range(16):
        map_page(CODE + (i << 12), 0x100000 + (i << 12), 7)
        map_page(DATA + (i << 12), 0x200000 + (i << 12), 7)
        map_page(NO_CODE + (i << 12), 0x210000 + (i << 12), 7 | NX)
        map_page(FAR + (i << 12), 0x220000 + (i << 12), 7 | NX)
        map_page(STACK - (i + 1 << 12), 0x300000 + (i << 12), 7)
    map_page(GDT, 0x400000, 1)
    map_page(FIRMWARE, m.firmware_frame, 1)
    ram.write(0x400000, struct.pack("<5Q", 0, 0, 0, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF))
    m.firmware_va = FIRMWARE
    m.cr3 = root
    m.set_gdt(GDT, 0xFFF)
    m.load_segments(cs=0x23, ss=0x1B)
    return m


def start(m: Machine) -> None:
    """Puts the current context at the beginning of the code."""
    m.set(Reg.RIP, CODE)
    m.set(Reg.RSP, STACK)


def best(f: Callable[[], float], times: int = 5) -> float:
    """The smallest of several measurements."""
    return min(f() for _ in range(times))


def timed(f: Callable[[], object]) -> float:
    """Seconds of CPU time that `f` takes."""
    begin = time.process_time()
    f()
    return time.process_time() - begin


def plain(program: bytes) -> Callable[[], float]:
    """A measurement of plain Unicorn, paging off and no hook, of the program without its last byte."""
    uc = UNICORN.Uc(UC_ARCH_X86, UC_MODE_64)
    uc.ctl_set_cpu_model(x86.UC_CPU_X86_QEMU64)
    uc.ctl_set_tcg_buffer_size(64 << 20)
    memory = ctypes.create_string_buffer((4 << 20) + 4096)
    address = ctypes.addressof(memory) + 4095 & ~4095
    uc.mem_map_ptr(CODE, 4 << 20, UC_PROT_ALL, address)
    uc.mem_write(CODE, program)

    def once() -> float:
        assert memory
        uc.reg_write(x86.UC_X86_REG_RSP, STACK)
        return timed(lambda: uc.emu_start(CODE, CODE + len(program) - 1))

    return once


def speed(engine: str, parts: tuple[str, str], n: int) -> dict[str, float]:
    """Counted MIPS, and the ratio to raw Unicorn, in CPU time: medians over pairs of a new machine and a new raw CPU.

    Each pair is new because a short loop's speed depends on where its translation happens to lie: raw, this one runs
    at 500 to 2000 MIPS. That is also why the best of each kind is given.
    """
    program = code(parts, n)
    ours, theirs, ratios = [], [], []
    for _ in range(PAIRS):
        raw = plain(program)
        m = guest(engine)
        m.ram.write(0x100000, program)

        def counted(m: Machine = m) -> float:
            start(m)
            return timed(lambda: m.run(1 << 60))

        times = [(counted(), raw()) for _ in range(3)]
        mine, its = (min(column) for column in zip(*times, strict=True))
        count = m.instructions / 3 / 1e6
        ours.append(count / mine)
        theirs.append(count / its)
        ratios.append(its / mine)
    return {
        "mips": statistics.median(ours),
        "raw_mips": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "best_mips": max(ours),
        "best_raw_mips": max(theirs),
    }


def boundary(engine: str) -> dict[str, float]:
    """Microseconds for crossings between guest and host."""
    n = 20_000 if engine == "fast" else 1000
    out = {}
    m = guest(engine)
    m.ram.write(0x100000, code(("b9{n} 4189cc", "0f05 41ffcc 75f9"), n))

    def handler(rax: int, rdi: int, rsi: int, rdx: int, r10: int, r8: int) -> int:
        return 0

    m.on_syscall = handler

    def calls() -> float:
        start(m)
        return timed(lambda: m.run(1 << 60))

    out["syscall_us"] = best(calls) / n * 1e6
    m.ram.write(0x100000, code(("b9{n}", "0f31 ffc9 75fa"), n))
    out["rdtsc_us"] = best(calls) / n * 1e6
    m.on_syscall = None
    m.ram.write(0x100000, bytes.fromhex("0f05ebfc"))
    start(m)

    def declined() -> None:
        for _ in range(n):
            assert m.run(1000) == Syscall()

    out["run_to_declined_syscall_us"] = best(lambda: timed(declined)) / n * 1e6
    m.ram.write(0x100000, bytes.fromhex("90909090909090 ebf7"))
    start(m)

    def slices() -> None:
        for _ in range(n):
            assert m.run(1003) == BudgetUsed()

    out["run_to_budget_us"] = best(lambda: timed(slices)) / n * 1e6
    m.ram.write(0x100000, bytes.fromhex("488b042500000000"))
    start(m)

    def faults() -> None:
        for _ in range(n):
            m.run(100000)

    out["run_to_fault_us"] = best(lambda: timed(faults)) / n * 1e6
    a, b = m.current, m.new_context()

    def switches() -> None:
        for _ in range(n):
            m.switch(b)
            m.switch(a)

    out["switch_us"] = best(lambda: timed(switches)) / n / 2 * 1e6
    other = 0x500000
    m.ram.copy(other, 0x1000, 4096)
    m.switch(b)
    m.cr3 = other
    m.switch(a)
    out["switch_with_cr3_us"] = best(lambda: timed(switches)) / n / 2 * 1e6

    def access() -> None:
        for _ in range(n):
            m.set(Reg.RBX, 5)
            m.get(Reg.RBX)

    out["get_and_set_us"] = best(lambda: timed(access)) / n * 1e6
    write = m.ram.write_u64

    def words() -> None:
        for _ in range(n):
            write(0x600000, 5)

    six = (Reg.RIP, Reg.RSP, Reg.RFLAGS, Reg.CS, Reg.SS, Reg.RCX)

    def several() -> None:
        for _ in range(n):
            m.get_many(six)

    out["get_many_of_6_us"] = best(lambda: timed(several)) / n * 1e6

    def selectors() -> None:
        for _ in range(n):
            m.load_segments(fs=0, gs=0)

    out["load_two_selectors_us"] = best(lambda: timed(selectors)) / n * 1e6

    def code_segments() -> None:
        for _ in range(n):
            m.load_segments(cs=0x23, ss=0x1B)

    out["load_cs_and_ss_us"] = best(lambda: timed(code_segments)) / n * 1e6
    out["ram_write_u64_us"] = best(lambda: timed(words)) / n * 1e6
    translate = m.translate

    def walks() -> None:
        for _ in range(n):
            translate(CODE)

    out["translate_us"] = best(lambda: timed(walks)) / n * 1e6
    m.set(Reg.RIP, CODE)
    m.ram.write(0x100000, b"\x90\xcc")
    assert m.run(5) == SoftInt(3, 1)
    return out


def memory(engine: str) -> dict[str, float]:
    """Nanoseconds for what the CPU engine pays more for than one would think."""
    n = 200_000 if engine == "fast" else 2000
    m = guest(engine)

    def loop(body: str, rdi: int, rsi: int = 0) -> float:
        rounds = bytes.fromhex(body) + b"\xff\xc9"
        m.ram.write(0x100000, b"\xb9" + n.to_bytes(4, "little") + rounds + bytes([0x75, 0xFE - len(rounds)]) + b"\xcc")

        def once() -> float:
            start(m)
            m.set(Reg.RDI, rdi)
            m.set(Reg.RSI, rsi)
            return timed(lambda: m.run(1 << 60))

        return best(once) / n * 1e9

    store, loads = "488907", "488b07 488b06"  # mov %rax,(%rdi); mov (%rdi),%rax, mov (%rsi),%rax
    out = {
        "loop_that_stores_ns": loop(store, NO_CODE),
        "to_a_page_that_can_be_executed_ns": loop(store, DATA),
        "loop_of_two_loads_ns": loop(loads, NO_CODE, NO_CODE + 4096),
        "from_pages_16_mib_apart_ns": loop(loads, NO_CODE, FAR),
    }
    pages = 16
    again = n // pages

    def walk(count: int, flush: bool) -> float:
        m.ram.write(
            0x100000, b"\xb9" + count.to_bytes(4, "little") + bytes.fromhex("488b07 4881c700100000 ffc9 75f2 cc")
        )

        def all_of_them() -> None:
            for _ in range(again):
                start(m)
                m.set(Reg.RDI, NO_CODE)
                if flush:
                    m.flush_tlb()
                m.run(1 << 60)

        return best(lambda: timed(all_of_them))

    # What one flush costs, and the page with the code, are in both.
    flushed, known = (walk(pages, flush) - walk(1, flush) for flush in (True, False))
    out["page_after_a_flush_ns"] = (flushed - known) / again / (pages - 1) * 1e9
    words = pages * 512
    m.ram.write(0x100000, b"\xb9" + words.to_bytes(4, "little") + bytes.fromhex("f348ab cc"))

    def fill() -> float:
        start(m)
        m.set(Reg.RDI, NO_CODE)
        return timed(lambda: m.run(1 << 60))

    out["iteration_of_rep_stosq_ns"] = best(fill) / words * 1e9
    return out


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    engine = Machine(memory=1 << 20, engine=arguments.engine).engine
    rounds = 3_000_000 if engine == "fast" else 50_000 if engine == "pure" else 2_000
    results: dict[str, object] = {
        "engine": engine,
        "loop_of_4": speed(engine, SHORT, rounds),
        "calls_and_memory": speed(engine, LONG, rounds // 10),
        "boundary": boundary(engine),
        "memory": memory(engine),
    }
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for name, value in results.items():
        if isinstance(value, dict):
            for key, number in value.items():
                print(f"{name + '.' + key:40} {number:10.3f}")
        else:
            print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
