"""Domain 0 made by the hypervisor itself, from a PV kernel: what Xen does at boot with the first module.

Facts: Xen 4.17's xen/arch/x86/pv/dom0_build.c and xen/arch/x86/dom0_build.c (order of things, default memory,
permissions), and what a
guest sees as dom0 there. A domU is built by the toolstack, through hypercalls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyvmm.abi import xen
from pyvmm.errors import ImageError, MemoryShortage
from pyvmm.hypervisor import context, lifecycle, pvlayout, time
from pyvmm.hypervisor.crash import Symbols
from pyvmm.hypervisor.frames import PGT_l4_page_table
from pyvmm.hypervisor.pvimage import SUPERVISOR_MODE_KERNEL, read_image

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.pvlayout import Layout

PAGE_SHIFT = 12
MAX_RESERVE = 128 << (20 - PAGE_SHIFT)  # pages at most that dom0 leaves for others by default (1/16 of what there is)
FEATURE_DOM0 = 1 << 11
# Ports that Xen keeps from dom0 (dom0_setup_permissions): both PICs, the PIT and its speaker gate; then the first
# serial port.
XEN_PORTS = ((0x20, 0x21), (0xA0, 0xA1), (0x40, 0x43), (0x61, 0x61), (0x3F8, 0x3FF))
PIRQS = 256
PM_BITS = 3  # SIF_PM_MASK: dom0's kernel may do power management (cx and px), Xen's default on Intel and AMD


@dataclass(frozen=True)
class Kernel:
    """A kernel file and what goes with it; `path` names it in errors."""

    data: bytes
    path: str = "image"
    cmdline: bytes = b""
    module: bytes = b""


def default_pages(hv: Hypervisor) -> int:
    """How many frames a dom0 gets when nobody says: all but a sixteenth, and at most 128 MiB less than all."""
    available = hv.frames.free_count
    return available - min(available // 16, MAX_RESERVE)


def construct_dom0(
    hv: Hypervisor, kernel: Kernel, *, name: str = "dom0", nr_pages: int | None = None, vcpus: int = 1
) -> Domain:
    """Domain 0 running `kernel`, ready to run. `ImageError` and `MemoryShortage` leave nothing behind."""
    image = read_image(kernel.data, kernel.path)
    if image.required & SUPERVISOR_MODE_KERNEL:
        raise ImageError(f"{kernel.path}: requires supervisor_mode_kernel, which no dom0 has")
    if image.says_supported and not image.supported & FEATURE_DOM0:
        raise ImageError(f"{kernel.path}: its notes say that it cannot be a dom0")
    pages = default_pages(hv) if nr_pages is None else nr_pages
    spare = hv.frames.free_count - _own_frames(vcpus)
    if pages > spare:
        raise MemoryShortage(f"{kernel.path}: dom0 wants {pages} pages, and the host has {max(spare, 0)} left")
    layout = pvlayout.dom0_layout(image, pages, len(kernel.module), kernel.path)
    domain = lifecycle.create_domain(hv, 0, name=name, privileged=True, max_vcpus=vcpus)
    domain.symbols = Symbols.of_elf(kernel.data)
    domain.max_pages = pages if nr_pages is not None else 0xFFFFFFFF
    _permissions(domain)
    l4_mfn = _build(domain, layout, kernel)
    for _ in range(vcpus):
        lifecycle.add_vcpu(domain)
    _mask_upcalls(domain)
    registers = pvlayout.boot_context(image.entry, layout.stack_top, layout.start_info_va, l4_mfn)
    context.set_context(domain.vcpus[0], registers)
    if image.extended_cr3:
        domain.vm_assist |= 1 << xen.VMASST_TYPE_pae_extended_cr3
    time.update_wallclock(domain)
    lifecycle.unpause(domain)
    return domain


def _own_frames(vcpus: int) -> int:
    """Frames that the hypervisor itself takes for a domain: shared page, grant table, per-domain tables."""
    return 16 + vcpus // 16


def _permissions(domain: Domain) -> None:
    """Everything on the host but what the hypervisor drives itself."""
    domain.ioports.add(0, 0xFFFF)
    for start, end in XEN_PORTS:
        domain.ioports.remove(start, end)
    domain.iomem.add(0, (1 << 40 - PAGE_SHIFT) - 1)
    for frame in (0xFEE00,):  # the local APIC; the I/O APIC can be mapped read-only
        domain.iomem.remove(frame, frame)
    domain.irqs.add(1, PIRQS - 1)


def _build(domain: Domain, layout: Layout, kernel: Kernel) -> int:
    """Allocate all frames and fill them; returns the frame of the top page table, which is pinned and so made
    valid."""
    hv = domain.hv
    ram = hv.machine.ram
    mfns = hv.frames.alloc(domain, layout.nr_pages)
    hv.xen_area.set_m2p_list(mfns, 0)
    p2m = np.array(mfns, np.uint64)
    info = pvlayout.start_info(
        layout,
        magic=b"xen-3.0-x86_64" + (b"p" if layout.image.pae else b""),
        shared_info=domain.shared_info_pa,
        flags=xen.SIF_PRIVILEGED | xen.SIF_INITDOMAIN | PM_BITS << 8,
        cmdline=kernel.cmdline,
    )
    made = pvlayout.contents(layout, p2m, info + bytes(pvlayout.VGA_CONSOLE_INFO_SIZE), kernel.module)
    for pfn, data in made.frames.items():
        ram.write(mfns[pfn] << PAGE_SHIFT, bytes(data))
    page = layout.image.hypercall_page
    if page is not None:
        ram.write(mfns[(page - layout.image.virt_base) >> PAGE_SHIFT] << PAGE_SHIFT, pvlayout.hypercall_page())
    l4_mfn = mfns[layout.l4_pfn]
    result = hv.mmu.pin(l4_mfn, PGT_l4_page_table, domain.domid)
    assert result == 0, f"the initial page tables are not valid: errno {-result}"
    return l4_mfn


def _mask_upcalls(domain: Domain) -> None:
    info, mask = xen.vcpu_info.size, xen.vcpu_info.evtchn_upcall_mask.offset
    for i in range(32):
        domain.hv.machine.ram.write_u8(domain.shared_info_pa + i * info + mask, 1)
