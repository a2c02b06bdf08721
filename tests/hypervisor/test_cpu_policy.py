"""CPU policies: what the host has, what a domain is given, and which errno a mistake gets.

That they are the real Xen's, leaf by leaf and mistake by mistake, is seen by the guest `measure` on both machines
(bench/measure_costs.py, tests/oracle/test_costs.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.abi import arch_x86_64 as arch
from pyvmm.abi import errno
from pyvmm.abi import sysctl as sysctl_abi
from pyvmm.hypervisor import cpu_policy, cpuid

from .test_domctl import Lab

NA = arch.XEN_CPUID_NO_SUBLEAF
SIZE = arch.xen_cpuid_leaf.size
Leaf = tuple[int, int, int, int, int, int]


@pytest.fixture
def lab() -> Lab:
    return Lab()


def host_policy(lab: Lab, **change: int) -> tuple[int, Any]:
    """The default policy of PV guests, or what `change` makes of the question; its leaves are at `.leaves`."""
    at = lab.api.scratch(bytes(cpu_policy.MAX_LEAVES * SIZE))
    wish = {"index": sysctl_abi.XEN_SYSCTL_cpu_policy_pv_default, "nr_leaves": cpu_policy.MAX_LEAVES, "leaves": at}
    return lab.sysctl("get_cpu_policy", "cpu_policy", **{**wish, **change})


def put(lab: Lab, *leaves: Leaf) -> dict[str, int]:
    """Leaves in memory, as arguments of set_cpu_policy."""
    names = tuple(arch.xen_cpuid_leaf.fields)
    data = b"".join(arch.xen_cpuid_leaf.pack(**dict(zip(names, leaf, strict=True))) for leaf in leaves)
    return {"nr_leaves": len(leaves), "leaves": lab.api.scratch(data)}


def test_the_hosts_policy(lab: Lab) -> None:
    result, found = host_policy(lab)
    assert (result, found.nr_leaves, found.nr_msrs) == (0, 51, 2)
    leaves = [arch.xen_cpuid_leaf.unpack(lab.api.read(found.leaves + i * SIZE, SIZE)) for i in range(51)]
    assert (leaves[1].leaf, leaves[1].subleaf, leaves[1].a) == (1, NA, cpuid.POLICY[1][0])
    assert not leaves[1].d & cpuid.MTRR
    assert [leaf.leaf for leaf in leaves] == sorted(leaf.leaf for leaf in leaves)
    assert host_policy(lab, leaves=0)[1].nr_leaves == cpu_policy.MAX_LEAVES == 120
    for change, error in (
        ({"index": 6}, errno.EINVAL),
        ({"_rsvd": 1}, errno.EINVAL),
        ({"index": sysctl_abi.XEN_SYSCTL_cpu_policy_hvm_default}, errno.EOPNOTSUPP),
        ({"nr_leaves": 50}, errno.ENOBUFS),
        ({"leaves": 1 << 40}, errno.EFAULT),
    ):
        assert host_policy(lab, **change)[0] == -error


def test_a_domain_is_told_what_was_set(lab: Lab) -> None:
    """The whole list goes in as it came out; a feature taken away is gone, one that the CPU lacks stays away."""
    _, found = host_policy(lab)
    whole = {"nr_leaves": found.nr_leaves, "leaves": found.leaves}
    assert lab.raw("set_cpu_policy", 9, "cpu_policy", **whole)[0] == 0
    before = dict(lab.domain.cpu_policy)
    assert before == cpu_policy.OF_A_DOMAIN | before
    a, b, c, d = before[1, NA]
    sse3, vmx = 1 << 0, 1 << 5
    assert lab.raw("set_cpu_policy", 9, "cpu_policy", **put(lab, (1, NA, a, b, c & ~sse3 | vmx, d)))[0] == 0
    assert lab.domain.cpu_policy[1, NA] == (a, b, c & ~sse3, d) and c & sse3
    lab.raw("max_vcpus", 9, "max_vcpus", max=2)
    told = cpuid.guest(lab.domain.vcpus[0], 1, 0)
    assert told[2] == c & ~sse3
    at = lab.api.scratch(bytes(cpu_policy.MAX_LEAVES * SIZE))
    result, back = lab.raw("get_cpu_policy", 9, "cpu_policy", nr_leaves=cpu_policy.MAX_LEAVES, leaves=at)
    assert result == 0 and back.u.cpu_policy.nr_leaves == 51
    assert arch.xen_cpuid_leaf.unpack(lab.api.read(at + SIZE, SIZE)).c == c & ~sse3


@pytest.mark.parametrize(
    ("leaf", "error"),
    [
        ((0x20, NA, 0, 0, 0, 0), errno.ERANGE),
        ((1, 0, 0, 0, 0, 0), errno.ERANGE),
        ((7, 3, 0, 0, 0, 0), errno.ERANGE),
        ((0x80000022, NA, 0, 0, 0, 0), errno.ERANGE),
        ((0, NA, 0x20, 0, 0, 0), errno.EINVAL),
        ((7, 0, 9, 0, 0, 0), errno.EINVAL),
    ],
)
def test_a_bad_leaf_is_told(lab: Lab, leaf: Leaf, error: int) -> None:
    before = lab.domain.cpu_policy
    result, back = lab.raw("set_cpu_policy", 9, "cpu_policy", **put(lab, leaf))
    told = back.u.cpu_policy
    assert (-result, told.err_leaf, told.err_subleaf, told.err_msr) == (error, *leaf[:2], NA)
    assert lab.domain.cpu_policy is before


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"idx": 0x10A}, 0),
        ({"idx": 0x10}, errno.ERANGE),
        ({"idx": 0xCE, "flags": 1}, errno.EINVAL),
        ({"idx": 0xCE, "val": 1 << 31}, errno.EINVAL),
        ({"idx": 0xCE, "val": 1 << 32}, errno.EOVERFLOW),
    ],
)
def test_msrs(lab: Lab, entry: dict[str, int], error: int) -> None:
    at = lab.api.scratch(arch.xen_msr_entry.pack(**entry))
    result, back = lab.raw("set_cpu_policy", 9, "cpu_policy", nr_msrs=1, msrs=at)
    assert result == -error
    assert not error or (back.u.cpu_policy.err_msr, back.u.cpu_policy.err_leaf) == (entry["idx"], NA)


def test_too_many_too_late_and_oneself(lab: Lab) -> None:
    assert lab.errno("set_cpu_policy", 9, "cpu_policy", nr_leaves=cpu_policy.MAX_LEAVES + 1) == errno.E2BIG
    assert lab.errno("set_cpu_policy", 9, "cpu_policy", nr_leaves=1, leaves=1 << 40) == errno.EFAULT
    assert lab.errno("set_cpu_policy", 0, "cpu_policy") == errno.EINVAL
    assert lab.errno("unpausedomain", 9) == 0
    assert lab.errno("set_cpu_policy", 9, "cpu_policy") == errno.EEXIST
