"""A port of a switch that is a real TAP device of the Linux host: its kernel, and programs on it, reach the guests.

    ip tuntap add pv0 mode tap user $USER      # once, as root; or let `TapPort` make it, with CAP_NET_ADMIN
    ip link set pv0 up; ip address add 10.0.0.1/24 dev pv0

What comes from there depends on the world outside, so each frame is recorded in the trace (NET_INPUT) before the
switch sees it, and it is taken only between two slices and while nobody can run (`pyvmm.outside`). So the same frames
in the same order give an idle host the same trace.

Facts: Linux's Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h. Checksums are computed before a frame
is written: the device has no offloads (no IFF_VNET_HDR, no TUNSETOFFLOAD).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from pyvmm.backends.ports import HostPort
from pyvmm.backends.switch import Frame
from pyvmm.errors import UsageError

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
NAME_SIZE = 16
IFREQ = struct.Struct("16sH22x")
LARGEST = 65536 + 18
AT_ONCE = 256  # frames taken before guests run again


class TapPort(HostPort):
    """`TapPort("pv0")` makes or opens the device; an empty name lets the kernel choose, `name` then says which.
    `UsageError`: no rights, or no such thing here. It is an `Outside` of `Host.run`; `Host.attach_port` sees to it."""

    def __init__(self, name: str = "") -> None:
        if len(name.encode()) >= NAME_SIZE:
            raise UsageError(f"{name}: a network device's name has at most {NAME_SIZE - 1} bytes")
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"cannot open {DEVICE}: {error.strerror}") from None
        try:
            answer = fcntl.ioctl(self._fd, TUNSETIFF, IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI))
        except OSError as error:
            os.close(self._fd)
            raise UsageError(f"cannot make the TAP device {name}: {error.strerror}") from None
        super().__init__(IFREQ.unpack(answer)[0].partition(b"\0")[0].decode())
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.stopped = False
        self.gone = False  # the device was removed under us
        self.taken = self.given = self.lost = 0

    def fileno(self) -> int:
        """The device's file descriptor; readable when a frame waits."""
        return self._fd

    def stop(self) -> None:
        """End the run at the next opportunity."""
        self.stopped = True
        os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Disconnect it; the device goes, unless it was made to stay. Doing it again does nothing."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._woken)
        self._fd, self.gone = -1, True

    # -- pyvmm.backends.switch.Port

    def deliver(self, frame: Frame) -> None:
        """See `Port.deliver`. What the device cannot take (it is down, its queue is full) is lost."""
        try:
            os.write(self._fd, frame.completed().data)
            self.given += 1
        except OSError:
            self.lost += 1

    # -- pyvmm.outside.Outside

    pause: float | None = None

    def filenos(self) -> Sequence[int]:
        """See `Outside.filenos`."""
        return () if self.gone else (self._fd, self._woken)

    def poll(self) -> bool:
        """See `Outside.poll`."""
        self._take()
        return self.stopped

    def _take(self) -> bool:
        """Hand the frames that have come to the switch. Whether there were any."""
        frames: list[Frame] = []
        while not self.gone and self.switch is not None and len(frames) < AT_ONCE:
            try:
                frames.append(Frame(os.read(self._fd, LARGEST)))
            except BlockingIOError:
                break
            except OSError as error:
                # Down for now, or gone for good (its network namespace was removed).
                self.gone = error.errno != errno.EIO
                break
        if frames and self.switch is not None:
            self.taken += len(frames)
            self.switch.input_all(self, frames)
            self.settled()
        return bool(frames)


__all__ = ["TapPort"]
