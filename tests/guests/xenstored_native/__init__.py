"""The C store of guests/xenstored as a library of this process: its files as they are, its rings played by the test."""

from __future__ import annotations

import ctypes
import functools
import struct
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from pyvmm.images import build

FLAGS = """
    -target x86_64-linux-gnu -std=c11 -O1 -shared -fPIC -ffreestanding -fno-builtin -fno-strict-aliasing
    -fno-sanitize=undefined -Wl,-Bsymbolic
""".split()
KERNEL = ("string.c", "printf.c")
WATCH_EVENT = 15
ENDS = ("merged", "replayed", "conflicts", "commits")


@functools.cache
def library() -> bytes:
    """The store's files as a shared library. Its state lives as long as it is loaded: every `CStore` loads a copy."""
    _, header = build.generate(build.parse_hypercalls((build.GUESTS / "kernel/hypercalls.list").read_text()))
    folder = build.GUESTS / "xenstored"
    files = [Path(__file__).with_name("harness.c"), *sorted(set(folder.glob("*.c")) - {folder / "main.c"})]
    files += [build.GUESTS / "kernel" / name for name in KERNEL]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "hypercalls.h").write_text(header)
        folders = [f"-I{place}" for place in (build.GUESTS / "kernel", folder, work)]
        command = [*build.compiler(), *FLAGS, *folders, "-o", "store.so", *map(str, files)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (work / "store.so").read_bytes()


class CStore:
    """One store; `mode` is "c" or "o". Domain 0 is connected, others are when they are introduced."""

    def __init__(self, mode: str) -> None:
        with tempfile.NamedTemporaryFile(suffix=".so") as copy:
            copy.write(library())
            copy.flush()
            self._c = ctypes.CDLL(copy.name)
        for count in (self._c.harness_in_use, self._c.harness_refused, self._c.harness_lost, self._c.harness_ended):
            count.restype = ctypes.c_uint64
        self._c.harness_memory.argtypes = [ctypes.c_uint64]
        self._buffer = ctypes.create_string_buffer(8192)
        self._events: dict[int, list[tuple[bytes, bytes]]] = {}
        self._c.harness_start(mode == "c")

    @property
    def in_use(self) -> int:
        """Pieces of memory that the store holds."""
        return int(self._c.harness_in_use())

    def memory(self, pieces: int | None) -> None:
        """So many pieces of memory are left (None: there is always another); refusals are counted anew."""
        self._c.harness_memory(2**64 - 1 if pieces is None else pieces)

    @property
    def refused(self) -> int:
        """How often there was no memory since the last call of `memory`."""
        return int(self._c.harness_refused())

    @property
    def ended(self) -> Counter[str]:
        """How transactions ended: all commits, and those that had been overtaken."""
        return Counter({how: int(self._c.harness_ended(n)) for n, how in enumerate(ENDS)})

    @property
    def lost(self) -> int:
        """Events that there was no memory for."""
        return int(self._c.harness_lost())

    def send(self, domid: int, op: int, payload: bytes, tx_id: int = 0) -> None:
        """Send a request, and leave the reply where it is."""
        self._c.harness_request(domid, op, tx_id, payload, len(payload))

    def accepts(self, domid: int) -> bool:
        """Whether another request of the domain would be taken."""
        return bool(self._c.harness_accepts(domid))

    def request(self, domid: int, op: int | None, payload: bytes, tx_id: int = 0) -> tuple[int, bytes]:
        """Send a request (None: it was); the reply's type and payload. Events on the way are kept for `events`."""
        if op is not None:
            self.send(domid, op, payload, tx_id)
        (reply,) = self._arrived(domid)
        assert reply[1:3] == (7, tx_id)
        return reply[0], reply[3]

    def shut_down(self, domid: int) -> None:
        """A domain has shut down."""
        self._c.harness_shut_down(domid)

    def gone(self, domid: int) -> bool:
        """A domain has been destroyed. Whether its nodes could be removed."""
        return not self._c.harness_gone(domid)

    def owned(self, domid: int) -> int:
        """How many nodes a domain owns."""
        return int(self._c.harness_owned(domid))

    def events(self, domid: int) -> set[tuple[bytes, bytes]]:
        """Path and token of the events that came since the last call."""
        assert not self._arrived(domid)
        return set(self._events.pop(domid, []))

    def _arrived(self, domid: int) -> list[tuple[int, int, int, bytes]]:
        replies = []
        while n := self._c.harness_take(domid, self._buffer):
            kind, req_id, tx_id, length = struct.unpack_from("<IIII", self._buffer)
            payload = self._buffer.raw[16:n]
            assert len(payload) == length
            if kind == WATCH_EVENT:
                path, token, _ = payload.split(b"\0")
                self._events.setdefault(domid, []).append((path, token))
            else:
                replies.append((kind, req_id, tx_id, payload))
        return replies
