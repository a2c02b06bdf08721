"""Why a ratio of ours is another than the paper's: a table, a row for each ratio that the paper has.

What is counted in a run is set beside each by `pyvmm.report.differences`; here is what no count can say. `counts` names
functions of dom0 whose counts, with all that they call, belong to the reason. A source in brackets is an inference from
the code, of ours or of theirs, that nobody has measured.
"""

from __future__ import annotations

from typing import NamedTuple

CREATE_TO_BOOT, GROWTH, FIRST, LAST = "create / boot", "last / first", "times the shortest, first", "last"
PART_FIRST, PART_LAST, TO_DEVICES = "part of the first", "part of the last", "xenstore / devices"


class Reason(NamedTuple):
    """Of the ratio `measure` of `series` (a design; in Fig. 5 a class) in Fig. `figure`: why it differs, and where that
    can be read."""

    figure: int
    series: str
    measure: str
    why: str
    source: str
    counts: tuple[str, ...] = ()


SCRIPTS = (
    "The paper's xl forks hotplug scripts and waits for them. They are no code of this machine; only their messages to "
    "the XenStore are sent here."
)
SHARED = (
    "The paper's times have in them what every design takes and nobody executes here: chaos's process, dom0's Linux, "
    "Xen. It brings the designs nearer to each other."
)
ASKS = (
    "xl asks for the name of every domain (a message), and whether it is another one's device model (two): three "
    "messages more for each domain, here as there."
)

