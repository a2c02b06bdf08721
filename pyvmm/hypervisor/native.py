"""Native domains: a vCPU that is Python instead of x86 code, with the same hypercalls, pages and blocking.

A native domain runs any number of tasks (coroutines) on one vCPU. It sees its shared_info page as a guest does: an
event sets a pending bit, the vCPU wakes, its `Native` runtime takes the bits and resumes the tasks that wait for
those ports. There is no back door: what a task wants from Xen, it asks for through `hypercall`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

from pyvmm.abi import errno
from pyvmm.hypervisor import hypercalls as hc
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
Task = Coroutine[Any, Any, None]
Wake = Callable[[], bool]  # polled by the runtime: may the task go on?


class NativeSpace:
    """The address space of a native vCPU: virtual page number -> (mfn, writable). The MMU hypercalls edit it."""

    def __init__(self, v: VCpu) -> None:
        self._ram = v.hv.machine.ram
        self.pages: dict[int, tuple[int, bool]] = {}

    def _pieces(self, va: int, n: int, write: bool) -> Generator[tuple[int, int], None, None]:
        while n > 0:
            entry = self.pages.get(va // PAGE)
            if entry is None or (write and not entry[1]):
                raise XenError(errno.EFAULT)
            size = min(n, PAGE - va % PAGE)
            yield entry[0] * PAGE + va % PAGE, size
            va, n = va + size, n - size

    def read(self, va: int, n: int) -> bytes:
        """See `Space.read`."""
        if n and va % PAGE + n <= PAGE:  # the common case, without the generator
            entry = self.pages.get(va // PAGE)
            if entry is None:
                raise XenError(errno.EFAULT)
            return self._ram.read(entry[0] * PAGE + va % PAGE, n)
        return b"".join(self._ram.read(pa, size) for pa, size in self._pieces(va, n, False))

    def read_u32(self, va: int) -> int:
        """See `Space.read_u32`."""
        return int.from_bytes(self.read(va, 4), "little")

    def write(self, va: int, data: bytes) -> None:
        """See `Space.write`."""
        done = 0
        for pa, size in list(self._pieces(va, len(data), True)):
            self._ram.write(pa, data[done : done + size])
            done += size


class Native:
    """What a native domain's tasks see: hypercalls, their own memory, events, other tasks."""

    SCRATCH_PAGES = 16

    def __init__(self, v: VCpu, scratch_va: int) -> None:
        self.v = v
        assert isinstance(v.space, NativeSpace)
        self._space = v.space
        self.domid = v.domain.domid
        self.shared_info_va = 0  # where its shared page is mapped
        self._scratch = scratch_va
        self._scratch_first = self._scratch_used = 0 if scratch_va else 16  # address 0 would be a null handle
        self._ready: deque[tuple[Task, Any]] = deque()
        self._waiting: list[tuple[Wake, Task]] = []
        self._fired: set[int] = set()
        self.finished = False

    # -- hypercalls and memory

    def hypercall(self, number: int, *args: int) -> int:
        """Make a hypercall; the result as Xen returns it (negative: an errno)."""
        return hc.call(self.v, number, *args)

    def scratch(self, data: bytes | int) -> int:
        """The address of a short-lived buffer holding `data` (or of `data` zero bytes), for hypercall arguments."""
        data = bytes(data) if isinstance(data, int) else data
        size = -(-len(data) // 16) * 16
        if size > self.SCRATCH_PAGES * PAGE - self._scratch_first:
            raise ValueError(f"a hypercall argument of {len(data)} bytes does not fit the scratch area")
        if self._scratch_used + size > self.SCRATCH_PAGES * PAGE:
            self._scratch_used = self._scratch_first
        va = self._scratch + self._scratch_used
        self._scratch_used += size
        self.v.space.write(va, data)
        return va

    def read(self, va: int, n: int) -> bytes:
        """`n` bytes of the domain's own memory."""
        return self.v.space.read(va, n)

    def write(self, va: int, data: bytes) -> None:
        """Write to the domain's own memory."""
        self.v.space.write(va, data)

    def mfn(self, va: int) -> int:
        """The machine frame at `va` of its own memory: a look at its p2m. XenError(EFAULT): nothing is mapped there."""
        entry = self._space.pages.get(va // PAGE)
        if entry is None:
            raise XenError(errno.EFAULT)
        return entry[0]

    # -- tasks

    def spawn(self, task: Task) -> None:
        """Start another task of this domain; it first runs when the running one waits."""
        self._ready.append((task, None))

    @coroutine
    def wait_until(self, condition: Wake) -> Generator[Wake, None, None]:
        """Suspend the task until `condition()` is true; it is looked at whenever the vCPU wakes."""
        if not condition():
            yield condition

    async def event(self, *ports: int) -> int:
        """Wait for an event on one of `ports` and take it; returns the port."""

        def arrived() -> bool:
            return any(port in self._fired for port in ports)

        await self.wait_until(arrived)
        port = min(port for port in ports if port in self._fired)
        self._fired.discard(port)
        return port

    def fired(self, *ports: int) -> bool:
        """An event on one of `ports` waits to be taken."""
        return not self._fired.isdisjoint(ports)

    def take_fired(self, *ports: int) -> list[int]:
        """Take all events on `ports`; those that there were, ascending."""
        found = sorted(self._fired.intersection(ports))
        self._fired.difference_update(found)
        return found

    def notify(self, port: int) -> None:
        """Mark `port` as fired for the tasks of this domain (used by the runtime)."""
        self._fired.add(port)

    # -- runtime

    @property
    def has_work(self) -> bool:
        """A task could go on now."""
        return bool(self._ready) or any(condition() for condition, _ in self._waiting)

    def close(self) -> None:
        """Drop all tasks where they are; the domain does nothing any more."""
        for task in [task for task, _ in self._ready] + [task for _, task in self._waiting]:
            task.close()
        self._ready.clear()
        self._waiting.clear()

    def run_ready(self) -> None:
        """Run tasks until all wait."""
        while True:
            still: list[tuple[Wake, Task]] = []
            for condition, task in self._waiting:
                if condition():
                    self._ready.append((task, None))
                else:
                    still.append((condition, task))
            self._waiting = still
            if not self._ready:
                break
            while self._ready:
                task, value = self._ready.popleft()
                try:
                    condition = task.send(value)
                except StopIteration:
                    continue
                self._waiting.append((condition, task))
        self.finished = not self._waiting


class NativeTask:
    """The scheduler's handle on a native vCPU."""

    def __init__(self, v: VCpu, scratch_va: int) -> None:
        self.v = v
        self.api = Native(v, scratch_va)

    def step(self) -> None:
        """Take pending events, run tasks until all wait, then block (unless an event came meanwhile), as an idle loop
        would."""
        from pyvmm.hypervisor import event_channel
        from pyvmm.hypervisor.hypervisor import block

        while True:
            for port in event_channel.take_pending(self.v):
                self.api.notify(port)
            self.api.run_ready()
            if not event_channel.has_pending(self.v):
                break
        block(self.v)
