"""The back end's side of one shared ring page: requests are taken, responses put into the slots they came from.

A request is copied out of the page once and never looked at there again. Facts: Xen 4.17 public/io/ring.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pyvmm.abi.io.ring import needs_notify, ring_size, sring
from pyvmm.abi.layout import Struct
from pyvmm.hypervisor.native import Native
from pyvmm.xenbus.backend import DeviceError

U32 = 0xFFFF_FFFF
_WORD = struct.Struct("<I")
_REQ_PROD, _REQ_EVENT = sring.req_prod.offset, sring.req_event.offset
_RSP_PROD, _RSP_EVENT = sring.rsp_prod.offset, sring.rsp_event.offset


class BackRing:
    """`va`: where the ring's page is mapped; `request`, `response`: what its slots hold. `DeviceError` when the
    front end's indices cannot be."""

    def __init__(self, api: Native, va: int, name: str, request: Struct, response: Struct) -> None:
        self._api = api
        self._va = va
        self._name = name
        self.slot = max(request.size, response.size)
        self.size = ring_size(self.slot)
        # One that was in use before (the front end's kernel was started over another one) goes on where it was.
        self.taken = self.answered = self._read(_RSP_PROD)
        self._pushed = self.answered
        self.waiting()

    def _read(self, offset: int) -> int:
        (value,) = _WORD.unpack(self._api.read(self._va + offset, 4))
        return int(value)

    def _write(self, offset: int, value: int) -> None:
        self._api.write(self._va + offset, _WORD.pack(value & U32))

    def waiting(self) -> int:
        """How many requests there are that were not taken yet."""
        produced = self._read(_REQ_PROD)
        count = (produced - self.taken) & U32
        if count > self.size - ((self.taken - self.answered) & U32):
            raise DeviceError(f"{self._name} ring: {count} requests cannot wait, it has {self.size} slots")
        return count

    def ask(self, count: int) -> None:
        """Be notified when `count` requests wait. Look at `waiting` again afterwards: they may have come meanwhile."""
        self._write(_REQ_EVENT, self.taken + count)

    def take(self, count: int) -> list[bytes]:
        """The next `count` requests, which `waiting` has said are there."""
        slots: list[bytes] = []
        while len(slots) < count:
            first = self.taken % self.size
            run = min(count - len(slots), self.size - first)
            data = self._api.read(self._va + sring.size + first * self.slot, run * self.slot)
            slots += [data[i : i + self.slot] for i in range(0, len(data), self.slot)]
            self.taken = (self.taken + run) & U32
        return slots

    def answer(self, responses: Sequence[bytes]) -> None:
        """Put the next responses, one a request taken, into their slots. `push` makes them visible."""
        done = 0
        while done < len(responses):
            first = self.answered % self.size
            run = min(len(responses) - done, self.size - first)
            data = b"".join(response.ljust(self.slot, b"\0") for response in responses[done : done + run])
            self._api.write(self._va + sring.size + first * self.slot, data)
            self.answered = (self.answered + run) & U32
            done += run

    def push(self) -> bool:
        """Let the front end see all responses; whether it wants to be notified of that."""
        old, self._pushed = self._pushed, self.answered
        if old == self._pushed:
            return False
        self._write(_RSP_PROD, self._pushed)
        return needs_notify(old, self._pushed, self._read(_RSP_EVENT))


__all__ = ["BackRing"]
