"""A block front end in Python, for native guests: the other end of `vbd`.

Requests are put together by `submit` (or whole, by `put`), shown by `push` and answered in `answers`. Nothing waits
here: the guest's task calls `serve` after an event on `port`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyvmm.abi.io import blkif as abi
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.xenbus.backend import Connection, DeviceError, Features
from pyvmm.xenbus.resources import Page, Resources
from pyvmm.xenbus.ring import FrontRing, RingError

SECTOR = 512
SECTORS_PER_PAGE = 8
_REQUEST, _RESPONSE, _SEGMENT = abi.blkif_request, abi.blkif_response, abi.blkif_request_segment
_NO_SEGMENT = {"gref": 0, "first_sect": 0, "last_sect": 0}


class Blkfront:
    """See `FrontPath`. `order`: the ring has 2**order pages, as far as the back end lets it."""

    def __init__(self, resources: Resources, order: int = 0) -> None:
        self.resources = resources
        self.order = order
        self.ring: FrontRing | None = None
        self.port = 0
        self.details: dict[str, Any] = {}
        self.answers: dict[int, int] = {}  # BLKIF_RSP_* by request id
        self.backend_domid = 0
        self._pages: list[tuple[int, Page]] = []
        self._va = 0

    # -- FrontPath

    def publish(self, backend_domid: int, offered: Features) -> Connection:
        """See `FrontPath`."""
        self.backend_domid = backend_domid
        order = min(self.order, int(offered.get("max_ring_page_order", 0)))
        try:
            pages = [self.resources.page() for _ in range(1 << order)]
            pages.sort(key=lambda page: page.va)
            self._pages = [(self.resources.grant(backend_domid, page), page) for page in pages]
            self.port = self.resources.xc.alloc_unbound(self.resources.api.domid, backend_domid)
        except HypercallError as error:
            raise DeviceError(str(error)) from None
        first = pages[0].va
        if any(page.va != first + i * 4096 for i, page in enumerate(pages)):
            raise DeviceError("the pages of the ring do not lie side by side")
        self.ring = FrontRing(self.resources.api, first, len(pages), _REQUEST.size)
        return Connection(self.resources.api.domid, (tuple(ref for ref, _ in self._pages),), (self.port,))

    def start(self, details: Features) -> None:
        """See `FrontPath`."""
        self.details = dict(details)
        if not self.details.get("sectors"):
            raise DeviceError("a disk without sectors")

    def stop(self) -> None:
        """See `FrontPath`."""

    def release(self) -> None:
        """See `FrontPath`."""
        if self.port:
            self.resources.xc.close_port(self.port)
            self.port = 0
        for ref, page in self._pages:
            self.resources.revoke_and_free(ref, page)
        self._pages, self.ring = [], None

    # -- requests

    def put(self, request: bytes) -> None:
        """Put a request into the ring, as it is."""
        assert self.ring is not None
        self.ring.put(request.ljust(_REQUEST.size, b"\0"))

    def submit(self, operation: int, id_: int, sector: int, segments: Sequence[tuple[int, int, int]] = ()) -> None:
        """Put a request with up to 11 segments (grant, first sector, last sector) into the ring."""
        seg = [{"gref": ref, "first_sect": first, "last_sect": last} for ref, first, last in segments]
        seg += [_NO_SEGMENT] * (abi.BLKIF_MAX_SEGMENTS_PER_REQUEST - len(seg))
        self.put(
            _REQUEST.pack(
                operation=operation, nr_segments=len(segments), handle=0, id=id_, sector_number=sector, seg=seg
            )
        )

    def push(self) -> bool:
        """Show the requests to the back end; whether it was notified."""
        assert self.ring is not None
        wanted = self.ring.push()
        if wanted:
            self.resources.xc.notify(self.port)
        return wanted

    def serve(self) -> None:
        """Take the answers that there are. `DeviceError` for answers to nothing."""
        ring = self.ring
        try:
            while ring is not None and ring.final_check():
                while (slot := ring.take()) is not None:
                    answer = _RESPONSE.unpack(slot[: _RESPONSE.size])
                    self.answers[answer.id] = answer.status
        except RingError as error:
            raise DeviceError(str(error)) from None


__all__ = ["SECTOR", "Blkfront"]
