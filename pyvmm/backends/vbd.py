"""The data path of block devices: a ring of requests on one side, a raw image on the other. Knows no negotiation.

Each request is read from the ring once, checked, and answered. What a front end may get wrong in a single request (too
many segments, sectors that are not there, a grant that is not) is answered with an error; what makes the ring as a
whole meaningless (an index that has run away, a ring page that cannot be mapped) closes the device with one report.

Data is moved by grant copy, so that nothing of the front end stays mapped but its ring. Facts: Xen 4.17
public/io/blkif.h; answers to what the header leaves open are those of Linux's xen-blkback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyvmm.abi.io import blkif as abi
from pyvmm.abi.io import protocols
from pyvmm.backends.disk import SECTOR, DiskError, RawDisk
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.xenbus.backend import Connection, DeviceError, Features, Site
from pyvmm.xenbus.resources import Mapping, Segment
from pyvmm.xenbus.ring import BackRing, RingError

PAGE = 4096
SECTORS_PER_PAGE = PAGE // SECTOR
MAX_INDIRECT_SEGMENTS = 256
MAX_RING_PAGE_ORDER = 4
SEGMENTS_PER_PAGE = PAGE // abi.blkif_request_segment.size
_REQUEST, _DISCARD, _INDIRECT = abi.blkif_request, abi.blkif_request_discard, abi.blkif_request_indirect
_SEGMENT, _RESPONSE = abi.blkif_request_segment, abi.blkif_response
_ID = slice(_REQUEST.id.offset, _REQUEST.id.offset + 8)
OKAY, ERROR, NOT_SUPPORTED = abi.BLKIF_RSP_OKAY, abi.BLKIF_RSP_ERROR, abi.BLKIF_RSP_EOPNOTSUPP


@dataclass(frozen=True)
class VbdConfig:
    """What a disk is to be. `path`: a raw image."""

    path: str
    readonly: bool = False
    cdrom: bool = False
    removable: bool = False
    discard: bool = True


@dataclass
class VbdCounters:
    """What a device has done, for reports."""

    requests: int = 0
    errors: int = 0
    sectors_read: int = 0
    sectors_written: int = 0
    flushes: int = 0
    discards: int = 0


class _Refused(Exception):
    """This request is answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Piece(NamedTuple):
    segment: Segment
    sectors: int


