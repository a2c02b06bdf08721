"""The XenStore messages of one guest's creation, one by one: what the toolstacks of the LightVM paper's time send.

`creation` gives the list for a design and a guest: libxl 4.8.1's (tools/libxl: libxl_create.c, libxl_dom.c,
libxl_device.c, libxl_nic.c, and tools/hotplug/Linux for its scripts) and chaos's (lib/h2/xen/xs.c of libchaos). The
toolstack in `guests/dom0` is written from the same sources, but on its own: tests compare what it sends with these
lists.

A message is its operation, whether it is part of a transaction, and the node (of GET_DOMAIN_PATH: the domain). H is the
guest's home, V its /vm directory, L libxl's record of it; F, B and P are a device's front end, back end and libxl's
record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Message(NamedTuple):
    """One request. `path` is absolute but for the few that are relative to dom0's home; "" where there is none."""

    op: str
    transaction: bool
    path: str


class Extra(NamedTuple):
    """Messages that `guests/dom0` sends besides the reference's: `more` of them a creation, and why."""

    design: str
    messages: str
    more: int
    why: str


class Shape(NamedTuple):
    """What of a guest decides about the messages. `domains`: the numbers of all that there are when it is made, its own
    included. `disks`: of every domain with a disk, its own included, in the store's order, the numbers of its disks.
    `reads`: how often a back end's state is read until it is InitWait (libxl reads it once an event)."""

    domid: int
    uuid: str
    vifs: int = 0
    vbds: Sequence[int] = ()
    domains: Sequence[int] = ()
    disks: Sequence[tuple[int, Sequence[int]]] = ()
    cmdline: bool = True
    ip: bool = False
    reads: int = 2


# Each line is a message: "OP path", "OP+ path" with a SET_PERMS of the same node after it, "(OP path)" outside of the
# transaction that is open. Lines in capitals alone begin and end a transaction. @NAME: see `_parts`.
XL = """
READ /local/pool/0/name
GET_DOMAIN_PATH D
TRANSACTION_START
RM H
WRITE+ H
RM V
WRITE+ V
RM L
WRITE+ L
WRITE+ L/device
WRITE H/vm
(GET_DOMAIN_PATH D)
(GET_DOMAIN_PATH D)
(READ H/image/device-model-domid)
@names
WRITE H/name
WRITE V/name
WRITE+ H/cpu
WRITE+ H/memory
WRITE+ H/device
WRITE+ H/control
WRITE+ H/control/shutdown
WRITE+ H/control/feature-poweroff
WRITE+ H/control/feature-reboot
WRITE+ H/control/feature-suspend
WRITE+ H/device/suspend/event-channel
WRITE+ H/data
WRITE+ H/drivers
WRITE+ H/feature
WRITE+ H/attr
@vms
WRITE V/uuid
WRITE V/name
WRITE H/control/platform-feature-multiprocessor-suspend
WRITE H/control/platform-feature-xs_reset_watches
TRANSACTION_END
WRITE L/dm-version
READ /local/pool/0/name
READ /tool/xenstored/domid
READ /tool/xenconsoled/domid
READ /local/pool/0/name
GET_DOMAIN_PATH D
READ H/vm
TRANSACTION_START
WRITE H/memory/static-max
WRITE H/memory/target
WRITE H/memory/videoram
WRITE H/domid
WRITE H/store/port
WRITE H/store/ring-ref
WRITE H/cpu/0/availability
WRITE V/image/ostype
WRITE V/image/kernel
WRITE V/start_time
@cmdline
TRANSACTION_END
INTRODUCE D
WRITE L/dm-version
@disks
GET_DOMAIN_PATH 0
GET_DOMAIN_PATH D
TRANSACTION_START
RM L/device/console/0
WRITE L/device/console/0/frontend
WRITE L/device/console/0/backend
RM H/console
MKDIR+ H/console
WRITE H/console/backend
WRITE+ H/console/backend-id
WRITE+ H/console/limit
WRITE+ H/console/type
WRITE+ H/console/output
WRITE+ H/console/tty
WRITE+ H/console/port
WRITE+ H/console/ring-ref
RM /local/domain/0/backend/console/D/0
MKDIR+ /local/domain/0/backend/console/D/0
WRITE /local/domain/0/backend/console/D/0/frontend
WRITE /local/domain/0/backend/console/D/0/frontend-id
WRITE /local/domain/0/backend/console/D/0/online
WRITE /local/domain/0/backend/console/D/0/state
WRITE /local/domain/0/backend/console/D/0/protocol
WRITE L/device/console/0/frontend-id
WRITE L/device/console/0/online
WRITE L/device/console/0/state
WRITE L/device/console/0/protocol
TRANSACTION_END
READ domid
@nics
WATCH @releaseDomain
"""
"""xl's creation of a guest with a console: 112 messages and 3 more for every domain."""

