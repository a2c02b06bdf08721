"""Checksums of frames, against sums that were added up word by word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.backends import checksum
from tests.backends import wire

A, B = wire.mac("02:00:00:00:00:01"), wire.mac("02:00:00:00:00:02")
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fe80::1", "fe80::2")


@given(st.binary(max_size=99))
def test_the_sum(data: bytes) -> None:
    assert checksum.checksum(data) == wire.add_up(data)


@given(
    st.sampled_from([V4, V6]),
    st.sampled_from([(wire.UDP, wire.udp), (wire.TCP, wire.tcp)]),
    st.binary(max_size=60),
    st.integers(0, 0xFFFF),
)
def test_blank_ones_are_filled_in(
    ends: tuple[str, str], kind: tuple[int, Callable[..., bytes]], data: bytes, junk: int
) -> None:
    protocol, make = kind
    right = wire.ip(A, B, *ends, protocol, make(*ends, (1000, 13), data))
    blank = wire.ip(A, B, *ends, protocol, make(*ends, (1000, 13), data, blank=junk))
    assert checksum.complete(blank) == right
    assert checksum.is_right(right) is True
    if blank != right and not (protocol == wire.UDP and ends == V4 and junk == 0):
        assert checksum.is_right(blank) is False


def test_a_sum_of_zero_is_sent_as_ones() -> None:
    """UDP over IPv4: 0 means that there is none."""
    found = set()
    for number in range(0x10000):
        data = number.to_bytes(2, "big")
        frame = checksum.complete(wire.ip(A, B, *V4, wire.UDP, wire.udp(*V4, (1, 2), data, blank=0)))
        found.add(frame[40:42])
    assert b"\0\0" not in found and b"\xff\xff" in found


def test_tags_and_options() -> None:
    body = wire.udp(*V4, (1, 2), b"data", blank=0)
    plain = wire.ip(A, B, *V4, wire.UDP, body)
    tagged = plain[:12] + b"\x88\xa8\0\1\x81\0\0\2" + plain[12:]
    assert checksum.complete(tagged)[8:].endswith(checksum.complete(plain)[14:])
    options = bytes([wire.UDP, 0]) + bytes(6)
    v6 = wire.udp(*V6, (1, 2), b"data", blank=0)
    behind = wire.ip(A, B, *V6, 60, options + v6)
    part = checksum.transport(behind)
    assert part is not None and (part.start, part.length) == (62, 12)
    direct = checksum.complete(wire.ip(A, B, *V6, wire.UDP, v6))
    assert checksum.complete(behind)[68:70] == direct[60:62]


UDP4 = wire.ip(A, B, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"data"))
UDP6 = wire.ip(A, B, *V6, wire.UDP, wire.udp(*V6, (1, 2), b"data"))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        A + B,
        wire.arp_request(A, *V4),
        wire.ip(A, B, *V4, wire.ICMP, wire.ping(b"x")),
        wire.ip(A, B, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"data"), fragment=0x2000),
        wire.ip(A, B, *V4, wire.UDP, wire.udp(*V4, (1, 2), b"data"), fragment=3),
        wire.ip(A, B, *V4, wire.UDP, b"short"),
        wire.ip(A, B, *V4, wire.TCP, bytes(19)),
        UDP4[:40],
        UDP4[:14] + b"\x44" + UDP4[15:],  # a header of 16 bytes
        UDP4[:14] + b"\x55" + UDP4[15:],  # IP version 5
        UDP4[:16] + b"\x00\x08" + UDP4[18:],  # shorter than its header
        UDP4[:16] + b"\x09\x00" + UDP4[18:],  # longer than the frame
        UDP6[:18] + b"\x09\x00" + UDP6[20:],
        UDP6[:20] + b"\x00" + UDP6[21:54] + b"\x11\xff" + UDP6[56:],  # options beyond the end
        wire.ip(A, B, *V6, 44, bytes(8) + wire.udp(*V6, (1, 2), b"data")),  # a fragment
    ],
    ids=range(16),
)
def test_frames_that_have_none(frame: bytes) -> None:
    assert checksum.transport(frame) is None and checksum.is_right(frame) is None
    with pytest.raises(ValueError):
        checksum.complete(frame)


@given(st.binary(max_size=120), st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0\0\0\x08\0", b""]))
def test_any_bytes(data: bytes, kind: bytes) -> None:
    """Nothing but the answer, or that there is none."""
    frame = A + B + kind + data
    if checksum.transport(frame) is not None:
        assert checksum.is_right(checksum.complete(frame)) is True
