"""A vif's words in both negotiations: written by one end and read by the other, and what cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.abi import devctl as abi
from pyvmm.backends import vif_noxs, vif_xenstore
from pyvmm.backends.vif import OFFER, VifConfig
from pyvmm.xenbus.backend import Connection, DeviceError
from tests.backends.vif_front import Bench

U32 = st.integers(0, 0xFFFF_FFFF)
BITS = ("rx_notify", "sg", "gso_tcpv4", "gso_tcpv6", "no_csum_offload", "ipv6_csum_offload", "request_rx_copy")
CONNECTIONS = st.builds(
    lambda tx, rx, ports, bits: Connection(
        5, ((tx,), (rx,)), tuple(dict.fromkeys(ports)), dict(zip(BITS, bits, strict=True))
    ),
    U32,
    U32,
    st.lists(U32, min_size=1, max_size=2),
    st.tuples(*[st.integers(0, 1)] * len(BITS)),
)


@given(CONNECTIONS)
def test_store_words(connection: Connection) -> None:
    nodes = dict(vif_xenstore.WORDS.write(connection))
    found = vif_xenstore.WORDS.read(nodes.get, 5)
    assert (found.domid, found.rings, found.ports) == (5, connection.rings, connection.ports)
    assert found.features == {"num_queues": 1, **connection.features}


@given(CONNECTIONS)
def test_page_words(connection: Connection) -> None:
    page = bytearray(4096)
    page[abi.vif_ctrl_page.multi_queue_num_queues.offset] = 1
    for offset, data in vif_noxs.WORDS.write(connection):
        page[offset : offset + len(data)] = data
    found = vif_noxs.WORDS.read(lambda offset, size: bytes(page[offset : offset + size]), 5)
    assert (found.domid, found.rings, found.ports) == (5, connection.rings, connection.ports)
    assert found.features == {"num_queues": 1, **connection.features}


GOOD = {
    "tx-ring-ref": "8",
    "rx-ring-ref": "9",
    "event-channel": "3",
    "request-rx-copy": "1",
    "feature-rx-notify": "1",
}


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("tx-ring-ref", None, "there is no tx-ring-ref"),
        ("rx-ring-ref", None, "there is no rx-ring-ref"),
        ("event-channel", None, "there is no event-channel"),
        ("event-channel-tx", "4", "there is no event-channel-rx"),
        ("event-channel-tx", "x", "event-channel-tx is 'x', not a number"),
        ("tx-ring-ref", "", "tx-ring-ref is '', not a number"),
        ("tx-ring-ref", "-1", "not a number"),
        ("tx-ring-ref", "8 ", "not a number"),
        ("tx-ring-ref", "4294967296", "not a number"),
        ("tx-ring-ref", "9" * 200, "not a number"),
        ("tx-ring-ref", "\u0663", "not a number"),
        ("multi-queue-num-queues", "2", "multi-queue-num-queues is 2"),
        ("multi-queue-num-queues", "0", "multi-queue-num-queues is 0"),
        ("feature-sg", "yes", "feature-sg is 'yes', not a number"),
    ],
)
def test_nodes_that_cannot_be_read(name: str, text: str | None, cause: str) -> None:
    assert vif_xenstore.WORDS.read(GOOD.get, 5).ports == (3,)
    nodes = {key: value for key, value in {**GOOD, name: text}.items() if value is not None}
    with pytest.raises(DeviceError, match=cause) as caught:
        vif_xenstore.WORDS.read(nodes.get, 5)
    assert len(str(caught.value)) < 100


def test_the_offer_in_the_store() -> None:
    """Netback's nodes, in its order."""
    offer = Bench().front(Bench().host.one).vif.probe()
    nodes = [(word.name, word.text(offer[word.feature])) for word in vif_xenstore.WORDS.offer]
    assert nodes == [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "0"),
        ("feature-gso-tcpv6", "0"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-multicast-control", "1"),
        ("feature-split-event-channels", "1"),
        ("multi-queue-max-queues", "1"),
        ("feature-ctrl-ring", "0"),
        ("hotplug-status", "connected"),
    ]


def test_the_offer_in_the_page() -> None:
    """Each at its published place."""
    bench = Bench()
    offer = bench.front(bench.host.one, ip="10.1.2.3", bridge="br0", handle=2).vif.probe()
    page = bytearray(4096)

    def read(offset: int, size: int) -> bytes:
        return bytes(page[offset : offset + size])

    for field in vif_noxs.WORDS.offer:
        data = field.put(read, offer[field.feature])
        page[field.offset : field.offset + len(data)] = data
    found = abi.vif_ctrl_page.unpack(bytes(page))
    bits = abi.VIF_BE_sg | abi.VIF_BE_ipv6_csum_offload | abi.VIF_BE_rx_copy
    assert found.be_feat == bits | abi.VIF_BE_multicast_control | abi.VIF_BE_split_event_channels
    assert (found.vifid, found.multi_queue_max_queues, found.multi_queue_num_queues) == (2, 1, 1)
    assert (found.tx_ring_ref, found.rx_ring_ref) == (0xFFFF_FFFF, 0xFFFF_FFFF)
    assert (found.mac, found.ip) == (bytes.fromhex("00163e000001"), 0x0302010A)
    assert found.bridge.rstrip(b"\0") == b"br0"
    assert set(OFFER) <= set(offer)


def test_what_the_toolstack_wrote() -> None:
    nodes = {
        "mac": "00:16:3e:01:02:03",
        "bridge": "br9",
        "ip": "10.0.0.1",
        "mtu": "9000",
        "vifname": "up",
        "handle": "4",
    }
    assert vif_xenstore.WORDS.config(nodes.get) == VifConfig("00:16:3e:01:02:03", "br9", "10.0.0.1", 9000, "up", 4)
    nothing: dict[str, str] = {}
    assert vif_xenstore.WORDS.config(nothing.get) == VifConfig("")
    for wrong in ("", "x", "-1", "123456"):
        assert vif_xenstore.WORDS.config({"mtu": wrong}.get).mtu == 0  # which no interface can have
