"""The toolstack designs of guests/dom0, as C code of this process: what they send to the store, message by message;
what is left of a guest; what a failure in the middle leaves; shells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.toolstack.messages import Message, Shape, counts, creation, prepared
from pyvmm.toolstack.model import SPAWNS, spawns

from .dom0_native import ERRORS, STORE_DOMID, Dom0, Refusal

DESIGNS = ("xl", "chaos-xs", "chaos-xs-split", "chaos-noxs", "lightvm")
XENSTORE = DESIGNS[:3]
XVDA = 202 << 8
HEAD = b'name = "g"\nkernel = "k"\nmemory = 8\nextra = "words"\n'
FILES = {
    "k": b"a kernel",
    "disk.img": bytes(512),
    "other.img": bytes(512),
    "plain.cfg": HEAD,
    "vif.cfg": HEAD + b'vif = ["mac=00:16:3e:00:00:01"]\n',
    "ip.cfg": HEAD + b'vif = ["ip=10.0.0.2"]\n',
    "two.cfg": HEAD + b'vif = ["", "bridge=br1"]\n',
    "vbd.cfg": HEAD + b"vif = ['']\ndisk = ['/disk.img,raw,xvda,r']\n",
    "writes.cfg": HEAD + b"disk = ['/disk.img,raw,xvda,rw']\n",
    "lost.cfg": HEAD + b"disk = ['/nowhere,raw,xvda,rw']\n",
    "big.cfg": HEAD.replace(b"8", b"14"),
    "huge.cfg": HEAD.replace(b"8", b"64"),
    "bad.cfg": HEAD + b"vif = 3\n",
    "nokernel.cfg": HEAD.replace(b'"k"', b'"nobody"'),
}
for number in range(25):  # a disk each: what is shared is asked about twice
    FILES[f"disk{number}.img"] = bytes(512)
    FILES[f"vbd.cfg{number}"] = HEAD + b"vif = ['']\ndisk = ['/disk%d.img,raw,xvda,rw']\n" % number
DEVICES = {"plain.cfg": (0, ()), "vif.cfg": (1, ()), "ip.cfg": (1, ()), "two.cfg": (2, ()), "vbd.cfg": (1, (XVDA,))}
SHARED = ("/vm", "/libxl", "/local/domain/0/backend")
"""Directories of all guests: they stay when the last one goes, as with Xen's own tools."""


def made(design: str) -> Dom0:
    """A dom0 that has chosen a design."""
    dom0 = Dom0(FILES)
    assert dom0.line(f"design {design}") == ""
    return dom0


def own_nodes(dom0: Dom0) -> set[str]:
    """The store without the directories that belong to no guest."""
    return {
        path for path in dom0.nodes() if path not in SHARED and path.rpartition("/")[0] != "/local/domain/0/backend"
    }


def uuid_of(messages: list[Message]) -> str:
    """The UUID that xl's messages speak of."""
    return next((m.path.split("/")[2] for m in messages if m.path.startswith("/vm/")), "")


def created(dom0: Dom0, file: str, name: str) -> int:
    """Make a guest; its number."""
    own = f"{file}{len(dom0.domains) - 2}"
    out = dom0.line(f"create {own if own in FILES else file} {name}")
    m = re.fullmatch(rf"created {name} domid (\d+)( \(no shell fitted\))?\n", out)
    assert m, out
    return int(m[1])


# --- messages ---


@pytest.mark.parametrize("file", DEVICES)
@pytest.mark.parametrize("design", DESIGNS)
def test_one_creation_sends_what_the_original_does(design: str, file: str) -> None:
    vifs, vbds = DEVICES[file]
    dom0 = made(design)
    others = 0
    for already in (0, 4, 15):  # the 1st, the 5th and the 20th guest
        for i in range(already):
            created(dom0, file, f"before{already}-{i}")
        others += already
        dom0.messages.clear()
        domid = created(dom0, file, f"measured{already}")
        shape = Shape(
            domid=domid,
            uuid=uuid_of(dom0.messages),
            vifs=vifs,
            vbds=vbds,
            domains=sorted(dom0.domains),
            disks=[(d, vbds) for d in range(2, domid + 1)],
            ip=file == "ip.cfg",
        )
        assert dom0.messages == creation(design, shape, claimed=False)
        others += 1


