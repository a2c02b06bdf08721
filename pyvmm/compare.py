"""Toolstack designs compared: a dom0 of x86 code makes guests one after the other, and what each takes is counted.

One host runs one design. Its dom0 (the image "dom0", or one with a design of the user's own) is told at its console
what to do. The n-th creation's window begins when the command is handed over and ends when nobody can run any more:
domain made, guest booted, back ends at rest. Nothing in the guests marks it. What a pool of shells does afterwards, a
while of virtual time later, is a window of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pyvmm import images
from pyvmm.archive import newc
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host import MIB, Domain, Host
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.charging import Charged, Charging
from pyvmm.hypervisor.digest import Digest
from pyvmm.hypervisor.domain import Domain as XenDomain
from pyvmm.hypervisor.trace import Event
from pyvmm.machine import Context
from pyvmm.report.classes import CLASSES, PREPARE
from pyvmm.report.profile import Owner, Profile
from pyvmm.report.stacks import Packed, pack
from pyvmm.report.store_tap import SENDERS, StoreRequest, StoreTap, sender_of
from pyvmm.report.symbols import Functions, functions_of
from pyvmm.result import exit_of
from pyvmm.xenstore.wire import Op

PROMPT = "dom0# "
DEVICE_FAILED = re.compile(r"\b(?:vif \d+|vbd \d+|console) of domain \d+: .*")  # as dom0 tells of it
DOM0_MEMORY = 128 * MIB
A_GUESTS_DOM0 = 64 << 10  # bytes that dom0 needs for each guest: control pages, records, what it maps
STORE_MEMORY = 32 * MIB
A_GUESTS_STORE = 96 << 10  # bytes of the XenStore's domain for each guest: nodes, twice where a transaction copies them
HOST_SLACK = 96 * MIB
FEWEST = 128  # guests that every host has room for: what the first ones take does not depend on how many are to follow
POOL = 8  # shells kept by the designs that have some
A_WHILE = 100_000_000  # virtual nanoseconds after which a pool has begun to fill up (guests/dom0/pool.c: half of it)
BUDGET = 1_000_000_000  # instructions after which a command is taken to hang
PROGRAM = ("*.py", "*.bin", "*.functions")  # files of the package that are its code and tables; images have hashes


def _file(number: int) -> str:
    return f"{number:05}.json"


@dataclass(frozen=True)
class DesignFacts:
    """A design as dom0 knows it: its paper's name, and what it needs."""

    name: str
    title: str
    shells: bool
    xenstore: bool


DESIGNS = {
    d.name: d
    for d in (
        DesignFacts("xl", "xl", False, True),
        DesignFacts("chaos-xs", "chaos [XS]", False, True),
        DesignFacts("chaos-xs-split", "chaos [XS+split]", True, True),
        DesignFacts("chaos-noxs", "chaos [noxs]", False, False),
        DesignFacts("lightvm", "LightVM", True, False),
    )
}


