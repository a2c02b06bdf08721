"""The plan of a new domain: order and sizes as Xen 4.17 and its libxc make them, for kernels of every shape."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.abi import elfnote, xen
from pyvmm.errors import ImageError, MemoryShortage
from pyvmm.hypervisor import pvlayout
from pyvmm.hypervisor.pvimage import PvImage, read_image
from pyvmm.hypervisor.pvlayout import PAGE, Layout, Table, dom0_layout, domu_layout
from tests.toolstack.elf_image import Elf, Load, u64

PAGES_128M = 32768


def kernel(size: int = 0x17240, base: int = 0, start: int = 0x100000, notes: dict[int, bytes] | None = None) -> PvImage:
    more = {elfnote.XEN_ELFNOTE_VIRT_BASE: u64(base), **(notes or {})}
    return read_image(Elf(loads=[Load(paddr=start, memsz=size)], entry=base + start).with_notes(more).build())


def test_domu_as_read_off_the_real_one() -> None:
    """A guest of 128 MiB on Xen 4.17 found these places; its kernel took 0x100000 to 0x117240."""
    plan = domu_layout(kernel(), PAGES_128M)
    assert plan.p2m_va == 0x118000
    assert (plan.start_info_pfn, plan.store_pfn, plan.console_pfn) == (0x158, 0x159, 0x15A)
    assert plan.tables == (
        Table(4, 0, 0x15B),
        Table(3, 0, 0x15C),
        Table(2, 0, 0x15D),
        Table(1, 0, 0x15E),
        Table(1, 1, 0x15F),
    )
    assert (plan.pt_va, plan.mapped_tables) == (0x15B000, 5)
    assert plan.stack_pfn == 0x160 and plan.stack_top == 0x161000
    assert plan.mappings[0].end == 0x400000
    assert plan.first_p2m_pfn == plan.nr_p2m_frames == 0


def test_dom0_has_its_tables_in_another_order_and_no_rings() -> None:
    plan = dom0_layout(kernel(), PAGES_128M)
    assert [(t.level, t.index) for t in plan.tables] == [(4, 0), (1, 0), (2, 0), (3, 0), (1, 1)]
    assert plan.store_pfn == plan.console_pfn == 0
    assert plan.tables[0].pfn == plan.start_info_pfn + 1
    assert plan.first_p2m_pfn == 1024  # the power of two that Xen allocates for the mapped 4 MiB


def test_padding_is_never_less_than_512_kib() -> None:
    """A boot stack that ends less than 512 KiB below a 4 MiB boundary costs another 4 MiB of mapping."""
    for size in range(0x200000, 0x300000, 0x1000):
        for make in (domu_layout, dom0_layout):
            plan = make(kernel(size), PAGES_128M)
            end = plan.mappings[0].end
            assert end % 0x400000 == 0
            assert 512 << 10 <= end - plan.stack_top < (512 << 10) + 0x400000


def test_module_before_the_p2m_list_or_by_pfn_after_everything() -> None:
    inside = domu_layout(kernel(), PAGES_128M, 5000)
    assert inside.module_start == 0x118000 and inside.p2m_va == 0x11A000 and inside.module_length == 5000
    by_pfn = kernel(notes={elfnote.XEN_ELFNOTE_MOD_START_PFN: struct.pack("<I", 1)})
    outside = domu_layout(by_pfn, PAGES_128M, 5000)
    assert outside.module_start == outside.module_pfn == 0x400 and outside.p2m_va == 0x118000
    assert outside.module_length == 8192  # libxc counts whole pages here
    info = xen.start_info.unpack(pvlayout.start_info(outside, magic=b"x", shared_info=0))
    assert info.flags & xen.SIF_MOD_START_PFN and info.mod_start == 0x400
    dom0 = dom0_layout(by_pfn, PAGES_128M, 5000)
    assert dom0.module_start == 1024 and dom0.module_length == 5000 and dom0.first_p2m_pfn == 1026


P2M_BASE = 0x8000000000


@pytest.mark.parametrize("make", [domu_layout, dom0_layout])
def test_p2m_list_at_an_address_of_the_kernels_choice(make: object) -> None:
    image = kernel(base=0xFFFFFFFF80000000, notes={elfnote.XEN_ELFNOTE_INIT_P2M: u64(P2M_BASE)})
    assert callable(make)
    plan: Layout = make(image, PAGES_128M)
    assert plan.p2m_va == P2M_BASE
    assert plan.mappings[1].start == P2M_BASE and plan.mappings[1].pfn == plan.p2m_pfn == plan.first_p2m_pfn
    assert plan.nr_p2m_frames == 64 + 3  # the list, and an L3, L2 and L1 table for it
    assert walk(plan, P2M_BASE + 0x5123) == (plan.p2m_pfn + 5, True)


def test_too_little_memory() -> None:
    for make in (domu_layout, dom0_layout):
        assert make(kernel(), 1024).nr_pages == 1024
        with pytest.raises(MemoryShortage, match="at least 4096 KiB"):
            make(kernel(), 1023)


@pytest.mark.parametrize("make", [domu_layout, dom0_layout])
@pytest.mark.parametrize("bits", [39, 46])
def test_a_kernel_of_terabytes_is_refused_at_once(make: Callable[[PvImage, int], Layout], bits: int) -> None:
    """Without listing the page tables it would need."""
    with pytest.raises(MemoryShortage, match="needs at least"):
        make(kernel(1 << bits), PAGES_128M)


def test_xens_own_addresses_are_refused() -> None:
    image = kernel(base=0xFFFF800000000000)
    for make in (domu_layout, dom0_layout):
        with pytest.raises(ImageError, match="where Xen itself is"):
            make(image, PAGES_128M)


@pytest.mark.parametrize("page", [0x100800, 0x900000, 0xFFFFFFFFFFFFF000])
def test_wild_hypercall_pages_are_refused(page: int) -> None:
    for make in (domu_layout, dom0_layout):
        with pytest.raises(ImageError, match="hypercall page"):
            make(kernel(notes={elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: u64(page)}), PAGES_128M)


def walk(plan: Layout, va: int) -> tuple[int, bool] | None:
    """Translate `va` through the tables as they will be written: (pfn, writable), None where nothing is mapped."""
    mfns = np.arange(plan.nr_pages, dtype=np.uint64) * np.uint64(3) + np.uint64(7)  # frames need not be contiguous
    tables = dict(pvlayout.table_entries(plan, mfns))
    pfn, entry = plan.l4_pfn, 0
    for level in (4, 3, 2, 1):
        slot = (va >> (3 + 9 * level)) & 511
        (entry,) = struct.unpack_from("<Q", tables[pfn], slot * 8)
        if not entry & 1:
            return None
        number, rest = divmod((entry >> 12) - 7, 3)
        assert rest == 0
        pfn = number
    return pfn, bool(entry & 2)


@given(
    size=st.integers(64, 9 << 20),
    base=st.sampled_from([0, 0xFFFFFFFF80000000, 0x7F0000000000, 0xFFFF880000000000]),
    start=st.integers(0, 600).map(lambda n: n * PAGE),
    memory=st.integers(4000, 20000),
    module=st.integers(0, 1 << 20),
    dom0=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_page_is_mapped_once_and_tables_are_read_only(
    size: int, base: int, start: int, memory: int, module: int, dom0: bool
) -> None:
    image = kernel(size, base, start)
    try:
        plan = (dom0_layout if dom0 else domu_layout)(image, memory, module)
    except MemoryShortage:
        return
    own = {t.pfn for t in plan.tables}
    assert len(own) == len(plan.tables)
    for pfn in {0, plan.start_info_pfn, plan.p2m_pfn, plan.stack_pfn, plan.mapped_pages - 1, *own}:
        assert walk(plan, plan.va(pfn)) == (pfn, pfn not in own)
    special = {plan.start_info_pfn, plan.stack_pfn, *own} | ({plan.store_pfn, plan.console_pfn} - {0})
    assert len(special) == len(own) + (2 if dom0 else 4)
    assert plan.nr_pages >= plan.initial_pages >= plan.mapped_pages


def test_contents_hold_the_kernel_the_list_and_the_info() -> None:
    image = kernel()
    plan = domu_layout(image, PAGES_128M, 3)
    mfns = np.arange(PAGES_128M, 2 * PAGES_128M, dtype=np.uint64)
    info = pvlayout.start_info(
        plan, magic=b"xen-3.0-x86_64", shared_info=0x1234000, cmdline=b"a b", store=(7, 1), console=(8, 2)
    )
    made = pvlayout.contents(plan, mfns, info, b"mod").frames
    assert made[0x100][:64] == b"\xf4" * 64
    assert made[plan.module_pfn][:4] == b"mod\0"
    assert struct.unpack_from("<Q", made[plan.p2m_pfn + 2], 8 * 5) == (PAGES_128M + 1024 + 5,)
    back = xen.start_info.unpack(bytes(made[plan.start_info_pfn]))
    assert back.magic.rstrip(b"\0") == b"xen-3.0-x86_64" and back.nr_pages == PAGES_128M
    assert (back.shared_info, back.store_mfn, back.store_evtchn) == (0x1234000, 7, 1)
    assert (back.console.domU.mfn, back.console.domU.evtchn) == (8, 2)
    assert (back.pt_base, back.nr_pt_frames, back.mfn_list) == (plan.pt_va, 5, plan.p2m_va)
    assert (back.mod_start, back.mod_len, back.cmd_line.rstrip(b"\0")) == (0x118000, 3, b"a b")
    assert plan.console_pfn not in made and plan.stack_pfn not in made


def test_the_hypercall_page() -> None:
    """Slots as read off a real guest's page."""
    page = pvlayout.hypercall_page()
    assert len(page) == PAGE
    assert page[17 * 32 : 18 * 32] == bytes.fromhex("514153b811000000 0f05415b59c3") + b"\xcc" * 18
    assert page[23 * 32 : 24 * 32] == bytes.fromhex("51415350b817000000 0f05") + b"\xcc" * 21
