"""Hypercalls of which a PV guest gets little more than a well-defined no.

`argo_op`, `tmem_op` and `xenoprof_op` are not in the table at all: -ENOSYS, as from a Xen built without them.
Facts from Xen 4.17: xen/common/dm.c, kexec.c and hypfs.c, xen/arch/x86/hvm/hvm.c, platform_hypercall.c, cpu/vpmu.c,
xen/include/xsm/dummy.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.abi import errno, platform, xen
from pyvmm.hypervisor import cpuid, time
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import find_or_esrch, require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

HVMOP_SET_PARAM, HVMOP_GET_PARAM = 0, 1  # public/hvm/hvm_op.h
HVM_PARAM_SIZE = 16
HYPFS_OP_GET_VERSION, HYPFS_VERSION, HYPFS_MAX_PATH = 0, 1, 1024  # public/hypfs.h


@hypercall(xen.HYPERVISOR_xsm_op, "op")
def xsm_op(v: VCpu, op: int) -> int:
    """There is no security module but the default one, which has no operations."""
    return -errno.ENOSYS


@hypercall(xen.HYPERVISOR_hvm_op, "op", "arg")
def hvm_op(v: VCpu, op: int, arg: int) -> int:
    """Parameters of a domain that is not HVM: -EINVAL. Everything else: -ENOSYS."""
    if op in (HVMOP_SET_PARAM, HVMOP_GET_PARAM):
        data = v.copy_in(arg, HVM_PARAM_SIZE)
        find_or_esrch(v.domain, int.from_bytes(data[:2], "little"))
        return -errno.EINVAL
    return -errno.ENOSYS


def dm_op(v: VCpu, domid: int) -> int:
    """A device model's requests: only for another domain (-EPERM for oneself), and only an HVM one (-EINVAL). It shares
    its number with noxs: `devctl.devctl` calls it."""
    domid &= 0xFFFF
    if domid in (xen.DOMID_SELF, v.domain.domid):
        return -errno.EPERM
    find_or_esrch(v.domain, domid)
    return -errno.EINVAL


@hypercall(xen.HYPERVISOR_kexec_op, "op", "arg")
def kexec_op(v: VCpu, op: int, arg: int) -> int:
    """No memory is reserved for a crash kernel, there is nothing to load and nowhere to go."""
    require_privileged(v.domain)
    return -errno.ENOSYS


@hypercall(xen.HYPERVISOR_hypfs_op, "cmd", "arg1", "arg2", "arg3", "arg4")
def hypfs_op(v: VCpu, cmd: int, arg1: int, arg2: int, arg3: int, arg4: int) -> int:
    """The hypervisor's file system, for dom0: its version, and paths of which none leads anywhere.

    `arg1` and `arg2` are the path's address and its size with the NUL: -EINVAL for one that is too long, not absolute
    or not terminated."""
    require_privileged(v.domain)
    if cmd & 0xFFFF_FFFF == HYPFS_OP_GET_VERSION:
        return -errno.EINVAL if arg1 or arg2 or arg3 or arg4 else HYPFS_VERSION
    if arg2 > HYPFS_MAX_PATH:
        return -errno.EINVAL
    path = v.copy_in(arg1, arg2)
    if path.find(b"\0") != arg2 - 1 or not path.startswith(b"/"):
        return -errno.EINVAL
    return -errno.ENOENT


@hypercall(xen.HYPERVISOR_xenpmu_op, "op", "arg")
def xenpmu_op(v: VCpu, op: int, arg: int) -> int:
    """Performance counters for guests are off, as they are in Xen unless asked for on its command line."""
    return -errno.EOPNOTSUPP


_MCA_INTERFACE_VERSION = 0x01ECC003  # public/arch-x86/xen-mca.h


@hypercall(xen.HYPERVISOR_arch_0, "mca")
def mca(v: VCpu, mca: int) -> int:
    """Machine checks (__HYPERVISOR_mca): EFAULT and EACCES (another interface version) first; this machine has none."""
    require_privileged(v.domain)
    version = int.from_bytes(v.copy_in(mca, 8)[4:], "little")
    return -errno.ENOSYS if version == _MCA_INTERFACE_VERSION else -errno.EACCES


def _settime32(v: VCpu, op: int) -> int:
    when = platform.xenpf_settime32.unpack(v.copy_in(op, platform.xenpf_settime32.size))
    time.set_wallclock(v.hv, when.secs, when.nsecs, when.system_time)
    return 0


def _settime64(v: VCpu, op: int) -> int:
    when = platform.xenpf_settime64.unpack(v.copy_in(op, platform.xenpf_settime64.size))
    if when.mbz:
        raise XenError(errno.EINVAL)
    time.set_wallclock(v.hv, when.secs, when.nsecs, when.system_time)
    return 0


def _get_cpuinfo(v: VCpu, op: int) -> int:
    """Physical CPUs: there is number 0, and it is online. (platform_hypercall.c: XENPF_get_cpuinfo.)"""
    info = platform.xenpf_pcpuinfo.unpack(v.copy_in(op, platform.xenpf_pcpuinfo.size))._asdict()
    info["flags"] = platform.XEN_PCPU_FLAGS_INVALID if info["xen_cpuid"] else platform.XEN_PCPU_FLAGS_ONLINE
    if not info["xen_cpuid"]:
        info["apic_id"] = info["acpi_id"] = 0
    info["max_present"] = 0
    v.copy_out(op, platform.xenpf_pcpuinfo.pack(**info))
    return 0


def _get_cpu_version(v: VCpu, op: int) -> int:
    """Vendor, family, model and stepping of a physical CPU; of one that there is not, zeros."""
    cpu = platform.xenpf_pcpu_version.unpack(v.copy_in(op, platform.xenpf_pcpu_version.size)).xen_cpuid
    found = {"xen_cpuid": cpu, "max_present": 0}
    if not cpu:
        _, b, c, d = cpuid.native(v.hv, 0, 0)
        signature, _, _, _ = cpuid.native(v.hv, 1, 0)
        family, model = signature >> 8 & 15, signature >> 4 & 15
        if family == 15:
            family += signature >> 20 & 0xFF
        if family >= 6:
            model |= signature >> 12 & 0xF0
        vendor = b"".join(word.to_bytes(4, "little") for word in (b, d, c))
        found |= {"vendor_id": vendor, "family": family, "model": model, "stepping": signature & 15}
    v.copy_out(op, platform.xenpf_pcpu_version.pack(**found))
    return 0


_PLATFORM_OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    platform.XENPF_get_cpu_version: _get_cpu_version,
    platform.XENPF_get_cpuinfo: _get_cpuinfo,
    platform.XENPF_settime32: _settime32,
    platform.XENPF_settime64: _settime64,
}


@hypercall(xen.HYPERVISOR_platform_op, "op")
def platform_op(v: VCpu, op: int) -> int:
    """XENPF_*: the wall clock, what physical CPUs there are. -EACCES for another interface version, -EPERM without
    privilege, else -ENOSYS."""
    data = v.copy_in(op, platform.xen_platform_op.size)
    cmd, version = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
    if version != platform.XENPF_INTERFACE_VERSION:
        return -errno.EACCES
    require_privileged(v.domain)
    operation = _PLATFORM_OPERATIONS.get(cmd)
    return operation(v, op + platform.xen_platform_op.u.offset) if operation is not None else -errno.ENOSYS
