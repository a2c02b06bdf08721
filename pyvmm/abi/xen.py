"""Numbers and structures every guest needs: hypercalls, MMU operations, start of day, the shared info page.

Source: Xen 4.17 public/xen.h.
"""

from pyvmm.abi.arch_x86_64 import arch_shared_info, arch_vcpu_info
from pyvmm.abi.layout import (
    Struct,
    Union,
    char,
    handle,
    number_names,
    s8,
    u8,
    u16,
    u32,
    u64,
)

# Hypercall numbers (`__HYPERVISOR_*` in the header).
HYPERVISOR_set_trap_table = 0
HYPERVISOR_mmu_update = 1
HYPERVISOR_set_gdt = 2
HYPERVISOR_stack_switch = 3
HYPERVISOR_set_callbacks = 4
HYPERVISOR_fpu_taskswitch = 5
HYPERVISOR_sched_op_compat = 6
HYPERVISOR_platform_op = 7
HYPERVISOR_set_debugreg = 8
HYPERVISOR_get_debugreg = 9
HYPERVISOR_update_descriptor = 10
HYPERVISOR_memory_op = 12
HYPERVISOR_multicall = 13
HYPERVISOR_update_va_mapping = 14
HYPERVISOR_set_timer_op = 15
HYPERVISOR_event_channel_op_compat = 16
HYPERVISOR_xen_version = 17
HYPERVISOR_console_io = 18
HYPERVISOR_physdev_op_compat = 19
HYPERVISOR_grant_table_op = 20
HYPERVISOR_vm_assist = 21
HYPERVISOR_update_va_mapping_otherdomain = 22
HYPERVISOR_iret = 23
HYPERVISOR_vcpu_op = 24
HYPERVISOR_set_segment_base = 25
HYPERVISOR_mmuext_op = 26
HYPERVISOR_xsm_op = 27
HYPERVISOR_nmi_op = 28
HYPERVISOR_sched_op = 29
HYPERVISOR_callback_op = 30
HYPERVISOR_xenoprof_op = 31
HYPERVISOR_event_channel_op = 32
HYPERVISOR_physdev_op = 33
HYPERVISOR_hvm_op = 34
HYPERVISOR_sysctl = 35
HYPERVISOR_domctl = 36
HYPERVISOR_kexec_op = 37
HYPERVISOR_tmem_op = 38
HYPERVISOR_argo_op = 39
HYPERVISOR_xenpmu_op = 40
HYPERVISOR_dm_op = 41
HYPERVISOR_hypfs_op = 42
HYPERVISOR_arch_0 = 48
HYPERVISOR_arch_1 = 49
HYPERVISOR_arch_2 = 50
HYPERVISOR_arch_3 = 51
HYPERVISOR_arch_4 = 52
HYPERVISOR_arch_5 = 53
HYPERVISOR_arch_6 = 54
HYPERVISOR_arch_7 = 55

# Virtual interrupts; what each is for is in VIRQ_TEXT.
VIRQ_TIMER = 0
VIRQ_DEBUG = 1
VIRQ_CONSOLE = 2
VIRQ_DOM_EXC = 3
VIRQ_TBUF = 4
VIRQ_DEBUGGER = 6
VIRQ_XENOPROF = 7
VIRQ_CON_RING = 8
VIRQ_PCPU_STATE = 9
VIRQ_MEM_EVENT = 10
VIRQ_ARGO = 11
VIRQ_ENOMEM = 12
VIRQ_XENPMU = 13
VIRQ_ARCH_0 = 16
VIRQ_ARCH_1 = 17
VIRQ_ARCH_2 = 18
VIRQ_ARCH_3 = 19
VIRQ_ARCH_4 = 20
VIRQ_ARCH_5 = 21
VIRQ_ARCH_6 = 22
VIRQ_ARCH_7 = 23
NR_VIRQS = 24

# The two low bits of mmu_update.ptr.
MMU_NORMAL_PT_UPDATE = 0
MMU_MACHPHYS_UPDATE = 1
MMU_PT_UPDATE_PRESERVE_AD = 2
MMU_PT_UPDATE_NO_TRANSLATE = 3

