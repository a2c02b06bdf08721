"""The run loop with a guest that executes code: who gets the CPU when, and where an interrupted guest goes on."""

from __future__ import annotations

import struct

import pytest

from pyvmm.abi import event_channel as ec
from pyvmm.abi import sched, vcpu, xen
from pyvmm.hypervisor import runstate
from pyvmm.hypervisor.hypervisor import Outcome
from pyvmm.hypervisor.lifecycle import create_native
from pyvmm.hypervisor.native import Native
from pyvmm.hypervisor.scheduler import SLICE
from pyvmm.hypervisor.trace import Event
from pyvmm.hypervisor.vcpu import Runstate
from pyvmm.machine import BudgetUsed, Reg
from tests.hypervisor.code_guest import CODE, DATA, HANDLER, NOP, PAGE, SYSCALL, CodeGuest

SPIN = b"\xeb\xfe"  # jmp .
LIST = DATA + 0x400


def bind_timer(guest: CodeGuest) -> int:
    guest.poke(DATA, ec.evtchn_bind_virq.pack(virq=xen.VIRQ_TIMER, vcpu=0))
    assert guest.call(xen.HYPERVISOR_event_channel_op, ec.EVTCHNOP_bind_virq, DATA) == 0
    port: int = ec.evtchn_bind_virq.unpack(guest.machine.ram.read(guest.pa(DATA), ec.evtchn_bind_virq.size)).port
    return port


@pytest.mark.parametrize("engine", ["pure", "auto"])
@pytest.mark.parametrize("delay", [1, 2, 37, 1000])
def test_a_timer_interrupts_after_exactly_so_many_instructions(engine: str, delay: int) -> None:
    guest = CodeGuest(SYSCALL + NOP * 2000, engine=engine)
    assert bind_timer(guest) == 1
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_set_timer_op, rdi=guest.machine.now + 1 + delay)
    guest.run(1 + delay)  # the syscall, then one nop a nanosecond
    assert guest.reg(Reg.RIP) == CODE + 2 + delay
    guest.run(1)  # the handler's first nop
    assert guest.reg(Reg.RIP) == HANDLER + 1
    assert guest.frame()["rip"] == CODE + 2 + delay


def test_a_timer_of_somebody_else_takes_the_cpu_at_its_time() -> None:
    guest = CodeGuest(SPIN)
    _, api = create_native(guest.hv, 2, name="sleeper")
    woken: list[tuple[int, int]] = []

    async def sleep(api: Native) -> None:
        va = api.scratch(ec.evtchn_bind_virq.pack(virq=xen.VIRQ_TIMER))
        assert api.hypercall(xen.HYPERVISOR_event_channel_op, ec.EVTCHNOP_bind_virq, va) == 0
        port = ec.evtchn_bind_virq.unpack(api.read(va, ec.evtchn_bind_virq.size)).port
        for deadline in (SLICE * 3 // 2, SLICE * 3 // 2 + 10, 3 * SLICE):
            api.hypercall(xen.HYPERVISOR_set_timer_op, deadline)
            await api.event(port)
            woken.append((deadline, guest.machine.now))

    api.spawn(sleep(api))
    guest.run(4 * SLICE)
    assert woken == [(deadline, deadline) for deadline, _ in woken] and len(woken) == 3
    assert guest.domain.counters.instructions == 4 * SLICE == guest.machine.instructions


def test_yield_lets_the_next_one_run_and_block_gives_up_for_good() -> None:
    guest = CodeGuest(SYSCALL + NOP + SYSCALL + NOP)
    _, api = create_native(guest.hv, 2, name="other")
    seen: list[int] = []

    async def look() -> None:
        seen.append(guest.machine.instructions)

    guest.ready()
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_yield, rsi=0)
    api.spawn(look())
    guest.run(2)
    assert seen == [1] and guest.reg(Reg.RAX) == 0 and guest.reg(Reg.RIP) == CODE + 3
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_block)
    assert guest.hv.run(lambda: False, 100) is Outcome.DEADLOCK
    assert guest.v.blocked and guest.machine.instructions == 3


