"""What a block device says and reads in the XenStore. Nodes, and their order, as Linux's xen-blkback writes them.

Facts: Xen 4.17 public/io/blkif.h."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pyvmm.abi.io import protocols, xenbus
from pyvmm.backends.vbd import MAX_RING_PAGE_ORDER, Vbd, VbdConfig
from pyvmm.backends.vbd_noxs import PAGE_WORDS
from pyvmm.xenbus.backend import Connection, DeviceError, Driver
from pyvmm.xenbus.words import Node, Read, StoreWords

PREFIXES = ("file:", "aio:", "phy:", "raw:")


def config(read: Read) -> VbdConfig:
    """What the toolstack wrote to the back end's directory."""
    path = os.fsdecode((read("params") or "").encode("latin-1"))  # the bytes of a file's name, whatever they are
    for prefix in PREFIXES:
        path = path.removeprefix(prefix)
    return VbdConfig(
        path=path,
        readonly=(read("mode") or "r").startswith("r"),
        cdrom=read("device-type") == "cdrom",
        removable=read("removable") == "1",
        discard=read("discard-enable") != "0",
    )


def number(text: str | None, what: str) -> int:
    """A node's number. `DeviceError` when it is none of 32 bits."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > 0xFFFF_FFFF:
        raise DeviceError(f"{what} is to be a number, not {text!r}" if text is not None else f"there is no {what}")
    return int(text)


def read_connection(read: Read, domid: int) -> Connection:
    """The front end's nodes."""
    order_text = read("ring-page-order")
    if order_text is None:
        refs = [number(read("ring-ref"), "ring-ref")]
    else:
        order = number(order_text, "ring-page-order")
        if order > MAX_RING_PAGE_ORDER:
            raise DeviceError(f"ring-page-order is to be at most {MAX_RING_PAGE_ORDER}, not {order}")
        refs = [number(read(f"ring-ref{i}"), f"ring-ref{i}") for i in range(1 << order)]
    queues = read("multi-queue-num-queues")
    if queues is not None and number(queues, "multi-queue-num-queues") != 1:
        raise DeviceError("one queue is served, not more")
    port = number(read("event-channel"), "event-channel")
    features: dict[str, int | str | bytes] = {"protocol": read("protocol") or ""}
    return Connection(domid, (tuple(refs),), (port,), features)


def write_connection(connection: Connection) -> Iterable[tuple[str, str]]:
    """The nodes of a front end's connection, as Linux's blkfront writes them."""
    refs = connection.rings[0]
    if len(refs) == 1:
        yield "ring-ref", str(refs[0])
    else:
        yield "ring-page-order", str(len(refs).bit_length() - 1)
        for i, ref in enumerate(refs):
            yield f"ring-ref{i}", str(ref)
    yield "event-channel", str(connection.ports[0])
    yield "protocol", str(connection.features.get("protocol") or protocols.XEN_IO_PROTO_ABI_NATIVE)


STORE_WORDS = StoreWords(
    config=config,
    offer=(
        Node("max_indirect_segments", "feature-max-indirect-segments"),
        Node("max_queues", "multi-queue-max-queues"),
        Node("max_ring_page_order", "max-ring-page-order"),
        Node("hotplug_status", "hotplug-status", number=False),
    ),
    details=(
        Node("flush", "feature-flush-cache"),
        Node("discard_granularity", "discard-granularity"),
        Node("discard_alignment", "discard-alignment"),
        Node("discard_secure", "discard-secure"),
        Node("discard", "feature-discard"),
        Node("barrier", "feature-barrier"),
        Node("persistent", "feature-persistent"),
        Node("sectors", "sectors"),
        Node("info", "info"),
        Node("sector_size", "sector-size"),
        Node("physical_sector_size", "physical-sector-size"),
    ),
    read=read_connection,
    write=write_connection,
    published=xenbus.XenbusStateInitialised,
)

VBD = Driver("vbd", Vbd, STORE_WORDS, PAGE_WORDS)
"""Block devices, over either negotiation."""