RESERVED = "domain_create domain_max_vcpus physinfo domain_setmaxmem domain_set_tsc_info cpuid_apply_policy"
CALLS = {
    "xl": """
        physinfo domain_create cpupool_movedomain domain_max_vcpus domain_getinfo cpupool_info numainfo domain_setmaxmem
        evtchn_alloc_unbound evtchn_alloc_unbound domain_set_memmap_limit domain_set_tsc_info memory claim_pages kernel
        boot domain_getinfo cpupool_info sched_get sched_set cpuid_apply_policy domain_getinfo domain_unpause""",
    "chaos-xs": f"{RESERVED} evtchn_alloc_unbound evtchn_alloc_unbound memory claim_pages kernel boot domain_unpause",
    "chaos-noxs": f"{RESERVED} memory claim_pages noxs_create devctl_add kernel boot domain_unpause",
}


@pytest.mark.parametrize("design", CALLS)
def test_xen_is_asked_what_the_original_asks_in_its_order(design: str) -> None:
    """libxl 4.8.1 and libh2, by the reference's lists; `memory`, `kernel` and `boot` are libxc's domain builder."""
    dom0 = made(design)
    dom0.calls.clear()
    created(dom0, "plain.cfg", "g")
    assert [name for name, *_ in dom0.calls if name != "thread"] == CALLS[design].split()


@pytest.mark.parametrize(
    ("file", "fixed", "a_domain", "a_disk"), [("plain.cfg", 112, 3, 0), ("vif.cfg", 182, 3, 0), ("vbd.cfg", 255, 3, 2)]
)
def test_xl_sends_as_many_messages_as_counted_in_the_reference(
    file: str, fixed: int, a_domain: int, a_disk: int
) -> None:
    dom0 = made("xl")
    for n in range(1, 8):
        dom0.messages.clear()
        created(dom0, file, f"g{n}")
        assert counts(dom0.messages)[0] == fixed + a_domain * len(dom0.domains) + a_disk * n


@pytest.mark.parametrize(
    ("file", "messages", "transactions"), [("plain.cfg", 19, 2), ("vif.cfg", 42, 3), ("vbd.cfg", 63, 4)]
)
def test_chaos_sends_19_42_or_63(file: str, messages: int, transactions: int) -> None:
    dom0 = made("chaos-xs")
    for n in range(3):
        dom0.messages.clear()
        created(dom0, file, f"g{n}")
        assert counts(dom0.messages) == (messages, transactions)


def test_a_shell_pays_for_its_messages_beforehand() -> None:
    dom0 = made("chaos-xs-split")
    assert dom0.line("pool two.cfg 2") == "pool of 2 shells\n"
    two = [prepared("chaos-xs-split", Shape(domid, "", vifs=2)) for domid in (2, 3)]
    assert dom0.messages == two[0] + two[1]
    dom0.messages.clear()
    domid = created(dom0, "two.cfg", "claimed")
    assert dom0.messages == creation("chaos-xs-split", Shape(domid, "", vifs=2))
    assert counts(dom0.messages) == (8 + 3 + 2 * 4, 2)
    nodes = dom0.nodes()
    assert nodes[f"/local/domain/{domid}/name"] == b"claimed"
    assert nodes[f"/local/domain/0/backend/vif/{domid}/1/bridge"] == b"br1"
    mac = nodes[f"/local/domain/0/backend/vif/{domid}/0/mac"]
    assert mac == nodes[f"/local/domain/{domid}/device/vif/0/mac"] and mac.startswith(b"00:16:3e:")