def test_a_multicall_goes_on_where_it_was_interrupted() -> None:
    guest = CodeGuest(SYSCALL + NOP * 8)
    entry = xen.multicall_entry
    version, block = (xen.HYPERVISOR_xen_version, 0), (xen.HYPERVISOR_sched_op, sched.SCHEDOP_block)
    calls = [version, block, version, version]
    guest.poke(LIST, b"".join(entry.pack(op=op, result=7, args=(cmd, 0, 0, 0, 0, 0)) for op, cmd in calls))
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_multicall, rdi=LIST, rsi=4)

    def results() -> list[int]:
        data = guest.machine.ram.read(guest.pa(LIST), 4 * entry.size)
        return [e.result for e in entry.unpack_array(data, 4)]

    assert guest.hv.run(lambda: False, 100) is Outcome.DEADLOCK
    assert results() == [0x40011, 0, 7, 7]
    where = [guest.reg(reg) for reg in (Reg.RIP, Reg.RAX, Reg.RDI, Reg.RSI)]
    assert where == [CODE, xen.HYPERVISOR_multicall, LIST + 2 * entry.size, 2]
    assert guest.machine.instructions == 1
    runstate.wake(guest.v)
    guest.run(2)
    assert results() == [0x40011, 0, 0x40011, 0x40011]
    assert (guest.reg(Reg.RAX), guest.reg(Reg.RIP)) == (0, CODE + 3)
    assert guest.machine.instructions == 3  # the syscall was executed twice
    assert guest.domain.counters.hypercalls["multicall"] == 2


def test_an_upcall_comes_between_two_entries_of_a_multicall() -> None:
    guest = CodeGuest(SYSCALL + NOP * 8)
    guest.poke(DATA, ec.evtchn_bind_ipi.pack(vcpu=0))
    assert guest.call(xen.HYPERVISOR_event_channel_op, ec.EVTCHNOP_bind_ipi, DATA) == 0
    guest.poke(DATA, ec.evtchn_send.pack(port=1))
    entry = xen.multicall_entry
    send = entry.pack(op=xen.HYPERVISOR_event_channel_op, args=(ec.EVTCHNOP_send, DATA, 0, 0, 0, 0))
    version = entry.pack(op=xen.HYPERVISOR_xen_version, result=7, args=[0] * 6)
    guest.poke(LIST, send + version)
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_multicall, rdi=LIST, rsi=2)
    guest.run(2)
    assert guest.reg(Reg.RIP) == HANDLER + 1
    assert guest.frame()["rip"] == CODE  # when the handler returns, the rest of the list is served
    assert guest.words(LIST + entry.size + entry.result.offset, 1) == (7,)
    assert (guest.reg(Reg.RDI), guest.reg(Reg.RSI)) == (LIST + entry.size, 1)


def test_an_iret_ends_a_multicall() -> None:
    guest = CodeGuest(SYSCALL + NOP * 8)
    entry = xen.multicall_entry
    guest.poke(LIST, entry.pack(op=xen.HYPERVISOR_iret) + entry.pack(op=xen.HYPERVISOR_xen_version, result=7))
    stack = DATA + 0x800
    frame = (0xAA, 0x202, 0, 0, CODE + 6, 0xE030, 0x202, stack, 0xE02B)
    guest.poke(stack - 72, struct.pack("<9Q", *frame))
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_multicall, rdi=LIST, rsi=2, rsp=stack - 72)
    guest.run(2)
    assert (guest.reg(Reg.RIP), guest.reg(Reg.RAX), guest.reg(Reg.RSP)) == (CODE + 7, 0xAA, stack)
    assert guest.words(LIST + entry.size + entry.result.offset, 1) == (7,)


def test_a_shutdown_stops_the_guest_at_once() -> None:
    guest = CodeGuest(SYSCALL + SPIN)
    guest.poke(DATA, sched.sched_shutdown.pack(reason=sched.SHUTDOWN_reboot))
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_shutdown, rsi=DATA)
    assert guest.hv.run(lambda: guest.domain.is_shut_down) is Outcome.DONE
    assert (guest.domain.shutdown_code, guest.machine.instructions) == (sched.SHUTDOWN_reboot, 1)


def test_the_budget_is_exact_across_slices_and_leaves() -> None:
    guest = CodeGuest(SYSCALL + b"\xeb\xfc")  # syscall; jmp back
    guest.ready()
    guest.set(rax=60)
    for budget in (1, 2, 3, 1000, SLICE + 1):
        before = guest.machine.instructions
        assert guest.hv.run(lambda: False, budget) is Outcome.BUDGET
        assert guest.machine.instructions == before + budget


