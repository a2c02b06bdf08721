"""Sweeps of `pyvmm compare` and `pyvmm figures`: several at a time, kept in a directory, and how far they are.

A sweep is one design making one kind of guest. Each runs in an Executor's worker, is kept when it is done, and is taken
from there when it is asked for again under the same conditions.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.errors import PyvmmError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from pyvmm.designs import Own
    from pyvmm.report.stacks import Frame, Stack

GLANCE = 0.25  # seconds between two looks at how far the sweeps are
LIBRARIES = ("unicorn", "capstone", "cffi", "numpy", "pyelftools")  # that have a part in what is measured
A_WORD = 20.0  # seconds between two lines about that, where there is no terminal
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Measured(NamedTuple):
    """One creation: its row (`pyvmm.compare.Row`), and the call paths (`pyvmm.report.stacks`) of its window and of
    shells made afterwards, as plain data."""

    row: dict[str, Any]
    paths: dict[str, Any]
    prepared: dict[str, Any]

    def stacks(self) -> tuple[list[Stack], list[Stack]]:
        """Those that are part of the row's total, and those of its column `prepare`: the counts' sums are theirs."""
        from pyvmm.report.classes import prepares
        from pyvmm.report.stacks import unpack

        window = list(unpack(self.paths))
        later: Counter[tuple[str, str, tuple[Frame, ...]]] = Counter()
        for domain, role, path, n in chain(filter(prepares, window), unpack(self.prepared)):
            later[domain, role, path] += n
        return [stack for stack in window if not prepares(stack)], [(*key, n) for key, n in later.items()]


@dataclass(frozen=True)
class Sweep:
    """What is measured: creations `numbers` of `guest` by `design`, and what else has a part in it."""

    design: str
    guest: str
    numbers: tuple[int, ...]
    store: str = "c"
    seed: int = 0
    engine: str = "auto"
    own: Own | None = None  # the design, when it is a user's own

    @property
    def name(self) -> str:
        """What it is called, on the screen and as a file."""
        return f"{self.design}-{self.guest}"

    def run(self, told: str) -> list[Measured]:
        """Measure it, here. The number of guests made so far is written to the file `told`, if that can be: a worker on
        another machine cannot."""
        from pyvmm import compare, native

        where = told if os.path.isdir(os.path.dirname(told)) else os.devnull
        with open(where, "w", encoding="ascii") as file:

            def progress(n: int) -> None:
                file.seek(0)
                file.write(f"{n}")
                file.flush()

            what = (self.guest, self.numbers, self.engine, self.seed)
            if self.own is None:
                found = compare.measure(self.design, *what, self.store, progress)
            elif self.own.dom0 is None:
                found = native.measure(self.design, self.own.source, *what, progress)
            else:
                found = compare.measure(self.design, *what, self.store, progress, self.own.dom0, self.own.facts)
        return [Measured(*one) for one in found]

    @property
    def keepable(self) -> bool:
        """All that its result depends on is known. Not so of a design in Python, which may import and read anything."""
        return self.own is None or self.own.dom0 is not None

    def key(self) -> dict[str, Any]:
        """All that its result depends on, if it is `keepable`."""
        from pyvmm import compare

        own = None
        if self.own is not None and self.own.dom0 is not None:
            dom0 = self.own.dom0
            own = {"image": self.own.sha256, "functions": compare.sha256(dom0.with_name(f"{dom0.name}.functions"))}
        extension = find_spec("pyvmm.machine._fast")
        return {
            "design": self.design,
            "guest": self.guest,
            "numbers": list(self.numbers),
            "store": self.store,
            "seed": self.seed,
            "engine": self.engine,
            "own": own,
            "extension": compare.sha256(Path(extension.origin)) if extension and extension.origin else None,
            "libraries": {name: version(name) for name in LIBRARIES},
            **compare.provenance(self.guest),
        }


def directory(name: str, what: str) -> Path:
    """The directory `name`, made if it is not there. `UsageError`."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the {what} directory {name}: {error.strerror}") from None
    return path


