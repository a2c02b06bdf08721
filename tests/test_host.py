"""The public API: guests boot, talk, end and leave nothing; the same run gives the same result."""

from __future__ import annotations

import doctest
import io
import json
import os
import struct
from pathlib import Path

import pytest

import pyvmm.host
from pyvmm.backends.console import Console, Xenconsoled
from pyvmm.backends.ports import PythonPort
from pyvmm.errors import ConfigError, ImageError, MemoryShortage, PyvmmError
from pyvmm.host import Host, Result, host_memory
from pyvmm.hypervisor.trace import CONSOLE_INPUT, Event
from pyvmm.toolstack.devices import Vif
from tests.toolstack.elf_image import Elf, Load

MIB = 1 << 20
LOOP = bytes.fromhex("ebfe")  # jmp .
HANG = bytes.fromhex("b81d000000 bf01000000 0f05 ebf2")  # sched_op(block), for ever
WILD = bytes.fromhex("31c0 8b042500 0000f0")  # a load from where nothing is


def kernel(code: bytes) -> bytes:
    """A PV kernel of a few bytes of code."""
    return Elf(loads=[Load(data=code)]).build()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image"


def test_a_domu_boots_and_powers_off() -> None:
    with Host(256 * MIB) as host:
        guest = host.create("hello", memory=32 * MIB, vcpus=2, cmdline="one two", name="first")
        assert guest.result().exit is None and guest.domid == 1
        result = host.run()
        assert (result.exit, result.exit_status, guest.exit) == ("poweroff", 0, "poweroff")
        lines = guest.console.text.splitlines()
        assert lines[0] == "Hello from a PV guest." and lines[-1] == "Goodbye."
        assert any("one two" in line for line in lines) and any("32 MiB" in line for line in lines)
        assert any('name "first", domid 1' in line for line in lines)
        figures = result.domain("first")
        assert figures.instructions > 10_000 and figures.events_sent > 0 and figures.hypercalls["sched_op"] == 1
        assert result.domain("dom0").instructions == 0


def test_dom0_boots_and_prints_through_console_io() -> None:
    with Host(128 * MIB) as host:
        guest = host.create_dom0("hello", memory=64 * MIB)
        result = host.run()
        assert result.exit == "poweroff" and "dom0" in guest.console.text
        assert [d.domid for d in result.domains] == [0]
        assert result.domains[0].hypercalls["console_io"] > 0


def test_the_json_has_the_promised_keys() -> None:
    with Host(256 * MIB) as host:
        host.create("hello", memory=16 * MIB)
        figures = json.loads(json.dumps(host.run().to_json()))
    assert list(figures) == ["exit", "digest", "host_seconds", "images", "domains"]
    assert figures["exit"] == "poweroff" and len(figures["digest"]) == 64 and figures["host_seconds"] > 0
    assert list(figures["images"]) == ["hello"] and len(figures["images"]["hello"]) == 64
    keys = (
        "domid name instructions rep_iterations hypercalls exceptions events_sent events_received switches ports grants"
    )
    for domain in figures["domains"]:
        assert list(domain) == keys.split()


@pytest.mark.parametrize("negotiation", ["xenstore", "noxs"])
def test_figures_of_ports_and_grants(negotiation: str) -> None:
    """A guest with a network: its back end has mapped its rings, and copies what comes and goes."""
    with Host(256 * MIB) as host:
        port = PythonPort()
        host.attach_port(port)
        host.create("daytime", memory=16 * MIB, cmdline="ip=10.0.0.2", vifs=[Vif(0)], negotiation=negotiation)
        dom0, guest = host.run(50_000_000).domains
        noxs = negotiation == "noxs"
        assert guest.ports >= 3 and dom0.ports >= 2
        assert guest.grants.in_use >= 2 and guest.grants.held == guest.grants.mapped == 2 * noxs  # its control pages
        assert dom0.grants.mapped >= 2 and dom0.grants.held == dom0.grants.mapped - dom0.grants.unmapped >= 2
        request = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\6" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
        request += b"\2\0\0\0\0\1" + bytes([10, 0, 0, 1]) + bytes(6) + bytes([10, 0, 0, 2])
        port.send(request.ljust(60, b"\0"))
        after = host.run(50_000_000).domains[0]
        answer = port.receive()
        assert answer is not None and after.grants.copied - dom0.grants.copied == 2  # the question and the answer
        assert after.grants.bytes_copied - dom0.grants.bytes_copied == 60 + len(answer)


