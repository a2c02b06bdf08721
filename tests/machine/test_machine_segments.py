"""Selectors loaded by the host: what is remembered never shows, except in time."""

from __future__ import annotations

import pytest

from pyvmm.machine import PageFault, Reg, SegmentFault, SoftInt
from tests.machine.machine_guest import CODE, CS, CS32, DATA, GDT, RW, SS, Guest, P
from tests.machine.test_machine_basics import ENGINES

SELECTOR = 0x5B
BASED = 0x00CFF3001000FFFF  # data with base 0x1000, accessed
ACCESSED = 1 << 40


@pytest.fixture(params=ENGINES)
def guest(request: pytest.FixtureRequest) -> Guest:
    return Guest(request.param)


def describe(g: Guest, value: int, selector: int = SELECTOR) -> None:
    g.m.ram.write_u64(g.gdt + (selector & ~7), value)


def test_a_changed_descriptor_is_seen(guest: Guest) -> None:
    m = guest.m
    for base in (0x1000, 0x2000, 0x1000, 0x3000):
        describe(guest, 0x00CFF3000000FFFF | base << 16)
        for _ in range(2):
            m.load_segments(fs=SELECTOR, gs=0)
            assert m.get_many((Reg.FS, Reg.FS_BASE, Reg.GS, Reg.GS_BASE)) == [SELECTOR, base, 0, 0]


def test_a_refusal_is_never_remembered_away(guest: Guest) -> None:
    m = guest.m
    for value, good in ((BASED, True), (BASED & ~(1 << 47), False), (BASED, True), (0, False), (BASED, True)):
        describe(guest, value)
        before = m.get_many((Reg.FS, Reg.FS_BASE))
        if good:
            m.load_segments(fs=SELECTOR)
        else:
            with pytest.raises(SegmentFault):
                m.load_segments(fs=SELECTOR)
            assert m.get_many((Reg.FS, Reg.FS_BASE)) == before
    m.set_gdt(GDT, 0x37)  # the table is shorter now
    with pytest.raises(SegmentFault):
        m.load_segments(fs=SELECTOR)


def test_the_accessed_bit_is_written_each_time(guest: Guest) -> None:
    guest.map(guest.cr3, GDT, guest.gdt, P | RW)
    for _ in range(3):
        describe(guest, BASED & ~ACCESSED)
        guest.m.load_segments(es=SELECTOR)
        assert guest.m.ram.read_u64(guest.gdt + (SELECTOR & ~7)) == BASED


def test_local_descriptors(guest: Guest) -> None:
    """The same selector of two tables; a table that is gone."""
    m = guest.m
    first, second = guest.frame(), guest.frame()
    for i, (frame, va) in enumerate(((first, GDT + 0x1000), (second, GDT + 0x2000))):
        guest.map(guest.cr3, va, frame, P | RW)
        m.ram.write_u64(frame + 8, 0x00CFF3000000FFFF | (i + 1) * 0x1000 << 16)
    for _ in range(2):
        for i in range(2):
            m.set_ldt(GDT + 0x1000 * (i + 1), 0xFFF)
            m.load_segments(gs=0xF)
            assert m.get(Reg.GS_BASE) == (i + 1) * 0x1000
    m.set_ldt(0, 0)
    with pytest.raises(SegmentFault):
        m.load_segments(gs=0xF)


def test_code_of_both_widths_in_turn(guest: Guest) -> None:
    """`inc %eax; dec %eax` in 32-bit code is a prefix in 64-bit code."""
    m = guest.m
    guest.put("40", "90", "cc")
    for _ in range(4):
        for cs, expected in ((CS32, (1, 3)), (CS, (0, 2))):
            m.load_segments(cs=cs, ss=SS)
            m.set(Reg.RIP, CODE)
            m.set(Reg.RAX, 0)
            m.task_switched = cs == CS32
            before = m.instructions
            assert m.run(10) == SoftInt(3, 1)
            assert (m.get(Reg.RAX), m.instructions - before) == expected
            assert m.get(Reg.CS) == cs


def test_base_of_ds_counts_in_32_bit_code(guest: Guest) -> None:
    m = guest.m
    describe(guest, BASED)
    m.ram.write_u32(guest.data, 111)
    m.ram.write_u32(guest.data2, 222)
    guest.put("a100005000", "cc")
    for _ in range(2):
        for cs, ds, value in ((CS32, SS, 111), (CS32, SELECTOR, 222), (CS32, SS, 111)):
            m.load_segments(cs=cs, ss=SS)
            m.load_segments(ds=ds)
            m.set(Reg.RIP, CODE)
            assert m.run(10) == SoftInt(3, 1)
            assert m.get(Reg.RAX) & 0xFFFFFFFF == value
    m.load_segments(ds=SELECTOR)
    m.load_segments(cs=CS, ss=SS)
    guest.put("8b042500005000", "cc")
    m.set(Reg.RIP, CODE)
    assert m.run(10) == SoftInt(3, 1)
    assert m.get(Reg.RAX) == 111  # in 64-bit code it does not


def test_registers_read_together(guest: Guest) -> None:
    m = guest.m
    m.set_many((Reg.RAX, Reg.R15, Reg.RSP), (1, 2, (1 << 64) - 1))
    for regs in ((Reg.RAX, Reg.R15, Reg.RSP), [Reg.RAX, Reg.R15, Reg.RSP]):
        for _ in range(2):
            assert m.get_many(regs) == [1, 2, (1 << 64) - 1]
    for i in range(600):  # tuples that come and go
        assert m.get_many((Reg.RAX,) * (i % 3) + (Reg.R15,)) == [1] * (i % 3) + [2]
    assert m.get_many([]) == []


def test_loading_in_a_callback(guest: Guest) -> None:
    """Remembered or not, a callback may load selectors."""
    m = guest.m
    describe(guest, BASED)

    def handler(*_: int) -> int:
        m.load_segments(fs=SELECTOR)
        m.load_segments(fs=0)
        return 7

    m.on_syscall = handler
    guest.put("0f05", "ffc0", "0f05", "ffc0", "cc")
    assert m.run(100) == SoftInt(3, 1)
    assert (m.get(Reg.RAX), m.instructions) == (8, 5)
    with pytest.raises(PageFault):
        m.translate(DATA + 0x10000)
