"""A toolstack in Python measured as `pyvmm.compare` measures one of x86 code.

It runs in the host's native dom0, with the XenStore and the back ends there: no instruction of them is executed on the
machine, and their columns are 0. What is counted all the same is the guest's own boot, hypercalls, events, switches,
and the XenStore's messages.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from traceback import extract_tb
from types import ModuleType
from typing import Any, TypeVar

from pyvmm import images
from pyvmm.compare import A_GUESTS_DOM0, BUDGET, GUESTS, HOST_SLACK, CommandError, Counts, Guests, Row, Runners
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.host import MIB, Host
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.charging import Charging
from pyvmm.hypervisor.digest import Digest
from pyvmm.hypervisor.domain import Domain as XenDomain
from pyvmm.hypervisor.trace import Event
from pyvmm.report.classes import BOOT, CLASSES, PREPARE
from pyvmm.report.profile import Owner, Profile
from pyvmm.report.stacks import Packed, pack
from pyvmm.report.store_tap import GUESTS as FROM_GUESTS
from pyvmm.report.store_tap import SENDERS, TOOLSTACK
from pyvmm.report.symbols import functions_of
from pyvmm.toolstack.design import Design
from pyvmm.toolstack.devices import Vif
from pyvmm.toolstack.libxc import Libxc
from pyvmm.xenstore import Client

NEEDS = ("prepare", "create", "destroy", "list", "console", "shutdown")  # of pyvmm.toolstack.design.Design
Make = Callable[..., Design]
T = TypeVar("T")


_one = RLock()  # there is one stdout, whatever executor runs the sweeps


@contextmanager
def _apart() -> Iterator[None]:
    """What is printed meanwhile, by processes that are started, too, goes to stderr: stdout is for rows."""
    with _one:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)


@_apart()
def load(file: Path) -> list[type]:
    """The designs that a Python file defines: its classes with a `name` and a `create`. `ConfigError`: one line."""
    module = ModuleType(f"pyvmm_own_{hashlib.sha256(bytes(file)).hexdigest()[:16]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses and the like look for it there
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from None
    except BaseException as error:  # SystemExit, too: the command goes on, or says why not
        raise ConfigError(_where(file, error)) from None
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found = [v for v in dict.fromkeys(own) if isinstance(getattr(v, "name", None), str) and hasattr(v, "create")]
    for one in found:
        if missing := [name for name in NEEDS if not callable(getattr(one, name, None))]:
            raise ConfigError(f"{file}: the design {one.__name__} has no {missing[0]} (see pyvmm.toolstack.design)")
    return found


def _where(file: Path, error: BaseException) -> str:
    """An exception of a user's file as one line, with the file's line that it came through last."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
    said = " ".join(str(error).split()) or "no more is known"
    return f"{file}:{lines[-1] if lines else 1}: {type(error).__name__}: {said}"


@dataclass
class _Messages:
    """Requests to the native XenStore in a window, from its events."""

    senders: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    retries: int = 0

    def __call__(self, event: Event) -> None:
        if event.kind is trace.XS_REQUEST:
            operation, _, _, result = event.values
            self.senders[FROM_GUESTS if event.domid else TOOLSTACK] += 1
            self.transactions += operation == "TRANSACTION_START"
            self.retries += operation == "TRANSACTION_END" and result == "EAGAIN"


class NativeControl:
    """A host whose native dom0 makes guests with the toolstack `make(xc, xs, daemons)`."""

    def __init__(self, design: str, make: Make, file: Path, guest: str, most: int, *, engine: str, seed: int) -> None:
        self.design, self.guest, self._file = design, guest, file
        self.facts = GUESTS[guest]
        need = (most + 1) * (self.facts.memory * MIB + A_GUESTS_DOM0) + HOST_SLACK
        self.host = Host(memory=need + -need % MIB, engine=engine, seed=seed, profile=True, digest=False)
        self._functions = functions_of(images.path(guest))
        self._guests = Guests(design, self.facts, self.host.hypervisor.domains)

        def guarded(xc: Libxc, xs: Client, daemons: Any) -> Design:
            return make(xc, xs, daemons)

        self._guarded(lambda: self.host.services.use(guarded))

    def _guarded(self, do: Callable[[], T]) -> T:
        """Do what runs the user's code. Whatever goes wrong there ends the host, and is one line."""
        try:
            return do()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too
            self.host.__exit__(type(error), error, error.__traceback__)
            said = str(error) if isinstance(error, PyvmmError) else _where(self._file, error)
            raise CommandError(f"{self.design}: {said}") from None

    def create(self, n: int, ran: Runners | None = None) -> None:
        """Make the n-th guest, and let all come to rest; `ran` where that is measured."""
        vif = (Vif(0, mac=":".join(f"{b:02x}" for b in (0x00, 0x16, 0x3E, *n.to_bytes(3)))),)
        name, memory = f"{self.guest}{n:05}", self.facts.memory * MIB
        vifs = vif if self.facts.vif else ()
        made = self._guarded(lambda: self.host.create(self.guest, name=name, memory=memory, vifs=vifs))
        if self._guarded(lambda: self.host.settle(BUDGET)) == "budget":
            raise CommandError(f"{self.design}: the host does not come to rest after the {self.guest} of number {n}")
        self._guests.made(n, made.domid, ran)

    def measure(self, n: int) -> tuple[Row, Profile]:
        """Make the n-th guest and say what it took."""
        hv, machine = self.host.hypervisor, self.host.machine
        counts, digest, runners, messages = Counts(), Digest(), Runners(hv.domains), _Messages()
        profile = Profile(lambda context: self._owner(runners.of(context)))
        stops = [hv.trace.listen(listener) for listener in (counts, digest, runners, messages)]
        charging, before = Charging(hv), machine.instructions
        machine.log_start(profile.add)
        try:
            self.create(n, runners)
        finally:
            machine.log_stop()
            for stop in stops:
                stop()
            charging.stop()
        total = machine.instructions - before
        assert profile.total == total, "the profile's sum is the machine's"
        row = Row(
            design=self.design,
            guest=self.guest,
            n=n,
            total=total,
            classes={name: total if name == BOOT else 0 for name in CLASSES if name != PREPARE},
            prepare=0,
            charged=charging.total,
            charged_by=charging.by,
            store_messages=messages.senders.total(),
            messages={name: messages.senders[name] for name in SENDERS},
            transactions=messages.transactions,
            retries=messages.retries,
            hypercalls=counts.hypercalls,
            events=counts.events,
            switches=counts.switches,
            digest=digest.hexdigest(),
        )
        return row, profile

    def _owner(self, domain: XenDomain | None) -> Owner:
        return Owner(f"d{domain.domid}" if domain else "idle", "guest", self._functions)


@_apart()
def measure(
    design: str,
    file: Path,
    guest: str,
    wanted: Sequence[int],
    engine: str = "auto",
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> list[tuple[dict[str, Any], Packed, Packed]]:
    """As `pyvmm.compare.measure`, with the design of that name in a Python file: it has no shells. Rows say `native`
    besides."""
    make = next(one for one in load(file) if getattr(one, "name", None) == design)
    control = NativeControl(design, make, file, guest, max(wanted), engine=engine, seed=seed)
    found = []
    for n in range(1, max(wanted) + 1):
        if n in wanted:
            row, profile = control.measure(n)
            found.append(({**row.to_json(), "native": True}, pack(profile.paths()), pack(())))
        else:
            control.create(n)
        progress(n)
    return found


__all__ = ["NativeControl", "load", "measure"]
