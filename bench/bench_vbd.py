"""What disks cost, over the XenStore and over noxs: `python bench/bench_vbd.py [--json]`.

- data path: 4-KiB blocks that the back end reads or writes in a second of the host's CPU time, a whole ring at a time,
  for a front end in Python of which nothing is timed.

Of the guest `blkcheck`, each figure is the difference of two runs that differ in nothing but how much they do, so what
start-up and handshake take is not in it. Instructions are the guest's own, exact; the back end is Python and executes
none (what the one in C executes: docs/guests.md). Microseconds are CPU time of the host, the engine's part included.

- flushed: a sector written, flushed to the file with fsync, and told;
- block: 4 KiB written, read back twice, compared with its pattern and digested (SHA-256 in the guest).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import engine
from pyvmm.abi.io import blkif
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vbd
from pyvmm.xenbus.states import Negotiation
from tests.backends.test_vbd import Disk

MIB = 1 << 20
WAYS = {"xenstore": "blk=xs", "noxs": "blk=noxs"}
FEW, MANY = 50, 550  # sectors written and flushed
SMALL, LARGE = 256 * 1024, 512 * 1024  # bytes of disk


def run(image: Path, size: int, way: str, options: str) -> dict[str, float]:
    """One run of `blkcheck` on a fresh disk: its instructions and hypercalls, dom0's hypercalls, the host's time."""
    image.write_bytes(bytes(size))
    with Host(128 * MIB, digest=False) as host:
        host.create(
            "blkcheck",
            name="guest",
            memory=16 * MIB,
            cmdline=f"{WAYS[way]} {options}",
            disks=[Vbd(str(image), "xvda")],
            negotiation=way,
        )
        started = time.process_time()
        result = host.run()
        elapsed = time.process_time() - started
        assert result.exit == "poweroff"
        guest, dom0 = result.domain("guest"), result.domain("dom0")
        assert " 0 failed checks" in guest.console or "flushes" in options
        return {
            "guest instructions": guest.instructions,
            "guest hypercalls": sum(guest.hypercalls.values()),
            "back end hypercalls": sum(dom0.hypercalls.values()),
            "us": elapsed * 1e6,
        }


def each(less: dict[str, float], more: dict[str, float], units: int) -> dict[str, float]:
    """What one of the `units` by which two runs differ takes."""
    return {name: round((more[name] - less[name]) / units, 1) for name in less}


def data_path(image: Path, way: str, operation: int) -> dict[str, float]:
    """Blocks a second through the back end: rings of 32 requests of a page each."""
    image.write_bytes(bytes(MIB))
    disk = Disk(image, Negotiation(way))
    refs = [disk.page(bytes(4096))[0] for _ in range(32)]
    best = 0.0
    for _ in range(60):
        for number, ref in enumerate(refs):
            disk.path.submit(operation, number, number * 8, [(ref, 0, 7)])
        disk.path.push()
        started = time.process_time()
        disk.vbd.serve()
        best = max(best, len(refs) / (time.process_time() - started))
        disk.rig.settle()
        answers = [disk.path.answers.pop(number) for number in range(len(refs))]
        assert answers == [blkif.BLKIF_RSP_OKAY] * len(refs)
    disk.rig.over_store.close()  # the image is locked while it is served
    disk.rig.over_page.close()
    return {"blocks a second": round(best)}


def main() -> None:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    engine.tell()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        for way in WAYS:
            run(image, SMALL, way, f"flushes={FEW}")  # what is kept for speed is there now
            few, many = (run(image, LARGE, way, f"flushes={n}") for n in (FEW, MANY))
            results[f"flushed, {way}"] = each(few, many, MANY - FEW)
            small, large = (run(image, size, way, "") for size in (SMALL, LARGE))
            for name, operation in (("read", blkif.BLKIF_OP_READ), ("write", blkif.BLKIF_OP_WRITE)):
                results[f"data path, {name}, {way}"] = data_path(image, way, operation)
            results[f"block, {way}"] = each(small, large, (LARGE - SMALL) // 4096)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, figures in results.items():
        print(f"{name:20} " + "  ".join(f"{figure} {value:,}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()
