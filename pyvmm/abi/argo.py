"""Argo, the hypervisor's message passing (argo_op).

Source: Xen 4.17 public/argo.h.
"""

from pyvmm.abi.layout import Struct, handle, u8, u16, u32

XEN_ARGO_DOMID_ANY = 0x7FF4
XEN_ARGO_MAX_RING_SIZE = 0x1000000
XEN_ARGO_MAXIOV = 8
XEN_ARGO_MSG_SLOT_SIZE = 0x10

# xen_argo_ring_data_ent.flags.
XEN_ARGO_RING_EXISTS = 1 << 0
XEN_ARGO_RING_SHARED = 1 << 1
XEN_ARGO_RING_EMPTY = 1 << 2
XEN_ARGO_RING_SUFFICIENT = 1 << 3
XEN_ARGO_RING_EMSGSIZE = 1 << 4
XEN_ARGO_RING_EBUSY = 1 << 5

# Sub-operations.
XEN_ARGO_OP_register_ring = 1

XEN_ARGO_REGISTER_FLAG_FAIL_EXIST = 0x1

# Sub-operations.
XEN_ARGO_OP_unregister_ring = 2
XEN_ARGO_OP_sendv = 3
XEN_ARGO_OP_notify = 4

xen_argo_iov = Struct(
    "xen_argo_iov",
    ("iov_hnd", handle),
    ("iov_len", u32),
    ("pad", u32),
)

xen_argo_addr = Struct(
    "xen_argo_addr",
    ("aport", u32),
    ("domain_id", u16),
    ("pad", u16),
)

xen_argo_send_addr = Struct("xen_argo_send_addr", ("src", xen_argo_addr), ("dst", xen_argo_addr))

xen_argo_ring = Struct(
    "xen_argo_ring",
    ("rx_ptr", u32),
    ("tx_ptr", u32),
    ("reserved", u8 * 56),
    ("ring", u8 * 0),
)

xen_argo_register_ring = Struct(
    "xen_argo_register_ring",
    ("aport", u32),
    ("partner_id", u16),
    ("pad", u16),
    ("len", u32),
)

xen_argo_unregister_ring = Struct(
    "xen_argo_unregister_ring",
    ("aport", u32),
    ("partner_id", u16),
    ("pad", u16),
)

xen_argo_ring_data_ent = Struct(
    "xen_argo_ring_data_ent",
    ("ring", xen_argo_addr),
    ("flags", u16),
    ("pad", u16),
    ("space_required", u32),
    ("max_message_size", u32),
)

xen_argo_ring_data = Struct(
    "xen_argo_ring_data",
    ("nent", u32),
    ("pad", u32),
    ("data", xen_argo_ring_data_ent * 0),
)

xen_argo_ring_message_header = Struct(
    "xen_argo_ring_message_header",
    ("len", u32),
    ("source", xen_argo_addr),
    ("message_type", u32),
    ("data", u8 * 0),
)
