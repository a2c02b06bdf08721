"""The rule for notifications over a control page: LightVM's front end can sleep through a change, ours cannot, and
neither can our back end.

What runs is the shipped code of both ends on a real page, with real events; each may lose the CPU to the other in front
of every access to the page, in front of every notification, and while it sleeps (`interleave`). A schedule after which
somebody sleeps for ever is a lost wake-up. The single rules are walked through all schedules; whole lives of a device,
connected and closed by either side, through all with up to two preemptions. The same search finds the loss in
LightVM's rule and in each of our functions with its steps in the wrong order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyvmm.abi import devctl
from pyvmm.backends.sysctl_noxs import SYSCTL
from pyvmm.toolstack.libxc import Libxc
from pyvmm.xenbus.backend import Backend
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.frontend import Frontend
from pyvmm.xenbus.noxs import (
    BE_STATE,
    BE_WATCH,
    FE_STATE,
    FE_WATCH,
    NONE,
    REQUESTED,
    UPDATED,
    ControlPage,
    PageBack,
    PageFront,
)
from pyvmm.xenbus.states import State
from tests.xenbus.interleave import Bodies, Found, explore, pause
from tests.xenbus.rig import Rig, Side
from tests.xenbus.test_states import NoRing

KEY = Key("sysctl", 1, 0)
WORDS = {
    getattr(devctl.ctrl_hdr, name).offset: name for name in ("be_state", "fe_state", "fe_watch_state", "be_watch_state")
}


@pytest.fixture(autouse=True)
def decision_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is about to touch the page or to send an event may lose the CPU before."""
    read, write, notify = ControlPage.read, ControlPage.write, Libxc.notify

    def paused_read(page: ControlPage, offset: int, size: int) -> bytes:
        pause(f"reads {WORDS.get(offset, offset)}")
        return read(page, offset, size)

    def paused_write(page: ControlPage, offset: int, data: bytes) -> None:
        pause(f"writes {WORDS.get(offset, offset)} {data[0]}")
        write(page, offset, data)

    def paused_notify(xc: Libxc, port: int) -> None:
        pause("notifies")
        notify(xc, port)

    monkeypatch.setattr(ControlPage, "read", paused_read)
    monkeypatch.setattr(ControlPage, "write", paused_write)
    monkeypatch.setattr(Libxc, "notify", paused_notify)


class Trial:
    """A device that is made anew for each schedule."""

    rig: Rig
    backend: Backend
    frontend: Frontend
    back: PageBack
    front: PageFront

    def __init__(self) -> None:
        self.rig = Rig(SYSCTL)
        _ = self.rig.page

    def begin(self) -> None:
        self.rig.over_page.create("sysctl", 1, 0, None)
        self.frontend = self.rig.page_front(SYSCTL, 0, NoRing())
        self.backend = self.rig.over_page.devices[KEY]
        assert isinstance(self.frontend.channel, PageFront) and isinstance(self.backend.channel, PageBack)
        self.front, self.back = self.frontend.channel, self.backend.channel
        for side, port in ((self.rig.guest, self.front.port), (self.rig.dom0, self.back.port)):
            side.take_events()
            side.api.take_fired(port)

    def end(self) -> None:
        self.rig.over_page.drop(KEY)
        self.front.release()
        self.rig.fronts.clear()
        self.rig.dom0.resources.collect()

    def front_sleeps(self) -> None:
        self._sleep(self.rig.guest, self.front.port)

    def back_sleeps(self) -> None:
        self._sleep(self.rig.dom0, self.back.port)

    def _sleep(self, side: Side, port: int) -> None:
        def woken() -> bool:
            side.take_events()
            return side.api.fired(port)

        pause("sleeps", woken)
        side.api.take_fired(port)


Makes = Callable[[Trial], Bodies]


def search(make: Makes, preemptions: int | None = None, *, first: bool = False) -> Found:
    trial = Trial()

    def begin() -> Bodies:
        trial.begin()
        return make(trial)

    return explore(begin, trial.end, preemptions, first=first)


# -- one end waits for the other's last change


def front_waits(trial: Trial) -> None:
    while trial.front.other() is not State.CLOSED:
        trial.front_sleeps()


def back_changes(trial: Trial) -> None:
    for state in (State.CLOSING, State.CLOSED):
        trial.back.enter(state, {})


def back_waits(trial: Trial) -> None:
    while trial.back.other() is not State.CLOSED:
        trial.back_sleeps()


def front_changes(trial: Trial) -> None:
    for state in (State.CLOSING, State.CLOSED):
        trial.front.enter(state)


def front_notifies_who_asked(trial: Trial) -> None:
    """A front end that keeps to the rule and does no more: ours notifies always, and would hide a back end that does
    not arm in time."""
    page = trial.front.page
    for state in (State.CLOSING, State.CLOSED):
        page.set_word(FE_STATE, state)
        if page.word(BE_WATCH) == REQUESTED:
            page.set_word(BE_WATCH, UPDATED)
            trial.front.resources.xc.notify(trial.front.port)


