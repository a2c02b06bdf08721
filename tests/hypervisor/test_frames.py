"""The frame table: allocation, references, types, and that all comes back."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pyvmm.abi import errno
from pyvmm.hypervisor.buddy import HIGH, Buddy
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import DOMID_IO, DOMID_XEN, PGT_l1_page_table, PGT_none, PGT_writable_page

from .pv_host import Host, no_leak


@pytest.fixture
def host() -> Host:
    return Host(16 << 20)


def test_buddy_hands_out_each_frame_once_and_merges_again() -> None:
    rng = random.Random(7)
    buddy = Buddy(8)
    buddy.free_range(3, 1021)
    held: list[tuple[int, int]] = []
    taken: set[int] = set()
    for _ in range(2000):
        if held and rng.random() < 0.5:
            start, order = held.pop(rng.randrange(len(held)))
            buddy.free_range(start, 1 << order)
            taken -= set(range(start, start + (1 << order)))
        else:
            order = rng.randrange(5)
            block = buddy.alloc(order, below=rng.choice([None, None, 500]))
            if block is None:
                continue
            frames = set(range(block, block + (1 << order)))
            assert block % (1 << order) == 0 and not frames & taken
            taken |= frames
            held.append((block, order))
        assert buddy.free_count == 1021 - len(taken)
    for start, order in held:
        buddy.free_range(start, 1 << order)
    assert sorted(buddy.frames().tolist()) == list(range(3, 1024))
    assert {buddy.alloc(8) for _ in range(4)} == {256, 512, 768, None}  # all merged: three whole blocks


def test_buddy_keeps_the_limit() -> None:
    buddy = Buddy(4)
    buddy.free_range(0, 16)
    assert buddy.alloc(2, below=8) == 4
    assert buddy.alloc(2, below=7) == 0
    assert buddy.alloc(2, below=8) is None
    assert buddy.alloc(4) is None
    assert buddy.alloc(3) == 8


def test_buddy_leaves_the_memory_below_4_gib_for_those_who_ask_for_it() -> None:
    low, size = HIGH // 2, HIGH
    buddy = Buddy(18)
    buddy.free_range(HIGH - low, low + size)
    for _ in range(size // 1024):  # as when domains are made: a page below 4 GiB, and memory anywhere
        assert buddy.alloc(0, below=HIGH) in range(HIGH - low, HIGH)
        block = buddy.alloc(10)
        assert block is not None and block >= HIGH
    block = buddy.alloc(10)
    assert block is not None and block < HIGH, "then the rest"
    buddy.free_range(block, 1024)
    assert buddy.free_count == low - size // 1024
    assert buddy.alloc(0, below=2 * HIGH) in range(HIGH - low, HIGH)


def test_alloc_gives_zeroed_frames_in_the_same_order_every_time() -> None:
    runs = []
    for _ in range(2):
        host = Host(16 << 20)
        a, b = host.domain(1), host.domain(2)
        first = host.frames.alloc(a, 700)
        host.machine.ram.fill(first[3] << 12, 4096, 0xAA)
        host.frames.release_pages(np.array(first, np.int64))
        second = host.frames.alloc(b, 700)
        assert first[3] in second and not any(host.machine.ram.read(first[3] << 12, 4096))
        runs.append((first, second))
    assert runs[0] == runs[1]
    first = runs[0][0]
    assert first != list(range(first[0], first[0] + len(first))), "machine-contiguous"
    assert len(set(first)) == 700


def test_alloc_respects_max_pages_and_the_machine(host: Host) -> None:
    d = host.domain(1, pages=5)
    with no_leak(host):
        mfns = host.frames.alloc(d, 5)
        with pytest.raises(XenError) as error:
            host.frames.alloc(d)
        assert error.value.errno == errno.ENOMEM and d.tot_pages == 5
        for mfn in mfns:
            host.frames.free_domain_page(mfn)
        assert d.tot_pages == 0
    d.max_pages = 1 << 30
    with no_leak(host), pytest.raises(XenError):
        host.frames.alloc(d, host.frames.free_count + 1)
    everything = host.frames.alloc(d, host.frames.free_count)
    assert host.frames.free_count == 0
    with pytest.raises(XenError):
        host.frames.alloc_xen()
    host.mmu.release_domain(d)
    host.frames.check()
    assert host.frames.free_count == len(everything)


def test_owner(host: Host) -> None:
    d = host.domain(3)
    (mfn,) = host.frames.alloc(d)
    (own,) = host.frames.alloc_xen()
    frames = host.frames
    assert frames.owner(mfn) == 3
    assert frames.owner(own) is None
    assert frames.owner(0x10) == DOMID_IO
    assert frames.owner(host.xen_area.m2p_frames()[0]) == DOMID_XEN
    assert frames.owner(frames.total) is None and frames.owner(-1) is None
    assert frames.owner(host.machine.firmware_frame >> 12) is None
    assert frames.pages_of(d) == [mfn] and frames.holds_frames(3) and not frames.holds_frames(4)


def test_references_keep_a_frame_that_was_given_up(host: Host) -> None:
    d, other = host.domain(1), host.domain(2)
    frames = host.frames
    with no_leak(host):
        (mfn,) = frames.alloc(d)
        host.machine.ram.write_u64(mfn << 12, 42)
        assert not frames.get_page(mfn, other) and frames.get_page(mfn, d)
        frames.free_domain_page(mfn)
        frames.free_domain_page(mfn)  # only once
        assert frames.owner(mfn) == 1 and d.tot_pages == 1 and host.machine.ram.read_u64(mfn << 12) == 42
        frames.put_page(mfn)
        assert frames.owner(mfn) is None and d.tot_pages == 0 and not frames.get_page(mfn, d)


def test_domain_stays_until_the_last_foreign_reference_goes(host: Host) -> None:
    d = host.domain(1)
    with no_leak(host):
        mfns = host.frames.alloc(d, 10)
        assert host.frames.get_page(mfns[4], d)
        host.mmu.release_domain(d)
        assert host.frames.pages_of(d) == [mfns[4]] and host.frames.holds_frames(1) and d.tot_pages == 1
        host.frames.check()
        host.frames.put_page(mfns[4])
        assert not host.frames.holds_frames(1)


def test_a_writable_frame_is_no_page_table(host: Host) -> None:
    d, frames = host.domain(1), host.frames
    (mfn,) = frames.alloc(d)
    assert frames.get_page_and_type(mfn, d, PGT_writable_page)
    assert not frames.get_page_and_type(mfn, d, PGT_l1_page_table) and frames.count(mfn) == 2
    frames.put_page_and_type(mfn)
    assert frames.type_of(mfn) == PGT_none
    assert frames.get_page_and_type(mfn, d, PGT_l1_page_table) and frames.type_of(mfn) == PGT_l1_page_table
    assert not frames.get_page_type(mfn, PGT_writable_page)
    frames.put_page_and_type(mfn)
    frames.check()


def test_shared_frames(host: Host) -> None:
    d, frames = host.domain(1), host.frames
    with no_leak(host):
        writable, readonly = frames.alloc_xen(2)
        frames.share_with_guest(writable, d, True)
        frames.share_with_guest(readonly, d, False)
        assert d.tot_pages == 0 and frames.pages_of(d) == sorted([writable, readonly])
        assert frames.get_page_and_type(writable, d, PGT_writable_page)
        assert not frames.get_page_and_type(readonly, d, PGT_writable_page) and frames.get_page(readonly, d)
        assert not frames.steal(readonly, d)
        host.mmu.release_domain(d)
        assert frames.owner(writable) == 1
        frames.put_page_and_type(writable)
        frames.put_page(readonly)


def test_xen_pages_and_stealing(host: Host) -> None:
    d, frames = host.domain(1), host.frames
    with no_leak(host):
        mfn = frames.alloc_xen_order(3)
        assert mfn % 8 == 0 and not frames.get_page(mfn, d)
        for i in range(8):
            frames.free_xen(mfn + i)
        a, b = frames.alloc(d, 2)
        assert frames.get_page(b, d)
        assert frames.steal(a, d) and not frames.steal(b, d) and not frames.steal(a, d)
        assert frames.owner(a) is None and d.tot_pages == 2
        frames.give(a, 1, d)
        frames.put_page(b)
        frames.check()
        host.mmu.release_domain(d)


def test_check_notices(host: Host) -> None:
    d = host.domain(1)
    host.frames.alloc(d, 3)
    d.tot_pages = 2
    with pytest.raises(AssertionError, match="tot_pages"):
        host.frames.check()
