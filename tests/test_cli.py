"""The command: exit statuses, one-line errors, JSON, traces."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pyvmm import images
from tests.running import ROOT, Run, pyvmm

HELLO = images.path("hello")


def refused(run: Run, *words: str) -> None:
    """A mistake of the user's: status 2, one line on stderr, nothing on stdout, no traceback."""
    assert run.status == 2, run.err
    assert run.out == ""
    lines = run.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("pyvmm: "), run.err
    for word in words:
        assert word in lines[0]


def program_header(image: bytearray, index: int) -> int:
    """The file offset of program header `index`."""
    offset: int = struct.unpack_from("<Q", image, 32)[0]
    return offset + 56 * index


def test_poweroff_is_zero_and_console_is_stdout() -> None:
    """hello's text is on stdout, nothing else is."""
    run = pyvmm("run", "hello", "--cmdline", "one two")
    assert run.status == 0 and run.err == ""
    assert "one two" in run.out


def test_json_to_a_file_and_to_stdout(tmp_path: Path) -> None:
    """The figures have the documented keys; `--json -` puts them on stdout, after the console."""
    run = pyvmm("run", "hello", figures=tmp_path / "f.json")
    assert {"exit", "digest", "host_seconds", "images", "domains"} <= run.figures.keys()
    keys = "domid name instructions rep_iterations hypercalls exceptions events_sent events_received switches".split()
    for domain in run.figures["domains"]:
        assert set(keys) <= domain.keys()
    assert run.figures["exit"] == "poweroff"
    other = pyvmm("run", "hello", "--json", "-")
    figures = json.loads(other.out[other.out.index("{") :])
    assert figures["digest"] == run.figures["digest"]


def test_trace_is_one_line_an_event(tmp_path: Path) -> None:
    """--trace FILE writes events with time, vCPU, name and fields; `-` is stderr; the digest does not depend on it."""
    plain = pyvmm("run", "hello", figures=tmp_path / "a.json")
    traced = pyvmm("run", "hello", "--trace", tmp_path / "t", figures=tmp_path / "b.json")
    lines = (tmp_path / "t").read_text().splitlines()
    assert any(" hypercall name=sched_op" in line for line in lines)
    assert plain.figures["digest"] == traced.figures["digest"]
    times = [int(line.split()[0]) for line in lines]
    assert times == sorted(times)
    assert pyvmm("run", "hello", "--trace", "-").err.splitlines() == lines


def test_compressed_image_is_the_same_guest(tmp_path: Path) -> None:
    """A gzip-compressed kernel runs as the plain one does."""
    packed = tmp_path / "hello"  # the file's name is the domain's
    packed.write_bytes(gzip.compress(HELLO.read_bytes()))
    assert pyvmm("run", packed).out == pyvmm("run", HELLO).out


def test_unknown_image_and_options() -> None:
    """A wrong name says which names there are; a wrong option, where to read which there are. One line in any case."""
    refused(pyvmm("run", "no-such-guest"), "no-such-guest", "hello")
    refused(pyvmm("run", "hello", "--memory", "lots"), "invalid value for '--memory'", "(see pyvmm run --help)")
    refused(pyvmm("run", "hello", "--engine", "warp"), "'warp' is not one of 'auto'")
    refused(pyvmm("run", "hello", "--memory"), "'--memory' requires an argument")
    refused(pyvmm("run"), "missing argument 'IMAGE'", "(see pyvmm run --help)")
    refused(pyvmm("compare", "--desing", "xl"), "no such option '--desing'", "--design", "(see pyvmm compare --help)")
    refused(pyvmm("compare", "--a\nb"), "no such option")
    refused(pyvmm("compare", "-n", "many"), "'many' is no list of numbers")
    refused(pyvmm("frobnicate"), "no such command 'frobnicate'", "(see pyvmm --help)")
    refused(pyvmm("--frobnicate"), "no such option '--frobnicate'")
    assert pyvmm("--help").status == 0 and "Commands:" in pyvmm("--help").out


