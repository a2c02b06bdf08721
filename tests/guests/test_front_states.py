"""The guests' C front ends and our back ends, scheduled by seeds: whatever states the two are in at the same time is a
pair that the one table allows, a device's life meets all the pairs that it should, and no life ends halfway.

Both run as shipped: `daytime` and `blkcheck` in their images, the back ends in the host's dom0. What is chosen at
random is who gets the CPU at each decision of the scheduler, after how many instructions the next decision is, and when
the host asks for something. States are looked at at every event of the trace, where the other end would read them: in
the store and in the control page."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.backends.ports import PythonPort
from pyvmm.errors import ConfigError
from pyvmm.host import Domain, Host
from pyvmm.hypervisor.trace import Event
from pyvmm.hypervisor.vcpu import VCpu
from pyvmm.toolstack.devices import Vbd, Vif
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.noxs import FE_STATE, PageBack
from pyvmm.xenbus.states import Negotiation, State, reachable
from pyvmm.xenbus.xenstore import read_state
from tests.backends import wire

pytestmark = pytest.mark.slow  # very many runs

MIB = 1 << 20
LIVES = 60  # of each device
MAC, IP = "00:16:3e:00:00:02", "10.0.0.2"
ME, ME_MAC = "10.0.0.1", wire.mac("02:00:00:00:00:01")
XENSTORE, NOXS = Negotiation.XENSTORE, Negotiation.NOXS
Pair = tuple[State, State]


class Seeded:
    """A scheduler that chooses at random."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_

    def pick(self, runnable: Sequence[VCpu], last: VCpu | None) -> VCpu:
        """See `Policy.pick`."""
        return self.random.choice(runnable)


class Rig:
    """A host, scheduled by a seed, on which one guest at a time lives."""

    def __init__(self, negotiation: Negotiation, kind: str, disk: Path) -> None:
        self.random = random.Random(f"{kind} over {negotiation.value}")
        self.host = Host(128 * MIB, policy=Seeded(self.random), digest=False)
        self.negotiation, self.kind, self.disk = negotiation, kind, disk
        self.port = PythonPort("me")
        self.host.attach_port(self.port)
        self.peek = self.host.services.xenstored.client()
        self.pairs: set[Pair] = set()
        self.pair: Pair | None = None  # now
        self.guest: Domain
        self.key: Key | None = None
        self.page: PageBack | None = None
        self.looking = False
        self.host.hypervisor.trace.listen(self.look)

    def look(self, event: Event | None) -> None:
        """Note the pair of states, if there is a device."""
        if self.key is None or self.looking:
            return
        self.looking = True  # what is read is an event itself
        self.pair = self._store_pair(self.key) if self.negotiation is XENSTORE else self._page_pair(self.key)
        if self.pair is not None:
            self.pairs.add(self.pair)
        self.looking = False

    def _store_pair(self, key: Key) -> Pair | None:
        front = f"/local/domain/{key.domid}/device/{key.kind}/{key.devid}"
        back = f"/local/domain/0/backend/{key.kind}/{key.domid}/{key.devid}"
        pair = read_state(self.peek, front), read_state(self.peek, back)
        return pair if any(pair) else None

    def _page_pair(self, key: Key) -> Pair | None:
        """A page that the guest has mapped outlives its back end."""
        services = self.host.services
        backend = services.page_backends.devices.get(key)
        if backend is not None and isinstance(backend.channel, PageBack):
            self.page = backend.channel
            return self.page.page.state(FE_STATE), backend.state
        if self.page is None or not any(page == self.page.memory for _, page in services.resources.lingering):
            return None
        return self.page.page.state(FE_STATE), U

    @property
    def at_rest(self) -> Pair | None:
        """The pair of states now that nothing moves any more; None: there is no device."""
        self.host.services.resources.collect()  # of pages that the guest has let go of
        self.look(None)
        return self.pair

    def new_guest(self) -> None:
        image, cmdline = ("blkcheck", "count=16 close") if self.kind == "vbd" else ("daytime", "wait net=")
        if self.kind != "vbd":  # a guest that boots while its device is away would not know where to wait for it
            cmdline += "noxs" if self.negotiation is NOXS else "xs"
        vif = Vif(0, mac=MAC, ip=IP)
        disk = Vbd(str(self.disk), "xvda")
        self.guest = self.host.create(
            image,
            memory=8 * MIB,
            cmdline=f"{cmdline} close=1" if self.kind == "vif" else cmdline,
            vifs=[vif] if self.kind == "vif" else [],
            disks=[disk] if self.kind == "vbd" else [],
            negotiation=self.negotiation.value,
            paused=True,
        )
        devid = {"vif": vif.devid, "vbd": disk.devid, "sysctl": 0}[self.kind]
        self.key = Key(self.kind, self.guest.domid, devid)
        self.host.services.xc.domctl("unpausedomain", self.guest.domid)
        self.host.services.changed()

    def end_guest(self) -> None:
        self.key = self.page = None
        self.host.destroy(self.guest)

    def live(self, acts: Sequence[Callable[[], None]], patient: bool) -> None:
        """Let the guest run in slices of any length, with each of `acts` once both ends are at rest, or (not `patient`)
        at any time before; then until they rest."""
        left = list(acts)
        while True:
            rest = self.host.settle(self.random.randrange(1, 5000)) is None
            if left and (rest or (not patient and self.random.random() < 0.1)):
                left.pop(0)()
            elif rest or self.guest.exit is not None:
                return

    # -- what the host asks for

    def attach(self) -> None:
        with suppress(ConfigError):  # the one before is not through with its removal
            self.guest.attach(Vif(0, mac=MAC, ip=IP))

    def detach(self, *, force: bool = False) -> None:
        assert self.key is not None
        try:
            self.host.services.attach.remove(*_of(self.key), force=force)
        except ConfigError:  # its back end does not know of it yet, or no more
            return
        self.host.services.changed()

    def detach_by_force(self) -> None:
        self.detach(force=True)

    def ask_the_time(self) -> None:
        """Which has the guest close its device, and connect again."""
        query = wire.udp(ME, IP, (4000, 13), b"?")
        self.port.send(wire.arp_request(ME_MAC, ME, IP))
        self.port.send(wire.ip(wire.mac(MAC), ME_MAC, ME, IP, wire.UDP, query))

    def suspend(self) -> None:
        """Which has the guest close its sysctl device, and connect again."""
        self.host.services.attach.ask(self.guest.domid, "suspend")
        self.host.services.changed()

    def power_off(self) -> None:
        self.host.services.attach.ask(self.guest.domid, "poweroff")
        self.host.services.changed()


