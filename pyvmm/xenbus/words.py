"""The words of a device in each negotiation: which node of the XenStore, or which bytes of a noxs control page, stand
for which feature. A kind of device is a table of these; the negotiations know no device.

A front end's words for rings and ports differ too much between devices to be a table: they are two functions, one to
write them down, one to read them back, each word read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.xenbus.backend import Connection

Value = int | str | bytes
Read = Callable[[str], "str | None"]
"""Reads one node of a directory: its text, None when it is not there."""
ReadPage = Callable[[int, int], bytes]
"""Reads bytes (offset, size) of a control page."""


@dataclass(frozen=True)
class Node:
    """A feature and its node. A feature that is not in the table said is not written."""

    feature: str
    name: str
    number: bool = True

    def text(self, value: Value) -> str:
        """The node's text for a value (True and False are 1 and 0)."""
        return str(int(value)) if self.number else str(value)

    def value(self, text: str) -> Value:
        """The value of a node's text; a number that is none counts as 0."""
        if not self.number:
            return text
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


@dataclass(frozen=True)
class StoreWords:
    """A device in the XenStore. `config`: what the toolstack wrote to the back end's directory, as the data path wants
    it; `offer` and `details`: the back end's nodes, in the order in which they are written, at InitWait and with
    Connected; `read`: the front end's nodes as a connection (`DeviceError`); `write`: the nodes of a connection, in
    order; `published`: the state that a front end enters when they are there (Initialised or Connected)."""

    config: Callable[[Read], Any]
    offer: tuple[Node, ...]
    details: tuple[Node, ...]
    read: Callable[[Read, int], Connection]
    write: Callable[[Connection], Iterable[tuple[str, str]]]
    published: int


@dataclass(frozen=True)
class Field:
    """A feature and its place in a control page: `size` bytes at `offset`, or the bits `mask` of them. Numbers are
    little-endian, `text` is NUL-padded, `raw` bytes."""

    feature: str
    offset: int
    size: int
    mask: int = 0
    kind: str = "number"

    def put(self, page: Callable[[int, int], bytes], value: Value) -> bytes:
        """The bytes to write for `value`, given what the page holds."""
        if self.kind == "raw" or isinstance(value, bytes):
            return bytes(value)[: self.size].ljust(self.size, b"\0")  # type: ignore[arg-type]
        if self.kind == "text" or isinstance(value, str):
            return str(value).encode()[: self.size - 1].ljust(self.size, b"\0")
        number = int(value)
        if self.mask:
            old = int.from_bytes(page(self.offset, self.size), "little")
            number = old | self.mask if number else old & ~self.mask
        return number.to_bytes(self.size, "little")

    def get(self, page: Callable[[int, int], bytes]) -> Value:
        """The value in the page."""
        data = page(self.offset, self.size)
        if self.kind == "raw":
            return data
        if self.kind == "text":
            return data.partition(b"\0")[0].decode("latin-1")
        number = int.from_bytes(data, "little")
        return int(bool(number & self.mask)) if self.mask else number


@dataclass(frozen=True)
class PageWords:
    """A device in a control page of `size` bytes; `type` is its noxs_dev_* number, `fe_state` what the front end's
    state is at first. `offer`, `details`, `read` and `write` as for `StoreWords`; `write` gives offsets and bytes."""

    type: int
    size: int
    fe_state: int
    offer: tuple[Field, ...]
    details: tuple[Field, ...]
    read: Callable[[ReadPage, int], Connection]
    write: Callable[[Connection], Iterable[tuple[int, bytes]]]


def values(features: Mapping[str, Value], words: Iterable[Node]) -> list[tuple[str, str]]:
    """The nodes that say `features`, in the order of `words`."""
    return [(word.name, word.text(features[word.feature])) for word in words if word.feature in features]


__all__ = ["Field", "Node", "PageWords", "Read", "ReadPage", "StoreWords", "Value", "values"]
