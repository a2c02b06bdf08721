"""A request for memory in extents, checked: whose, how large the extents, under which address (struct
xen_memory_reservation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno, memory
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import MAX_ORDER

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

# Largest extents (CONFIG_*_MAX_ORDER of Xen 4.17's asm/config.h): 2 MiB, 16 MiB with a device, 1 GiB for the control
# domain.
DOMU_MAX_ORDER = 9
DEVICE_MAX_ORDER = 12
MAX_NODES = 64  # MAX_NUMNODES
_NO_NODE = 0xFF
PAGE_SHIFT = 12


def max_order(domain: Domain) -> int:
    """The largest extent order that `domain` may ask for."""
    if domain.privileged:
        return MAX_ORDER
    return DEVICE_MAX_ORDER if domain.iomem or domain.ioports else DOMU_MAX_ORDER


def address_limit(total: int, flags: int) -> int | None:
    """The frame that memory must lie under (XENMEMF_address_bits in `flags`), None: anywhere. XenError(EINVAL): less
    than a page."""
    bits = flags & 0xFF
    if not bits or bits >= (total - 1).bit_length() + PAGE_SHIFT:
        return None
    if bits <= PAGE_SHIFT:
        raise XenError(errno.EINVAL)
    return 1 << (bits - PAGE_SHIFT)


def wanted_node(source: Domain, flags: int) -> int | None:
    """The one NUMA node that memory must come from, None: any. XenError(EINVAL): `source` may not choose, or there
    cannot be such a node."""
    node = (flags >> 8) - 1 & 0xFF
    exact = bool(flags & memory.XENMEMF_exact_node_request)
    if node == _NO_NODE:
        return None
    if source.privileged:
        if node >= MAX_NODES:
            raise XenError(errno.EINVAL)
        return node if exact else None
    if exact:
        raise XenError(errno.EINVAL)
    return None


@dataclass
class Reservation:
    """Extents of 2**order frames for `domain`; their list is at `extents` in the memory of `v`."""

    v: VCpu
    domain: Domain
    extents: int
    order: int
    below: int | None
    node: int | None

    @classmethod
    def parse(cls, v: VCpu, domain: Domain, request: Any) -> Reservation:
        """From a xen_memory_reservation; XenError(EINVAL) for flags that make no sense."""
        flags = request.mem_flags
        below = address_limit(v.hv.frames.total, flags)
        node = None if flags & memory.XENMEMF_vnode else wanted_node(v.domain, flags)
        return cls(v, domain, request.extent_start, request.extent_order, below, node)

    def alloc(self) -> int:
        """The first frame of a new extent of the domain's. XenError(ENOMEM)."""
        if self.node:  # the machine has node 0 only
            raise XenError(errno.ENOMEM)
        return self.domain.hv.frames.alloc_order(self.domain, self.order, self.below)

    def read_extent(self, i: int) -> int:
        """Entry `i` of the list."""
        return int.from_bytes(self.v.copy_in(self.extents + i * 8, 8), "little")

    def write_extent(self, i: int, mfn: int) -> None:
        """Set entry `i` of the list."""
        self.v.copy_out(self.extents + i * 8, mfn.to_bytes(8, "little"))
