"""Writable page tables: a guest kernel that asked for the assist (or is dom0's) may store to its L1 tables, which it
maps read-only.

Facts: ptwr_do_page_fault() and fixup_page_fault() of Xen 4.17. The store must be of 1, 2, 4 or 8 bytes, aligned to its
size; what it leaves in the entry is checked as any other update is, and a store that is refused is the page fault it
was.

Instead of emulating whatever instruction it is, the CPU runs it: the mapping is made writable for one instruction, and
what has changed is then taken as the request. The guest runs nothing else meanwhile, and sees the page only as
validated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.permissions import access_ok
from pyvmm.machine import BudgetUsed, Exit, Fault, PageFault, Reg
from pyvmm.machine.decode import decode

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

VMASST_WRITABLE_PAGETABLES = 1 << 2
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
_REGISTERS = [Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX, Reg.RSI, Reg.RDI, Reg.RBP, Reg.RSP]
_REGISTERS += [*(Reg[f"R{i}"] for i in range(8, 16)), Reg.RIP, Reg.RFLAGS]
_FPU_REGISTERS = ("xmm", "ymm", "mm", "st")
_DEBUG_VECTOR = 1


def spurious(v: VCpu, address: int, error_code: int) -> bool:
    """The current page tables allow the access that faulted: nothing is wrong any more."""
    try:
        v.hv.machine.translate(
            address, write=bool(error_code & PF_WRITE), user=True, execute=bool(error_code & PF_FETCH)
        )
    except PageFault:
        return False
    return True


def fault(v: VCpu, address: int, error_code: int) -> bool:
    """Serve a page fault of the current vCPU if it is a permitted store to a page table; the instruction is then done
    and counted."""
    wanted = PF_WRITE | PF_PRESENT
    if v.user_mode or error_code & (wanted | PF_RESERVED | PF_FETCH) != wanted:
        return False
    domain = v.domain
    # The hardware domain's stores are looked at for read-only device memory, and thereby are served without the assist.
    assisted = domain.privileged or domain.vm_assist & VMASST_WRITABLE_PAGETABLES
    if not assisted or not access_ok(address):
        return False
    mmu = v.hv.mmu
    entry_pa = mmu.find_l1_entry(v, address)
    if entry_pa is None:
        return False
    entry = mmu.ram.read_u64(entry_pa)
    table = P.frame_of(entry)
    if entry & (P.PRESENT | P.RW) != P.PRESENT:
        return False
    if not mmu.is_l1_table(table, domain) or not _is_plain_store(v, address):
        return False
    return _run_store(v, entry_pa, entry, table)


def _is_plain_store(v: VCpu, address: int) -> bool:
    """The instruction at RIP, which stores, stores 1, 2, 4 or 8 bytes, aligned. (Without a memory operand it is a
    push.)"""
    rip = v.hv.machine.get(Reg.RIP)
    code = b""
    try:
        code = v.copy_in(rip, min(15, 4096 - rip % 4096))
        code += v.copy_in(rip + len(code), 15 - len(code))
    except XenError:
        pass  # the next page is not there: what there is may be enough
    insn = decode(code, rip)
    # Xen's emulator lends no FPU: what stores from its registers is refused.
    if insn is None or insn.mnemonic.startswith("f") or any(o.reg.startswith(_FPU_REGISTERS) for o in insn.operands):
        return False
    size = insn.memory.size if insn.memory is not None else 8
    return size in (1, 2, 4, 8) and not address & (size - 1)


def _run_store(v: VCpu, entry_pa: int, entry: int, table: int) -> bool:
    machine, mmu = v.hv.machine, v.hv.mmu
    before = np.frombuffer(machine.ram.read(table << 12, 4096), np.uint64)
    registers = machine.get_many(_REGISTERS)
    retired = machine.instructions
    mmu.write_entry(entry_pa, entry | P.RW | P.DIRTY | P.ACCESSED)
    # (The table may be the one that maps itself: what is compared is what the store changed.)
    opened = np.frombuffer(machine.ram.read(table << 12, 4096), np.uint64)
    reason: Exit = machine.run(1)
    after = np.frombuffer(machine.ram.read(table << 12, 4096), np.uint64)
    done = isinstance(reason, BudgetUsed) or (isinstance(reason, Fault) and reason.vector == _DEBUG_VECTOR)
    changed = [(i, int(before[i]), int(after[i])) for i in np.flatnonzero(opened != after).tolist()]
    # The table as it was, the mapping closed again; then the changes as the guest may have them.
    machine.ram.write(table << 12, before.tobytes())
    mmu.write_entry(entry_pa, entry)
    if not done or not _apply(v, table, changed):
        machine.set_many(_REGISTERS, registers)
        machine.retire(retired - machine.instructions)
        return False
    if isinstance(reason, Fault):
        from pyvmm.hypervisor import cpu

        cpu.handle_exit(v, reason)
    return True


def _apply(v: VCpu, table: int, changed: list[tuple[int, int, int]]) -> bool:
    """Validate all changed entries, then store them; false (and nothing done) if one is not permitted."""
    mmu, domain = v.hv.mmu, v.domain
    accepted: list[tuple[int, int, int]] = []
    for i, old, new in changed:
        if new & P.PRESENT:
            result = mmu.get_page_from_l1e(new, domain, domain.domid)
            if result < 0:
                for _, _, taken in accepted:
                    mmu.put_page_from_l1e(taken)
                return False
            new = P.adjust_l1(new ^ result)
        accepted.append((i, old, new))
    for i, old, new in accepted:
        mmu.write_entry((table << 12) + i * 8, new)
        mmu.put_page_from_l1e(old)
    return True