def leave(host: Host) -> tuple[object, ...]:
    """All that a domain could leave behind on a host whose services run."""
    hv, services = host.hypervisor, host.services
    hv.frames.check()
    assert services.xenstored.store.check() == []
    store = services.xenstored.store
    return (
        hv.frames.free_count,
        sorted(hv.domains),
        sorted(hv.domains[0].evtchn.ports),
        len(hv.domains[0].grants.maptrack),
        len(services.api.v.space.pages),  # type: ignore[attr-defined]
        sorted(store.nodes()),
        store.statistics().watches,
        sorted(store.domains),
        sorted(services.consoled.attached),
        sorted(services.xenstored.served),
        hv.timers.next(),
    )


def test_nothing_leaks() -> None:
    """Frames, ports, mappings, nodes and watches are as before, after a guest that ended, one that runs and one that
    never ran."""
    host = Host(256 * MIB)
    host.create("hello", memory=16 * MIB).destroy()
    before = leave(host)
    for i in range(3):
        guests = [host.create("hello", memory=16 * MIB, name=f"g{i}{n}") for n in range(2)]
        host.run(max_instructions=30_000 if i else None)
        for guest in guests:
            guest.destroy()
            guest.destroy()
        host.run()
        assert leave(host) == before
    assert len(host.domains) == 0
    host.close()


def test_two_guests_run_side_by_side() -> None:
    with Host(256 * MIB) as host:
        guests = [host.create("hello", memory=16 * MIB) for _ in range(3)]
        result = host.run()
        assert [g.name for g in guests] == ["hello", "hello-2", "hello-3"]
        assert [d.domid for d in result.domains] == [0, 1, 2, 3]
        assert result.exit == "poweroff"
        for guest in guests:
            assert f'name "{guest.name}", domid {guest.domid}' in guest.console.text


def figures(guests: int, engine: str = "auto") -> dict[str, object]:
    with Host(256 * MIB, engine=engine) as host:
        for i in range(guests):
            host.create("hello", memory=(16 + i) * MIB)
        out = host.run().to_json()
    del out["host_seconds"]
    return out


def test_the_same_run_is_the_same_to_the_bit() -> None:
    assert figures(2) == figures(2)
    assert figures(1, "step") == figures(1)


def test_a_budget_is_exact_and_a_run_can_go_on() -> None:
    with Host(128 * MIB) as host:
        host.create("hello", memory=16 * MIB)
        for total in (1, 1000, 5000):
            done = sum(d.instructions for d in host.result("budget").domains)
            result = host.run(max_instructions=total - done)
            assert (result.exit, result.exit_status) == ("budget", 5)
            assert sum(d.instructions for d in result.domains) == total
        assert host.run().exit == "poweroff"


def run_code(image: Path, code: bytes, *, budget: int | None = None) -> tuple[Result, str | None]:
    image.write_bytes(kernel(code))
    with Host(128 * MIB) as host:
        guest = host.create(image, memory=8 * MIB)
        return host.run(budget), guest.crash_report


def test_deadlock_is_found(image: Path) -> None:
    result, _ = run_code(image, HANG)
    assert (result.exit, result.exit_status) == ("deadlock", 6)


def test_an_endless_loop_uses_up_its_budget(image: Path) -> None:
    result, _ = run_code(image, LOOP, budget=100_000)
    assert (result.exit, result.domain("image").instructions) == ("budget", 100_000)


def test_a_crash_is_reported(image: Path) -> None:
    result, report = run_code(image, WILD)
    assert (result.exit, result.exit_status) == ("crash", 4)
    assert report is not None and "0x100002" in report.replace("000000000010", "0x10")


