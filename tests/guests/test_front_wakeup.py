"""The rule for notifications over a control page, as the guests' C front ends keep it (arm, read, sleep): the back end
changes its state after every single instruction of the guest's that lies between a wake-up, or its own last word, and
its sleep. Wherever that is, the guest sees it.

The back end is ours, held back while the guest runs so many instructions and no more, so that it moves exactly there. A
front end that is built with the two steps exchanged, which is LightVM's order, sleeps through the change at some of the
same places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.host import Host
from pyvmm.images import build
from pyvmm.toolstack.devices import Vif
from pyvmm.xenbus.backend import Backend
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.noxs import FE_STATE, PageBack
from pyvmm.xenbus.states import State

pytestmark = pytest.mark.slow  # very many runs

MIB = 1 << 20
VIF = Vif(0, mac="00:16:3e:00:00:02", ip="10.0.0.2")
BEFORE_SLEEP = 400  # instructions: from its last word to the back end on, and some more


class Trial:
    """A guest that waits for a network device, and has none between two runs."""

    def __init__(self, image: str | Path) -> None:
        self.host = Host(64 * MIB, digest=False)
        self.guest = self.host.create(image, memory=8 * MIB, cmdline="wait net=noxs", negotiation="noxs")
        self.pages = self.host.services.page_backends
        self.key = Key("vif", self.guest.domid, 0)
        self.backend: Backend
        self.host.settle()

    @property
    def instructions(self) -> int:
        """The guest's, so far."""
        return self.host.machine.instructions

    def settle(self) -> int:
        """Until the guest sleeps: how many instructions that took."""
        before = self.instructions
        self.host.settle()
        return self.instructions - before

    def run(self, instructions: int) -> None:
        """Exactly so many, or until it sleeps."""
        if instructions:
            self.host.settle(instructions)

    def notify(self) -> None:
        """A notification that tells nothing new, as each end must expect them."""
        assert isinstance(self.backend.channel, PageBack)
        self.backend.channel.notify()

    def hold(self) -> None:
        """The back end's task does not look after the device any more."""
        self.backend = self.pages.devices.pop(self.key)

    def go_on(self) -> None:
        """The back end does what there is to do, now; its task looks after it again."""
        self.pages.devices[self.key] = self.backend
        self.pages._step(self.key)
        self.host.services.changed()

    @property
    def front(self) -> State:
        """The front end's state, as its page has it."""
        assert isinstance(self.backend.channel, PageBack)
        return self.backend.channel.page.state(FE_STATE)

    @property
    def has_let_go(self) -> bool:
        """The guest has only the sysctl device's page left."""
        return self.key not in self.pages.devices and len(self.guest.xen.grants.maptrack) == 1

    def clear(self) -> None:
        """Whatever has become of it, the device is gone."""
        if self.key in self.pages.devices:
            self.guest.detach(VIF, force=True)
        self.settle()
        assert self.has_let_go

    def begin(self) -> None:
        """A device; its back end is held, waits, and has said so."""
        self.guest.attach(VIF)
        self.hold()

    def connect(self) -> None:
        self.guest.attach(VIF)
        self.settle()
        self.hold()
        assert (self.front, self.backend.state) == (State.CONNECTED, State.CONNECTED)

    # -- each: where the guest is when the back end moves, and whether it saw it in the end

    def connects(self, position: int) -> bool:
        """It has published its rings and waits for Connected."""
        self.begin()
        self.run(position)
        return self._connected()

    def connects_after_a_wakeup(self, position: int) -> bool:
        """The same, woken for nothing."""
        self.begin()
        self.settle()
        self.notify()
        self.run(position)
        return self._connected()

    def _connected(self) -> bool:
        seen = self.guest.console.text.count("the device is here")
        self.go_on()
        self.settle()
        good = self.backend.state is State.CONNECTED and self.guest.console.text.count("the device is here") == seen + 1
        self.clear()
        return good

    def is_closed_after_a_wakeup(self, position: int) -> bool:
        """Connected, and woken for nothing: the back end wants to close."""
        self.connect()
        self.notify()
        self.run(position)
        self.backend.remove()
        return self._closed()

    def closes(self, position: int) -> bool:
        """It was asked to close, has said Closing, and waits for Closed."""
        self.asked_to_close()
        self.run(position)
        return self._closed()

    def closes_after_a_wakeup(self, position: int) -> bool:
        """The same, woken for nothing."""
        self.asked_to_close()
        self.settle()
        self.notify()
        self.run(position)
        return self._closed()

    def asked_to_close(self) -> None:
        """The back end is in Closing, has said so, and is held."""
        self.connect()
        self.backend.remove()
        self.backend.run()
        assert self.backend.state is State.CLOSING

    def _closed(self) -> bool:
        self.go_on()
        self.settle()
        good = self.has_let_go
        self.clear()
        return good


Scenario = Callable[[Trial, int], bool]
WOKEN: list[Scenario] = [
    Trial.connects_after_a_wakeup,
    Trial.is_closed_after_a_wakeup,
    Trial.closes_after_a_wakeup,
]


def until_sleep(trial: Trial, scenario: Scenario) -> int:
    """How many instructions the guest has from where `scenario` begins to count until it sleeps."""
    counted = 0

    def run(instructions: int) -> None:
        nonlocal counted
        counted = trial.settle()

    trial.run = run  # type: ignore[method-assign]
    try:
        assert scenario(trial, 1)
    finally:
        del trial.run  # type: ignore[method-assign]
    return counted


def missed(trial: Trial, scenario: Scenario, positions: range) -> list[int]:
    """The positions at which the guest does not see the change."""
    return [position for position in positions if not scenario(trial, position)]


@pytest.mark.parametrize("scenario", WOKEN)
def test_woken_at_every_instruction(scenario: Scenario) -> None:
    trial = Trial("daytime")
    window = until_sleep(trial, scenario)
    print(f"{window} instructions")
    assert 100 < window < 2000
    assert missed(trial, scenario, range(window + 2)) == []


@pytest.mark.parametrize("scenario", [Trial.connects, Trial.closes])
def test_going_to_sleep_at_every_instruction(scenario: Scenario) -> None:
    trial = Trial("daytime")
    window = until_sleep(trial, scenario)
    print(f"{window} instructions")
    assert window > BEFORE_SLEEP
    assert missed(trial, scenario, range(window - BEFORE_SLEEP, window + 2)) == []


def test_lightvms_order_is_found(tmp_path: Path) -> None:
    """In the same front end, built to read before it arms."""
    guests = tmp_path / "guests"
    shutil.copytree(build.GUESTS, guests)
    source = guests / "kernel/xenbus.c"
    right = "    d->bus->arm(d);\n    if (!d->lost)\n        d->peer = d->bus->peer_state(d);\n"
    wrong = "    if (!d->lost)\n        d->peer = d->bus->peer_state(d);\n    d->bus->arm(d);\n"
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    build.build("daytime", tmp_path / "daytime", guests)
    trial = Trial(tmp_path / "daytime")
    for scenario in WOKEN[:2]:  # in the third the device goes, which VIRQ_NOXS tells as well
        positions = range(until_sleep(trial, scenario) + 2)
        assert not all(scenario(trial, position) for position in positions), scenario
