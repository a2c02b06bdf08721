"""The words of a vif in the XenStore: the nodes that netback, xl and netfront write, in their order.

The toolstack's nodes in the back end's directory are read as a `VifConfig`. The back end's `hotplug-status` is written
by what connects the interface to its switch; on a real host that is a script which runs once the back end says
InitWait, and the back end is Connected only when it says "connected". Here the back end does the script's work itself
when it is probed, so the node is among those it writes then, and where there is no such switch the device fails before
it is offered.

Facts: Xen 4.17 public/io/netif.h; Linux's drivers/net/xen-netback/xenbus.c (netback_probe, connect,
read_xenbus_vif_flags, connect_data_rings) and xen-netfront.c; tools/hotplug/Linux/vif-bridge.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.abi.io.xenbus import XenbusStateConnected
from pyvmm.backends.switch import DEFAULT_MTU
from pyvmm.backends.vif import VifConfig
from pyvmm.xenbus.backend import Connection, DeviceError
from pyvmm.xenbus.words import Node, Read, StoreWords, Value

OFFER = (
    Node("sg", "feature-sg"),
    Node("gso_tcpv4", "feature-gso-tcpv4"),
    Node("gso_tcpv6", "feature-gso-tcpv6"),
    Node("ipv6_csum_offload", "feature-ipv6-csum-offload"),
    Node("rx_copy", "feature-rx-copy"),
    Node("rx_flip", "feature-rx-flip"),
    Node("multicast_control", "feature-multicast-control"),
    Node("split_event_channels", "feature-split-event-channels"),
    Node("multi_queue_max_queues", "multi-queue-max-queues"),
    Node("ctrl_ring", "feature-ctrl-ring"),
    Node("hotplug_status", "hotplug-status", number=False),
)
"""The back end's, in netback's order."""

# The front end's: feature, node.
FRONT_FEATURES = (
    ("request_rx_copy", "request-rx-copy"),
    ("rx_notify", "feature-rx-notify"),
    ("sg", "feature-sg"),
    ("gso_tcpv4", "feature-gso-tcpv4"),
    ("gso_tcpv6", "feature-gso-tcpv6"),
    ("no_csum_offload", "feature-no-csum-offload"),
    ("ipv6_csum_offload", "feature-ipv6-csum-offload"),
    ("request_multicast_control", "request-multicast-control"),
)


def config(read: Read) -> VifConfig:
    """What the toolstack wrote to the back end's directory."""
    handle = read("handle") or ""
    return VifConfig(
        mac=read("mac") or "",
        bridge=read("bridge") or "xenbr0",
        ip=read("ip"),
        mtu=_mtu(read("mtu")),
        name=read("vifname"),
        handle=int(handle) if handle.isascii() and handle.isdigit() and len(handle) < 10 else 0,
    )


def _mtu(text: str | None) -> int:
    """0, which no interface can have, for what is no number."""
    if text is None:
        return DEFAULT_MTU
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _number(name: str, text: str | None, most: int = 0xFFFF_FFFF) -> int:
    """A decimal number as netback's scanf wants it. `DeviceError` when the node is not there or holds something
    else."""
    if text is None:
        raise DeviceError(f"there is no {name}")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise DeviceError(f"{name} is {text[:40]!r}, not a number")
    return int(text)


def read(node: Read, domid: int) -> Connection:
    """What the front end published. `DeviceError`: a node is missing or no number; one or two event channels, but not
    both."""
    queues = node("multi-queue-num-queues")
    count = _number("multi-queue-num-queues", queues) if queues is not None else 1
    if count != 1:
        raise DeviceError(f"multi-queue-num-queues is {count}, of 1 that was offered")
    rings = (
        (_number("tx-ring-ref", node("tx-ring-ref")),),
        (_number("rx-ring-ref", node("rx-ring-ref")),),
    )
    split = node("event-channel-tx")
    ports: tuple[int, ...]
    if split is not None:
        ports = (_number("event-channel-tx", split), _number("event-channel-rx", node("event-channel-rx")))
    else:
        ports = (_number("event-channel", node("event-channel")),)
    features: dict[str, Value] = {"num_queues": count}
    for feature, name in FRONT_FEATURES:
        text = node(name)
        if text is not None:
            features[feature] = _number(name, text)
    return Connection(domid, rings, ports, features)


def write(connection: Connection) -> Iterator[tuple[str, str]]:
    """The front end's nodes for a connection, in Mini-OS's order."""
    (tx,), (rx,) = connection.rings
    yield "tx-ring-ref", str(tx)
    yield "rx-ring-ref", str(rx)
    names = ("event-channel",) if len(connection.ports) == 1 else ("event-channel-tx", "event-channel-rx")
    for name, port in zip(names, connection.ports, strict=True):
        yield name, str(port)
    for feature, name in FRONT_FEATURES:
        if feature in connection.features:
            yield name, str(int(connection.features[feature]))


WORDS = StoreWords(config=config, offer=OFFER, details=(), read=read, write=write, published=XenbusStateConnected)

__all__ = ["WORDS"]