def test_an_endless_string_instruction_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine comes back early from one that repeats very often, before any instruction has retired."""
    guest = CodeGuest(SPIN)
    _, api = create_native(guest.hv, 2, name="other")
    done: list[int] = []

    async def work() -> None:
        done.append(guest.machine.now)

    api.spawn(work())
    monkeypatch.setattr(guest.machine, "run", lambda budget: BudgetUsed())
    assert guest.hv.run(lambda: bool(done)) is Outcome.DONE
    assert done == [0]


def test_idle_sources_are_asked_before_time_is_skipped() -> None:
    guest = CodeGuest(SYSCALL + NOP + SPIN)
    bind_timer(guest)
    guest.mask = 1
    guest.ready()
    guest.call(xen.HYPERVISOR_set_timer_op, 1_000_000)
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_poll, rsi=DATA)
    guest.poke(DATA, sched.sched_poll.pack(ports=DATA + 64, nr_ports=1))
    guest.poke(DATA + 64, (1).to_bytes(4, "little"))
    asked: list[int] = []

    def source() -> bool:
        asked.append(guest.machine.now)
        return len(asked) == 1

    guest.hv.idle_sources.append(source)
    guest.hv.run(lambda: False, 2)
    assert asked == [1, 1]
    assert guest.machine.now == 1_000_001  # one instruction, the wait, one instruction


def test_a_vcpu_that_is_asked_again_was_never_off_the_cpu() -> None:
    guest = CodeGuest(SPIN)
    guest.machine.skip_to(500)
    guest.run(3 * SLICE)
    assert guest.v.runstate == Runstate.RUNNING
    assert (guest.v.runstate_entered, guest.v.runstate_times[Runstate.RUNNING]) == (500, 0)
    assert guest.domain.counters.switches == 1


def test_switches_are_counted_and_traced() -> None:
    guest = CodeGuest(SYSCALL + b"\xeb\xfc")
    other, api = create_native(guest.hv, 2, name="other")
    events: list[Event] = []
    guest.hv.trace.listen(events.append)

    async def work(api: Native) -> None:
        for _ in range(3):
            turn = len(events)
            runstate.wake(api.v)
            await api.wait_until(lambda turn=turn: len(events) > turn + 4)  # type: ignore[misc]

    api.spawn(work(api))
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_yield)
    guest.run(200)
    switches = [(e.domid, e.values[0]) for e in events if e.kind.name == "switch"]
    assert len(switches) == guest.domain.counters.switches + other.counters.switches
    assert all(now != before for now, before in switches)
    assert PAGE == 4096


def test_a_new_vcpu_ticks_at_100_hz_once_it_can_see_it() -> None:
    guest = CodeGuest(SPIN)
    tick = 10_000_000
    guest.mask = 1
    guest.run(2 * tick + 5)  # nobody sees these
    assert guest.hv.timers.next() is None
    port = bind_timer(guest)
    guest.poke(DATA, ec.evtchn_unmask.pack(port=port))
    guest.run(tick - 6)
    assert not guest.domain.evtchn.is_pending(port)
    guest.run(1)
    assert guest.domain.evtchn.is_pending(port) and guest.machine.now == 3 * tick
    assert guest.call(xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_stop_periodic_timer, 0, 0) == 0
    assert guest.hv.timers.next() is None


def test_the_ticker_does_not_wake_who_blocks() -> None:
    guest = CodeGuest(SYSCALL + SPIN)
    port = bind_timer(guest)
    guest.ready()
    guest.set(rax=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_block)
    assert guest.hv.run(lambda: False, 1000) is Outcome.DEADLOCK
    assert guest.machine.now < 1000
    # What it missed becomes one tick, given when it next gets the CPU.
    guest.machine.skip_to(35_000_000)
    runstate.wake(guest.v)
    guest.run(1)
    assert guest.domain.evtchn.is_pending(port) and guest.hv.timers.next() == 45_000_000


def test_idle_vcpus_are_not_looked_at() -> None:
    guest = CodeGuest(SPIN)
    for domid in range(2, 40):
        create_native(guest.hv, domid, name=f"idle{domid}")
    guest.run(10 * SLICE)
    assert guest.hv.ready == [guest.v]
    assert not guest.hv.others_ready(guest.v)


def test_a_yield_with_nobody_else_goes_on_at_once() -> None:
    guest = CodeGuest(bytes.fromhex("89d8 0f05 ebfa"))  # mov %ebx,%eax; syscall; jmp
    guest.ready()
    guest.set(rbx=xen.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_yield)
    guest.run(21)
    assert guest.domain.counters.hypercalls["sched_op"] == 7
    assert not guest.hv.leave
