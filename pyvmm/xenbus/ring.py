"""The shared ring of requests and responses, from either side, with ring.h's rules for who is notified when.

Fact: Xen 4.17 public/io/ring.h. A side keeps its own indices to itself and reads the other's from the shared page once
each time; what it has written there it never reads back. A producer notifies when it passes the index that the other
side waits for (`req_event`, `rsp_event`); a consumer says which one that is before it looks a last time.
"""

from __future__ import annotations

import struct

from pyvmm.abi.io import ring as abi
from pyvmm.hypervisor.native import Native

PAGE = 4096
MASK = 0xFFFF_FFFF
_REQ_PROD, _REQ_EVENT = abi.sring.req_prod.offset, abi.sring.req_event.offset
_RSP_PROD, _RSP_EVENT = abi.sring.rsp_prod.offset, abi.sring.rsp_event.offset
SLOTS: int = abi.sring.size


class RingError(Exception):
    """The other side's index cannot be: it has run away."""


class _Ring:
    def __init__(self, api: Native, va: int, pages: int, slot_size: int) -> None:
        self.api = api
        self.va = va
        self.slot_size = slot_size
        self.size = abi.ring_size(slot_size, pages * PAGE)

    def _get(self, offset: int) -> int:
        return int.from_bytes(self.api.read(self.va + offset, 4), "little")

    def _set(self, offset: int, value: int) -> None:
        self.api.write(self.va + offset, struct.pack("<I", value & MASK))

    def _slot(self, index: int) -> int:
        return self.va + SLOTS + (index & self.size - 1) * self.slot_size


class BackRing(_Ring):
    """The back end's side. Attaching to a ring that was in use goes on with the requests that have no response yet
    (BACK_RING_ATTACH)."""

    def __init__(self, api: Native, va: int, pages: int, slot_size: int) -> None:
        super().__init__(api, va, pages, slot_size)
        self.rsp_prod = self._get(_RSP_PROD)
        self.req_cons = self.rsp_prod
        self._pushed = self.rsp_prod
        self._requests()  # one that is broken already cannot be attached to

    def _requests(self) -> int:
        """How many requests wait. `RingError` when that is more than there can be."""
        prod = self._get(_REQ_PROD)
        if (prod - self.rsp_prod) & MASK > self.size:
            raise RingError(f"request index {prod} with responses at {self.rsp_prod}, in a ring of {self.size}")
        return (prod - self.req_cons) & MASK

    def take(self) -> bytes | None:
        """The next request's slot, read once; None when there is none. `RingError`."""
        if not self._requests():
            return None
        data = self.api.read(self._slot(self.req_cons), self.slot_size)
        self.req_cons = self.req_cons + 1 & MASK
        return data

    def put(self, response: bytes) -> None:
        """Write a response, which `push` shows to the front end."""
        self.api.write(self._slot(self.rsp_prod), response)
        self.rsp_prod = self.rsp_prod + 1 & MASK

    def push(self) -> bool:
        """Show the responses; whether the front end wants to be notified of them."""
        old, self._pushed = self._pushed, self.rsp_prod
        if old == self.rsp_prod:
            return False
        self._set(_RSP_PROD, self.rsp_prod)
        return abi.needs_notify(old, self.rsp_prod, self._get(_RSP_EVENT))

    def final_check(self) -> bool:
        """Ask to be notified of the next request, then look whether it has come already. `RingError`."""
        if self._requests():
            return True
        self._set(_REQ_EVENT, self.req_cons + 1)
        return bool(self._requests())


class FrontRing(_Ring):
    """The front end's side, over a zeroed page (or pages) of its own."""

    def __init__(self, api: Native, va: int, pages: int, slot_size: int) -> None:
        super().__init__(api, va, pages, slot_size)
        self.req_prod = self.rsp_cons = self._pushed = 0
        self._set(_REQ_EVENT, 1)
        self._set(_RSP_EVENT, 1)

    @property
    def free(self) -> int:
        """How many requests there is room for."""
        return self.size - (self.req_prod - self.rsp_cons & MASK)

    def put(self, request: bytes) -> None:
        """Write a request, which `push` shows to the back end. There must be room."""
        assert self.free
        self.api.write(self._slot(self.req_prod), request)
        self.req_prod = self.req_prod + 1 & MASK

    def push(self) -> bool:
        """Show the requests; whether the back end wants to be notified of them."""
        old, self._pushed = self._pushed, self.req_prod
        if old == self.req_prod:
            return False
        self._set(_REQ_PROD, self.req_prod)
        return abi.needs_notify(old, self.req_prod, self._get(_REQ_EVENT))

    def take(self) -> bytes | None:
        """The next response's slot; None when there is none. `RingError` when the back end answers what it was not
        asked."""
        prod = self._get(_RSP_PROD)
        if (prod - self.rsp_cons) & MASK > (self.req_prod - self.rsp_cons) & MASK:
            raise RingError(f"response index {prod} with requests at {self.req_prod}")
        if prod == self.rsp_cons:
            return None
        data = self.api.read(self._slot(self.rsp_cons), self.slot_size)
        self.rsp_cons = self.rsp_cons + 1 & MASK
        return data

    def final_check(self) -> bool:
        """Ask to be notified of the next response, then look whether it has come already."""
        if self._get(_RSP_PROD) != self.rsp_cons:
            return True
        self._set(_RSP_EVENT, self.rsp_cons + 1)
        return self._get(_RSP_PROD) != self.rsp_cons


__all__ = ["BackRing", "FrontRing", "RingError"]
