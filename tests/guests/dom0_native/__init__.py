"""dom0's C toolstack as a library of this process: its files as they are; Xen and the back ends are played by the test.

dom0 = Dom0({"hello.cfg": b"...", "hello": b"kernel"})
dom0.line("design xl")
dom0.line("create hello.cfg one")   # what the shell printed
dom0.messages                       # what went to the store: (operation, transaction?, arguments)
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pyvmm.images import build
from pyvmm.toolstack.messages import Message
from pyvmm.xenstore import Client, Op, Packet, Parser, Store

SOURCES = """
    alarm.c chaos.c chaos_xs.c config.c config_json.c config_specs.c config_value.c config_xl.c design.c files.c
    messages.c pool.c shell.c steps.c xl.c xl_death.c xl_devices.c xl_hotplug.c xl_store.c
""".split()
KERNEL = ("string.c", "printf.c")
TABLES = """SECTIONS {
  .commands : { commands_start = .; KEEP(*(.commands)) commands_end = .; }
  .designs : { designs_start = .; KEEP(*(.designs)) designs_end = .; }
} INSERT AFTER .data;
"""
FLAGS = """
    -target x86_64-linux-gnu -std=c11 -O1 -shared -fPIC -ffreestanding -fno-builtin -fno-strict-aliasing
    -fno-sanitize=undefined -Wl,-Bsymbolic
