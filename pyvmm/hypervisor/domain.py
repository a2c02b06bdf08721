"""A domain: what Xen keeps for it. Behaviour lives in the subsystem modules; here is the data and its life cycle
state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyvmm.hypervisor.cpu_policy import OF_A_DOMAIN
from pyvmm.hypervisor.rangeset import RangeSet

if TYPE_CHECKING:
    from pyvmm.hypervisor.crash import Symbols
    from pyvmm.hypervisor.event_channel import EventChannels
    from pyvmm.hypervisor.grant_table import GrantTable
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu


@dataclass
class Counters:
    """What a domain did, exactly. `instructions` and `rep_iterations` are retired ones; a native domain has none."""

    instructions: int = 0
    rep_iterations: int = 0
    hypercalls: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    exceptions: int = 0
    events_sent: int = 0
    events_received: int = 0
    grants_mapped: int = 0  # of other domains' entries, by this one; so are those below
    grants_unmapped: int = 0
    grants_copied: int = 0  # GNTTABOP_copy operations that were done, and their bytes
    grant_bytes: int = 0
    grants_transferred: int = 0
    switches: int = 0


class Domain:
    """One domain. `privileged` is dom0's right to act on others and on the host (Xen's is_control_domain + hardware
    domain)."""

    def __init__(
        self, hv: Hypervisor, domid: int, *, name: str = "", privileged: bool = False, native: bool = False
    ) -> None:
        self.hv = hv
        self.domid = domid
        self.serial = 0  # no other domain of this host ever has the same
        self.name = name
        self.privileged = privileged
        self.xenstore = False  # XEN_DOMCTL_CDF_xs_domain: it may look at everybody's ports and grants
        self.native = native
        self.handle = bytes(16)
        self.max_vcpus = 1
        self.vcpus: list[VCpu] = []
        self.counters = Counters()
        # Memory: `max_pages` limits what it may own (Xen's d->max_pages); the frame table counts `tot_pages`.
        self.max_pages = 0
        self.tot_pages = 0
        self.outstanding_pages = 0  # XENMEM_claim_pages: set aside for it, not yet allocated
        self.memory_map: list[bytes] = []  # e820 entries, as XENMEM_set_memory_map gave them
        self.cpu_policy = OF_A_DOMAIN  # leaves of CPUID; replaced as a whole, never changed in place
        self.shared_info_mfn = 0
        self.device_page_mfn = 0  # devctl.py
        self.perdomain_l3_mfn = 0  # L3 of L4 slot 260: its vCPUs' GDT and LDT windows
        self.vm_assist = 0
        # What of the host's hardware it may use: I/O ports, frames of device memory, interrupts
        # (XEN_DOMCTL_*_permission).
        self.ioports = RangeSet()
        self.iomem = RangeSet()
        self.irqs = RangeSet()
        self.pci_config_address = 0  # what the domain wrote to port 0xcf8
        self.cmos_index = 0  # and to port 0x70
        # physdev.py: pirq -> interrupt pin (-1: allocated only); the page for EOI flags, if registered.
        self.pirqs: dict[int, int] = {}
        self.pirq_eoi_mfn = 0
        self.pirq_auto_unmask = False
        # Set by the subsystems when the domain is created:
        self.evtchn: EventChannels
        self.grants: GrantTable
        # Life cycle: paused > 0 keeps all vCPUs off the CPU. shutdown_code is None while it runs.
        self.pause_count = 0
        self.creation_finished = False
        self.shutdown_code: int | None = None
        self.latched_shutdown_code: int | None = None  # SCHEDOP_shutdown_code: the reason a later shutdown will have
        self.watchdogs: set[int] = set()  # those of its watchdog timers that are in use (1, 2)
        self.crash_report: str | None = None
        self.symbols: Symbols | None = None  # of the image it was built from, for reports
        self.dying = False
        self.time_offset_seconds = 0
        self.sched_weight = 256  # kept for the toolstack; the policy does not look at it
        self.tsc_mode = 0  # as XEN_DOMCTL_settscinfo gave it; the TSC itself is the same in every mode
        self.tsc_khz = 0
        self.tsc_offset = 0
        self.tsc_incarnation = 0
        self.debugger_attached = False
        self.target: Domain | None = None
        self.packed_info: tuple[dict[str, Any] | None, bytes] = None, b""  # domctl.packed_info

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    @property
    def shared_info_pa(self) -> int:
        """Physical address of the shared_info page."""
        return self.shared_info_mfn << 12

    @property
    def is_shut_down(self) -> bool:
        """It has shut down or crashed, and waits for its toolstack to collect it."""
        return self.shutdown_code is not None