def test_the_reads_of_all_domains_fall_into_the_open_transaction() -> None:
    dom0 = made("xl")
    created(dom0, "plain.cfg", "g")
    start = dom0.messages.index(Message("TRANSACTION_START", False, ""))
    end = dom0.messages.index(Message("TRANSACTION_END", True, ""))
    within = dom0.messages[start:end]
    assert sum(not m.transaction and m.path.endswith(("/name", "/target")) for m in within) == 2 * len(dom0.domains)


def test_a_conflict_repeats_the_transaction_and_its_reads_of_all_domains() -> None:
    dom0 = made("xl")
    dom0.refuse = Refusal("commit", 1, -11)
    created(dom0, "plain.cfg", "g")
    assert sum(re.fullmatch(r"/local/domain/\d+/target", m.path) is not None for m in dom0.messages) == 2 * len(
        dom0.domains
    )
    assert counts(dom0.messages)[1] == 4
    assert dom0.nodes()["/local/domain/2/name"] == b"g"


def test_permissions_are_the_originals() -> None:
    dom0 = made("xl")
    created(dom0, "vif.cfg", "g")
    store = dom0.store.nodes()
    shown = {path: str(permissions) for path, (_, permissions) in store.items()}
    same = [
        {"/local/domain/2", "/local/domain/2/cpu", "/local/domain/2/console", "/local/domain/0/backend/vif/2/0"},
        {"/local/domain/2/data", "/local/domain/2/control/shutdown"},
        {"/local/domain/2/device/vif/0", "/local/domain/2/device/vif/0/state"},
    ]
    for group in same:
        assert len({shown[path] for path in group}) == 1, {path: shown[path] for path in group}
    assert len({shown[min(group)] for group in same}) == 3


# --- names, checks, waits ---


def test_xl_refuses_a_name_that_is_taken_and_chaos_does_not_ask() -> None:
    dom0 = made("xl")
    created(dom0, "vif.cfg", "g")
    before = own_nodes(dom0)
    assert dom0.line("create vif.cfg g") == "error: g: there is a domain of that name (EEXIST)\n"
    assert own_nodes(dom0) == before and sorted(dom0.domains) == [0, STORE_DOMID, 2]
    dom0.line("design chaos-xs")
    assert created(dom0, "vif.cfg", "g") == 4


def test_a_back_end_that_does_nothing_is_waited_for_ten_seconds() -> None:
    dom0 = made("xl")
    created(dom0, "vif.cfg", "first")
    before = own_nodes(dom0)
    dom0.stuck = True
    assert dom0.line("create vif.cfg g") == "error: g: a back end was not ready within 10 seconds (EAGAIN)\n"
    assert dom0.time == 10 * 10**9
    assert own_nodes(dom0) == before


def test_two_guests_do_not_share_a_disk_that_one_writes() -> None:
    dom0 = made("xl")
    assert dom0.line("create vbd.cfg a").startswith("created")
    assert dom0.line("create vbd.cfg b").startswith("created")
    assert dom0.line("create writes.cfg c").startswith("error: c: another guest has its disk")
    dom0.line("destroy a")
    dom0.line("destroy b")
    assert dom0.line("create writes.cfg c").startswith("created")
    assert dom0.line("create vbd.cfg d").startswith("error: d: another guest has its disk")
    assert dom0.line("create lost.cfg e") == "error: e: its disk is not in the file area (ENOENT)\n"


@pytest.mark.parametrize("design", DESIGNS)
def test_mistakes_are_one_line(design: str) -> None:
    dom0 = made(design)
    for line, said in {
        "create nothing.cfg": "error: no file nothing.cfg (ENOENT)\n",
        "create bad.cfg": "error: bad.cfg:5: vif: expected a list of strings like 'mac=00:16:3e:00:00:01', not 3\n",
        "create nokernel.cfg g": "error: g: its kernel is not in the file area (ENOENT)\n",
        "destroy 7": "error: no guest 7 (ESRCH)\n",
        "shutdown nobody": "error: no guest nobody (ESRCH)\n",
        "design none": "error: no design none (ENOENT)\n",
    }.items():
        assert dom0.line(line) == said
    assert sorted(dom0.domains) == [0, STORE_DOMID]


