"""Waiting for what comes from outside: all of it in one place, no longer than the next timer allows."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm import outside
from pyvmm.abi.io import xs_wire
from pyvmm.backends.tap import TapPort
from pyvmm.backends.xenstore_socket import XenstoreSocket
from pyvmm.host import Host
from pyvmm.outside import Waiting
from pyvmm.toolstack.devices import Vif

MIB = 1 << 20


class Pipe:
    """An `Outside` that is a pipe."""

    def __init__(self, pause: float | None) -> None:
        self.pause = pause
        self.end, self.other = os.pipe()
        self.open = True

    def filenos(self) -> Sequence[int]:
        return (self.end,) if self.open else ()

    def poll(self) -> bool:
        return False


class Clock:
    """A hypervisor of which only time is wanted, on a host whose clock is ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadline: int | None) -> None:
        self.host = 0.0
        self.waits: list[float | None] = []
        self.machine = SimpleNamespace(now=5_000)
        self.timers = SimpleNamespace(next=lambda: deadline)
        self.ready: list[Any] = []
        monkeypatch.setattr(outside.time, "monotonic", lambda: self.host)
        monkeypatch.setattr(outside.select, "select", self.select)

    def select(self, read: list[int], write: object, error: object, seconds: float | None) -> None:
        assert read
        self.waits.append(seconds)
        self.host += seconds or 0


def test_what_comes_does_not_put_a_timer_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer in a second fires when a second was waited, however often guests ran in between."""
    hv = Clock(monkeypatch, 1_000_005_000)
    waiting = Waiting(hv, [Pipe(None)])  # type: ignore[arg-type]
    while waiting():
        hv.machine.now += 1_000  # a guest did something
        assert len(hv.waits) < 20
    assert sum(seconds or 0 for seconds in hv.waits) == pytest.approx(1, abs=1e-4)


def test_the_longest_wait_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    hv = Clock(monkeypatch, 1_000_005_000)
    short = Waiting(hv, [Pipe(0.02)])  # type: ignore[arg-type]
    assert short() and hv.waits == [0.02] and not short()
    both = Waiting(hv, [Pipe(0.02), Pipe(None)])  # type: ignore[arg-type]
    assert both() and hv.waits[1] == pytest.approx(1)


def test_without_a_timer_there_is_no_end_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hv = Clock(monkeypatch, None)
    pipe = Pipe(0.02)
    waiting = Waiting(hv, [pipe])  # type: ignore[arg-type]
    assert waiting() and hv.waits == [None]
    pipe.open = False  # nothing can come any more: the run loop is to decide
    assert not waiting() and len(hv.waits) == 1
    pipe.open = True
    hv.ready.append(SimpleNamespace(runnable=True))  # somebody was woken by another source
    assert waiting() and len(hv.waits) == 1


def read_node(path: Path, node: bytes) -> bytes:
    """One READ over the XenStore's socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(struct.pack("<4I", xs_wire.XS_READ, 1, 0, len(node) + 1) + node + b"\0")
        header = client.recv(16, socket.MSG_WAITALL)
        return client.recv(struct.unpack("<4I", header)[3], socket.MSG_WAITALL)


@pytest.mark.debian("iputils-ping")
def test_a_tap_and_a_socket_on_an_idle_host(namespace: str, tmp_path: Path) -> None:
    """Nobody can run and no timer is set: a ping and a client of the store are both answered at once, and the host
    sleeps in between."""
    tap = TapPort()
    inside = ["ip", "netns", "exec", namespace]
    subprocess.run(["ip", "link", "set", tap.name, "netns", namespace], check=True)
    subprocess.run([*inside, "ip", "link", "set", tap.name, "up"], check=True)
    subprocess.run([*inside, "ip", "address", "add", "10.0.0.1/24", "dev", tap.name], check=True)
    path = tmp_path / "socket"
    answers: list[object] = []
    with Host(128 * MIB) as host:
        host.attach_port(tap)
        host.create("daytime", memory=32 * MIB, cmdline="ip=10.0.0.2", devices=[Vif(0)])
        with closing(XenstoreSocket(host.services.xenstored, path)) as store:

            def people() -> None:
                try:
                    time.sleep(1)  # the guest has come up, and everybody sleeps
                    before = time.process_time()
                    time.sleep(1)
                    answers.append(time.process_time() - before < 0.5)
                    ping = [*inside, "ping", "-c", "1", "-W", "10", "10.0.0.2"]
                    answers.append(subprocess.run(ping, capture_output=True, check=False).returncode)
                    answers.append(read_node(path, b"/local/domain/1/name"))
                    answers.append(subprocess.run(ping, capture_output=True, check=False).returncode)
                finally:
                    store.stop()
                    os.write(store.wake_fd, b"x")

            thread = threading.Thread(target=people)
            thread.start()
            result = host.run(outside=[store], serve=True)
            thread.join()
    assert result.exit == "left"
    assert answers == [True, 0, b"daytime", 0]
