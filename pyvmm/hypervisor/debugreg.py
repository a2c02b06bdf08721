"""Debug and control registers of a PV guest: what it may set, and what it reads back.

Facts: xen/arch/x86/pv/misc-hypercalls.c (set_debugreg, do_fpu_taskswitch), xen/arch/x86/x86_emulate.c
(x86emul_read_dr), xen/arch/x86/pv/domain.c (pv_fixup_guest_cr4) of Xen 4.17; layout of DR6, DR7, CR0 and CR4: Intel
SDM volume 3, 2.5 and 17.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.hypervisor.bounce import DR6_ONES, is_guest_address
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall, signed

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

NO_SUCH = -errno.ENODEV  # such a register is #UD to the instruction

DR6_BITS = 0xFFFFEFFF
DR7_ONES, DR7_BITS = 0x400, 0xFFFF27FF
DR7_ENABLES, DR7_GD = 0xFF, 1 << 13
DR7_RW_IO = 2  # an R/W field that means: break on I/O
DR6_DEFAULT, DR7_DEFAULT = DR6_ONES, DR7_ONES

CR0_TS = 8
CR4_TSD, CR4_DE = 4, 8
CR4_VISIBLE = 0x660  # PAE MCE OSFXSR OSXMMEXCPT: Xen's own, shown to the guest. FSGSBASE and OSXSAVE: not on this CPU


def guest_cr4(value: int) -> int:
    """The CR4 a guest gets that asks for `value`: its choice of TSD and DE, and what Xen shows of its own."""
    return value & (CR4_TSD | CR4_DE) | CR4_VISIBLE


def read(v: VCpu, number: int) -> int:
    """The value of debug register `number`; 4 and 5 are 6 and 7 unless CR4.DE is set. XenError(ENODEV): there is
    none.
    """
    if number in (4, 5) and not v.ctrlreg[4] & CR4_DE:
        number += 2
    if number in (4, 5) or not 0 <= number < 8:
        raise XenError(errno.ENODEV)
    return v.debugreg[number] | (v.debug_io_enables if number == 7 else 0)


def write(v: VCpu, number: int, value: int) -> int:
    """Set debug register `number`. 0, or -ENODEV (no such register), -EINVAL (reserved bits), -EPERM (Xen's
    addresses, GD, I/O without DE).
    """
    if number in (4, 5) and not v.ctrlreg[4] & CR4_DE:
        number += 2
    if 0 <= number < 4:
        if not is_guest_address(value):
            return -errno.EPERM
        v.debugreg[number] = value
        return 0
    if number not in (6, 7):
        return NO_SUCH
    if value >> 32:
        return -errno.EINVAL
    if number == 6:
        v.debugreg[6] = value & DR6_BITS | DR6_ONES
        return 0
    value = value & DR7_BITS | DR7_ONES
    if value & DR7_GD:
        return -errno.EPERM
    io_enables = 0
    if value & DR7_ENABLES:
        for i in range(4):
            if value >> (16 + 4 * i) & 3 == DR7_RW_IO:
                if not v.ctrlreg[4] & CR4_DE:
                    return -errno.EPERM
                io_enables |= value & 3 << 2 * i
    v.debug_io_enables = io_enables
    v.debugreg[7] = value & ~io_enables
    return 0


def set_task_switched(v: VCpu, on: bool) -> None:
    """Set or clear the guest's CR0.TS: the next use of the FPU raises #NM."""
    v.ctrlreg[0] = v.ctrlreg[0] | CR0_TS if on else v.ctrlreg[0] & ~CR0_TS
    v.hv.machine.task_switched = on


@hypercall(xen.HYPERVISOR_set_debugreg, "reg", "value")
def set_debugreg(v: VCpu, reg: int, value: int) -> int:
    """See `write`."""
    return write(v, signed(reg, 32), value)


@hypercall(xen.HYPERVISOR_get_debugreg, "reg")
def get_debugreg(v: VCpu, reg: int) -> int:
    """See `read`."""
    return signed(read(v, signed(reg, 32)))


@hypercall(xen.HYPERVISOR_fpu_taskswitch, "set")
def fpu_taskswitch(v: VCpu, on: int) -> int:
    """Set (nonzero) or clear CR0.TS."""
    set_task_switched(v, bool(on & 0xFFFFFFFF))
    return 0
