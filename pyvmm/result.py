"""What a run did: the figures of each domain, and how it all ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pyvmm.abi import sched
from pyvmm.hypervisor.domain import Domain

# SHUTDOWN_* of public/sched.h: what a run's or a domain's end is called.
SHUTDOWN_NAMES = {
    sched.SHUTDOWN_poweroff: "poweroff",
    sched.SHUTDOWN_reboot: "reboot",
    sched.SHUTDOWN_suspend: "suspend",
    sched.SHUTDOWN_crash: "crash",
    sched.SHUTDOWN_watchdog: "crash",
    sched.SHUTDOWN_soft_reset: "reboot",
}
# A run's end, by how much it should worry: that of the guest that comes first here is the run's.
EXITS = ("crash", "reboot", "suspend", "poweroff")
EXIT_STATUS = {"poweroff": 0, "suspend": 0, "left": 0, "reboot": 3, "crash": 4, "budget": 5, "deadlock": 6}


@dataclass(frozen=True)
class GrantFigures:
    """What a domain did with other domains' grants, and what is so just now: entries of its own table that others use
    (`in_use`), mappings that it has (`held`)."""

    mapped: int
    unmapped: int
    copied: int
    bytes_copied: int
    transferred: int
    in_use: int
    held: int


@dataclass(frozen=True)
class DomainResult:
    """What one domain did. Counts are exact; a native domain executes no instructions. `ports`: event channels it has
    just now. `exit` is None while it runs."""

    domid: int
    name: str
    instructions: int
    rep_iterations: int
    hypercalls: Mapping[str, int]
    exceptions: int
    events_sent: int
    events_received: int
    switches: int
    ports: int
    grants: GrantFigures
    exit: str | None = None
    crash_report: str | None = None
    console: str = ""


@dataclass(frozen=True)
class Result:
    """A run so far: why it stopped (`exit`, a key of `EXIT_STATUS`), what each domain did, and the fingerprint of
    all events."""

    exit: str
    digest: str
    host_seconds: float
    images: Mapping[str, str]
    domains: tuple[DomainResult, ...]

    @property
    def exit_status(self) -> int:
        """What a command that made this run returns to the shell."""
        return EXIT_STATUS[self.exit]

    def domain(self, name: str) -> DomainResult:
        """The domain called `name`; KeyError when there is none."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data: what ``pyvmm run --json`` writes."""
        domains = [asdict(domain) for domain in self.domains]
        for domain in domains:
            for text in ("exit", "crash_report", "console"):
                del domain[text]
        return {
            "exit": self.exit,
            "digest": self.digest,
            "host_seconds": self.host_seconds,
            "images": dict(self.images),
            "domains": domains,
        }


def exit_of(domain: Domain) -> str | None:
    """How a domain ended: poweroff, reboot, suspend or crash; None while it runs."""
    code = domain.shutdown_code
    return None if code is None else SHUTDOWN_NAMES.get(code, "crash")


def result_of(domain: Domain, console: str | None) -> DomainResult:
    """What `domain` has done so far. `console`: what it printed; None for one that is no guest and has no end."""
    c = domain.counters
    return DomainResult(
        domid=domain.domid,
        name=domain.name,
        instructions=c.instructions,
        rep_iterations=c.rep_iterations,
        hypercalls=dict(sorted(c.hypercalls.items())),
        exceptions=c.exceptions,
        events_sent=c.events_sent,
        events_received=c.events_received,
        switches=c.switches,
        ports=len(domain.evtchn.ports),
        grants=GrantFigures(
            mapped=c.grants_mapped,
            unmapped=c.grants_unmapped,
            copied=c.grants_copied,
            bytes_copied=c.grant_bytes,
            transferred=c.grants_transferred,
            in_use=sum(active.pinned for active in domain.grants.active.values()),
            held=len(domain.grants.maptrack),
        ),
        exit=None if console is None else exit_of(domain),
        crash_report=domain.crash_report,
        console=console or "",
    )