ADD = """
TRANSACTION_START
READ P
(GET_DOMAIN_PATH 0)
(GET_DOMAIN_PATH D)
RM P
WRITE P/frontend
WRITE P/backend
RM F
MKDIR+ F
WRITE F/backend
@front
RM B
MKDIR+ B
WRITE B/frontend
@back
@record
TRANSACTION_END
"""
WAIT = "GET_DOMAIN_PATH 0\nWATCH B/state\n@reads\nUNWATCH B/state\n"
DISK_FRONT = "backend-id state virtual-device device-type protocol"
DISK_BACK = "params script frontend-id online removable bootable state dev type mode device-type discard-enable"
NIC_FRONT = "backend-id state handle mac"
NIC_BACK = "frontend-id online state script mac bridge handle type"
NIC_BACK_IP = "frontend-id online state script mac ip bridge handle type"

DISK_HOTPLUG = """
GET_DOMAIN_PATH 0
READ domid
GET_DOMAIN_PATH 0
READ B/script
GET_DOMAIN_PATH 0
READ B/type
READ B/params
READ B/mode
READ B/physical-device
READ B/frontend-id
READ H/vm
@sharing
WRITE B/physical-device
WRITE B/physical-device-path
WRITE B/hotplug-status
GET_DOMAIN_PATH 0
GET_DOMAIN_PATH 0
READ domid
"""
"""libxl's 8, and between them the block script's 10 with 2 more for every domain with a disk."""
NIC_HOTPLUG = """
GET_DOMAIN_PATH 0
READ domid
GET_DOMAIN_PATH D
READ H/image/device-model-domid
GET_DOMAIN_PATH 0
READ B/script
GET_DOMAIN_PATH 0
READ B/type
GET_DOMAIN_PATH 0
READ B/gatewaydev
GET_DOMAIN_PATH 0
READ B/type
READ B/vifname
READ B/ip
READ B/bridge
WRITE B/hotplug-status
GET_DOMAIN_PATH 0
GET_DOMAIN_PATH 0
READ domid
GET_DOMAIN_PATH D
READ H/image/device-model-domid
GET_DOMAIN_PATH 0
READ B/script
GET_DOMAIN_PATH 0
READ B/type
"""
"""libxl's 21, and between them the vif-bridge script's 4."""

