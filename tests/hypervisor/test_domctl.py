"""domctl and sysctl: who may, what they answer, and which errno a mistake gets."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pyvmm.abi import arch_x86_64, errno, xen
from pyvmm.abi import domctl as abi
from pyvmm.abi import sysctl as sysctl_abi
from pyvmm.hypervisor import lifecycle, subsystems
from pyvmm.hypervisor.console_ring import ConsoleRing
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.pvlayout import boot_context, hypercall_page
from pyvmm.hypervisor.rangeset import RangeSet
from pyvmm.machine import Machine
from pyvmm.toolstack.libxc import HypercallError, Libxc

assert subsystems  # registers the hypercalls
LOCAL_APIC = 0xFEE00


class Lab:
    """A privileged native domain 0, an unprivileged native domain 7, and domain 9 under construction."""

    def __init__(self) -> None:
        self.hv = Hypervisor(Machine(64 << 20))
        domain, self.api = lifecycle.create_native(self.hv, 0, name="dom0", privileged=True)
        domain.ioports.add(0, 0xFFFF)
        self.other = lifecycle.create_native(self.hv, 7, name="domU")[1]
        self.xc = Libxc(self.api)
        self.domid = self.raw("createdomain", 9, "createdomain", max_vcpus=2, grant_opts=2)[1].domain

    @property
    def domain(self) -> Domain:
        return self.hv.domains[self.domid]

    def raw(
        self,
        cmd: str | int,
        domid: int,
        variant: str = "",
        /,
        api: Native | None = None,
        version: int | None = None,
        **fields: Any,
    ) -> tuple[int, Any]:
        """One domctl: the result, and the structure as it came back."""
        api = api or self.api
        data = abi.xen_domctl.pack(
            cmd=getattr(abi, f"XEN_DOMCTL_{cmd}") if isinstance(cmd, str) else cmd,
            interface_version=abi.XEN_DOMCTL_INTERFACE_VERSION if version is None else version,
            domain=domid,
            **({"u": {variant: fields}} if variant else {}),
        )
        va = api.scratch(data)
        result = api.hypercall(xen.HYPERVISOR_domctl, va)
        return result, abi.xen_domctl.unpack(api.read(va, len(data)))

    def errno(self, cmd: str | int, domid: int, variant: str = "", /, **fields: Any) -> int:
        """One domctl's result, positive: an errno."""
        return -self.raw(cmd, domid, variant, **fields)[0]

    def sysctl(self, cmd: str, variant: str, api: Native | None = None, **fields: Any) -> tuple[int, Any]:
        """One sysctl: the result and the variant as it came back."""
        api = api or self.api
        data = sysctl_abi.xen_sysctl.pack(
            cmd=getattr(sysctl_abi, f"XEN_SYSCTL_{cmd}"),
            interface_version=sysctl_abi.XEN_SYSCTL_INTERFACE_VERSION,
            u={variant: fields},
        )
        va = api.scratch(data)
        result = api.hypercall(xen.HYPERVISOR_sysctl, va)
        return result, getattr(sysctl_abi.xen_sysctl.unpack(api.read(va, len(data))).u, variant)


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_order_of_checks(lab: Lab) -> None:
    """A bad pointer, then the version, then the domain, then the right, then the operation."""
    assert lab.api.hypercall(xen.HYPERVISOR_domctl, 1 << 40) == -errno.EFAULT
    assert lab.errno("max_mem", 999, version=0x14) == errno.EACCES
    assert lab.errno("max_mem", 999) == errno.ESRCH
    assert lab.errno("max_mem", 999, api=lab.other) == errno.ESRCH
    assert lab.errno("max_mem", 9, api=lab.other) == errno.EPERM
    assert lab.errno("createdomain", 0, "createdomain", max_vcpus=1, grant_opts=1, api=lab.other) == errno.EPERM
    assert lab.errno(4242, 9, api=lab.other) == errno.EPERM
    assert lab.errno(4242, 9) == errno.EOPNOTSUPP
    assert lab.errno("getdomaininfo", 9, api=lab.other) == errno.EPERM


