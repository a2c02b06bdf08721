"""Port I/O of PV guests: who may, and what is there.

A port is reached if the guest asked for it (virtual IOPL or its I/O bitmap) and, for the real one, the domain was
given it (`Domain.ioports`). There is one device, the clock with a battery (`cmos`); what else a domain was given reads
as all ones and swallows writes. Two ports are latches of the domain's own, as in Xen: the configuration address 0xcf8,
and the clock's index 0x70.

Facts: xen/arch/x86/pv/emul-priv-op.c of Xen 4.17 (guest_io_okay, admin_io_okay, guest_io_read, rep_ins, rep_outs),
xen/arch/x86/time.c (rtc_guest_read, rtc_guest_write).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.hypervisor import cmos
from pyvmm.hypervisor.bounce import (
    DF,
    GP,
    SS_VECTOR,
    VMASST_ARCHITECTURAL_IOPL,
    inject,
    inject_page_fault,
    is_guest_address,
)
from pyvmm.hypervisor.errors import XenError
from pyvmm.machine import Reg

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.emulate import Insn
    from pyvmm.hypervisor.vcpu import VCpu

CONFIG_ADDRESS = 0xCF8
CMOS_INDEX, CMOS_DATA = 0x70, 0x71


def iopl_ok(v: VCpu) -> bool:
    """The virtual IOPL covers the guest's mode. Its kernel counts as ring 1, as ring 0 under the architectural_iopl
    assist.
    """
    if v.user_mode:
        return v.iopl >= 3
    return v.iopl >= (0 if v.domain.vm_assist & VMASST_ARCHITECTURAL_IOPL else 1)


def guest_may(v: VCpu, port: int, size: int) -> bool:
    """The guest allowed itself `size` bytes at `port`: by IOPL, or by the bitmap of PHYSDEVOP_set_iobitmap
    (unreadable bytes forbid).
    """
    if iopl_ok(v):
        return True
    if port + size > v.iobitmap_ports:
        return False
    address = v.iobitmap_va + (port >> 3)
    bits = b""
    for at in (address, address + 1):
        try:
            bits += v.space.read(at, 1)  # the kernel's mapping is what counts; a user table usually shares it
        except XenError:
            bits += b"\xff"
    return not int.from_bytes(bits, "little") >> (port & 7) & ((1 << size) - 1)


def read(domain: Domain, port: int, size: int) -> int:
    """What `in` reads."""
    if port == CONFIG_ADDRESS and size == 4:
        return domain.pci_config_address
    return int.from_bytes(bytes(_read_byte(domain, port + i) for i in range(size)), "little")


def _read_byte(domain: Domain, port: int) -> int:
    if port == CMOS_INDEX:
        return domain.cmos_index
    if port == CMOS_DATA and domain.ioports.contains(CMOS_INDEX, CMOS_DATA):
        return domain.hv.cmos.read(domain.cmos_index % cmos.SIZE, domain.hv.machine.now)
    return 0xFF


def write(domain: Domain, port: int, size: int, value: int) -> None:
    """What `out` does."""
    if port == CONFIG_ADDRESS and size == 4:
        domain.pci_config_address = value
        return
    for i, byte in enumerate(value.to_bytes(size, "little")):
        if port + i == CMOS_INDEX:
            domain.cmos_index = byte
        elif port + i == CMOS_DATA and domain.ioports.contains(CMOS_INDEX, CMOS_DATA):
            domain.hv.cmos.write(domain.cmos_index % cmos.SIZE, byte, domain.hv.machine.now)


def string_io(v: VCpu, insn: Insn) -> bool:
    """`ins` and `outs`, with their repetitions: the first fault ends it with the registers at the element that
    faulted.
    """
    from pyvmm.hypervisor.emulate import done

    machine = v.hv.machine
    size = 1 if not insn.opcode & 1 else 2 if insn.operand16 else 4
    out = insn.opcode >= 0x6E
    index = Reg.RSI if out else Reg.RDI
    rdx, rcx, at, flags = machine.get_many((Reg.RDX, Reg.RCX, index, Reg.RFLAGS))
    port = rdx & 0xFFFF
    if not guest_may(v, port, size):
        return False
    width = (1 << 8 * insn.address_size) - 1
    base = 0
    if out and insn.segment in ("fs", "gs"):
        base = machine.get(Reg.FS_BASE if insn.segment == "fs" else Reg.GS_BASE)
    step = -size if flags & DF else size
    count = rcx & width if insn.rep else 1
    faulted = False
    while count:
        address = (base + (at & width)) & 0xFFFF_FFFF_FFFF_FFFF
        if not is_guest_address(address):
            _finish(v, insn, index, at, rcx, count, width)
            inject(v, SS_VECTOR if insn.segment == "ss" and out else GP, 0)
            return True
        try:
            if out:
                write(v.domain, port, size, int.from_bytes(v.copy_in(address, size), "little"))
            else:
                v.copy_out(address, read(v.domain, port, size).to_bytes(size, "little"))
        except XenError:
            faulted = True
            break
        at = (at + step) & width if insn.address_size < 8 else (at + step) & 0xFFFF_FFFF_FFFF_FFFF
        count -= 1
    _finish(v, insn, index, at, rcx, count, width)
    if faulted:
        inject_page_fault(v, address, 0 if out else 2)
        return True
    if insn.rep:
        machine.retire(0, (rcx & width) - count)
    return done(v, insn.end, "outs" if out else "ins")


def _finish(v: VCpu, insn: Insn, index: Reg, at: int, rcx: int, left: int, width: int) -> None:
    """Write the index and count registers back."""
    machine = v.hv.machine
    machine.set(index, at)
    if insn.rep:
        machine.set(Reg.RCX, left if insn.address_size < 8 else rcx & ~width | left)