# --- all is given back ---


@pytest.mark.parametrize("file", DEVICES)
@pytest.mark.parametrize("design", DESIGNS)
def test_destroy_gives_everything_back(design: str, file: str) -> None:
    dom0 = made(design)
    before = own_nodes(dom0)
    domids = [created(dom0, file, f"g{i}") for i in range(3)]
    for domid in (domids[1], domids[0], domids[2]):
        assert dom0.line(f"destroy {domid}").startswith("destroyed ")
    assert own_nodes(dom0) == before
    assert sorted(dom0.domains) == [0, STORE_DOMID]
    assert not dom0.store.check()


def refusals(dom0: Dom0, line: str) -> Iterator[str]:
    """Run a creation again and again, each time with a later call or message refused, until it goes through."""
    for name, result in (("", -12), ("store", -28), ("commit", -13)):
        number = 0
        while True:
            number += 1
            dom0.refuse = Refusal(name, number, result)
            out = dom0.line(line)
            if dom0.pending():
                dom0.refuse = None
                assert out.startswith("created ")
                assert dom0.line("destroy g").startswith("destroyed ")
                break
            yield out


@pytest.mark.parametrize("design", DESIGNS)
def test_whatever_fails_in_the_middle_nothing_is_left(design: str) -> None:
    file = "vbd.cfg"
    dom0 = made(design)
    created(dom0, file, "before")
    nodes, domains = own_nodes(dom0), sorted(dom0.domains)
    tried = 0
    for out in refusals(dom0, f"create {file} g"):
        tried += 1
        assert re.fullmatch(r"error: g: [^\n]+ \((ENOMEM|ENOSPC|EACCES|EINVAL|EBUSY)\)\n", out), out
        assert own_nodes(dom0) == nodes and sorted(dom0.domains) == domains, out
    assert tried > (100 if design == "xl" else 30 if design in XENSTORE else 10)
    assert dom0.line("destroy before").startswith("destroyed")
    assert sorted(dom0.domains) == [0, STORE_DOMID]
    assert not dom0.store.check()


def test_answers_that_libxl_cannot_do_without_are_looked_at() -> None:
    """dom0's own number and the hotplug script's name have to be there; the name of pool 0 need not be."""
    dom0 = made("xl")
    dom0.host.rm("/local/pool/0/name")
    created(dom0, "vbd.cfg", "before")
    nodes = own_nodes(dom0)
    dom0.host.rm("/local/domain/0/domid")
    for file, what in (("plain.cfg", "console"), ("vbd.cfg", "disk")):
        assert dom0.line(f"create {file} g") == f"error: g: its {what} cannot be added (ENOENT)\n"
        assert own_nodes(dom0) == nodes - {"/local/domain/0/domid"}


# --- shells ---


def test_an_empty_pool_is_said_and_the_whole_way_taken() -> None:
    dom0 = made("lightvm")
    assert dom0.line("create vif.cfg g") == "created g domid 2\n"
    dom0.line("pool vif.cfg 1")
    assert dom0.line("create vif.cfg h") == "created h domid 3\n"
    assert dom0.line("create vif.cfg i") == "created i domid 4 (no shell fitted)\n"


def test_a_full_pool_is_one_error() -> None:
    dom0 = made("lightvm")
    assert dom0.line("pool vif.cfg 3") == "pool of 3 shells\n"
    assert dom0.line("pool plain.cfg 9998") == "error: the pool is full: it holds 10000 shells at most\n"
    assert dom0.line("pool plain.cfg 10001") == "error: how many shells? From 0 to 10000\n"
    dom0.refuse = Refusal("domain_create", 2, -12)
    assert (
        dom0.line("pool plain.cfg 5")
        == "error: the pool stays at 1 shells: the host cannot take another domain (ENOMEM)\n"
    )
    assert len(dom0.domains) == 2 + 3 + 1
    assert dom0.line("pool vif.cfg 0") == "pool of 0 shells\n"
    assert dom0.line("pool plain.cfg 0") == "pool of 0 shells\n"
    assert sorted(dom0.domains) == [0, STORE_DOMID]