CHAOS_DOMAIN = """
GET_DOMAIN_PATH D
TRANSACTION_START
MKDIR+ H
MKDIR+ H/data
MKDIR+ H/control/shutdown
WRITE H/name
WRITE H/domid
TRANSACTION_END
"""
CHAOS_VIF = """
GET_DOMAIN_PATH 0
TRANSACTION_START
MKDIR+ F
WRITE F/backend
WRITE F/backend-id
WRITE F/state
WRITE F/handle
WRITE F/mac
MKDIR+ B
WRITE B/frontend
WRITE B/frontend-id
WRITE B/online
WRITE B/bridge
WRITE B/ip
WRITE B/handle
WRITE B/mac
WRITE B/state
WRITE B/type
WRITE B/hotplug-status
WRITE B/script
TRANSACTION_END
"""
CHAOS_VBD = """
GET_DOMAIN_PATH 0
TRANSACTION_START
MKDIR+ F
WRITE F/backend
WRITE F/backend-id
WRITE F/state
MKDIR+ B
WRITE B/toolstack
WRITE B/frontend
WRITE B/frontend-id
WRITE B/online
WRITE B/state
WRITE B/params
WRITE B/type
WRITE B/dev
WRITE B/mode
WRITE B/hotplug-status
WRITE B/script
TRANSACTION_END
"""
CHAOS_BOOT = """
TRANSACTION_START
MKDIR+ H/console
WRITE H/console/type
WRITE H/console/ring-ref
WRITE H/console/port
TRANSACTION_END
INTRODUCE D
"""
CHAOS_CONFIGURE = """
TRANSACTION_START
WRITE H/name
@vifs
TRANSACTION_END
"""
CHAOS_CONFIGURE_VIF = "WRITE F/mac\nWRITE B/mac\nWRITE B/bridge\nWRITE B/ip\n"

EXTRAS = (
    Extra(
        "chaos-xs-split",
        "one transaction: the name, and of each vif both MACs, the bridge and the address",
        3,
        "device parameters are applied when a shell is claimed; the original's shell daemon ignores those of the "
        "request, and leaves the name [shell] in the store (3 messages, and 4 for each vif)",
    ),
    Extra(
        "xl",
        "libxl's READs of back end states: one an event",
        0,
        "how many events there are until InitWait depends on who runs when: the reference's 5 messages a device are "
        "with two",
    ),
    Extra(
        "xl",
        "N is one more than guests and dom0",
        3,
        "the XenStore is a domain of its own here, which libxl lists and asks about as any other",
    ),
)
"""Where our own lists are longer than the published ones. All else is message for message the same."""


def _text(
    text: str, names: dict[str, str], parts: dict[str, Iterator[Message]], inside: bool = False
) -> Iterator[Message]:
    for line in text.split("\n"):
        if not line:
            continue
        if line in parts:
            yield from parts[line]
            continue
        outside = line.startswith("(")
        op, _, place = line.strip("()").partition(" ")
        if op == "TRANSACTION_START":
            yield Message(op, False, "")
            inside = True
            continue
        if op == "TRANSACTION_END":
            yield Message(op, True, "")
            inside = False
            continue
        path = "/".join(names.get(word, word) for word in place.split("/"))
        yield Message(op.rstrip("+"), inside and not outside, path)
        if op.endswith("+"):
            yield Message("SET_PERMS", inside, path)


def _names(shape: Shape, kind: str = "", devid: int = 0) -> dict[str, str]:
    d = str(shape.domid)
    return {
        "D": d,
        "H": f"/local/domain/{d}",
        "V": f"/vm/{shape.uuid}",
        "L": f"/libxl/{d}",
        "F": f"/local/domain/{d}/device/{kind}/{devid}",
        "B": f"/local/domain/0/backend/{kind}/{d}/{devid}",
        "P": f"/libxl/{d}/device/{kind}/{devid}",
    }


def _lines(op: str, place: str, nodes: str) -> str:
    return "\n".join(f"{op} {place}/{node}" for node in nodes.split())


def _add(shape: Shape, kind: str, devid: int, front: str, back: str) -> Iterator[Message]:
    text = ADD.replace("@front", _lines("WRITE+", "F", front)).replace("@back", _lines("WRITE", "B", back))
    return _text(text.replace("@record", _lines("WRITE", "P", back)), _names(shape, kind, devid), {})


