"""Messages of the XenStore protocol: framing, parsing, errors by name.

A message is a 16-byte header (four little-endian u32: type, request id, transaction id, payload length) and a payload
of at most 4096 bytes, the same in both directions and on every transport. Facts: xen/include/public/io/xs_wire.h and
docs/misc/xenstore.txt of Xen 4.17.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from pyvmm.abi.io import xs_wire

PAYLOAD_MAX = xs_wire.XENSTORE_PAYLOAD_MAX
ABS_PATH_MAX = xs_wire.XENSTORE_ABS_PATH_MAX
REL_PATH_MAX = xs_wire.XENSTORE_REL_PATH_MAX
HEADER_SIZE = xs_wire.xsd_sockmsg.size
_HEADER = struct.Struct("<IIII")  # xsd_sockmsg; spelled out because it is packed for every message


class Op(IntEnum):
    """Message types (enum xsd_sockmsg_type, without its XS_ prefix).  20 was XS_RESTRICT and is no longer valid."""

    CONTROL = xs_wire.XS_CONTROL
    DIRECTORY = xs_wire.XS_DIRECTORY
    READ = xs_wire.XS_READ
    GET_PERMS = xs_wire.XS_GET_PERMS
    WATCH = xs_wire.XS_WATCH
    UNWATCH = xs_wire.XS_UNWATCH
    TRANSACTION_START = xs_wire.XS_TRANSACTION_START
    TRANSACTION_END = xs_wire.XS_TRANSACTION_END
    INTRODUCE = xs_wire.XS_INTRODUCE
    RELEASE = xs_wire.XS_RELEASE
    GET_DOMAIN_PATH = xs_wire.XS_GET_DOMAIN_PATH
    WRITE = xs_wire.XS_WRITE
    MKDIR = xs_wire.XS_MKDIR
    RM = xs_wire.XS_RM
    SET_PERMS = xs_wire.XS_SET_PERMS
    WATCH_EVENT = xs_wire.XS_WATCH_EVENT
    ERROR = xs_wire.XS_ERROR
    IS_DOMAIN_INTRODUCED = xs_wire.XS_IS_DOMAIN_INTRODUCED
    RESUME = xs_wire.XS_RESUME
    SET_TARGET = xs_wire.XS_SET_TARGET
    RESET_WATCHES = xs_wire.XS_RESET_WATCHES
    DIRECTORY_PART = xs_wire.XS_DIRECTORY_PART


ERROR_NAMES = xs_wire.XSD_ERRORS
"""The only error names a reply may carry (xsd_errors): clients translate anything else to EINVAL."""


class XsError(Exception):
    """A request that fails; `name` is what the ERROR reply carries."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ProtocolError(Exception):
    """The peer announced a payload over 4096 bytes: the connection cannot go on (XENSTORE_ERROR_PROTO)."""


class Packet(NamedTuple):
    """One message. `type` is any u32: a peer may send numbers that are no `Op`."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def pack(self) -> bytes:
        """The message's bytes."""
        return _HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class Parser:
    """Cuts a byte stream into messages; holds at most one header and one payload."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: tuple[int, int, int, int] | None = None

    @property
    def missing(self) -> int:
        """How many bytes complete what is being read now (the header, then the payload); a transport reads no more at
        once."""
        wanted = HEADER_SIZE if self._header is None else self._header[3]
        return wanted - len(self._buffer)

    @property
    def idle(self) -> bool:
        """True on a message boundary."""
        return self._header is None and not self._buffer

    def feed(self, data: bytes) -> Packet | None:
        """Take exactly up to `missing` bytes of input; return the message when they complete one.

        Raises ProtocolError when the header announces too long a payload.
        """
        self._buffer += data
        if self._header is None:
            if len(self._buffer) < HEADER_SIZE:
                return None
            self._header = _HEADER.unpack(self._buffer)
            self._buffer.clear()
            if self._header[3] > PAYLOAD_MAX:
                raise ProtocolError(f"payload of {self._header[3]} bytes announced")
        kind, req_id, tx_id, length = self._header
        if len(self._buffer) < length:
            return None
        packet = Packet(kind, req_id, tx_id, bytes(self._buffer))
        self.clear()
        return packet

    def clear(self) -> None:
        """Forget a partly read message."""
        self._buffer.clear()
        self._header = None


def strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload; bytes after the last NUL are no string."""
    return payload.split(b"\0")[:-1]


def only_string(payload: bytes) -> bytes:
    """The payload's one string, whose NUL ends the payload. EINVAL otherwise."""
    if payload.find(b"\0") != len(payload) - 1 or not payload:
        raise XsError("EINVAL")
    return payload[:-1]


def to_int(text: bytes) -> int:
    """C's atoi, which is how the protocol reads numbers: what cannot be parsed is 0; wraps at 32 bits, signed."""
    text = text.lstrip(b" \t\n\v\f\r")
    end = 1 if text[:1] in (b"+", b"-") else 0
    start = end
    while end < len(text) and 48 <= text[end] <= 57:
        end += 1
    if end == start:
        return 0
    value = int(text[start : min(end, start + 20)])
    if text[:1] == b"-":
        value = -value
    return (value + 0x80000000) % 0x100000000 - 0x80000000