""".split()

STORE_DOMID = 1
STORE_AT_START = {
    "/local/domain/0/name": "Domain-0",
    "/local/domain/0/domid": "0",
    "/local/domain/1/name": "Xenstore",
    "/tool/xenstored/domid": "1",
    "/local/pool/0/name": "Pool-0",
}
UNDO = ("domain_destroy", "domain_pause", "devctl_remove", "noxs_destroy")
"""What takes back is not refused."""
PAIRS = {"devctl_remove": "devctl_add", "noxs_destroy": "noxs_create"}
ERRORS = {12: b"ENOMEM", 13: b"EACCES", 28: b"ENOSPC", 11: b"EAGAIN"}

CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
REQUEST = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32
)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """An archive in cpio's "newc" format, as dom0's file area is."""
    out = b""
    for i, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        path = name.encode() + b"\0"
        fields = (i + 1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


@functools.cache
def library(design: Path | None = None) -> bytes:
    """The toolstack's files as a shared library, with a user's own design among them. Its state lives as long as it is
    loaded: every `Dom0` loads a copy."""
    _, header = build.generate(build.parse_hypercalls((build.GUESTS / "kernel/hypercalls.list").read_text()))
    files = [Path(__file__).with_name("harness.c"), *(build.GUESTS / "dom0" / name for name in SOURCES)]
    files += [build.GUESTS / "kernel" / name for name in KERNEL] + ([design] if design else [])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "hypercalls.h").write_text(header)
        (work / "tables.ld").write_text(TABLES)
        folders = [f"-I{folder}" for folder in (build.GUESTS / "kernel", build.GUESTS / "dom0", work)]
        script = ["-T", str(work / "tables.ld")]
        command = [*build.compiler(), *FLAGS, *folders, *script, "-o", "dom0.so", *map(str, files)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (work / "dom0.so").read_bytes()


class Refusal(NamedTuple):
    """A call to be refused: the `number`-th from now on of `name` (or of any, ""), with this result."""

    name: str
    number: int
    result: int


class Dom0:
    """One dom0, with no guests yet. `refuse`: the next failure to inject, on a hypercall or, as "store", a message."""

    def __init__(self, files: Mapping[str, bytes], design: Path | None = None) -> None:
        self.store = Store()
        self.toolstack = self.store.connect_privileged()
        self.host = Client(self.store.connect_privileged())  # back ends, and what is there before
        for path, value in STORE_AT_START.items():
            self.host.write(path, value)
        self.messages: list[Message] = []
        self.calls: list[tuple[str, int, int, int]] = []
        self.domains: dict[int, set[str]] = {0: set(), STORE_DOMID: set()}
        self.refuse: Refusal | None = None
        self.time = 0
        self.watchers = 0
        self.stuck = False  # the back ends do nothing
        self._next = STORE_DOMID + 1
        self._request_number = 0
        self._watch = ""
        self._parser = Parser()
        self._module = cpio(files)
        self._buffer = ctypes.create_string_buffer(self._module, len(self._module) + 1)
        with tempfile.NamedTemporaryFile(suffix=".so") as copy:  # a copy is another library, with a state of its own
            copy.write(library(design))
            copy.flush()
            self._library = ctypes.CDLL(copy.name)
        self._library.harness_line.restype = ctypes.c_char_p
        self._call, self._request = CALL(self._on_call), REQUEST(self._on_request)
        ctypes.c_uint32.in_dll(self._library, "store_domid").value = STORE_DOMID
        self._library.harness_start(self._call, self._request, self._buffer, ctypes.c_uint64(len(self._module)))

    def line(self, text: str) -> str:
        """Type a command; what was printed."""
        printed: bytes = self._library.harness_line(ctypes.create_string_buffer(text.encode()))
        return printed.decode()

    def pending(self) -> bool:
        """Whether the failure to inject was not met."""
        return self.refuse is not None

    def nodes(self) -> dict[str, bytes]:
        """All of the store."""
        return {path: value for path, (value, _) in self.store.nodes().items()}

    def config(self, path: str, text: bytes) -> tuple[bool, str]:
        """Whether a configuration is one, and what it says or what is wrong with it."""
        out = ctypes.create_string_buffer(4096)
        rc = self._library.harness_config(
            path.encode(), text, ctypes.c_uint64(len(text)), out, ctypes.c_uint32(len(out))
        )
        return rc == 0, out.value.decode(errors="replace")

    def _refused(self, name: str) -> int:
        if self.refuse is None or self.refuse.name not in ("", name):
            return 0
        self.refuse = self.refuse._replace(number=self.refuse.number - 1)
        if self.refuse.number > 0:
            return 0
        result, self.refuse = self.refuse.result, None
        return result

    def _on_call(self, raw: bytes, a: int, b: int, c: int) -> int:
        name = raw.decode()
        if name == "now":
            return self.time
        if name == "domain_after":
            signed = a - (1 << 64) if a >> 63 else a
            return min((domid for domid in self.domains if domid > signed), default=-1)
        if name == "watcher":
            self.watchers += 1
            return 0
        if name == "wait":
            return self._wait(ctypes.string_at(a).decode(), b)
        self.calls.append((name, a, b, c))
        if name not in UNDO and (refused := self._refused(name)):
            return refused
        return self._xen(name, a, b, c)

    def _xen(self, name: str, a: int, b: int, c: int) -> int:
        if name == "domain_create":
            domid, self._next = self._next, self._next + 1
            self.domains[domid] = set()
            return domid
        if name == "domain_destroy":
            del self.domains[a]
            self.store.domain_released(a)
        elif name == "evtchn_alloc_unbound":
            self.domains[a].add(f"port {len(self.domains[a]) + 1}")
            return len(self.domains[a])
        elif name in ("devctl_add", "noxs_create"):
            if (what := f"{name} {b} {c}") in self.domains[a]:
                return -17
            self.domains[a].add(what)
        elif name in ("devctl_remove", "noxs_destroy"):
            self.domains[a].remove(f"{PAIRS[name]} {b} {c}")
        return 0

    def _wait(self, path: str, until: int) -> int:
        """The first time a watch fires because it is new; then the back end has become ready, unless it is stuck."""
        if path != self._watch:
            self._watch = path
            return 1
        if self.stuck:
            self.time = until
            return 0
        self.host.write(path, "2")
        return 1

    def _on_request(self, op: int, tx: int, body: int, n: int, reply: int, size: int) -> int:
        payload = ctypes.string_at(body, n)
        fields = payload.split(b"\0")
        nameless = op in (Op.TRANSACTION_START, Op.TRANSACTION_END)
        self.messages.append(Message(Op(op).name, tx != 0, "" if nameless else fields[0].decode()))
        name = "commit" if payload == b"T\0" else "store"
        if op in (Op.RM, Op.UNWATCH) or payload == b"F\0" or not (refused := self._refused(name)):
            answer = self._ask(op, tx, payload)
        else:
            if name == "commit":
                self._ask(op, tx, b"F\0")  # whatever is said of it, the transaction is over
            answer = ERRORS[-refused], True
        data, failed = answer
        ctypes.memmove(reply, data[: size - 1] + b"\0", min(len(data), size - 1) + 1)
        return -1 if failed else len(data)

    def _ask(self, op: int, tx: int, payload: bytes) -> tuple[bytes, bool]:
        self._request_number += 1
        self.toolstack.receive(Packet(op, self._request_number, tx, payload).pack())
        data, at = self.toolstack.send(), 0
        while at < len(data):
            missing = self._parser.missing
            packet = self._parser.feed(data[at : at + missing])
            at += missing
            if packet is not None and packet.type != Op.WATCH_EVENT:
                return packet.payload, packet.type == Op.ERROR
        raise AssertionError("no reply")