def test_files_that_are_not_pv_kernels(tmp_path: Path) -> None:
    """Not an ELF, another class or machine, truncated, no notes, a wild or overlapping segment: one line each."""
    good = HELLO.read_bytes()
    file = tmp_path / "image"

    def run(data: bytes | bytearray) -> Run:
        file.write_bytes(data)
        return pyvmm("run", file)

    refused(run(b""), str(file))
    refused(run(b"#!/bin/sh\necho no\n"), "ELF")
    refused(run(good[:100]), "truncated")
    refused(run(good[: len(good) // 2]), "truncated")
    wrong = bytearray(good)
    wrong[4] = 1
    refused(run(wrong), "32-bit")
    wrong = bytearray(good)
    struct.pack_into("<H", wrong, 18, 183)
    refused(run(wrong), "x86-64")
    count = struct.unpack_from("<H", good, 56)[0]
    loads = [i for i in range(count) if struct.unpack_from("<I", good, program_header(bytearray(good), i))[0] == 1]
    wrong = bytearray(good)
    struct.pack_into("<QQ", wrong, program_header(wrong, loads[0]) + 16, 0x7FFF_0000_0000, 0x7FFF_0000_0000)
    refused(run(wrong), str(file))
    if len(loads) > 1:
        wrong = bytearray(good)
        first = program_header(wrong, loads[0])
        wrong[program_header(wrong, loads[1]) + 16 : program_header(wrong, loads[1]) + 32] = wrong[
            first + 16 : first + 32
        ]
        refused(run(wrong), "overlap")
    refused(run(gzip.compress(good)[:-500]), str(file))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lightvm-noop-1.folded").mkdir()
    run = pyvmm("compare", "--designs", "lightvm", "--guest", "noop", "-n", "1", "--profile", tmp_path)
    assert run.status == 2
    assert run.err.endswith(f"\npyvmm: writing failed: Is a directory ({tmp_path}/lightvm-noop-1.folded)\n")


def test_resources_that_are_not_there(tmp_path: Path) -> None:
    """Too little memory, no ramdisk, a folder as an image, an unwritable output."""
    refused(pyvmm("run", "hello", "--memory", "64K"), "memory")
    refused(pyvmm("run", "hello", "--ramdisk", tmp_path / "none"), str(tmp_path / "none"))
    refused(pyvmm("run", "hello", "--ramdisk", tmp_path), str(tmp_path))
    refused(pyvmm("run", tmp_path), str(tmp_path))
    refused(pyvmm("run", "hello", "--trace", tmp_path / "no" / "trace"), "trace")
    refused(pyvmm("run", "hello", "--json", tmp_path / "no" / "json"), "json")


@pytest.mark.parametrize("vcpus", ["0", "-1", "100000"])
def test_vcpu_numbers(vcpus: str) -> None:
    """A number of vCPUs that Xen would refuse is refused."""
    refused(pyvmm("run", "hello", "--vcpus", vcpus), vcpus)


@pytest.mark.parametrize("way", ["loop", "hang"])
def test_ctrl_bracket_leaves(way: str) -> None:
    """On a terminal, Ctrl-] ends the run, whether the guest is busy or waits for ever; the terminal is as before."""
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvmm", "run", "crash", "--cmdline", f"way={way}"],
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    text = b""
    while f"crash: {way}".encode() not in text:
        chunk = os.read(process.stdout.fileno(), 4096)
        assert chunk, process.communicate()[1]
        text += chunk
    os.write(master, b"\x1d")
    try:
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(("way", "status"), [("reboot", 3), ("panic", 4), ("wild-write", 4), ("loop", 5), ("hang", 6)])
def test_exit_statuses(way: str, status: int) -> None:
    """Each way to end has its status; a crash is reported with registers, code and a backtrace by name."""
    run = pyvmm("run", "crash", "--cmdline", f"way={way}", "--max-instructions", "1e7")
    assert run.status == status
    assert "Traceback" not in run.err
    if status == 4:
        for part in ("rip", "rsp", "ackt", "main"):
            assert part in run.err.lower()
