"""Checksums of TCP and UDP in Ethernet frames: where they are, filling in those that a guest left blank, checking.

A guest that offloads checksums (`NETTXF_csum_blank`) leaves the field with the sum of the pseudo-header, or with
anything; so the whole sum is computed anew here.

Facts: RFC 1071 (the sum), RFC 768 (a UDP checksum of 0 is sent as 0xffff), RFC 9293 (TCP), RFC 8200 (IPv6: extension
headers, pseudo-header), IEEE 802.1Q and 802.1ad (tags).
"""

from __future__ import annotations

from typing import NamedTuple

ETHERNET_HEADER = 14
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
TAG = 4
MOST_TAGS = 2
TCP, UDP = 6, 17
CHECKSUM_AT = {TCP: 16, UDP: 6}  # offset of the checksum in the header
SMALLEST_HEADER = {TCP: 20, UDP: 8}
FRAGMENTED = 0x3FFF  # more fragments, or an offset
# IPv6 extension headers that may come before the transport: hop by hop, routing, destination options.
IPV6_OPTIONS = frozenset({0, 43, 60})
MOST_IPV6_OPTIONS = 8


class Transport(NamedTuple):
    """Where the transport header of a frame is, what it is, how long header and payload are, and the sum of the
    pseudo-header. `version`: of IP."""

    version: int
    protocol: int
    start: int
    length: int
    pseudo: int

    @property
    def field(self) -> int:
        """Offset of the checksum in the frame."""
        return self.start + CHECKSUM_AT[self.protocol]


def ones_sum(data: bytes) -> int:
    """RFC 1071's one's complement sum of big-endian 16-bit words; 0 only if all of them are. Odd data is padded."""
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data, "big")
    return (total % 0xFFFF or 0xFFFF) if total else 0


def checksum(data: bytes) -> int:
    """RFC 1071's Internet checksum."""
    return ones_sum(data) ^ 0xFFFF


def transport(frame: bytes) -> Transport | None:
    """The frame's TCP or UDP part; None when it has none that could have a checksum: another protocol, a fragment, or
    lengths that do not fit."""
    at = ETHERNET_HEADER
    kind = int.from_bytes(frame[12:14], "big")
    for _ in range(MOST_TAGS):
        if kind not in (ETH_P_8021Q, ETH_P_8021AD):
            break
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += TAG
    if kind == ETH_P_IP:
        found = _ipv4(frame, at)
    elif kind == ETH_P_IPV6:
        found = _ipv6(frame, at)
    else:
        return None
    if found is None or found.protocol not in CHECKSUM_AT or found.length < SMALLEST_HEADER[found.protocol]:
        return None
    return found


def _ipv4(frame: bytes, at: int) -> Transport | None:
    header = frame[at : at + 20]
    if len(header) < 20 or header[0] >> 4 != 4:
        return None
    size, total = (header[0] & 15) * 4, int.from_bytes(header[2:4], "big")
    if size < 20 or total < size or at + total > len(frame):
        return None
    if int.from_bytes(header[6:8], "big") & FRAGMENTED:
        return None
    length = total - size
    return Transport(4, header[9], at + size, length, ones_sum(header[12:20]) + header[9] + length)


def _ipv6(frame: bytes, at: int) -> Transport | None:
    header = frame[at : at + 40]
    if len(header) < 40 or header[0] >> 4 != 6:
        return None
    end, start, kind = at + 40 + int.from_bytes(header[4:6], "big"), at + 40, header[6]
    if end > len(frame):
        return None
    for _ in range(MOST_IPV6_OPTIONS):
        if kind not in IPV6_OPTIONS:
            break
        if start + 8 > end:
            return None
        kind, start = frame[start], start + 8 * (frame[start + 1] + 1)
    length = end - start
    if length < 0:
        return None
    return Transport(6, kind, start, length, ones_sum(header[8:40]) + kind + length)


def _sum_over(frame: bytes, part: Transport, body: bytes) -> int:
    return ones_sum((part.pseudo % 0xFFFF).to_bytes(2, "big") + body)


def complete(frame: bytes) -> bytes:
    """The frame with its TCP or UDP checksum filled in. `ValueError` when it has none."""
    part = transport(frame)
    if part is None:
        raise ValueError("neither TCP nor UDP in one piece")
    at = part.field
    blank = frame[:at] + b"\0\0" + frame[at + 2 :]
    value = _sum_over(frame, part, blank[part.start : part.start + part.length]) ^ 0xFFFF
    return frame[:at] + (value or 0xFFFF if part.protocol == UDP else value).to_bytes(2, "big") + frame[at + 2 :]


def is_right(frame: bytes) -> bool | None:
    """Whether the frame's TCP or UDP checksum is right; None when it has none (UDP over IPv4 may do without)."""
    part = transport(frame)
    if part is None:
        return None
    if part.protocol == UDP and part.version == 4 and frame[part.field : part.field + 2] == b"\0\0":
        return None
    return _sum_over(frame, part, frame[part.start : part.start + part.length]) in (0, 0xFFFF)


__all__ = ["Transport", "checksum", "complete", "is_right", "ones_sum", "transport"]
