"""x86-64's part of the interface: selectors, Xen's address range, trap table, registers, vCPU state, CPUID leaves.

Source: Xen 4.17 public/arch-x86/xen.h, xen-x86_64.h and cpuid.h.
"""

from pyvmm.abi.layout import Struct, char, u8, u16, u32, u64

# Selectors of the flat segments in the part of the GDT that belongs to Xen.
FLAT_RING3_CS32 = 0xE023
FLAT_RING3_CS64 = 0xE033
FLAT_RING3_DS32 = 0xE02B
FLAT_RING3_DS64 = 0x0000
FLAT_RING3_SS32 = 0xE02B
FLAT_RING3_SS64 = 0xE02B
FLAT_KERNEL_DS64 = 0
FLAT_KERNEL_DS32 = 0xE02B
FLAT_KERNEL_DS = 0
FLAT_KERNEL_CS64 = 0xE033
FLAT_KERNEL_CS32 = 0xE023
FLAT_KERNEL_CS = 0xE033
FLAT_KERNEL_SS64 = 0xE02B
FLAT_KERNEL_SS32 = 0xE02B
FLAT_KERNEL_SS = 0xE02B
FLAT_USER_DS64 = 0
FLAT_USER_DS32 = 0xE02B
FLAT_USER_DS = 0
FLAT_USER_CS64 = 0xE033
FLAT_USER_CS32 = 0xE023
FLAT_USER_CS = 0xE033
FLAT_USER_SS64 = 0xE02B
FLAT_USER_SS32 = 0xE02B
FLAT_USER_SS = 0xE02B

# Xen's part of every address space, and the machine-to-physical table in it.
HYPERVISOR_VIRT_START = 0xFFFF800000000000
HYPERVISOR_VIRT_END = 0xFFFF880000000000
MACH2PHYS_VIRT_START = 0xFFFF800000000000
MACH2PHYS_VIRT_END = 0xFFFF804000000000
MACH2PHYS_NR_ENTRIES = 0x800000000

# set_segment_base: which base.
SEGBASE_FS = 0
SEGBASE_GS_USER = 1
SEGBASE_GS_KERNEL = 2
SEGBASE_GS_USER_SEL = 3

# iret_context.flags: the guest goes back with `sysret`, so RCX and R11 are not restored.
VGCF_in_syscall = 1 << 8
VGCF_IN_SYSCALL = VGCF_in_syscall

# Where Xen's part of the GDT starts.
FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_BYTE = 0xE000
FIRST_RESERVED_GDT_ENTRY = 0x1C00

# How many vcpu_info the shared info page has; later vCPUs must register their own.
XEN_LEGACY_MAX_VCPUS = 32

# vcpu_guest_context.flags; the first two also under older names.
VGCF_I387_VALID = 1 << 0
VGCF_IN_KERNEL = 1 << 2
VGCF_i387_valid = 1 << 0
VGCF_in_kernel = 1 << 2
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5

# xen_arch_domainconfig.misc_flags.
XEN_X86_MSR_RELAXED = 1 << 0
XEN_X86_MISC_FLAGS_MAX = 1

# CPUID leaves of the hypervisor.
XEN_CPUID_NO_SUBLEAF = 0xFFFFFFFF
XEN_CPUID_FIRST_LEAF = 0x40000000
XEN_CPUID_SIGNATURE_EBX = 0x566E6558
XEN_CPUID_SIGNATURE_ECX = 0x65584D4D
XEN_CPUID_SIGNATURE_EDX = 0x4D4D566E
XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1 << 0
XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xFF << 0
XEN_CPUID_MAX_NUM_LEAVES = 5


def XEN_CPUID_LEAF(index: int) -> int:
    """The `index`th CPUID leaf of the hypervisor."""
    return XEN_CPUID_FIRST_LEAF + index


def TI_GET_DPL(flags: int) -> int:
    """The least privileged ring that may raise the trap by `int n`, from `trap_info.flags`."""
    return flags & 3


