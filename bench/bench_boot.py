"""Start-up and boot: `python bench/bench_boot.py [--json] [-n RUNS]`.

- first line: from the start of the process to the first line of the guest, `pyvmm run --dom0 hello`; beside it the
  real Xen in QEMU (TCG) with the same image as its dom0, in turn with ours, and the ratio of the medians (goal: 1/5);
- create + boot: one more `hello` as a domU on a host that is up: created, booted, ended, destroyed, ms of CPU time;
- switch: one domain switch, in us of CPU time: two domains that only yield, less the yields of one alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import engine
from pyvmm import images
from pyvmm.host import Host
from tests.oracle import xen

ROOT = Path(__file__).resolve().parents[1]
HELLO = images.path("hello")
FIRST_LINE = b"Hello from a PV guest."


def seconds_to(first: bytes, command: list[str]) -> float:
    """Seconds from the start of `command` until `first` is on its standard output; it is then ended."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT, env=env) as process:
        seen = b""
        assert process.stdout is not None
        while first not in seen:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                raise SystemExit(f"{command[0]} ended before its first line")
            seen += chunk
        elapsed = time.perf_counter() - started
        process.kill()
    return elapsed


def first_line(runs: int) -> dict[str, float]:
    """Median seconds to the guest's first line, ours and (where it is installed) the real one's, taken in turn."""
    ours = [sys.executable, "-m", "pyvmm", "run", "--dom0", "hello"]
    try:
        real = xen.qemu_command(str(HELLO), memory=512)
    except xen.Missing:
        real = []
    mine, theirs = [], []
    seconds_to(FIRST_LINE, ours)
    for _ in range(runs):
        mine.append(seconds_to(FIRST_LINE, ours))
        if real:
            theirs.append(seconds_to(FIRST_LINE, real))
    result = {"first line, s": statistics.median(mine)}
    if theirs:
        result["first line of Xen in QEMU, s"] = statistics.median(theirs)
        result["first line, ratio"] = statistics.median(mine) / statistics.median(theirs)
    return result


def create_and_boot(runs: int) -> float:
    """Median ms of CPU time for one `hello`, from create to destroyed."""
    taken = []
    with Host(memory=256 << 20) as host:
        for _ in range(runs + 1):
            started = time.process_time()
            guest = host.create("hello", memory=8 << 20)
            assert host.run().exit == "poweroff"
            guest.destroy()
            taken.append((time.process_time() - started) * 1e3)
    return statistics.median(taken[1:])


def switch(rounds: int = 5000) -> float:
    """Microseconds of CPU time that one domain switch adds to a yield."""
    from pyvmm.abi import sched
    from pyvmm.abi import xen as xen_abi
    from tests.hypervisor.code_guest import CodeGuest

    loop = bytes.fromhex("4489f0 0f05 ebf9")  # loop: mov %r14d,%eax; syscall; jmp loop

    def timed(domains: int) -> float:
        guest = CodeGuest(loop)
        guests = [guest] + [CodeGuest(loop, host=guest.hv) for _ in range(domains - 1)]
        for one in guests:
            one.ready()
            one.set(r14=xen_abi.HYPERVISOR_sched_op, rdi=sched.SCHEDOP_yield, rsi=0)
        guest.run(3 * 100)
        started = time.process_time()
        guest.run(3 * rounds)
        return (time.process_time() - started) / rounds * 1e6

    return min(timed(2) for _ in range(5)) - min(timed(1) for _ in range(5))


def main() -> None:
    """Measure all and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-n", type=int, default=5, help="runs of each")
    options = parser.parse_args()
    engine.tell()
    results = first_line(options.n)
    results["create + boot + destroy of hello, ms"] = create_and_boot(options.n * 2)
    results["domain switch, us"] = switch()
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, value in results.items():
        print(f"{name:40} {value:8.3f}")


if __name__ == "__main__":
    main()
