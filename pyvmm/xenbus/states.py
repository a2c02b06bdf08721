"""The one table of XenbusState transitions, for both ends of every device and both negotiations.

A row says: this end, in one of these states of its own, seeing one of these states of the other's, for this reason,
does this and then enters that state. The ends (`backend.Backend`, `frontend.Frontend`) do nothing but look up their
row; the picture in docs/xenbus.md is drawn from the same rows (`python -m pyvmm.xenbus.picture`); the tests walk all
orders of the ends' steps and compare the pairs of states they meet with `reachable`.

Facts: Xen 4.17 public/io/{xenbus,blkif,netif}.h; what Linux's, Mini-OS's and GRUB's front ends do; LightVM's noxs
headers (states over a control page are the same numbers, see `pyvmm.abi.devctl.ctrl_hdr`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum
from typing import NamedTuple

from pyvmm.abi.io import xenbus as abi


class State(IntEnum):
    """XenbusState of public/io/xenbus.h."""

    UNKNOWN = abi.XenbusStateUnknown
    INITIALISING = abi.XenbusStateInitialising
    INIT_WAIT = abi.XenbusStateInitWait
    INITIALISED = abi.XenbusStateInitialised
    CONNECTED = abi.XenbusStateConnected
    CLOSING = abi.XenbusStateClosing
    CLOSED = abi.XenbusStateClosed
    RECONFIGURING = abi.XenbusStateReconfiguring
    RECONFIGURED = abi.XenbusStateReconfigured

    @property
    def text(self) -> str:
        """The name in the header, without its prefix."""
        return abi.XENBUS_STATE_NAMES[self.value]


class End(Enum):
    """Which end of a device."""

    FRONT = "front"
    BACK = "back"


class Negotiation(Enum):
    """How the ends talk."""

    XENSTORE = "xenstore"
    NOXS = "noxs"


class Why(Enum):
    """What makes an end take a row."""

    SEEN = "the other end's state"
    OPEN = "it is to be used"
    CLOSE = "it is to be given up"
    FAILED = "something went wrong on this side"
    TOOLSTACK = "written by the toolstack, or the end is gone with its domain"


class Action(Enum):
    """What an end does before it enters the row's state. Whatever fails there takes the FAILED row instead."""

    NOTHING = "nothing"
    PROBE = "say what the back end offers"
    PUBLISH = "make rings and ports, say which they are"
    CONNECT = "read what the front end published, map and bind it, say the details of the device"
    START = "read the details, begin to use the device"
    STOP = "use the device no longer; the back end unmaps and closes all it held"
    RELEASE = "take back grants, pages and ports"


OPENING = frozenset({Action.PROBE, Action.PUBLISH, Action.CONNECT, Action.START})
"""What an end that is to be given up does not begin."""


class Row(NamedTuple):
    """One transition."""

    end: End
    own: frozenset[State]
    other: frozenset[State]
    why: Why
    action: Action
    to: State
    meaning: str
    negotiations: frozenset[Negotiation]
    ours: bool  # False: no front end of ours causes it, but other people's do, and the back end copes


U, I, W, P, C, G, D = (  # noqa: E741 (a letter a state keeps the table readable; P: published)
    State.UNKNOWN,
    State.INITIALISING,
    State.INIT_WAIT,
    State.INITIALISED,
    State.CONNECTED,
    State.CLOSING,
    State.CLOSED,
)
ANY = frozenset(State)
STRAY = frozenset({State.INIT_WAIT, State.RECONFIGURING, State.RECONFIGURED})  # where no front end of these can be
BOTH = frozenset(Negotiation)
XS = frozenset({Negotiation.XENSTORE})
NOXS = frozenset({Negotiation.NOXS})


def _row(
    end: End,
    own: Iterable[State],
    other: Iterable[State],
    why: Why,
    action: Action,
    to: State,
    meaning: str,
    negotiations: frozenset[Negotiation] = BOTH,
    *,
    ours: bool = True,
) -> Row:
    return Row(end, frozenset(own), frozenset(other), why, action, to, meaning, negotiations, ours)


