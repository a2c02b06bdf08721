"""The states of dom0's back ends in C are those of the one table, `pyvmm.xenbus.states`: every pair, every reason."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.images import build
from pyvmm.xenbus.states import Action, End, Negotiation, State, Why, find

from .dom0_native import FLAGS

OFFER, CONNECT, DISCONNECT = 1, 2, 4
DID = {Action.PROBE: OFFER, Action.CONNECT: CONNECT, Action.STOP: DISCONNECT}
LIVE = (State.INIT_WAIT, State.CONNECTED, State.CLOSING, State.CLOSED)
"""The others are over when a back end in C knows of its device: it probes what it finds before it is in any."""

Step = Callable[[int, int, bool, bool], int]


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """One step of guests/dom0/back.c."""
    work = tmp_path_factory.mktemp("back")
    _, header = build.generate(build.parse_hypercalls((build.GUESTS / "kernel/hypercalls.list").read_text()))
    (work / "hypercalls.h").write_text(header)
    folders = [f"-I{folder}" for folder in (build.GUESTS / "kernel", build.GUESTS / "dom0", work)]
    source = Path(__file__).with_name("dom0_native") / "back_states.c"
    command = [*build.compiler(), *FLAGS, "-Wl,-z,lazy", *folders, "-o", "back.so", str(source)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    function = ctypes.CDLL(str(work / "back.so"), mode=0x1).harness_step  # RTLD_LAZY: most of the kernel is not there
    function.argtypes = [ctypes.c_uint32, ctypes.c_uint32, ctypes.c_bool, ctypes.c_bool]
    function.restype = ctypes.c_uint32
    return function  # type: ignore[no-any-return]


def test_what_is_seen(step: Step) -> None:
    """Each row of the table, and no other; in InitWait and Closing there is no connection to be ended."""
    taken = set()
    for own in LIVE:
        for other in State:
            row = find(End.BACK, Negotiation.XENSTORE, own, other, Why.SEEN)
            assert row == find(End.BACK, Negotiation.NOXS, own, other, Why.SEEN)
            result = step(own, other, False, False)
            assert result & 0xFF == (own if row is None else row.to), (own, other)
            did = 0 if row is None else DID[row.action]
            assert result >> 8 == (did if own is State.CONNECTED or did != DISCONNECT else 0), (own, other)
            taken.add(row)
    assert len(taken) == 9  # eight rows, and none


def test_states_that_there_are_not(step: Step) -> None:
    """A front end may write any number: it counts as Unknown."""
    for own in LIVE:
        for other in (9, 77, 1 << 31, 0xFFFFFFFF):
            assert step(own, other, False, False) == step(own, State.UNKNOWN, False, False)


def test_failures_and_removal(step: Step) -> None:
    for other in (State.INITIALISED, State.CONNECTED):
        row = find(End.BACK, Negotiation.XENSTORE, State.INIT_WAIT, other, Why.FAILED)
        assert row is not None
        assert step(State.INIT_WAIT, other, True, False) == row.to | (CONNECT | DISCONNECT) << 8
    for own in (State.INIT_WAIT, State.CONNECTED):
        for other in State:
            row = find(End.BACK, Negotiation.XENSTORE, own, other, Why.CLOSE)
            assert row is not None and step(own, other, False, True) & 0xFF == row.to
    assert step(State.CLOSED, State.INITIALISING, False, True) == State.CLOSED  # there is no next time