class Vbd:
    """See `DataPath`."""

    def __init__(self, site: Site) -> None:
        self.resources = site.resources
        self.domid = site.domid
        self.config: VbdConfig = site.config
        self.counters = VbdCounters()
        self._disk: RawDisk | None = None
        self._mapping: Mapping | None = None
        self._ring: BackRing | None = None
        self._port = 0

    # -- life cycle

    def probe(self) -> Features:
        """See `DataPath`: the image is opened, and stays so until `close`."""
        config = self.config
        if not config.path:
            raise DeviceError("no medium in the drive")
        if self._disk is None:
            try:
                self._disk = RawDisk(config.path, readonly=config.readonly)
            except DiskError as error:
                raise DeviceError(str(error)) from None
        return {
            "max_indirect_segments": MAX_INDIRECT_SEGMENTS,
            "max_queues": 1,
            "max_ring_page_order": MAX_RING_PAGE_ORDER,
            "type": 2,
            "mode": 1 if config.readonly else 2,
            "hotplug_status": "connected",
        }

    def connect(self, connection: Connection) -> Features:
        """See `DataPath`."""
        assert self._disk is not None
        self.stop()
        protocol = connection.features.get("protocol") or protocols.XEN_IO_PROTO_ABI_NATIVE
        if protocol != protocols.XEN_IO_PROTO_ABI_X86_64:
            raise DeviceError(f"requests are to be {protocols.XEN_IO_PROTO_ABI_X86_64}, not {protocol!r}")
        if len(connection.rings) != 1 or len(connection.ports) != 1:
            raise DeviceError("one ring with one event channel is served")
        refs = connection.rings[0]
        if len(refs) > 1 << MAX_RING_PAGE_ORDER or len(refs) & len(refs) - 1 or not refs:
            raise DeviceError(f"a ring has 1, 2, 4, 8 or 16 pages, not {len(refs)}")
        try:
            self._mapping = self.resources.map(connection.domid, refs)
            self._ring = BackRing(self.resources.api, self._mapping.va, len(refs), _REQUEST.size)
            self._port = self.resources.xc.bind_interdomain(connection.domid, connection.ports[0])
        except (HypercallError, RingError) as error:
            raise DeviceError(f"the ring cannot be used: {error}") from None
        config, writable = self.config, not self.config.readonly
        details: dict[str, int | str | bytes] = {"flush": writable}
        if config.discard and writable:
            details |= {"discard_granularity": SECTOR, "discard_alignment": 0, "discard_secure": 0, "discard": 1}
        return details | {
            "barrier": writable,
            "persistent": 0,
            "sectors": self._disk.sectors,
            "info": (abi.VDISK_CDROM if config.cdrom else 0)
            | (abi.VDISK_REMOVABLE if config.removable else 0)
            | (abi.VDISK_READONLY if config.readonly else 0),
            "sector_size": SECTOR,
            "physical_sector_size": SECTOR,
        }

    def ports(self) -> tuple[int, ...]:
        """See `DataPath`."""
        return (self._port,) if self._port else ()

    def stop(self) -> None:
        """See `DataPath`. What was written is in the file, on disk at the next flush or the host's leisure."""
        self._ring = None
        if self._port:
            self.resources.xc.close_port(self._port)
            self._port = 0
        if self._mapping is not None:
            self.resources.unmap(self._mapping)
            self._mapping = None

    def close(self) -> None:
        """See `DataPath`."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    # -- requests

    def serve(self) -> None:
        """See `DataPath`: all requests that there are, and those that come meanwhile."""
        ring = self._ring
        if ring is None:
            return
        try:
            again = True
            while again:
                while (slot := ring.take()) is not None:
                    ring.put(self._answer(slot))
                if ring.push():
                    self.resources.xc.notify(self._port)
                again = ring.final_check()
        except RingError as error:
            raise DeviceError(str(error)) from None

    def _answer(self, slot: bytes) -> bytes:
        operation = slot[0]
        self.counters.requests += 1
        try:
            handler = _OPERATIONS.get(operation)
            if handler is None:
                raise _Refused(NOT_SUPPORTED)
            handler(self, slot)
            status = OKAY
        except _Refused as refused:
            status = refused.status
        except DiskError:
            status = ERROR
        self.counters.errors += status != OKAY
        if operation == abi.BLKIF_OP_INDIRECT:
            operation = slot[_INDIRECT.indirect_op.offset]  # as blkback does; Linux's blkfront insists on it since 5.16
        return _RESPONSE.pack(id=int.from_bytes(slot[_ID], "little"), operation=operation, status=status)

    @property
    def _open(self) -> RawDisk:
        assert self._disk is not None
        return self._disk

    def _direct(self, slot: bytes) -> None:
        """A request with its segments in it: read, write, write barrier, flush (which may carry data)."""
        request = _REQUEST.unpack(slot)
        flush = request.operation == abi.BLKIF_OP_FLUSH_DISKCACHE
        barrier = request.operation == abi.BLKIF_OP_WRITE_BARRIER
        count = request.nr_segments
        if count > abi.BLKIF_MAX_SEGMENTS_PER_REQUEST or (not count and not flush and not barrier):
            raise _Refused(ERROR)
        if request.operation == abi.BLKIF_OP_READ:
            self._read(request.sector_number, [_piece(segment) for segment in request.seg[:count]])
            return
        self._check_writable()
        if flush or barrier:
            self._flush()
        if count:
            self._write(request.sector_number, [_piece(segment) for segment in request.seg[:count]])
        if barrier:
            self._flush()

    def _indirect(self, slot: bytes) -> None:
        """A request whose segments are in pages of their own; these are copied before they are looked at."""
        request = _INDIRECT.unpack(slot[: _INDIRECT.size])
        count = request.nr_segments
        if request.indirect_op not in (abi.BLKIF_OP_READ, abi.BLKIF_OP_WRITE) or not 0 < count <= MAX_INDIRECT_SEGMENTS:
            raise _Refused(ERROR)
        pages = -(-count // SEGMENTS_PER_PAGE)
        size = _SEGMENT.size
        where = [
            Segment(ref, 0, size * min(SEGMENTS_PER_PAGE, count - i * SEGMENTS_PER_PAGE))
            for i, ref in enumerate(request.indirect_grefs[:pages])
        ]
        data, status = self.resources.copy_from(self.domid, where)
        if status:
            raise _Refused(ERROR)
        pieces = [_piece(_SEGMENT.unpack(data[i : i + size])) for i in range(0, len(data), size)]
        if request.indirect_op == abi.BLKIF_OP_READ:
            self._read(request.sector_number, pieces)
        else:
            self._check_writable()
            self._write(request.sector_number, pieces)

    def _discard(self, slot: bytes) -> None:
        request = _DISCARD.unpack(slot[: _DISCARD.size])
        if not self.config.discard:
            raise _Refused(NOT_SUPPORTED)
        self._check_writable()
        self._check_sectors(request.sector_number, request.nr_sectors)
        if request.nr_sectors:
            self._open.discard(request.sector_number, request.nr_sectors)
        self.counters.discards += 1

    def _read(self, sector: int, pieces: list[_Piece]) -> None:
        count = sum(piece.sectors for piece in pieces)
        self._check_sectors(sector, count)
        data = self._open.read(sector, count)
        if self.resources.copy_to(self.domid, [piece.segment for piece in pieces], data):
            raise _Refused(ERROR)
        self.counters.sectors_read += count

    def _write(self, sector: int, pieces: list[_Piece]) -> None:
        """Nothing is written unless all of it could be had."""
        count = sum(piece.sectors for piece in pieces)
        self._check_sectors(sector, count)
        data, status = self.resources.copy_from(self.domid, [piece.segment for piece in pieces])
        if status:
            raise _Refused(ERROR)
        self._open.write(sector, data)
        self.counters.sectors_written += count

    def _flush(self) -> None:
        self._open.flush()
        self.counters.flushes += 1

    def _check_writable(self) -> None:
        if self.config.readonly:
            raise _Refused(ERROR)

    def _check_sectors(self, first: int, count: int) -> None:
        if first + count > self._open.sectors:
            raise _Refused(ERROR)


def _piece(segment: Any) -> _Piece:
    first, last = segment.first_sect, segment.last_sect
    if first > last or last >= SECTORS_PER_PAGE:
        raise _Refused(ERROR)
    count = last - first + 1
    return _Piece(Segment(segment.gref, first * SECTOR, count * SECTOR), count)


_OPERATIONS: dict[int, Callable[[Vbd, bytes], None]] = {
    abi.BLKIF_OP_READ: Vbd._direct,
    abi.BLKIF_OP_WRITE: Vbd._direct,
    abi.BLKIF_OP_WRITE_BARRIER: Vbd._direct,
    abi.BLKIF_OP_FLUSH_DISKCACHE: Vbd._direct,
    abi.BLKIF_OP_DISCARD: Vbd._discard,
    abi.BLKIF_OP_INDIRECT: Vbd._indirect,
}

__all__ = ["Vbd", "VbdConfig", "VbdCounters"]
