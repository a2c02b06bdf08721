"""A client for Python code, over a connection in the same process.

It speaks the same bytes as every other client. Paths are text, values bytes; errors are XsError with the store's name
for them. Replies come at once, so that every call is synchronous; watch events that arrive in between are kept for
`events`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from .connection import Connection
from .wire import Op, Packet, Parser, XsError

T = TypeVar("T")


class Event(NamedTuple):
    """A watch has fired."""

    path: str
    token: str


class Client:
    """A synchronous client. `Client(store.connect_privileged())`."""

    def __init__(self, connection: Connection, tx_id: int = 0) -> None:
        self.connection = connection
        self._tx_id = tx_id
        self._parser = Parser()
        self._events: deque[Event] = deque()
        self._request = 0

    def call(self, op: int, payload: bytes) -> bytes:
        """Send one request and return its reply's payload. Raises XsError; ConnectionError when the store has dropped
        us."""
        self._request = (self._request + 1) & 0xFFFFFFFF
        request = Packet(op, self._request, self._tx_id, payload).pack()
        if self.connection.receive(request) != len(request):
            raise ConnectionError(f"the store does not take requests from {self.connection!r}")
        for packet in self._received():
            if packet.req_id == self._request and packet.type == Op.ERROR:
                raise XsError(packet.payload[:-1].decode())
            if packet.req_id == self._request:
                return packet.payload
        raise ConnectionError("no reply")

    def _received(self) -> list[Packet]:
        replies = []
        data = self.connection.send()
        at = 0
        while at < len(data):
            missing = self._parser.missing
            packet = self._parser.feed(data[at : at + missing])
            at += missing
            if packet is None:
                continue
            if packet.type == Op.WATCH_EVENT:
                path, token, _ = packet.payload.split(b"\0")
                self._events.append(Event(path.decode("latin-1"), token.decode("latin-1")))
            else:
                replies.append(packet)
        return replies

    def events(self) -> list[Event]:
        """The watch events that have arrived since the last call."""
        self._received()
        found = list(self._events)
        self._events.clear()
        return found

    # --- nodes ---

    def read(self, path: str) -> bytes:
        """The value of a node."""
        return self.call(Op.READ, _payload(path))

    def write(self, path: str, value: bytes | str) -> None:
        """Set a node's value."""
        self.call(Op.WRITE, _payload(path) + (os.fsencode(value) if isinstance(value, str) else value))

    def ls(self, path: str) -> list[str]:
        """The names of a node's children, however many there are."""
        try:
            return _texts(self.call(Op.DIRECTORY, _payload(path)))
        except XsError as error:
            if error.name != "E2BIG":
                raise
        return self._ls_in_parts(path)

    def _ls_in_parts(self, path: str) -> list[str]:
        names = b""
        generation: bytes | None = None
        while True:
            now, _, part = self.call(Op.DIRECTORY_PART, _payload(path, str(len(names)))).partition(b"\0")
            if generation not in (None, now):
                names, generation = b"", None
                continue
            generation = now
            if part.endswith(b"\0\0") or part == b"\0":
                return _texts(names + part[:-1])
            names += part

    def mkdir(self, path: str) -> None:
        """Make sure a node exists."""
        self.call(Op.MKDIR, _payload(path))

    def rm(self, path: str) -> None:
        """Remove a node and all below it."""
        self.call(Op.RM, _payload(path))

    def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        try:
            self.read(path)
        except XsError as error:
            if error.name != "ENOENT":
                raise
            return False
        return True

    def get_permissions(self, path: str) -> list[str]:
        """A node's permissions, as "n0", "r5"; the owner's first."""
        return _texts(self.call(Op.GET_PERMS, _payload(path)))

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Set them."""
        self.call(Op.SET_PERMS, _payload(path, *permissions))

    # --- watches ---

    def watch(self, path: str, token: str, depth: int | None = None) -> None:
        """Set a watch; its first event is there at once."""
        self.call(Op.WATCH, _payload(path, token, *([] if depth is None else [str(depth)])))

    def unwatch(self, path: str, token: str) -> None:
        """Remove a watch."""
        self.call(Op.UNWATCH, _payload(path, token))

    def reset_watches(self) -> None:
        """Remove all watches and transactions of this connection."""
        self.call(Op.RESET_WATCHES, b"\0")

    # --- transactions ---

    def transaction(self) -> Transaction:
        """Start a transaction: a client whose requests are part of it. As a context manager it commits at the end of
        the block, and aborts when the block raises; committing raises XsError EAGAIN on a conflict."""
        return Transaction(self, int(self.call(Op.TRANSACTION_START, b"\0")[:-1]))

    def transact(self, work: Callable[[Transaction], T], attempts: int = 100) -> T:
        """Run `work` in a transaction, again from the start as long as it conflicts, and return what it returned."""
        for attempt in range(attempts):
            transaction = self.transaction()
            try:
                result = work(transaction)
            except BaseException:
                transaction.abort()
                raise
            try:
                transaction.commit()
            except XsError as error:
                if error.name != "EAGAIN" or attempt == attempts - 1:
                    raise
                continue
            return result
        raise ValueError("attempts must be at least 1")

    # --- domains ---

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Tell the store to serve a domain."""
        self.call(Op.INTRODUCE, _payload(str(domid), str(gfn), str(port)))

    def release(self, domid: int) -> None:
        """Tell it to stop."""
        self.call(Op.RELEASE, _payload(str(domid)))

    def resume(self, domid: int) -> None:
        """Tell it that a suspended domain runs again."""
        self.call(Op.RESUME, _payload(str(domid)))

    def set_target(self, domid: int, target: int) -> None:
        """Give one domain another's rights."""
        self.call(Op.SET_TARGET, _payload(str(domid), str(target)))

    def is_introduced(self, domid: int) -> bool:
        """Whether the store serves a domain."""
        return self.call(Op.IS_DOMAIN_INTRODUCED, _payload(str(domid))) == b"T\0"

    def domain_path(self, domid: int) -> str:
        """A domain's own directory."""
        return self.call(Op.GET_DOMAIN_PATH, _payload(str(domid)))[:-1].decode()

    def control(self, *words: str) -> str:
        """A control command's answer."""
        return self.call(Op.CONTROL, _payload(*words)).rstrip(b"\0").decode()

    def close(self) -> None:
        """Disconnect."""
        self.connection.close()


class Transaction(Client):
    """A client inside of a transaction."""

    def __init__(self, client: Client, tx_id: int) -> None:
        super().__init__(client.connection, tx_id)
        self._outer = client
        self._parser = client._parser
        self._events = client._events
        self.ended = False

    @property
    def tx_id(self) -> int:
        """The transaction's number."""
        return self._tx_id

    def commit(self) -> None:
        """End it and keep its changes. XsError EAGAIN on a conflict: nothing is kept then, start again."""
        self.ended = True
        self.call(Op.TRANSACTION_END, b"T\0")

    def abort(self) -> None:
        """End it and forget its changes."""
        self.ended = True
        self.call(Op.TRANSACTION_END, b"F\0")

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.ended:
            return
        if kind is None:
            self.commit()
        else:
            self.abort()


def _payload(*fields: str) -> bytes:
    return b"".join(field.encode("latin-1") + b"\0" for field in fields)


def _texts(payload: bytes) -> list[str]:
    return [text.decode("latin-1") for text in payload.split(b"\0")[:-1]]
