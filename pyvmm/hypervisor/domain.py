"""A domain: what Xen keeps for it. Behaviour lives in the subsystem modules; here is the data and its life cycle state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.hypervisor.event_channel import EventChannels
    from pyvmm.hypervisor.grant_table import GrantTable
    from pyvmm.hypervisor.hypervisor import Hypervisor
    from pyvmm.hypervisor.vcpu import VCpu


@dataclass
class Counters:
    """What a domain did, exactly. `instructions` and `rep_iterations` are retired ones; a native domain has none."""

    instructions: int = 0
    rep_iterations: int = 0
    hypercalls: dict[str, int] = field(default_factory=dict)
    exceptions: int = 0
    events_sent: int = 0
    events_received: int = 0
    switches: int = 0


class Domain:
    """One domain. `privileged` is dom0's right to act on others and on the host (Xen's is_control_domain + hardware domain)."""

    def __init__(self, hv: Hypervisor, domid: int, *, name: str = "", privileged: bool = False, native: bool = False) -> None:
        self.hv = hv
        self.domid = domid
        self.name = name
        self.privileged = privileged
        self.native = native
        self.handle = bytes(16)
        self.vcpus: list[VCpu] = []
        self.counters = Counters()
        # Memory: `max_pages` limits what it may own (Xen's d->max_pages); the frame table counts `tot_pages`.
        self.max_pages = 0
        self.tot_pages = 0
        self.shared_info_mfn = 0
        self.perdomain_l3_mfn = 0  # L3 of L4 slot 260: its vCPUs' GDT and LDT windows
        self.vm_assist = 0
        self.ioports: set[range] = set()
        # Set by the subsystems when the domain is created:
        self.evtchn: EventChannels
        self.grants: GrantTable
        # Life cycle: paused > 0 keeps all vCPUs off the CPU. shutdown_code is None while it runs.
        self.pause_count = 0
        self.creation_finished = False
        self.shutdown_code: int | None = None
        self.crash_report: str | None = None
        self.dying = False
        self.time_offset_seconds = 0
        self.target: Domain | None = None

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
