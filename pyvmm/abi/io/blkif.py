"""Block devices: what front and back end put into their ring, and the numbers in it.

Source: Xen 4.17 public/io/blkif.h, as an x86-64 front end lays it out (protocol "x86_64-abi"). Sectors have 512 bytes,
whatever `sector-size` says.
"""

from pyvmm.abi.layout import Struct, number_names, s16, u8, u16, u32, u64

BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2
BLKIF_OP_FLUSH_DISKCACHE = 3
BLKIF_OP_RESERVED_1 = 4
BLKIF_OP_DISCARD = 5
BLKIF_OP_INDIRECT = 6
BLKIF_OP_NAMES = number_names(globals(), "BLKIF_OP_", keep=False)

BLKIF_RSP_EOPNOTSUPP = -2
BLKIF_RSP_ERROR = -1
BLKIF_RSP_OKAY = 0

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8
BLKIF_DISCARD_SECURE = 1 << 0

VDISK_CDROM = 0x1
VDISK_REMOVABLE = 0x2
VDISK_READONLY = 0x4

blkif_request_segment = Struct("blkif_request_segment", ("gref", u32), ("first_sect", u8), ("last_sect", u8))

blkif_request = Struct(
    "blkif_request",
    ("operation", u8),
    ("nr_segments", u8),
    ("handle", u16),
    ("id", u64),
    ("sector_number", u64),
    ("seg", blkif_request_segment * BLKIF_MAX_SEGMENTS_PER_REQUEST),
)

blkif_request_discard = Struct(
    "blkif_request_discard",
    ("operation", u8),
    ("flag", u8),
    ("handle", u16),
    ("id", u64),
    ("sector_number", u64),
    ("nr_sectors", u64),
)

blkif_request_indirect = Struct(
    "blkif_request_indirect",
    ("operation", u8),
    ("indirect_op", u8),
    ("nr_segments", u16),
    ("id", u64),
    ("sector_number", u64),
    ("handle", u16),
    ("indirect_grefs", u32 * BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST),
)

blkif_response = Struct("blkif_response", ("id", u64), ("operation", u8), ("status", s16))
