"""``pyvmm serve``: the real xenstore tools and pyxs at the XenStore of a host that goes on, also while guests boot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyvmm.abi import sched
from pyvmm.xenstore import Op, Packet
from tests.running import ROOT, pyvmm
from tests.test_create import KERNELS, Files

TOOLS = pytest.mark.debian("xenstore-utils")
PATIENCE = 60.0  # seconds in which what must happen happens, on a busy machine


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until it is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


class Served:
    """A running ``pyvmm serve``."""

    def __init__(self, where: Path, *args: str | Path) -> None:
        self.path = where / "xenstored.sock"
        self.out = where / "out"
        self.err = where / "err"
        self.trace = where / "trace"
        self.figures = where / "figures.json"
        command = [sys.executable, "-m", "pyvmm", "serve", "--xenstore-socket", self.path, *args]
        command += ["--trace", self.trace, "--json", self.figures]
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, cwd=ROOT)
        wait_for(
            lambda: "the XenStore is at" in self.err.read_text() or self.process.poll() is not None, "serve starts"
        )
        assert self.process.poll() is None, self.err.read_text()

    def tool(self, name: str, *args: str, check: bool = True) -> str:
        """What ``xenstore-NAME ARGS`` prints."""
        done = subprocess.run(
            [f"xenstore-{name}", *args],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "XENSTORED_PATH": str(self.path)},
        )
        if check:
            assert done.returncode == 0, (name, args, done.stderr)
        return done.stdout if check else f"{done.returncode} {done.stdout}{done.stderr}"

    def ask(self, op: Op, payload: bytes) -> Packet:
        """One request over a connection of its own."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.path))
            sock.sendall(Packet(op, 1, 0, payload).pack())
            head = sock.recv(16, socket.MSG_WAITALL)
            kind, req, tx, size = (int.from_bytes(head[i : i + 4], "little") for i in (0, 4, 8, 12))
            return Packet(kind, req, tx, sock.recv(size, socket.MSG_WAITALL) if size else b"")

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """Until it sleeps: its guests have blocked. Nothing is asked meanwhile, for that would be in the trace."""

        def asleep() -> bool:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return "State:\tS" in status

        quiet = 0
        end = time.monotonic() + PATIENCE
        while quiet < 20:
            quiet = quiet + 1 if asleep() else 0
            assert time.monotonic() < end, "it does not come to rest"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextlib.contextmanager
def serving(where: Path, *args: str | Path) -> Iterator[Served]:
    """A running host; it must end well."""
    served = Served(where, *args)
    try:
        yield served
        assert served.end() == 0, served.err.read_text()
        assert not served.path.exists()
        assert "Traceback" not in served.err.read_text()
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


# --- the real tools ---