def _sharing(shape: Shape) -> Iterator[Message]:
    yield Message("DIRECTORY", False, "/local/domain/0/backend/vbd")
    for domid, disks in shape.disks:
        yield Message("DIRECTORY", False, f"/local/domain/0/backend/vbd/{domid}")
        for disk in disks:
            yield Message("READ", False, f"/local/domain/0/backend/vbd/{domid}/{disk}/physical-device")


def _wait(shape: Shape, kind: str, devid: int, hotplug: str) -> Iterator[Message]:
    text = WAIT.replace("@reads", "\n".join(["READ B/state"] * shape.reads)) + hotplug
    return _text(text, _names(shape, kind, devid), {"@sharing": _sharing(shape)})


def _xl_disks(shape: Shape) -> Iterator[Message]:
    for devid in shape.vbds:
        yield from _add(shape, "vbd", devid, DISK_FRONT, DISK_BACK)
    for devid in shape.vbds:
        yield from _wait(shape, "vbd", devid, DISK_HOTPLUG)


def _xl_nics(shape: Shape) -> Iterator[Message]:
    for devid in range(shape.vifs):
        yield from _add(shape, "vif", devid, NIC_FRONT, NIC_BACK_IP if shape.ip else NIC_BACK)
    for devid in range(shape.vifs):
        yield from _wait(shape, "vif", devid, NIC_HOTPLUG)


def _vms(shape: Shape) -> Iterator[Message]:
    for domid in shape.domains:
        yield Message("GET_DOMAIN_PATH", False, str(domid))
        yield Message("READ", False, f"/local/domain/{domid}/target")


def _xl(shape: Shape) -> Iterator[Message]:
    parts = {
        "@names": (Message("READ", False, f"/local/domain/{domid}/name") for domid in shape.domains),
        "@vms": _vms(shape),
        "@cmdline": iter([Message("WRITE", True, f"/vm/{shape.uuid}/image/cmdline")] if shape.cmdline else []),
        "@disks": _xl_disks(shape),
        "@nics": _xl_nics(shape),
    }
    return _text(XL, _names(shape), parts)


def _chaos_shell(shape: Shape) -> Iterator[Message]:
    yield from _text(CHAOS_DOMAIN, _names(shape), {})
    for devid in range(shape.vifs):
        yield from _text(CHAOS_VIF, _names(shape, "vif", devid), {})
    for devid in shape.vbds:
        yield from _text(CHAOS_VBD, _names(shape, "vbd", devid), {})


def _chaos_boot(shape: Shape) -> Iterator[Message]:
    return _text(CHAOS_BOOT, _names(shape), {})


def _chaos_claimed(shape: Shape) -> Iterator[Message]:
    vifs = [m for i in range(shape.vifs) for m in _text(CHAOS_CONFIGURE_VIF, _names(shape, "vif", i), {}, True)]
    yield from _text(CHAOS_CONFIGURE, _names(shape), {"@vifs": iter(vifs)})
    yield from _chaos_boot(shape)


def prepared(design: str, shape: Shape) -> list[Message]:
    """What is sent for a shell of that shape, before anybody asks for a guest."""
    return list(_chaos_shell(shape)) if design == "chaos-xs-split" else []


def creation(design: str, shape: Shape, claimed: bool = True) -> list[Message]:
    """The messages of one creation, in their order. `claimed`: a design with shells has one ready. `ValueError`: there
    is no such design."""
    if design == "xl":
        return list(_xl(shape))
    if design == "chaos-xs-split" and claimed:
        return list(_chaos_claimed(shape))
    if design in ("chaos-xs", "chaos-xs-split"):
        return [*_chaos_shell(shape), *_chaos_boot(shape)]
    if design in ("chaos-noxs", "lightvm"):
        return []
    raise ValueError(f"no design {design}")


def counts(messages: Sequence[Message]) -> tuple[int, int]:
    """How many messages and how many transactions."""
    return len(messages), sum(m.op == "TRANSACTION_START" for m in messages)


__all__ = ["EXTRAS", "Extra", "Message", "Shape", "counts", "creation", "prepared"]
