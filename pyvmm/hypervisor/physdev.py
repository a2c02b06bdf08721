"""physdev_op: a domain's dealings with physical devices, on a machine that has none.

There are interrupt pins (GSIs) that a dom0 may map to its pirqs, but nothing ever raises one, and no PCI. I/O
privilege is real: set_iopl and set_iobitmap decide what `in` and `out` do.

Facts from Xen 4.17: public/physdev.h, xen/arch/x86/physdev.c, xen/drivers/pci/physdev.c, xen/arch/x86/irq.c,
io_apic.c (arch_hwdom_irqs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.abi import errno, xen
from pyvmm.abi import physdev as abi
from pyvmm.hypervisor import event_channel
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_writable_page
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import access_ok, find_or_esrch, may_serve, require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

GSIS = 24  # one I/O APIC
DYNAMIC_VECTORS = 192
EXTRA_DOMU_IRQS = 32
MAX_PORTS = 65536
IOPL_MAX = 3


def pirq_count(domain: Domain) -> int:
    """How many pirqs `domain` may name (Xen's nr_pirqs)."""
    return GSIS + (DYNAMIC_VECTORS if domain.privileged else EXTRA_DOMU_IRQS)


def is_mapped(domain: Domain, pirq: int) -> bool:
    """`pirq` stands for an interrupt (PHYSDEVOP_map_pirq was done)."""
    return pirq in domain.pirqs


def _is_known(domain: Domain, pirq: int) -> bool:
    if pirq >= pirq_count(domain):
        raise XenError(errno.EINVAL)
    return pirq in domain.pirqs


def _eoi(v: VCpu, arg: int) -> int:
    op = abi.physdev_eoi.unpack(v.copy_in(arg, abi.physdev_eoi.size))
    if not _is_known(v.domain, op.irq):
        raise XenError(errno.EINVAL)
    if v.domain.pirq_auto_unmask:
        for port in v.domain.evtchn.ports.values():
            if port.state is event_channel.State.PIRQ and port.pirq == op.irq:
                event_channel.unmask(v.domain, port.number)
    return 0


def _eoi_gmfn(v: VCpu, arg: int, *, auto_unmask: bool) -> int:
    """Register the page in which the guest would be told which pirqs need an EOI (none ever does)."""
    op = abi.physdev_pirq_eoi_gmfn.unpack(v.copy_in(arg, abi.physdev_pirq_eoi_gmfn.size))
    domain = v.domain
    if not v.hv.frames.get_page_and_type(op.gmfn, domain, PGT_writable_page):
        raise XenError(errno.EINVAL)
    if domain.pirq_eoi_mfn:
        v.hv.frames.put_page_and_type(op.gmfn)
        raise XenError(errno.EBUSY)
    domain.pirq_eoi_mfn = op.gmfn
    domain.pirq_auto_unmask = domain.pirq_auto_unmask or auto_unmask
    return 0


def _irq_status_query(v: VCpu, arg: int) -> int:
    op = abi.physdev_irq_status_query.unpack(v.copy_in(arg, abi.physdev_irq_status_query.size))
    if op.irq >= pirq_count(v.domain):
        raise XenError(errno.EINVAL)
    v.copy_out(arg, abi.physdev_irq_status_query.pack(irq=op.irq, flags=abi.XENIRQSTAT_needs_eoi))
    return 0


def _unmask_notify(v: VCpu, arg: int) -> int:
    return 0


def _map_pirq(v: VCpu, arg: int) -> int:
    op = abi.physdev_map_pirq.unpack(v.copy_in(arg, abi.physdev_map_pirq.size))
    if op.type == abi.MAP_PIRQ_TYPE_MULTI_MSI and op.table_base:
        raise XenError(errno.EINVAL)
    result, pirq = 0, op.pirq
    try:
        domain = find_or_esrch(v.domain, op.domid)
        if not may_serve(v.domain, domain):
            raise XenError(errno.EPERM)
        if op.type == abi.MAP_PIRQ_TYPE_GSI:
            pirq = _map_gsi(domain, op.index, op.pirq)
        elif op.type in (abi.MAP_PIRQ_TYPE_MSI, abi.MAP_PIRQ_TYPE_MSI_SEG, abi.MAP_PIRQ_TYPE_MULTI_MSI):
            raise XenError(errno.ENODEV)
        else:
            raise XenError(errno.EINVAL)
    except XenError as error:
        result = -error.errno
    v.copy_out(arg, abi.physdev_map_pirq.pack(**{**op._asdict(), "pirq": pirq}))
    return result


def _map_gsi(domain: Domain, gsi: int, pirq: int) -> int:
    """A pirq (the asked one, or for a negative one a free one) that stands for pin `gsi`."""
    if not 0 <= gsi < GSIS:
        raise XenError(errno.EINVAL)
    known = next((number for number, pin in sorted(domain.pirqs.items()) if pin == gsi), None)
    if pirq < 0:
        return known if known is not None else _enter(domain, gsi, _free_pirq(domain, gsi))
    if known is not None and known != pirq:
        raise XenError(errno.EBUSY)
    if pirq >= pirq_count(domain):
        raise XenError(errno.EINVAL)
    if domain.pirqs.get(pirq, gsi) != gsi:
        raise XenError(errno.EBUSY)
    return _enter(domain, gsi, pirq)


def _enter(domain: Domain, gsi: int, pirq: int) -> int:
    domain.pirqs[pirq] = gsi
    return pirq


def _free_pirq(domain: Domain, wanted: int = -1) -> int:
    """The pirq named like the pin, if it is free, else the highest free one."""
    if wanted >= 0 and wanted not in domain.pirqs:
        return wanted
    for pirq in reversed(range(GSIS, pirq_count(domain))):
        if pirq not in domain.pirqs:
            return pirq
    raise XenError(errno.ENOSPC)


def _unmap_pirq(v: VCpu, arg: int) -> int:
    op = abi.physdev_unmap_pirq.unpack(v.copy_in(arg, abi.physdev_unmap_pirq.size))
    domain = find_or_esrch(v.domain, op.domid)
    if not may_serve(v.domain, domain):
        raise XenError(errno.EPERM)
    if op.pirq not in domain.pirqs:
        raise XenError(errno.EINVAL)
    del domain.pirqs[op.pirq]
    return 0


def _get_free_pirq(v: VCpu, arg: int) -> int:
    op = abi.physdev_get_free_pirq.unpack(v.copy_in(arg, abi.physdev_get_free_pirq.size))
    pirq = _free_pirq(v.domain)
    v.domain.pirqs[pirq] = -1  # allocated, standing for nothing
    v.copy_out(arg, abi.physdev_get_free_pirq.pack(type=op.type, pirq=pirq))
    return 0


def _apic(v: VCpu, arg: int) -> int:
    v.copy_in(arg, abi.physdev_apic.size)
    require_privileged(v.domain)
    raise XenError(errno.EINVAL)  # no I/O APIC at that address


def _alloc_irq_vector(v: VCpu, arg: int) -> int:
    """A call without effect: the vector is the irq."""
    op = abi.physdev_irq.unpack(v.copy_in(arg, abi.physdev_irq.size))
    require_privileged(v.domain)
    v.copy_out(arg, abi.physdev_irq.pack(irq=op.irq, vector=op.irq))
    return 0


def _setup_gsi(v: VCpu, arg: int) -> int:
    op = abi.physdev_setup_gsi.unpack(v.copy_in(arg, abi.physdev_setup_gsi.size))
    if not 0 <= op.gsi < GSIS:
        raise XenError(errno.EINVAL)
    require_privileged(v.domain)
    return 0


def _set_iopl(v: VCpu, arg: int) -> int:
    """The vCPU's I/O privilege level, 0 to 3."""
    op = abi.physdev_set_iopl.unpack(v.copy_in(arg, abi.physdev_set_iopl.size))
    if op.iopl > IOPL_MAX:
        raise XenError(errno.EINVAL)
    v.iopl = op.iopl
    return 0


def _set_iobitmap(v: VCpu, arg: int) -> int:
    """Where the guest keeps the bitmap of ports its user mode may use; it is read when such an instruction is met."""
    op = abi.physdev_set_iobitmap.unpack(v.copy_in(arg, abi.physdev_set_iobitmap.size))
    if not access_ok(op.bitmap) or op.nr_ports > MAX_PORTS:
        raise XenError(errno.EINVAL)
    v.iobitmap_va, v.iobitmap_ports = op.bitmap, op.nr_ports
    return 0


def _pci(size: int) -> Callable[[VCpu, int], int]:
    """An operation on a PCI device: only for dom0, and there is no such device."""

    def serve(v: VCpu, arg: int) -> int:
        v.copy_in(arg, size)
        require_privileged(v.domain)
        raise XenError(errno.ENODEV)

    return serve


def _restore_msi(size: int) -> Callable[[VCpu, int], int]:
    def serve(v: VCpu, arg: int) -> int:
        v.copy_in(arg, size)
        raise XenError(errno.ENODEV)  # Xen looks for the device without asking who wants to know

    return serve


def _mmcfg_reserved(v: VCpu, arg: int) -> int:
    require_privileged(v.domain)
    v.copy_in(arg, abi.physdev_pci_mmcfg_reserved.size)
    raise XenError(errno.ENODEV)


def _dbgp_op(v: VCpu, arg: int) -> int:
    require_privileged(v.domain)
    v.copy_in(arg, abi.physdev_dbgp_op.size)
    raise XenError(errno.ENODEV)


def release(domain: Domain) -> None:
    """Give back what a dying domain registered here."""
    domain.pirqs.clear()
    if domain.pirq_eoi_mfn:
        mfn, domain.pirq_eoi_mfn = domain.pirq_eoi_mfn, 0
        domain.hv.frames.put_page_and_type(mfn)


_OPERATIONS: dict[int, Callable[[VCpu, int], int]] = {
    abi.PHYSDEVOP_eoi: _eoi,
    abi.PHYSDEVOP_pirq_eoi_gmfn_v1: lambda v, arg: _eoi_gmfn(v, arg, auto_unmask=True),
    abi.PHYSDEVOP_pirq_eoi_gmfn_v2: lambda v, arg: _eoi_gmfn(v, arg, auto_unmask=False),
    abi.PHYSDEVOP_IRQ_UNMASK_NOTIFY: _unmask_notify,
    abi.PHYSDEVOP_irq_status_query: _irq_status_query,
    abi.PHYSDEVOP_map_pirq: _map_pirq,
    abi.PHYSDEVOP_unmap_pirq: _unmap_pirq,
    abi.PHYSDEVOP_get_free_pirq: _get_free_pirq,
    abi.PHYSDEVOP_apic_read: _apic,
    abi.PHYSDEVOP_apic_write: _apic,
    abi.PHYSDEVOP_alloc_irq_vector: _alloc_irq_vector,
    abi.PHYSDEVOP_setup_gsi: _setup_gsi,
    abi.PHYSDEVOP_set_iopl: _set_iopl,
    abi.PHYSDEVOP_set_iobitmap: _set_iobitmap,
    abi.PHYSDEVOP_manage_pci_add: _pci(abi.physdev_manage_pci.size),
    abi.PHYSDEVOP_manage_pci_remove: _pci(abi.physdev_manage_pci.size),
    abi.PHYSDEVOP_manage_pci_add_ext: _pci(abi.physdev_manage_pci_ext.size),
    abi.PHYSDEVOP_pci_device_add: _pci(abi.physdev_pci_device_add.size),
    abi.PHYSDEVOP_pci_device_remove: _pci(abi.physdev_pci_device.size),
    abi.PHYSDEVOP_prepare_msix: _pci(abi.physdev_pci_device.size),
    abi.PHYSDEVOP_release_msix: _pci(abi.physdev_pci_device.size),
    abi.PHYSDEVOP_restore_msi: _restore_msi(abi.physdev_restore_msi.size),
    abi.PHYSDEVOP_restore_msi_ext: _restore_msi(abi.physdev_pci_device.size),
    abi.PHYSDEVOP_pci_mmcfg_reserved: _mmcfg_reserved,
    abi.PHYSDEVOP_dbgp_op: _dbgp_op,
}


@hypercall(xen.HYPERVISOR_physdev_op, "cmd", "arg")
def physdev_op(v: VCpu, cmd: int, arg: int) -> int:
    """PHYSDEVOP_*; -ENOSYS for an unknown one."""
    operation = _OPERATIONS.get(cmd & 0xFFFF_FFFF)
    return operation(v, arg) if operation is not None else -errno.ENOSYS


@hypercall(xen.HYPERVISOR_physdev_op_compat, "uop")
def physdev_op_compat(v: VCpu, uop: int) -> int:
    """The form of before 3.2: one structure {cmd, union of the arguments} at `uop`."""
    cmd = int.from_bytes(v.copy_in(uop, abi.physdev_op.size)[:4], "little")
    return physdev_op(v, cmd, uop + abi.physdev_op.u.offset)