@TOOLS
def test_the_tools_of_debian(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.tool("write", "/test/a", "one", "/test/b/c", "two words", "/test/e", "")
        assert served.tool("read", "/test/a", "/test/b/c") == "one\ntwo words\n"
        assert served.tool("read", "-p", "/test/a") == "/test/a: one\n"
        assert served.tool("list", "/test").split() == ["a", "b", "e"]
        assert served.tool("exists", "/test/e", check=False) == "0 "
        assert served.tool("exists", "/test/none", check=False) == "1 "
        served.tool("chmod", "/test/a", "n0", "r5", "b7")
        assert "No such file" in served.tool("chmod", "/test/a", "n9", check=False)  # there is no domain 9 to own it
        served.tool("chmod", "-r", "/test/b", "n0", "w9")
        assert served.tool("ls", "-f", "-p", "/test").splitlines() == [
            '/test/a = "one"   (n0,r5,b7)',
            '/test/b = ""   (n0,w9)',
            '/test/b/c = "two words"   (n0,w9)',
            '/test/e = ""   (n0)',
        ]
        served.tool("rm", "/test/b")
        served.tool("rm", "-t", "/test/e")  # and the parents that it leaves empty
        assert served.tool("ls", "-f", "/test") == '/test/a = "one"\n'
        assert served.tool("read", "/test/b", check=False)[0] == "1"
        whole = served.tool("ls", "-f", "-p").splitlines()
        assert '/local/domain/0/name = "Domain-0"   (n0)' in whole


@TOOLS
def test_a_watch_of_debian(tmp_path: Path) -> None:
    """xenstore-watch tells of its own start, of writes by others, and of a removal."""
    with serving(tmp_path) as served:
        watch = subprocess.Popen(
            ["xenstore-watch", "-n", "4", "/w"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XENSTORED_PATH": str(served.path)},
        )
        assert watch.stdout is not None
        assert watch.stdout.readline() == "/w\n"
        served.tool("write", "/w/x", "1")
        assert watch.stdout.readline() == "/w/x\n"
        served.tool("write", "/other", "1")
        served.tool("write", "/w/y", "1")
        assert watch.stdout.readline() == "/w/y\n"
        served.tool("rm", "/w")
        assert watch.stdout.readline() == "/w\n"
        assert watch.wait(PATIENCE) == 0
        watch.stdout.close()


def test_pyxs(tmp_path: Path) -> None:
    """A client that is neither ours nor Xen's: reads, writes, permissions, transactions, watches."""
    pyxs = pytest.importorskip("pyxs")
    with serving(tmp_path) as served, pyxs.Client(unix_socket_path=str(served.path)) as client:
        client[b"/p/a"] = b"1"
        assert client[b"/p/a"] == b"1" and client.exists(b"/p/a") and not client.exists(b"/p/b")
        client.mkdir(b"/p/d")
        assert client.list(b"/p") == [b"a", b"d"]
        client.set_perms(b"/p/a", [b"n0", b"r4"])
        assert client.get_perms(b"/p/a") == [b"n0", b"r4"]
        assert client.get_domain_path(5) == b"/local/domain/5"
        assert client.is_domain_introduced(5) is False
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/p/none")
        client.transaction()
        client[b"/p/t"] = b"inside"
        assert served.ask(Op.READ, b"/p/t\0").payload == b"ENOENT\0"
        client.commit()
        assert served.ask(Op.READ, b"/p/t\0").payload == b"inside"
        client.transaction()
        client[b"/p/u"] = b"inside"
        client.rollback()
        assert not client.exists(b"/p/u")
        with client.monitor() as monitor:
            monitor.watch(b"/p/w", b"token")
            assert next(monitor.wait()) == (b"/p/w", b"token")
            served.ask(Op.WRITE, b"/p/w/x\0y")
            assert next(monitor.wait()) == (b"/p/w/x", b"token")


# --- guests ---


@TOOLS
def test_the_tools_while_guests_boot(tmp_path: Path, files: Files) -> None:
    """Guests that restart for ever, and one that never ends: the tree is whole whenever it is looked at."""
    paths = [files.guest("again", more="on_poweroff = 'restart'"), files.guest("loop", "loop")]
    with serving(tmp_path, *paths) as served:
        seen: set[str] = set()
        for i in range(30):
            lines = served.tool("ls", "-f", "-p").splitlines()
            names = [line for line in lines if line.startswith("/local/domain/") and "/name = " in line]
            assert len(lines) > 40 and any('"loop"' in line for line in names)
            seen.update(line.split("/")[3] for line in names if '"again"' in line)
            served.tool("write", f"/tool/mine/{i}", "x")
        assert len(seen) > 2  # incarnations of the guest that restarts
        assert sorted(map(int, served.tool("list", "/tool/mine").split())) == list(range(30))
        out = served.out.read_text()
        assert out.count("again: Goodbye.") > 2 and "again: Hello from a PV guest.\n" in out


@TOOLS
def test_a_guest_sees_what_a_tool_writes(tmp_path: Path, files: Files) -> None:
    """`hello` prints its name from the store: the tool renames it while it is paused in the store's eyes."""
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"name": "p", "kernel": str(files.where / "loop"), "memory": 8}))
    with serving(tmp_path, path) as served:
        home = "/local/domain/1"
        assert served.tool("read", f"{home}/name") == "p\n"
        assert f'{home}/control/shutdown = ""   (n1)' in served.tool("ls", "-f", "-p").splitlines()
        served.tool("write", f"{home}/control/shutdown", "poweroff")
        assert served.tool("read", f"{home}/control/shutdown") == "poweroff\n"


