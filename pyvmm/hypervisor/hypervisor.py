"""The hypervisor itself: what exists once per host, and the loop that runs vCPUs.

The loop: fire due timers; ask the policy for a vCPU; run it until its slice ends or it gives up the CPU. When nobody
can run: offer input from outside (`idle_sources`), else skip the clock to the next timer, else it is a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import TYPE_CHECKING

from pyvmm.hypervisor import cpu, runstate, time, trace
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor.bounce import CS64, SS
from pyvmm.hypervisor.cmos import Cmos
from pyvmm.hypervisor.console_ring import ConsoleRing
from pyvmm.hypervisor.errors import DomainCrash
from pyvmm.hypervisor.frames import FrameTable
from pyvmm.hypervisor.mmu import Mmu
from pyvmm.hypervisor.runstate import block, set_runstate, wake
from pyvmm.hypervisor.scheduler import SLICE, Policy, RoundRobin, Timers
from pyvmm.hypervisor.vcpu import Runstate, VCpu
from pyvmm.hypervisor.version import VersionInfo
from pyvmm.hypervisor.xen_area import XenArea
from pyvmm.machine import BudgetUsed, Machine, Stopped

if TYPE_CHECKING:
    from pyvmm.hypervisor.crash import Recent
    from pyvmm.hypervisor.domain import Domain

__all__ = ["Hypervisor", "Outcome", "block", "set_runstate", "wake"]


NEVER = 1 << 62  # ns: 146 years


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
        self.dying: list[Domain] = []  # those of them that are only kept for the frames that others still map
        self.last_domid = 0  # where the search for a free number goes on (lifecycle.free_domid)
        self._serial = 0
        self.timers = Timers()
        # The vCPUs that can run, by order of creation, and some that no longer can (see `_runnable`).
        self.ready: list[VCpu] = []
        self.policy: Policy = policy or RoundRobin()
        self.current: VCpu | None = None
        self.last: VCpu | None = None
        self.loaded: VCpu | None = None  # whose registers `cpu` made ready
        self.recent: Recent | None = None  # the last events, for crash reports, if somebody keeps them
        # What a handler may ask of the run loop, which otherwise lets the guest go on inside the engine. `leave`: give
        # up the CPU (the vCPU blocked, yielded, is paused or gone; another one woke). `look`: stop the engine and look
        # again, but keep the CPU.
        self.leave = False
        self.look = False
        self.run_end = 0  # virtual time at which the engine comes back by itself
        # Called in order when no vCPU can run; true means "something changed, look again".
        self.idle_sources: list[Callable[[], bool]] = []
        # Called in order at every console write: (domain, data).
        self.console_log = ConsoleRing()
        self.console_sinks: list[Callable[[Domain, bytes], None]] = [lambda domain, data: self.console_log.write(data)]
        self.console_input = bytearray()  # what CONSOLEIO_read takes from
        self.virq_handlers: dict[int, int] = {}  # global virq -> domid, where it is not the hardware domain (0)
        self.wallclock = (time.BOOT_EPOCH, 0)  # UTC seconds and nanoseconds at virtual time 0
        self.cmos = Cmos(time.BOOT_EPOCH)
        self.version = VersionInfo()
        self.idle_context = machine.new_context()  # on the CPU when the one that was is gone
        self.frames = FrameTable(self)
        self.xen_area = XenArea(self)
        self.mmu = Mmu(self)
        self._u64 = machine.ram.u64
        machine.sysret_selectors = (CS64, SS)  # Xen's way out of a hypercall (entry.S: restore_all_guest)
        machine.on_syscall = self._on_syscall
        machine.on_cpuid = lambda leaf, subleaf: cpu.native_cpuid(self, leaf, subleaf)

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], max_instructions: int | None = None) -> Outcome:
        """Run all domains until `until()` is true, nothing can ever run again, or `max_instructions` more have
        retired."""
        machine = self.machine
        limit = None if max_instructions is None else machine.instructions + max_instructions
        while True:
            self.timers.fire(machine.now)
            if until():
                return Outcome.DONE
            if limit is not None and machine.instructions >= limit:
                return Outcome.BUDGET
            runnable = self._runnable()
            if not runnable:
                changed = [source() for source in self.idle_sources]
                if any(changed):
                    continue
                deadline = self.timers.next()
                if deadline is None:
                    return Outcome.DEADLOCK
                machine.skip_to(deadline)
                continue
            v = self.policy.pick(runnable, self.last)
            self._run_slice(v, limit)

    def _runnable(self) -> list[VCpu]:
        """The vCPUs that can run now; the others go off the list until `runstate.list_ready` brings them back. (Most
        vCPUs of a busy host are blocked: they cost nothing here.)"""
        ready = self.ready
        runnable = [v for v in ready if v.runnable]
        if len(runnable) < len(ready):
            for v in ready:
                v.listed = v.runnable
            self.ready = runnable.copy()
        return runnable

    def others_ready(self, v: VCpu) -> bool:
        """Another vCPU than `v` can run."""
        return any(other is not v and other.runnable for other in self.ready)

    def next_serial(self) -> int:
        """A number for the next domain: how many there were before it."""
        self._serial += 1
        return self._serial

    def _run_slice(self, v: VCpu, limit: int | None) -> None:
        domain, machine = v.domain, self.machine
        self._switch_to(v)
        self.current = v
        self.leave = self.look = False
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
            # One that could go on stays "running" until another one gets the CPU: being asked again is no switch.
            if not v.runnable:
                runstate.stop_running(v)

    def _switch_to(self, v: VCpu) -> None:
        """Give the CPU to `v`: account for it, and bring the records up to date that both guests keep in their
        memory."""
        last = self.last
        if last is not v:
            if last is not None:
                runstate.stop_running(last)
            v.domain.counters.switches += 1
            if self.trace.on:
                self.trace.emit(
                    trace.SWITCH,
                    v.domain.domid,
                    v.vcpu_id,
                    last.domain.domid if last else -1,
                    last.vcpu_id if last else -1,
                )
            self.last = v
        if v.runstate != Runstate.RUNNING:
            set_runstate(v, Runstate.RUNNING)
            runstate.update_area(v)
            if v.periodic_period:
                time.periodic_work(v)
        time.update_vcpu_time(v)

    def _run_guest(self, v: VCpu, limit: int | None) -> None:
        machine, timers = self.machine, self.timers
        end = machine.now + SLICE
        assert v.context is not None
        machine.switch(v.context)
        while True:
            if v.after_stop is not None:
                action, v.after_stop = v.after_stop, None
                action()
            if self._loses_cpu(v):
                return
            self.look = False
            cpu.before_guest(v)
            if self._loses_cpu(v):
                return
            now = machine.now
            self.run_end = end
            deadline = timers.next()
            if deadline is not None and deadline < end:
                self.run_end = deadline
            budget = self.run_end - now
            if limit is not None:
                budget = min(budget, limit - machine.instructions)
            if budget > 0:
                reason = machine.run(budget)
                if not isinstance(reason, BudgetUsed):
                    if not isinstance(reason, Stopped):
                        cpu.handle_exit(v, reason)
                    continue
            now = machine.now
            if now >= end or (limit is not None and machine.instructions >= limit):
                return
            if now < self.run_end:
                return  # a string instruction of very many iterations was interrupted: time stands still, others go on
            timers.fire(now)

    def _loses_cpu(self, v: VCpu) -> bool:
        return self.leave or not v.runnable

    def _on_syscall(self, rax: int, rdi: int, rsi: int, rdx: int, r10: int, r8: int) -> int | None:
        """The machine's syscall callback: most hypercalls are served here without leaving the guest's run."""
        v = self.current
        assert v is not None
        if v.user_mode:
            return None
        result = hc.call(v, rax, rdi, rsi, rdx, r10, r8)
        # A lost CPU, a nearer timer or a deliverable upcall is dealt with by the run loop. (Whatever makes a vCPU not
        # runnable sets `leave`.)
        # The first 8 bytes of a vcpu_info: upcall_pending, upcall_mask, nothing.
        if self.leave or self.look or self._u64[v.info_pa >> 3] & 0xFF01 == 0x0001:
            self.machine.request_stop()
        return result & 0xFFFF_FFFF_FFFF_FFFF

    def set_timer(self, key: Hashable, deadline: int, action: Callable[[], None]) -> None:
        """Call `action()` at virtual time `deadline`, also when that is before the engine would come back by itself.

        A deadline from `NEVER` on is none: skipping an idle machine's clock there would wrap the guests' clocks.
        Guests pass 64 bits, which Xen takes for signed (s_time_t): 2^63 and more is in the past.
        """
        if deadline >> 63:
            deadline = 0
        elif deadline >= NEVER:
            self.timers.cancel(key)
            return
        self.timers.set(key, deadline, action)
        if deadline < self.run_end:
            self.look = True

    @property
    def idle_time(self) -> int:
        """Virtual nanoseconds for which nobody ran."""
        machine = self.machine
        return machine.now - machine.instructions - machine.charged

    # -- life cycle ----------------------------------------------------------------------------------------------

    def shutdown(self, domain: Domain, code: int) -> None:
        """The domain shuts down with SHUTDOWN_* `code`; all its vCPUs stop, its toolstack is told (VIRQ_DOM_EXC)."""
        if domain.shutdown_code is not None:
            return
        domain.shutdown_code = code
        self.leave = True
        for v in domain.vcpus:
            runstate.refresh(v)
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
