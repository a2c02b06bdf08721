"""A freshly built domU in memory: what a guest on the real Xen read there at its first instruction."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import images
from pyvmm.abi import grant_table as gnt
from pyvmm.abi import xen
from pyvmm.errors import MemoryShortage
from pyvmm.host import Domain, Host
from pyvmm.hypervisor.pvimage import read_image
from pyvmm.hypervisor.pvlayout import Layout, domu_layout, hypercall_page

MIB = 1 << 20
PAGES = 16 * MIB // 4096
GUEST_KERNEL = 1 << 52
ADDRESS = 0x000F_FFFF_FFFF_F000


class Look:
    """The memory of a domU of 16 MiB running hello, by pseudo-physical frame."""

    def __init__(self, host: Host, guest: Domain, module_length: int = 0) -> None:
        self.host = host
        self.guest = guest
        self.ram = host.machine.ram
        image = read_image(images.path("hello").read_bytes())
        self.plan: Layout = domu_layout(image, PAGES, module_length)
        l4 = guest.xen.vcpus[0].l4_kernel
        self.mfn_of_start_info = self.translate(l4, self.plan.start_info_va) >> 12
        self.info = xen.start_info.unpack(self.ram.read(self.mfn_of_start_info << 12, 4096))
        first = [self.translate(l4, self.plan.p2m_va + i * 4096) for i in range(PAGES * 8 // 4096)]
        self.p2m = [mfn for pa in first for mfn in struct.unpack("<512Q", self.ram.read(pa, 4096))]
        self.l4 = l4

    def entry(self, table: int, va: int, level: int) -> int:
        return self.ram.read_u64((table << 12) + ((va >> (3 + 9 * level)) & 511) * 8)

    def translate(self, table: int, va: int) -> int:
        for level in (4, 3, 2, 1):
            table = (self.entry(table, va, level) & ADDRESS) >> 12
        return table << 12

    def flags(self, va: int) -> list[int]:
        table, found = self.l4, []
        for level in (4, 3, 2, 1):
            entry = self.entry(table, va, level)
            found.append(entry & ~ADDRESS)
            table = (entry & ADDRESS) >> 12
        return found

    def page(self, pfn: int) -> bytes:
        return self.ram.read(self.p2m[pfn] << 12, 4096)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(128 * MIB) as host:
        yield host


def test_page_tables_lists_and_pages(host: Host) -> None:
    look = Look(host, host.create("hello", memory=16 * MIB, cmdline="a b"))
    plan, hv = look.plan, host.hypervisor
    assert look.flags(plan.start_info_va) == [0x067, 0x067, 0x067, 0x027 | GUEST_KERNEL]
    assert look.flags(plan.pt_va) == [0x067, 0x067, 0x067, 0x025 | GUEST_KERNEL]
    assert len(set(look.p2m)) == PAGES
    assert [hv.xen_area.m2p(mfn) for mfn in look.p2m] == list(range(PAGES))
    assert look.p2m[plan.l4_pfn] == look.l4 and hv.frames.is_pinned(look.l4)
    info = look.info
    assert info.magic.rstrip(b"\0") == b"xen-3.0-x86_64" and info.flags == 0 and info.nr_pages == PAGES
    assert info.shared_info == look.guest.xen.shared_info_pa
    assert (info.store_mfn, info.store_evtchn) == (look.p2m[plan.store_pfn], 1)
    assert (info.console.domU.mfn, info.console.domU.evtchn) == (look.p2m[plan.console_pfn], 2)
    assert (info.pt_base, info.nr_pt_frames, info.mfn_list) == (plan.pt_va, 5, plan.p2m_va)
    assert info.cmd_line.rstrip(b"\0") == b"a b" and info.mod_len == 0
    assert plan.image.hypercall_page is not None
    assert look.page(plan.image.hypercall_page >> 12) == hypercall_page()
    shared = xen.shared_info.unpack(look.ram.read(info.shared_info, xen.shared_info.size))
    assert [v.evtchn_upcall_mask for v in shared.vcpu_info] == [1] * 32
    assert not any(shared.evtchn_mask) and shared.wc_sec


def test_both_rings_are_granted_and_in_use(host: Host) -> None:
    """Entries 0 and 1 read 0x19: permitted to dom0, being read and written, once the daemons have mapped them."""
    guest = host.create("hello", memory=16 * MIB)
    look = Look(host, guest)
    host.run(max_instructions=1)
    table = guest.xen.grants.frames[0] << 12
    size = gnt.grant_entry_v1.size
    entries = [gnt.grant_entry_v1.unpack(look.ram.read(table + i * size, size)) for i in range(3)]
    assert [(e.flags, e.domid, e.frame) for e in entries] == [
        (0x19, 0, look.info.console.domU.mfn),
        (0x19, 0, look.info.store_mfn),
        (0, 0, 0),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_ramdisk_is_there_and_unpacked(host: Host, tmp_path: Path, packed: bool) -> None:
    text = b"some files\n" * 1000
    path = tmp_path / "initrd"
    path.write_bytes(gzip.compress(text) if packed else text)
    look = Look(host, host.create("hello", memory=16 * MIB, ramdisk=path), len(text))
    assert (look.info.mod_start, look.info.mod_len) == (look.plan.module_start, len(text))
    first = look.info.mod_start >> 12
    assert b"".join(look.page(first + i) for i in range(3))[: len(text)] == text
    assert host.images[str(path)]


def test_memory_comes_clean_after_another_guest(host: Host) -> None:
    """What one guest wrote, the next one does not see."""
    guest = host.create("hello", memory=64 * MIB)
    for mfn in host.hypervisor.frames.pages_of(guest.xen):
        if host.hypervisor.frames.type_count(mfn) == 0:
            host.machine.ram.fill(mfn << 12, 4096, 0xAA)
    guest.destroy()
    look = Look(host, host.create("hello", memory=16 * MIB))
    for pfn in (look.plan.console_pfn, look.plan.stack_pfn, PAGES - 1):
        assert not any(look.page(pfn))


def test_a_host_that_runs_full_goes_on(host: Host) -> None:
    """Guests until no more fit: the one too many is refused, the others run."""
    made = 0
    with pytest.raises(MemoryShortage, match="host"):
        while True:
            host.create("hello", memory=16 * MIB)
            made += 1
    assert made >= 6
    assert host.run().exit == "poweroff"
    host.hypervisor.frames.check()