def test_fifty_clients_at_once_while_guests_boot(tmp_path: Path, files: Files) -> None:
    """Each does transactions, watches and reads of its own, slowly and in pieces, some leave in the middle."""
    with serving(tmp_path, files.guest("again", more="on_poweroff = 'restart'")) as served:
        barrier = threading.Barrier(50)

        def client(number: int) -> int:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(served.path))
                barrier.wait(PATIENCE)
                got = 0
                for i in range(10):
                    request = Packet(Op.WRITE, i, 0, b"/c/%d/%d\0%d" % (number, i, i)).pack()
                    sock.sendall(request[:9])
                    if number % 7 == 0:
                        time.sleep(0.01)
                    sock.sendall(request[9:])
                    reply = sock.recv(19, socket.MSG_WAITALL)
                    assert reply[16:] == b"OK\0" and reply[4] == i
                    got += 1
                sock.sendall(Packet(Op.TRANSACTION_START, 99, 0, b"\0").pack() + b"half a head")
                return got

        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(client, range(50))) == [10] * 50
        names = served.ask(Op.DIRECTORY, b"/c\0").payload.split(b"\0")[:-1]
        assert sorted(map(int, names)) == list(range(50))
        assert served.ask(Op.READ, b"/c/49/9\0").payload == b"9"
        assert served.ask(Op.CONTROL, b"quota\x000\0").payload.split().count(b"transactions") == 1
        assert served.ask(Op.CONTROL, b"quota\x000\0").payload.split()[10] == b"0"


def test_clients_that_misbehave_hurt_nobody(tmp_path: Path, files: Files) -> None:
    with serving(tmp_path, files.guest("again", more="on_poweroff = 'restart'")) as served:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for sock in silent:
            sock.connect(str(served.path))
        for i, sock in enumerate(silent):
            if i % 2:
                sock.sendall(os.urandom(4096) if i % 4 == 1 else (2).to_bytes(4, "little") + b"\xff" * 12)
        deaf = socket.socket(socket.AF_UNIX)  # asks and asks, and never reads
        deaf.connect(str(served.path))
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(Packet(Op.DIRECTORY, 1, 0, b"/\0").pack() * 100)
        assert served.ask(Op.READ, b"/local/domain/0/name\0").payload == b"Domain-0"
        deaf.close()
        for sock in silent:
            sock.close()
        assert served.ask(Op.READ, b"/local/domain/0/name\0").payload == b"Domain-0"


# --- time ---


def test_an_idle_host_sleeps(tmp_path: Path, files: Files) -> None:
    """With no guest that can run it waits for clients, and answers at once."""
    with serving(tmp_path, files.guest("h", "hang")) as served:
        served.ask(Op.READ, b"/\0")
        before = served.cpu_seconds()
        time.sleep(1.5)
        assert served.cpu_seconds() - before < 0.3
        started = time.monotonic()
        assert served.ask(Op.READ, b"/local/domain/1/name\0").payload == b"h"
        assert time.monotonic() - started < 5


# A guest that sleeps 200 ms of virtual time with sched_op(poll) and a timeout, 3 times; then it powers off.
NAP = bytes.fromhex(
    "41bc03000000"  # mov r12d, 3
    "b90000000031c0"  # (ecx, eax = 0)
    "0f31"  # L: rdtsc                   virtual nanoseconds
    "48c1e220"  # shl rdx, 32
    "4809d0"  # or rax, rdx
    "480500c2eb0b"  # add rax, 200000000
    "4883ec20"  # sub rsp, 32            struct sched_poll: ports, nr_ports, timeout
    "48c7042400000000"  # mov qword [rsp], 0
    "48c744240800000000"  # mov qword [rsp+8], 0
    "4889442410"  # mov [rsp+16], rax
    "b81d000000bf030000004889e60f05"  # sched_op(poll)
    "4883c420"  # add rsp, 32
    "41ffcc"  # dec r12d
    "75bf"  # jnz L
    "6a00"  # push 0
    "b81d000000bf020000004889e60f05"  # sched_op(shutdown, poweroff)
)


def test_a_guest_that_sleeps_lets_the_host_sleep(tmp_path: Path, files: Files) -> None:
    """Timers fire at their virtual times; the host waits as long, does not spin, and clients do not delay them."""
    from tests.test_host import kernel

    (files.where / "nap").write_bytes(kernel(NAP))
    path = files.guest("nap", str(files.where / "nap"))
    with serving(tmp_path, path) as served:
        started = time.monotonic()
        while served.ask(Op.READ, b"/local/domain/1/name\0").payload == b"nap":
            assert time.monotonic() - started < PATIENCE
            time.sleep(0.05)
        assert served.cpu_seconds() < 10
    times = [int(line.split()[0]) for line in served.trace.read_text().splitlines() if " domain_shutdown " in line]
    assert len(times) == 1 and 600_000_000 <= times[0] < 620_000_000