REASONS = (
    Reason(
        4,
        "xl",
        CREATE_TO_BOOT,
        "Create, here, is all but the guest's own instructions: what the XenStore and the back ends do for a guest "
        "that boots is in it. The paper's create has scripts and processes that are not executed here.",
        "pyvmm/report/classes.py; [Xen 4.8.1: tools/hotplug/Linux/vif-bridge]",
    ),
    Reason(
        4,
        "xl",
        GROWTH,
        f"{ASKS} What else grows in the paper is time of dom0's Linux and of processes: a socket for each xl "
        "process left behind, a console daemon that looks every domain up in a list, logs that are rotated.",
        "s. 4.2; xl_store.c check_name, list_vms; [Xen 4.8.1: xl_cmdimpl.c create_domain, console/daemon/io.c "
        "lookup_domain, xenstored/logging.ml]",
        ("xl_domain_make",),
    ),
    Reason(
        5,
        "devices",
        GROWTH,
        "The paper's are constant, by our reading the time of scripts. Here the class is the making of devices and "
        "dom0's back ends. What grows of it is the console daemon, which asks Xen for every domain whenever one is "
        "introduced, and looks for each in a list.",
        "s. 4.2; back_console.c; Xen 4.8.1: console/daemon/io.c enum_domains does the same",
        ("domains_event",),
    ),
    Reason(
        5,
        "devices",
        PART_FIRST,
        f"{SCRIPTS} What is left of the class is small.",
        "s. 4.2, of Fig. 9's create; [Xen 4.8.1: tools/hotplug/Linux/vif-bridge, 20 to 25 processes]",
        ("xl_add_nics", "backend_event"),
    ),
    Reason(
        5,
        "xenstore",
        PART_LAST,
        "Without the time of scripts, of processes and of Xen the XenStore is nearly all that is left here, at any n.",
        "s. 4.2, of Fig. 9's create; docs/compare.md; [Xen 4.8.1: tools/hotplug/Linux]",
    ),
    Reason(
        5,
        "xenstore",
        TO_DEVICES,
        SCRIPTS,
        "s. 4.2; [Xen 4.8.1: tools/hotplug/Linux/vif-bridge, 20 to 25 processes]",
    ),
    Reason(
        9,
        "xl",
        GROWTH,
        f"{ASKS} Here a message costs what is executed for it. The paper's daemon also writes its log, and is woken "
        "and switched to for each by dom0's Linux.",
        "s. 4.2; xl_store.c check_name, list_vms; [Xen 4.8.1: xenstored/logging.ml]",
        ("xl_domain_make",),
    ),
    Reason(
        9,
        "xl",
        FIRST,
        "Both sides lack something here. The paper's xl takes 100 ms, its devices class in Fig. 5 as much: "
        f"{SCRIPTS} {SHARED}",
        "s. 4.2; [Xen 4.8.1: tools/hotplug/Linux/vif-bridge]",
    ),
    Reason(
        9,
        "xl",
        LAST,
        "The difference at the first guest, times the difference in growth: LightVM does not grow, here as there.",
        "the rows above",
    ),
    Reason(
        9,
        "chaos-xs",
        GROWTH,
        "Its messages do not get more. What grows here is the store's search (deeper for more nodes), and its list of "
        "dom0's watches, walked for each WATCH and UNWATCH; and the console daemon, which asks Xen for every domain "
        "and looks for each in a list, as the paper's does. In the paper transactions overlap under load, fail and are "
        "repeated; here a creation begins when all are at rest, and none is. Its daemon logs about 40 lines a guest "
        "and rotates 20 files; ours has no log. Its dom0 searches a list of all devices at each event, ours a hash.",
        "s. 4.2; db_shared.c, watches.c find; back.c back_find; back_console.c domains_event; [Xen 4.8.1: "
        "xenstored/logging.ml, console/daemon/io.c enum_domains; Linux: xenbus_probe.c xenbus_dev_changed]",
        ("domains_event", "backend_event"),
    ),
    Reason(
        9,
        "chaos-xs",
        FIRST,
        f"{SHARED} All that is executed here for LightVM is a small part of what Xen does for it.",
        "docs/costs.md",
    ),
    Reason(
        9,
        "chaos-xs",
        LAST,
        f"{SHARED} Against that stands that the paper's grows more (above).",
        "docs/costs.md; the rows above",
    ),
    Reason(
        9,
        "chaos-xs-split",
        LAST,
        f"{SHARED} On the path are still the messages of the console, of what the shell is to be called, of the guest "
        "and of its back end.",
        "chaos_xs.c add_console, configure; docs/costs.md",
        ("configure", "add_console"),
    ),
    Reason(
        9,
        "chaos-noxs",
        GROWTH,
        "Nothing that it calls looks at all guests: devices and guests are found by hash, a bridge's port goes to the "
        "end of its table. The first guest takes more: dom0's heap cuts a page into blocks, tables for what it maps "
        "are made, once. Netback in the paper's dom0 keeps a list of device numbers that is searched and never "
        "shortened.",
        "back.c back_find, back_switch.c bridge_join; [LightVM's Linux: xen-netback]",
        ("step_noxs_devices",),
    ),
    Reason(
        9,
        "chaos-noxs",
        FIRST,
        "A shell saves it the domain, its memory and the devices. Here these are a list of frames and few calls: what "
        "Xen does for them is charged, not executed, and so it is for LightVM. In the paper a device is a call to "
        "dom0's Linux, which registers a network interface and tells xendevd.",
        "s. 5.1; steps.c, back_noxs.c; [LightVM's Linux: drivers/xen/noxs, xen-netback]",
        ("dom_memory", "step_noxs_devices"),
    ),
    Reason(
        9,
        "chaos-noxs",
        LAST,
        "As at the first guest; and the paper's chaos [noxs] has grown.",
        "the rows above",
        ("dom_memory", "step_noxs_devices"),
    ),
    Reason(
        9,
        "lightvm",
        GROWTH,
        "Flat in both. The first guest takes a little more here: dom0's heap cuts a page into blocks, tables for what "
        "it maps are made, once.",
        "heap.c memory_take; xc_memory.c xc_map_foreign",
    ),
    Reason(
        10,
        "lightvm",
        GROWTH,
        "Flat in both: a guest without devices meets nothing that depends on how many there are.",
        "chaos.c; xc_memory.c xc_map_foreign",
    ),
)


def reason(figure: int, series: str, measure: str) -> Reason:
    """The row; `LookupError` when there is none."""
    return next(r for r in REASONS if (r.figure, r.series, r.measure) == (figure, series, measure))


__all__ = [
    "CREATE_TO_BOOT", "FIRST", "GROWTH", "LAST", "PART_FIRST", "PART_LAST", "REASONS", "TO_DEVICES", "Reason", "reason",
]  # fmt: skip
