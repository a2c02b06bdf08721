"""The table of states, both ends' shipped Python code, both negotiations: the pairs of states that are met are those
that the table allows, all of them and no other; and the table says what the public headers and Linux's drivers say.

Every order of steps is walked, up to `DEPTH` of them: looking at the other end and acting on what was seen are two
steps, so that an end may act on what is no longer true; between any two of them the guest opens or closes, the
toolstack removes the device, something fails, or the guest vanishes. The store, the pages, the grants and the ports are
real. A step is atomic here: `test_wakeup.py` goes on below that. The disk's front end is the shipped one; that of a
network interface is a guest's, so it is stood in for here, and walked in `tests/guests/test_front_states.py`, as are
all front ends in C.

There are five cases and not six: sysctl is a device over noxs only. Over the XenStore its place is taken by the node
`control/shutdown`, which has no states and no back end."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm.backends import vif_noxs, vif_xenstore
from pyvmm.backends.blkfront import Blkfront
from pyvmm.backends.switch import Switch
from pyvmm.backends.sysctl_noxs import SYSCTL
from pyvmm.backends.vbd import VbdConfig
from pyvmm.backends.vbd_xenstore import VBD
from pyvmm.backends.vif import Network, VifConfig
from pyvmm.xenbus import picture, states
from pyvmm.xenbus.backend import Backend, Connection, DeviceError, Driver, Features
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.frontend import FrontPath
from pyvmm.xenbus.noxs import PageFront
from pyvmm.xenbus.resources import Page, Resources
from pyvmm.xenbus.states import Action, End, Negotiation, State, Why, reachable
from tests.xenbus.rig import Rig

DEPTH = 60  # steps from a new device; no walk is that long
FIRST = State.INITIALISING
XENSTORE, NOXS = Negotiation.XENSTORE, Negotiation.NOXS


class NoRing:
    """The front end's side of a device without rings (sysctl)."""

    def publish(self, backend_domid: int, offered: Features) -> Connection:
        return Connection(1, features={"poweroff": 1})

    def start(self, details: Features) -> None:
        pass

    def stop(self) -> None:
        pass

    def release(self) -> None:
        pass


