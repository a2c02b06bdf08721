"""The XenStore messages by which a device's two ends meet, one by one: what Xen's own tools and kernels send, and ours.

`REFERENCE` lists the messages of libxl 4.8.1 (libxl__device_nic_add, libxl__device_disk_add), of Linux's xenbus,
netback and blkback, and of Mini-OS's front ends, in the order in which they are sent. `DIFFERENCES` says what ours
sends more or
less, and why. So `ours(device)` is all that may be sent here until both ends are Connected; a test compares it with
what a run sends. F and B are the front and the back end's directory, L is libxl's record of the device. Over noxs
there is none of it.

What scripts and libxl's waits for them send is left out on both sides: no script runs here. "control" is the node by
which a guest is asked to power off; the console's back end is xenconsoled, and it has no states.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Message(NamedTuple):
    """Who sends what about which node; "-" where the message names none of this device."""

    who: str
    op: str
    place: str


class Difference(NamedTuple):
    """`delta` more (or less) of these messages than in the reference, for the reason called `why`."""

    who: str
    op: str
    places: str
    delta: int
    why: str


DEVICES = ("console", "control", "vif", "vbd")

# Lines of "op place place ...", in the order of the reference; a number before a place: that many times.
_NIC_NODES = "frontend-id online state script mac bridge handle type"
_DISK_NODES = "params script frontend-id online removable bootable state dev type mode device-type discard-enable"


def _libxl(front: str, back: str, first: str = "READ L") -> str:
    """libxl__device_generic_add: the record, the front end's directory with permissions of its own for every node, the
    back end's, and its nodes once more in the record, in one transaction."""
    f = [f"WRITE F/{node}\nSET_PERMS F/{node}" for node in front.split()]
    return "\n".join(
        (
            "TRANSACTION_START -",
            first,
            "GET_DOMAIN_PATH 2 -",
            "RM L",
            "WRITE L/frontend L/backend",
            "RM F",
            "MKDIR F",
            "SET_PERMS F",
            "WRITE F/backend",
            *f,
            "RM B",
            "MKDIR B",
            "SET_PERMS B",
            "WRITE B/frontend",
            *(f"WRITE B/{node}" for node in back.split()),
            *(f"WRITE L/{node}" for node in back.split()),
            "TRANSACTION_END -",
        )
    )


_XENBUS_PROBE = """
DIRECTORY B
READ B/state B/frontend-id B/frontend F
"""
_STATE = """
TRANSACTION_START -
READ B/state
WRITE B/state
TRANSACTION_END -
"""

REFERENCE: dict[str, dict[str, str]] = {
    "console": {
        "toolstack": _libxl("backend-id limit type output tty port ring-ref", "frontend-id online state protocol", ""),
        "back": """
GET_DOMAIN_PATH -
WATCH F
READ F/ring-ref F/port F/type F/limit
WRITE F/tty
READ F/ring-ref F/port F/type
""",
    },
    "control": {"front": "WATCH F/shutdown\nREAD F/shutdown"},
    "vif": {
        "toolstack": _libxl("backend-id state handle mac", _NIC_NODES),
        "back": _XENBUS_PROBE
        + """
TRANSACTION_START -
WRITE B/feature-sg B/feature-gso-tcpv4 B/feature-gso-tcpv6 B/feature-ipv6-csum-offload B/feature-rx-copy
WRITE B/feature-rx-flip B/feature-multicast-control B/feature-dynamic-multicast-control
TRANSACTION_END -
WRITE B/feature-split-event-channels B/multi-queue-max-queues B/feature-ctrl-ring
READ B/script
"""
        + _STATE
        + """
READ B/handle
WRITE B/hotplug-status
WATCH F/state
READ F/state F/state
READ F/multi-queue-num-queues F/mac B/rate F/ctrl-ring-ref F/tx-ring-ref F/rx-ring-ref F/event-channel-tx
READ F/event-channel-rx F/request-rx-copy F/feature-rx-notify F/feature-sg F/feature-gso-tcpv4
READ F/feature-gso-tcpv4-prefix F/feature-gso-tcpv6 F/feature-gso-tcpv6-prefix F/feature-no-csum-offload
READ F/feature-ipv6-csum-offload
WATCH B/rate F/request-multicast-control B/hotplug-status
"""
        + _STATE,
        "front": """
READ F/backend-id F/backend F/mac B/feature-split-event-channels
TRANSACTION_START -
WRITE F/tx-ring-ref F/rx-ring-ref F/event-channel-tx F/event-channel-rx F/feature-rx-notify F/request-rx-copy
WRITE F/feature-sg
READ F/state
WRITE F/state
TRANSACTION_END -
READ F/mac
WATCH B/state
READ B/state B/state B/ip
""",
    },
    "vbd": {
        "toolstack": _libxl("backend-id state virtual-device device-type protocol", _DISK_NODES),
        "back": _XENBUS_PROBE
        + """
WRITE B/feature-max-indirect-segments B/multi-queue-max-queues B/max-ring-page-order
WATCH B/physical-device
"""
        + _STATE
        + """
WRITE B/physical-device
READ B/physical-device B/mode B/device-type
WATCH F/state
READ F/state F/state
READ F/protocol F/feature-persistent F/multi-queue-num-queues F/event-channel F/ring-page-order F/ring-ref
TRANSACTION_START -
WRITE B/feature-flush-cache B/discard-granularity B/discard-alignment B/discard-secure B/feature-discard
WRITE B/feature-barrier B/feature-persistent B/sectors B/info B/sector-size B/physical-sector-size
TRANSACTION_END -
"""
        + _STATE,
        "front": """
READ F/backend-id
TRANSACTION_START -
WRITE F/ring-ref F/event-channel F/protocol F/state
TRANSACTION_END -
READ F/backend B/mode
WATCH B/state
READ B/state B/state
READ B/info B/sectors B/sector-size B/feature-barrier B/feature-flush-cache
""",
    },
}

