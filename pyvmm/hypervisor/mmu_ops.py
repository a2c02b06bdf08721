"""The MMU hypercalls: mmu_update, mmuext_op, update_va_mapping and its variant for other domains' frames; and how
grants are mapped.

Facts: do_mmu_update(), do_mmuext_op(), __do_update_va_mapping() in xen/arch/x86/mm.c and xen/arch/x86/pv/grant_table.c
of Xen 4.17, and the comments of public/xen.h. A native vCPU has no page tables: for it update_va_mapping edits its
`NativeSpace`, with the same checks and references.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno, grant_table, xen
from pyvmm.hypervisor import pte as P
from pyvmm.hypervisor.continuation import share
from pyvmm.hypervisor.errors import Preempted, XenError
from pyvmm.hypervisor.frames import (
    PGT_l1_page_table,
    PGT_l2_page_table,
    PGT_l3_page_table,
    PGT_l4_page_table,
    PGT_writable_page,
)
from pyvmm.hypervisor.hypercalls import hypercall, signed
from pyvmm.hypervisor.native import NativeSpace
from pyvmm.hypervisor.permissions import access_ok, find

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

# In the count of a continued call: *pdone says what was done before. Alone, with no requests: all is done,
# `foreigndom` is the result.
MMU_UPDATE_PREEMPTED = 1 << 31
MAX_LDT_ENTRIES = 8192
_REQUEST = struct.Struct("<QQ")  # xen.mmu_update: unpacked most often of all structures, and this is the quickest way
assert _REQUEST.size == xen.mmu_update.size == 16
_MMUEXT = xen.mmuext_op.choose(arg1="mfn", arg2="src_mfn")


def page_owner(source: Domain, domid: int) -> int:
    """The domid whose frames an operation is about (Xen's get_pg_owner): DOMID_IO and DOMID_XEN own frames too; but
    nobody may name himself by number. XenError(ESRCH) if there is no such owner."""
    domid &= 0xFFFF
    if domid == xen.DOMID_SELF:
        return source.domid
    if domid in (xen.DOMID_IO, xen.DOMID_XEN):
        return domid
    domain = find(source, domid)
    if domain is None or domid == source.domid:
        raise XenError(errno.ESRCH)
    return domain.domid


def _may_target(source: Domain, domid: int) -> bool:
    """`permissions.may_target`, for owners that are no domains too."""
    return (
        source.privileged
        or source.domid == domid
        or source.xenstore
        or (source.target is not None and source.target.domid == domid)
    )


def _report_done(v: VCpu, pdone: int, done: int) -> None:
    """Tell the guest how many requests were served, if it asked; it does not learn that it could not be told."""
    if pdone:
        with contextlib.suppress(XenError):
            v.copy_out(pdone, (done & 0xFFFF_FFFF).to_bytes(4, "little"))


def _done_before(v: VCpu, pdone: int) -> int:
    if pdone:
        try:
            return int.from_bytes(v.copy_in(pdone, 4), "little")
        except XenError:
            pass
    return 0


# -- mmu_update ------------------------------------------------------------------------------------------------------


@hypercall(xen.HYPERVISOR_mmu_update, "requests", "count", "pdone", "foreigndom")
def mmu_update(v: VCpu, requests: int, count: int, pdone: int, foreigndom: int) -> int:
    """Update page-table entries (or, in frames that are none, words) and the M2P, in the order given.

    `foreigndom`: in bits 0 to 15 the owner of the frames to be mapped, in 16 to 31 the owner of the tables plus one
    (0: the caller). 0 or the first failure's errno; `*pdone` gets the number of requests served."""
    count, foreigndom = count & 0xFFFF_FFFF, foreigndom & 0xFFFF_FFFF
    if count == MMU_UPDATE_PREEMPTED and not requests:
        return signed(foreigndom, 32)
    done = 0
    if count & MMU_UPDATE_PREEMPTED:
        done = _done_before(v, pdone)
        count &= ~MMU_UPDATE_PREEMPTED
    if not access_ok(requests):
        return -errno.EFAULT
    tables: Domain | None = v.domain
    if foreigndom >> 16:
        tables = v.hv.domains.get((foreigndom >> 16) - 1)
        if tables is None:
            return -errno.ESRCH
    assert tables is not None
    served, result = 0, 0
    try:
        if not tables.vcpus:
            return -errno.EINVAL
        pg_owner = page_owner(v.domain, foreigndom)
        domid, in_use_as, mod_l1_entry, read = (
            v.domain.domid,
            v.hv.frames.in_use_as,
            v.hv.mmu.mod_l1_entry,
            v.space.read,
        )
        own = tables is v.domain and (pg_owner == xen.DOMID_IO or _may_target(v.domain, pg_owner))
        n = share(v, count) if count > 1 else count
        for served in range(n):
            ptr, value = _REQUEST.unpack(read(requests + served * 16, 16))
            if own and not ptr & 7 and in_use_as(ptr >> 12, domid, PGT_l1_page_table):
                result = mod_l1_entry(ptr, value, tables, pg_owner)  # what nearly all are
            else:
                result = _update_one(v, tables, pg_owner, ptr, value)
            if result:
                break
        else:
            served = n
    except XenError as error:
        result = -error.errno
    if pdone:
        _report_done(v, pdone, done + served)
    if served < count and not result:
        raise _preempted(requests, served, served * 16, count, pdone, foreigndom)
    return result


def _preempted(list_: int, served: int, length: int, count: int, pdone: int, foreigndom: int) -> Preempted:
    rest = (list_ + length, count - served | MMU_UPDATE_PREEMPTED, pdone, foreigndom)
    return Preempted(rest, (list_, served, pdone, foreigndom))


def _update_one(v: VCpu, tables: Domain, pg_owner: int, ptr: int, value: int) -> int:
    command = ptr & 7
    if command == xen.MMU_MACHPHYS_UPDATE:
        if tables is not v.domain:
            return -errno.EPERM
        if pg_owner != xen.DOMID_IO and not _may_target(v.domain, pg_owner):
            return -errno.EPERM
        mfn = ptr >> 12
        if not v.hv.frames.get_page(mfn, pg_owner):
            return -errno.EINVAL
        v.hv.xen_area.set_m2p(mfn, value)
        v.hv.frames.put_page(mfn)
        return 0
    if command not in (xen.MMU_NORMAL_PT_UPDATE, xen.MMU_PT_UPDATE_PRESERVE_AD, xen.MMU_PT_UPDATE_NO_TRANSLATE):
        return -errno.ENOSYS
    if (pg_owner != xen.DOMID_IO and not _may_target(v.domain, pg_owner)) or not _may_target(v.domain, tables.domid):
        return -errno.EPERM
    return _update_entry(v, tables, pg_owner, ptr - command, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)


def _update_entry(v: VCpu, tables: Domain, pg_owner: int, pa: int, value: int, preserve_ad: bool) -> int:
    frames, mmu = v.hv.frames, v.hv.mmu
    mfn = pa >> 12
    if not frames.get_page(mfn, tables):
        return -errno.EINVAL
    level = frames.type_of(mfn)
    result = -errno.EINVAL
    if level == PGT_l1_page_table:
        result = mmu.mod_l1_entry(pa, value, tables, pg_owner, preserve_ad=preserve_ad)
    elif PGT_l2_page_table <= level <= PGT_l4_page_table:
        if pg_owner == tables.domid:
            result = mmu.mod_upper_entry(pa, value, level, tables, preserve_ad=preserve_ad)
    elif frames.get_page_type(mfn, PGT_writable_page):
        v.hv.machine.ram.write_u64(pa, value)
        frames.put_page_type(mfn)
        result = 0
    frames.put_page(mfn)
    return result


# -- mmuext_op -------------------------------------------------------------------------------------------------------


@hypercall(xen.HYPERVISOR_mmuext_op, "operations", "count", "pdone", "foreigndom")
def mmuext_op(v: VCpu, operations: int, count: int, pdone: int, foreigndom: int) -> int:
    """Pin tables, switch base pointers, flush, clear and copy frames, in the order given, about frames of `foreigndom`.
    0 or the first failure's errno; `*pdone` gets the number of operations done."""
    count &= 0xFFFF_FFFF
    if count == MMU_UPDATE_PREEMPTED and not operations:
        return signed(foreigndom, 32)
    done = 0
    if count & MMU_UPDATE_PREEMPTED:
        done = _done_before(v, pdone)
        count &= ~MMU_UPDATE_PREEMPTED
    if not access_ok(operations):
        return -errno.EFAULT
    pg_owner = page_owner(v.domain, foreigndom)
    if not _may_target(v.domain, pg_owner):
        return -errno.EPERM
    served, result = 0, 0
    try:
        n = share(v, count)
        for served in range(n):
            op = _MMUEXT.unpack(v.copy_in(operations + served * _MMUEXT.size, _MMUEXT.size))
            handler = _MMUEXT_OPS.get(op.cmd)
            result = -errno.ENOSYS if handler is None else handler(v, pg_owner, op)
            if result:
                break
        else:
            served = n
    except XenError as error:
        result = -error.errno
    _report_done(v, pdone, done + served)
    if served < count and not result:
        raise _preempted(operations, served, served * _MMUEXT.size, count, pdone, foreigndom)
    return result


def _own_only(handler: Callable[[VCpu, Any], int]) -> Callable[[VCpu, int, Any], int]:
    """An operation on the caller's own state: -EPERM when it is asked for on another domain's frames."""
    return lambda v, pg_owner, op: handler(v, op) if pg_owner == v.domain.domid else -errno.EPERM


def _pin(level: int) -> Callable[[VCpu, int, Any], int]:
    return lambda v, pg_owner, op: v.hv.mmu.pin(op.arg1, level, pg_owner)


def _unpin(v: VCpu, pg_owner: int, op: Any) -> int:
    return v.hv.mmu.unpin(op.arg1, pg_owner)


def _new_base(v: VCpu, op: Any) -> int:
    return -errno.EINVAL if v.native is not None else v.hv.mmu.new_kernel_base(v, op.arg1)


def _new_user_base(v: VCpu, op: Any) -> int:
    return -errno.EINVAL if v.native is not None else v.hv.mmu.new_user_base(v, op.arg1)


def _flush(v: VCpu, op: Any) -> int:
    v.hv.machine.flush_tlb()
    return 0


def _flush_vcpus(v: VCpu, op: Any) -> int:
    if not _read_vcpu_mask(v, op.arg2):
        return -errno.EINVAL
    v.hv.machine.flush_tlb()
    return 0


def _read_vcpu_mask(v: VCpu, address: int) -> bool:
    """The bitmap of vCPUs at `address` can be read. (All vCPUs share the one CPU: whom it names makes no
    difference.)"""
    try:
        v.copy_in(address, -(-len(v.domain.vcpus) // 64) * 8)
    except XenError:
        return False
    return True


def _flush_cache(error: int) -> Callable[[VCpu, Any], int]:
    """Caches are coherent here; what counts is who may ask: domains with devices."""
    return lambda v, op: 0 if v.domain.iomem or v.domain.ioports else -error


def _set_ldt(v: VCpu, op: Any) -> int:
    from pyvmm.hypervisor import descriptors

    entries = op.arg2 & 0xFFFF_FFFF
    base = op.arg1 if entries else 0
    if entries > MAX_LDT_ENTRIES or base & 0xFFF or not access_ok(base):
        return -errno.EINVAL
    descriptors.set_ldt(v, base, entries)
    return 0


def _clear_page(v: VCpu, pg_owner: int, op: Any) -> int:
    frames = v.hv.frames
    if pg_owner == xen.DOMID_IO or not frames.get_page_and_type(op.arg1, pg_owner, PGT_writable_page):
        return -errno.EINVAL
    v.hv.machine.ram.fill(op.arg1 << 12, 4096, 0)
    frames.put_page_and_type(op.arg1)
    return 0


def _copy_page(v: VCpu, pg_owner: int, op: Any) -> int:
    frames = v.hv.frames
    if pg_owner == xen.DOMID_IO or not frames.get_page(op.arg2, pg_owner):
        return -errno.EINVAL
    result = -errno.EINVAL
    if frames.get_page_and_type(op.arg1, pg_owner, PGT_writable_page):
        v.hv.machine.ram.copy(op.arg1 << 12, op.arg2 << 12, 4096)
        frames.put_page_and_type(op.arg1)
        result = 0
    frames.put_page(op.arg2)
    return result


def _no_superpages(v: VCpu, pg_owner: int, op: Any) -> int:
    return -errno.EOPNOTSUPP


_MMUEXT_OPS: dict[int, Callable[[VCpu, int, Any], int]] = {
    xen.MMUEXT_PIN_L1_TABLE: _pin(PGT_l1_page_table),
    xen.MMUEXT_PIN_L2_TABLE: _pin(PGT_l2_page_table),
    xen.MMUEXT_PIN_L3_TABLE: _pin(PGT_l3_page_table),
    xen.MMUEXT_PIN_L4_TABLE: _pin(PGT_l4_page_table),
    xen.MMUEXT_UNPIN_TABLE: _unpin,
    xen.MMUEXT_NEW_BASEPTR: _own_only(_new_base),
    xen.MMUEXT_NEW_USER_BASEPTR: _own_only(_new_user_base),
    xen.MMUEXT_TLB_FLUSH_LOCAL: _own_only(_flush),
    xen.MMUEXT_INVLPG_LOCAL: _own_only(_flush),
    xen.MMUEXT_TLB_FLUSH_MULTI: _own_only(_flush_vcpus),
    xen.MMUEXT_INVLPG_MULTI: _own_only(_flush_vcpus),
    xen.MMUEXT_TLB_FLUSH_ALL: _own_only(_flush),
    xen.MMUEXT_INVLPG_ALL: _own_only(_flush),
    xen.MMUEXT_FLUSH_CACHE: _own_only(_flush_cache(errno.EACCES)),
    xen.MMUEXT_FLUSH_CACHE_GLOBAL: _own_only(_flush_cache(errno.EINVAL)),
    xen.MMUEXT_SET_LDT: _own_only(_set_ldt),
    xen.MMUEXT_CLEAR_PAGE: _clear_page,
    xen.MMUEXT_COPY_PAGE: _copy_page,
    xen.MMUEXT_MARK_SUPER: _no_superpages,
    xen.MMUEXT_UNMARK_SUPER: _no_superpages,
}


# -- update_va_mapping -----------------------------------------------------------------------------------------------


@hypercall(xen.HYPERVISOR_update_va_mapping, "va", "value", "flags")
def update_va_mapping(v: VCpu, va: int, value: int, flags: int) -> int:
    """Replace the L1 entry that maps `va` in the current address space. -EINVAL if there is no L1 table for it."""
    return _update_va(v, va, value, flags, v.domain.domid)


@hypercall(xen.HYPERVISOR_update_va_mapping_otherdomain, "va", "value", "flags", "domid")
def update_va_mapping_otherdomain(v: VCpu, va: int, value: int, flags: int, domid: int) -> int:
    """The same, with a frame of domain `domid`. -ESRCH if there is no such domain, -EPERM if the caller may not map
    its frames."""
    return _update_va(v, va, value, flags, page_owner(v.domain, domid))


def _update_va(v: VCpu, va: int, value: int, flags: int, pg_owner: int) -> int:
    if not _may_target(v.domain, pg_owner):
        return -errno.EPERM
    mmu = v.hv.mmu
    if isinstance(v.space, NativeSpace):
        if not access_ok(va):
            return -errno.EINVAL
        if value & P.PRESENT:
            return mmu.native_map(v, va, P.frame_of(value), bool(value & P.RW), pg_owner)
        mmu.native_unmap(v, va)
        return 0
    result = mmu.change_l1_entry(v, va, value, pg_owner)
    kind, where = flags & xen.UVMF_FLUSHTYPE_MASK, flags & ~xen.UVMF_FLUSHTYPE_MASK
    if result or kind not in (xen.UVMF_TLB_FLUSH, xen.UVMF_INVLPG):
        return result
    # The entry was written, so that the TLB is flushed anyway; a bitmap of vCPUs must still be readable.
    if where not in (xen.UVMF_LOCAL, xen.UVMF_ALL) and not _read_vcpu_mask(v, where):
        return -errno.EFAULT
    return 0


# -- grants ----------------------------------------------------------------------------------------------------------


def grant_pte_flags(flags: int) -> int:
    """The entry that a grant mapping with GNTMAP_* `flags` gets, without the frame."""
    entry = P.PRESENT | P.ACCESSED | P.DIRTY | P.NX
    if flags & grant_table.GNTMAP_application_map:
        entry |= P.USER
    if not flags & grant_table.GNTMAP_readonly:
        entry |= P.RW
    return entry | (flags >> 16 << 9) & P.AVAIL


def _nominated_entry(v: VCpu, address: int, contains_pte: bool) -> int | None:
    """Where the L1 entry is that `address` names, by its machine address or as a linear address; None if that is no L1
    entry of the caller's."""
    if contains_pte:
        pa: int | None = None if address & 7 else address
    else:
        pa = v.hv.mmu.find_l1_entry(v, address)
    return pa if pa is not None and v.hv.mmu.is_l1_table(pa >> 12, v.domain) else None


def map_grant(v: VCpu, host_addr: int, pte_flags: int, mfn: int, contains_pte: bool) -> bool:
    """Map the granted frame `mfn` with `pte_flags` (`grant_pte_flags`) at `host_addr`: a linear address of the current
    address space, or, if `contains_pte`, the machine address of an L1 entry. The references that the mapping holds
    were taken by the caller; those of what was mapped there are dropped. False (GNTST_general_error): there is no such
    entry."""
    mmu = v.hv.mmu
    if isinstance(v.space, NativeSpace):
        if contains_pte or not access_ok(host_addr):
            return False
        mmu.native_unmap(v, host_addr)
        v.space.pages[host_addr >> 12] = (mfn, bool(pte_flags & P.RW))
        return True
    pa = _nominated_entry(v, host_addr, contains_pte)
    if pa is None:
        return False
    old = mmu.ram.read_u64(pa)
    mmu.write_entry(pa, P.adjust_l1(mfn << 12 | pte_flags))
    mmu.put_page_from_l1e(old)
    return True


def unmap_grant(v: VCpu, host_addr: int, pte_flags: int, mfn: int, contains_pte: bool, new_addr: int = 0) -> bool:
    """Undo `map_grant`; with `new_addr` (GNTTABOP_unmap_and_replace) what is mapped there moves to `host_addr`. The
    references to `mfn` are left to the caller. False: `host_addr` does not map `mfn` that way."""
    if isinstance(v.space, NativeSpace):
        return _unmap_native(v.space, host_addr, pte_flags, mfn, contains_pte, new_addr)
    mmu = v.hv.mmu
    replacement = 0
    if new_addr:
        source = None if contains_pte else _nominated_entry(v, new_addr, False)
        if source is None:
            return False
        replacement = mmu.ram.read_u64(source)
        mmu.write_entry(source, 0)
    pa = _nominated_entry(v, host_addr, contains_pte)
    old = 0 if pa is None else mmu.ram.read_u64(pa)
    if pa is None or P.frame_of(old) != mfn or (old ^ pte_flags) & (P.PRESENT | P.RW):
        mmu.put_page_from_l1e(replacement)
        return False
    mmu.write_entry(pa, replacement)
    return True


def _unmap_native(space: NativeSpace, va: int, pte_flags: int, mfn: int, contains_pte: bool, new_addr: int) -> bool:
    if contains_pte or space.pages.get(va >> 12) != (mfn, bool(pte_flags & P.RW)):
        return False
    if new_addr and new_addr >> 12 not in space.pages:
        return False
    del space.pages[va >> 12]
    if new_addr:
        space.pages[va >> 12] = space.pages.pop(new_addr >> 12)
    return True
