"""A virtual CPU: the state Xen keeps beside the registers, and its way to guest memory.

An x86 vCPU (`context` is not None) runs on the machine's CPU at CPL 3, in guest kernel or guest user mode
(`user_mode`: a state of the hypervisor's, not a CPL). A native vCPU (`native` is not None) is a Python coroutine and
has a `NativeSpace` in place of page tables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyvmm.abi import errno
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.context import Pending
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.native import NativeTask
    from pyvmm.machine import Context


class Runstate(IntEnum):
    """RUNSTATE_* of public/vcpu.h."""

    RUNNING = 0
    RUNNABLE = 1
    BLOCKED = 2
    OFFLINE = 3


class Trap(NamedTuple):
    """One entry of the guest's trap table (struct trap_info)."""

    cs: int
    address: int
    dpl: int
    mask_events: bool


class Space(Protocol):
    """An address space as the hypervisor reads and writes it on a guest's behalf. Both raise XenError(EFAULT)."""

    def read(self, va: int, n: int) -> bytes:
        """`n` bytes at `va` that the guest could read."""

    def read_u32(self, va: int) -> int:
        """The 32-bit word at `va`, as `read`; what the commonest hypercalls are told."""

    def write(self, va: int, data: bytes) -> None:
        """Store `data` at `va`, which the guest could write."""


class VCpu:
    """One vCPU. Fields are grouped by the subsystem that owns them; other subsystems read them, the owner changes
    them."""

    def __init__(self, hv: Hypervisor, domain: Domain, vcpu_id: int) -> None:
        self.hv = hv
        self.domain = domain
        self.vcpu_id = vcpu_id
        self.order = (domain.serial, vcpu_id)  # order of creation: domain by domain
        self.listed = False  # it is in `hv.ready`
        self.space: Space  # set when the domain is built: page tables or a native p2m
        self.context: Context | None = None
        self.native: NativeTask | None = None
        # cpu.py and traps.py
        self.initialised = False
        self.user_mode = False
        self.traps: list[Trap | None] = [None] * 256
        self.event_callback = 0
        self.failsafe_callback = 0
        self.syscall_callback = 0
        self.syscall32_callback = 0
        self.sysenter_callback = 0
        self.failsafe_masks_events = False
        self.syscall_masks_events = False
        self.syscall32_masks_events = False
        self.sysenter_masks_events = False
        self.kernel_ss = 0
        self.kernel_sp = 0
        self.gs_base_kernel = 0  # GS base of the mode that is not running is kept in one of these
        self.gs_base_user = 0
        self.ctrlreg = [0] * 8  # cr0 (TS), cr4 as the guest set them
        self.debugreg = [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
        self.debug_io_enables = 0  # DR7's enable bits of I/O breakpoints, kept out of debugreg[7]
        self.iopl = 0  # 0 to 3, as PHYSDEVOP_set_iopl gives it
        self.iobitmap_va = 0  # PHYSDEVOP_set_iobitmap: guest address of the bitmap and how many ports it has
        self.iobitmap_ports = 0
        self.nmi_pending = False
        self.mcg_status = 0
        self.pending_context: Pending | None = None  # registers to be loaded when the vCPU gets the CPU
        self.in_multicall = False
        self.share = 0  # continuation.py: operations that a multicall may still do
        # What is left to do of a call within it: its new arguments.
        self.unfinished: tuple[int, ...] | None = None
        # Set by a hypercall that must change registers itself: called once the engine has stopped, before anything
        # else.
        self.after_stop: Callable[[], None] | None = None
        self.nmi_masked = False  # an NMI frame was pushed and no iret hypercall came since
        # mmu: frame numbers of the kernel's and the user's top-level page tables (0: none)
        self.l4_kernel = 0
        self.l4_user = 0
        # descriptors.py
        self.gdt_frames: list[int] = []
        self.gdt_entries = 0
        self.ldt_base = 0
        self.ldt_entries = 0
        # event_channel.py
        self.info_pa = 0  # physical address of its vcpu_info
        self.info_mfn = 0  # the guest's frame that holds it once VCPUOP_register_vcpu_info was used, else 0
        self.virq_to_port: dict[int, int] = {}
        self.poll_ports: list[int] | None = None
        # sched.py, vcpu_op
        self.blocked = False
        self.down = True  # VCPUOP_down or not yet up
        self.pause_count = 0
        self.runstate = Runstate.OFFLINE
        self.runstate_entered = 0
        self.runstate_times = [0, 0, 0, 0]
        self.runstate_va = 0  # guest address registered with VCPUOP_register_runstate_memory_area, 0: none
        self.time_va = 0
        self.timer_deadline = 0  # 0: not set
        self.timer: tuple[Hashable, Callable[[], None]] | None = None  # key and action of the one-shot timer
        # PV guests have a ticker of 100 Hz until they choose (xen/arch/x86/pv/domain.c: pv_vcpu_initialise).
        self.periodic_period = 0 if domain.native else 10_000_000
        self.periodic_last = 0
        self.time_stamp = -1  # the calibration its time record was written from

    def __repr__(self) -> str:
        return f"<VCpu d{self.domain.domid}v{self.vcpu_id}>"

    @property
    def runnable(self) -> bool:
        """Nothing keeps it off the CPU."""
        d = self.domain
        return not (
            self.blocked or self.down or self.pause_count or d.pause_count or d.shutdown_code is not None or d.dying
        )

    def copy_in(self, va: int, n: int) -> bytes:
        """`n` bytes of guest memory at `va`; XenError(EFAULT) where the guest itself could not read them."""
        return self.space.read(va, n)

    def copy_out(self, va: int, data: bytes) -> None:
        """Write `data` to guest memory at `va`; XenError(EFAULT) where the guest itself could not write it."""
        self.space.write(va, data)

    def copy_in_string(self, va: int, limit: int) -> bytes:
        """The NUL-terminated string at `va`, without the NUL; XenError(E2BIG) when none ends within `limit` bytes."""
        out = bytearray()
        while len(out) <= limit:
            n = min(0x1000 - (va + len(out)) % 0x1000, limit + 1 - len(out))
            if n <= 0:
                break
            chunk = self.space.read(va + len(out), n)
            end = chunk.find(b"\0")
            if end >= 0:
                return bytes(out + chunk[:end])
            out += chunk
        raise XenError(errno.E2BIG)
