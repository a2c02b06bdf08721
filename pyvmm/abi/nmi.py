"""Non-maskable interrupts (nmi_op).

Source: Xen 4.17 public/nmi.h.
"""

from pyvmm.abi.layout import Struct, u64

# arch_shared_info.nmi_reason.
XEN_NMIREASON_io_error = 1 << 0
XEN_NMIREASON_pci_serr = 1 << 1
XEN_NMIREASON_unknown = 1 << 2

# Sub-operations.
XENNMI_register_callback = 0
XENNMI_unregister_callback = 1

xennmi_callback = Struct("xennmi_callback", ("handler_address", u64), ("pad", u64))
