"""Descriptor tables: which descriptors a guest may have, and how the CPU comes to see them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.abi import errno, sched, xen
from pyvmm.hypervisor import descriptors
from pyvmm.hypervisor.bounce import CS64, SS
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_none, PGT_seg_desc_page, PGT_writable_page
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import (
    CODE,
    DATA,
    GDT,
    HANDLER,
    L1,
    NON_CANONICAL,
    NOP,
    PAGE,
    STACK,
    SYSCALL,
    UNMAPPED,
    CodeGuest,
)

DATA3 = 0x00CF_F300_0000_FFFF  # flat data, ring 3
DATA0 = 0x00CF_9300_0000_FFFF
CODE64 = 0x00AF_FB00_0000_FFFF
CODE32 = 0x00CF_FB00_0000_FFFF
BASED = 0x12CF_F334_5678_FFFF  # data at 0x12345678
TSS = 0x0000_8900_0000_0067
LDT = 0x0000_8200_0000_0067
CALL_GATE = 0x0000_EC00_0008_1234  # to selector 8, DPL 3
MOV_DS, MOV_GS = b"\x8e\xd8", b"\x8e\xe8"  # mov ds, eax; mov gs, eax


@pytest.mark.parametrize(
    ("descriptor", "checked"),
    [
        (0, 0), (TSS & ~(1 << 47), TSS & ~(1 << 47)), (DATA3, DATA3), (DATA0, DATA3), (CODE32, CODE32),
        (TSS, None), (LDT, None), (0x0000_8000_0000_0000, 0x0000_8000_0000_0000),
        (CALL_GATE, CALL_GATE & ~(3 << 45) | 3 << 16), (CALL_GATE | 1 << 32, None),
        (0x0000_EC00_E008_1234, None), (0x0000_EC00_E033_1234, 0x0000_8C00_E033_1234), (0x0000_EE00_0008_1234, None),
    ],
)  # fmt: skip
def test_check_descriptor(descriptor: int, checked: int | None) -> None:
    assert descriptors.check_descriptor(descriptor) == checked


@given(st.integers(0, (1 << 64) - 1))
def test_no_descriptor_gives_privilege(descriptor: int) -> None:
    """Whatever is accepted is absent, a ring-3 segment, or a gate that always faults; and stays as it is when checked
    again.
    """
    checked = descriptors.check_descriptor(descriptor)
    if checked is None:
        return
    assert descriptors.check_descriptor(checked) == checked
    if checked >> 47 & 1 and checked >> 44 & 1:
        assert checked >> 45 & 3 == 3
    elif checked >> 47 & 1:
        assert checked >> 40 & 15 in (0, 12) and (checked >> 40 & 15 == 0 or checked >> 45 & 3 == 0)


def set_gdt(g: CodeGuest, *mfns: int, entries: int | None = None) -> int:
    g.poke(DATA, struct.pack(f"<{len(mfns)}Q", *mfns))
    return g.call(xen.HYPERVISOR_set_gdt, DATA, len(mfns) * 512 if entries is None else entries)


def gdt_guest(*table: int, code: bytes = NOP) -> CodeGuest:
    """A guest whose GDT is the page at GDT."""
    g = CodeGuest(code)
    g.poke(GDT, struct.pack(f"<{len(table)}Q", *table))
    g.ready()
    assert set_gdt(g, g.pa(GDT) >> 12) == 0
    return g


def load_selector(g: CodeGuest, selector: int, code: bytes = MOV_DS) -> int | None:
    """Load a selector; the vector of the exception, if there is one (its frame is on the stack)."""
    g.poke(CODE, code + NOP * 8)
    for vector in (11, 13, 14):
        g.v.traps[vector] = g.v.traps[vector]._replace(address=HANDLER + 16 * vector)  # type: ignore[union-attr]
    g.ready()
    g.set(rip=CODE, rsp=STACK, rax=selector)
    g.run(1)
    rip = g.reg(Reg.RIP)
    return None if rip == CODE + len(code) else (rip - 1 - HANDLER) // 16


def test_set_gdt() -> None:
    g = gdt_guest(0, DATA0, BASED)
    mfn = g.pa(GDT) >> 12
    assert g.hv.frames.type_of(mfn) == PGT_seg_desc_page
    assert g.words(GDT, 2) == (0, DATA3)  # the privilege level was raised in place
    assert load_selector(g, 0x0B) is None and g.reg(Reg.DS) == 0x0B
    assert load_selector(g, 0x13, MOV_GS) is None and g.reg(Reg.GS_BASE) == 0x12345678
    assert load_selector(g, 0x1B) == 13 and g.frame(error=True)["error"] == 0x18
    assert load_selector(g, 0xE02B) is None
    assert set_gdt(g) == 0
    assert g.hv.frames.type_of(mfn) == PGT_none
    assert load_selector(g, 0x0B) == 13


def test_set_gdt_refusals() -> None:
    g = gdt_guest(0, DATA3)
    good = g.pa(GDT) >> 12
    count = g.hv.frames.count(good)
    for bad in (g.mfns[L1], 0xFFFFFF, 0, g.pa(DATA) >> 12):  # a page table, no such frame, not ours, mapped writable
        assert set_gdt(g, good, bad) == -errno.EINVAL
    assert set_gdt(g, good, entries=7169) == -errno.EINVAL
    assert g.call(xen.HYPERVISOR_set_gdt, UNMAPPED, 512) == -errno.EFAULT
    assert g.v.gdt_frames == [good] and g.hv.frames.count(good) == count
    assert load_selector(g, 0x0B) is None
    g.call(xen.HYPERVISOR_set_gdt, 0, 0)
    assert g.hv.frames.get_page_and_type(good, g.domain, PGT_writable_page)  # it may change now: no longer valid
    g.hv.frames.put_page_and_type(good)
    g.poke(GDT, struct.pack("<2Q", 0, TSS))
    assert set_gdt(g, good) == -errno.EINVAL


def test_update_descriptor() -> None:
    g = gdt_guest(0)
    ma = g.pa(GDT) + 8

    def update(ma: int, descriptor: int) -> int:
        return g.call(xen.HYPERVISOR_update_descriptor, ma, descriptor)

    assert update(ma, DATA0) == 0 and g.words(GDT + 8, 1) == (DATA3,)
    assert load_selector(g, 0x0B) is None
    assert update(ma, TSS) == update(ma + 1, DATA3) == update(0xFFFF_FFFF_F000, DATA3) == -errno.EINVAL
    assert update(g.mfns[L1] << 12, DATA3) == -errno.EINVAL
    assert update(0x1000, DATA3) == -errno.EINVAL  # not the guest's frame
    assert update(g.pa(DATA), DATA3) == 0 and g.words(DATA, 1) == (DATA3,)


def test_absent_segment() -> None:
    g = gdt_guest(0, DATA3 & ~(1 << 47))
    assert load_selector(g, 0x0B) == 11 and g.frame(error=True)["error"] == 8


def test_ldt_is_mapped_when_it_is_used() -> None:
    g = CodeGuest()
    g.poke(GDT, struct.pack("<3Q", 0, DATA0, 0))
    g.ready()
    mfn = g.pa(GDT) >> 12
    descriptors.set_ldt(g.v, GDT, 3)
    assert g.hv.frames.type_of(mfn) == PGT_none
    assert load_selector(g, 0x0F) is None and g.reg(Reg.DS) == 0x0F
    assert g.hv.frames.type_of(mfn) == PGT_seg_desc_page and g.words(GDT + 8, 1) == (DATA3,)
    assert load_selector(g, 0x17) == 13 and g.frame(error=True)["error"] == 0x14
    assert load_selector(g, 0x1F) == 13 and g.frame(error=True)["error"] == 0x1C  # beyond the limit
    descriptors.set_ldt(g.v, 0, 0)
    assert g.hv.frames.type_of(mfn) == PGT_none
    assert load_selector(g, 0x0F) == 13


def test_ldt_that_is_not_there_is_a_page_fault_at_the_guests_address() -> None:
    g = CodeGuest()
    g.ready()
    descriptors.set_ldt(g.v, UNMAPPED, 8192)
    assert load_selector(g, 0x1007) == 14
    assert g.v.ctrlreg[2] == UNMAPPED + 0x1000 and g.frame(error=True)["error"] == 0
    # A page that the guest maps writable cannot be part of an LDT.
    descriptors.set_ldt(g.v, DATA, 512)
    assert load_selector(g, 0x0F) == 14 and g.v.ctrlreg[2] == DATA + 8


def test_iret_into_an_ldt_code_segment() -> None:
    g = CodeGuest()
    g.poke(GDT, struct.pack("<2Q", 0, CODE32))
    g.ready()
    descriptors.set_ldt(g.v, GDT, 2)
    g.iret(1, 0, 0, 0, CODE, 0x0F, 0x200, STACK, 0xE02B)
    assert g.reg(Reg.CS) == 0x0F and g.reg(Reg.RIP) == CODE
    descriptors.set_ldt(g.v, UNMAPPED, 2)
    g = CodeGuest()
    g.ready()
    descriptors.set_ldt(g.v, UNMAPPED, 2)
    g.iret(1, 0, 0, 0, CODE, 0x0F, 0x200, STACK, 0xE02B)
    assert g.v.ctrlreg[2] == UNMAPPED + 8 and g.frame(error=True)["cs"] & 0xFFFF == 0x0F


@pytest.mark.parametrize(("base", "entries"), [(1, 1), (NON_CANONICAL, 1), (0xFFFF_8000_0000_0000, 1), (0, 8193)])
def test_set_ldt_refusals(base: int, entries: int) -> None:
    g = CodeGuest()
    g.ready()
    with pytest.raises(XenError) as error:
        descriptors.set_ldt(g.v, base, entries)
    assert error.value.errno == errno.EINVAL


def test_reading_the_windows_is_an_ordinary_fault() -> None:
    g = CodeGuest()
    g.ready()
    window = g.hv.xen_area.ldt_va(g.v)
    descriptors.set_ldt(g.v, GDT, 2)
    g.poke(CODE, b"\x48\xa1" + struct.pack("<Q", window))
    g.run(1)
    assert g.v.ctrlreg[2] == window
    assert g.hv.frames.type_of(g.pa(GDT) >> 12) == PGT_none


def test_failsafe_callback() -> None:
    """A data segment that went away while another vCPU had the CPU."""
    for masks in (False, True):
        g = gdt_guest(0, DATA3)
        g.v.failsafe_masks_events = masks
        assert load_selector(g, 0x0B) is None
        assert g.call(xen.HYPERVISOR_update_descriptor, g.pa(GDT) + 8, 0) == 0
        g.set(rip=CODE, rcx=3, r11=4)
        g.hv.loaded = None
        g.run(1)
        assert g.reg(Reg.RIP) == HANDLER + 0x201 and g.reg(Reg.DS) == 0
        assert g.reg(Reg.RSP) == STACK - 88
        assert g.words(STACK - 88, 11) == (3, 4, 0x0B, 0, 0, 0, CODE, 0xE030, 0x202, STACK, 0xE02B)
        assert g.mask == masks


def test_bases_survive_a_switch() -> None:
    g = gdt_guest(0, BASED)
    assert load_selector(g, 0x0B, MOV_GS) is None
    g.set(gs_base=0x777)
    g.hv.loaded = None
    g.run(1)  # a nop
    assert g.reg(Reg.GS) == 0x0B and g.reg(Reg.GS_BASE) == 0x777


def test_nothing_leaks() -> None:
    from pyvmm.hypervisor.lifecycle import destroy_domain

    g = gdt_guest(0, DATA3)
    g.poke(GDT + PAGE, struct.pack("<2Q", 0, DATA3))
    descriptors.set_ldt(g.v, GDT, 2)
    assert load_selector(g, 0x0F) is None
    free = g.free
    hv = g.hv
    hv.machine.switch(hv.machine.new_context())
    destroy_domain(g.domain)
    assert hv.frames.free_count >= free


@pytest.mark.parametrize("engine", ["pure", "auto", "step"])
def test_a_hypercall_returns_with_flat_selectors(engine: str) -> None:
    """SYSRET loads CS and SS whatever they were: the guest's own are gone, and no descriptor is looked at."""
    g = CodeGuest(SYSCALL + NOP, engine=engine)
    g.poke(GDT, struct.pack("<3Q", 0, CODE64, DATA3))
    assert set_gdt(g, g.pa(GDT) >> 12) == 0
    g.ready()
    descriptors.load_segments(g.v, cs=0x0B, ss=0x13)
    g.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_yield)
    assert (g.reg(Reg.CS), g.reg(Reg.SS)) == (0x0B, 0x13)
    g.run(2)
    assert (g.reg(Reg.CS), g.reg(Reg.SS)) == (CS64, SS) and g.reg(Reg.RAX) == 0
