"""vm_assist: switches for how the hypervisor helps a guest.

Facts from Xen 4.17: public/xen.h (VMASST_*), xen/common/domain.c (do_vm_assist), xen/arch/x86/include/asm/domain.h
(PV64_VM_ASSIST_MASK; most of the types mean nothing to a 64-bit guest and are accepted all the same).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.hypervisor.hypercalls import hypercall

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

VALID_TYPES = frozenset(
    {
        xen.VMASST_TYPE_4gb_segments,
        xen.VMASST_TYPE_4gb_segments_notify,
        xen.VMASST_TYPE_writable_pagetables,
        xen.VMASST_TYPE_pae_extended_cr3,
        xen.VMASST_TYPE_architectural_iopl,
        xen.VMASST_TYPE_runstate_update_flag,
        xen.VMASST_TYPE_m2p_strict,
    }
)


@hypercall(xen.HYPERVISOR_vm_assist, "cmd", "type")
def vm_assist(v: VCpu, cmd: int, type_: int) -> int:
    """Enable or disable one type for the domain. -EINVAL: no such type; -ENOSYS: no such command (looked at second)."""
    type_ &= 0xFFFF_FFFF
    if type_ not in VALID_TYPES:
        return -errno.EINVAL
    cmd &= 0xFFFF_FFFF
    if cmd == xen.VMASST_CMD_enable:
        v.domain.vm_assist |= 1 << type_
    elif cmd == xen.VMASST_CMD_disable:
        v.domain.vm_assist &= ~(1 << type_)
    else:
        return -errno.ENOSYS
    return 0