GOOD: dict[str, Any] = {"max_vcpus": 1, "grant_opts": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0),
        ({"max_vcpus": 0}, errno.EINVAL),
        ({"max_vcpus": 8193}, errno.EINVAL),
        ({"flags": 1 << 20}, errno.EINVAL),
        ({"flags": abi.XEN_DOMCTL_CDF_hvm}, errno.EINVAL),
        ({"flags": abi.XEN_DOMCTL_CDF_hap}, errno.EINVAL),
        ({"flags": abi.XEN_DOMCTL_CDF_iommu}, errno.EINVAL),
        ({"flags": abi.XEN_DOMCTL_CDF_xs_domain}, 0),
        ({"iommu_opts": 1}, errno.EINVAL),
        ({"grant_opts": 0}, errno.EINVAL),
        ({"grant_opts": 3}, errno.EINVAL),
        ({"grant_opts": 0x12}, errno.EINVAL),
        ({"vmtrace_size": 4096}, errno.EINVAL),
        ({"cpupool_id": 1}, errno.ENOENT),
        ({"arch": {"emulation_flags": 1}}, errno.EINVAL),
    ],
)
def test_createdomain(lab: Lab, change: dict[str, Any], expected: int) -> None:
    before = (list(lab.hv.domains), lab.hv.frames.free_count)
    result, back = lab.raw("createdomain", 0, "createdomain", **{**GOOD, **change})
    assert result == -expected
    if expected:
        assert (list(lab.hv.domains), lab.hv.frames.free_count) == before
    else:
        assert back.domain == 1 and lab.hv.domains[1].pause_count == 1


def test_createdomain_with_a_number(lab: Lab) -> None:
    assert lab.errno("createdomain", 7, "createdomain", **GOOD) == errno.EEXIST
    assert lab.raw("createdomain", 40, "createdomain", **GOOD)[1].domain == 40
    assert lab.raw("createdomain", 0xFFFF, "createdomain", **GOOD)[1].domain == 1


def test_max_vcpus(lab: Lab) -> None:
    assert lab.errno("max_vcpus", 9, "max_vcpus", max=3) == errno.EINVAL
    assert lab.errno("max_vcpus", 0, "max_vcpus", max=1) == errno.EINVAL
    for _ in range(2):  # asking again changes nothing
        assert lab.errno("max_vcpus", 9, "max_vcpus", max=2) == 0
        assert len(lab.domain.vcpus) == 2


def test_pausing_is_counted(lab: Lab) -> None:
    assert lab.errno("pausedomain", 0) == errno.EINVAL
    assert lab.errno("unpausedomain", 9) == 0
    assert lab.errno("unpausedomain", 9) == errno.EINVAL
    assert lab.domain.creation_finished
    for _ in range(255):
        assert lab.errno("pausedomain", 9) == 0
    assert lab.errno("pausedomain", 9) == errno.EOVERFLOW


def test_getdomaininfo(lab: Lab) -> None:
    assert lab.errno("max_vcpus", 9, "max_vcpus", max=2) == 0
    lab.xc.domctl("max_mem", 9, "max_mem", max_memkb=4096)
    lab.xc.populate(9, 10)
    result, back = lab.raw("getdomaininfo", 8)  # the next one that there is
    info = back.u.getdomaininfo
    assert (result, back.domain, info.domain) == (0, 9, 9)
    assert (info.tot_pages, info.max_pages, info.max_vcpu_id, info.nr_online_vcpus) == (10, 1024, 1, 0)
    assert info.flags & 0xFFFF == abi.XEN_DOMINF_paused
    assert info.shared_info_frame == lab.domain.shared_info_mfn
    assert lab.errno("getdomaininfo", 10) == errno.ESRCH
    assert lab.errno("getdomaininfo", 0x7FF0) == errno.EINVAL
    lab.hv.shutdown(lab.domain, 3)
    flags = lab.raw("getdomaininfo", 9)[1].u.getdomaininfo.flags
    assert flags & abi.XEN_DOMINF_shutdown
    assert flags >> abi.XEN_DOMINF_shutdownshift & abi.XEN_DOMINF_shutdownmask == 3


