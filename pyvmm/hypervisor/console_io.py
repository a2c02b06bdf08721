"""console_io: the host's own console, for the control domain.

Facts from Xen 4.17: xen/drivers/char/console.c (do_console_io, guest_console_write), xen/include/xsm/dummy.h
(xsm_console_io: a release build lets only the privileged write, and never anybody else read).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.continuation import share
from pyvmm.hypervisor.errors import Preempted, XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

CHUNK = 127  # Xen copies a write through a buffer of this many characters
MAX_READ = 0x7FFF_FFFF


@hypercall(xen.HYPERVISOR_console_io, "cmd", "count", "buffer")
def console_io(v: VCpu, cmd: int, count: int, buffer: int) -> int:
    """CONSOLEIO_write: 0; CONSOLEIO_read: how many bytes were read (0 when there is no input). -EPERM without
    privilege."""
    require_privileged(v.domain)
    cmd &= 0xFFFF_FFFF
    count &= 0xFFFF_FFFF
    if cmd == xen.CONSOLEIO_write:
        return _write(v, count, buffer)
    if cmd == xen.CONSOLEIO_read:
        return _read(v, count, buffer)
    return -errno.ENOSYS


def _write(v: VCpu, count: int, buffer: int) -> int:
    """What comes before a page that cannot be read is written, as far as whole chunks reach."""
    data = bytearray()
    result = 0
    now = min(count, share(v, -(-count // CHUNK)) * CHUNK)
    for at in range(0, now, CHUNK):
        try:
            data += v.copy_in(buffer + at, min(CHUNK, now - at))
        except XenError as error:
            result = -error.errno
            break
    if data:
        emit(v, bytes(data))
    if now < count and not result:
        write = xen.CONSOLEIO_write
        raise Preempted(rest=(write, count - now, buffer + now), served=(write, now, buffer))
    return result


def emit(v: VCpu, data: bytes) -> None:
    """Hand text of `v`'s domain to the host's console sinks."""
    if v.hv.trace.on:
        v.hv.trace.emit(trace.CONSOLE, v.domain.domid, v.vcpu_id, data)
    for sink in v.hv.console_sinks:
        sink(v.domain, data)


def _read(v: VCpu, count: int, buffer: int) -> int:
    if count > MAX_READ:
        return -errno.E2BIG
    queue = v.hv.console_input
    data = bytes(queue[:count])
    if data:
        v.copy_out(buffer, data)
        del queue[: len(data)]
    return len(data)