def test_names_of_shells_are_their_own() -> None:
    dom0 = made("chaos-xs-split")
    dom0.line("pool vif.cfg 4")
    names = [value for path, value in dom0.nodes().items() if path.endswith("/name") and b"shell" in value]
    assert len(set(names)) == len(names) == 4


def test_the_shell_that_fits_best_is_claimed_and_trimmed() -> None:
    dom0 = made("lightvm")
    dom0.line("pool big.cfg 1")
    dom0.line("pool huge.cfg 1")
    dom0.line("pool plain.cfg 1")
    assert created(dom0, "plain.cfg", "exact") == 4
    assert not [call for call in dom0.calls if call[0] == "decrease_reservation"]
    assert created(dom0, "plain.cfg", "trimmed") == 2
    assert [call for call in dom0.calls if call[0] == "decrease_reservation"] == [
        ("decrease_reservation", 2, 6 * 256, 0)
    ]
    assert created(dom0, "plain.cfg", "whole") == 5  # not the huge one


def test_a_shell_that_fails_is_erased() -> None:
    dom0 = made("lightvm")
    dom0.line("pool vif.cfg 2")
    dom0.refuse = Refusal("boot", 1, -12)
    assert dom0.line("create vif.cfg g").startswith("error: g: ")
    assert len(dom0.domains) == 2 + 1
    assert "1 of 2 shells" in dom0.line("pool")
    created(dom0, "vif.cfg", "h")


def test_a_shell_is_no_guest_that_can_be_named() -> None:
    dom0 = made("lightvm")
    dom0.line("pool vif.cfg 1")
    assert dom0.line("destroy 2") == "error: no guest 2 (ESRCH)\n"
    assert dom0.line("shutdown 2") == "error: no guest 2 (ESRCH)\n"


# --- a user's own ---


OWN = r"""
#include "design.h"
static int reserve(struct guest *g) { return step_reserve(g, false, false); }
static int greet(struct guest *g) { printf("a guest %s\n", g->config.name); return 0; }
static int part(struct guest *g) { printf("good-bye %s\n", g->config.name); return 0; }
static const struct phase phases[] = {
    {"reserve", reserve, undo_reserve}, {"greet", greet, part}, {"load", step_load, NULL}, {"run", step_run, NULL}, {0},
};
DESIGN(own, "own", "a design of one file", .phases = phases);
"""


def test_a_design_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "own.c"
    file.write_text(OWN)
    dom0 = Dom0(FILES, file)
    assert "  own             a design of one file\n" in dom0.line("design")
    assert dom0.line("design own") == ""
    assert dom0.line("create plain.cfg g") == "a guest g\ncreated g domid 2\n"
    assert dom0.line("shutdown g") == "error: own has no way to ask a guest (EOPNOTSUPP)\n"
    assert dom0.line("destroy g") == "good-bye g\ndestroyed g domid 2\n"
    dom0.refuse = Refusal("boot", 1, -12)
    assert dom0.line("create plain.cfg g") == "a guest g\ngood-bye g\nerror: g: load (ENOMEM)\n"
    assert sorted(dom0.domains) == [0, STORE_DOMID]


# --- what is no code ---


def test_what_cannot_run_has_a_source_and_a_number() -> None:
    assert {row.design for row in SPAWNS} == set(DESIGNS)
    assert all(row.source and 0 < row.least <= row.most for row in SPAWNS)
    assert spawns("xl", vifs=1, vbds=1, domains_with_disks=10) == (2 + 20 + 15 + 20, 2 + 25 + 15 + 20)
    assert spawns("lightvm", vifs=1, vbds=0, domains_with_disks=0) == (1, 1)
    assert set(ERRORS)
