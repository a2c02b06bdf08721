"""A console on a pseudo-terminal: what the guest prints can be read there, what is typed there reaches the guest."""

from __future__ import annotations

import os
from pathlib import Path

from pyvmm.backends.console import Console
from pyvmm.backends.pty import LIMIT, Pty
from pyvmm.host import Host
from tests.test_host import ECHO, kernel


def drain(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, 65536)
    return data


def test_output_waits_for_a_reader_and_is_bounded() -> None:
    console = Console()
    pty = Pty(console)
    text = bytes(range(256)) * (LIMIT // 256)
    console.printed(b"lost" + text)
    fd = os.open(pty.name, os.O_RDWR | os.O_NOCTTY)
    got = b""
    while len(got) < LIMIT:
        got += os.read(fd, 65536)
        pty.read()
    os.close(fd)
    pty.close()
    pty.close()
    console.printed(b"ignored")
    assert pty.read() == b""
    # The terminal took what fitted before the bound was applied; the end is there, in order.
    assert got.endswith(text[-LIMIT // 2 :])


def test_a_guest_on_a_terminal(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(kernel(ECHO))
    with Host(128 << 20) as host:
        guest = host.create(image, memory=8 << 20)
        pty = Pty(guest.console)
        fd = os.open(pty.name, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"typed\r\x03q")  # raw: no echo, no signals, no translation
        assert host.run(keyboard=pty).exit == "poweroff"
        assert drain(fd, 8) == b"typed\r\x03q"
        os.close(fd)
        pty.close()


def test_leaving_a_terminal(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(kernel(bytes.fromhex("ebfe")))
    with Host(128 << 20) as host:
        guest = host.create(image, memory=8 << 20)
        pty = Pty(guest.console)
        pty.leave()
        assert host.run(keyboard=pty).exit == "left"
        pty.close()
