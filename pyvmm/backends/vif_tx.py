"""What a front end puts on its tx ring, taken apart: packets of several slots, extra information, and what is wrong.

No side effects: slots in, packets out. What the rules of the ring forbid is a `DeviceError`; what is only a packet that
cannot be sent is `Packet.refused`. Which is which, and the limits, are those of Linux's netback
(drivers/net/xen-netback/netback.c: xenvif_count_requests, xenvif_get_extras, xenvif_tx_build_gops).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyvmm.abi.io import netif as abi
from pyvmm.backends.switch import HEADER
from pyvmm.xenbus.backend import DeviceError

PAGE = 4096
MOST_SLOTS = abi.XEN_NETIF_NR_SLOTS_MIN  # beyond the first one
FATAL_SLOTS = 20  # more show that the front end does not follow the protocol
_REQUEST = abi.netif_tx_request
_EXTRA = abi.netif_extra_info


@dataclass(slots=True)
class Piece:
    """One slot's data: where it is. `slot`: index of the slot within the packet."""

    slot: int
    ref: int
    offset: int
    size: int


@dataclass(slots=True)
class Packet:
    """The slots of one packet. `ids`: of each slot, None for extra information; `flags` are the first slot's;
    `refused`: why it is not sent. `group`: (address, is to be added): it is no packet but a change of the multicast
    filter."""

    flags: int
    ids: list[int | None] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    refused: str = ""
    group: tuple[bytes, bool] | None = None


def packets(slots: Sequence[bytes]) -> list[Packet]:
    """All packets in the slots, which must hold whole ones."""
    found: list[Packet] = []
    at = 0
    while at < len(slots):
        packet = _packet(slots, at)
        found.append(packet)
        at += len(packet.ids)
    return found


def _packet(slots: Sequence[bytes], start: int) -> Packet:
    first = _REQUEST.unpack(slots[start])
    packet = Packet(first.flags, [first.id], size=first.size)
    if first.flags & abi.NETTXF_extra_info:
        _extras(slots, start, packet)
        if packet.group is not None:
            return packet
    rest = _more(slots, start, packet, first)
    if not packet.refused and rest < HEADER:
        packet.refused = f"{rest} bytes in the first slot of a packet"
    if packet.refused:
        return packet
    _check_page(first.offset, rest)
    packet.pieces.insert(0, Piece(0, first.gref, first.offset, rest))
    return packet


def _extras(slots: Sequence[bytes], start: int, packet: Packet) -> None:
    more = True
    while more:
        at = start + len(packet.ids)
        if at >= len(slots):
            raise DeviceError("tx ring: extra information is missing")
        extra = _EXTRA.unpack(slots[at])
        if not abi.XEN_NETIF_EXTRA_TYPE_NONE < extra.type < abi.XEN_NETIF_EXTRA_TYPE_MAX:
            raise DeviceError(f"tx ring: extra information of type {extra.type}")
        packet.ids.append(None)
        if extra.type == abi.XEN_NETIF_EXTRA_TYPE_GSO:
            packet.refused = "segmentation, which was not offered"
        elif extra.type in (abi.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, abi.XEN_NETIF_EXTRA_TYPE_MCAST_DEL):
            packet.group = extra.u.mcast.addr, extra.type == abi.XEN_NETIF_EXTRA_TYPE_MCAST_ADD
        more = bool(extra.flags & abi.XEN_NETIF_EXTRA_FLAG_MORE)


def _more(slots: Sequence[bytes], start: int, packet: Packet, first: Any) -> int:
    """Collect the slots after the first one; returns how many bytes are left for that."""
    rest, flags, count = int(first.size), int(first.flags), 0
    while flags & abi.NETTXF_more_data:
        at = start + len(packet.ids)
        if at >= len(slots):
            raise DeviceError("tx ring: a packet goes on in a slot that is not there")
        count += 1
        if count > FATAL_SLOTS:
            raise DeviceError(f"tx ring: a packet goes on for more than {FATAL_SLOTS} slots")
        request = _REQUEST.unpack(slots[at])
        if count > MOST_SLOTS:
            packet.refused = packet.refused or f"more than {MOST_SLOTS} slots after the first"
        elif request.size > rest:
            packet.refused = packet.refused or "its parts are larger than it is"
        _check_page(request.offset, request.size)
        rest -= min(request.size, rest)
        packet.pieces.append(Piece(len(packet.ids), request.gref, request.offset, request.size))
        packet.ids.append(request.id)
        flags = request.flags
    return rest


def _check_page(offset: int, size: int) -> None:
    if offset + size > PAGE:
        raise DeviceError(f"tx ring: {size} bytes at offset {offset} of a page")


__all__ = ["Packet", "Piece", "packets"]