class TwoRings:
    """The front end's side of a network interface, as far as it concerns the negotiation: two rings, one port."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.port = 0
        self.pages: list[tuple[int, Page]] = []

    def publish(self, backend_domid: int, offered: Features) -> Connection:
        for _ in range(2):
            page = self.resources.page()
            self.pages.append((self.resources.grant(backend_domid, page), page))
        self.port = self.resources.xc.alloc_unbound(1, backend_domid)
        (tx, _), (rx, _) = self.pages
        return Connection(1, ((tx,), (rx,)), (self.port,), {"request_rx_copy": 1, "rx_notify": 1})

    def start(self, details: Features) -> None:
        pass

    def stop(self) -> None:
        pass

    def release(self) -> None:
        if self.port:
            self.resources.xc.close_port(self.port)
        for ref, page in self.pages:
            self.resources.revoke_and_free(ref, page)
        self.port, self.pages = 0, []


def break_once(path: Any, *names: str) -> None:
    """Let the next call of one of these methods fail."""

    def fail(*args: Any) -> Any:
        for name in names:
            delattr(path, name)
        raise DeviceError("made to fail")

    for name in names:
        setattr(path, name, fail)


def mend(path: Any, *names: str) -> None:
    for name in names:
        path.__dict__.pop(name, None)


class Walk:
    """One device, from its beginning: steps by name, and what distinguishes one moment from another."""

    def __init__(self, rig: Rig, driver: Driver, negotiation: Negotiation, config: Any, path: FrontPath) -> None:
        self.rig, self.driver, self.negotiation = rig, driver, negotiation
        self.key = Key(driver.kind, 1, 7)
        self.front_is_gone = self.back_is_gone = False
        self.front_saw = self.back_saw = State.UNKNOWN
        if negotiation is XENSTORE:
            rig.add_to_store(driver.kind, 7, **config)
            over = rig.over_store
            over.client.events()
            found = over._found(self.key, over.path(self.key))
            assert found is not None
            self.back: Backend = found
            self.front = rig.store_front(driver, 7, path)
        else:
            rig.over_page.create(driver.kind, 1, 7, config)
            self.back = rig.over_page.devices[self.key]
            self.front = rig.page_front(driver, 7, path)

    @property
    def pair(self) -> tuple[State, State]:
        """The states where the other end would read them."""
        if self.negotiation is XENSTORE:
            return self.back.channel.other(), self.front.channel.other()
        assert isinstance(self.front.channel, PageFront)
        front = self.front.channel.page.state(8)
        return front, self.front.channel.other()

    @property
    def moment(self) -> tuple[object, ...]:
        front, back = self.front, self.back
        return (
            front.state,
            back.state,
            self.front_saw,
            self.back_saw,
            front.wanted,
            front.started,
            back.removing,
            back.broken,
            self.front_is_gone,
            self.back_is_gone,
        )

    def front_looks(self) -> None:
        if not self.front_is_gone:
            self.front_saw = self.front.channel.other()

    def front_acts(self) -> None:
        if not self.front_is_gone:
            self.front.act(self.front_saw)

    def front_fails(self) -> None:
        if not self.front_is_gone and self.front.state in (State.INITIALISED, State.CONNECTED):
            self.front.fail("made to fail")

    def front_cannot_publish(self) -> None:
        if not self.front_is_gone:
            break_once(self.front.path, "publish", "start")
            self.front.act(self.front_saw)
            mend(self.front.path, "publish", "start")

    def guest_changes_its_mind(self) -> None:
        if not self.front_is_gone:
            self.front.wanted = not self.front.wanted

    def guest_vanishes(self) -> None:
        if self.negotiation is XENSTORE and not self.front_is_gone:
            self.rig.tools.rm(f"/local/domain/1/device/{self.driver.kind}/7")
            self.front.path.release()
            self.front.state, self.front_is_gone = State.UNKNOWN, True

    def back_looks(self) -> None:
        if not self.back_is_gone:
            self.back_saw = self.back.channel.other()

    def back_acts(self) -> None:
        if not self.back_is_gone:
            self.back.act(self.back_saw)
            self._gone()

    def back_fails(self) -> None:
        if not self.back_is_gone and self.back.state is State.CONNECTED:
            self.back.fail("made to fail")

    def back_cannot(self) -> None:
        if not self.back_is_gone:
            break_once(self.back.path, "probe", "connect")
            self.back.act(self.back_saw)
            mend(self.back.path, "probe", "connect")

    def toolstack_removes(self) -> None:
        if not self.back_is_gone:
            self.back.remove()
            self._gone()

    def _gone(self) -> None:
        if self.back.closed_for_good and self.finishing:
            self.back_is_gone = True

    finishing = False

    def removal_is_through(self) -> None:
        """What `StoreBackends` and `PageBackends` do then."""
        if not self.back_is_gone and self.back.closed_for_good:
            self.back_is_gone = True
            if self.negotiation is XENSTORE:
                self.rig.over_store.drop(self.key)
                self.rig.tools.rm(self.rig.over_store.path(self.key))
            else:
                self.rig.over_page.drop(self.key)
            self.back.state = State.UNKNOWN

    def end(self) -> None:
        """Clear up for the next walk."""
        if not self.front_is_gone:
            self.front.path.release()
        self.rig.over_store.drop(self.key)
        self.rig.over_page.drop(self.key)
        self.front.channel.release()
        self.rig.fronts.clear()
        for path in ("/local/domain/1", "/local/domain/0"):
            if self.rig.tools.exists(path):
                self.rig.tools.rm(path)
        self.rig.over_store.client.events()
        self.rig.client.events()


Moment = tuple[object, ...]
Step = Callable[[Walk], None]
STEPS: list[Step] = [
    Walk.front_looks,
    Walk.front_acts,
    Walk.front_fails,
    Walk.front_cannot_publish,
    Walk.guest_changes_its_mind,
    Walk.guest_vanishes,
    Walk.back_looks,
    Walk.back_acts,
    Walk.back_fails,
    Walk.back_cannot,
    Walk.toolstack_removes,
    Walk.removal_is_through,
]


class Explorer:
    """Walks until every step was tried at every moment within `DEPTH` steps of the beginning. It goes on from where it
    is, by known steps to the nearest moment where something is untried, and begins anew only when there is none."""

    def __init__(self, new: Callable[[], Walk]) -> None:
        self.new = new
        self.walk = new()
        self.start = self.walk.moment
        self.depth: dict[Moment, int] = {self.start: 0}
        self.untried: dict[Moment, list[Step]] = {self.start: list(STEPS)}
        self.edges: dict[Moment, dict[Step, Moment]] = {}
        self.pairs = {self.walk.pair}

    def run(self) -> None:
        while True:
            way = self._way(self.walk.moment)
            if way is None:
                self.walk.end()
                self.walk = self.new()
                assert self.walk.moment == self.start
                way = self._way(self.start)
                if way is None:
                    break
            for step in way:
                expected = self.edges[self.walk.moment][step]
                step(self.walk)
                assert self.walk.moment == expected, "a walk does not repeat"
            self._try()
        self.walk.end()

    def _try(self) -> None:
        moment = self.walk.moment
        step = self.untried[moment].pop()
        step(self.walk)
        self.pairs.add(self.walk.pair)
        here = self.walk.moment
        self.edges.setdefault(moment, {})[step] = here
        if here not in self.depth:
            self.depth[here] = self.depth[moment] + 1
            self.untried[here] = list(STEPS) if self.depth[here] < DEPTH else []

    def _way(self, moment: Moment) -> list[Step] | None:
        """Known steps from `moment` to the nearest one where something is untried."""
        came: dict[Moment, tuple[Moment, Step] | None] = {moment: None}
        queue = deque([moment])
        while queue:
            here = queue.popleft()
            if self.untried[here]:
                way: list[Step] = []
                while (back := came[here]) is not None:
                    here, step = back
                    way.append(step)
                return way[::-1]
            for step, there in self.edges.get(here, {}).items():
                if there not in came:
                    came[there] = here, step
                    queue.append(there)
        return None


def walk_everything(new: Callable[[], Walk]) -> tuple[set[tuple[State, State]], int, int]:
    """All moments up to `DEPTH`: the pairs of states met, the number of moments, and how deep the deepest was."""
    explorer = Explorer(new)
    explorer.run()
    return explorer.pairs, len(explorer.depth), max(explorer.depth.values())


MAC = "00:16:3e:00:00:01"
CASES = [("vbd", XENSTORE), ("vbd", NOXS), ("vif", XENSTORE), ("vif", NOXS), ("sysctl", NOXS)]


OVER_STORE = {
    "vbd": """
                 Unknown Initialising InitWait Connected Closing Closed
    Unknown      o       o            o        o         o       o
    Initialising o       o            o        .         o       o
    Initialised  o       .            o        o         o       o
    Connected    .       .            .        o         o       .
    Closing      o       .            o        o         o       o
    Closed       o       o            o        .         o       o
    """,
    "vif": """
                 Unknown Initialising InitWait Connected Closing Closed
    Unknown      o       o            o        o         o       o
    Initialising o       o            o        .         o       o
    Connected    o       .            o        o         o       o
    Closing      o       .            o        o         o       o
    Closed       o       o            o        .         o       o
    """,
}
OVER_NOXS = """
                 Unknown InitWait Connected Closing Closed
    Initialising o       o        .         o       o
    Connected    o       o        o         o       o
    Closing      o       o        o         o       o
    Closed       o       o        .         o       o
