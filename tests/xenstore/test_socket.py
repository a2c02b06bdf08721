"""The store's socket: a server thread's worth of clients without a thread, half requests, slow readers, sudden ends."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.xenstore import Client, Op, Packet, Store
from pyvmm.xenstore import socket as transport
from pyvmm.xenstore.socket import SocketError, SocketServer


class Log:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def connected(self, client: int) -> None:
        self.events.append(("connected", client))

    def received(self, client: int, data: bytes) -> None:
        self.events.append(("received", client, data))

    def disconnected(self, client: int, reason: str) -> None:
        self.events.append(("disconnected", client, reason))


class Rig:
    """A store, its server, and clients that speak bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store()
        self.log = Log()
        self.server = SocketServer(self.store, path, self.log)
        self.tool = Client(self.store.connect_privileged())

    def settle(self) -> None:
        """Serve until nothing more comes."""
        while self.server.poll(0):
            pass

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.path))
        sock.setblocking(False)
        self.settle()
        return sock

    def replies(self, sock: socket.socket) -> list[Packet]:
        """Everything that has arrived at this client, cut into messages."""
        self.settle()
        data = b""
        while True:
            try:
                part = sock.recv(1 << 16)
            except BlockingIOError:
                self.server.flush()
                try:
                    part = sock.recv(1 << 16)
                except BlockingIOError:
                    break
            if not part:
                break
            data += part
            self.settle()
        found = []
        while data:
            kind, req, tx, size = (int.from_bytes(data[i : i + 4], "little") for i in (0, 4, 8, 12))
            found.append(Packet(kind, req, tx, data[16 : 16 + size]))
            data = data[16 + size :]
        return found

    def ask(self, sock: socket.socket, op: Op, payload: bytes, tx: int = 0) -> Packet:
        sock.sendall(Packet(op, 7, tx, payload).pack())
        (reply,) = [packet for packet in self.replies(sock) if packet.type != Op.WATCH_EVENT]
        assert reply.req_id == 7
        return reply


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "socket")
    yield rig
    rig.server.close()
    assert rig.store.check() == []
    assert not rig.path.exists()


def test_requests_and_errors(rig: Rig) -> None:
    sock = rig.connect()
    assert rig.ask(sock, Op.WRITE, b"/a/b\0value") == (Op.WRITE, 7, 0, b"OK\0")
    assert rig.ask(sock, Op.READ, b"/a/b\0").payload == b"value"
    assert rig.ask(sock, Op.READ, b"/none\0") == (Op.ERROR, 7, 0, b"ENOENT\0")
    assert rig.ask(sock, Op.SET_PERMS, b"/a\0n3\0").payload == b"OK\0"  # a client of the socket is privileged
    sock.close()
    rig.settle()
    assert len(rig.server) == 0
    assert rig.log.events[0] == ("connected", 2) and rig.log.events[-1] == ("disconnected", 2, "closed")


def test_a_request_may_come_in_any_pieces(rig: Rig) -> None:
    sock = rig.connect()
    request = Packet(Op.WRITE, 1, 0, b"/x\0" + bytes(range(256))).pack()
    for cut in (1, 15, 16, 17, len(request) - 1):
        sock.sendall(request[:cut])
        assert rig.replies(sock) == []
        sock.sendall(request[cut:])
        assert [reply.payload for reply in rig.replies(sock)] == [b"OK\0"]
    for i in range(len(request)):
        sock.sendall(request[i : i + 1])
        rig.settle()
    sock.sendall(request * 20)
    assert len(rig.replies(sock)) == 21


def test_what_is_recorded_repeats_the_store(rig: Rig) -> None:
    """Feeding a second store what the observer heard makes the same tree."""
    clients = [rig.connect() for _ in range(3)]
    for i, sock in enumerate(clients):
        data = b"".join(Packet(Op.WRITE, n, 0, b"/%d/%d\0v" % (i, n)).pack() for n in range(20))
        sock.sendall(data[:100])
        rig.settle()
        sock.sendall(data[100:])
    rig.settle()
    again = Store()
    Client(again.connect_privileged())  # the rig's tool
    connections = {}
    for what, client, *rest in rig.log.events:
        if what == "connected":
            connections[client] = again.connect_privileged()
            assert connections[client].number == client
        elif what == "received":
            connections[client].receive(rest[0])
    assert again.nodes() == rig.store.nodes() and len(again.nodes()) > 60


def test_disconnect_inside_of_a_transaction_and_of_a_request(rig: Rig) -> None:
    sock, other = rig.connect(), rig.connect()
    tx = int(rig.ask(sock, Op.TRANSACTION_START, b"\0").payload[:-1])
    rig.ask(sock, Op.WRITE, b"/gone\0x", tx)
    rig.ask(sock, Op.WATCH, b"/w\0t\0")
    sock.sendall(Packet(Op.WRITE, 1, 0, b"/half\0x").pack()[:-1])
    rig.settle()
    assert rig.store.statistics().transactions == 1
    sock.close()
    rig.settle()
    statistics = rig.store.statistics()
    assert (statistics.transactions, statistics.watches, statistics.connections) == (0, 0, 2)
    for path in (b"/gone\0", b"/half\0"):
        assert rig.ask(other, Op.READ, path).payload == b"ENOENT\0"


def test_too_long_a_payload_ends_the_connection(rig: Rig) -> None:
    sock, other = rig.connect(), rig.connect()
    sock.sendall((2).to_bytes(4, "little") + bytes(8) + (4097).to_bytes(4, "little") + b"rest")
    rig.settle()
    assert sock.recv(1) == b""
    assert rig.log.events[-1] == ("disconnected", 2, "protocol")
    assert rig.ask(other, Op.DIRECTORY, b"/\0").type == Op.DIRECTORY