WHY = {
    "known path": "libxl asks for both domains' paths; a domain's path follows from its number",
    "looked first": "what is not there is not removed: a look at each directory takes the place of its removal",
    "made once": "a new domain has no console yet: there is nothing to remove",
    "inherited": "a node inherits its directory's permissions, which say the same",
    "own record": "libxl's record is a directory closed to the guest from the beginning, not left to a first WRITE",
    "listing": "a kind's directories are listed once for all events: neither each event's node nor the front end's",
    "each event": "the states and `online` are read again at each event before anything is done, the own state as well",
    "one transaction": "features, `hotplug-status` and the new state become visible at once",
    "no prefix": "packets with a prefix in place of an extra segment are not offered",
    "not offered": "a control ring, rates and lists of groups that change while connected are not offered",
    "own words": "what the device consists in is read where the toolstack has written it, by the back end alone",
    "not asked": "the front end's list of groups is asked for once, when it connects; nobody watches",
    "no script": "no script runs: nobody turns a file into a device, writes when it is done or is waited for",
    "watch first": "the watch is set before the state is read, and its first event makes one more reading",
    "own state": "the front end knows its own state; it is read only where an old one may have been left",
    "both sums": "both ends say which checksums they leave to the other, and read of each feature if it is offered",
    "discard": "the front end here uses discard and indirect descriptors",
    "no page of its own": "a front end that knows its address does not ask twice",
    "no terminal": "the console is no terminal of the host's: there is no name to write and nothing to limit",
    "one look": "consoles are looked for once for all domains; the ring is reached by its grant",
    "announced": "the guest says what it can be asked for",
}

