"""A client of the store: bytes in, bytes out.

The owner of the transport pushes what arrived into `receive` and takes away what is to be sent with `send`; a request
is executed as soon as its last byte is in. What a client can make the store hold is bounded: of its input at most one
message; of its output, `receive` takes nothing more while the unsent replies are at the quota, and events over the
memory quota are dropped, as is an event that already waits to be sent in the same words.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .paths import domain_path
from .permissions import Caller
from .transaction import Transaction
from .watches import Watch
from .wire import Op, Packet, Parser, ProtocolError, XsError

if TYPE_CHECKING:
    from .store import Store


class Connection:
    """One client. Made by `Store.connect_domain` and `Store.connect_privileged`."""

    def __init__(self, store: Store, number: int, domid: int, privileged: bool) -> None:
        self.store = store
        self.number = number
        """Counts all connections ever made to the store."""
        self.domid = domid
        self.base = domain_path(domid)
        """What relative paths are relative to."""
        self.caller = Caller(domid, privileged, store.incarnation(domid))
        self.error: str | None = None
        """Why the store stopped talking to this client: "protocol", or what the transport said; None while all is
        well."""
        self.closed = False
        self.watches: dict[tuple[str, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self.dropped_events = 0
        self._next_transaction = 1
        self._parser = Parser()
        self._output: deque[tuple[bool, bytes]] = deque()  # (is an event, bytes)
        self._sent = 0  # bytes of the first that are already on their way
        self._unsent_replies = 0
        self._unsent_bytes = 0
        self._waiting_events: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<xenstore connection {self.number} of domain {self.domid}>"

    # --- bytes in ---

    @property
    def alive(self) -> bool:
        """Whether the store talks to this client."""
        return self.error is None and not self.closed

    @property
    def accepts(self) -> bool:
        """Whether `receive` would take anything now."""
        if not self.alive:
            return False
        return self.caller.privileged or self._unsent_replies < self.store.limits.outstanding

    @property
    def missing(self) -> int:
        """How many bytes complete the header or payload being read: a transport need not offer more at once."""
        return self._parser.missing

    def receive(self, data: bytes) -> int:
        """Take bytes from the client, execute the requests they complete, and return how many were taken: fewer than
        offered when the client has too many unsent replies (offer the rest again after `send`) or the connection is
        dead."""
        taken = 0
        while self.accepts:
            missing = self._parser.missing
            if missing and taken == len(data):
                break
            piece = data[taken : taken + missing]
            taken += len(piece)
            try:
                packet = self._parser.feed(piece)
            except ProtocolError:
                self.fail("protocol")
                break
            if packet is not None:
                self.store.execute(self, packet)
        return taken

    # --- bytes out ---

    @property
    def wants_write(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._output)

    def send(self, limit: int | None = None) -> bytes:
        """Take up to `limit` bytes of what is to be sent (all of it by default)."""
        room = self._unsent_bytes if limit is None else limit
        pieces = []
        while room > 0 and self._output:
            event, data = self._output[0]
            piece = data[self._sent : self._sent + room]
            pieces.append(piece)
            room -= len(piece)
            self._sent += len(piece)
            self._unsent_bytes -= len(piece)
            if self._sent < len(data):
                break
            self._output.popleft()
            self._sent = 0
            if not event:
                self._unsent_replies -= 1
            elif (left := self._waiting_events[data] - 1) > 0:
                self._waiting_events[data] = left
            else:
                del self._waiting_events[data]
        return b"".join(pieces)

    def reply(self, packet: Packet) -> None:
        """Queue a reply.  (The store calls this.)"""
        self._queue(False, packet.pack())

    def event(self, path: bytes, token: bytes) -> None:
        """Queue a watch event.  (The store calls this.)  Specials are never taken for duplicates: they are counted."""
        payload = path + b"\0" + token + b"\0"
        if len(payload) > 4096:
            return
        data = Packet(Op.WATCH_EVENT, 0, 0, payload).pack()
        if data in self._waiting_events and not path.startswith(b"@"):
            return
        if not self.caller.privileged and self._unsent_bytes + len(data) > self.store.limits.memory:
            self.dropped_events += 1
            return
        self._waiting_events[data] = self._waiting_events.get(data, 0) + 1
        self._queue(True, data)

    def _queue(self, event: bool, data: bytes) -> None:
        if not self.alive:
            return
        self._output.append((event, data))
        self._unsent_bytes += len(data)
        if not event:
            self._unsent_replies += 1

    # --- state ---

    @property
    def unsent_replies(self) -> int:
        """Requests executed whose reply has not been taken yet."""
        return self._unsent_replies

    @property
    def unsent_bytes(self) -> int:
        """Output that has not been taken yet."""
        return self._unsent_bytes

    @property
    def path_max(self) -> int:
        """The quota on a path's length."""
        return self.store.limits.path_max

    def start_transaction(self) -> Transaction:
        """A new transaction. ENOSPC over the quota."""
        if not self.caller.privileged and len(self.transactions) > self.store.limits.transactions:
            raise XsError("ENOSPC")
        while self._next_transaction in self.transactions or not self._next_transaction:
            self._next_transaction = (self._next_transaction + 1) & 0xFFFFFFFF
        number = self._next_transaction
        self._next_transaction = (number + 1) & 0xFFFFFFFF
        transaction = Transaction(number, self.store.root, self.store.shared, self.caller)
        self.transactions[number] = transaction
        return transaction

    def forget(self) -> None:
        """Drop all watches and transactions (RESET_WATCHES)."""
        for watch in self.watches.values():
            self.store.watches.remove(watch)
        self.watches.clear()
        self.transactions.clear()

    def reset(self) -> None:
        """Start over, as after a ring reconnection: no watch, transaction, half-read request or unsent byte is left."""
        self._drop()
        self._next_transaction = 1
        self.error = None

    def fail(self, reason: str) -> None:
        """Stop talking to this client; only `reset` makes it usable again."""
        self._drop()
        self.error = reason

    def close(self) -> None:
        """The client is gone for good."""
        if not self.closed:
            self._drop()
            self.closed = True
            self.store.disconnected(self)

    def _drop(self) -> None:
        self.forget()
        self._parser.clear()
        self._output.clear()
        self._waiting_events.clear()
        self._sent = self._unsent_replies = self._unsent_bytes = 0
