"""The crash report."""

from __future__ import annotations

import struct

from pyvmm.abi import sched, xen
from pyvmm.hypervisor.crash import Recent, Symbols
from pyvmm.images import DIRECTORY
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import CODE, DATA, NOP, STACK, SYSCALL, UNMAPPED, XEN_TEXT, CodeGuest, store


def crashed(code: bytes, **registers: int) -> CodeGuest:
    """A guest that has no handlers and dies of the first exception in `code`, after one `nop`."""
    g = CodeGuest(NOP + code)
    g.v.traps = [None] * 256
    g.domain.symbols = Symbols([(CODE, 0x40, "start"), (CODE + 0x100, 0, "main"), (CODE + 0x300, 0x10, "helper")])
    g.hv.recent = Recent(g.hv.trace)
    g.run(1)
    g.set(**registers)
    g.run(5)
    assert g.domain.shutdown_code == 3
    return g


def test_report_says_what_happened() -> None:
    report = crashed(store(UNMAPPED), rbx=0xDEAD).report
    lines = report.splitlines()
    assert lines[0] == "Unhandled: vec 14, #PF[0002]"
    assert f"e033:[<{CODE + 1:016x}>] start+0x1" in report
    assert "rbx: 000000000000dead" in report
    assert any(line.startswith(f"=>{CODE + 1:016x}: 48a3") and "movabs" in line for line in lines)
    assert f"Pagetable walk from {UNMAPPED:016x}:" in report and "L1[0x180] = 0000000000000000" in report
    assert "exception vector=14" in report


def test_backtrace_by_frame_pointers() -> None:
    g = CodeGuest()
    frames = struct.pack("<6Q", STACK - 0x20, CODE + 0x105, 0, 0, 0, CODE + 0x304)
    g.poke(STACK - 0x40, frames)
    g.v.traps = [None] * 256
    g.domain.symbols = Symbols([(CODE, 0, "start"), (CODE + 0x100, 0, "main"), (CODE + 0x300, 0, "helper")])
    g.ready()
    g.poke(CODE, b"\x0f\x0b")
    g.set(rbp=STACK - 0x40, rsp=STACK - 0x48)
    g.run(1)
    trace = g.report.split("Backtrace:\n")[1].split("Guest stack")[0].splitlines()
    assert [line.split()[-1] for line in trace] == ["start", "main+0x5", "helper+0x4"]


def test_backtrace_without_a_stack_pointer() -> None:
    g = CodeGuest(b"\x0f\x0b")
    g.poke(STACK - 0x40, struct.pack("<2Q", 0, CODE + 0x105))
    g.v.traps = [None] * 256
    g.ready()
    g.set(rbp=STACK - 0x40, rsp=UNMAPPED + 0x1000_0000)
    g.run(1)
    assert f"[<{CODE + 0x105:016x}>]" in g.report


def test_backtrace_by_scanning_the_stack() -> None:
    call = b"\xe8\0\0\0\0"
    g = CodeGuest()
    g.v.traps = [None] * 256
    g.ready()
    g.poke(CODE, b"\x0f\x0b" + b"\x90" * 6 + call)
    g.poke(STACK - 0x20, struct.pack("<4Q", 1, CODE + 13, CODE + 8, 0x1234))
    g.set(rsp=STACK - 0x20, rbp=0)
    g.run(1)
    assert f" ? [<{CODE + 13:016x}>]" in g.report
    assert f"[<{CODE + 8:016x}>]" not in g.report


def test_nothing_readable() -> None:
    g = CodeGuest()
    g.v.traps = [None] * 256
    g.ready()
    g.set(rip=XEN_TEXT, rsp=UNMAPPED, rbp=UNMAPPED)
    g.run(1)
    assert f"{XEN_TEXT:016x}: not readable" in g.report
    assert "not readable" in g.report.split("Guest stack")[1]


def test_report_is_the_same_every_time() -> None:
    assert crashed(store(UNMAPPED)).report == crashed(store(UNMAPPED)).report


def test_symbols() -> None:
    symbols = Symbols([(100, 10, "b"), (50, 0, "a")])
    assert [symbols.name(x) for x in (49, 50, 99, 100, 109, 110)] == [None, "a", "a+0x31", "b", "b+0x9", None]
    assert len(symbols) == 2


def test_symbols_of_an_image() -> None:
    data = (DIRECTORY / "hello").read_bytes()
    symbols = Symbols.of_elf(data)
    assert symbols.name(0x100000) is not None
    assert symbols.name(0) is None
    for damaged in (b"", b"\x7fELF", data[:100], data[: len(data) // 2]):
        assert Symbols.of_elf(damaged).name(0x100000) is None


def test_recent_keeps_the_last_ones() -> None:
    g = CodeGuest(NOP * 4)
    recent = Recent(g.hv.trace, size=2)
    g.ready()
    for _ in range(5):
        g.call(17, 0)
    assert len(recent.of(g.domain.domid)) == 2 and recent.of(99) == []
    recent.stop()
    assert not g.hv.trace.on
    assert g.reg(Reg.RIP) == CODE


def test_a_guest_that_says_it_crashed_is_reported_too() -> None:
    g = CodeGuest(SYSCALL)
    g.domain.symbols = Symbols([(CODE, 0x40, "panic")])
    g.hv.recent = Recent(g.hv.trace)
    g.poke(DATA, sched.sched_shutdown.pack(reason=sched.SHUTDOWN_crash))
    g.ready()
    g.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_shutdown, rsi=DATA)
    g.run(2)
    assert g.domain.shutdown_code == sched.SHUTDOWN_crash
    assert g.report.splitlines()[0] == "the guest's kernel shut itself down: SHUTDOWN_crash"
    assert f"=>{CODE:016x}: 0f05" in g.report and "panic" in g.report and "Guest stack" in g.report


def test_a_guest_that_powers_off_is_not() -> None:
    g = CodeGuest(SYSCALL)
    g.poke(DATA, sched.sched_shutdown.pack(reason=sched.SHUTDOWN_poweroff))
    g.ready()
    g.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_shutdown, rsi=DATA)
    g.run(2)
    assert g.domain.shutdown_code == sched.SHUTDOWN_poweroff and g.domain.crash_report is None
