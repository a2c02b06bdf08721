"""The shared page between the store and a domain.

Two circular buffers of 1024 bytes (requests, replies) with free-running 32-bit indices, a bitmap of what the server can
do, a connection state and an error field: struct xenstore_domain_interface of io/xs_wire.h, explained in
docs/misc/xenstore-ring.txt.

The other side can write anything into the page at any time. So an index is read once before it is used, and checked: a
producer more than 1024 ahead of its consumer makes the connection unusable, with XENSTORE_ERROR_RINGIDX in the error
field, until the guest asks for a reconnection. One visit does a bounded amount of work, so that no domain can keep the
store from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pyvmm.abi.io import xs_wire

from .connection import Connection

_PAGE = xs_wire.xenstore_domain_interface
RING_SIZE = xs_wire.XENSTORE_RING_SIZE
PAGE_SIZE = 4096
REQ = _PAGE.req.offset
RSP = _PAGE.rsp.offset
REQ_CONS = _PAGE.req_cons.offset
REQ_PROD = _PAGE.req_prod.offset
RSP_CONS = _PAGE.rsp_cons.offset
RSP_PROD = _PAGE.rsp_prod.offset
SERVER_FEATURES = _PAGE.server_features.offset
CONNECTION = _PAGE.connection.offset
ERROR = _PAGE.error.offset

FEATURE_RECONNECTION = xs_wire.XENSTORE_SERVER_FEATURE_RECONNECTION
FEATURE_ERROR = xs_wire.XENSTORE_SERVER_FEATURE_ERROR
FEATURE_WATCH_DEPTH = 1 << 2  # bit 2 of xenstore-ring.txt; 4.17's header has no name for it
CONNECTED = xs_wire.XENSTORE_CONNECTED
RECONNECT = xs_wire.XENSTORE_RECONNECT
ERROR_NONE = xs_wire.XENSTORE_ERROR_NONE
ERROR_RINGIDX = xs_wire.XENSTORE_ERROR_RINGIDX
ERROR_PROTO = xs_wire.XENSTORE_ERROR_PROTO


class Page(Protocol):
    """The shared page, wherever it is."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the page."""

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of the page."""


class BadIndex(Exception):
    """The two indices of a buffer cannot be true at once."""


def _get(page: Page, offset: int) -> int:
    return int.from_bytes(page.read(offset, 4), "little")


def _set(page: Page, offset: int, value: int) -> None:
    page.write(offset, (value & 0xFFFFFFFF).to_bytes(4, "little"))


def take(page: Page, buffer: int, cons_at: int, prod_at: int, limit: int) -> bytes:
    """Consume up to `limit` bytes of a buffer. Raises BadIndex."""
    cons, prod = _get(page, cons_at), _get(page, prod_at)
    ready = (prod - cons) & 0xFFFFFFFF
    if ready > RING_SIZE:
        raise BadIndex
    length = min(ready, limit)
    if length <= 0:
        return b""
    start = cons % RING_SIZE
    data = page.read(buffer + start, min(length, RING_SIZE - start))
    if len(data) < length:
        data += page.read(buffer, length - len(data))
    _set(page, cons_at, cons + length)
    return data


def room(page: Page, cons_at: int, prod_at: int) -> int:
    """How many bytes fit into a buffer. Raises BadIndex."""
    used = (_get(page, prod_at) - _get(page, cons_at)) & 0xFFFFFFFF
    if used > RING_SIZE:
        raise BadIndex
    return RING_SIZE - used


def put(page: Page, buffer: int, cons_at: int, prod_at: int, data: bytes) -> int:
    """Produce as much of `data` as fits and return how much that was. Raises BadIndex."""
    cons, prod = _get(page, cons_at), _get(page, prod_at)
    used = (prod - cons) & 0xFFFFFFFF
    if used > RING_SIZE:
        raise BadIndex
    data = data[: RING_SIZE - used]
    if data:
        start = prod % RING_SIZE
        page.write(buffer + start, data[: RING_SIZE - start])
        if len(data) > RING_SIZE - start:
            page.write(buffer, data[RING_SIZE - start :])
        _set(page, prod_at, prod + len(data))
    return len(data)


class Ring:
    """The store's end: moves bytes between a domain's page and its connection.

    `notify` signals the domain's event channel; it is called at most once a visit, when the page was changed.
    """

    def __init__(self, page: Page, connection: Connection, notify: Callable[[], None]) -> None:
        self.page = page
        self.connection = connection
        self.notify = notify

    @property
    def features(self) -> int:
        """What is advertised to the guest."""
        depth = FEATURE_WATCH_DEPTH if self.connection.store.settings.watch_depth else 0
        return FEATURE_RECONNECTION | FEATURE_ERROR | depth

    def attach(self) -> None:
        """Begin to serve a page (INTRODUCE): empty buffers, features advertised. A guest that found the state
        "reconnect" at its start is told to go on."""
        for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
            _set(self.page, offset, 0)
        _set(self.page, ERROR, ERROR_NONE)
        _set(self.page, SERVER_FEATURES, self.features)
        if _get(self.page, CONNECTION) == RECONNECT:
            _set(self.page, CONNECTION, CONNECTED)
            self.notify()

    def service(self, requests: int = 16) -> bool:
        """One visit, after an event of the domain or when its connection has something to send. Executes at most
        `requests` requests. Returns whether there is more to do without the domain doing anything: visit again, after
        the others."""
        if _get(self.page, CONNECTION) != CONNECTED:
            self._reconnect()
            return False
        if not self.connection.alive:
            return False
        store = self.connection.store
        moved = False
        more = False
        last = store.requests + requests
        try:
            while True:
                sent = self._send()
                taken = store.requests < last and self._receive()
                moved = moved or sent or taken
                if not taken and not sent:
                    break
            more = self.connection.accepts and self._waiting() > 0
        except BadIndex:
            self._die(ERROR_RINGIDX, "ring index")
            moved = True
        if self.connection.error == "protocol":
            self._die(ERROR_PROTO, "protocol")
            moved = True
        if moved:
            self.notify()
        return more

    @property
    def can_send(self) -> bool:
        """There is something for the domain, and room for it: a visit would move it."""
        if not (self.connection.wants_write and self.connection.alive) or _get(self.page, CONNECTION) != CONNECTED:
            return False
        try:
            return room(self.page, RSP_CONS, RSP_PROD) > 0
        except BadIndex:
            return True  # a visit would see to that

    def _waiting(self) -> int:
        return RING_SIZE - room(self.page, REQ_CONS, REQ_PROD)

    def _send(self) -> bool:
        if not self.connection.wants_write:
            return False
        space = room(self.page, RSP_CONS, RSP_PROD)
        if not space:
            return False
        return put(self.page, RSP, RSP_CONS, RSP_PROD, self.connection.send(space)) > 0

    def _receive(self) -> bool:
        """Read no further than the end of the header or payload being read."""
        if not self.connection.accepts:
            return False
        data = take(self.page, REQ, REQ_CONS, REQ_PROD, self.connection.missing)
        self.connection.receive(data)
        return bool(data)

    def _die(self, error: int, reason: str) -> None:
        _set(self.page, ERROR, error)
        self.connection.fail(reason)

    def _reconnect(self) -> None:
        """The guest asked to start over. The unused space becomes invalid messages, so that stale ones cannot be taken
        for true."""
        self.connection.reset()
        self.page.write(REQ, b"\xff" * (2 * RING_SIZE))
        for offset in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
            _set(self.page, offset, 0)
        _set(self.page, ERROR, ERROR_NONE)
        _set(self.page, CONNECTION, CONNECTED)
        self.notify()


class GuestRing:
    """The domain's end, for native domains and tests: bytes out, bytes in; notifying the store is the caller's
    business."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def features(self) -> int:
        """What the store advertises."""
        return _get(self.page, SERVER_FEATURES)

    @property
    def error(self) -> int:
        """Why the store gave up (ERROR_NONE: it has not)."""
        return _get(self.page, ERROR)

    @property
    def connected(self) -> bool:
        """False while a reconnection is under way."""
        return _get(self.page, CONNECTION) == CONNECTED

    def send(self, data: bytes) -> int:
        """Put as much as fits into the request buffer; returns how much. Raises BadIndex."""
        return put(self.page, REQ, REQ_CONS, REQ_PROD, data)

    def receive(self) -> bytes:
        """Take what is in the reply buffer. Raises BadIndex."""
        return take(self.page, RSP, RSP_CONS, RSP_PROD, RING_SIZE)

    def reconnect(self) -> None:
        """Ask for a new start; wait until `connected`, and touch nothing else meanwhile."""
        _set(self.page, CONNECTION, RECONNECT)


class LocalPage:
    """A page in the memory of this process."""

    def __init__(self) -> None:
        self.data = bytearray(PAGE_SIZE)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the page."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of the page."""
        self.data[offset : offset + len(data)] = data
