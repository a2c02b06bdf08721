"""The fingerprint of a run: a hash over every event, so that two runs with the same one did the same things at the
same times.

Canonical form of an event: its time, kind, domain, vCPU and values, each ended by a byte that cannot occur in it
before its end: integers in decimal,
strings and bytes after their length. Hash: BLAKE2b with 32 bytes of output (RFC 7693).
"""

from __future__ import annotations

import hashlib

from pyvmm.hypervisor.trace import Event

BATCH = 1 << 16  # bytes collected before the hash is fed


class Digest:
    """A listener for `Bus.listen`; `hexdigest()` at any time gives the fingerprint so far."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._buffer = bytearray()
        self.events = 0

    def __call__(self, event: Event) -> None:
        """Add one event."""
        self.events += 1
        buffer = self._buffer
        buffer += b"%d %d %d %d" % (event.time, event.kind.number, event.domid, event.vcpu)
        for value in event.values:
            if isinstance(value, int):
                buffer += b" %d" % value
            else:
                data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
                buffer += b" %d:" % len(data)
                buffer += data
        buffer += b"\n"
        if len(buffer) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(self._buffer)
        self._buffer.clear()

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()
