"""The XenStore messages of real creations, read off the rings, against the published lists: message by message."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from pyvmm import compare
from pyvmm.report.store_tap import BACK_ENDS, CONSOLE, GUESTS, HOTPLUG, PREPARE, SENDERS, TOOLSTACK, sender_of
from pyvmm.toolstack.messages import Message, Shape, creation

STORE_DESIGNS = [name for name, facts in compare.DESIGNS.items() if facts.xenstore]
NTH = (1, 2, 5)


class Made(NamedTuple):
    """One creation: its row, and what was sent, in order, with the sender."""

    row: compare.Row
    sent: list[tuple[str, Message]]

    def of(self, *senders: str) -> list[Message]:
        return [message for sender, message in self.sent if sender in senders]


def creations(design: str, guest: str) -> dict[int, Made]:
    """The first creations of a design, by number."""
    control = compare.Control(design, guest, max(NTH))
    found = {}
    for n in range(1, max(NTH) + 1):
        row, _ = control.measure(n)
        sent = []
        for request in control.requests:
            assert request.answer is not None
            path = "" if request.name.startswith("TRANSACTION_") else request.path
            message = Message(request.name, request.transaction != 0, path)
            sent.append((sender_of(request, control.dom0_functions), message))
        found[n] = Made(row, sent)
    control.close()
    return {n: found[n] for n in NTH}


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, str], dict[int, Made]]:
    return {(design, guest): creations(design, guest) for design in STORE_DESIGNS for guest in ("noop", "daytime")}


@pytest.mark.parametrize("guest", ["noop", "daytime"])
@pytest.mark.parametrize("design", STORE_DESIGNS)
def test_the_toolstack_sends_what_is_published(
    made: dict[tuple[str, str], dict[int, Made]], design: str, guest: str
) -> None:
    """Every message, in its order, of xl with its hotplug scripts and of chaos; with a XenStore that really serves and
    back ends that really answer."""
    for n, one in made[design, guest].items():
        sent = one.of(TOOLSTACK, HOTPLUG)
        name = next(m.path for m in sent if m.op == "WRITE" and m.path.endswith("/name") and "domain" in m.path)
        domid = int(name.split("/")[3])
        uuid = next((m.path.split("/")[2] for m in sent if m.path.startswith("/vm/")), "")
        vif = guest == "daytime"
        reads = sum(m.op == "READ" and m.path.endswith(f"/vif/{domid}/0/state") for m in sent)
        domains = sorted({0, 1, *range(domid - n + 1, domid + 1)}) if design == "xl" else ()
        shape = Shape(domid, uuid, vifs=int(vif), domains=domains, cmdline=False, ip=True, reads=reads)
        assert sent == creation(design, shape)
        if design == "xl":
            # The published sums are for a guest with a command line (1 message), and without an address (2), and with
            # two looks at a vif's state.
            assert len(sent) == (182 - 1 + 2 + reads - 2 if vif else 112 - 1) + 3 * (n + 2)
            assert len(one.of(HOTPLUG)) == (4 if vif else 0)
        elif design == "chaos-xs":
            assert len(sent) == (42 if vif else 19)
        assert one.row.messages[TOOLSTACK] + one.row.messages[HOTPLUG] == len(sent)


def test_the_others_send_the_same_whatever_the_design(made: dict[tuple[str, str], dict[int, Made]]) -> None:
    """Back ends, console daemon and guest do not know who makes the guest, nor how many there are."""
    for (design, guest), found in made.items():
        for n, one in found.items():
            assert sum(one.row.messages.values()) == one.row.store_messages == len(one.sent)
            assert set(one.row.messages) == set(SENDERS) and one.row.messages[PREPARE] == 0
            assert _guests(one) == _guests(made["xl", guest][1])
            (served,) = [m.path.removesuffix("/tty") for m in one.of(CONSOLE) if m.op == "WRITE"]
            mine = [m for m in one.of(CONSOLE) if m.path.startswith(f"{served}/") or m.path == served]
            assert mine == daemon(served)
            others = [m for m in one.of(CONSOLE) if m not in mine and m.op != "GET_DOMAIN_PATH"]
            assert all(m.op == "WATCH" or m.path.endswith("/ring-ref") for m in others)  # shells: not yet
            assert (one.row.messages[BACK_ENDS] > 0) == (guest == "daytime"), (design, n)


def daemon(console: str) -> list[Message]:
    """What xenconsoled of Xen 4.8.1 sends for one console whose directory is there when it first looks (its
    tools/console/daemon/io.c: watch_domain, domain_create_ring, domain_create_tty; handle_xs again for the event that
    a new watch begins with, and for that of its own write)."""
    ring = [Message("READ", False, f"{console}/{node}") for node in ("ring-ref", "port", "type")]
    terminal = [Message("READ", False, f"{console}/limit"), Message("WRITE", False, f"{console}/tty")]
    return [Message("WATCH", False, console), *ring, *terminal, *ring, *ring]


def _guests(one: Made) -> list[Message]:
    """What the guest sends, whatever its number; but for its looks at a state, of which there is one an event."""
    sent = [m._replace(path=re.sub(r"/(\d+)/0(/|$)", r"/N/0\2", m.path)) for m in one.of(GUESTS)]
    return [m for m in sent if m.op != "READ" or not m.path.endswith("/state")]
