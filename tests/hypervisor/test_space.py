"""Guest memory as the hypervisor sees it: the guest's own rights, its current tables, never Xen's range."""

from __future__ import annotations

import pytest

from pyvmm.abi import errno
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.errors import XenError

from .pv_host import RO_FLAGS, TABLE_FLAGS, Guest, Host


@pytest.fixture
def g() -> Guest:
    return Guest(Host(16 << 20), 1).start()


def efault(g: Guest, va: int, n: int = 1, data: bytes | None = None) -> bool:
    """The access is refused."""
    with pytest.raises(XenError) as error:
        if data is None:
            g.v.copy_in(va, n)
        else:
            g.v.copy_out(va, data)
    return error.value.errno == errno.EFAULT


def test_across_pages(g: Guest) -> None:
    data = bytes(range(256)) * 40
    g.v.copy_out(g.va(10) + 100, data)
    assert g.v.copy_in(g.va(10) + 100, len(data)) == data
    ram = g.host.machine.ram
    assert ram.read(g.mfns[11] << 12, 4096) == data[3996:8092]


def test_refused(g: Guest) -> None:
    for va in (0, g.va(32), 1 << 47, 0xFFFF800000000000, 0xFFFF87FFFFFFFFFF, 0xFFFF880000000000, (1 << 64) - 1):
        assert efault(g, va)
        assert efault(g, va, data=b"x")
    assert efault(g, g.va(31) + 4000, 200)
    assert g.v.copy_in(0, 0) == b""


def test_a_write_that_cannot_be_finished_is_not_begun(g: Guest) -> None:
    assert efault(g, g.va(31) + 4092, data=b"12345678")
    assert g.v.copy_in(g.va(31) + 4092, 4) == bytes(4)
    assert g.map(11, g.mfns[11], RO_FLAGS) == 0
    assert efault(g, g.va(10) + 4092, data=b"12345678")
    assert g.v.copy_in(g.va(10) + 4092, 8) == bytes(8)


def test_page_tables_are_read_only(g: Guest) -> None:
    assert g.v.copy_in(g.va(3), 8)
    assert efault(g, g.va(3), data=bytes(8))
    # RW is needed on the whole way down.
    assert g.set_entry(g.l2, 0, g.l1 << 12 | RO_FLAGS) == 0
    assert efault(g, g.va(10), data=b"x")
    assert g.v.copy_in(g.va(10), 1)


def test_follows_changes_at_once(g: Guest) -> None:
    g.v.copy_out(g.va(10), b"ten")
    g.v.copy_out(g.va(11), b"eleven")
    assert g.v.copy_in(g.va(12), 3) == bytes(3)
    assert g.map(12, g.mfns[10]) == 0
    assert g.v.copy_in(g.va(12), 3) == b"ten"
    assert g.map(12, g.mfns[11], RO_FLAGS) == 0
    assert g.v.copy_in(g.va(12), 6) == b"eleven"
    assert efault(g, g.va(12), data=b"x")
    assert g.map(12, 0, 0) == 0
    assert efault(g, g.va(12))


def test_accessed_and_dirty(g: Guest) -> None:
    fresh = P.PRESENT | P.RW | P.USER
    assert g.map(12, g.mfns[12], fresh) == 0
    g.v.copy_in(g.va(12), 1)
    assert g.l1_entry(12) & (P.ACCESSED | P.DIRTY) == P.ACCESSED
    g.v.copy_out(g.va(12), b"x")
    assert g.l1_entry(12) & (P.ACCESSED | P.DIRTY) == P.ACCESSED | P.DIRTY
    assert not g.entry(g.l2, 0) & P.DIRTY


def test_user_mode_uses_the_users_tables(g: Guest) -> None:
    mmu = g.host.mmu
    assert g.map(12, g.mfns[12], RO_FLAGS) == g.map(13, g.mfns[13], RO_FLAGS) == 0
    assert mmu.new_user_base(g.v, g.mfns[12]) == 0
    g.v.user_mode = True
    assert efault(g, g.va(10))
    g.v.user_mode = False
    assert g.set_entry(g.mfns[12], 0, g.l3 << 12 | TABLE_FLAGS) == 0
    g.v.user_mode = True
    g.v.copy_out(g.va(10), b"user")
    g.v.user_mode = False
    assert g.v.copy_in(g.va(10), 4) == b"user"


def test_no_tables_no_memory(g: Guest) -> None:
    g.v.user_mode = True
    assert efault(g, g.va(10))


def test_device_memory_cannot_be_copied() -> None:
    d0 = Guest(Host(16 << 20), 0, privileged=True).start()
    assert d0.map(12, 0xFED00, P.PRESENT | P.RW | P.USER) == 0
    assert efault(d0, d0.va(12))
    assert d0.v.space.translate(d0.va(10)) == d0.mfns[10] << 12  # type: ignore[attr-defined]