@dataclass(frozen=True)
class GuestFacts:
    """A guest to be made: its memory in MiB, whether it has a network interface, whether it ends by itself."""

    name: str
    memory: int
    vif: bool
    ends: bool = False

    def config(self, number: int) -> bytes:
        """chaos's configuration of it."""
        what: dict[str, Any] = {"name": self.name, "kernel": self.name, "memory": self.memory, "vcpus": 1}
        if self.vif:
            mac = ":".join(f"{byte:02x}" for byte in (0x00, 0x16, 0x3E, *number.to_bytes(3)))
            what["vifs"] = [{"ip": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", "mac": mac}]
        return json.dumps(what).encode()


GUESTS = {
    g.name: g
    for g in (GuestFacts("noop", 4, False), GuestFacts("daytime", 8, True), GuestFacts("hello", 8, False, ends=True))
}


class CommandError(PyvmmError):
    """dom0 refused a command, or is gone; the text is what it said."""


@dataclass(frozen=True)
class Row:
    """What the n-th creation took. `classes`: executed instructions by class (`pyvmm.report.classes`), whose sum is
    `total`; `prepare` those of shells made afterwards; `charged` the hypervisor's own, from a table
    (docs/costs.md), and `charged_by` the same by name of its work. `messages`: requests to the XenStore by sender
    (`pyvmm.report.store_tap`), whose sum is `store_messages`; `retries` are transactions that ended in a conflict."""

    design: str
    guest: str
    n: int
    total: int
    classes: dict[str, int]
    prepare: int
    charged: int
    charged_by: dict[str, Charged]
    store_messages: int
    messages: dict[str, int]
    transactions: int
    retries: int
    hypercalls: int
    events: int
    switches: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        by = {name: one._asdict() for name, one in self.charged_by.items()}
        return {**self.__dict__, "classes": dict(self.classes), "charged_by": by}


@dataclass
class Counts:
    """Crossings of a window, counted from its events."""

    hypercalls: int = 0
    events: int = 0
    switches: int = 0

    def __call__(self, event: Event) -> None:
        if event.kind is trace.HYPERCALL:
            self.hypercalls += 1
        elif event.kind is trace.EVTCHN_SEND:
            self.events += 1
        elif event.kind is trace.SWITCH:
            self.switches += 1


@dataclass
class Runners:
    """Whose each context is, noted when it runs: a guest may be gone again before anybody asks."""

    domains: dict[int, XenDomain]
    known: dict[int, tuple[Context, XenDomain]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if event.kind is trace.SWITCH:
            domain = self.domains[event.domid]
            context = domain.vcpus[event.vcpu].context
            if context is not None:
                self.known[id(context)] = context, domain

    def all(self) -> list[XenDomain]:
        """Who ran."""
        return list({id(domain): domain for _, domain in self.known.values()}.values())

    def of(self, context: Context) -> XenDomain | None:
        """The domain; None for nobody's (the idle one's)."""
        if id(context) in self.known:
            return self.known[id(context)][1]
        return next((d for d in self.domains.values() if any(v.context is context for v in d.vcpus)), None)


class Guests:
    """Sees to it that a design's guests do what a row says of them: the n-th has booted, the others go on."""

    def __init__(self, design: str, facts: GuestFacts, domains: Mapping[int, XenDomain]) -> None:
        self._design, self._facts, self._domains = design, facts, domains
        self._numbers: dict[int, int] = {}  # by domid

    def made(self, n: int, domid: int, ran: Runners | None) -> None:
        """The n-th guest was made, and nobody can run. `CommandError` unless it has run and goes on, or has ended as it
        should. With `ran`, of a window that is measured, all guests before it are looked at, too."""
        self._numbers[domid] = n
        for domain in ran.all() if ran else ():  # a toolstack may have taken away at once what has crashed
            self._crashed(domain)
        for one in self._numbers if ran else (domid,):
            self._look(one)

    def _look(self, domid: int) -> None:
        domain = self._domains.get(domid)
        if domain is None or domain.dying:
            if not self._facts.ends:
                raise CommandError(f"{self._told(domid)} is gone, and should go on running")
        elif domain.is_shut_down:
            self._crashed(domain)
            if not self._facts.ends:
                raise CommandError(f"{self._told(domid)} has ended ({exit_of(domain)}), and should go on running")
        elif domain.pause_count:
            raise CommandError(f"{self._told(domid)} was left paused: no row without its boot")
        elif not domain.counters.instructions:
            raise CommandError(f"{self._told(domid)} has not executed any instruction: no row without its boot")

    def _crashed(self, domain: XenDomain) -> None:
        if exit_of(domain) == "crash":
            why = (domain.crash_report or "").splitlines()[:1]
            raise CommandError(": ".join([f"{self._told(domain.domid)} crashed", *why]))

    def _told(self, domid: int) -> str:
        guest = f"guest {self._numbers[domid]}, " if domid in self._numbers else ""
        return f"{self._design}: {guest}domain {domid},"


class Control:
    """A host whose dom0 makes guests by one design. Close it when done."""

    def __init__(
        self,
        design: str,
        guest: str,
        most: int,
        *,
        engine: str = "auto",
        seed: int = 0,
        dom0: Path | None = None,
        store: str = "c",
        own: DesignFacts | None = None,
        files: Mapping[str, bytes] | None = None,
        fewest: int = FEWEST,
    ) -> None:
        """`own`: what a design needs that is not one of `DESIGNS`; the image `dom0` has it. `files`: more of them for
        dom0's file area, by name. `fewest`: guests that the host has room for in any case."""
        self.design, self.guest = design, guest
        self.facts = GUESTS[guest]
        self.shells, self.xenstore = (own or DESIGNS[design]).shells, (own or DESIGNS[design]).xenstore
        room = max(fewest, 1 << (most - 1).bit_length())
        store_memory = (STORE_MEMORY + room * A_GUESTS_STORE) // MIB
        self._dom0_path = dom0 or images.path("dom0")
        self._images: dict[str, Functions] = {}
        memory = DOM0_MEMORY + room * A_GUESTS_DOM0
        memory += -memory % MIB
        area = {guest: images.path(guest).read_bytes()}
        area |= {_file(number): self.facts.config(number) for number in range(1, room + 1)}
        area |= files or {}
        if self.xenstore:
            area["xenstored"] = images.path("xenstored").read_bytes()
        need = memory + (store_memory * MIB if self.xenstore else 0)
        need += (room + 2 * POOL) * (self.facts.memory * MIB + 64 * 1024) + HOST_SLACK
        self.host = Host(memory=need + -need % MIB, engine=engine, seed=seed, profile=True, digest=False)
        with tempfile.NamedTemporaryFile() as module:
            module.write(newc(area))
            module.flush()
            self.dom0: Domain = self.host.create_dom0(self._dom0_path, name="dom0", memory=memory, ramdisk=module.name)
        self._guests = Guests(design, self.facts, self.host.hypervisor.domains)
        self._read = 0
        self.requests: list[StoreRequest] = []
        self.prepared: Profile
        self._settle("it booted")
        self._output()
        if self.xenstore:
            self.command(f"store {store} {store_memory}")
        self.command(f"design {design}")
        if self.shells:
            self.command(f"pool {_file(1)} {POOL}")

    def close(self) -> None:
        """End the host."""
        self.host.close()

    def _settle(self, what: str) -> None:
        ended = self.host.settle(BUDGET)
        if ended == "budget":
            raise CommandError(f"{self.design}: dom0 does not come to rest after {what}")
        if ended is not None:
            raise CommandError(": ".join([f"{self.design}: dom0 ended ({ended}) after {what}", *self._last_words()]))

    def _last_words(self) -> list[str]:
        """What dom0's kernel said of its end (traps.c, kernel.c), or what is known of it."""
        said = [line for line in self._output().splitlines() if line.startswith(("trap ", "panic:"))]
        return said or (self.dom0.crash_report or "").splitlines()[:1]

    def _output(self) -> str:
        text = bytes(self.dom0.console.output[self._read :]).decode("utf-8", "replace")
        self._read = len(self.dom0.console.output)
        return text

    def command(self, line: str) -> str:
        """One command of dom0's shell, until nobody can run. What it said; `CommandError` when that is an error."""
        self.dom0.console.feed(line.encode() + b"\n")
        self._settle(line)
        said = self._output().replace("\r", "").removeprefix(f"{line}\n").removesuffix(PROMPT).strip()
        for one in said.splitlines():
            if one.startswith(("error:", "panic:")):
                raise CommandError(f"{self.design}: {line}: {one.partition(':')[2].strip()}")
        return said

    def _creation(self, n: int) -> str:
        """The command for the n-th guest, as long as any other's: what is typed is work, too."""
        return f"create {_file(n)} {self.guest}{n:05}"

    def _make(self, n: int, ran: Runners | None = None) -> None:
        """Make the n-th guest; `ran` where that is measured. `CommandError` unless dom0 says that it has, for nobody
        can run for other causes, too; unless the guest runs; or if dom0 tells of a device that does not work."""
        said = self.command(self._creation(n))
        created = re.search(rf"\bcreated {self.guest}{n:05} domid (\d+)", said)
        if created is None:
            told = " ".join(said.split())[:100] or "nothing"
            raise CommandError(f"{self.design}: guest {n} was not made; dom0 said: {told}")
        if failed := DEVICE_FAILED.search(said):
            raise CommandError(f"{self.design}: guest {n}: {failed[0]}")
        self._guests.made(n, int(created[1]), ran)

    def create(self, n: int) -> None:
        """Make the n-th guest, and give the pool the time to fill up again."""
        self._make(n)
        self.refill()

    def refill(self) -> None:
        """Let the pool fill up again, which it does a while after it was used."""
        if not self.shells:
            return
        machine, timers = self.host.machine, self.host.hypervisor.timers
        until = machine.now + A_WHILE
        while (due := timers.next()) is not None and due <= until:
            machine.skip_to(due)
            self._settle("the pool was to be filled")

    def measure(self, n: int) -> tuple[Row, Profile]:
        """Make the n-th guest and say what it took. `prepared` is then the profile of the pool's filling up."""
        hv, machine = self.host.hypervisor, self.host.machine
        counts, digest, runners = Counts(), Digest(), Runners(hv.domains)
        profile = Profile(lambda context: self._owner(runners.of(context)))
        stops = [hv.trace.listen(listener) for listener in (counts, digest, runners)]
        tap = self._tap()
        charging, before = Charging(hv), machine.instructions
        machine.log_start(profile.add)
        try:
            self._make(n, runners)
        finally:
            machine.log_stop()
            for stop in stops:
                stop()
            charging.stop()
            if tap is not None:
                tap.stop()
        total = machine.instructions - before
        assert profile.total == total, "the profile's sum is the machine's"
        self.requests = [] if tap is None else tap.requests
        senders = Counter(sender_of(request, self.dom0_functions) for request in self.requests)
        after = machine.instructions
        self.prepared = Profile(lambda context: self._owner(runners.of(context)))
        stop = hv.trace.listen(runners)
        machine.log_start(self.prepared.add)
        try:
            self.refill()
        finally:
            machine.log_stop()
            stop()
        assert self.prepared.total == machine.instructions - after
        classes = profile.classes()
        row = Row(
            design=self.design,
            guest=self.guest,
            n=n,
            total=total - classes[PREPARE],
            classes={name: classes[name] for name in CLASSES if name != PREPARE},
            prepare=classes[PREPARE] + self.prepared.total,
            charged=charging.total,
            charged_by=charging.by,
            store_messages=len(self.requests),
            messages={name: senders[name] for name in SENDERS},
            transactions=sum(request.op == Op.TRANSACTION_START for request in self.requests),
            retries=sum(request.op == Op.TRANSACTION_END and request.error == "EAGAIN" for request in self.requests),
            hypercalls=counts.hypercalls,
            events=counts.events,
            switches=counts.switches,
            digest=digest.hexdigest(),
        )
        return row, profile

    @property
    def dom0_functions(self) -> Functions:
        """The functions of dom0's kernel."""
        return self._functions("dom0", self._dom0_path)

    def _tap(self) -> StoreTap | None:
        """Listens on the XenStore's rings, when there is one."""
        hv = self.host.hypervisor
        store = next((domain for domain in hv.domains.values() if domain.xenstore), None)
        return None if store is None else StoreTap(hv, store)

    def _functions(self, name: str, path: Path) -> Functions:
        if name not in self._images:
            self._images[name] = functions_of(path)
        return self._images[name]

    def _owner(self, domain: XenDomain | None) -> Owner:
        if domain is None or domain.domid == 0:
            return Owner("dom0" if domain else "idle", "dom0", self.dom0_functions)
        if domain.xenstore:
            return Owner("xenstored", "xenstored", self._functions("xenstored", images.path("xenstored")))
        return Owner(f"d{domain.domid}", "guest", self._functions(self.guest, images.path(self.guest)))


def creations(
    design: str,
    guest: str,
    wanted: Sequence[int],
    *,
    engine: str = "auto",
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
    dom0: Path | None = None,
    store: str = "c",
    own: DesignFacts | None = None,
) -> Iterator[tuple[Row, Profile, Profile]]:
    """Make guests up to the largest of `wanted`, all of them kept running, and measure those that are wanted: what it
    took, the profile of the window, and that of shells made afterwards. The host is not taken apart: its memory goes as
    a whole."""
    control = Control(design, guest, max(wanted), engine=engine, seed=seed, dom0=dom0, store=store, own=own)
    for n in range(1, max(wanted) + 1):
        if n in wanted:
            yield *control.measure(n), control.prepared
        else:
            control.create(n)
        progress(n)


def sweep(design: str, guest: str, wanted: Sequence[int], **options: Any) -> list[tuple[Row, Profile]]:
    """The rows of `creations`, each with its window's profile."""
    return [(row, profile) for row, profile, _ in creations(design, guest, wanted, **options)]


def check(designs: Iterable[str], guest: str) -> None:
    """`ConfigError` for a design or a guest that there is not."""
    for design in designs:
        if design not in DESIGNS:
            raise ConfigError(f"no design {design}; there are {', '.join(DESIGNS)}")
    if guest not in GUESTS:
        raise ConfigError(f"no guest {guest} to compare with; there are {', '.join(GUESTS)}")


def measure(
    design: str,
    guest: str,
    wanted: Sequence[int],
    engine: str = "auto",
    seed: int = 0,
    store: str = "c",
    progress: Callable[[int], None] = lambda n: None,
    dom0: Path | None = None,
    own: DesignFacts | None = None,
) -> list[tuple[dict[str, Any], Packed, Packed]]:
    """`creations` as plain data, for another process: each row, the call paths of its window, and those of shells made
    afterwards."""
    options: dict[str, Any] = {"engine": engine, "seed": seed, "store": store, "progress": progress}
    measured = creations(design, guest, wanted, dom0=dom0, own=own, **options)
    return [(row.to_json(), pack(profile.paths()), pack(prepared.paths())) for row, profile, prepared in measured]


def provenance(guest: str) -> dict[str, Any]:
    """What results depend on beside the arguments, the same on every machine: the images, this program's version, and
    a hash of its code and tables (`PROGRAM`)."""
    used = {name: sha256(images.path(name)) for name in ("dom0", "xenstored", guest)}
    try:
        installed = version("pyvmm")
    except PackageNotFoundError:  # a checkout that nobody installed
        installed = "checkout"
    here = Path(__file__).parent
    files = sorted(file for pattern in PROGRAM for file in here.rglob(pattern))
    every = "".join(f"{file.relative_to(here).as_posix()} {sha256(file)}\n" for file in files)
    return {"images": used, "version": installed, "program": hashlib.sha256(every.encode()).hexdigest()}


def sha256(file: Path) -> str:
    """The file's hash, in hexadecimal digits; of nothing when it is not there."""
    return hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()
