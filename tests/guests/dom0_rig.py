"""A host with the C dom0, its own files in the file area, and what its guests say, over whatever they say it."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pyvmm import images
from pyvmm.archive import newc
from pyvmm.host import MIB, Host
from pyvmm.hypervisor import event_channel, trace
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.trace import Event

DESIGNS = ("xl", "chaos-xs", "chaos-xs-split", "chaos-noxs", "lightvm")
XENSTORE = DESIGNS[:3]
PROMPT = "dom0# "
BUDGET = 400_000_000


class Dom0Rig:
    """dom0 with `guests` (names of images) and `files` in its file area, of which `writable` may be written to.

    The first of `designs` is chosen. A guest over the XenStore has a console, which dom0's daemon serves; one over
    noxs has none, and tries to write to Xen's, which does not take it: `said` has both.
    """

    def __init__(
        self,
        *designs: str,
        files: Mapping[str, bytes],
        guests: Sequence[str] = (),
        writable: Sequence[str] = (),
        guest_memory: int = 384 * MIB,
        dom0_memory: int = 128 * MIB,
        budget: int = BUDGET,
        store: str = "c 32",
    ) -> None:
        everything = {name: images.path(name).read_bytes() for name in (*guests, "xenstored")} | dict(files)
        self._budget = budget
        dom0_memory += 2 * sum(map(len, files.values())) & -MIB
        self.host = Host(memory=dom0_memory + guest_memory)
        self._noxs: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.host.hypervisor.trace.listen(self._listen)
        with tempfile.NamedTemporaryFile() as module:
            module.write(newc(everything, frozenset(writable)))
            module.flush()
            self.dom0 = self.host.create_dom0(images.path("dom0"), memory=dom0_memory, ramdisk=Path(module.name))
        self._read = 0
        self.settle()
        if any(design in XENSTORE for design in designs):
            assert self(f"store {store}").startswith(f"XenStore {store[0]} in domain 1")
        self(f"design {designs[0]}")

    def __enter__(self) -> Dom0Rig:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.host.close()

    def _listen(self, event: Event) -> None:
        if event.kind is not trace.HYPERCALL or event.values[0] != "console_io" or not event.domid:
            return
        _, command, count, address, *_ = event.values
        assert isinstance(count, int) and isinstance(address, int)
        if command == 0:
            try:
                text = self.host.hypervisor.domains[event.domid].vcpus[event.vcpu].space.read(address, count)
            except XenError:
                return
            self._noxs[event.domid] += text

    def settle(self) -> None:
        """Until nobody can run."""
        ended = self.host.settle(self._budget)
        assert ended is None, (ended, self.output()[-1000:], self.dom0.crash_report)

    def run(self, instructions: int) -> None:
        """So many instructions, of whoever can run, and no more."""
        if instructions:
            assert self.host.settle(instructions) in (None, "budget")

    def output(self) -> str:
        """What dom0's console has said since the last look."""
        text = bytes(self.dom0.console.output[self._read :]).decode("utf-8", "replace")
        self._read = len(self.dom0.console.output)
        return text.replace("\r", "")

    def type(self, line: str) -> None:
        """Keys are pressed; nobody runs yet."""
        self.dom0.console.feed(line.encode() + b"\n")

    def interrupt(self, line: str) -> None:
        """The same, but dom0 hears of it at once, whatever else there is to do."""
        self.host.hypervisor.console_input += line.encode() + b"\n"
        event_channel.send_global_virq(self.host.hypervisor, event_channel.VIRQ_CONSOLE)

    def __call__(self, line: str) -> str:
        """One command, until nobody can run: what was said, its echo and the prompts left out."""
        self.output()
        self.type(line)
        self.settle()
        return self.output().removeprefix(f"{line}\n").replace(PROMPT, "").strip()

    def later(self, seconds: float) -> str:
        """Let virtual time pass, timers and all; what dom0 said meanwhile."""
        machine, timers = self.host.machine, self.host.hypervisor.timers
        until = machine.now + int(seconds * 1e9)
        while (due := timers.next()) is not None and due <= until:
            machine.skip_to(due)
            self.settle()
        return self.output().replace(PROMPT, "")

    def create(self, file: str, name: str) -> int:
        """Make a guest; its domid."""
        said = self(f"create {file} {name}")
        found = re.match(rf"created {name} domid (\d+)", said)
        assert found, said
        return int(found[1])

    def said(self, domid: int) -> str:
        """What a guest said last, over its console or in vain."""
        if domid in self._noxs:
            return self._noxs[domid].decode("utf-8", "replace")
        return self(f"console {domid}")

    def leave(self) -> dict[str, object]:
        """All that guests and their devices could leave behind."""
        hv = self.host.hypervisor
        domains = self("list")  # a domain that others had mapped goes with the next domctl
        hv.frames.check()
        dom0 = hv.domains[0]
        entries = len(dom0.grants.frames) * 512
        ram = self.host.machine.ram
        store = self("store") if 1 in hv.domains and hv.domains[1].xenstore else ""
        return {
            "frames": hv.frames.free_count,
            "domains": (sorted(hv.domains), domains.splitlines()[2:]),
            "ports": sorted(dom0.evtchn.ports),
            "mapped": len(dom0.grants.maptrack),
            "pinned": sorted(dom0.grants.active),
            "granted": sum(ram.read_u16(dom0.grants.entry_pa(ref)) != 0 for ref in range(entries)),
            "memory": self("memory"),
            "devices": self("devices"),
            "files": self("files"),
            "store": store.rpartition(",")[2],  # free memory of its domain
        }
