"""The machine's interface, on every engine."""

from __future__ import annotations

import pytest

from pyvmm.machine import BudgetUsed, Fault, MachineError, PageFault, Reg, SegmentFault, SoftInt, Stopped, Syscall
from pyvmm.machine.machine import _engine  # noqa: F401  (import proves the module loads)
from tests.machine.machine_guest import CODE, DATA, SS, Guest

try:
    import pyvmm.machine.fast  # noqa: F401

    ENGINES = ["fast", "pure", "step", "python-step"]
except ImportError:
    ENGINES = ["pure", "step"]


@pytest.fixture(params=ENGINES)
def guest(request: pytest.FixtureRequest) -> Guest:
    return Guest(request.param)


def test_loop_counts(guest: Guest) -> None:
    guest.put("48c7c064000000", "48ffc8", "75fb", "0f05")  # mov $100,%rax; 1: dec %rax; jnz 1b; syscall
    assert guest.m.run(10_000) == Syscall()
    assert guest.m.instructions == 1 + 200 + 1
    assert guest.m.get(Reg.RIP) == CODE + 14


@pytest.mark.parametrize("budget", range(0, 14))
def test_budget_is_exact(guest: Guest, budget: int) -> None:
    guest.put("4831c0", "48ffc0" * 4, "4883f814", "7cee")  # xor; 1: inc x4; cmp $20; jl 1b
    assert guest.m.run(budget) == BudgetUsed()
    assert guest.m.instructions == budget


def test_fault_is_not_retired_and_repeats(guest: Guest) -> None:
    guest.put("90", "90", "488b042500000000", "90")  # mov 0,%rax
    for _ in range(4):
        assert guest.m.run(100) == Fault(14, 4, 0)
        assert guest.m.instructions == 2
        assert guest.m.get(Reg.RIP) == CODE + 2
        assert guest.m.get(Reg.CR2) == 0


def test_syscall_in_place(guest: Guest) -> None:
    seen = []

    def handler(*args: int) -> int:
        seen.append((*args, guest.m.instructions))
        return (1 << 64) - 38

    guest.m.on_syscall = handler
    guest.put("b80a000000", "bf0b000000", "0f05", "90", "cc")
    assert guest.m.run(100) == SoftInt(3, 1)
    assert seen == [(10, 11, 0, 0, 0, 0, 3)]
    assert guest.m.get(Reg.RAX) == (1 << 64) - 38
    assert guest.m.get(Reg.RCX) == CODE + 12
    assert guest.m.get(Reg.R11) == guest.m.get(Reg.RFLAGS)
    assert guest.m.instructions == 5


def test_callback_exception_and_stop(guest: Guest) -> None:
    def handler(*args: int) -> int:
        if args[0] == 1:
            raise KeyError("mine")
        guest.m.request_stop()
        return 5

    guest.m.on_syscall = handler
    guest.put("b801000000", "0f05", "b802000000", "0f05", "90")
    with pytest.raises(KeyError, match="mine"):
        guest.m.run(100)
    assert guest.m.run(100) == Stopped()
    assert guest.m.get(Reg.RAX) == 5
    assert guest.m.get(Reg.RIP) == CODE + 14
    assert guest.m.instructions == 4


def test_segments(guest: Guest) -> None:
    m = guest.m
    m.set(Reg.RBX, 77)
    with pytest.raises(SegmentFault) as e:
        m.load_segments(ds=0x1003)
    assert e.value.selector == 0x1003 and e.value.error_code == 0x1000
    with pytest.raises(SegmentFault) as e:
        m.load_segments(cs=SS, ss=SS)
    assert e.value.selector == SS
    with pytest.raises(SegmentFault) as e:
        m.load_segments(gs=0x3B)  # a descriptor that is not present
    assert (e.value.vector, e.value.error_code) == (11, 0x38)
    assert m.get(Reg.GS) == 0
    m.load_segments(gs=SS)
    assert m.get(Reg.GS) == SS
    assert (m.get(Reg.RBX), m.get(Reg.RIP)) == (77, CODE)
    with pytest.raises(MachineError):
        m.set(Reg.DS, 0)


def test_translate(guest: Guest) -> None:
    m = guest.m
    assert m.translate(DATA + 5) == guest.data + 5
    with pytest.raises(PageFault) as e:
        m.translate(0x10, write=True)
    assert (e.value.address, e.value.error_code) == (0x10, 6)
    with pytest.raises(PageFault) as e:
        m.translate(m.firmware_va or 0)
    assert e.value.error_code == 5
    assert m.translate(m.firmware_va or 0, user=False) == m.firmware_frame