def test_vcpu_context(lab: Lab) -> None:
    lab.xc.domctl("max_vcpus", 9, "max_vcpus", max=2)
    lab.xc.domctl("max_mem", 9, "max_mem", max_memkb=4096)
    (l4,) = lab.xc.populate(9, 1)
    api = lab.api
    out = api.scratch(arch_x86_64.vcpu_guest_context.size)
    assert lab.errno("getvcpucontext", 9, "vcpucontext", vcpu=0, ctxt=out) == errno.ENODATA
    assert lab.errno("getvcpucontext", 9, "vcpucontext", vcpu=2, ctxt=out) == errno.EINVAL
    assert lab.errno("setvcpucontext", 0, "vcpucontext", vcpu=0, ctxt=out) == errno.EINVAL
    assert lab.errno("setvcpucontext", 9, "vcpucontext", vcpu=0, ctxt=1 << 40) == errno.EFAULT
    wild = api.scratch(boot_context(0x8000_0000_0000, 0x2000, 0x3000, l4))
    assert lab.errno("setvcpucontext", 9, "vcpucontext", vcpu=0, ctxt=wild) == errno.EINVAL
    lab.xc.pin_l4(9, l4)
    lab.xc.set_boot_context(9, boot_context(0x1000, 0x2000, 0x3000, l4))
    v = lab.domain.vcpus[0]
    assert v.initialised and not v.down and v.l4_kernel == l4
    lab.xc.domctl("getvcpucontext", 9, "vcpucontext", vcpu=0, ctxt=out)
    back = arch_x86_64.vcpu_guest_context.unpack(api.read(out, arch_x86_64.vcpu_guest_context.size))
    assert (back.user_regs.rip, back.user_regs.rsp, back.user_regs.rsi) == (0x1000, 0x2000, 0x3000)
    assert back.ctrlreg[3] == l4 << 12
    info = lab.raw("getvcpuinfo", 9, "getvcpuinfo", vcpu=0)[1].u.getvcpuinfo
    assert (info.online, info.blocked, info.running) == (1, 0, 0)
    assert lab.errno("getvcpuinfo", 9, "getvcpuinfo", vcpu=2) == errno.EINVAL
    # A null context resets the vCPU, and its page table is only pinned then.
    uses = lab.hv.frames.type_count(l4)
    lab.xc.domctl("setvcpucontext", 9, "vcpucontext", vcpu=0, ctxt=0)
    after = lab.domain.vcpus[0]
    assert after is v and (after.down, after.initialised, after.l4_kernel) == (True, False, 0)
    assert lab.hv.frames.type_count(l4) == uses - 1
    lab.xc.domctl("destroydomain", 9)
    lab.hv.frames.check()


def test_hypercall_page_and_frame_types(lab: Lab) -> None:
    lab.xc.domctl("max_mem", 9, "max_mem", max_memkb=4096)
    page, l4, plain = lab.xc.populate(9, 3)
    assert lab.errno("hypercall_init", 9, "hypercall_init", gmfn=1 << 30) == errno.EINVAL
    assert lab.errno("hypercall_init", 9, "hypercall_init", gmfn=page) == 0
    assert lab.hv.machine.ram.read(page << 12, 4096) == hypercall_page()
    lab.xc.pin_l4(9, l4)
    assert lab.errno("hypercall_init", 9, "hypercall_init", gmfn=l4) == errno.EPERM
    array = lab.api.scratch(struct.pack("<4Q", page, l4, plain, 1 << 30))
    lab.xc.domctl("getpageframeinfo3", 9, "getpageframeinfo3", num=4, array=array)
    kinds = struct.unpack("<4Q", lab.api.read(array, 32))
    assert kinds == (0, abi.XEN_DOMCTL_PFINFO_L4TAB | abi.XEN_DOMCTL_PFINFO_LPINTAB, 0, abi.XEN_DOMCTL_PFINFO_XTAB)
    assert lab.errno("getpageframeinfo3", 9, "getpageframeinfo3", num=1025, array=array) == errno.E2BIG


def test_max_mem_limits_what_can_be_populated(lab: Lab) -> None:
    with pytest.raises(HypercallError):
        lab.xc.populate(9, 1)
    lab.xc.domctl("max_mem", 9, "max_mem", max_memkb=12)
    with pytest.raises(HypercallError):
        lab.xc.populate(9, 4)
    assert lab.domain.tot_pages == 3