# mmuext_op.cmd.
MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20

# Flags of update_va_mapping: what to flush, and where.
UVMF_NONE = 0 << 0
UVMF_TLB_FLUSH = 1 << 0
UVMF_INVLPG = 2 << 0
UVMF_FLUSHTYPE_MASK = 3 << 0
UVMF_MULTI = 0 << 2
UVMF_LOCAL = 0 << 2
UVMF_ALL = 1 << 2

# console_io commands.
CONSOLEIO_write = 0
CONSOLEIO_read = 1

# vm_assist commands and types.
VMASST_CMD_enable = 0
VMASST_CMD_disable = 1
VMASST_TYPE_4gb_segments = 0
VMASST_TYPE_4gb_segments_notify = 1
VMASST_TYPE_writable_pagetables = 2
VMASST_TYPE_pae_extended_cr3 = 3
VMASST_TYPE_architectural_iopl = 4
VMASST_TYPE_runstate_update_flag = 5
VMASST_TYPE_m2p_strict = 32

# Reserved domain numbers.
DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
DOMID_COW = 0x7FF3
DOMID_INVALID = 0x7FF4
DOMID_IDLE = 0x7FFF
DOMID_MASK = 0x7FFF

# vcpu_time_info.flags.
XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1

# start_info.flags.
MAX_GUEST_CMDLINE = 1024
SIF_PRIVILEGED = 1 << 0
SIF_INITDOMAIN = 1 << 1
SIF_MULTIBOOT_MOD = 1 << 2
SIF_MOD_START_PFN = 1 << 3
SIF_VIRT_P2M_4TOOLS = 1 << 4
SIF_PM_MASK = 0xFF << 8

# dom0_vga_console_info.video_type.
XEN_VGATYPE_TEXT_MODE_3 = 0x03
XEN_VGATYPE_VESA_LFB = 0x23
XEN_VGATYPE_EFI_LFB = 0x70

mmuext_op = Struct(
    "mmuext_op",
    ("cmd", u32),
    ("arg1", Union("arg1", ("mfn", u64), ("linear_addr", u64))),
    ("arg2", Union("arg2", ("nr_ents", u32), ("vcpumask", handle), ("src_mfn", u64))),
)
"""One element of mmuext_op's array; which members count depends on the command."""

mmu_update = Struct("mmu_update", ("ptr", u64), ("val", u64))
"""One element of mmu_update's array: machine address of a page-table entry (its low two bits say what to do) and
its new value."""

multicall_entry = Struct(
    "multicall_entry",
    ("op", u64),
    ("result", u64),
    ("args", u64 * 6),
)
"""One call of a multicall. `result` is written by Xen."""

vcpu_time_info = Struct(
    "vcpu_time_info",
    ("version", u32),
    ("pad0", u32),
    ("tsc_timestamp", u64),
    ("system_time", u64),
    ("tsc_to_system_mul", u32),
    ("tsc_shift", s8),
    ("flags", u8),
    ("pad1", u8 * 2),
)
"""The clock as seen by one vCPU: nanoseconds = system_time + ((tsc - tsc_timestamp) << tsc_shift) *
tsc_to_system_mul >> 32. `version` is odd while Xen is writing."""

vcpu_info = Struct(
    "vcpu_info",
    ("evtchn_upcall_pending", u8),
    ("evtchn_upcall_mask", u8),
    ("evtchn_pending_sel", u64),
    ("arch", arch_vcpu_info),
    ("time", vcpu_time_info),
)
"""A vCPU's event flags and clock, in the shared info page or where VCPUOP_register_vcpu_info put it."""

shared_info = Struct(
    "shared_info",
    ("vcpu_info", vcpu_info * 32),
    ("evtchn_pending", u64 * 64),
    ("evtchn_mask", u64 * 64),
    ("wc_version", u32),
    ("wc_sec", u32),
    ("wc_nsec", u32),
    ("wc_sec_hi", u32),
    ("arch", arch_shared_info),
)
"""The page that Xen shares with a domain: events of the 2-level ABI, wall clock, and what the guest tells its
tools."""

