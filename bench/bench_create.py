"""Creations by dom0's x86 code: `python bench/bench_create.py [--json] [--guest noop] [--designs lightvm] [-n 100]`.

For each design, on one host, `n` guests are made one after the other and kept running:

- create + boot: ms of CPU time from the command's first letter to where nobody can run, the fastest tenth (disturbances
  only add) after the first ten guests, which warm the host up; what a pool of shells does afterwards is shown apart;
- ratio: how many times longer that took than plain Unicorn takes, in the same run, for as many instructions of compiled
  code (calls and memory, `bench_machine.py`): what all that is not execution costs;
- growth: the last tenth's share of the first tenth's time, and of its instructions; nothing on the host's side may grow
  with the number of guests;
- memory: KiB resident a guest.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import engine
from bench.bench_machine import LONG, best, code, plain
from pyvmm.compare import DESIGNS, Control

WARM = 10
RAW_ROUNDS, RAW_ROUND = 300_000, 30  # of the loop, and instructions in one
PAGE_KIB = resource.getpagesize() // 1024


def raw_speed() -> float:
    """Instructions a second of plain Unicorn."""
    return RAW_ROUNDS * RAW_ROUND / best(plain(code(LONG, RAW_ROUNDS)))


def resident() -> int:
    """KiB that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KIB


def creations(design: str, guest: str, n: int) -> dict[str, float]:
    """The figures of one design."""
    gc.collect()  # the host of the design before
    control = Control(design, guest, WARM + n)
    machine = control.host.machine
    taken: list[float] = []
    counts: list[int] = []
    prepared = 0.0
    before = 0
    for number in range(1, WARM + n + 1):
        if number == WARM + 1:
            before = resident()
        instructions, started = machine.instructions, time.process_time()
        control.command(f"create {number:05}.json {guest}{number:05}")
        ended = time.process_time()
        if number > WARM:
            taken.append(ended - started)
            counts.append(machine.instructions - instructions)
        control.refill()
        if number > WARM:
            prepared += time.process_time() - ended
    tenth = max(1, n // 10)
    fastest = sorted(range(n), key=lambda i: taken[i])[:tenth]
    mine = sum(taken[i] for i in fastest) / tenth
    count = sum(counts[i] for i in fastest) / tenth
    return {
        "create + boot, ms": mine * 1e3,
        "shells made afterwards, ms": prepared / n * 1e3,
        "instructions": count,
        "ratio to plain Unicorn": mine / (count / raw_speed()),
        "growth of time": sum(sorted(taken[-tenth:])[: tenth // 2 + 1]) / sum(sorted(taken[:tenth])[: tenth // 2 + 1]),
        "growth of instructions": sum(counts[-tenth:]) / sum(counts[:tenth]),
        "KiB resident a guest": (resident() - before) / n,
    }


def main() -> None:
    """Measure all and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--guest", default="noop")
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("-n", type=int, default=100, help="guests of each design")
    options = parser.parse_args()
    engine.tell()
    results = {design: creations(design, options.guest, options.n) for design in options.designs.split(",")}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for design, figures in results.items():
        for name, value in figures.items():
            print(f"{design:16} {name:28} {value:12.3f}")


if __name__ == "__main__":
    main()