def test_an_idle_host_answers_the_same_way_every_time(tmp_path: Path, files: Files) -> None:
    """The same requests one after the other give the same trace, however long they take to come."""
    digests = []
    for i, pause in enumerate((0.0, 0.05)):
        where = tmp_path / str(i)
        where.mkdir()
        with serving(where, files.guest("h", "hang")) as served:
            served.settle()
            for n in range(5):
                served.ask(Op.WRITE, b"/n/%d\0x" % n)
                time.sleep(pause)
        digests.append(json.loads(served.figures.read_text())["digest"])
    assert digests[0] == digests[1]


def test_what_clients_send_is_in_the_trace(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.ask(Op.WRITE, b"/traced\0value")
    lines = [line for line in served.trace.read_text().splitlines() if " xs_socket " in line]
    assert len(lines) == 3
    assert "connected" in lines[0] and "/traced" in lines[1] and "closed" in lines[2]
    requests = [line for line in served.trace.read_text().splitlines() if " xs_request " in line and "/traced" in line]
    assert len(requests) == 1


# --- beginning and end ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("image", ["hang", "loop"])
def test_a_signal_ends_it(tmp_path: Path, files: Files, number: int, image: str) -> None:
    """Idle or busy, with a client connected: exit status 0, figures written, the socket gone."""
    with serving(tmp_path, files.guest("g", image)) as served:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(served.path))
        served.ask(Op.READ, b"/\0")
        assert served.end(number) == 0
        assert not served.path.exists() and client.recv(1) == b""
        client.close()
        figures = json.loads(served.figures.read_text())
        assert figures["exit"] == "left" and [d["name"] for d in figures["domains"]] == ["dom0", "g"]


def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        other = pyvmm("serve", "--xenstore-socket", served.path)
        assert other.status == 2 and other.out == ""
        assert other.err == f"pyvmm: somebody serves on {served.path} already\n"
        assert served.ask(Op.READ, b"/\0").payload == b""
        served.process.kill()
        served.process.wait()
        assert served.path.exists()
        with serving(tmp_path) as again:
            assert again.ask(Op.READ, b"/\0").payload == b""
        served.process.returncode = 0


def test_mistakes_are_one_line(tmp_path: Path, files: Files) -> None:
    bad = files.guest("bad", more="vcpus = 'x'")
    for args, words in (
        ((tmp_path / "no" / "socket",), "cannot make the socket"),
        ((tmp_path / "poweroff",), "no socket"),
        ((tmp_path / ("x" * 120),), "cannot make the socket"),
        ((tmp_path / "s", bad), f"{bad}:4: vcpus: expected"),
        ((tmp_path / "s", files.guest("k", "/no/kernel")), "/no/kernel"),
    ):
        run = pyvmm("serve", "--xenstore-socket", *args)
        assert run.status == 2 and run.out == "" and len(run.err.splitlines()) == 1 and words in run.err, run.err
        assert not (tmp_path / "s").exists()
    assert pyvmm("serve").status == 2
    assert (tmp_path / "poweroff").read_bytes() == KERNELS["poweroff"]


def test_ends_of_guests_do_not_end_it(tmp_path: Path, files: Files) -> None:
    """A guest that powers off, one that crashes, one that is kept."""
    paths = (
        files.guest("off", "poweroff"),
        files.guest("bang", "crash"),
        files.guest("kept", "poweroff", "on_poweroff = 'preserve'"),
    )
    with serving(tmp_path, *paths) as served:
        wait_for(
            lambda: served.ask(Op.DIRECTORY, b"/local/domain\0").payload == b"0\x003\0", "the ended guests are gone"
        )
        assert "domain 2 (bang) crashed" in served.err.read_text()
    ends = {d["name"]: d["instructions"] for d in json.loads(served.figures.read_text())["domains"]}
    assert set(ends) == {"dom0", "off", "bang", "kept"}
    codes = [line.split("reason=")[1] for line in served.trace.read_text().splitlines() if " domain_shutdown " in line]
    assert sorted(map(int, codes)) == [sched.SHUTDOWN_poweroff, sched.SHUTDOWN_poweroff, sched.SHUTDOWN_crash]
