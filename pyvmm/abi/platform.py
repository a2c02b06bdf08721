"""What only the hardware domain may do to the machine (platform_op): the numbers, and the structures a dom0 uses at
boot.

Source: Xen 4.17 public/platform.h.
"""

from pyvmm.abi.layout import (
    Struct,
    Union,
    char,
    handle,
    number_names,
    u8,
    u16,
    u32,
    u64,
)

# What xen_platform_op.interface_version must be.
XENPF_INTERFACE_VERSION = 0x03000001

# Commands.
XENPF_settime32 = 17
XENPF_add_memtype = 31
XENPF_del_memtype = 32
XENPF_read_memtype = 33
XENPF_microcode_update = 35
XENPF_platform_quirk = 39
XENPF_get_cpu_version = 48
XENPF_efi_runtime_call = 49
XENPF_firmware_info = 50
XENPF_enter_acpi_sleep = 51
XENPF_change_freq = 52
XENPF_getidletime = 53
XENPF_set_processor_pminfo = 54
XENPF_get_cpuinfo = 55
XENPF_cpu_online = 56
XENPF_cpu_offline = 57
XENPF_cpu_hotadd = 58
XENPF_mem_hotadd = 59
XENPF_core_parking = 60
XENPF_resource_op = 61
XENPF_settime64 = 62
XENPF_settime = 62
XENPF_get_symbol = 63

# xenpf_enter_acpi_sleep.flags.
XENPF_ACPI_SLEEP_EXTENDED = 0x00000001

# xenpf_pcpuinfo.flags.
XEN_PCPU_FLAGS_ONLINE = 1
XEN_PCPU_FLAGS_INVALID = 2

xenpf_settime32 = Struct(
    "xenpf_settime32",
    ("secs", u32),
    ("nsecs", u32),
    ("system_time", u64),
)

xenpf_settime64 = Struct(
    "xenpf_settime64",
    ("secs", u64),
    ("nsecs", u32),
    ("mbz", u32),
    ("system_time", u64),
)

xenpf_enter_acpi_sleep = Struct(
    "xenpf_enter_acpi_sleep",
    ("val_a", u16),
    ("val_b", u16),
    ("sleep_state", u32),
    ("flags", u32),
)

xenpf_change_freq = Struct(
    "xenpf_change_freq",
    ("flags", u32),
    ("cpu", u32),
    ("freq", u64),
)

xenpf_getidletime = Struct(
    "xenpf_getidletime",
    ("cpumap_bitmap", handle),
    ("cpumap_nr_cpus", u32),
    ("idletime", handle),
    ("now", u64),
)

xenpf_pcpuinfo = Struct(
    "xenpf_pcpuinfo",
    ("xen_cpuid", u32),
    ("max_present", u32),
    ("flags", u32),
    ("apic_id", u32),
    ("acpi_id", u32),
)

xenpf_pcpu_version = Struct(
    "xenpf_pcpu_version",
    ("xen_cpuid", u32),
    ("max_present", u32),
    ("vendor_id", char * 12),
    ("family", u32),
    ("model", u32),
    ("stepping", u32),
)

xenpf_cpu_ol = Struct("xenpf_cpu_ol", ("cpuid", u32))

xenpf_symdata = Struct(
    "xenpf_symdata",
    ("namelen", u32),
    ("symnum", u32),
    ("name", handle),
    ("address", u64),
    ("type", char),
)

xen_platform_op = Struct(
    "xen_platform_op",
    ("cmd", u32),
    ("interface_version", u32),
    (
        "u",
        Union(
            "u",
            ("settime", xenpf_settime64),
            ("settime32", xenpf_settime32),
            ("settime64", xenpf_settime64),
            ("enter_acpi_sleep", xenpf_enter_acpi_sleep),
            ("change_freq", xenpf_change_freq),
            ("getidletime", xenpf_getidletime),
            ("pcpu_info", xenpf_pcpuinfo),
            ("pcpu_version", xenpf_pcpu_version),
            ("cpu_ol", xenpf_cpu_ol),
            ("symdata", xenpf_symdata),
            ("pad", u8 * 128),
        ),
    ),
)

XENPF_NAMES = number_names(globals(), "XENPF_", keep=False)