def test_permissions_are_passed_on(lab: Lab) -> None:
    ports = {"first_port": 0x60, "nr_ports": 4}
    assert lab.errno("ioport_permission", 9, "ioport_permission", **ports, allow_access=1) == 0
    assert 0x63 in lab.domain.ioports and 0x64 not in lab.domain.ioports
    ports["first_port"] = 0x61
    assert lab.errno("ioport_permission", 9, "ioport_permission", **ports, allow_access=0) == 0
    assert 0x60 in lab.domain.ioports and 0x61 not in lab.domain.ioports
    bad = {"first_port": 0xFFFF, "nr_ports": 2}
    assert lab.errno("ioport_permission", 9, "ioport_permission", **bad, allow_access=1) == errno.EINVAL
    mine = {"first_mfn": LOCAL_APIC, "nr_mfns": 1, "allow_access": 1}
    assert lab.errno("iomem_permission", 9, "iomem_permission", **mine) == errno.EPERM
    assert lab.errno("ioport_permission", 9, "ioport_permission", **ports, api=lab.other) == errno.EPERM


def test_small_settings(lab: Lab) -> None:
    lab.xc.domctl("setdomainhandle", 9, "setdomainhandle", handle=b"0123456789abcdef")
    assert lab.xc.get_info(9).handle == b"0123456789abcdef"
    assert lab.errno("set_address_size", 9, "address_size", size=64) == 0
    assert lab.errno("set_address_size", 9, "address_size", size=16) == errno.EINVAL
    assert lab.raw("get_address_size", 9, "address_size")[1].u.address_size.size == 64
    assert lab.errno("settscinfo", 9, "tsc_info", tsc_mode=9) == errno.EINVAL
    assert lab.errno("gettscinfo", 0, "tsc_info") == errno.EINVAL
    assert lab.raw("gettscinfo", 9, "tsc_info")[1].u.tsc_info.gtsc_khz == 1_000_000
    assert lab.errno("set_target", 9, "set_target", target=7) == errno.EOPNOTSUPP
    assert lab.errno("set_target", 9, "set_target", target=99) == errno.ESRCH
    assert lab.errno("destroydomain", 0) == errno.EINVAL
    assert lab.errno("soft_reset", 9) == errno.EINVAL


def test_affinity(lab: Lab) -> None:
    lab.xc.domctl("max_vcpus", 9, "max_vcpus", max=2)
    one, none = lab.api.scratch(b"\x01"), lab.api.scratch(b"\x02")
    hard = abi.XEN_VCPUAFFINITY_HARD
    good = {"vcpu": 1, "flags": hard, "cpumap_hard": {"bitmap": one, "nr_bits": 8}}
    assert lab.errno("setvcpuaffinity", 9, "vcpuaffinity", **good) == 0
    bad = {"vcpu": 1, "flags": hard, "cpumap_hard": {"bitmap": none, "nr_bits": 8}}
    assert lab.errno("setvcpuaffinity", 9, "vcpuaffinity", **bad) == errno.EINVAL
    assert lab.errno("getvcpuaffinity", 9, "vcpuaffinity", **bad) == 0
    assert lab.api.read(none, 1) == b"\x01"
    assert lab.errno("getvcpuaffinity", 9, "vcpuaffinity", vcpu=1, flags=0) == errno.EINVAL
    assert lab.errno("getvcpuaffinity", 9, "vcpuaffinity", **{**good, "vcpu": 2}) == errno.EINVAL


