"""A PV guest's descriptor tables: what may be in them, and how they come to be what the CPU uses.

A frame becomes part of a GDT or LDT when it is used as one: all its descriptors are then checked, and while it is in
use the guest cannot write it. The CPU sees the tables in windows of Xen's (`XenArea`): 14 pages of the guest's GDT
and Xen's own two, and 16 pages of LDT that are filled when they are first touched.

Facts: xen/arch/x86/pv/descriptor-tables.c, pv/mm.c (pv_map_ldt_shadow_page), traps.c (handle_gdt_ldt_mapping_fault),
mm.c (MMUEXT_SET_LDT) of Xen 4.17; layout of descriptors: Intel SDM volume 3, 3.4.5 and 5.8.3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import errno, xen
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.bounce import CS64, GP, PF, inject, inject_page_fault, is_canonical, is_guest_address
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_seg_desc_page, PGT_writable_page
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.machine import PageFault, SegmentFault

if TYPE_CHECKING:
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
MAX_GDT_ENTRIES: int = arch.FIRST_RESERVED_GDT_ENTRY
GDT_LIMIT = 16 * PAGE - 1
LDT_PAGES, MAX_LDT_ENTRIES = 16, 8192

# Bits of a descriptor.
_P, _S, _L, _DB, _G = 1 << 47, 1 << 44, 1 << 53, 1 << 54, 1 << 55
_CODE = 1 << 43
_DPL_SHIFT = 45
_TYPE_SHIFT, _CALL_GATE = 40, 0xC
_GATE_RESERVED = 0xFF << 32
_HAS_TI = 4
PFEC_USER = 4
MAX_DEMAND_FAULTS = 2  # cs and ss may each need a page


# -- rules -----------------------------------------------------------------------------------------------------------


def check_descriptor(descriptor: int) -> int | None:
    """The descriptor as a guest may have it (privilege raised to ring 3; call gates made unusable so that they
    fault), None: it may not.

    Code, data and absent descriptors are fine, call gates to a guest's or Xen's flat code segment too; anything else
    is a system descriptor.
    """
    if not descriptor & _P:
        return descriptor
    dpl = descriptor >> _DPL_SHIFT & 3
    if descriptor & _S:
        return descriptor | 3 << _DPL_SHIFT
    kind = descriptor >> _TYPE_SHIFT & 15
    if kind == 0:
        return descriptor  # the second half of a call gate
    if kind != _CALL_GATE or descriptor & _GATE_RESERVED:
        return None
    selector = descriptor >> 16 & 0xFFFF
    if selector >> 3 >= MAX_GDT_ENTRIES and selector != CS64 and not selector & _HAS_TI:
        return None
    # The guest kernel is ring 3 to the CPU: the gate's own privilege level is kept in its selector, and the gate's is
    # 0.
    dpl = max(dpl, 3)
    return descriptor & ~(3 << _DPL_SHIFT) & ~(3 << 16) | dpl << 16


def check_page(hv: Hypervisor, mfn: int) -> bool:
    """May frame `mfn` become a descriptor page? Its descriptors are checked, and adjusted in place, up to the first
    bad one.
    """
    ram = hv.machine.ram
    pa = mfn << 12
    page = struct.unpack("<512Q", ram.read(pa, PAGE))
    for i, descriptor in enumerate(page):
        if descriptor & _P:
            checked = check_descriptor(descriptor)
            if checked is None:
                return False
            if checked != descriptor:
                ram.write_u64(pa + i * 8, checked)
    return True


def install(hv: Hypervisor) -> None:
    """Let the frame table know how descriptor pages are validated."""
    hv.frames.validators.setdefault(PGT_seg_desc_page, lambda mfn: check_page(hv, mfn))


# -- the GDT ---------------------------------------------------------------------------------------------------------


def load_tables(v: VCpu) -> None:
    """Point the current context at `v`'s windows."""
    machine, area = v.hv.machine, v.hv.xen_area
    machine.set_gdt(area.gdt_va(v), GDT_LIMIT)
    machine.set_ldt(area.ldt_va(v) if v.ldt_entries else 0, max(0, v.ldt_entries * 8 - 1))