def test_noise_hurts_nobody(rig: Rig) -> None:
    other = rig.connect()
    for seed in range(40):
        sock = rig.connect()
        noise = bytes((seed * 31 + i * i * 7 + i // 3) & 0xFF for i in range(200))
        sock.sendall(Packet(seed, 1, seed % 3, noise).pack() + noise)
        rig.settle()
        sock.close()
    rig.settle()
    assert rig.ask(other, Op.READ, b"/\0").payload == b""
    assert len(rig.server) == 1


def test_a_client_that_does_not_read_is_paused_and_then_served(rig: Rig) -> None:
    """Its requests stay in the kernel when its replies pile up; nothing is lost, and others do not notice."""
    rig.tool.write("/big", b"x" * 4000)
    slow, other = rig.connect(), rig.connect()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    requests = 2000
    data = b"".join(Packet(Op.READ, i, 0, b"/big\0").pack() for i in range(requests))
    sent = slow.send(data)
    rig.settle()
    waiting = max(connection.unsent_bytes for connection in rig.store.connections.values())
    assert waiting <= 2 * transport.PAUSE_OUTPUT + 4016 * (transport.READ_SIZE // 21 + 1)
    assert rig.store.requests < requests
    assert rig.ask(other, Op.READ, b"/\0").payload == b""
    got = b""
    while len(got) < requests * 4016:
        rig.server.poll(0)
        if sent < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += slow.send(data[sent:])
        try:
            part = slow.recv(1 << 20)
        except BlockingIOError:
            continue
        assert part
        got += part
    numbers = [int.from_bytes(got[i + 4 : i + 8], "little") for i in range(0, len(got), 4016)]
    assert numbers == list(range(requests))


def test_a_watcher_that_never_reads_is_dropped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DROP_OUTPUT", 128 << 10)
    sock = rig.connect()
    sock.sendall(Packet(Op.WATCH, 1, 0, b"/w\0t\0").pack())
    rig.settle()
    for i in range(8000):
        rig.tool.write(f"/w/{'n' * 50}{i}", b"")
        if i % 1000 == 0:
            rig.server.poll(0)
    rig.server.poll(0)
    assert len(rig.server) == 0 and rig.log.events[-1] == ("disconnected", 2, "output")
    assert rig.store.statistics().watches == 0


def test_events_reach_watchers_on_the_next_visit(rig: Rig) -> None:
    sock = rig.connect()
    assert rig.ask(sock, Op.WATCH, b"/w\0t\0").payload == b"OK\0"
    rig.tool.write("/w/x", b"1")
    assert [packet.payload for packet in rig.replies(sock)] == [b"/w/x\0t\0"]


def test_more_clients_than_there_may_be_wait_their_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_CLIENTS", 5)
    clients = []
    for _ in range(8):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(rig.path))
        sock.setblocking(False)
        clients.append(sock)
    rig.settle()
    assert len(rig.server) == 5
    assert not rig.server.poll(0)  # and the waiting ones do not keep it busy
    for sock in clients[:3]:
        sock.close()
    rig.settle()
    assert len(rig.server) == 5
    assert rig.ask(clients[-1], Op.READ, b"/\0").payload == b""


def test_fifty_clients_each_see_their_own_writes(rig: Rig) -> None:
    clients = [rig.connect() for _ in range(50)]
    for turn in range(5):
        for i, sock in enumerate(clients):
            sock.sendall(Packet(Op.WRITE, turn, 0, b"/c/%d\0%d" % (i, turn)).pack())
            sock.sendall(Packet(Op.READ, turn, 0, b"/c/%d\0" % i).pack())
        rig.settle()
        for sock in clients:
            assert [p.payload for p in rig.replies(sock)] == [b"OK\0", b"%d" % turn]
    assert len(rig.server) == 50


# --- the file ---


def test_only_the_owner_may_connect(rig: Rig) -> None:
    found = rig.path.stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
    assert path.exists()
    server = SocketServer(Store(), path)
    with pytest.raises(SocketError, match="somebody serves"):
        SocketServer(Store(), path)
    assert path.exists()
    server.close()
    assert not path.exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path / "link", tmp_path, tmp_path / "no" / "socket", tmp_path / ("x" * 120)):
        with pytest.raises(SocketError) as caught:
            SocketServer(Store(), path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert file.read_text() == "precious"


def test_a_socket_that_somebody_else_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = SocketServer(Store(), path)
    path.unlink()
    second = SocketServer(Store(), path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_no_file_descriptor_left(tmp_path: Path) -> None:
    """In a process of its own with few descriptors: clients beyond them wait, and come in when others leave."""
    program = f"""
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
from pyvmm.xenstore import Store
from pyvmm.xenstore.socket import SocketServer
server = SocketServer(Store(), {str(tmp_path / "s")!r})
import os
clients = []
while True:
    try:
        sock = socket.socket(socket.AF_UNIX)
    except OSError:
        break
    sock.connect({str(tmp_path / "s")!r})
    clients.append(sock)
clients.pop().close()
for _ in range(50):
    server.poll(0)
waiting = len(clients) - len(server)
assert len(server) >= 1 and waiting > 0, (len(server), waiting)
while clients:
    clients.pop(0).close()
    for _ in range(9):
        server.poll(0)
assert len(server) == 0
server.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
