"""What a block device says and reads in its noxs control page: `abi.devctl.vbd_ctrl_page`, ring references after it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pyvmm.abi import devctl as abi
from pyvmm.abi.io import protocols, xenbus
from pyvmm.backends.vbd import MAX_RING_PAGE_ORDER
from pyvmm.xenbus.backend import Connection, DeviceError
from pyvmm.xenbus.words import Field, PageWords, ReadPage

_PAGE = abi.vbd_ctrl_page
RINGS: int = abi.vbd_ctrl_page_rings_offset


def _field(feature: str, name: str | None = None, mask: int = 0, kind: str = "number") -> Field:
    member = _PAGE[name or feature]
    return Field(feature, member.offset, member.size, mask, kind)


def read_connection(read: ReadPage, domid: int) -> Connection:
    """What the front end wrote. The original one leaves num_rings 0, which is one ring."""

    def word(offset: int) -> int:
        return int.from_bytes(read(offset, 4), "little")

    rings, order = word(_PAGE.num_rings.offset), word(_PAGE.ring_page_order.offset)
    if rings > 1:
        raise DeviceError(f"one ring is served, not {rings}")
    if order > MAX_RING_PAGE_ORDER:
        raise DeviceError(f"ring_page_order is to be at most {MAX_RING_PAGE_ORDER}, not {order}")
    refs = tuple(word(RINGS + 4 + 4 * i) for i in range(1 << order))
    protocol = _field("protocol", kind="text").get(read)
    return Connection(domid, (refs,), (word(RINGS),), {"protocol": protocol})


def write_connection(connection: Connection) -> Iterable[tuple[int, bytes]]:
    """The bytes of a front end's connection."""
    refs = connection.rings[0]
    protocol = str(connection.features.get("protocol") or protocols.XEN_IO_PROTO_ABI_NATIVE)
    yield _PAGE.protocol.offset, protocol.encode().ljust(_PAGE.protocol.size, b"\0")
    yield _PAGE.num_rings.offset, struct.pack("<I", 1)
    yield _PAGE.ring_page_order.offset, struct.pack("<I", len(refs).bit_length() - 1)
    yield RINGS, struct.pack(f"<I{len(refs)}I", connection.ports[0], *refs)


PAGE_WORDS = PageWords(
    type=abi.noxs_dev_vbd,
    size=_PAGE.size,
    fe_state=xenbus.XenbusStateInitialising,
    offer=(
        _field("max_indirect_segments"),
        _field("max_queues", "max_rings"),
        _field("max_ring_page_order"),
        _field("type"),
        _field("mode"),
    ),
    details=(
        _field("flush", "be_flags", abi.VBD_BE_flush_cache),
        _field("discard", "be_flags", abi.VBD_BE_discard),
        _field("discard", "discard_enable"),
        _field("discard_granularity"),
        _field("discard_alignment"),
        _field("discard_secure"),
        _field("barrier", "be_flags", abi.VBD_BE_barrier),
        _field("persistent", "be_flags", abi.VBD_BE_persistent),
        _field("sectors"),
        _field("info"),
        _field("sector_size"),
        _field("physical_sector_size", "sector_size_physical"),
    ),
    read=read_connection,
    write=write_connection,
)