def _of(key: Key) -> tuple[int, str, int]:
    return key.domid, key.kind, key.devid


U, I, W, P, C, G, D = (  # noqa: E741
    State.UNKNOWN,
    State.INITIALISING,
    State.INIT_WAIT,
    State.INITIALISED,
    State.CONNECTED,
    State.CLOSING,
    State.CLOSED,
)
CONNECTING = {(I, W), (C, W), (C, C)}
CLOSING_FRONT_FIRST = {(G, C), (G, G), (D, G), (D, D)}
AGAIN = {(I, D), (I, W)}
REMOVED = {(C, G), (G, G), (D, G)}
BY_HAND = {
    ("vif", XENSTORE): {(I, I), *CONNECTING, *CLOSING_FRONT_FIRST, *AGAIN, *REMOVED, (D, D)},
    # A disk that is there from the start was probed before its guest first runs: nobody sees (I, I).
    ("vbd", XENSTORE): {(P, W), (P, C), *CONNECTING, *CLOSING_FRONT_FIRST, *AGAIN, *REMOVED} - {(C, W)},
    ("vif", NOXS): {(U, W), *CONNECTING, *CLOSING_FRONT_FIRST, *AGAIN, *REMOVED},
    ("vbd", NOXS): {*CONNECTING, *CLOSING_FRONT_FIRST, *AGAIN, *REMOVED},
    ("sysctl", NOXS): {*CONNECTING, *CLOSING_FRONT_FIRST, *AGAIN, *REMOVED},
}
"""What a life that is connected, closed by the front end, connected again, and removed goes through at least; from the
headers' descriptions of the states, written down without the table."""


@pytest.mark.parametrize(("kind", "negotiation"), BY_HAND)
def test_the_pairs_that_c_front_ends_meet(kind: str, negotiation: Negotiation, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * 64))
    rig = Rig(negotiation, kind, disk)
    acts: list[list[Callable[[], None]]] = {
        "vif": [
            [rig.ask_the_time, rig.detach, rig.attach, rig.detach_by_force, rig.attach],
            [rig.detach, rig.attach, rig.detach_by_force, rig.attach, rig.ask_the_time],
            [rig.detach_by_force, rig.attach, rig.ask_the_time, rig.detach],
        ],
        "vbd": [[], [rig.detach], [rig.detach_by_force]],
        "sysctl": [[rig.suspend, rig.power_off], [rig.suspend, rig.detach], [rig.suspend, rig.detach_by_force]],
    }[kind]
    for life in range(LIVES):
        rig.new_guest()
        rig.live(acts[life % len(acts)], patient=life < len(acts))
        assert rig.at_rest in (None, (C, C)) or rig.guest.exit is not None, life
        rig.end_guest()
    assert rig.host.services.reports == []
    published = State.INITIALISED if (kind, negotiation) == ("vbd", XENSTORE) else State.CONNECTED
    allowed = reachable(negotiation, published, U if (kind, negotiation) == ("vif", NOXS) else I)
    names = sorted(f"{front.text}/{back.text}" for front, back in rig.pairs)
    print(f"{kind} over {negotiation.value}: {len(rig.pairs)} of {len(allowed)} pairs: {' '.join(names)}")
    assert rig.pairs <= allowed, sorted(rig.pairs - allowed)
    assert rig.pairs >= BY_HAND[kind, negotiation], sorted(BY_HAND[kind, negotiation] - rig.pairs)