def test_one_crash_among_guests_is_the_runs_exit(image: Path) -> None:
    image.write_bytes(kernel(WILD))
    with Host(128 * MIB) as host:
        host.create("hello", memory=8 * MIB)
        host.create(image, memory=8 * MIB)
        result = host.run()
        assert result.exit == "crash"
        assert {d.name: d.exit for d in result.domains} == {"dom0": None, "hello": "poweroff", "image": "crash"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"image": "no/such/file"}, ImageError),
        ({"image": "hello", "ramdisk": "no/such/file"}, ImageError),
        ({"image": "/etc/hostname"}, ImageError),
        ({"image": "hello", "memory": MIB}, MemoryShortage),
        ({"image": "hello", "memory": 1 << 40}, MemoryShortage),
        ({"image": "hello", "memory": 300 * MIB}, MemoryShortage),
        ({"image": "hello", "memory": 12345}, ConfigError),
        ({"image": "hello", "vcpus": 0}, ConfigError),
        ({"image": "hello", "vcpus": 129}, ConfigError),
        ({"image": "hello", "cmdline": "x" * 1024}, ConfigError),
        ({"image": "hello", "name": "there"}, ConfigError),
    ],
)
@pytest.mark.parametrize("dom0", [False, True])
def test_bad_requests_are_refused_and_leave_nothing(
    arguments: dict[str, str], error: type[Exception], dom0: bool
) -> None:
    with Host(256 * MIB) as host:
        if dom0:
            if "name" in arguments:
                host.create_dom0("hello", memory=16 * MIB)
            state = (host.hypervisor.frames.free_count, list(host.hypervisor.domains))
            with pytest.raises((error, ConfigError)) as caught:
                host.create_dom0(**arguments)  # type: ignore[arg-type]
            assert (host.hypervisor.frames.free_count, list(host.hypervisor.domains)) == state
        else:
            host.create("hello", memory=16 * MIB, name="there")
            before = leave(host)
            with pytest.raises(error) as caught:
                host.create(**arguments)  # type: ignore[arg-type]
            assert leave(host) == before
        assert isinstance(caught.value, PyvmmError) and "\n" not in str(caught.value)


