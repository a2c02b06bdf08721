"""The FIFO ABI of event channels: up to 131072 ports, 16 priorities, queues that the hypervisor fills.

A guest that asked for it (EVTCHNOP_init_control) gives pages of its own: an array with one 32-bit word a port
(PENDING, MASKED, LINKED, BUSY and a link to the next port), added page by page, and for each vCPU a control block with
the heads of its queues and a bit for each queue that became non-empty. A pending, unmasked port is linked behind the
tail of its queue; the guest unlinks from the head. The tails are the hypervisor's own.

Facts from Xen 4.17: public/event_channel.h, xen/common/event_fifo.c. There is one CPU, so that no word changes while
it is looked at here: BUSY, which holds off a guest on another CPU, is never needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import errno
from pyvmm.abi import event_channel as abi
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.frames import PGT_writable_page

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
WORDS_PER_PAGE = PAGE // 4
MAX_PAGES: int = abi.EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE
PENDING, MASKED, LINKED, BUSY = (
    1 << bit for bit in (abi.EVTCHN_FIFO_PENDING, abi.EVTCHN_FIFO_MASKED, abi.EVTCHN_FIFO_LINKED, abi.EVTCHN_FIFO_BUSY)
)
LINK_MASK: int = abi.EVTCHN_FIFO_LINK_MASK
_HEAD: int = abi.evtchn_fifo_control_block.head.offset
_SIZE: int = abi.evtchn_fifo_control_block.size
Queue = tuple[int, int]  # vCPU and priority


class Fifo:
    """The queues of one domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self._ram = domain.hv.machine.ram
        self._pages: list[int] = []  # frames of the event array
        self._blocks: dict[int, int] = {}  # vCPU to the physical address of its control block
        self._tails: dict[Queue, int] = {}
        self._last: dict[int, Queue] = {}  # the queue that a port was linked to last
        self._priority: dict[int, int] = {}  # where it is not the default
        self._waiting: set[int] = set()  # raised before their page of the array was there

    def _map(self, mfn: int) -> int:
        """The physical address of a frame of the guest's, kept writable. -EINVAL if it is none."""
        if not self.domain.hv.frames.get_page_and_type(mfn, self.domain, PGT_writable_page):
            raise XenError(errno.EINVAL)
        return mfn << 12

    def add_control_block(self, vcpu: int, mfn: int, offset: int) -> None:
        """Use the control block of vCPU `vcpu` at `offset` in the guest's frame. -EINVAL: there is one, or no such
        frame."""
        if vcpu in self._blocks:
            raise XenError(errno.EINVAL)
        self._blocks[vcpu] = self._map(mfn) + offset

    def add_page(self, mfn: int) -> None:
        """Let the guest's frame be the next page of the event array; what waited for it is raised. -ENOSPC, -EINVAL."""
        if len(self._pages) >= MAX_PAGES:
            raise XenError(errno.ENOSPC)
        first = len(self._pages) * WORDS_PER_PAGE
        self._pages.append(self._map(mfn))
        channels = self.domain.evtchn
        for number in sorted(n for n in self._waiting if first <= n < first + WORDS_PER_PAGE):
            self._waiting.discard(number)
            port = channels.ports.get(number)
            if port is not None:
                channels.raise_port(port)

    def wait(self, port: int) -> None:
        """`port` is pending, but its word is not there yet."""
        self._waiting.add(port)

    def destroy(self) -> None:
        """Give the guest's frames back."""
        frames = self.domain.hv.frames
        for pa in (*self._pages, *self._blocks.values()):
            frames.put_page_and_type(pa >> 12)
        self._pages.clear()
        self._blocks.clear()

    # -- words

    def _word_pa(self, port: int) -> int | None:
        page, index = divmod(port, WORDS_PER_PAGE)
        return self._pages[page] + index * 4 if page < len(self._pages) else None

    def word(self, port: int) -> int | None:
        """The port's word, None where the array does not reach."""
        pa = self._word_pa(port)
        return None if pa is None else self._ram.read_u32(pa)

    def set_pending(self, v: VCpu, port: int) -> tuple[bool, bool]:
        """Make `port` pending and, unless it is masked or linked already, put it behind the others of its priority in
        `v`'s queue. (It became pending; `v` has to be told.)"""
        ram, pa = self._ram, self._word_pa(port)
        if pa is None:
            self._waiting.add(port)
            return False, False
        block = self._blocks.get(v.vcpu_id)
        if block is None:
            return False, False  # lost: a guest must not let a port notify a vCPU that has no control block
        word = ram.read_u32(pa)
        news = not word & PENDING
        if word & (MASKED | LINKED):
            if news:
                ram.write_u32(pa, word | PENDING)
            return news, False
        ram.write_u32(pa, word | PENDING | LINKED)
        old = self._last.get(port, (0, 0))
        queue = v.vcpu_id, self._priority.get(port, abi.EVTCHN_FIFO_PRIORITY_DEFAULT)
        tails = self._tails
        if tails.get(old) == port:
            tails[old] = 0  # it was taken from there: that queue is empty
        self._last[port] = queue
        tail = tails.get(queue, 0)
        tails[queue] = port
        if tail and self._link(tail, port):
            return news, False
        ram.write_u32(block + _HEAD + 4 * queue[1], port)
        ready = ram.read_u32(block)
        if ready >> queue[1] & 1:
            return news, False
        ram.write_u32(block, ready | 1 << queue[1])
        return news, True

    def _link(self, tail: int, port: int) -> bool:
        """Let `tail` point to `port`, if the guest has not taken `tail` from its queue yet."""
        pa = self._word_pa(tail)
        assert pa is not None
        word = self._ram.read_u32(pa)
        if not word & LINKED:
            return False
        self._ram.write_u32(pa, word & ~(BUSY | LINK_MASK) | port)
        return True

    def clear_pending(self, port: int) -> None:
        """The port was closed. It stays linked; the guest unlinks it and finds it not pending."""
        self._waiting.discard(port)
        self._clear(port, PENDING)

    def unmask(self, port: int) -> bool:
        """Clear the port's mask bit; whether it is pending, and must be raised again."""
        return self._clear(port, MASKED) & PENDING > 0

    def _clear(self, port: int, bit: int) -> int:
        pa = self._word_pa(port)
        if pa is None:
            return 0
        word = self._ram.read_u32(pa)
        self._ram.write_u32(pa, word & ~bit)
        return word

    def is_busy(self, port: int) -> bool:
        """The guest has not unlinked it yet: a closed port that is busy is not given out again."""
        return bool((self.word(port) or 0) & LINKED)

    def opened(self, port: int) -> None:
        """A new port has the default priority."""
        self._priority.pop(port, None)

    def set_priority(self, port: int, priority: int) -> None:
        """For future events. -EINVAL beyond EVTCHN_FIFO_PRIORITY_MIN."""
        if priority > abi.EVTCHN_FIFO_PRIORITY_MIN:
            raise XenError(errno.EINVAL)
        self._priority[port] = priority


def init_control(domain: Domain, vcpu: int, mfn: int, offset: int) -> None:
    """EVTCHNOP_init_control: the first one switches the domain to the FIFO ABI, keeping what is pending. -ENOENT: no
    such vCPU; -EINVAL: a control block across pages, not 8-byte aligned, there already, or in no frame of the
    guest's."""
    if vcpu >= len(domain.vcpus):
        raise XenError(errno.ENOENT)
    if offset > PAGE - _SIZE or offset & 7:
        raise XenError(errno.EINVAL)
    channels = domain.evtchn
    if channels.fifo is not None:
        channels.fifo.add_control_block(vcpu, mfn, offset)
        return
    fifo = Fifo(domain)
    fifo.add_control_block(vcpu, mfn, offset)
    for port in sorted(channels.ports):
        if channels.is_pending(port):  # still in the shared page's bits
            fifo.wait(port)
    channels.fifo = fifo