def TI_GET_IF(flags: int) -> int:
    """Nonzero if events are masked when the trap is delivered, from `trap_info.flags`."""
    return flags & 4


iret_context = Struct(
    "iret_context",
    ("rax", u64),
    ("r11", u64),
    ("rcx", u64),
    ("flags", u64),
    ("rip", u64),
    ("cs", u64),
    ("rflags", u64),
    ("rsp", u64),
    ("ss", u64),
)
"""What HYPERVISOR_iret takes from the guest's kernel stack."""

cpu_user_regs = Struct(
    "cpu_user_regs",
    ("r15", u64),
    ("r14", u64),
    ("r13", u64),
    ("r12", u64),
    ("rbp", u64),
    ("rbx", u64),
    ("r11", u64),
    ("r10", u64),
    ("r9", u64),
    ("r8", u64),
    ("rax", u64),
    ("rcx", u64),
    ("rdx", u64),
    ("rsi", u64),
    ("rdi", u64),
    ("error_code", u32),
    ("entry_vector", u32),
    ("rip", u64),
    ("cs", u16),
    ("_pad0", u16 * 1),
    ("saved_upcall_mask", u8),
    ("_pad1", u8 * 3),
    ("rflags", u64),
    ("rsp", u64),
    ("ss", u16),
    ("_pad2", u16 * 3),
    ("es", u16),
    ("_pad3", u16 * 3),
    ("ds", u16),
    ("_pad4", u16 * 3),
    ("fs", u16),
    ("_pad5", u16 * 3),
    ("gs", u16),
    ("_pad6", u16 * 3),
)
"""Registers as domctl and vcpu_op exchange them. Under older names some members are narrower; these are the full
ones."""

arch_vcpu_info = Struct("arch_vcpu_info", ("cr2", u64), ("pad", u64))
"""The fault address of a vCPU's last page fault."""

trap_info = Struct(
    "trap_info",
    ("vector", u8),
    ("flags", u8),
    ("cs", u16),
    ("address", u64),
)
"""One entry of set_trap_table. A zero address ends the table."""

vcpu_guest_context = Struct(
    "vcpu_guest_context",
    ("fpu_ctxt", Struct("fpu_ctxt", ("x", char * 512))),
    ("flags", u64),
    ("user_regs", cpu_user_regs),
    ("trap_ctxt", trap_info * 256),
    ("ldt_base", u64),
    ("ldt_ents", u64),
    ("gdt_frames", u64 * 16),
    ("gdt_ents", u64),
    ("kernel_ss", u64),
    ("kernel_sp", u64),
    ("ctrlreg", u64 * 8),
    ("debugreg", u64 * 8),
    ("event_callback_eip", u64),
    ("failsafe_callback_eip", u64),
    ("syscall_callback_eip", u64),
    ("vm_assist", u64),
    ("fs_base", u64),
    ("gs_base_kernel", u64),
    ("gs_base_user", u64),
)
"""The whole state of a PV vCPU, for VCPUOP_initialise and XEN_DOMCTL_setvcpucontext. ctrlreg[3] and [1] hold the
frame numbers of the kernel and user page tables, as cr3 values."""

arch_shared_info = Struct(
    "arch_shared_info",
    ("max_pfn", u64),
    ("pfn_to_mfn_frame_list_list", u64),
    ("nmi_reason", u64),
    ("p2m_cr3", u64),
    ("p2m_vaddr", u64),
    ("p2m_generation", u64),
)
"""Where the guest keeps its physical-to-machine table, for the tools that save it."""

xen_arch_domainconfig = Struct("xen_arch_domainconfig", ("emulation_flags", u32), ("misc_flags", u32))

xen_cpuid_leaf = Struct(
    "xen_cpuid_leaf",
    ("leaf", u32),
    ("subleaf", u32),
    ("a", u32),
    ("b", u32),
    ("c", u32),
    ("d", u32),
)

xen_msr_entry = Struct(
    "xen_msr_entry",
    ("idx", u32),
    ("flags", u32),
    ("val", u64),
)
