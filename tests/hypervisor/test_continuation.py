"""Hypercalls that ask for very much are done in parts, between which others have the CPU."""

from __future__ import annotations

import struct

import pytest

from pyvmm.abi import grant_table, memory, xen
from pyvmm.hypervisor import continuation
from pyvmm.hypervisor.lifecycle import create_native
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.trace import HYPERCALL, Event
from pyvmm.machine import Reg
from tests.hypervisor.code_guest import CODE, DATA, NOP, PAGE, SYSCALL, CodeGuest

LIST = DATA
DONE = DATA + 3 * PAGE  # *pdone
SHARE = 4
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8")


@pytest.fixture(autouse=True)
def small_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "SHARE", SHARE)


class Parts:
    """A guest's one hypercall, and what it was served as."""

    def __init__(self, number: int, *args: int, data: bytes = b"", engine: str = "auto", privileged: bool = False):
        self.guest = guest = CodeGuest(SYSCALL + NOP * 64, engine=engine, privileged=privileged)
        guest.poke(LIST, data)
        self.calls: list[tuple[object, ...]] = []
        guest.hv.trace.listen(self._hear)
        guest.ready()
        guest.set(rax=number, **dict(zip(ARGUMENTS, args, strict=False)))

    def _hear(self, event: Event) -> None:
        if event.kind is HYPERCALL:
            self.calls.append(event.values)

    def run(self) -> tuple[int, int]:
        """RAX at the end, and how many instructions the call took."""
        guest, before = self.guest, self.guest.machine.instructions
        while guest.reg(Reg.RIP) == CODE:
            guest.run(1)
        return guest.reg(Reg.RAX), guest.machine.instructions - before


def m2p_updates(guest: CodeGuest, n: int) -> bytes:
    mfn = guest.mfns[40]
    return b"".join(struct.pack("<QQ", mfn << 12 | xen.MMU_MACHPHYS_UPDATE, 1000 + i) for i in range(n))