def test_kernels_and_ramdisks_are_regular_files(tmp_path: Path) -> None:
    """A pipe that nobody writes to is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with Host(64 * MIB) as host:
        for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
            with pytest.raises(ImageError, match=r"no regular file|Is a directory"):
                host.create(path)
            with pytest.raises(ImageError, match=r"no regular file|Is a directory"):
                host.create("hello", ramdisk=path)


@pytest.mark.parametrize("memory", [0, MIB, 17 * MIB + 1, 64 << 30])
def test_impossible_hosts_are_refused(memory: int) -> None:
    with pytest.raises(ConfigError):
        Host(memory)


def test_a_host_that_is_given_what_it_asks_for_is_large_enough() -> None:
    for sizes in ([4 * MIB], [64 * MIB, 64 * MIB], [1 << 30]):
        with Host(host_memory(*sizes)) as host:
            for size in sizes:
                host.create("hello", memory=size)


def test_dom0_and_domus_of_the_host_exclude_each_other() -> None:
    with Host(128 * MIB) as host:
        host.create_dom0("hello", memory=16 * MIB)
        with pytest.raises(ConfigError):
            host.create("hello", memory=16 * MIB)
    with Host(128 * MIB) as host:
        host.create("hello", memory=16 * MIB)
        with pytest.raises(ConfigError):
            host.create_dom0("hello", memory=16 * MIB)


def test_the_store_has_what_xl_writes() -> None:
    with Host(128 * MIB) as host:
        guest = host.create("hello", memory=16 * MIB, vcpus=2, name="g")
        xs = host.xenstore
        home = f"/local/domain/{guest.domid}"
        assert xs.read(f"{home}/name") == b"g" and xs.read(f"{home}/domid") == b"1"
        assert xs.read(f"{home}/memory/target") == b"16384"
        assert [xs.read(f"{home}/cpu/{i}/availability") for i in range(2)] == [b"online"] * 2
        vm = xs.read(f"{home}/vm").decode()
        assert xs.read(f"{vm}/name") == b"g" and xs.read(f"{vm}/uuid").decode() == vm.removeprefix("/vm/")
        assert xs.read(f"{home}/console/type") == b"xenconsoled"
        assert xs.get_permissions(home) == ["n0", "r1"] == xs.get_permissions(f"{home}/console")
        assert xs.get_permissions(f"{home}/data") == ["n1"] == xs.get_permissions(f"{home}/control/shutdown")
        assert xs.is_introduced(guest.domid)


# A guest that copies its console's input to its output, one byte at a time, and halts on 'q'. It polls, and yields
# when there is nothing.
# RSI is start_info; the console's mfn is at 0x48 of it and is mapped at its own pfn's address, which the
# start-of-day layout puts
# three pages after the list: found here through the address of start_info itself (console page = start_info + 2
# pages).
ECHO = bytes.fromhex(
    "4c8db600200000"  # lea r14, [rsi+0x2000]      the ring
    "448bbe50000000"  # mov r15d, [rsi+0x50]       its port
    "418b86000c0000"  # L: mov eax, [r14+0xc00]    in_cons
    "413b86040c0000"  # cmp eax, [r14+0xc04]       in_prod
    "7412"  # je Y
    "25ff030000"  # and eax, 0x3ff
    "418a0c06"  # mov cl, [r14+rax]
    "41ff86000c0000"  # inc dword [r14+0xc00]
    "eb0b"  # jmp P
    "b81d00000031ff0f05"  # Y: sched_op(yield)
    "ebd3"  # jmp L
    "418b960c0c0000"  # P: mov edx, [r14+0xc0c]    out_prod
    "81e2ff070000"  # and edx, 0x7ff
    "41888c1600040000"  # mov [r14+rdx+0x400], cl
    "41ff860c0c0000"  # inc dword [r14+0xc0c]
    "88cb"  # mov bl, cl
    "4883ec10"  # sub rsp, 16
    "44893c24"  # mov [rsp], r15d
    "b820000000bf040000004889e60f05"  # event_channel_op(send)
    "4883c410"  # add rsp, 16
    "80fb71"  # cmp bl, 'q'
    "7595"  # jne L
    "6a00"  # push 0
    "b81d000000bf020000004889e60f05"  # sched_op(shutdown, poweroff)
)


@pytest.fixture
def echo(image: Path) -> Path:
    image.write_bytes(kernel(ECHO))
    return image


def test_input_is_handed_over_line_by_line_to_a_guest_that_polls(echo: Path) -> None:
    seen: list[Event] = []
    with Host(128 * MIB) as host:
        guest = host.create(echo, memory=8 * MIB)
        host.hypervisor.trace.listen(lambda event: seen.append(event) if event.kind is CONSOLE_INPUT else None)
        guest.console.feed(b"one\ntwo\n")
        guest.console.feed_from(io.BytesIO(b"three\nq"))
        assert host.run(200_000_000).exit == "poweroff"
        assert guest.console.text == "one\ntwo\nthree\nq"
    assert [event.values[0] for event in seen] == [b"one\n", b"two\n", b"three\n", b"q"]


# The same as dom0: console_io(read) one byte, and if there was one console_io(write) it; halts on 'q'. Polls without
# yielding.
ECHO_DOM0 = bytes.fromhex(
    "4883ec10"  # sub rsp, 16
    "b812000000bf01000000be010000004889e20f05"  # L: console_io(read, 1, rsp)
    "85c0"  # test eax, eax
    "74e8"  # je L
    "b81200000031ffbe010000004889e20f05"  # console_io(write, 1, rsp)
    "803c2471"  # cmp byte [rsp], 'q'
    "75d1"  # jne L
    "6a00"  # push 0
    "b81d000000bf020000004889e60f05"  # sched_op(shutdown, poweroff)
)


def test_input_of_a_dom0_that_polls(image: Path) -> None:
    image.write_bytes(kernel(ECHO_DOM0))
    seen: list[Event] = []
    with Host(128 * MIB) as host:
        guest = host.create_dom0(image, memory=16 * MIB)
        host.hypervisor.trace.listen(lambda event: seen.append(event) if event.kind is CONSOLE_INPUT else None)
        guest.console.feed(b"ab\nq")
        assert host.run(200_000_000).exit == "poweroff"
        assert guest.console.text == "ab\nq"
    assert [event.values[0] for event in seen] == [b"ab\n", b"q"]
    assert seen[0].time > 1_000_000 and seen[1].time - seen[0].time > 1_000_000


def test_such_runs_repeat(echo: Path) -> None:
    digests = set()
    for engine in ("auto", "auto", "step"):
        with Host(128 * MIB, engine=engine) as host:
            host.create(echo, memory=8 * MIB).console.feed(b"some\ntext\nq")
            digests.add(host.run().digest)
    assert len(digests) == 1


def test_more_input_than_the_ring_holds(echo: Path) -> None:
    line = bytes(range(32, 112)) * 40  # 3200 bytes; 'p' is the highest, so no 'q'
    with Host(128 * MIB) as host:
        guest = host.create(echo, memory=8 * MIB)
        guest.console.feed(line + b"\nq")
        assert host.run().exit == "poweroff"
        assert guest.console.output == line + b"\nq"


class Script:
    """A keyboard on which `keys` are typed, one read each; then it is left."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = list(keys)
        self._always = open("/dev/null", "rb")  # noqa: SIM115  readable at any time
        self.left = self.closed = False

    def fileno(self) -> int:
        return self._always.fileno()

    def read(self) -> bytes:
        if self._keys:
            return self._keys.pop(0)
        self.left = True
        return b""


