"""The ring of requests and responses that split drivers share.

Source: Xen 4.17 public/io/ring.h (`DEFINE_RING_TYPES`, `__RING_SIZE`). A request's slot is also its response's slot.
Indices run freely modulo 2**32; an entry's slot is its index modulo the ring's size, a power of two. `req_event` and
`rsp_event` say which index the other side wants to be notified at.
"""

from pyvmm.abi.layout import Struct, Union, u8, u32

XEN_PAGE_SHIFT = 12

sring = Struct(
    "sring",
    ("req_prod", u32),
    ("req_event", u32),
    ("rsp_prod", u32),
    ("rsp_event", u32),
    ("pvt", Union("pvt", ("pvt_pad", u8 * 4))),
    ("__pad", u8 * 44),
)
"""Head of a shared ring; the slots follow."""


def ring_size(entry_size: int, ring_bytes: int = 1 << XEN_PAGE_SHIFT) -> int:
    """How many slots of `entry_size` bytes a ring in `ring_bytes` bytes has: the largest power of two that fits.

    `ValueError` if not even one fits.
    """
    slots = (ring_bytes - sring.size) // entry_size
    if slots < 1:
        raise ValueError(f"no entry of {entry_size} bytes fits into {ring_bytes} bytes")
    return 1 << (slots.bit_length() - 1)


def needs_notify(old_prod: int, new_prod: int, event: int) -> bool:
    """Whether a producer that moved from `old_prod` to `new_prod` passed the index the consumer waits for."""
    return (new_prod - event) & 0xFFFFFFFF < (new_prod - old_prod) & 0xFFFFFFFF
