"""A port that writes all frames of a switch to a capture file, for tcpdump, Wireshark or dpkt.

The format is libpcap's classic one with nanoseconds (pcap-savefile(5)). Times are virtual: the same run writes the
same file, to the byte. Checksums that a guest left to its back end stand in the file as they would on a wire.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from pyvmm.backends.ports import HostPort
from pyvmm.backends.switch import Frame
from pyvmm.errors import UsageError

MAGIC_NANOSECONDS = 0xA1B23C4D
VERSION = (2, 4)
SNAPSHOT_LENGTH = 262144  # larger than any frame: nothing is cut
LINKTYPE_ETHERNET = 1
FILE_HEADER = struct.Struct("<IHHiIII")
RECORD_HEADER = struct.Struct("<IIII")


class PcapPort(HostPort):
    """`PcapPort(path, wallclock)`; `wallclock()` gives virtual nanoseconds UTC (None: `Host.attach_port` sets it).
    `UsageError`: the file cannot be written. `close` it to have all of it in the file."""

    monitor = True

    def __init__(self, path: str | Path, wallclock: Callable[[], int] | None = None) -> None:
        super().__init__(f"pcap:{path}")
        self.wallclock = wallclock
        self.frames = 0
        try:
            self._file = Path(path).open("wb")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise UsageError(f"cannot write the capture {path}: {error.strerror}") from None
        self._file.write(FILE_HEADER.pack(MAGIC_NANOSECONDS, *VERSION, 0, 0, SNAPSHOT_LENGTH, LINKTYPE_ETHERNET))

    def deliver(self, frame: Frame) -> None:
        """See `Port.deliver`."""
        data = frame.completed().data
        seconds, rest = divmod(self.wallclock() if self.wallclock is not None else 0, 1_000_000_000)
        self._file.write(RECORD_HEADER.pack(seconds, rest, len(data), len(data)) + data)
        self.frames += 1

    def close(self) -> None:
        """Disconnect it and finish the file. Doing it again does nothing."""
        super().close()
        self._file.close()


__all__ = ["PcapPort"]
