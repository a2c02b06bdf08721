"""Model-specific registers as a PV guest's kernel finds them through rdmsr and wrmsr.

The CPU is qemu64, which is of AMD's kind (family 15), on a host without power management or performance counters for
guests. `READ` and `WRITE` are the whole truth: a register that is not there raises #GP.

Facts: xen/arch/x86/msr.c (guest_rdmsr, guest_wrmsr), pv/emul-priv-op.c (read_msr, write_msr), cpu/mcheck/vmce.c,
vpmu.c of Xen 4.17; the answers of Xen 4.17 itself on that CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.hypervisor import pvlayout
from pyvmm.hypervisor.bounce import GP, is_canonical
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.machine import Reg

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

TSC, APIC_BASE, MISC_ENABLE, PAT, EFER = 0x10, 0x1B, 0x1A0, 0x277, 0xC0000080
PATCH_LEVEL, PLATFORM_INFO, MISC_FEATURES, PERF_CAPABILITIES = 0x8B, 0xCE, 0x140, 0x345
MPERF, APERF = 0xE7, 0xE8
MCG_CAP, MCG_STATUS, MCG_CTL = 0x179, 0x17A, 0x17B
FS_BASE, GS_BASE, SHADOW_GS_BASE = 0xC0000100, 0xC0000101, 0xC0000102
HYPERCALL_PAGE = 0x40000000
SYSCFG, HWCR, NB_CFG, DE_CFG = 0xC0010010, 0xC0010015, 0xC001001F, 0xC0011029
# Memory layout registers of AMD's that the hardware domain may read.
TOP_OF_MEMORY = (SYSCFG, *range(0xC0010016, 0xC001001B), 0xC001001D, 0xC0010112, 0xC0010113)
POWER_STATES = (0xC0010041, 0xC0010042, *range(0xC0010061, 0xC001006C))
PERFORMANCE_COUNTERS = (*range(0xC0010000, 0xC0010008), *range(0xC0010200, 0xC001020C))
MCE_BANKS = 2
MCE_BANK_REGISTERS = (*range(0, 2), *range(0x280, 0x2A0), *range(0x400, 0x480))

EFER_VALUE = 0xD01  # SCE LME LMA NXE
APIC_BASE_VALUE, APIC_BASE_BSP = 0xFEE00800, 0x100
MISC_ENABLE_VALUE = 0x801801  # fast strings; no BTS, no PEBS, xTPR disabled
PAT_VALUE = 0x50100070406
PATCH_LEVEL_VALUE = 0x01000065
DE_CFG_VALUE = 2  # LFENCE is serialising

Reader = Callable[["VCpu"], int]
Writer = Callable[["VCpu", int], bool]


def _constant(value: int) -> Reader:
    return lambda v: value


def _tsc(v: VCpu) -> int:
    return v.hv.machine.now & 0xFFFF_FFFF_FFFF_FFFF


def _apic_base(v: VCpu) -> int:
    return APIC_BASE_VALUE | (APIC_BASE_BSP if v.vcpu_id == 0 else 0)


def _fs_base(v: VCpu) -> int:
    return v.hv.machine.get(Reg.FS_BASE)


def _gs_base(v: VCpu) -> int:
    return v.hv.machine.get(Reg.GS_BASE)


def _shadow_gs_base(v: VCpu) -> int:
    return v.gs_base_user


def _mcg_status(v: VCpu) -> int:
    return v.mcg_status


def _mce_ctl(v: VCpu) -> int:
    return (1 << 64) - 1


READ: dict[int, Reader] = {
    TSC: _tsc,
    APIC_BASE: _apic_base,
    PATCH_LEVEL: _constant(PATCH_LEVEL_VALUE),
    PLATFORM_INFO: _constant(0),
    MISC_FEATURES: _constant(0),
    PERF_CAPABILITIES: _constant(0),
    MISC_ENABLE: _constant(MISC_ENABLE_VALUE),
    MCG_CAP: _constant(MCE_BANKS),
    MCG_STATUS: _mcg_status,
    MCG_CTL: _constant(0),
    PAT: _constant(PAT_VALUE),
    EFER: _constant(EFER_VALUE),
    FS_BASE: _fs_base,
    GS_BASE: _gs_base,
    SHADOW_GS_BASE: _shadow_gs_base,
    HYPERCALL_PAGE: _constant(0),
    HWCR: _constant(0),
    NB_CFG: _constant(0),
    DE_CFG: _constant(DE_CFG_VALUE),
    **dict.fromkeys((*POWER_STATES, *PERFORMANCE_COUNTERS, *MCE_BANK_REGISTERS), _constant(0)),
    **dict.fromkeys(range(0x400, 0x400 + 4 * MCE_BANKS, 4), _mce_ctl),
}


def read(v: VCpu, index: int) -> int | None:
    """The value of register `index`, None for #GP.

    A guest that has no #GP handler yet reads zero from a register that it should not have read, so that it survives
    its start.
    """
    reader = READ.get(index)
    if reader is not None:
        return reader(v)
    if index in TOP_OF_MEMORY and v.domain.privileged:
        return 0
    trap = v.traps[GP]
    if (trap is None or not trap.address) and index >> 16 != 0x4000:
        return 0
    return None


def _write_hypercall_page(v: VCpu, value: int) -> bool:
    """Have a page of the guest's filled with hypercall stubs; the low bits choose the page, and there is one."""
    mfn = value >> 12
    if value & 0xFFF or not v.hv.frames.get_page_and_type(mfn, v.domain, PGT_writable_page):
        return False
    v.hv.machine.ram.write(mfn << 12, pvlayout.hypercall_page())
    v.hv.frames.put_page_and_type(mfn)
    return True


def _write_base(register: Reg) -> Writer:
    def write_base(v: VCpu, value: int) -> bool:
        if not is_canonical(value):
            return False
        v.hv.machine.set(register, value)
        return True

    return write_base


def _write_shadow_gs(v: VCpu, value: int) -> bool:
    if not is_canonical(value):
        return False
    v.gs_base_user = value
    return True


def _write_mcg_status(v: VCpu, value: int) -> bool:
    v.mcg_status = value
    return True


def _ignored(v: VCpu, value: int) -> bool:
    return True


def _only(value: int) -> Writer:
    return lambda v, written: written == value


WRITE: dict[int, Writer] = {
    FS_BASE: _write_base(Reg.FS_BASE),
    GS_BASE: _write_base(Reg.GS_BASE),
    SHADOW_GS_BASE: _write_shadow_gs,
    EFER: _only(EFER_VALUE),
    MISC_FEATURES: _only(0),
    MCG_STATUS: _write_mcg_status,
    HYPERCALL_PAGE: _write_hypercall_page,
    **dict.fromkeys(
        (MISC_ENABLE, MCG_CAP, MCG_CTL, HWCR, NB_CFG, DE_CFG, MPERF, APERF, *POWER_STATES, *PERFORMANCE_COUNTERS),
        _ignored,
    ),
    **dict.fromkeys((*range(0x280, 0x2A0), *range(0x400, 0x480)), _ignored),
    # Of the banks that are there, status, address and miscellaneous registers can only be cleared.
    **{0x400 + 4 * bank + register: _only(0) for bank in range(MCE_BANKS) for register in (1, 2, 3)},
}


def write(v: VCpu, index: int, value: int) -> bool:
    """Write register `index`; False for #GP."""
    writer = WRITE.get(index)
    return writer is not None and writer(v, value)
