"""xen_version: what this Xen says it is.

Facts from Xen 4.17: public/version.h, public/features.h, xen/common/kernel.c (do_xen_version),
xen/include/xsm/dummy.h (xsm_xen_version: a domain without privilege gets "<denied>" for the command line and -EPERM
for the build id).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64, errno, features, xen
from pyvmm.abi import version as abi
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PAGE_SIZE = 4096
MAJOR, MINOR = 4, 17
COMMAND_LINE_SIZE = 1024
DENIED = b"<denied>"


@dataclass(frozen=True)
class VersionInfo:
    """The texts that XENVER_* hand out. None of them depends on the host, so that runs repeat."""

    extraversion: bytes = b".7"
    compiler: bytes = b"none (pyvmm interprets Xen's ABI)"
    compile_by: bytes = b"pyvmm"
    compile_domain: bytes = b"pyvmm.invalid"
    compile_date: bytes = b"Mon Dec 12 00:00:00 UTC 2022"
    capabilities: bytes = b"xen-3.0-x86_64 "  # 64-bit PV guests and nothing else; the space is Xen's
    changeset: bytes = b"unavailable"
    command_line: bytes = b""
    build_id: bytes = hashlib.sha1(b"pyvmm: Xen 4.17 PV ABI", usedforsecurity=False).digest()


# Features every PV guest has, whatever it is and did.
_BASE_FEATURES = (
    1 << features.XENFEAT_memory_op_vnode_supported
    | 1 << features.XENFEAT_mmu_pt_update_preserve_ad
    | 1 << features.XENFEAT_highmem_assist
    | 1 << features.XENFEAT_gnttab_map_avail_bits
    | 1 << features.XENFEAT_direct_mapped
)


def _version(v: VCpu, arg: int) -> int:
    return MAJOR << 16 | MINOR


def _extraversion(v: VCpu, arg: int) -> int:
    v.copy_out(arg, _text(v.hv.version.extraversion, abi.XEN_EXTRAVERSION_LEN))
    return 0


def _compile_info(v: VCpu, arg: int) -> int:
    texts = v.hv.version
    fields = abi.xen_compile_info
    v.copy_out(
        arg,
        fields.pack(
            compiler=_text(texts.compiler, fields.compiler.size),
            compile_by=_text(texts.compile_by, fields.compile_by.size),
            compile_domain=_text(texts.compile_domain, fields.compile_domain.size),
            compile_date=_text(texts.compile_date, fields.compile_date.size),
        ),
    )
    return 0


def _capabilities(v: VCpu, arg: int) -> int:
    v.copy_out(arg, _text(v.hv.version.capabilities, abi.XEN_CAPABILITIES_INFO_LEN))
    return 0


def _changeset(v: VCpu, arg: int) -> int:
    v.copy_out(arg, _text(v.hv.version.changeset, abi.XEN_CHANGESET_INFO_LEN))
    return 0


def _platform_parameters(v: VCpu, arg: int) -> int:
    v.copy_out(arg, abi.xen_platform_parameters.pack(virt_start=arch_x86_64.HYPERVISOR_VIRT_START))
    return 0


def _get_features(v: VCpu, arg: int) -> int:
    """Bitmap 0 of the features this domain has; -EINVAL for any other bitmap."""
    op = abi.xen_feature_info.unpack(v.copy_in(arg, abi.xen_feature_info.size))
    if op.submap_idx != 0:
        raise XenError(errno.EINVAL)
    bits = _BASE_FEATURES
    if v.domain.vm_assist >> xen.VMASST_TYPE_pae_extended_cr3 & 1:
        bits |= 1 << features.XENFEAT_pae_pgdir_above_4gb
    if v.domain.privileged:
        bits |= 1 << features.XENFEAT_dom0
    v.copy_out(arg, abi.xen_feature_info.pack(submap_idx=0, submap=bits))
    return 0


def _pagesize(v: VCpu, arg: int) -> int:
    return -errno.EINVAL if arg else PAGE_SIZE


def _guest_handle(v: VCpu, arg: int) -> int:
    v.copy_out(arg, v.domain.handle)
    return 0


def _commandline(v: VCpu, arg: int) -> int:
    if v.domain.privileged:
        v.copy_out(arg, _text(v.hv.version.command_line, COMMAND_LINE_SIZE))
    else:
        v.copy_out(arg, DENIED + b"\0")
    return 0


def _build_id(v: VCpu, arg: int) -> int:
    """The length of the build id; with a buffer {u32 len, bytes} at `arg` also the id itself."""
    require_privileged(v.domain)
    build_id = v.hv.version.build_id
    if arg:
        room = int.from_bytes(v.copy_in(arg, 4), "little")
        if room == 0:
            raise XenError(errno.EINVAL)
        if len(build_id) > room:
            raise XenError(errno.ENOBUFS)
        v.copy_out(arg + 4, build_id)
    return len(build_id)


def _text(text: bytes, size: int) -> bytes:
    """`text` cut and padded to `size` bytes, the last of which is NUL."""
    return text[: size - 1].ljust(size, b"\0")


_OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    abi.XENVER_version: _version,
    abi.XENVER_extraversion: _extraversion,
    abi.XENVER_compile_info: _compile_info,
    abi.XENVER_capabilities: _capabilities,
    abi.XENVER_changeset: _changeset,
    abi.XENVER_platform_parameters: _platform_parameters,
    abi.XENVER_get_features: _get_features,
    abi.XENVER_pagesize: _pagesize,
    abi.XENVER_guest_handle: _guest_handle,
    abi.XENVER_commandline: _commandline,
    abi.XENVER_build_id: _build_id,
}


@hypercall(xen.HYPERVISOR_xen_version, "cmd", "arg")
def xen_version(v: VCpu, cmd: int, arg: int) -> int:
    """XENVER_*; -ENOSYS for an unknown one."""
    operation = _OPERATIONS.get(cmd & 0xFFFF_FFFF)
    return operation(v, arg) if operation is not None else -errno.ENOSYS
