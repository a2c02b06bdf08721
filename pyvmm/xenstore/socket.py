"""The store on a Unix socket, for the tools that people have: xenstore-ls and its family, pyxs, libxenstore.

A client of the socket has domain 0's rights, as on a real host; the file's mode (0600) says who may connect. The
protocol is that of the ring, byte for byte. Nothing here runs by itself: whoever owns the server calls `poll`, and
`poll` is the only place where the store hears of the outside. What it hears is told to an `Observer` first, in the
order in which the store gets it, so that a run with clients can be repeated from the record.

What a client can hold of the host is bounded:

- of its input `READ_SIZE` bytes and one incomplete message; a visit reads at most `READ_SIZE` bytes of each client, so
  that they take turns;
- of its output: above `PAUSE_OUTPUT` unsent bytes its requests wait in the kernel; above `DROP_OUTPUT`, which only
  watch events can reach, it is disconnected;
- above `MAX_CLIENTS` clients, and when the process has no file descriptor left, new ones wait to be accepted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
from pathlib import Path
from typing import Protocol

from .connection import Connection
from .store import Store

READ_SIZE = 4096
PAUSE_OUTPUT = 64 << 10
DROP_OUTPUT = 4 << 20
MAX_CLIENTS = 500
BACKLOG = 128
MODE = 0o600  # as xenstored gives its socket


class SocketError(Exception):
    """The socket cannot be served; `str(error)` is one line that says why."""


class Observer(Protocol):
    """Hears what comes from outside, before the store does. `client` is the number of the store's connection."""

    def connected(self, client: int) -> None:
        """A client has come."""

    def received(self, client: int, data: bytes) -> None:
        """It has sent these bytes."""

    def disconnected(self, client: int, reason: str) -> None:
        """It is gone: "closed" by itself, or for the "protocol", "output" or "shutdown"."""


class NoObserver:
    """An observer that forgets."""

    def connected(self, client: int) -> None:
        """See `Observer`."""

    def received(self, client: int, data: bytes) -> None:
        """See `Observer`."""

    def disconnected(self, client: int, reason: str) -> None:
        """See `Observer`."""


class _Client:
    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.connection = connection
        self.unsent = b""  # taken from the connection, not yet by the kernel
        self.interest = selectors.EVENT_READ


class SocketServer:
    """A store's listening socket and its clients.

    `SocketError`: somebody else serves there, the file is something else, or the system refuses. A socket file that
    nobody listens to any more is replaced.
    """

    def __init__(self, store: Store, path: str | Path, observer: Observer | None = None) -> None:
        self.store = store
        self.path = Path(path)
        self.observer: Observer = observer or NoObserver()
        self._clients: dict[int, _Client] = {}  # by file descriptor, in the order in which they came
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(self.path)
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)
        self._accepting = False
        self._wakers: list[int] = []
        self._listen_again()

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def wake_on(self, fd: int) -> None:
        """Let `poll` come back early when `fd` becomes readable (a pipe that a signal writes to). What is there is
        read and forgotten."""
        self._wakers.append(fd)
        self._selector.register(fd, selectors.EVENT_READ)

    # --- service ---

    def fileno(self) -> int:
        """Readable when `poll` has something to do."""
        return self._selector.fileno()

    def poll(self, seconds: float | None = 0) -> bool:
        """Send what waits, then take what has come; wait at most `seconds` for something to come (None: until
        something does). Whether the store heard of anything."""
        self.flush()
        heard = False
        for key, ready in self._selector.select(seconds):
            if key.fd == self._listener.fileno():
                heard |= self._accept()
            elif key.fd in self._wakers:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, READ_SIZE)
            elif ready & selectors.EVENT_READ and (client := self._clients.get(key.fd)) is not None:
                heard |= self._read(client)
        if heard:
            self.flush()
        return heard

    def flush(self) -> None:
        """Send clients what the store has for them, as far as they take it."""
        for client in list(self._clients.values()):
            if client.unsent or client.connection.wants_write or not client.connection.alive:
                self._write(client)

    def close(self) -> None:
        """Disconnect everybody and remove the socket file, if it is still ours."""
        for client in list(self._clients.values()):
            self._write(client)
            self._drop(client, "shutdown")
        self._selector.close()
        self._listener.close()
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)

    # --- clients ---

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM) and self._clients:
                self._stop_listening()  # until a client has gone: its end would otherwise be asked for in a busy loop
            return False
        sock.setblocking(False)
        client = _Client(sock, self.store.connect_privileged())
        self._clients[sock.fileno()] = client
        self._selector.register(sock, client.interest)
        self.observer.connected(client.connection.number)
        if len(self._clients) >= MAX_CLIENTS:
            self._stop_listening()
        return True

    def _stop_listening(self) -> None:
        if self._accepting:
            self._accepting = False
            self._selector.unregister(self._listener)

    def _listen_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _read(self, client: _Client) -> bool:
        try:
            data = client.sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(client, "closed")
            return True
        self.observer.received(client.connection.number, data)
        client.connection.receive(data)
        return True

    def _write(self, client: _Client) -> None:
        """Send what can be sent; afterwards decide whether to go on reading, wait for room, or give up."""
        connection = client.connection
        while client.unsent or connection.wants_write:
            if not client.unsent:
                client.unsent = connection.send(PAUSE_OUTPUT)
            try:
                taken = client.sock.send(client.unsent)
            except BlockingIOError:
                break
            except OSError:
                self._drop(client, "closed")
                return
            client.unsent = client.unsent[taken:]
        if not connection.alive:
            self._drop(client, connection.error or "closed")
            return
        waiting = len(client.unsent) + connection.unsent_bytes
        if waiting > DROP_OUTPUT:
            self._drop(client, "output")
            return
        interest = selectors.EVENT_READ if waiting < PAUSE_OUTPUT else 0
        if waiting:
            interest |= selectors.EVENT_WRITE
        if interest != client.interest:
            client.interest = interest
            self._selector.modify(client.sock, interest)

    def _drop(self, client: _Client, reason: str) -> None:
        del self._clients[client.sock.fileno()]
        self._selector.unregister(client.sock)
        client.sock.close()
        self.observer.disconnected(client.connection.number, reason)
        client.connection.close()
        self._listen_again()


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`."""
    _make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketError(f"cannot make the socket {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _make_room(path: Path) -> None:
    """Remove a socket file nobody listens to. `SocketError` for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"cannot make the socket {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketError(f"cannot make the socket {path}: there is a file that is no socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        if error.errno != errno.EAGAIN:  # EAGAIN: somebody listens, whose queue is full
            raise SocketError(f"cannot make the socket {path}: {error.strerror}") from None
        raise SocketError(f"somebody serves on {path} already") from None
    else:
        raise SocketError(f"somebody serves on {path} already")
    finally:
        probe.close()


__all__ = ["Observer", "SocketError", "SocketServer"]
