"""Packets as a station on the wire makes them, for tests: ARP, IPv4, IPv6, UDP, TCP, ICMP. Checksums are added up the
slow way, to be independent of `pyvmm.backends.checksum`."""

from __future__ import annotations

import struct
from ipaddress import ip_address

BROADCAST = b"\xff" * 6
ICMP, TCP, UDP = 1, 6, 17


def mac(text: str) -> bytes:
    """The six bytes of an address."""
    return bytes.fromhex(text.replace(":", ""))


def add_up(data: bytes) -> int:
    """The Internet checksum, word by word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ether(to: bytes, sender: bytes, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame, padded to the least size."""
    return (to + sender + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def arp_request(sender: bytes, source: str, wanted: str) -> bytes:
    """Who has `wanted`?"""
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + sender + ip_address(source).packed
    return ether(BROADCAST, sender, 0x0806, body + bytes(6) + ip_address(wanted).packed)


def ip(
    to: bytes, sender: bytes, source: str, target: str, protocol: int, payload: bytes, *, fragment: int = 0
) -> bytes:
    """A frame with an IPv4 or IPv6 packet."""
    ends = ip_address(source).packed + ip_address(target).packed
    if len(ends) == 32:
        header = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + ends
        return ether(to, sender, 0x86DD, header + payload)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + ends
    return ether(to, sender, 0x0800, header[:10] + struct.pack(">H", add_up(header)) + header[12:] + payload)


def pseudo(source: str, target: str, protocol: int, length: int) -> bytes:
    """What a transport's checksum starts with."""
    ends = ip_address(source).packed + ip_address(target).packed
    return ends + (struct.pack(">HH", protocol, length) if len(ends) == 8 else struct.pack(">II", length, protocol))


def udp(source: str, target: str, ports: tuple[int, int], data: bytes, *, blank: int | None = None) -> bytes:
    """A UDP header and its data. `blank`: what stands in the checksum instead of it."""
    header = struct.pack(">HHHH", *ports, 8 + len(data), 0)
    value = blank if blank is not None else add_up(pseudo(source, target, UDP, 8 + len(data)) + header + data) or 0xFFFF
    return header[:6] + struct.pack(">H", value) + data


def tcp(source: str, target: str, ports: tuple[int, int], data: bytes, *, blank: int | None = None) -> bytes:
    """A TCP header (an ACK) and its data."""
    header = struct.pack(">HHIIBBHHH", *ports, 1, 1, 0x50, 0x10, 1000, 0, 0)
    value = blank if blank is not None else add_up(pseudo(source, target, TCP, 20 + len(data)) + header + data)
    return header[:16] + struct.pack(">H", value) + header[18:] + data


def ping(data: bytes, number: int = 1) -> bytes:
    """An ICMP echo request."""
    header = struct.pack(">BBHHH", 8, 0, 0, 7, number)
    return header[:2] + struct.pack(">H", add_up(header + data)) + header[4:] + data