"""
BEFORE_IT_IS_FOUND = """
    Unknown      o       o        .         o       o
"""
GRIDS = {
    ("vbd", XENSTORE): OVER_STORE["vbd"],
    ("vif", XENSTORE): OVER_STORE["vif"],
    ("vbd", NOXS): OVER_NOXS,
    ("sysctl", NOXS): OVER_NOXS,
    ("vif", NOXS): OVER_NOXS + BEFORE_IT_IS_FOUND,
}
"""The pairs, front ends down, back ends across, written down by hand. Why the others cannot be:

- Beside a Connected back end a front end has published rings and not yet said that it closes, or says so: Initialising
  and Closed are not there (io/xenbus.h: Initialised is "waiting for a connection from the peer"; blkback connects when
  it sees Initialised or Connected, netback at Connected; both disconnect before they leave that state, and the front
  end frees its pages, Closed, only when they have). Only a guest that is gone (Unknown, over the XenStore) is.
- A front end publishes when it sees InitWait and not before, so that none with rings is beside Initialising.
- A disk's front end over the XenStore is Connected only when its back end was (blkfront: blkfront_connect), and a
  back end that was Connected is Closed only when the front end has said Closing or is gone.
- No back end of these is ever Initialised, and neither end Reconfiguring or Reconfigured (pciback's).
- Over noxs the back end is in InitWait before the device is found; there is no Initialising.
"""


def by_hand(grid: str) -> list[str]:
    """The pairs of a grid, as names."""
    head, *rows = [line.split() for line in grid.strip("\n").splitlines() if line.strip()]
    return [f"{row[0]}/{back}" for row in rows for back, mark in zip(head, row[1:], strict=True) if mark == "o"]


@pytest.mark.parametrize(("kind", "negotiation"), CASES)
def test_the_pairs_met_are_those_of_the_table(
    kind: str, negotiation: Negotiation, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(4096))
    rig = Rig()
    _ = rig.page
    resources = rig.guest.resources
    config: Any = None
    driver: Driver = SYSCTL
    path: Callable[[], FrontPath] = NoRing
    if kind == "vbd":
        driver, path = VBD, lambda: Blkfront(resources)
        config = {"params": str(image), "mode": "w"} if negotiation is XENSTORE else VbdConfig(str(image))
    elif kind == "vif":
        network = Network(rig.dom0.resources, lambda name: switch)
        switch = Switch("xenbr0", lambda: 0)
        driver, path = Driver("vif", network.make, vif_xenstore.WORDS, vif_noxs.WORDS), lambda: TwoRings(resources)
        config = {"mac": MAC, "bridge": "xenbr0", "handle": "7"} if negotiation is XENSTORE else VifConfig(MAC)
    (rig.over_store if negotiation is XENSTORE else rig.over_page).add_driver(driver)

    pairs, moments, depth = walk_everything(lambda: Walk(rig, driver, negotiation, config, path()))
    assert depth < DEPTH  # all there is was walked, not only the beginning
    published = State.INITIALISED if (kind, negotiation) == ("vbd", XENSTORE) else State.CONNECTED
    allowed = reachable(negotiation, published, State.UNKNOWN if (kind, negotiation) == ("vif", NOXS) else FIRST)
    names = sorted(f"{front.text}/{back.text}" for front, back in pairs)
    record_property("pairs", names)
    print(f"{kind} over {negotiation.value}: {len(pairs)} pairs, {moments} moments, depth {depth}: {' '.join(names)}")
    assert pairs == allowed, (sorted(pairs - allowed), sorted(allowed - pairs))
    assert names == sorted(by_hand(GRIDS[kind, negotiation])), "what is written down here, without the table"
    for side in (rig.guest, rig.dom0):
        side.resources.collect()
    assert rig.guest.resources.lingering == [] == rig.dom0.resources.lingering


I, W, P, C, G, D = (  # noqa: E741
    State.INITIALISING,
    State.INIT_WAIT,
    State.INITIALISED,
    State.CONNECTED,
    State.CLOSING,
    State.CLOSED,
)
LINUX = {
    End.BACK: [  # drivers/block/xen-blkback/xenbus.c, drivers/net/xen-netback/xenbus.c: frontend_changed
        (D, I, W),  # both: "if (dev->state == XenbusStateClosed) xenbus_switch_state(dev, XenbusStateInitWait)"
        (W, P, C),  # blkback: connect_ring, xen_update_blkif_status
        (W, C, C),  # both
        (C, C, C),  # both: "if (dev->state == XenbusStateConnected) break"
        (C, P, C),  # blkback, the same
        (W, G, G),  # both
        (C, G, G),  # both
        (G, G, G),
        (C, D, D),  # both; netback through Closing
        (G, D, D),
        (D, D, D),
        (C, State.UNKNOWN, D),  # netback: set_backend_state(Closed); then both unregister
    ],
    End.FRONT: [  # drivers/block/xen-blkfront.c: blkback_changed; drivers/net/xen-netfront.c: netback_changed
        (I, I, I),  # neither does anything before InitWait
        (P, W, P),
        (P, P, P),
        (P, C, C),  # blkfront_connect
        (C, C, C),
        (C, G, G),  # blkfront_closing, of a disk in use; then xenbus_frontend_closed
        (C, D, G),
        (P, G, G),
        (G, D, D),
        (D, G, D),  # "if (dev->state == XenbusStateClosed) break"
        (D, D, D),
    ],
}
"""(own, other, own after it): what Linux's drivers do when they see the other end's state."""


@pytest.mark.parametrize("end", End)
def test_the_table_is_what_linux_does(end: End) -> None:
    for own, other, after in LINUX[end]:
        row = states.find(end, XENSTORE, own, other, Why.SEEN)
        assert (own if row is None else row.to) is after, (own.text, other.text)
    for published in (P, C):  # blkfront's, netfront's
        assert states.find(End.FRONT, XENSTORE, I, W, Why.OPEN, to=published) is not None


def test_every_row_of_the_table_can_be_taken() -> None:
    """No row is hidden by one before it."""
    for row in states.TABLE:
        assert any(
            states.find(row.end, negotiation, own, other, row.why, to=row.to) is row
            for negotiation in row.negotiations
            for own in row.own
            for other in row.other
        ), row.meaning


def test_only_one_row_fits_a_moment() -> None:
    """But for the two ways to publish, of which a device chooses one."""
    rows = [row for row in states.TABLE if row.why is not Why.TOOLSTACK]
    for row, other in itertools.combinations(rows, 2):
        if (row.end, row.why) == (other.end, other.why) and not row.action is other.action is Action.PUBLISH:
            common = row.negotiations & other.negotiations and row.own & other.own and row.other & other.other
            assert not common, (row, other)


def test_the_picture_is_of_this_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "xenbus.md").read_text()
    assert picture.renew(page) == page, "run: python -m pyvmm.xenbus.picture docs/xenbus.md"
