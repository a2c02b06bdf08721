"""The words of a vif in a noxs control page: where in the page each of them is.

Features are bits; the MAC address, IP address and bridge stand in the page instead of the XenStore. There is no
hotplug-status. The front end enters Connected at once, without looking for InitWait.

Facts: public/io/noxs.h of LightVM's Xen 4.8 tree, as `pyvmm.abi.devctl.vif_ctrl_page` has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pyvmm.abi import devctl as abi
from pyvmm.abi.io.xenbus import XenbusStateUnknown
from pyvmm.xenbus.backend import Connection
from pyvmm.xenbus.words import Field, PageWords, ReadPage, Value

_PAGE = abi.vif_ctrl_page

_BE = {
    "sg": abi.VIF_BE_sg,
    "gso_tcpv4": abi.VIF_BE_gso_tcpv4,
    "gso_tcpv6": abi.VIF_BE_gso_tcpv6,
    "ipv6_csum_offload": abi.VIF_BE_ipv6_csum_offload,
    "rx_copy": abi.VIF_BE_rx_copy,
    "rx_flip": abi.VIF_BE_rx_flip,
    "multicast_control": abi.VIF_BE_multicast_control,
    "split_event_channels": abi.VIF_BE_split_event_channels,
    "ctrl_ring": abi.VIF_BE_ctrl_ring,
}
_FE = {
    "rx_notify": abi.VIF_FE_rx_notify,
    "sg": abi.VIF_FE_sg,
    "gso_tcpv4": abi.VIF_FE_gso_tcpv4,
    "gso_tcpv6": abi.VIF_FE_gso_tcpv6,
    "no_csum_offload": abi.VIF_FE_no_csum_offload,
    "ipv6_csum_offload": abi.VIF_FE_ipv6_csum_offload,
}


def _at(name: str, feature: str | None = None, kind: str = "number") -> Field:
    field = _PAGE[name]
    return Field(feature or name, field.offset, field.size, kind=kind)


OFFER = (
    *(Field(feature, _PAGE.be_feat.offset, _PAGE.be_feat.size, mask) for feature, mask in _BE.items()),
    _at("vifid", "handle"),
    _at("multi_queue_max_queues"),
    _at("multi_queue_num_queues", "num_queues"),
    _at("tx_ring_ref", "no_tx_ring"),
    _at("rx_ring_ref", "no_rx_ring"),
    _at("mac", kind="raw"),
    _at("ip"),
    _at("bridge", kind="text"),
)
"""The back end's."""


def _u32(page: ReadPage, name: str) -> int:
    field = _PAGE[name]
    return int.from_bytes(page(field.offset, field.size), "little")


def read(page: ReadPage, domid: int) -> Connection:
    """What the front end published. Both event channels are always there; the same one twice is one for both rings."""
    tx, rx = _u32(page, "tx_ring_ref"), _u32(page, "rx_ring_ref")
    tx_port, rx_port = _u32(page, "event_channel_tx"), _u32(page, "event_channel_rx")
    bits = int.from_bytes(page(_PAGE.fe_feat.offset, _PAGE.fe_feat.size), "little")
    features: dict[str, Value] = {feature: int(bool(bits & mask)) for feature, mask in _FE.items()}
    features["request_rx_copy"] = _u32(page, "request_rx_copy")
    features["num_queues"] = _u32(page, "multi_queue_num_queues")
    ports = (tx_port,) if tx_port == rx_port else (tx_port, rx_port)
    return Connection(domid, ((tx,), (rx,)), ports, features)


def write(connection: Connection) -> Iterator[tuple[int, bytes]]:
    """The front end's fields for a connection."""
    (tx,), (rx,) = connection.rings
    numbers = {
        "tx_ring_ref": tx,
        "rx_ring_ref": rx,
        "event_channel_tx": connection.ports[0],
        "event_channel_rx": connection.ports[-1],
        "request_rx_copy": int(connection.features.get("request_rx_copy", 0)),
    }
    for name, number in numbers.items():
        yield _PAGE[name].offset, struct.pack("<I", number)
    bits = sum(mask for feature, mask in _FE.items() if connection.features.get(feature))
    yield _PAGE.fe_feat.offset, struct.pack("<H", bits)


WORDS = PageWords(
    type=abi.noxs_dev_vif,
    size=_PAGE.size,
    fe_state=XenbusStateUnknown,
    offer=OFFER,
    details=(),
    read=read,
    write=write,
)

__all__ = ["WORDS"]
