"""Domains come and go, and nothing of them stays: frames, ports, timers, contexts, numbers."""

from __future__ import annotations

import pytest

from pyvmm import images
from pyvmm.abi import domctl as abi
from pyvmm.abi import errno, xen
from pyvmm.errors import ImageError, MemoryShortage
from pyvmm.hypervisor import lifecycle, subsystems
from pyvmm.hypervisor.dom0_build import Kernel, construct_dom0, default_pages
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypervisor import Hypervisor, Outcome
from pyvmm.hypervisor.native import Native
from pyvmm.machine import Machine
from pyvmm.toolstack.libxc import HypercallError, Libxc

assert subsystems  # registers the hypercalls
HELLO = images.path("hello").read_bytes()
MIB = 1 << 20


@pytest.fixture
def hv() -> Hypervisor:
    return Hypervisor(Machine(64 * MIB))


def native(hv: Hypervisor) -> Libxc:
    return Libxc(lifecycle.create_native(hv, 0, name="dom0", privileged=True)[1])


def test_native_domain_sees_its_own_frames_in_order(hv: Hypervisor) -> None:
    domain, api = lifecycle.create_native(hv, 0, name="dom0", memory_pages=20, privileged=True)
    assert domain.tot_pages == 20
    for gfn in range(16, 20):
        api.write(gfn << 12, bytes([gfn]) * 4096)
    assert api.read((16 << 12) + 4090, 10) == bytes([16]) * 6 + bytes([17]) * 4
    assert api.read(20 << 12, 1) == bytes(1)  # the shared page
    with pytest.raises(XenError) as caught:
        api.read(21 << 12, 1)
    assert caught.value.errno == errno.EFAULT


def test_everything_comes_back(hv: Hypervisor) -> None:
    """A native domain with ports, timers, grants and foreign mappings, many times over."""
    xc = native(hv)
    before = None
    for _ in range(5):
        domid = xc.create_domain(bytes(16), vcpus=3)
        xc.domctl("max_vcpus", domid, "max_vcpus", max=3)
        xc.domctl("max_mem", domid, "max_mem", max_memkb=8192)
        mfns = xc.populate(domid, 700)
        port = xc.bind_interdomain(domid, xc.alloc_unbound(domid, 0))
        with xc.mapped(domid, mfns[3]) as va:
            xc.api.write(va, b"x" * 4096)
        xc.grant_frame(domid)
        xc.domctl("destroydomain", domid)
        xc.close_port(port)
        assert domid not in hv.domains
        hv.frames.check()
        state = (hv.frames.free_count, len(hv.domains[0].evtchn.ports), len(hv.timers._live), list(hv.domains))
        assert before in (None, state)
        before = state
    assert hv.last_domid == 5  # numbers are not used again at once


def test_a_zombie_keeps_its_number_until_its_last_frame_is_let_go(hv: Hypervisor) -> None:
    xc = native(hv)
    free = hv.frames.free_count
    domid = xc.create_domain(bytes(16))
    xc.domctl("max_mem", domid, "max_mem", max_memkb=64)
    (mfn,) = xc.populate(domid, 1)
    va = xc.map_foreign(domid, mfn)
    xc.api.write(va, b"still here")
    xc.domctl("destroydomain", domid)
    assert xc.get_info(domid).flags & abi.XEN_DOMINF_dying
    assert xc.api.read(va, 10) == b"still here"
    with pytest.raises(HypercallError) as caught:
        xc.domctl("max_mem", domid + 1, "max_mem", max_memkb=64)
    assert caught.value.errno == errno.ESRCH
    xc.unmap(va)
    with pytest.raises(HypercallError):
        xc.get_info(domid)
    assert domid not in hv.domains and hv.frames.free_count == free
    hv.frames.check()


def test_domids_go_round(hv: Hypervisor) -> None:
    hv.last_domid = lifecycle.FIRST_RESERVED - 2
    assert lifecycle.free_domid(hv) == lifecycle.FIRST_RESERVED - 1
    lifecycle.create_domain(hv, 1)
    assert lifecycle.free_domid(hv) == 2


def test_virq_dom_exc_tells_of_an_end(hv: Hypervisor) -> None:
    domain, api = lifecycle.create_native(hv, 0, name="dom0", privileged=True)
    xc = Libxc(api)
    port = xc.bind_virq(xen.VIRQ_DOM_EXC)
    told: list[int] = []

    async def wait(api: Native) -> None:
        while True:
            told.append(await api.event(port))

    api.spawn(wait(api))
    assert hv.run(lambda: False) is Outcome.DEADLOCK
    domid = xc.create_domain(bytes(16))
    xc.domctl("destroydomain", domid)
    assert hv.run(lambda: False) is Outcome.DEADLOCK
    assert told == [port]
    assert domain.counters.events_received >= 1


@pytest.mark.parametrize("vcpus", [1, 4])
def test_dom0_from_a_kernel(hv: Hypervisor, vcpus: int) -> None:
    printed = bytearray()
    hv.console_sinks.append(lambda domain, data: printed.extend(data))
    free = hv.frames.free_count
    domain = construct_dom0(hv, Kernel(HELLO, "hello", b"one two"), nr_pages=4096, vcpus=vcpus)
    assert domain.privileged and domain.tot_pages == 4096 and len(domain.vcpus) == vcpus
    assert hv.run(lambda: domain.is_shut_down) is Outcome.DONE
    assert domain.shutdown_code == 0
    assert b'command line  "one two"' in printed and f"vcpus         {vcpus}".encode() in printed
    hv.frames.check()
    lifecycle.destroy_domain(domain)
    assert hv.frames.free_count == free and not hv.domains
    hv.frames.check()


def test_dom0_gets_nearly_all_memory_by_default(hv: Hypervisor) -> None:
    free = hv.frames.free_count
    assert default_pages(hv) == free - free // 16
    assert construct_dom0(hv, Kernel(HELLO)).tot_pages == free - free // 16


def test_a_dom0_that_cannot_be_built_leaves_nothing(hv: Hypervisor) -> None:
    free = hv.frames.free_count
    with pytest.raises(ImageError):
        construct_dom0(hv, Kernel(b"junk"))
    for pages in (100, 1 << 20):
        with pytest.raises(MemoryShortage):
            construct_dom0(hv, Kernel(HELLO), nr_pages=pages)
    assert hv.frames.free_count == free and not hv.domains


def test_no_memory_for_another_domain(hv: Hypervisor) -> None:
    """A domain that cannot have its shared page or grant table is refused, and leaves nothing."""
    xc = native(hv)
    for left in (0, 1):
        hog = hv.frames.alloc_xen(hv.frames.free_count - left)
        with pytest.raises(HypercallError) as caught:
            xc.create_domain(bytes(16))
        assert caught.value.errno == errno.ENOMEM
        assert hv.frames.free_count == left
        for mfn in hog:
            hv.frames.free_xen(mfn)
    assert list(hv.domains) == [0]
    hv.frames.check()
