"""CPU policies: what CPUID and two MSRs say, as lists of leaves that a toolstack reads, changes and sets for a domain.

A PV guest's plain `cpuid` is not intercepted on this CPU (`cpuid.py`): a policy is what Xen answers behind the forced
emulation prefix. Facts: Xen 4.17's public/sysctl.h and domctl.h, xen/lib/x86/cpuid.c (x86_cpuid_copy_to_buffer,
_from_buffer), msr.c, policy.c (x86_cpu_policies_are_compatible), xen/arch/x86/domctl.c (update_domain_cpu_policy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import errno
from pyvmm.abi.arch_x86_64 import XEN_CPUID_NO_SUBLEAF as NA
from pyvmm.hypervisor.cpuid import MTRR, NATIVE, POLICY, ZERO, Leaf
from pyvmm.hypervisor.errors import XenError

Key = tuple[int, int]  # leaf, subleaf (NA where it has none)
BASIC, EXTENDED = 0xE, 0x22  # leaves that a policy has room for, of each kind
SUBLEAVES = {0x4: 6, 0x7: 3, 0xB: 2, 0xD: 63}
HYPERVISOR = (0x40000000, 0x40000100)  # only how many leaves Xen's own and Viridian's part have, in eax; 0: all
FIRST_EXTENDED = 0x80000000
MAX_LEAVES = BASIC + sum(n - 1 for n in SUBLEAVES.values()) + EXTENDED + len(HYPERVISOR)
MSR_PLATFORM_INFO, MSR_ARCH_CAPABILITIES = 0xCE, 0x10A
MSRS = (MSR_PLATFORM_INFO, MSR_ARCH_CAPABILITIES)  # both 0: this CPU has neither
COMMON = 0x0183F3FF  # features in edx of leaf 1 that AMD's CPUs tell again in edx of leaf 0x80000001
WORDS = ("a", "b", "c", "d")


class Refused(NamedTuple):
    """Why a policy was not taken: a negative errno, and where it was wrong (all ones: not there)."""

    error: int
    leaf: int = 0xFFFFFFFF
    subleaf: int = 0xFFFFFFFF
    msr: int = 0xFFFFFFFF


def _default() -> dict[Key, Leaf]:
    """What PV guests may have. That only dom0 may know of memory type ranges is no part of a policy; nor are features
    that leaf 1 has told of."""
    found = {(leaf, NA): words for leaf, words in POLICY.items()}
    for leaf, other in ((1, MTRR), (FIRST_EXTENDED + 1, COMMON)):
        a, b, c, d = found[leaf, NA]
        found[leaf, NA] = (a, b, c, d & ~other)
    return found


PV_DEFAULT = _default()
NATIVE_POLICY: dict[Key, Leaf] = {
    (leaf, NA): words for leaf, words in NATIVE.items() if leaf < BASIC or 0 <= leaf - FIRST_EXTENDED < EXTENDED
}


def _keys(policy: Mapping[Key, Leaf]) -> Iterator[Key]:
    """The leaves of a policy in the order in which they are told."""
    for leaf in range(min(policy.get((0, NA), ZERO)[0], BASIC - 1) + 1):
        if leaf == 0x7:
            last = policy.get((0x7, 0), ZERO)[0]
            yield from ((leaf, n) for n in range(min(last, SUBLEAVES[leaf] - 1) + 1))
        elif leaf == 0xD:
            yield from ((leaf, 0), (leaf, 1))
            yield from (key for key in sorted(policy) if key[0] == leaf and key[1] > 1)
        elif leaf in SUBLEAVES:
            for n in range(SUBLEAVES[leaf]):  # up to the first that is of no kind: of cache, of topology
                yield leaf, n
                a, _, c, _ = policy.get((leaf, n), ZERO)
                if not (a & 0x1F if leaf == 0x4 else c >> 8 & 0xFF):
                    break
        else:
            yield leaf, NA
    yield from ((leaf, NA) for leaf in HYPERVISOR)
    last = policy.get((FIRST_EXTENDED, NA), ZERO)[0] & 0xFFFF
    yield from ((FIRST_EXTENDED + n, NA) for n in range(min(last, EXTENDED - 1) + 1))


def packed_leaves(policy: Mapping[Key, Leaf]) -> list[bytes]:
    """A policy as xen_cpuid_leaf structures."""
    return [
        arch.xen_cpuid_leaf.pack(leaf=leaf, subleaf=n, **dict(zip(WORDS, policy.get((leaf, n), ZERO), strict=True)))
        for leaf, n in _keys(policy)
    ]


def packed_msrs() -> list[bytes]:
    """The MSRs of any policy as xen_msr_entry structures."""
    return [arch.xen_msr_entry.pack(idx=msr) for msr in MSRS]


def copy_out(write: Callable[[int, bytes], None], at: int, room: int, entries: list[bytes], most: int) -> int:
    """Tell a list of `entries` at address `at`, where there is room for so many: how many. Address 0: `most`, the
    largest number that there can be. -ENOBUFS when they do not fit."""
    if not at:
        return most
    if room < len(entries):
        if room:
            write(at, b"".join(entries[:room]))
        raise XenError(errno.ENOBUFS)
    write(at, b"".join(entries))
    return len(entries)


def _place(leaf: int, subleaf: int) -> bool:
    """Whether a policy has such a leaf."""
    if leaf in SUBLEAVES:
        return subleaf < SUBLEAVES[leaf]
    known = leaf < BASIC or leaf in HYPERVISOR or 0 <= leaf - FIRST_EXTENDED < EXTENDED
    return known and subleaf == NA


def changed(
    policy: Mapping[Key, Leaf], read: Callable[[int, int], bytes], leaves: int, nr_leaves: int, msrs: int, nr_msrs: int
) -> dict[Key, Leaf] | Refused:
    """`policy` with the caller's leaves in their places. Errors: E2BIG, EFAULT (XenError); refused are a leaf or an MSR
    that is not there (ERANGE), flags (EINVAL), a value that an MSR cannot have (EOVERFLOW), and more leaves than
    the CPU has (EINVAL)."""
    found = dict(policy)
    if nr_leaves > MAX_LEAVES or nr_msrs > len(MSRS):
        raise XenError(errno.E2BIG)
    for i in range(nr_leaves):
        entry = arch.xen_cpuid_leaf.unpack(read(leaves + i * arch.xen_cpuid_leaf.size, arch.xen_cpuid_leaf.size))
        if not _place(entry.leaf, entry.subleaf):
            return Refused(-errno.ERANGE, entry.leaf, entry.subleaf)
        found[entry.leaf, entry.subleaf] = (entry.a, entry.b, entry.c, entry.d)
    for i in range(nr_msrs):
        msr = arch.xen_msr_entry.unpack(read(msrs + i * arch.xen_msr_entry.size, arch.xen_msr_entry.size))
        if msr.flags:
            return Refused(-errno.EINVAL, msr=msr.idx)
        if msr.idx not in MSRS:
            return Refused(-errno.ERANGE, msr=msr.idx)
        if msr.val >> 32:
            return Refused(-errno.EOVERFLOW, msr=msr.idx)
        if msr.val and msr.idx == MSR_PLATFORM_INFO:
            return Refused(-errno.EINVAL, msr=msr.idx)
    for leaf, subleaf in ((0, NA), (0x7, 0), (FIRST_EXTENDED, NA)):
        if found.get((leaf, subleaf), ZERO)[0] > PV_DEFAULT.get((leaf, subleaf), ZERO)[0]:
            return Refused(-errno.EINVAL, leaf, subleaf)
    return _within(found)


def _within(policy: Mapping[Key, Leaf]) -> dict[Key, Leaf]:
    """A domain's policy: features that the CPU does not have are dropped without an error, those that are told twice
    are the same."""
    found = dict(policy)
    for leaf in (1, FIRST_EXTENDED + 1):
        a, b, c, d = found.get((leaf, NA), ZERO)
        _, _, most_c, most_d = PV_DEFAULT[leaf, NA]
        found[leaf, NA] = (a, b, c & most_c, d & most_d | (found[1, NA][3] & COMMON if leaf != 1 else 0))
    return found


OF_A_DOMAIN = _within(PV_DEFAULT)  # until a toolstack sets another one
