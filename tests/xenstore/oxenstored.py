"""Debian's oxenstored as an oracle: started on this machine without Xen, every domain a ring in a shared file."""

from __future__ import annotations

import mmap
import os
import select
import socket
import subprocess
import time
from pathlib import Path

from pyvmm.xenstore.ring import GuestRing
from pyvmm.xenstore.wire import Op, Packet, Parser

BINARY = Path("/usr/lib/xen-4.17/bin/oxenstored")
STUB = Path(__file__).with_name("oxenstored_stub.c")
DOM0_PORT = 2
TIMEOUT = 10.0

CONFIGURATION = """\
pid-file = {0}/pid
xenstored-log-file = {0}/log
xenstored-kva = {0}/page.0
xenstored-port = {0}/port
test-eagain = false
merge-activate = true
conflict-burst-limit = 1000000.0
quota-activate = true
quota-maxentity = 1000
quota-maxsize = 2048
quota-maxwatch = 128
quota-transaction = 10
quota-maxrequests = 1024
quota-path-max = 2048
ring-scan-interval = -1
persistent = false
"""


class _MappedPage:
    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)

    def read(self, offset: int, length: int) -> bytes:
        return self.memory[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        self.memory[offset : offset + len(data)] = data


class Oxenstored:
    """A running daemon. `with Oxenstored(tmp_path) as daemon:`"""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rings: dict[int, GuestRing] = {}
        self.ports: dict[int, int] = {}
        self._parsers: dict[int, Parser] = {}
        self._events: dict[int, list[tuple[bytes, bytes]]] = {}
        self._requests = 0
        self.broken = False

    def __enter__(self) -> Oxenstored:
        stub = self.directory / "stub.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", stub, STUB], check=True)
        (self.directory / "port").write_text(str(DOM0_PORT))
        configuration = self.directory / "conf"
        configuration.write_text(CONFIGURATION.format(self.directory))
        self.add_domain(0, DOM0_PORT)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.set_inheritable(theirs.fileno(), True)
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LD_PRELOAD": str(stub),
            "PYVMM_STUB_FD": str(theirs.fileno()),
            "PYVMM_STUB_DIR": str(self.directory),
        }
        self._output = (self.directory / "output").open("wb")
        self._process = subprocess.Popen(
            [BINARY, "--no-fork", "--disable-socket", "--no-access-log", "--config-file", configuration],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def add_domain(self, domid: int, port: int) -> None:
        """Make the page that the daemon will map for a domain."""
        self.rings[domid] = GuestRing(_MappedPage(self.directory / f"page.{domid}"))
        self.ports[domid] = port
        self._parsers[domid] = Parser()
        self._events[domid] = []

    def reset(self, domid: int) -> None:
        """After RELEASE: an empty page, as the next domain of that number would have."""
        self.rings[domid].page.write(0, bytes(4096))
        self._parsers[domid] = Parser()
        self._events[domid] = []

    def kick(self, domid: int) -> None:
        """Signal the daemon on a domain's event channel."""
        self._channel.send(self.ports[domid].to_bytes(4, "little"))

    def wait(self) -> None:
        """Wait for any notification from the daemon, or a moment."""
        ready, _, _ = select.select([self._channel], [], [], 0.05)
        if ready and not self._channel.recv(4):
            raise RuntimeError("oxenstored has gone: " + (self.directory / "output").read_text())

    def request(self, domid: int, op: int, payload: bytes, tx_id: int = 0) -> Packet:
        """Send a request through a domain's ring and return the reply; events are kept."""
        if self.broken:
            raise RuntimeError("oxenstored stopped answering before")
        self._requests += 1
        data = Packet(op, self._requests, tx_id, payload).pack()
        deadline = time.monotonic() + TIMEOUT
        while True:
            if data:
                data = data[self.rings[domid].send(data) :]
                self.kick(domid)
            reply = None
            for packet in self._arrived(domid):
                if packet.type == Op.WATCH_EVENT:
                    path, token, _ = packet.payload.split(b"\0")
                    self._events[domid].append((path, token))
                elif packet.req_id == self._requests:
                    reply = packet
            if reply is not None:
                return reply
            if time.monotonic() > deadline:
                self.broken = True
                raise RuntimeError(f"oxenstored does not answer {Op(op).name} {payload!r}: " + self.report())
            self.wait()

    def report(self) -> str:
        """What the daemon printed."""
        log = self.directory / "log"
        return (self.directory / "output").read_text() + (log.read_text() if log.exists() else "")

    def _arrived(self, domid: int) -> list[Packet]:
        data = self.rings[domid].receive()
        if data:
            self.kick(domid)
        packets = []
        while data:
            missing = self._parsers[domid].missing
            packet = self._parsers[domid].feed(data[:missing])
            data = data[missing:]
            if packet is not None:
                packets.append(packet)
        return packets

    def events(self, domid: int) -> list[tuple[bytes, bytes]]:
        """The watch events a domain has got so far. A request of its own flushes them out before its reply."""
        self.request(domid, Op.GET_DOMAIN_PATH, b"0\0")
        found, self._events[domid] = self._events[domid], []
        return found