def test_sysctl(lab: Lab) -> None:
    assert lab.sysctl("physinfo", "physinfo", api=lab.other)[0] == -errno.EPERM
    result, info = lab.sysctl("physinfo", "physinfo")
    assert (result, info.nr_cpus, info.total_pages, info.free_pages) == (
        0,
        1,
        lab.hv.frames.total,
        lab.hv.frames.free_count,
    )
    assert info.capabilities & sysctl_abi.XEN_SYSCTL_PHYSCAP_pv
    size = abi.xen_domctl_getdomaininfo.size
    buffer = lab.api.scratch(size * 3)
    result, found = lab.sysctl("getdomaininfolist", "getdomaininfolist", first_domain=1, max_domains=3, buffer=buffer)
    assert (result, found.num_domains) == (0, 2)
    listed = [abi.xen_domctl_getdomaininfo.unpack(lab.api.read(buffer + i * size, size)).domain for i in range(2)]
    assert listed == [7, 9]
    assert lab.sysctl("availheap", "availheap", node=-1)[1].avail_bytes == lab.hv.frames.free_count << 12
    assert lab.sysctl("numainfo", "numainfo")[1].num_nodes == 1
    assert lab.sysctl("cputopoinfo", "cputopoinfo")[1].num_cpus == 1
    assert lab.sysctl("perfc_op", "pad")[0] == -errno.ENOSYS


def test_cpu_pools_and_weights(lab: Lab) -> None:
    """As the real Xen 4.17 answers the guest `measure`, which makes the same mistakes (bench/measure_costs.py)."""
    pool = {"op": sysctl_abi.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, "domid": 9}
    assert lab.sysctl("cpupool_op", "cpupool_op", **pool)[0] == 0
    for change, error in (
        ({"cpupool_id": 1}, errno.ENOENT),
        ({"domid": 999}, errno.ESRCH),
        ({"domid": 0}, errno.EPERM),
    ):
        assert lab.sysctl("cpupool_op", "cpupool_op", **{**pool, **change})[0] == -error
    info = {"op": sysctl_abi.XEN_SYSCTL_CPUPOOL_OP_INFO}
    credit2 = lab.sysctl("cpupool_op", "cpupool_op", **info)[1].sched_id
    get = {"sched_id": credit2, "cmd": abi.XEN_DOMCTL_SCHEDOP_getinfo}
    put = {"sched_id": credit2, "cmd": abi.XEN_DOMCTL_SCHEDOP_putinfo}
    assert lab.errno("scheduler_op", 9, "scheduler_op", **put, u={"credit2": {"weight": 512}}) == 0
    assert lab.errno("scheduler_op", 9, "scheduler_op", **put, u={"credit2": {"weight": 0}}) == 0
    assert lab.raw("scheduler_op", 9, "scheduler_op", **get)[1].u.scheduler_op.u.credit2.weight == 512
    for change in ({"sched_id": 5}, {"cmd": 7}):
        assert lab.errno("scheduler_op", 9, "scheduler_op", **{**get, **change}) == errno.EINVAL


def test_readconsole(lab: Lab) -> None:
    lab.hv.console_log.write(b"first\nsecond\n")
    buffer = lab.api.scratch(64)
    read: dict[str, Any] = {"buffer": buffer, "count": 8}
    result, got = lab.sysctl("readconsole", "readconsole", **read)
    assert (result, got.count, got.index) == (0, 8, 8)
    assert lab.api.read(buffer, 8) == b"first\nse"
    _, got = lab.sysctl("readconsole", "readconsole", **read, incremental=1, index=8, clear=1)
    assert (got.count, lab.api.read(buffer, 5)) == (5, b"cond\n")
    assert lab.sysctl("readconsole", "readconsole", **read)[1].count == 0


def test_console_ring_keeps_the_newest() -> None:
    ring = ConsoleRing(8)
    ring.write(b"abcdef")
    ring.write(b"ghij")
    assert (ring.start, ring.end, ring.read(0, 99)) == (2, 10, b"cdefghij")
    assert ring.read(7, 2) == b"hi"


def test_range_sets() -> None:
    ranges = RangeSet()
    model: set[int] = set()
    for start, end, add in (
        (5, 9, 1),
        (20, 29, 1),
        (10, 12, 1),
        (7, 22, 0),
        (0, 0, 1),
        (1, 4, 1),
        (25, 40, 0),
        (3, 3, 0),
    ):
        (ranges.add if add else ranges.remove)(start, end)
        model = model | set(range(start, end + 1)) if add else model - set(range(start, end + 1))
        assert {i for i in range(50) if i in ranges} == model
        for a in range(45):
            for b in range(a, 45):
                assert ranges.contains(a, b) == (set(range(a, b + 1)) <= model)