_B, _F = End.BACK, End.FRONT
_SEEN, _OPEN, _CLOSE, _FAILED, _TOOLSTACK = Why.SEEN, Why.OPEN, Why.CLOSE, Why.FAILED, Why.TOOLSTACK

TABLE: tuple[Row, ...] = (
    # The back end.
    _row(_B, {U}, ANY, _TOOLSTACK, Action.NOTHING, I, "the toolstack has made the device's directories", XS),
    _row(_B, {I}, ANY, _SEEN, Action.PROBE, W, "a back end has found the device", XS),
    _row(_B, {U}, ANY, _SEEN, Action.PROBE, W, "a back end has made the control page", NOXS),
    _row(_B, {W}, {P, C}, _SEEN, Action.CONNECT, C, "the front end has published its rings"),
    _row(_B, {W, C}, {G}, _SEEN, Action.STOP, G, "the front end wants to stop"),
    _row(_B, {W, C}, STRAY, _SEEN, Action.STOP, G, "the front end is where none can be", ours=False),
    _row(_B, {C}, {D}, _SEEN, Action.STOP, D, "the front end has stopped without waiting (GRUB's)", ours=False),
    _row(_B, {C}, {I}, _SEEN, Action.STOP, D, "the front end begins anew without having stopped", ours=False),
    _row(_B, {C, G}, {U}, _SEEN, Action.STOP, D, "the front end is gone"),
    _row(_B, {G}, {D, I}, _SEEN, Action.STOP, D, "the front end has let go, or had nothing yet"),
    _row(_B, {D}, {I}, _SEEN, Action.PROBE, W, "the front end wants to begin again"),
    _row(_B, {U, I, D}, ANY, _FAILED, Action.STOP, G, "there is no device to offer"),
    _row(_B, {W}, {P, C}, _FAILED, Action.STOP, G, "what the front end published cannot be used"),
    _row(_B, {C}, ANY, _FAILED, Action.STOP, G, "the front end broke the rules of its ring"),
    _row(_B, {U, I, W, C}, ANY, _CLOSE, Action.STOP, G, "the device is to be removed"),
    _row(_B, {D}, ANY, _TOOLSTACK, Action.NOTHING, U, "the device is removed"),
    # The front end.
    _row(_F, {U}, ANY, _TOOLSTACK, Action.NOTHING, I, "the toolstack has made the device's directories", XS),
    _row(_F, {U}, ANY, _OPEN, Action.NOTHING, I, "the device was found in the device page", NOXS),
    _row(_F, {I}, {W}, _OPEN, Action.PUBLISH, P, "rings are there, the details still wanted (as Linux's vbd)", XS),
    _row(_F, {I}, {W}, _OPEN, Action.PUBLISH, C, "rings are there (vif; everything over noxs)"),
    _row(_F, {P, C}, {C}, _SEEN, Action.START, C, "the back end serves the rings"),
    _row(_F, {P, C}, {G, D, U, I}, _SEEN, Action.STOP, G, "the back end stops, is gone, or is another one"),
    _row(_F, {P, C}, ANY, _CLOSE, Action.STOP, G, "the device is not needed any more"),
    _row(_F, {P, C}, ANY, _FAILED, Action.STOP, G, "the back end says what cannot be"),
    _row(_F, {I}, ANY, _CLOSE, Action.RELEASE, D, "the device is not needed after all"),
    _row(_F, {I}, {W}, _FAILED, Action.RELEASE, D, "there is nothing to make rings of"),
    _row(_F, {G}, {G, D, U, I}, _SEEN, Action.RELEASE, D, "the back end has let go"),
    _row(_F, {D}, {D, W, I}, _OPEN, Action.NOTHING, I, "once more"),
    _row(_F, ANY, ANY, _TOOLSTACK, Action.NOTHING, U, "the guest, or its directory, is gone", XS),
)


