"""Memory reservations, exchanges, maps and queries (memory_op).

Source: Xen 4.17 public/memory.h, without what exists only for translated (HVM, PVH) domains.
"""

from pyvmm.abi.layout import Struct, Union, handle, number_names, u16, u32, u64
from pyvmm.abi.physdev import physdev_pci_device

# Sub-operations.
XENMEM_increase_reservation = 0
XENMEM_decrease_reservation = 1
XENMEM_maximum_ram_page = 2
XENMEM_current_reservation = 3
XENMEM_maximum_reservation = 4
XENMEM_machphys_mfn_list = 5
XENMEM_populate_physmap = 6
XENMEM_add_to_physmap = 7
XENMEM_memory_map = 9
XENMEM_machine_memory_map = 10
XENMEM_exchange = 11
XENMEM_machphys_mapping = 12
XENMEM_set_memory_map = 13
XENMEM_maximum_gpfn = 14
XENMEM_remove_from_physmap = 15
XENMEM_set_pod_target = 16
XENMEM_get_pod_target = 17
XENMEM_get_sharing_freed_pages = 18
XENMEM_get_sharing_shared_pages = 19
XENMEM_paging_op = 20
XENMEM_access_op = 21
XENMEM_sharing_op = 22
XENMEM_add_to_physmap_batch = 23
XENMEM_claim_pages = 24
XENMEM_machphys_compat_mfn_list = 25
XENMEM_get_vnumainfo = 26
XENMEM_reserved_device_memory_map = 27
XENMEM_acquire_resource = 28

# xen_memory_reservation.mem_flags, beside the address width in bits 0 to 7 and the node plus one in bits 8 to 15.
XENMEMF_populate_on_demand = 1 << 16
XENMEMF_exact_node_request = 1 << 17
XENMEMF_vnode = 1 << 18

# xen_add_to_physmap.space and .idx.
XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3
XENMAPSPACE_gmfn_foreign = 4
XENMAPSPACE_dev_mmio = 5
XENMAPIDX_grant_table_status = 0x80000000

# xen_mem_acquire_resource: .type, then .id and .frame of single types.
XENMEM_resource_ioreq_server = 0
XENMEM_resource_grant_table = 1
XENMEM_resource_vmtrace_buf = 2
XENMEM_resource_grant_table_id_shared = 0
XENMEM_resource_grant_table_id_status = 1
XENMEM_resource_ioreq_server_frame_bufioreq = 0

# xen_reserved_device_memory_map.flags.
XENMEM_RDM_ALL = 1


def XENMEMF_get_address_bits(mem_flags: int) -> int:
    """How many bits the machine address of the memory may have; 0 for any."""
    return mem_flags & 0xFF


def XENMEMF_get_node(mem_flags: int) -> int:
    """The NUMA node that the memory should come from; 255 for any."""
    return ((mem_flags >> 8) - 1) & 0xFF


xen_memory_reservation = Struct(
    "xen_memory_reservation",
    ("extent_start", handle),
    ("nr_extents", u64),
    ("extent_order", u32),
    ("mem_flags", u32),
    ("domid", u16),
)

xen_memory_exchange = Struct(
    "xen_memory_exchange",
    ("in_", xen_memory_reservation),
    ("out", xen_memory_reservation),
    ("nr_exchanged", u64),
)

xen_memory_domain = Struct("xen_memory_domain", ("domid", u16))

xen_machphys_mfn_list = Struct(
    "xen_machphys_mfn_list",
    ("max_extents", u32),
    ("extent_start", handle),
    ("nr_extents", u32),
)

xen_machphys_mapping = Struct(
    "xen_machphys_mapping",
    ("v_start", u64),
    ("v_end", u64),
    ("max_mfn", u64),
)

xen_add_to_physmap = Struct(
    "xen_add_to_physmap",
    ("domid", u16),
    ("size", u16),
    ("space", u32),
    ("idx", u64),
    ("gpfn", u64),
)

xen_add_to_physmap_batch_extra = Union("xen_add_to_physmap_batch_extra", ("foreign_domid", u16), ("res0", u16))

xen_add_to_physmap_batch = Struct(
    "xen_add_to_physmap_batch",
    ("domid", u16),
    ("space", u16),
    ("size", u16),
    ("u", xen_add_to_physmap_batch_extra),
    ("idxs", handle),
    ("gpfns", handle),
    ("errs", handle),
)

xen_remove_from_physmap = Struct("xen_remove_from_physmap", ("domid", u16), ("gpfn", u64))

xen_memory_map = Struct("xen_memory_map", ("nr_entries", u32), ("buffer", handle))

xen_foreign_memory_map = Struct("xen_foreign_memory_map", ("domid", u16), ("map", xen_memory_map))

xen_reserved_device_memory = Struct("xen_reserved_device_memory", ("start_pfn", u64), ("nr_pages", u64))

xen_reserved_device_memory_map = Struct(
    "xen_reserved_device_memory_map",
    ("flags", u32),
    ("nr_entries", u32),
    ("buffer", handle),
    ("dev", Union("dev", ("pci", physdev_pci_device))),
)

xen_mem_acquire_resource = Struct(
    "xen_mem_acquire_resource",
    ("domid", u16),
    ("type", u16),
    ("id", u32),
    ("nr_frames", u32),
    ("pad", u32),
    ("frame", u64),
    ("frame_list", handle),
)

xen_vmemrange = Struct(
    "xen_vmemrange",
    ("start", u64),
    ("end", u64),
    ("flags", u32),
    ("nid", u32),
)

xen_vnuma_topology_info = Struct(
    "xen_vnuma_topology_info",
    ("domid", u16),
    ("pad", u16),
    ("nr_vnodes", u32),
    ("nr_vcpus", u32),
    ("nr_vmemranges", u32),
    ("vdistance", Union("vdistance", ("h", handle), ("pad", u64))),
    ("vcpu_to_vnode", Union("vcpu_to_vnode", ("h", handle), ("pad", u64))),
    ("vmemrange", Union("vmemrange", ("h", handle), ("pad", u64))),
)

XENMEM_NAMES = {
    n: name
    for n, name in number_names(globals(), "XENMEM_", keep=False).items()
    if not name.startswith(("resource_", "RDM_"))
}