def test_a_person_at_the_keyboard(echo: Path) -> None:
    with Host(128 * MIB) as host:
        guest = host.create(echo, memory=8 * MIB)
        result = host.run(keyboard=Script(b"a", b"", b"b", b"", b"q", *[b""] * 50))
        assert result.exit == "poweroff" and guest.console.text == "abq"


def test_leaving(image: Path) -> None:
    """Ctrl-] ends a run, also of a guest that waits for ever: that is no deadlock while somebody can type."""
    image.write_bytes(kernel(HANG))
    with Host(128 * MIB) as host:
        host.create(image, memory=8 * MIB)
        result = host.run(keyboard=Script(b"", b"", b""))
        assert (result.exit, result.exit_status) == ("left", 0)


def test_console_lines() -> None:
    console = Console()
    console.feed(b"ab\ncdef")
    assert [console.next_line(4) for _ in range(4)] == [b"ab\n", b"cdef", b"", b""]
    console.feed(b"abcdef\n")
    assert [console.next_line(4) for _ in range(3)] == [b"abcd", b"ef\n", b""]
    console.feed_from(io.BytesIO(b"x\ny"))
    assert console.has_input
    assert [console.next_line(4) for _ in range(3)] == [b"x\n", b"y", b""]
    assert not console.has_input


def test_a_guest_that_lies_about_its_console_ring_hurts_only_itself(image: Path) -> None:
    """Indices that cannot be true: nothing is printed, everybody else goes on."""
    # mov dword [rsi+0x2c0c], 0x12345678: out_prod; then notify, then block for ever
    code = bytes.fromhex("c7860c2c000078563412 4883ec10 8b4650 890424 b820000000 bf04000000 4889e6 0f05") + HANG
    image.write_bytes(kernel(code))
    with Host(128 * MIB) as host:
        bad = host.create(image, memory=8 * MIB)
        good = host.create("hello", memory=8 * MIB)
        assert host.run().exit == "deadlock"
        assert bad.console.output == b"" and good.exit == "poweroff" and "Goodbye." in good.console.text


def test_the_documented_example() -> None:
    failed, tried = doctest.testmod(pyvmm.host)
    assert tried > 5 and failed == 0


def test_consoled_ignores_domains_without_a_console() -> None:
    with Host(128 * MIB) as host:
        xs = host.xenstore
        guest = host.create("hello", memory=8 * MIB)
        xs.rm(f"/local/domain/{guest.domid}/console")
        assert host.run().exit == "deadlock"  # the guest waits for its last words to be read
        assert guest.console.output == b""
        assert isinstance(host.services.consoled, Xenconsoled) and not host.services.consoled.attached


def test_a_guest_may_be_larger_than_what_the_machine_below_has() -> None:
    """Memory is committed when it is used: 20 GiB cost what the guest's tables and lists do."""
    with Host(memory=21 << 30) as host:
        guest = host.create("hello", memory=20 << 30)
        assert host.run().exit == "poweroff"
        assert "memory        20480 MiB" in guest.console.text
