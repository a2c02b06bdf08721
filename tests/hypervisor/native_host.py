"""A host with native domains, for tests of single hypercalls: no guest code, but the real hypercall table, memory and
scheduler."""

from __future__ import annotations

from typing import Any

from pyvmm.abi import grant_table as gnt
from pyvmm.abi import xen
from pyvmm.abi.layout import Struct
from pyvmm.hypervisor import subsystems  # noqa: F401 (registers the hypercalls)
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.hypervisor import Hypervisor
from pyvmm.hypervisor.lifecycle import add_vcpu, create_native
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.trace import Event
from pyvmm.hypervisor.vcpu import VCpu
from pyvmm.machine import Machine

PAGE = 4096
MEMORY = 16 << 20
WILD = 0x7F00_0000_0000  # an address nothing is mapped at


class Guest:
    """One native domain with shorthands for its hypercalls."""

    def __init__(self, hv: Hypervisor, domid: int, *, privileged: bool = False, pages: int = 64) -> None:
        self.hv = hv
        self.domain: Domain
        self.api: Native
        self.domain, self.api = create_native(hv, domid, name=f"test{domid}", privileged=privileged, memory_pages=pages)
        self.domid = domid
        self.pages = pages

    @property
    def v(self) -> VCpu:
        """Its first vCPU."""
        return self.domain.vcpus[0]

    def call(self, number: int, *args: int) -> int:
        """A hypercall."""
        return self.api.hypercall(number, *args)

    def op(self, number: int, cmd: int, struct: Struct, **values: Any) -> tuple[int, Any]:
        """A hypercall (cmd, structure): its result and the structure afterwards."""
        va = self.api.scratch(struct.pack(**values))
        result = self.call(number, cmd, va)
        return result, struct.unpack(self.api.read(va, struct.size))

    def evtchn(self, cmd: int, struct: Struct, **values: Any) -> tuple[int, Any]:
        """event_channel_op."""
        return self.op(xen.HYPERVISOR_event_channel_op, cmd, struct, **values)

    def sched(self, cmd: int, struct: Struct, **values: Any) -> int:
        """sched_op."""
        return self.op(xen.HYPERVISOR_sched_op, cmd, struct, **values)[0]

    def grant(self, cmd: int, struct: Struct, **values: Any) -> tuple[int, Any]:
        """grant_table_op on one structure."""
        va = self.api.scratch(struct.pack(**values))
        result = self.call(xen.HYPERVISOR_grant_table_op, cmd, va, 1)
        return result, struct.unpack(self.api.read(va, struct.size))

    def mfn(self, va: int) -> int:
        """The machine frame at `va`."""
        space: Any = self.v.space
        mfn: int = space.pages[va // PAGE][0]
        return mfn

    def write_entry(self, ref: int, flags: int, domid: int, mfn: int) -> None:
        """Write a version 1 grant entry as the guest does."""
        pa = self.domain.grants.entry_pa(ref)
        self.hv.machine.ram.write(pa, gnt.grant_entry_v1.pack(flags=flags, domid=domid, frame=mfn))

    def entry_flags(self, ref: int) -> int:
        """The flags of a grant entry as the guest reads them."""
        return self.hv.machine.ram.read_u16(self.domain.grants.entry_pa(ref))

    def info(self) -> Any:
        """Its vcpu_info."""
        return xen.vcpu_info.unpack(self.hv.machine.ram.read(self.v.info_pa, xen.vcpu_info.size))

    def shared(self) -> Any:
        """Its shared_info."""
        pa = self.domain.shared_info_pa
        return xen.shared_info.unpack(self.hv.machine.ram.read(pa, xen.shared_info.size))

    def set_mask(self, port: int, on: bool = True) -> None:
        """Mask or unmask a port by a plain store."""
        pa = self.domain.shared_info_pa + xen.shared_info.evtchn_mask.offset + port // 8
        old = self.hv.machine.ram.read_u8(pa)
        bit = 1 << port % 8
        self.hv.machine.ram.write_u8(pa, old | bit if on else old & ~bit)

    def add_vcpu(self) -> VCpu:
        """One more vCPU, which is down and never runs."""
        return add_vcpu(self.domain)


class NativeHost:
    """dom0 (0, privileged) and two guests (1 and 2)."""

    def __init__(self, memory: int = MEMORY) -> None:
        self.hv = Hypervisor(Machine(memory=memory, engine="pure"))
        self.events: list[Event] = []
        self.dom0 = Guest(self.hv, 0, privileged=True)
        self.one = Guest(self.hv, 1)
        self.two = Guest(self.hv, 2)

    def watch(self) -> None:
        """Keep all events from now on."""
        self.hv.trace.listen(self.events.append)

    def names(self) -> list[str]:
        """The kinds of the events kept."""
        return [event.kind.name for event in self.events]
