"""What of a creation runs nowhere here: processes that stock Xen's toolstack spawns. A table of parameters, with their
sources, reported beside what was executed and never added to it.

Counts are by reading Xen 4.8.1's scripts, not measured; what a spawn costs is not ours to say. The messages that the
scripts send to the XenStore are sent by the design itself (`guests/dom0/xl_hotplug.c`), those of xendevd, where chaos
uses the XenStore, by its counterpart beside the back ends (`guests/dom0/back_xendevd.c`).
"""

from __future__ import annotations

from typing import NamedTuple


class Spawns(NamedTuple):
    """Processes a creation spawns: between `least` and `most`, and `a_disk` more for every domain that has a disk."""

    design: str
    device: str
    what: str
    least: int
    most: int
    a_disk: int
    source: str


SCRIPTS = "Xen 4.8.1, tools/hotplug/Linux: "
CHAOS = "one chaos process; xendevd is resident and forks nothing"
CLIENT = "one chaos process; the shells are its daemon's"
SPAWNS = (
    Spawns(
        "xl",
        "vif",
        "vif-bridge online: a shell with 5 libraries, ip, brctl, iptables, xenstore-read and -write",
        20,
        25,
        0,
        SCRIPTS + "vif-bridge, vif-common.sh, xen-network-common.sh, locking.sh",
    ),
    Spawns(
        "xl",
        "vbd",
        "block add: a shell, losetup or stat, xenstore-read and -write; check_sharing reads every disk",
        15,
        15,
        2,
        SCRIPTS + "block, block-common.sh",
    ),
    Spawns(
        "xl",
        "guest",
        "the xl process, and the one that it leaves behind to watch the guest",
        2,
        2,
        0,
        "Xen 4.8.1, tools/libxl/xl_cmdimpl.c: create_domain",
    ),
    Spawns("chaos-xs", "guest", CHAOS, 1, 1, 0, "libchaos: bin/chaos.c, bin/xendevd"),
    Spawns("chaos-xs-split", "guest", CLIENT, 1, 1, 0, "libchaos: bin/chaos.c, bin/shell_daemon.c"),
    Spawns("chaos-noxs", "guest", CHAOS, 1, 1, 0, "libchaos: bin/chaos.c, bin/xendevd"),
    Spawns("lightvm", "guest", CLIENT, 1, 1, 0, "libchaos: bin/chaos.c, bin/shell_daemon.c"),
)


def spawns(design: str, vifs: int, vbds: int, domains_with_disks: int) -> tuple[int, int]:
    """The least and the most processes that a creation with so many devices spawns."""
    times = {"guest": 1, "vif": vifs, "vbd": vbds}
    rows = [row for row in SPAWNS if row.design == design]
    more = sum(row.a_disk * domains_with_disks * times[row.device] for row in rows)
    return sum(r.least * times[r.device] for r in rows) + more, sum(r.most * times[r.device] for r in rows) + more


__all__ = ["SPAWNS", "Spawns", "spawns"]
