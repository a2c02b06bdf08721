"""What packets cost: `python bench/bench_vif.py [--json] [--count N]`.

Three figures. The data path alone, with front ends in Python that give it bursts: microseconds of CPU time a packet
through back end and switch, guest to guest. Real guests (`echo` asking `echo`): the same over all, and what the machine
counts exactly: instructions of each guest and hypercalls of each domain a round trip (two packets). And the handshake:
what a guest executes from its first instruction until its network is up, over the XenStore and over noxs, less what it
executes without a network. Counts do not depend on the host; times are the best of several repetitions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import engine
from pyvmm.abi.io.ring import sring
from pyvmm.backends.vif import VifConfig
from pyvmm.host import Domain, Host
from pyvmm.toolstack.devices import Vif
from tests.backends.vif_front import FIRST_REF, TX_PAGE, Bench, frame

SIZES = (60, 1514)
BURST = 20
MEMORY = 32 << 20
WAYS = ("xs", "noxs")
UNTIL_READY = 50_000_000


def data_path(size: int, burst: int, rounds: int) -> float:
    """Microseconds a packet from one Python front end to another; only the back end's work is timed."""
    bench = Bench()
    one, two = bench.front(bench.host.one).connect(), bench.front(bench.host.two).connect(rx=BURST)
    two.send(frame(b"\xff" * 6, two.mac))
    data = frame(two.mac, one.mac, bytes(size - 14))
    for number in range(burst):
        one.write(one.page(number), data)
    best = float("inf")
    for _ in range(rounds):
        for number in range(burst):
            one.request(FIRST_REF + number, size)
        one.push()
        started = time.process_time()
        one.serve()
        best = min(best, time.process_time() - started)
        assert len(one.responses()) == burst and len(two.received()) == burst
        two.post(burst)
        one.word(TX_PAGE, sring.rsp_event.offset, one.tx_prod + 1)
    assert not bench.failures
    return best / burst * 1e6


def guest(host: Host, image: str, way: str, number: int, options: str) -> Domain:
    """A guest with one interface."""
    mac, ip = f"00:16:3e:00:00:{number:02x}", f"10.0.0.{number}"
    cmdline = f"net={way} ip={ip}/24 {options}"
    name = f"{image}{number}"
    if way == "xs":
        return host.create(image, name=name, memory=MEMORY, cmdline=cmdline, vifs=[Vif(0, mac=mac)])
    domain = host.create(image, name=name, memory=MEMORY, cmdline=cmdline, paused=True)
    host.services.page_backends.create("vif", domain.domid, 0, VifConfig(mac=mac, ip=ip))
    host.services.xc.domctl("unpausedomain", domain.domid)
    host.services.changed()
    return domain


def figures(host: Host) -> dict[str, tuple[int, int]]:
    """Instructions and hypercalls of each domain so far."""
    return {
        domain.name: (domain.counters.instructions, sum(domain.counters.hypercalls.values()))
        for domain in host.hypervisor.domains.values()
    }


def echo(way: str, size: int, counts: tuple[int, int]) -> dict[str, float]:
    """One guest sends datagrams to another, which sends them back. Two runs of different length: what one more round
    trip costs is their difference, without booting."""
    runs = []
    for count in counts:
        with Host(memory=128 << 20, digest=False) as host:
            guest(host, "echo", way, 1, f"count={count}")
            client = guest(host, "echo", way, 2, f"to=10.0.0.1 count={count} size={size}")
            started = time.process_time()
            result = host.run()
            seconds = time.process_time() - started
            assert result.exit == "poweroff", client.console.text
            runs.append((seconds, figures(host)))
    (short, before), (long, after) = runs
    more = counts[1] - counts[0]
    found = {"us": (long - short) / more * 1e6}
    for name, label in (("echo1", "server"), ("echo2", "client"), ("dom0", "back end")):
        found[f"{label} instructions"] = (after[name][0] - before[name][0]) / more
        found[f"{label} hypercalls"] = (after[name][1] - before[name][1]) / more
    return found


def handshake(way: str) -> dict[str, int]:
    """What it takes to say "ready": the guest's instructions and hypercalls, dom0's hypercalls and messages."""
    with Host(memory=128 << 20, digest=False) as host:
        messages = 0

        def count(event: Any) -> None:
            nonlocal messages
            messages += event.kind.name == "xs_request" and event.domid == domain.domid

        if way == "none":
            domain = host.create("daytime", name="daytime1", memory=MEMORY, cmdline="net=xs ip=10.0.0.1/24")
        else:
            domain = guest(host, "daytime", way, 1, "")
        host.hypervisor.trace.listen(count)
        before = figures(host)
        host.run(UNTIL_READY)
        after = figures(host)
        return {
            "guest instructions": after["daytime1"][0],
            "guest hypercalls": after["daytime1"][1],
            "back end hypercalls": after["dom0"][1] - before["dom0"][1],
            "store messages of the guest": messages,
        }


def measure(count: int, log: Callable[[str], None]) -> dict[str, Any]:
    """All figures; `log` is told what is being measured."""
    results: dict[str, Any] = {"data path": {}, "echo": {}, "handshake": {}}
    for size in SIZES:
        for burst in (1, BURST):
            log(f"data path, {size} bytes, {burst} at a time")
            results["data path"][f"{size} bytes, {burst} at a time"] = {"us": data_path(size, burst, 200 // burst + 5)}
    for size in (64, 1400):
        log(f"echo, {size} bytes")
        results["echo"][f"{size} bytes"] = echo("xs", size, (count // 4, count))
    for way in (*WAYS, "none"):
        log(f"handshake, {way}")
        results["handshake"][way] = handshake(way)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--count", type=int, default=400, help="datagrams of the longer run of guests (default 400)")
    options = parser.parse_args()
    engine.tell()
    results = measure(options.count, lambda text: None if options.json else print(f"  {text} ...", file=sys.stderr))
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for title, rows in results.items():
        print(title)
        for name, row in rows.items():
            print(f"  {name:30}", ", ".join(f"{key} {value:,.1f}".removesuffix(".0") for key, value in row.items()))


if __name__ == "__main__":
    main()