def find(
    end: End, negotiation: Negotiation, own: State, other: State, why: Why, *, to: State | None = None
) -> Row | None:
    """The row to take, or None: nothing is to be done. `to`: only a row that leads there."""
    for row in TABLE:
        if (
            row.end is end
            and row.why is why
            and own in row.own
            and other in row.other
            and negotiation in row.negotiations
            and (to is None or row.to is to)
        ):
            return row
    return None


class _Walk(NamedTuple):
    """Both ends at one moment of a walk through the table: states, what each saw of the other last, what each wants."""

    front: State
    back: State
    front_saw: State
    back_saw: State
    wanted: bool = True
    started: bool = False
    removing: bool = False
    broken: bool = False
    front_is_gone: bool = False
    back_is_gone: bool = False


def reachable(
    negotiation: Negotiation, published: State, first: State = State.INITIALISING
) -> set[tuple[State, State]]:
    """All pairs (front, back) that the table allows, if each end may look at the other and act on what it saw at any
    time, however late; if the guest opens and closes, the toolstack removes, anything fails, and the guest vanishes,
    whenever that is possible. `published`: the state that the front end enters with its rings; `first`: its state at
    first. Over noxs a device is entered into the device page when its back end waits."""
    back = State.INITIALISING if negotiation is Negotiation.XENSTORE else State.INIT_WAIT
    start = _Walk(first, back, State.UNKNOWN, State.UNKNOWN)
    seen, todo = {start}, [start]
    while todo:
        walk = todo.pop()
        for following in _following(walk, negotiation, published):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return {(walk.front, walk.back) for walk in seen}


def _following(walk: _Walk, negotiation: Negotiation, published: State) -> Iterable[_Walk]:
    if not walk.front_is_gone:
        yield walk._replace(front_saw=walk.back)
        yield walk._replace(wanted=not walk.wanted)
        if negotiation is Negotiation.XENSTORE:
            yield walk._replace(front=State.UNKNOWN, front_is_gone=True)
        for row in TABLE:
            if row.end is End.FRONT and _may_front(row, walk, negotiation, published):
                wanted = walk.wanted and row.action is not Action.STOP and row.why is not Why.FAILED
                started = row.action is Action.START or (walk.started and row.action is not Action.STOP)
                yield walk._replace(front=row.to, wanted=wanted, started=started)
    if not walk.back_is_gone:
        yield walk._replace(back_saw=walk.front)
        yield walk._replace(removing=True)
        if walk.removing and walk.back is State.CLOSED:
            yield walk._replace(back=State.UNKNOWN, back_is_gone=True)
        for row in TABLE:
            if row.end is End.BACK and _may_back(row, walk, negotiation):
                broken = walk.broken or (row.why is Why.FAILED and walk.back in (U, I, D))
                yield walk._replace(back=row.to, broken=broken)


def _may_front(row: Row, walk: _Walk, negotiation: Negotiation, published: State) -> bool:
    if negotiation not in row.negotiations or walk.front not in row.own or walk.front_saw not in row.other:
        return False
    if row.why is Why.TOOLSTACK or (row.action is Action.PUBLISH and row.to is not published):
        return False
    if row.action is Action.START and walk.started:
        return False
    opens = row.action in OPENING or row.why is Why.OPEN
    return (walk.wanted or not opens) and (row.why is not Why.CLOSE or not walk.wanted)


def _may_back(row: Row, walk: _Walk, negotiation: Negotiation) -> bool:
    if negotiation not in row.negotiations or walk.back not in row.own or walk.back_saw not in row.other:
        return False
    if row.why is Why.TOOLSTACK or (row.why is Why.CLOSE and not walk.removing):
        return False
    if row.why is Why.FAILED and walk.back in (U, I, D):  # only an attempt to offer the device can fail there
        offers = find(End.BACK, negotiation, walk.back, walk.back_saw, Why.SEEN)
        return offers is not None and offers.action is Action.PROBE and not walk.removing and not walk.broken
    return row.action not in OPENING or not (walk.removing or walk.broken)
