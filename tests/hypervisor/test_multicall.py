"""multicall, as far as no registers are concerned."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno, sched, xen
from tests.hypervisor.native_host import WILD, NativeHost

ENTRY = xen.multicall_entry.size


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def run(host: NativeHost, *calls: tuple[int, ...], count: int | None = None) -> tuple[int, list[int]]:
    data = b"".join(
        xen.multicall_entry.pack(op=op, result=0x55, args=(*args, *[0] * (6 - len(args)))) for op, *args in calls
    )
    va = host.one.api.scratch(data)
    result = host.one.call(xen.HYPERVISOR_multicall, va, len(calls) if count is None else count)
    after = xen.multicall_entry.unpack_array(host.one.api.read(va, len(data)), len(calls))
    return result, [entry.result - (entry.result >> 63 << 64) for entry in after]


def test_every_entry_gets_its_own_result(host: NativeHost) -> None:
    version, timer = (xen.HYPERVISOR_xen_version, 0), (xen.HYPERVISOR_set_timer_op, 0)
    bad = (xen.HYPERVISOR_xen_version, 1, WILD)
    assert run(host, version, bad, (60,), timer) == (0, [4 << 16 | 17, -errno.EFAULT, -errno.ENOSYS, 0])


def test_only_so_many_entries_are_served(host: NativeHost) -> None:
    version = (xen.HYPERVISOR_xen_version, 0)
    assert run(host, version, version, count=1) == (0, [4 << 16 | 17, 0x55])
    assert run(host, version, count=0) == (0, [0x55])
    assert run(host, version, count=1 << 32) == (0, [0x55])  # the count has 32 bits


def test_a_list_that_cannot_be_read_fails_after_what_could(host: NativeHost) -> None:
    assert host.one.call(xen.HYPERVISOR_multicall, WILD, 1) == -errno.EFAULT
    end = host.one.pages * 4096 + 4096  # past the guest's last page and its shared page
    va = end - ENTRY
    host.one.api.write(va, xen.multicall_entry.pack(op=xen.HYPERVISOR_xen_version))
    assert host.one.call(xen.HYPERVISOR_multicall, va, 2) == -errno.EFAULT
    assert xen.multicall_entry.unpack(host.one.api.read(va, ENTRY)).result == 4 << 16 | 17


def test_no_multicall_in_a_multicall(host: NativeHost) -> None:
    assert run(host, (xen.HYPERVISOR_multicall, WILD, 1)) == (0, [-errno.EINVAL])
    assert run(host, (xen.HYPERVISOR_xen_version, 0)) == (0, [4 << 16 | 17])  # and the next one works


def test_entries_count_and_are_traced_as_hypercalls(host: NativeHost) -> None:
    host.watch()
    run(host, (xen.HYPERVISOR_xen_version, 0), (xen.HYPERVISOR_xen_version, 7), (60,))
    assert host.one.domain.counters.hypercalls == {"xen_version": 2, "unknown": 1, "multicall": 1}
    assert [event.values[0] for event in host.events] == ["xen_version", "xen_version", "unknown", "multicall"]


def test_a_shutdown_in_the_list(host: NativeHost) -> None:
    va = host.one.api.scratch(sched.sched_shutdown.pack(reason=1))
    result, results = run(host, (xen.HYPERVISOR_sched_op, sched.SCHEDOP_shutdown, va))
    assert (result, results, host.one.domain.shutdown_code) == (0, [0], 1)