def test_fpu_image_round_trip(guest: Guest) -> None:
    m = guest.m
    guest.put("d9e8", "d9eb", "660fefc0", "0f29042500005000", "cc")  # fld1; fldpi; pxor; movaps
    assert m.run(10) == SoftInt(3, 1)
    image = m.get_fpu()
    assert image[:4] == b"\x7f\x03\x00\x30" and image[4] == 0xC0
    assert image[32:42] == bytes.fromhex("35c26821a2da0fc90040")
    other = m.new_context()
    m.switch(other)
    assert m.get_fpu() != image
    m.set_fpu(image)
    assert m.get_fpu() == image


def test_firmware_and_contexts_in_a_callback(guest: Guest) -> None:
    """A callback loads segments, and looks into another context; the run goes on where it was, counts included."""
    m = guest.m
    other = m.new_context()
    codes = [SS, 0x1003, 0]
    seen: list[object] = []

    def handler(*args: int) -> int:
        try:
            m.load_segments(gs=codes[args[0]])
        except SegmentFault as e:
            seen.append(e.selector)
        before = m.current
        m.switch(other)
        m.set(Reg.RBX, 99)
        m.switch(before)
        seen.append((m.get(Reg.GS), m.get(Reg.RBX), m.instructions))
        m.set(Reg.GS_BASE, 0x1000 + args[0])
        return args[0] + 1

    m.on_syscall = handler
    guest.put("31c0", "bb05000000", "0f05", "90", "83f803", "75f8", "654c8b0c2500f04f00", "cc")
    guest.m.ram.write_u64(guest.data + 2, 0x1234)
    for budget in (1000, 1):
        seen.clear()
        start = m.instructions
        m.set(Reg.RIP, CODE)
        while (e := m.run(budget)) == BudgetUsed():
            pass
        assert e == SoftInt(3, 1)
        assert m.get(Reg.R9) == 0x1234
        assert m.instructions - start == 2 + 3 * 4 + 2
        assert seen == [(SS, 5, start + 3), 0x1003, (SS, 5, start + 7), (0, 5, start + 11)]


def test_context_must_be_restored(guest: Guest) -> None:
    m = guest.m
    other = m.new_context()

    def handler(*args: int) -> int:
        m.switch(other)
        m.request_stop()
        return 0

    m.on_syscall = handler
    guest.put("0f05", "90")
    with pytest.raises(MachineError):
        m.run(10)


def test_task_switched(guest: Guest) -> None:
    m = guest.m
    guest.put("90", "660fefc0", "cc")
    m.task_switched = True
    assert m.task_switched
    assert m.run(10) == Fault(7, None)
    assert m.instructions == 1
    m.task_switched = False
    assert m.run(10) == SoftInt(3, 1)


@pytest.mark.parametrize("pa", [0x3_0000_0000, 1 << 39, 0xFEE0_0000])
def test_addresses_without_memory(guest: Guest, pa: int) -> None:
    """A page-table entry that points to nothing: a machine check, and the machine goes on."""
    m = guest.m
    for code, retired in (("90488b042500305000cc", 1), ("904889042500305000cc", 1), ("48c7c000305000ffe0", 2)):
        guest.map(guest.cr3, 0x503000, pa)
        guest.put(code)
        m.set(Reg.RIP, CODE)
        before = m.instructions
        assert m.run(50) == Fault(18, None)
        assert m.instructions - before == retired
        guest.put("90cc")
        m.set(Reg.RIP, CODE)
        assert m.run(10) == SoftInt(3, 1)


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("488b00", 13),  # mov (%rax),%rax
        ("488b4500", 12),  # mov (%rbp),%rax
        ("488b442408", 12),  # mov 8(%rsp),%rax
        ("64488b4500", 13),  # mov %fs:(%rbp),%rax
        ("50", 12),  # push %rax
        ("58", 12),  # pop %rax
        ("c3", 12),
        ("ff30", 13),  # push (%rax)
        ("488b042b", 13),  # mov (%rbx,%rbp),%rax: RBP is the index
        ("fa", 13),  # cli
    ],
)
def test_stack_segment_faults(guest: Guest, code: str, vector: int) -> None:
    """Non-canonical addresses: #SS through the stack segment, else #GP."""
    m = guest.m
    guest.put("90", code)
    wild = 0x1234_0000_0000_0000
    m.set_many([Reg.RAX, Reg.RBP, Reg.RSP, Reg.RBX], [wild, wild, wild, 0])
    assert m.run(10) == Fault(vector, 0)
    assert m.instructions == 1
