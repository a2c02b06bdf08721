"""The parts of memory_op about maps: e820 tables of domains and of the machine, and where the M2P is.

Facts: arch_memory_op() and subarch_memory_op() of Xen 4.17; struct e820entry and its types:
public/arch-x86/hvm/hvm_info_table.h's neighbours, the format of the PC firmware's int 15h, ax=e820h (ACPI
specification, 15).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.abi import errno, memory
from pyvmm.hypervisor import permissions
from pyvmm.hypervisor.xen_area import M2P_VIRT_END, M2P_VIRT_START

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

E820_MAX = 1024
E820_RAM, E820_RESERVED = 1, 2
ENTRY = struct.Struct("<QQI")  # address, size, type; packed
M2P_ENTRIES = (M2P_VIRT_END - M2P_VIRT_START) // 8
POD_TARGET_SIZE = 40  # struct xen_pod_target, of translated domains; all that counts here is the domid at its end
_POD_DOMID = 32


def machine_e820(hv: Hypervisor) -> list[tuple[int, int, int]]:
    """(address, size, type) of the machine's memory: a PC's, with the firmware's data and ROM under 1 MiB."""
    return [
        (0, 0x9FC00, E820_RAM),
        (0x9FC00, 0x400, E820_RESERVED),
        (0xF0000, 0x10000, E820_RESERVED),
        (0x100000, (hv.frames.total << 12) - 0x100000, E820_RAM),
    ]


def _set_memory_map(v: VCpu, arg: int) -> int:
    layout = memory.xen_foreign_memory_map
    request = layout.unpack(v.copy_in(arg, layout.size))
    n = request.map.nr_entries
    if n > E820_MAX:
        return -errno.EINVAL
    domain = permissions.find_or_esrch(v.domain, request.domid)
    permissions.require_target(v.domain, domain)
    data = v.copy_in(request.map.buffer, n * ENTRY.size) if n else b""
    domain.memory_map = [data[i : i + ENTRY.size] for i in range(0, len(data), ENTRY.size)]
    return 0


def _memory_map(v: VCpu, arg: int) -> int:
    layout = memory.xen_memory_map
    request = layout.unpack(v.copy_in(arg, layout.size))
    if not v.domain.memory_map:
        return -errno.ENOSYS
    entries = v.domain.memory_map[: request.nr_entries]
    v.copy_out(request.buffer, b"".join(entries))
    v.copy_out(arg, layout.pack(nr_entries=len(entries), buffer=request.buffer))
    return 0


def _machine_memory_map(v: VCpu, arg: int) -> int:
    """The machine's e820, and, as reserved, what device memory the caller may not map."""
    permissions.require_privileged(v.domain)
    layout = memory.xen_memory_map
    request = layout.unpack(v.copy_in(arg, layout.size))
    known = machine_e820(v.hv)
    if request.buffer:
        if request.nr_entries < len(known) + 1:
            return -errno.EINVAL
        if not permissions.access_ok(request.buffer):
            return -errno.EFAULT
    entries: list[tuple[int, int, int]] = []
    at = 0
    for entry in known:
        entries += _forbidden(v.domain, at, entry[0] >> 12)
        entries.append(entry)
        at = -(-(entry[0] + entry[1]) >> 12)
    entries += _forbidden(v.domain, at, 1 << 40 - 12)
    if request.buffer:
        if request.nr_entries < len(entries):
            return -errno.EINVAL
        v.copy_out(request.buffer, b"".join(ENTRY.pack(*entry) for entry in entries))
    v.copy_out(arg, layout.pack(nr_entries=len(entries), buffer=request.buffer))
    return 0


def _forbidden(domain: Domain, start: int, end: int) -> list[tuple[int, int, int]]:
    """The frames from `start` up to `end` that `domain` may not map, as reserved areas."""
    return [(a << 12, (b - a) << 12, E820_RESERVED) for a, b in domain.iomem.gaps(start, end)]


def _machphys_mapping(v: VCpu, arg: int) -> int:
    """Where the M2P is and how far it goes: for the hardware domain as far as there is memory, else as far as there
    could be."""
    limit = v.hv.frames.total if v.domain.privileged else M2P_ENTRIES
    layout = memory.xen_machphys_mapping
    v.copy_out(arg, layout.pack(v_start=M2P_VIRT_START, v_end=M2P_VIRT_END, max_mfn=limit - 1))
    return 0


def _machphys_mfn_list(v: VCpu, arg: int) -> int:
    layout = memory.xen_machphys_mfn_list
    request = layout.unpack(v.copy_in(arg, layout.size))
    mfns = v.hv.xen_area.m2p_frames()[: request.max_extents]
    if mfns:
        v.copy_out(request.extent_start, struct.pack(f"<{len(mfns)}Q", *mfns))
    v.copy_out(arg + layout.nr_extents.offset, len(mfns).to_bytes(4, "little"))
    return 0


def _no_32_bit_guests(v: VCpu, arg: int) -> int:
    """The M2P of 32-bit guests: as a Xen that was started with pv=no-32."""
    return -errno.EOPNOTSUPP


def _pod_target(v: VCpu, arg: int) -> int:
    """Populate on demand is for translated domains."""
    target = v.copy_in(arg, POD_TARGET_SIZE)
    permissions.find_or_esrch(v.domain, int.from_bytes(target[_POD_DOMID : _POD_DOMID + 2], "little"))
    return -errno.EINVAL


def _no_sharing(v: VCpu, arg: int) -> int:
    """How many frames memory sharing saves: none, it is not built in."""
    return 0


OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    memory.XENMEM_set_memory_map: _set_memory_map,
    memory.XENMEM_memory_map: _memory_map,
    memory.XENMEM_machine_memory_map: _machine_memory_map,
    memory.XENMEM_machphys_mapping: _machphys_mapping,
    memory.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    memory.XENMEM_machphys_compat_mfn_list: _no_32_bit_guests,
    memory.XENMEM_set_pod_target: _pod_target,
    memory.XENMEM_get_pod_target: _pod_target,
    memory.XENMEM_get_sharing_freed_pages: _no_sharing,
    memory.XENMEM_get_sharing_shared_pages: _no_sharing,
}
