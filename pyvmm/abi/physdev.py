"""Physical interrupts, PCI devices and I/O privileges (physdev_op).

Source: Xen 4.17 public/physdev.h.
The argument of `PHYSDEVOP_x` is the structure `physdev_x`; four interrupt and APIC operations share theirs.
"""

from pyvmm.abi.layout import Struct, Union, handle, number_names, s32, u8, u16, u32, u64

# Sub-operations. The last two are older spellings.
PHYSDEVOP_irq_status_query = 5
PHYSDEVOP_set_iopl = 6
PHYSDEVOP_set_iobitmap = 7
PHYSDEVOP_apic_read = 8
PHYSDEVOP_apic_write = 9
PHYSDEVOP_alloc_irq_vector = 10
PHYSDEVOP_free_irq_vector = 11
PHYSDEVOP_eoi = 12
PHYSDEVOP_map_pirq = 13
PHYSDEVOP_unmap_pirq = 14
PHYSDEVOP_manage_pci_add = 15
PHYSDEVOP_manage_pci_remove = 16
PHYSDEVOP_pirq_eoi_gmfn_v1 = 17
PHYSDEVOP_restore_msi = 19
PHYSDEVOP_manage_pci_add_ext = 20
PHYSDEVOP_setup_gsi = 21
PHYSDEVOP_get_free_pirq = 23
PHYSDEVOP_pci_mmcfg_reserved = 24
PHYSDEVOP_pci_device_add = 25
PHYSDEVOP_pci_device_remove = 26
PHYSDEVOP_restore_msi_ext = 27
PHYSDEVOP_pirq_eoi_gmfn_v2 = 28
PHYSDEVOP_pirq_eoi_gmfn = 28
PHYSDEVOP_dbgp_op = 29
PHYSDEVOP_prepare_msix = 30
PHYSDEVOP_release_msix = 31
PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4

# physdev_irq_status_query.flags.
XENIRQSTAT_needs_eoi = 1 << 0
XENIRQSTAT_shared = 1 << 1

# physdev_map_pirq.type.
MAP_PIRQ_TYPE_MSI = 0x0
MAP_PIRQ_TYPE_GSI = 0x1
MAP_PIRQ_TYPE_UNKNOWN = 0x2
MAP_PIRQ_TYPE_MSI_SEG = 0x3
MAP_PIRQ_TYPE_MULTI_MSI = 0x4

# physdev_pci_mmcfg_reserved.flags.
XEN_PCI_MMCFG_RESERVED = 0x1

# physdev_pci_device_add.flags.
XEN_PCI_DEV_EXTFN = 0x1
XEN_PCI_DEV_VIRTFN = 0x2
XEN_PCI_DEV_PXM = 0x4

# physdev_dbgp_op: .op and .bus.
PHYSDEVOP_DBGP_RESET_PREPARE = 1
PHYSDEVOP_DBGP_RESET_DONE = 2
PHYSDEVOP_DBGP_BUS_UNKNOWN = 0
PHYSDEVOP_DBGP_BUS_PCI = 1

physdev_eoi = Struct("physdev_eoi", ("irq", u32))

physdev_pirq_eoi_gmfn = Struct("physdev_pirq_eoi_gmfn", ("gmfn", u64))

physdev_irq_status_query = Struct("physdev_irq_status_query", ("irq", u32), ("flags", u32))

physdev_set_iopl = Struct("physdev_set_iopl", ("iopl", u32))

physdev_set_iobitmap = Struct("physdev_set_iobitmap", ("bitmap", handle), ("nr_ports", u32))

physdev_apic = Struct(
    "physdev_apic",
    ("apic_physbase", u64),
    ("reg", u32),
    ("value", u32),
)

physdev_irq = Struct("physdev_irq", ("irq", u32), ("vector", u32))

physdev_map_pirq = Struct(
    "physdev_map_pirq",
    ("domid", u16),
    ("type", s32),
    ("index", s32),
    ("pirq", s32),
    ("bus", s32),
    ("devfn", s32),
    ("entry_nr", s32),
    ("table_base", u64),
)

physdev_unmap_pirq = Struct("physdev_unmap_pirq", ("domid", u16), ("pirq", s32))

physdev_manage_pci = Struct("physdev_manage_pci", ("bus", u8), ("devfn", u8))

physdev_restore_msi = Struct("physdev_restore_msi", ("bus", u8), ("devfn", u8))

physdev_manage_pci_ext = Struct(
    "physdev_manage_pci_ext",
    ("bus", u8),
    ("devfn", u8),
    ("is_extfn", u32),
    ("is_virtfn", u32),
    ("physfn", Struct("physfn", ("bus", u8), ("devfn", u8))),
)

physdev_op = Struct(
    "physdev_op",
    ("cmd", u32),
    (
        "u",
        Union(
            "u",
            ("irq_status_query", physdev_irq_status_query),
            ("set_iopl", physdev_set_iopl),
            ("set_iobitmap", physdev_set_iobitmap),
            ("apic_op", physdev_apic),
            ("irq_op", physdev_irq),
        ),
    ),
)

physdev_setup_gsi = Struct(
    "physdev_setup_gsi",
    ("gsi", s32),
    ("triggering", u8),
    ("polarity", u8),
)

physdev_get_free_pirq = Struct("physdev_get_free_pirq", ("type", s32), ("pirq", u32))

physdev_pci_mmcfg_reserved = Struct(
    "physdev_pci_mmcfg_reserved",
    ("address", u64),
    ("segment", u16),
    ("start_bus", u8),
    ("end_bus", u8),
    ("flags", u32),
)

physdev_pci_device_add = Struct(
    "physdev_pci_device_add",
    ("seg", u16),
    ("bus", u8),
    ("devfn", u8),
    ("flags", u32),
    ("physfn", Struct("physfn", ("bus", u8), ("devfn", u8))),
    ("optarr", u32 * 0),
)

physdev_pci_device = Struct(
    "physdev_pci_device",
    ("seg", u16),
    ("bus", u8),
    ("devfn", u8),
)

physdev_dbgp_op = Struct(
    "physdev_dbgp_op",
    ("op", u8),
    ("bus", u8),
    ("u", Union("u", ("pci", physdev_pci_device))),
)

PHYSDEVOP_NAMES = {
    n: name for n, name in number_names(globals(), "PHYSDEVOP_", keep=False).items() if name[0].islower()
}