_OWN_RECORD = (
    Difference("toolstack", "GET_DOMAIN_PATH", "-", -2, "known path"),
    Difference("toolstack", "RM", "F B L", -1, "looked first"),
    Difference("toolstack", "READ", "F B", +1, "looked first"),
    Difference("toolstack", "MKDIR", "L", +1, "own record"),
    Difference("toolstack", "SET_PERMS", "L", +1, "own record"),
)
_EVENTS = (
    Difference("back", "DIRECTORY", "B", -1, "listing"),
    Difference("back", "READ", "F", -1, "listing"),
    Difference("back", "READ", "B/online", +5, "each event"),
    Difference("back", "READ", "B/state", +3, "each event"),
    Difference("back", "READ", "F/state", +4, "each event"),
    Difference("back", "TRANSACTION_START", "-", -1, "one transaction"),
    Difference("back", "TRANSACTION_END", "-", -1, "one transaction"),
)
DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "console": (
        Difference("toolstack", "GET_DOMAIN_PATH", "-", -2, "known path"),
        Difference("toolstack", "RM", "F B L", -1, "made once"),
        Difference("toolstack", "SET_PERMS", "F/limit F/type F/output F/tty F/port F/ring-ref", -1, "inherited"),
        Difference("back", "GET_DOMAIN_PATH", "-", -1, "one look"),
        Difference("back", "WATCH", "F", -1, "one look"),
        Difference("back", "READ", "F/ring-ref F/type", -2, "one look"),
        Difference("back", "READ", "F/port", -1, "one look"),
        Difference("back", "READ", "F/limit", -1, "no terminal"),
        Difference("back", "WRITE", "F/tty", -1, "no terminal"),
    ),
    "control": (Difference("front", "WRITE", "F/feature-poweroff F/feature-reboot", +1, "announced"),),
    "vif": (
        *_OWN_RECORD,
        Difference("toolstack", "SET_PERMS", "F/backend-id F/state F/handle F/mac", -1, "inherited"),
        *_EVENTS,
        Difference("back", "READ", "B/mac B/bridge B/ip B/mtu B/vifname", +1, "own words"),
        Difference("back", "READ", "F/mac", -1, "own words"),
        Difference("back", "READ", "B/script", -1, "no script"),
        Difference("back", "WATCH", "B/hotplug-status", -1, "no script"),
        Difference("back", "READ", "F/feature-gso-tcpv4-prefix F/feature-gso-tcpv6-prefix", -1, "no prefix"),
        Difference("back", "READ", "B/rate F/ctrl-ring-ref", -1, "not offered"),
        Difference("back", "WATCH", "B/rate", -1, "not offered"),
        Difference("back", "WRITE", "B/feature-dynamic-multicast-control", -1, "not offered"),
        Difference("back", "WATCH", "F/request-multicast-control", -1, "not asked"),
        Difference("back", "READ", "F/request-multicast-control", +1, "not asked"),
        Difference("front", "READ", "B/feature-no-csum-offload B/feature-rx-copy B/feature-sg", +1, "both sums"),
        Difference("front", "WRITE", "F/feature-no-csum-offload", +1, "both sums"),
        Difference("front", "READ", "B/state", +1, "watch first"),
        Difference("front", "READ", "F/mac", -1, "no page of its own"),
    ),
    "vbd": (
        *_OWN_RECORD,
        Difference(
            "toolstack", "SET_PERMS", "F/backend-id F/state F/virtual-device F/device-type F/protocol", -1, "inherited"
        ),
        *_EVENTS,
        Difference("back", "READ", "B/params B/removable B/discard-enable", +1, "own words"),
        Difference("back", "READ", "B/physical-device", -1, "no script"),
        Difference("back", "WATCH", "B/physical-device", -1, "no script"),
        Difference("back", "WRITE", "B/physical-device", -1, "no script"),
        Difference("back", "WRITE", "B/hotplug-status", +1, "one transaction"),
        Difference("back", "READ", "F/feature-persistent", -1, "not offered"),
        Difference(
            "front", "READ", "B/feature-max-indirect-segments B/feature-discard B/discard-granularity", +1, "discard"
        ),
        Difference("front", "READ", "F/state", +1, "own state"),
    ),
}


def _expand(text: str, who: str) -> Counter[Message]:
    found: Counter[Message] = Counter()
    for line in text.split("\n"):
        words = line.split()
        times = 1
        for word in words[1:]:
            if word.isdigit():
                times = int(word)
            else:
                found[Message(who, words[0], word)] += times
                times = 1
    return found


def reference(device: str) -> Counter[Message]:
    """The messages of Xen's own tools and kernels for one device, until both ends are Connected."""
    total: Counter[Message] = Counter()
    for who, text in REFERENCE[device].items():
        total += _expand(text, who)
    return total


def ours(device: str) -> Counter[Message]:
    """The messages that are sent here."""
    total = reference(device)
    for difference in DIFFERENCES[device]:
        for place in difference.places.split():
            total[Message(difference.who, difference.op, place)] += difference.delta
    return +total


def table() -> str:
    """All of it for a page of the documentation: sums, then what differs, with the reasons."""
    parts = ["| device | who | reference | here |", "|---|---|---|---|"]
    for device in DEVICES:
        before, after = reference(device), ours(device)
        for who in REFERENCE[device]:
            sums = [sum(n for message, n in counter.items() if message.who == who) for counter in (before, after)]
            parts.append(f"| {device} | {who} | {sums[0]} | {sums[1]} |")
    parts += ["", "| device | who | message | more or less | why |", "|---|---|---|---|---|"]
    for device in DEVICES:
        for d in DIFFERENCES[device]:
            places = "" if d.places == "-" else " of " + ", ".join(d.places.split())
            parts.append(f"| {device} | {d.who} | {d.op}{places} | {d.delta:+d} each | {WHY[d.why]} |")
    return "\n".join(parts)