@pytest.mark.parametrize("engine", ["pure", "auto"])
@pytest.mark.parametrize("count", [0, 1, SHARE, SHARE + 1, 3 * SHARE, 3 * SHARE + 1])
def test_mmu_updates_of_any_length_are_all_done(count: int, engine: str) -> None:
    parts = Parts(xen.HYPERVISOR_mmu_update, LIST, count, DONE, xen.DOMID_SELF, engine=engine)
    guest = parts.guest
    guest.poke(LIST, m2p_updates(guest, count))
    pieces = max(1, -(-count // SHARE))
    assert parts.run() == (0, pieces)
    assert guest.words(DONE, 1)[0] & 0xFFFF_FFFF == count
    if count:
        assert guest.hv.xen_area.m2p(guest.mfns[40]) == 1000 + count - 1
    assert [call[2] & 0x7FFF_FFFF for call in parts.calls] == [
        min(SHARE, count - i * SHARE) for i in range(pieces)
    ]  # the trace has each part as what it did


def test_a_failure_in_a_later_part_is_told_with_the_whole_number_done() -> None:
    parts = Parts(xen.HYPERVISOR_mmu_update, LIST, 10, DONE, xen.DOMID_SELF)
    guest = parts.guest
    bad = struct.pack("<QQ", 7, 0)  # no such command
    guest.poke(LIST, m2p_updates(guest, 6) + bad + m2p_updates(guest, 3))
    result, _ = parts.run()
    assert result - (1 << 64) == -38
    assert guest.words(DONE, 1)[0] & 0xFFFF_FFFF == 6


def test_mmuext_operations() -> None:
    op = xen.mmuext_op.choose(arg1="mfn", arg2="src_mfn").pack(cmd=xen.MMUEXT_TLB_FLUSH_LOCAL)
    parts = Parts(xen.HYPERVISOR_mmuext_op, LIST, 9, DONE, xen.DOMID_SELF, data=op * 9)
    assert parts.run() == (0, 3)
    assert parts.guest.words(DONE, 1)[0] & 0xFFFF_FFFF == 9


def test_grant_operations() -> None:
    layout = grant_table.gnttab_copy
    dest = {"u": {"ref": 1}, "domid": xen.DOMID_SELF}
    copy = layout.pack(flags=grant_table.GNTCOPY_dest_gref, dest=dest, status=77)
    parts = Parts(xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_copy, LIST, 11, data=copy * 11)
    assert parts.run() == (0, 3)
    found = layout.unpack_array(parts.guest.machine.ram.read(parts.guest.pa(LIST), layout.size * 11), 11)
    assert len({one.status for one in found}) == 1 and found[0].status < 0  # each was refused for itself


def test_memory_given_back_and_asked_for() -> None:
    guest_pfns = list(range(34, 44))
    reservation = memory.xen_memory_reservation
    parts = Parts(xen.HYPERVISOR_memory_op, memory.XENMEM_increase_reservation, LIST)
    guest = parts.guest
    guest.domain.max_pages += len(guest_pfns)
    before = guest.domain.tot_pages
    extents = DATA + PAGE
    guest.poke(LIST, reservation.pack(extent_start=extents, nr_extents=10, domid=xen.DOMID_SELF))
    assert parts.run() == (10, 3)
    assert guest.domain.tot_pages == before + 10
    mfns = guest.words(extents, 10)
    assert len(set(mfns)) == 10 and all(guest.hv.frames.owner(mfn) == guest.domain.domid for mfn in mfns)
    assert [call[-1] for call in parts.calls] == [4, 8, 10]
    guest.ready()
    guest.set(rip=CODE, rax=xen.HYPERVISOR_memory_op, rdi=memory.XENMEM_decrease_reservation, rsi=LIST)
    assert parts.run() == (10, 3)
    assert guest.domain.tot_pages == before


def test_a_part_of_a_call_in_a_multicall() -> None:
    entry = xen.multicall_entry
    parts = Parts(xen.HYPERVISOR_multicall, LIST, 3)
    guest = parts.guest
    updates, version = DATA + PAGE, entry.pack(op=xen.HYPERVISOR_xen_version, args=[0] * 6)
    update = entry.pack(op=xen.HYPERVISOR_mmu_update, result=5, args=(updates, 9, DONE, xen.DOMID_SELF, 0, 0))
    guest.poke(LIST, version + update + version)
    guest.poke(updates, m2p_updates(guest, 9))
    result, entries = parts.run()
    assert (result, entries) == (0, 4)  # 2, 3, 3 and 1 of the updates: entries of the list count, too
    data = guest.machine.ram.read(guest.pa(LIST), 3 * entry.size)
    assert [one.result for one in entry.unpack_array(data, 3)] == [0x40011, 0, 0x40011]
    assert guest.words(DONE, 1)[0] & 0xFFFF_FFFF == 9
    assert guest.hv.xen_area.m2p(guest.mfns[40]) == 1008


def test_a_long_multicall_of_short_calls() -> None:
    entry = xen.multicall_entry
    version = entry.pack(op=xen.HYPERVISOR_xen_version, args=[0] * 6)
    parts = Parts(xen.HYPERVISOR_multicall, LIST, 13, data=version * 13)
    assert parts.run() == (0, 4)
    data = parts.guest.machine.ram.read(parts.guest.pa(LIST), 13 * entry.size)
    assert [one.result for one in entry.unpack_array(data, 13)] == [0x40011] * 13


def test_console_output_comes_in_order() -> None:
    text = bytes(range(33, 127)) * 20
    parts = Parts(xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, len(text), DATA, data=text, privileged=True)
    written = bytearray()
    parts.guest.hv.console_sinks.append(lambda domain, data: written.extend(data))
    assert parts.run()[0] == 0
    assert bytes(written) == text and len(parts.calls) == 4  # of 508 bytes


def test_others_run_in_between() -> None:
    parts = Parts(xen.HYPERVISOR_mmu_update, LIST, 3 * SHARE, 0, xen.DOMID_SELF)
    guest = parts.guest
    guest.poke(LIST, m2p_updates(guest, 3 * SHARE))
    _, api = create_native(guest.hv, 9, name="other")
    seen: list[int] = []

    def looked() -> bool:
        seen.append(guest.hv.xen_area.m2p(guest.mfns[40]))
        return False

    async def look(api: Native) -> None:
        await api.wait_until(looked)

    api.spawn(look(api))
    guest.hv.run(lambda: len(parts.calls) >= 3, 50)
    assert len(parts.calls) == 3 and seen and seen[0] < 1000 + 3 * SHARE - 1
