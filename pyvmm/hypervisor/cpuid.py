"""CPUID as guests see it: `native`, what the CPU itself answers, and `guest`, what Xen answers behind the forced
emulation prefix.

Neither depends on the host. The CPU is qemu64, the model that Xen 4.17 meets in QEMU by default; `NATIVE` and
`POLICY` are its answers there, by leaf (leaves that are not listed are zero). A PV guest's plain `cpuid` is not
intercepted on such a CPU, so it shows the CPU and not Xen.

Facts: xen/arch/x86/traps.c (cpuid_hypervisor_leaves), cpuid.c (guest_cpuid) of Xen 4.17; public/arch-x86/cpuid.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi.arch_x86_64 import XEN_CPUID_NO_SUBLEAF as NO_SUBLEAF

if TYPE_CHECKING:
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu

Leaf = tuple[int, int, int, int]
ZERO: Leaf = (0, 0, 0, 0)

_VENDOR = (0x68747541, 0x444D4163, 0x69746E65)  # AuthenticAMD
_BRAND: dict[int, Leaf] = {  # QEMU Virtual CPU version 2.5+
    0x80000002: (0x554D4551, 0x72695620, 0x6C617574, 0x55504320),
    0x80000003: (0x72657620, 0x6E6F6973, 0x352E3220, 0x2B),
}
_CACHES: dict[int, Leaf] = {
    0x80000005: (0x01FF01FF, 0x01FF01FF, 0x40020140, 0x40020140),
    0x80000006: (0, 0x42004200, 0x02008140, 0x00808140),
    0x80000008: (0x3028, 0, 0, 0),  # 40 physical, 48 linear address bits
}
_SIGNATURE = 0x60FB1  # family 15, model 107, stepping 1

NATIVE: dict[int, Leaf] = {
    0x0: (0xD, *_VENDOR),
    0x1: (_SIGNATURE, 0x800, 0x80002001, 0x078BFBFD),
    0x5: (0, 0, 3, 0),
    0x40000000: (0x40000001, 0x54474354, 0x43544743, 0x47435447),  # TCGTCGTCGTCG: an emulator, and it says so
    0x80000000: (0x8000000A, *_VENDOR),
    0x80000001: (_SIGNATURE, 0, 0x5, 0x2193FBFD),
    **_BRAND,
    **_CACHES,
    0x8000000A: (1, 0x10, 0, 0),
}
_TOPOLOGY: dict[int, Leaf] = {0: (0, 1, 0x100, 0), 1: (0, 1, 0x201, 0)}  # leaf 0xb, one thread, one core

POLICY: dict[int, Leaf] = {
    0x0: (0xD, *_VENDOR),
    0x1: (_SIGNATURE, 0x800, 0x80002001, 0x0789D3F5),
    0x80000000: (0x80000021, *_VENDOR),
    0x80000001: (_SIGNATURE, 0, 0x1, 0x2191DBF5),
    **_BRAND,
    **_CACHES,
    0x80000021: (4, 0, 0, 0),  # LFENCE is serialising
}

FIRST = arch.XEN_CPUID_FIRST_LEAF
XEN_LAST = FIRST + arch.XEN_CPUID_MAX_NUM_LEAVES
MTRR = 1 << 12  # in edx of leaves 1 and 0x80000001: only dom0 may know of memory type ranges
CPU_KHZ = 1_000_000  # one instruction a nanosecond


def native(hv: Hypervisor, leaf: int, subleaf: int) -> Leaf:
    """What `cpuid` gives without the prefix."""
    if leaf == 0xB:
        a, b, c, d = _TOPOLOGY.get(subleaf, (0, 0, subleaf & 0xFF, 0))
        return a, b, c, d
    return NATIVE.get(leaf, ZERO)


def guest(v: VCpu, leaf: int, subleaf: int) -> Leaf:
    """What Xen answers to vCPU `v`."""
    if FIRST <= leaf <= XEN_LAST:
        return _hypervisor(v, leaf - FIRST, subleaf)
    policy = v.domain.cpu_policy
    a, b, c, d = policy.get((leaf, NO_SUBLEAF)) or policy.get((leaf, subleaf), ZERO)
    if leaf == 1:
        b |= v.vcpu_id * 2 << 24  # the initial APIC id
    if leaf in (1, 0x80000001) and v.domain.privileged:
        d |= MTRR
    return a, b, c, d


def _hypervisor(v: VCpu, index: int, subleaf: int) -> Leaf:
    domain = v.domain
    if index == 0:
        return XEN_LAST, arch.XEN_CPUID_SIGNATURE_EBX, arch.XEN_CPUID_SIGNATURE_ECX, arch.XEN_CPUID_SIGNATURE_EDX
    if index == 1:
        return 4 << 16 | 17, 0, 0, 0
    if index == 2:  # pages of hypercall stubs, the MSR to place them, features
        return 1, 0x40000000, arch.XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0
    if index == 3 and subleaf == 0:
        return 0, domain.tsc_mode, domain.tsc_khz, domain.tsc_incarnation
    if index == 3 and subleaf == 1 and domain.tsc_khz:
        # Offset, and ns per tick as a 32-bit binary fraction with a shift: 0.5 * 2 at 1 GHz.
        return domain.tsc_offset & 0xFFFFFFFF, domain.tsc_offset >> 32 & 0xFFFFFFFF, 0x80000000, 1
    if index == 3 and subleaf == 2:
        return CPU_KHZ, 0, 0, 0
    if index == 5 and subleaf == 0:
        return 0, (v.hv.frames.total - 1).bit_length() + 12, 0, 0
    return ZERO
