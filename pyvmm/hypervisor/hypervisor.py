"""The hypervisor itself: what exists once per host, and the loop that runs vCPUs.

The loop: fire due timers; ask the policy for a vCPU; run it until its slice ends or it gives up the CPU. When nobody can run: offer
input from outside (`idle_sources`), else skip the clock to the next timer, else it is a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from pyvmm.hypervisor import cpu, trace
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor.errors import DomainCrash
from pyvmm.hypervisor.frames import FrameTable
from pyvmm.hypervisor.mmu import Mmu
from pyvmm.hypervisor.scheduler import SLICE, Policy, RoundRobin, Timers
from pyvmm.hypervisor.vcpu import Runstate, VCpu
from pyvmm.hypervisor.xen_area import XenArea
from pyvmm.machine import BudgetUsed, Machine, Stopped

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain


class Outcome(Enum):
    """Why `Hypervisor.run` came back."""

    DONE = "done"  # `until` said so
    DEADLOCK = "deadlock"  # no vCPU can run, no timer is set, no input is left
    BUDGET = "budget"  # the instruction limit was reached, exactly


class Hypervisor:
    """One per machine. `trace` carries its events; `domains` maps domid to Domain, in creation order."""

    def __init__(self, machine: Machine, *, policy: Policy | None = None) -> None:
        self.machine = machine
        self.trace = trace.Bus(lambda: machine.now)
        self.domains: dict[int, Domain] = {}
        self.timers = Timers()
        self.policy: Policy = policy or RoundRobin()
        self.current: VCpu | None = None
        self.last: VCpu | None = None
        # Set by a handler that wants the run loop to look again (a vCPU blocked, woke, yielded, a timer was set).
        self.leave = False
        # Called in order when no vCPU can run; true means "something changed, look again".
        self.idle_sources: list[Callable[[], bool]] = []
        # Called in order at every console write: (domain, data).
        self.console_sinks: list[Callable[[Domain, bytes], None]] = []
        self.frames = FrameTable(self)
        self.xen_area = XenArea(self)
        self.mmu = Mmu(self)
        machine.on_syscall = self._on_syscall
        machine.on_cpuid = lambda leaf, subleaf: cpu.native_cpuid(self, leaf, subleaf)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], max_instructions: int | None = None) -> Outcome:
        """Run all domains until `until()` is true, nothing can ever run again, or `max_instructions` more have retired."""
        machine = self.machine
        limit = None if max_instructions is None else machine.instructions + max_instructions
        while True:
            self.timers.fire(machine.now)
            if until():
                return Outcome.DONE
            if limit is not None and machine.instructions >= limit:
                return Outcome.BUDGET
            runnable = [v for d in self.domains.values() for v in d.vcpus if v.runnable]
            if not runnable:
                if any([source() for source in self.idle_sources]):
                    continue
                deadline = self.timers.next()
                if deadline is None:
                    return Outcome.DEADLOCK
                machine.skip_to(deadline)
                continue
            v = self.policy.pick(runnable, self.last)
            self._run_slice(v, limit)

    def _run_slice(self, v: VCpu, limit: int | None) -> None:
        domain, machine = v.domain, self.machine
        if self.last is not v:
            domain.counters.switches += 1
            if self.trace.on:
                last = self.last
                self.trace.emit(
                    trace.SWITCH, domain.domid, v.vcpu_id, last.domain.domid if last else -1, last.vcpu_id if last else -1
                )
            self.last = v
        self.current = v
        self.leave = False
        set_runstate(v, Runstate.RUNNING)
        instructions, iterations = machine.instructions, machine.rep_iterations
        try:
            if v.native is not None:
                v.native.step()
            else:
                self._run_guest(v, limit)
        except DomainCrash as crash:
            self.crash(domain, crash.cause, v)
        finally:
            domain.counters.instructions += machine.instructions - instructions
            domain.counters.rep_iterations += machine.rep_iterations - iterations
            self.current = None
            if v.runstate == Runstate.RUNNING:
                set_runstate(v, Runstate.RUNNABLE if v.runnable else Runstate.OFFLINE if v.down else Runstate.BLOCKED)

    def _run_guest(self, v: VCpu, limit: int | None) -> None:
        machine = self.machine
        end = machine.now + SLICE
        assert v.context is not None
        machine.switch(v.context)
        while True:
            cpu.before_guest(v)
            if not v.runnable or self.leave:
                return
            now = machine.now
            budget = end - now
            deadline = self.timers.next()
            if deadline is not None:
                budget = min(budget, deadline - now)
            if limit is not None:
                budget = min(budget, limit - machine.instructions)
            if budget <= 0:
                return
            reason = machine.run(budget)
            if isinstance(reason, BudgetUsed):
                return
            if not isinstance(reason, Stopped):
                cpu.handle_exit(v, reason)

    def _on_syscall(self, rax: int, rdi: int, rsi: int, rdx: int, r10: int, r8: int) -> int | None:
        """The machine's syscall callback: most hypercalls are served here without leaving the guest's run."""
        v = self.current
        assert v is not None
        if v.user_mode or rax & 0xFFFFFFFF in cpu.LEAVING_HYPERCALLS:
            return None
        result = hc.call(v, rax & 0xFFFFFFFF, rdi, rsi, rdx, r10, r8)
        # A deliverable upcall, a lost CPU or a dead domain are dealt with by the run loop.
        if self.leave or not v.runnable or self.machine.ram.read_u16(v.info_pa) & 0xFF01 == 0x0001:
            self.machine.request_stop()
        return result & 0xFFFF_FFFF_FFFF_FFFF

    # -- life cycle ----------------------------------------------------------------------------------------------

    def shutdown(self, domain: Domain, code: int) -> None:
        """The domain shuts down with SHUTDOWN_* `code`; all its vCPUs stop, its toolstack is told (VIRQ_DOM_EXC)."""
        if domain.shutdown_code is not None:
            return
        domain.shutdown_code = code
        self.leave = True
        if self.trace.on:
            self.trace.emit(trace.DOMAIN_SHUTDOWN, domain.domid, 0, code)
        self.on_shutdown(domain)

    def crash(self, domain: Domain, cause: str, v: VCpu | None = None) -> None:
        """Crash `domain` (SHUTDOWN_crash), keeping a report of the state of `v`, the vCPU that did it."""
        if domain.shutdown_code is not None:
            return
        domain.crash_report = cpu.crash_report(v, cause) if v is not None else cause
        if self.trace.on:
            self.trace.emit(trace.DOMAIN_CRASH, domain.domid, v.vcpu_id if v else 0, cause)
        self.shutdown(domain, 3)

    def on_shutdown(self, domain: Domain) -> None:
        """Raise VIRQ_DOM_EXC in the control domain, as Xen does for its toolstack."""
        from pyvmm.hypervisor import event_channel

        event_channel.send_global_virq(self, event_channel.VIRQ_DOM_EXC)


def set_runstate(v: VCpu, state: Runstate) -> None:
    """Account the time since the last change to the state that ends, and enter `state`."""
    now = v.hv.machine.now
    v.runstate_times[v.runstate] += now - v.runstate_entered
    v.runstate = state
    v.runstate_entered = now


def block(v: VCpu) -> None:
    """Take `v` off the CPU until `wake`."""
    if not v.blocked:
        v.blocked = True
        v.hv.leave = True
        if v.hv.trace.on:
            v.hv.trace.emit(trace.BLOCK, v.domain.domid, v.vcpu_id)


def wake(v: VCpu) -> None:
    """End `v`'s block or poll, if it is in one."""
    if v.blocked:
        v.blocked = False
        v.poll_ports = None
        if v.runstate == Runstate.BLOCKED:
            set_runstate(v, Runstate.RUNNABLE)
        if v.hv.trace.on:
            v.hv.trace.emit(trace.WAKE, v.domain.domid, v.vcpu_id)