def replace_gdt(v: VCpu, mfns: list[int], entries: int) -> None:
    """Make the frames `mfns` the first pages of `v`'s GDT. EINVAL: too many entries, or a frame that cannot be one;
    the old GDT then stays.
    """
    if entries > MAX_GDT_ENTRIES:
        raise XenError(errno.EINVAL)
    hv = v.hv
    install(hv)
    taken: list[int] = []
    for mfn in mfns:
        if not hv.frames.get_page_and_type(mfn, v.domain, PGT_seg_desc_page):
            for held in taken:
                hv.frames.put_page_and_type(held)
            raise XenError(errno.EINVAL)
        taken.append(mfn)
    drop_gdt(v)
    v.gdt_entries, v.gdt_frames = entries, taken
    for i, mfn in enumerate(taken):
        hv.xen_area.map_gdt_page(v, i, mfn)


def drop_gdt(v: VCpu) -> None:
    """Give back the guest's pages of the GDT; zeroes take their place."""
    frames, v.gdt_frames, v.gdt_entries = v.gdt_frames, [], 0
    for i, mfn in enumerate(frames):
        v.hv.xen_area.map_gdt_page(v, i, None)
        v.hv.frames.put_page_and_type(mfn)


@hypercall(xen.HYPERVISOR_set_gdt, "frame_list", "entries")
def set_gdt(v: VCpu, frame_list: int, entries: int) -> int:
    """Replace the GDT by the frames in an array of u64. EINVAL: more than 7168 entries, a bad frame or descriptor;
    EFAULT: the array.
    """
    entries &= 0xFFFFFFFF
    if entries > MAX_GDT_ENTRIES:
        raise XenError(errno.EINVAL)
    n = -(-entries // 512)
    replace_gdt(v, list(struct.unpack(f"<{n}Q", v.copy_in(frame_list, n * 8) if n else b"")), entries)
    return 0


@hypercall(xen.HYPERVISOR_update_descriptor, "ma", "desc")
def update_descriptor(v: VCpu, ma: int, desc: int) -> int:
    """Store one descriptor at machine address `ma`. EINVAL: not aligned, bad descriptor, not the guest's frame, or
    one in use as a page table.
    """
    checked = check_descriptor(desc)
    mfn = ma >> 12
    if ma & 7 or checked is None or mfn >= v.hv.frames.total:
        raise XenError(errno.EINVAL)
    frames = v.hv.frames
    install(v.hv)
    type_ = PGT_seg_desc_page if frames.type_of(mfn) == PGT_seg_desc_page else PGT_writable_page
    if not frames.get_page_and_type(mfn, v.domain, type_):
        raise XenError(errno.EINVAL)
    v.hv.machine.ram.write_u64(ma, checked)
    frames.put_page_and_type(mfn)
    return 0


# -- the LDT ---------------------------------------------------------------------------------------------------------


def set_ldt(v: VCpu, base: int, entries: int) -> None:
    """MMUEXT_SET_LDT: `v`'s LDT is at linear address `base` from now on. EINVAL: not page-aligned, not the guest's
    address, over 8192 entries.

    Nothing is mapped or checked before it is used.
    """
    if entries > MAX_LDT_ENTRIES or (entries and (base & (PAGE - 1) or not is_guest_address(base))):
        raise XenError(errno.EINVAL)
    base = base if entries else 0
    if v.ldt_entries != entries or v.ldt_base != base:
        v.hv.mmu.drop_ldt(v)
        v.ldt_base, v.ldt_entries = base, entries
        if v.context is not None and v.hv.machine.current is v.context:
            load_tables(v)


def map_ldt_page(v: VCpu, offset: int) -> bool:
    """Fill the page of the LDT window that holds byte `offset`, from the guest's page tables. False: there is nothing
    there that could be one.
    """
    hv = v.hv
    if offset >> 3 >= v.ldt_entries:
        return False
    linear = (v.ldt_base + offset) & 0xFFFF_FFFF_FFFF_FFFF
    pa = hv.mmu.find_l1_entry(v, linear, kernel=True)
    if pa is None:
        return False
    entry = hv.machine.ram.read_u64(pa)
    if not entry & P.PRESENT:
        return False
    mfn = P.frame_of(entry)
    install(hv)
    if not hv.frames.get_page_and_type(mfn, v.domain, PGT_seg_desc_page):
        return False
    replaced = hv.xen_area.map_ldt_page(v, offset // PAGE, mfn)
    if replaced is not None:
        hv.frames.put_page_and_type(replaced)
    return True


def table_fault(v: VCpu, error: int, address: int) -> bool:
    """#PF in Xen's range: was it the CPU reading `v`'s descriptor windows (an access with supervisor's rights)? Then
    the LDT's page is mapped, or the fault is passed on as one of the guest's own LDT. False: an ordinary access, the
    guest's fault.
    """
    window = v.hv.xen_area.gdt_va(v)
    offset = address - window
    if error & PFEC_USER or not 0 <= offset < 32 * PAGE:
        return False
    if offset < 16 * PAGE:
        inject(v, GP, offset & 0xFFF8)
        return True
    offset -= 16 * PAGE
    if map_ldt_page(v, offset):
        return True
    linear = (v.ldt_base + offset) & 0xFFFF_FFFF_FFFF_FFFF
    if is_canonical(linear):
        inject_page_fault(v, linear, error)
    else:
        inject(v, GP, offset & 0xFFF8 | _HAS_TI)
    return True


def load_segments(v: VCpu, **selectors: int) -> None:
    """`Machine.load_segments`, with LDT pages mapped as they are needed. SegmentFault says what the guest would get."""
    for _ in range(MAX_DEMAND_FAULTS):
        try:
            v.hv.machine.load_segments(**selectors)
            return
        except SegmentFault as fault:
            selector = fault.selector
            if fault.vector != PF or not selector & _HAS_TI or not map_ldt_page(v, selector & 0xFFF8):
                raise
    v.hv.machine.load_segments(**selectors)


# -- reading -----------------------------------------------------------------------------------------------------------


def read(v: VCpu, selector: int) -> int | None:
    """The descriptor that `selector` names in `v`'s tables, as the CPU would read it; None: beyond the table, or a
    page that is not there.
    """
    index = selector >> 3
    hv = v.hv
    if selector & _HAS_TI:
        if index >= v.ldt_entries:
            return None
        window = hv.xen_area.ldt_va(v)
    else:
        window = hv.xen_area.gdt_va(v)
    try:
        pa = hv.machine.translate(window + index * 8, user=False, cr3=v.l4_kernel << 12)
    except PageFault:
        if not selector & _HAS_TI or not map_ldt_page(v, index * 8):
            return None
        pa = hv.machine.translate(window + index * 8, user=False, cr3=v.l4_kernel << 12)
    return hv.machine.ram.read_u64(pa)


def code_segment(v: VCpu, selector: int) -> tuple[int, bool] | None:
    """(base, is it 64-bit code) of the code segment `selector`; None when it is none."""
    if selector == CS64:
        return 0, True
    descriptor = read(v, selector) if selector > 3 else None
    if descriptor is None or not (descriptor & _P and descriptor & _S and descriptor & _CODE):
        return None
    if descriptor & _L:
        return 0, True
    return _base(descriptor), False


def is_long_mode(v: VCpu, selector: int) -> bool:
    """`selector` is a 64-bit code segment."""
    segment = code_segment(v, selector)
    return segment is not None and segment[1]


def base_of(v: VCpu, selector: int) -> int:
    """The base address in the descriptor of `selector`, 0 for NUL."""
    descriptor = read(v, selector) if selector > 3 else None
    return 0 if descriptor is None else _base(descriptor)


def _base(descriptor: int) -> int:
    return descriptor >> 16 & 0xFFFFFF | descriptor >> 56 << 24