start_info = Struct(
    "start_info",
    ("magic", char * 32),
    ("nr_pages", u64),
    ("shared_info", u64),
    ("flags", u32),
    ("store_mfn", u64),
    ("store_evtchn", u32),
    (
        "console",
        Union(
            "console",
            ("domU", Struct("domU", ("mfn", u64), ("evtchn", u32))),
            ("dom0", Struct("dom0", ("info_off", u32), ("info_size", u32))),
        ),
    ),
    ("pt_base", u64),
    ("nr_pt_frames", u64),
    ("mfn_list", u64),
    ("mod_start", u64),
    ("mod_len", u64),
    ("cmd_line", char * 1024),
    ("first_p2m_pfn", u64),
    ("nr_p2m_frames", u64),
)
"""The page that RSI points to when a PV kernel starts. `shared_info` is a machine address in bytes; `console` is
`.domU` unless SIF_INITDOMAIN is set."""

xen_multiboot_mod_list = Struct(
    "xen_multiboot_mod_list",
    ("mod_start", u32),
    ("mod_end", u32),
    ("cmdline", u32),
    ("pad", u32),
)
"""One module, where SIF_MULTIBOOT_MOD is set."""

dom0_vga_console_info = Struct(
    "dom0_vga_console_info",
    ("video_type", u8),
    (
        "u",
        Union(
            "u",
            (
                "text_mode_3",
                Struct(
                    "text_mode_3",
                    ("font_height", u16),
                    ("cursor_x", u16),
                    ("cursor_y", u16),
                    ("rows", u16),
                    ("columns", u16),
                ),
            ),
            (
                "vesa_lfb",
                Struct(
                    "vesa_lfb",
                    ("width", u16),
                    ("height", u16),
                    ("bytes_per_line", u16),
                    ("bits_per_pixel", u16),
                    ("lfb_base", u32),
                    ("lfb_size", u32),
                    ("red_pos", u8),
                    ("red_size", u8),
                    ("green_pos", u8),
                    ("green_size", u8),
                    ("blue_pos", u8),
                    ("blue_size", u8),
                    ("rsvd_pos", u8),
                    ("rsvd_size", u8),
                    ("gbl_caps", u32),
                    ("mode_attrs", u16),
                    ("pad", u16),
                    ("ext_lfb_base", u32),
                ),
            ),
        ),
    ),
)
"""The hardware domain's console, at `start_info.console.dom0.info_off`."""

xen_uuid_t = Struct("xen_uuid_t", ("a", u8 * 16))
"""A UUID, most significant byte first."""

xenctl_bitmap = Struct("xenctl_bitmap", ("bitmap", handle), ("nr_bits", u32))
"""A bitmap in the caller's memory, lowest bit first."""

HYPERCALL_NAMES = number_names(globals(), "HYPERVISOR_", keep=False)
"""Hypercall number to name (`32: "event_channel_op"`)."""

VIRQ_NAMES = number_names(globals(), "VIRQ_", keep=False)
MMUEXT_NAMES = number_names(globals(), "MMUEXT_", keep=False)

VIRQ_TEXT = {
    VIRQ_TIMER: "one-shot or periodic timer of a vCPU",
    VIRQ_DEBUG: "asks the guest to dump its state",
    VIRQ_CONSOLE: "input for the hypervisor's emergency console",
    VIRQ_DOM_EXC: "a domain was shut down, crashed or destroyed",
    VIRQ_TBUF: "the trace buffer has records",
    VIRQ_DEBUGGER: "a domain stopped for its debugger",
    VIRQ_XENOPROF: "profiling buffer overflow",
    VIRQ_CON_RING: "the hypervisor's console ring has new bytes",
    VIRQ_PCPU_STATE: "a physical CPU went on or off line",
    VIRQ_MEM_EVENT: "a memory event happened",
    VIRQ_ARGO: "an Argo message or notification",
    VIRQ_ENOMEM: "the hypervisor is short of memory",
    VIRQ_XENPMU: "performance counter interrupt",
}
"""What each virtual interrupt tells, for people."""