class Kept:
    """Finished sweeps in a directory (None: nowhere), each in a file that is named by all that it depends on: what
    differs in anything has a file of its own."""

    def __init__(self, where: str | None) -> None:
        self._path = directory(where, "resume") if where is not None else None
        self._keys: dict[Sweep, dict[str, Any]] = {}

    def _key(self, sweep: Sweep) -> dict[str, Any]:
        """What it depends on, as it was when it was first asked for."""
        if sweep not in self._keys:
            self._keys[sweep] = sweep.key()
        return self._keys[sweep]

    def _file(self, sweep: Sweep) -> Path | None:
        """Where it is kept; None: nowhere."""
        if self._path is None or not sweep.keepable:
            return None
        digest = hashlib.sha256(json.dumps(self._key(sweep), sort_keys=True).encode()).hexdigest()
        return self._path / f"{sweep.name}-{sweep.numbers[-1]}-{digest[:16]}.json"

    def load(self, sweep: Sweep) -> list[Measured] | None:
        """Its creations, if they were measured under the same conditions."""
        file = self._file(sweep)
        if file is None or not file.exists():
            return None
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            found = [Measured(**one) for one in kept["creations"]]
            whole = [one.row["n"] for one in found] == list(sweep.numbers)
            return found if whole and kept["run"] == self._key(sweep) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # cut off in the middle, or not ours: measured again

    def save(self, sweep: Sweep, found: Sequence[Measured]) -> None:
        """Keep it; a half-written file never has the name. Not kept, and said so: what was measured while that which it
        depends on was changed, for nobody knows of which state it is."""
        file = self._file(sweep)
        if file is None:
            return
        if sweep.key() != self._key(sweep):
            print(f"pyvmm: {sweep.name} is not kept: pyvmm was changed while it was measured", file=sys.stderr)
            return
        kept = {"run": self._key(sweep), "creations": [one._asdict() for one in found]}
        new = file.with_suffix(".new")
        try:
            new.write_text(json.dumps(kept), encoding="utf-8")
            new.rename(file)
        except OSError as error:
            raise UsageError(f"cannot keep {file}: {error.strerror}") from None


def _begin() -> None:
    """What a worker does first. It ends with the command, however that ends, else it would wait for work for ever; and
    without a word when somebody has had enough (Ctrl-C is for the whole process group), also between two sweeps."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    command = parent_process()
    if command is not None and not command.is_alive():  # already
        os._exit(1)
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))


def workers(most: int) -> Executor:
    """Processes of this machine, so many at a time."""
    return ProcessPoolExecutor(most, initializer=_begin)


def run(executor: Executor, sweeps: Sequence[Sweep], kept: Kept) -> dict[Sweep, list[Measured]]:
    """All of the sweeps: the kept ones, and the others by `executor`'s workers. Says on stderr how far they are."""
    found = {sweep: one for sweep in sweeps if (one := kept.load(sweep)) is not None}
    with tempfile.TemporaryDirectory() as folder:
        told = {sweep: Path(folder) / str(number) for number, sweep in enumerate(sweeps) if sweep not in found}
        futures = {executor.submit(sweep.run, str(file)): sweep for sweep, file in told.items()}
        waiting = set(futures)
        with _progress(told) as progress:
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=GLANCE, return_when=FIRST_COMPLETED)
                    for future in done:
                        sweep = futures[future]
                        try:
                            found[sweep] = future.result()
                        except BrokenExecutor:
                            left = dict.fromkeys(sweep.design for sweep in told if sweep not in found)
                            raise PyvmmError(
                                f"a process was killed, of those that were to measure {', '.join(left)}; --resume DIR "
                                "keeps what is done"
                            ) from None
                        kept.save(sweep, found[sweep])
                        progress.done(sweep)
                    progress.look()
            finally:
                for future in waiting:  # one has failed, or somebody has had enough
                    future.cancel()
    return {sweep: found[sweep] for sweep in sweeps}


def _made(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii") or 0)
    except (OSError, ValueError):
        return 0


class _Lines:
    """Progress as lines: one when a sweep is done, one now and then for those that go on."""

    def __init__(self, told: Mapping[Sweep, Path]) -> None:
        self._open = dict(told)
        self._all = len(told)
        self._next = time.monotonic() + A_WORD

    def done(self, sweep: Sweep) -> None:
        """The sweep is finished."""
        del self._open[sweep]
        count = f"{self._all - len(self._open)} of {self._all}"
        print(f"pyvmm: {sweep.name}: {sweep.numbers[-1]} guests made ({count})", file=sys.stderr, flush=True)

    def look(self) -> None:
        """How far are the others?"""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + A_WORD
        far = [f"{s.name} {made} of {s.numbers[-1]}" for s, file in self._open.items() if (made := _made(file))]
        if far:
            print(f"pyvmm: {', '.join(far)}", file=sys.stderr, flush=True)


class _Bars:
    """Progress as bars on a terminal, one a sweep."""

    def __init__(self, told: Mapping[Sweep, Path], bars: Progress) -> None:
        self._told, self._bars = told, bars
        self._tasks = {sweep: bars.add_task(sweep.name, total=sweep.numbers[-1]) for sweep in told}

    def done(self, sweep: Sweep) -> None:
        """The sweep is finished."""
        self._bars.update(self._tasks[sweep], completed=sweep.numbers[-1])

    def look(self) -> None:
        """How far is each?"""
        for sweep, task in self._tasks.items():
            if made := _made(self._told[sweep]):
                self._bars.update(task, completed=made)


@contextmanager
def _progress(told: Mapping[Sweep, Path]) -> Iterator[_Lines | _Bars]:
    if not sys.stderr.isatty():
        yield _Lines(told)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(told, bars)
