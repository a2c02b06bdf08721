"""The descriptor windows of the per-domain area, and the M2P in bulk."""

from __future__ import annotations

import pytest

from pyvmm.hypervisor.vcpu import VCpu
from pyvmm.hypervisor.xen_area import FIRST_RESERVED_GDT_PAGE, PERDOMAIN_VIRT_START
from pyvmm.machine import PageFault

from .pv_host import Guest, Host, no_leak

FLAT_CODE = 0x00AF_FB00_0000_FFFF  # the descriptor of 0xe033


def test_descriptor_windows() -> None:
    host = Host(16 << 20)
    g = Guest(host, 1).start()
    area, cr3 = host.xen_area, g.l4 << 12
    vcpus = [g.v] + [VCpu(host.hv, g.domain, i) for i in range(1, 40)]

    def word(va: int) -> int:
        return host.machine.ram.read_u64(host.machine.translate(va, user=False, cr3=cr3))

    for v in (vcpus[0], vcpus[15], vcpus[16], vcpus[39]):
        base = area.gdt_va(v)
        assert base == PERDOMAIN_VIRT_START + v.vcpu_id * 0x20000 and area.ldt_va(v) == base + 0x10000
        assert word(base + 0xE030) == FLAT_CODE and word(base) == word(base + 0xD000) == 0
        for absent in (base + 0xF000, base + 0x10000):
            with pytest.raises(PageFault):
                word(absent)
        with pytest.raises(PageFault):
            host.machine.translate(base + 0xE030, cr3=cr3)  # not the guest's to read
    host.machine.ram.write_u64(g.mfns[20] << 12, 77)
    v = vcpus[16]
    assert area.map_gdt_page(v, 3, g.mfns[20]) is None
    assert area.map_ldt_page(v, 15, g.mfns[20]) is None
    assert word(area.gdt_va(v) + 0x3000) == word(area.ldt_va(v) + 0xF000) == 77
    assert word(area.gdt_va(vcpus[15]) + 0x3000) == 0
    assert area.map_gdt_page(v, 3, None) == g.mfns[20] and word(area.gdt_va(v) + 0x3000) == 0
    assert area.clear_ldt(v) == [g.mfns[20]] and area.clear_windows(v) == []
    assert FIRST_RESERVED_GDT_PAGE == 14


def test_windows_go_with_the_domain() -> None:
    host = Host(16 << 20)
    with no_leak(host):
        g = Guest(host, 1)
        for i in range(40):
            host.xen_area.gdt_va(VCpu(host.hv, g.domain, i))
        host.mmu.release_domain(g.domain)


def test_m2p_in_bulk() -> None:
    host = Host(16 << 20)
    d = host.domain(1, pages=4096)
    mfns = host.frames.alloc(d, 1500)
    host.xen_area.set_m2p_list(mfns, 100)
    assert [host.xen_area.m2p(m) for m in mfns] == list(range(100, 1600))
    host.mmu.release_domain(d)
    assert {host.xen_area.m2p(m) for m in range(host.frames.total)} == {(1 << 64) - 1}
