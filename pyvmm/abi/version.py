"""Who the hypervisor is and what it can do (xen_version).

Source: Xen 4.17 public/version.h.
"""

from pyvmm.abi.layout import Struct, char, number_names, u8, u32, u64

# Sub-operations.
XENVER_version = 0
XENVER_extraversion = 1
XENVER_compile_info = 2
XENVER_capabilities = 3
XENVER_changeset = 4
XENVER_platform_parameters = 5
XENVER_get_features = 6
XENVER_pagesize = 7
XENVER_guest_handle = 8
XENVER_commandline = 9
XENVER_build_id = 10

# Lengths of the strings that are returned, in bytes with the terminating zero.
XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
XEN_CHANGESET_INFO_LEN = 64

xen_compile_info = Struct(
    "xen_compile_info",
    ("compiler", char * 64),
    ("compile_by", char * 16),
    ("compile_domain", char * 32),
    ("compile_date", char * 32),
)

xen_platform_parameters = Struct("xen_platform_parameters", ("virt_start", u64))
"""Where the hypervisor's range starts."""

xen_feature_info = Struct("xen_feature_info", ("submap_idx", u32), ("submap", u32))
"""32 features, from number 32 * submap_idx on."""

xen_build_id = Struct("xen_build_id", ("len", u32), ("buf", u8 * 0))
"""Argument of XENVER_build_id; with a null argument the call returns the length that `buf` must have."""

XENVER_NAMES = number_names(globals(), "XENVER_", keep=False)
