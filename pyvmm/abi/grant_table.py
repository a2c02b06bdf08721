"""Grant tables: how a domain lets another one map or copy its frames.

Source: Xen 4.17 public/grant_table.h.
The argument of `GNTTABOP_x` is an array of `gnttab_x` (of one element for those that concern the whole table).
"""

from pyvmm.abi.layout import Struct, Union, handle, number_names, s16, u16, u32, u64

# References that the toolstack fills in before the guest starts.
GNTTAB_NR_RESERVED_ENTRIES = 8
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1

# grant_entry flags: type and state bits.
GTF_invalid = 0 << 0
GTF_permit_access = 1 << 0
GTF_accept_transfer = 2 << 0
GTF_transitive = 3 << 0
GTF_type_mask = 3 << 0
GTF_readonly = 1 << 2
GTF_reading = 1 << 3
GTF_writing = 1 << 4
GTF_PWT = 1 << 5
GTF_PCD = 1 << 6
GTF_PAT = 1 << 7
GTF_sub_page = 1 << 8
GTF_transfer_committed = 1 << 2
GTF_transfer_completed = 1 << 3

# Sub-operations.
GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12

# gnttab_copy.flags.
GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1

# gnttab_cache_flush.op.
GNTTAB_CACHE_CLEAN = 1 << 0
GNTTAB_CACHE_INVAL = 1 << 1
GNTTAB_CACHE_SOURCE_GREF = 1 << 31

# gnttab_map_grant_ref.flags.
GNTMAP_device_map = 1 << 0
GNTMAP_host_map = 1 << 1
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3
GNTMAP_contains_pte = 1 << 4
GNTMAP_guest_avail_mask = 0xFFFF0000

# Status of one operation; what each means is in GNTST_TEXT.
GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13

grant_entry_v1 = Struct(
    "grant_entry_v1",
    ("flags", u16),
    ("domid", u16),
    ("frame", u32),
)
"""An entry in version 1 of the table. While in use Xen sets GTF_reading and GTF_writing in `flags`."""

grant_entry_header = Struct("grant_entry_header", ("flags", u16), ("domid", u16))

grant_entry_v2 = Union(
    "grant_entry_v2",
    ("hdr", grant_entry_header),
    ("full_page", Struct("full_page", ("hdr", grant_entry_header), ("pad0", u32), ("frame", u64))),
    ("sub_page", Struct("sub_page", ("hdr", grant_entry_header), ("page_off", u16), ("length", u16), ("frame", u64))),
    (
        "transitive",
        Struct("transitive", ("hdr", grant_entry_header), ("trans_domid", u16), ("pad0", u16), ("gref", u32)),
    ),
    ("__spacer", u32 * 4),
)
"""An entry in version 2 of the table, by its type; its status is a u16 of its own."""

gnttab_map_grant_ref = Struct(
    "gnttab_map_grant_ref",
    ("host_addr", u64),
    ("flags", u32),
    ("ref", u32),
    ("dom", u16),
    ("status", s16),
    ("handle", u32),
    ("dev_bus_addr", u64),
)

gnttab_unmap_grant_ref = Struct(
    "gnttab_unmap_grant_ref",
    ("host_addr", u64),
    ("dev_bus_addr", u64),
    ("handle", u32),
    ("status", s16),
)

gnttab_setup_table = Struct(
    "gnttab_setup_table",
    ("dom", u16),
    ("nr_frames", u32),
    ("status", s16),
    ("frame_list", handle),
)

gnttab_dump_table = Struct("gnttab_dump_table", ("dom", u16), ("status", s16))

gnttab_transfer = Struct(
    "gnttab_transfer",
    ("mfn", u64),
    ("domid", u16),
    ("ref", u32),
    ("status", s16),
)

gnttab_copy_ptr = Struct(
    "gnttab_copy_ptr",
    ("u", Union("u", ("ref", u32), ("gmfn", u64))),
    ("domid", u16),
    ("offset", u16),
)
"""One end of a copy: a grant reference or a frame of the caller."""

gnttab_copy = Struct(
    "gnttab_copy",
    ("source", gnttab_copy_ptr),
    ("dest", gnttab_copy_ptr),
    ("len", u16),
    ("flags", u16),
    ("status", s16),
)

gnttab_query_size = Struct(
    "gnttab_query_size",
    ("dom", u16),
    ("nr_frames", u32),
    ("max_nr_frames", u32),
    ("status", s16),
)

gnttab_unmap_and_replace = Struct(
    "gnttab_unmap_and_replace",
    ("host_addr", u64),
    ("new_addr", u64),
    ("handle", u32),
    ("status", s16),
)

gnttab_set_version = Struct("gnttab_set_version", ("version", u32))

gnttab_get_status_frames = Struct(
    "gnttab_get_status_frames",
    ("nr_frames", u32),
    ("dom", u16),
    ("status", s16),
    ("frame_list", handle),
)

gnttab_get_version = Struct(
    "gnttab_get_version",
    ("dom", u16),
    ("pad", u16),
    ("version", u32),
)

gnttab_swap_grant_ref = Struct(
    "gnttab_swap_grant_ref",
    ("ref_a", u32),
    ("ref_b", u32),
    ("status", s16),
)

gnttab_cache_flush = Struct(
    "gnttab_cache_flush",
    ("a", Union("a", ("dev_bus_addr", u64), ("ref", u32))),
    ("offset", u16),
    ("length", u16),
    ("op", u32),
)

GNTTABOP_NAMES = number_names(globals(), "GNTTABOP_", keep=False)
GNTST_NAMES = number_names(globals(), "GNTST_", keep=False)

GNTST_TEXT = {
    GNTST_okay: "done",
    GNTST_general_error: "failed for no more specific reason",
    GNTST_bad_domain: "no such domain",
    GNTST_bad_gntref: "no such reference, or its entry does not allow this",
    GNTST_bad_handle: "no such mapping handle",
    GNTST_bad_virt_addr: "address cannot hold the mapping",
    GNTST_bad_dev_addr: "device address does not belong to the mapping",
    GNTST_no_device_space: "no room in the I/O MMU",
    GNTST_permission_denied: "entry or caller has no right to this access",
    GNTST_bad_page: "the frame may not be granted",
    GNTST_bad_copy_arg: "copy crosses the end of a page",
    GNTST_address_too_big: "frame number does not fit",
    GNTST_eagain: "frame is not there yet, try again",
    GNTST_no_space: "out of handles",
}
"""What each status means, for people."""