def lightvms_front_waits(trial: Trial) -> None:
    """LightVM's Mini-OS: armed once before the wait, and again after each delivery, but only after the state was
    read."""
    page = trial.front.page
    page.set_word(FE_WATCH, REQUESTED)
    while page.state(BE_STATE) is not State.CLOSED:
        if page.word(FE_WATCH) != REQUESTED:
            page.set_word(FE_WATCH, REQUESTED)
        trial.front_sleeps()
        if page.word(FE_WATCH) == UPDATED:
            page.set_word(FE_WATCH, NONE)


def pair(front: Callable[[Trial], None], back: Callable[[Trial], None]) -> Makes:
    return lambda trial: [("front", lambda: front(trial)), ("back", lambda: back(trial))]


OURS = [
    pair(front_waits, back_changes),
    pair(front_changes, back_waits),
    pair(front_notifies_who_asked, back_waits),
]


@pytest.mark.parametrize("make", OURS)
def test_ours_loses_none(make: Makes) -> None:
    found = search(make)
    print(f"{found.schedules} schedules of up to {found.longest} steps")
    assert found.schedules > 100
    assert found.stuck == []


def test_the_original_rule_loses_a_wakeup() -> None:
    """Always for the same cause: between the last reading of the state and the arming."""
    found = search(pair(lightvms_front_waits, back_changes), preemptions=3)
    assert found.stuck
    for log in found.stuck:
        front = [what for who, _, what in (line.partition(": ") for line in log) if who == "front"]
        last = log.index("back: writes be_state 6")
        read = len(log) - 1 - log[::-1].index("front: reads be_state")
        assert read < last and front[-2:] == ["reads fe_watch_state", "writes fe_watch_state 1"], log


# -- whole lives: each end runs as its task does, whenever it was notified


def front_lives(trial: Trial) -> None:
    front = trial.frontend
    front.run()
    while front.state is not State.CLOSED:
        trial.front_sleeps()
        front.run()


def front_lives_and_closes(trial: Trial) -> None:
    front = trial.frontend
    front.run()
    while not front.started:
        trial.front_sleeps()
        front.run()
    front.close()
    front_lives(trial)


def back_lives(trial: Trial) -> None:
    back = trial.backend
    back.run()
    while back.state is not State.CLOSED:
        trial.back_sleeps()
        back.run()


def back_lives_and_removes(trial: Trial) -> None:
    back = trial.backend
    back.run()
    while back.state is not State.CONNECTED:
        trial.back_sleeps()
        back.run()
    back.remove()
    back_lives(trial)


LIVES = [pair(front_lives_and_closes, back_lives), pair(front_lives, back_lives_and_removes)]


@pytest.mark.parametrize("make", LIVES)
def test_no_life_loses_one(make: Makes) -> None:
    found = search(make, preemptions=2)
    print(f"{found.schedules} schedules of up to {found.longest} steps")
    assert found.schedules > 100 and found.longest > 30
    assert found.stuck == []


# -- the search finds what it is for: our functions with their steps in the wrong order


def front_reads_first(front: PageFront) -> State:
    if front.found not in front.devices.scan():
        return State.UNKNOWN
    state = front.page.state(BE_STATE)
    front.page.set_word(FE_WATCH, REQUESTED)
    return state


def back_reads_first(back: PageBack) -> State:
    state = back.page.state(FE_STATE)
    back.page.set_word(BE_WATCH, REQUESTED)
    return state


def back_notifies_first(back: PageBack, state: State, say: Any) -> None:
    back.notify()
    back.page.set_word(BE_STATE, state)


def back_marks_after_notifying(back: PageBack) -> None:
    if back.page.word(FE_WATCH) == REQUESTED:
        back.resources.xc.notify(back.port)
        back.page.set_word(FE_WATCH, UPDATED)


def front_notifies_first(front: PageFront, state: State, connection: Any = None) -> None:
    front.resources.xc.notify(front.port)
    front.page.set_word(FE_STATE, state)


MUTANTS: Sequence[tuple[type, str, Callable[..., Any], Makes]] = [
    (PageFront, "other", front_reads_first, OURS[0]),
    (PageBack, "enter", back_notifies_first, OURS[0]),
    (PageBack, "notify", back_marks_after_notifying, OURS[0]),
    (PageFront, "enter", front_notifies_first, OURS[1]),
    (PageBack, "other", back_reads_first, OURS[2]),
]


@pytest.mark.parametrize(("end", "name", "wrong", "make"), MUTANTS)
def test_the_wrong_order_is_found(
    end: type, name: str, wrong: Callable[..., Any], make: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end, name, wrong)
    assert search(make, first=True).stuck
