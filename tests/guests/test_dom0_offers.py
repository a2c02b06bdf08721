"""What the C dom0's back ends say of themselves is true: they do it, or do not offer it, over either negotiation.

And who says that a device is ready for its guest: xl's hotplug scripts, or xendevd where chaos uses the XenStore.
"""

from __future__ import annotations

import re

import pytest

from pyvmm import images
from pyvmm.backends import vbd_noxs, vbd_xenstore, vif, vif_noxs, vif_xenstore
from pyvmm.hypervisor import devctl
from pyvmm.report.store_tap import BACK_ENDS, HOTPLUG, TOOLSTACK, StoreTap, sender_of
from pyvmm.report.symbols import functions_of
from pyvmm.xenbus.words import Field, Node
from tests.guests.dom0_rig import XENSTORE, Dom0Rig
from tests.guests.test_dom0_backends import EMPTY, SECTORS, config

VIF = {
    "sg": 1,
    "gso_tcpv4": 0,
    "gso_tcpv6": 0,
    "ipv6_csum_offload": 0,
    "rx_copy": 1,
    "rx_flip": 0,
    "multicast_control": 0,
    "split_event_channels": 1,
    "multi_queue_max_queues": 1,
    "ctrl_ring": 0,
}
VBD = {
    "max_indirect_segments": 256,
    "max_queues": 1,
    "max_ring_page_order": 0,
    "flush": 1,
    "discard": 1,
    "discard_granularity": 512,
    "discard_alignment": 0,
    "discard_secure": 0,
    "barrier": 1,
    "persistent": 0,
    "sectors": SECTORS,
    "info": 0,
    "sector_size": 512,
    "physical_sector_size": 512,
}
NET = {"n.cfg": config("daytime", vifs=1)}
DISK = {"d.cfg": config("splitcheck", "role=blk-front", disks=("disk.img,rw",)), "disk.img": EMPTY}


def test_ours_offer_no_more_than_the_python_ones() -> None:
    assert VIF.keys() == vif.OFFER.keys()
    assert all(VIF[name] <= vif.OFFER[name] for name in VIF)


def nodes(design: str, file: str) -> list[tuple[str, str, str]]:
    """What is written to the back end's directory while a guest is made: (sender, node, value), in order."""
    with Dom0Rig(design, files=NET | DISK, guests=["daytime", "splitcheck"], writable=["disk.img"]) as rig:
        hv = rig.host.hypervisor
        tap = StoreTap(hv, hv.domains[1])
        rig.create(file, "g")
        functions = functions_of(images.path("dom0"))
        writes = [request for request in tap.requests if request.name == "WRITE" and not request.domid]
        written = []
        for request in writes:
            found = re.fullmatch(r"/local/domain/0/backend/v\w+/\d+/\d+/(.*)", request.path)
            if found:
                value = request.payload.partition(b"\0")[2].decode()
                written.append((sender_of(request, functions), found[1], value))
        return written


def said(written: list[tuple[str, str, str]], words: tuple[Node, ...]) -> dict[str, int]:
    """Features by the back end's nodes."""
    own = {name: value for sender, name, value in written if sender == BACK_ENDS}
    return {word.feature: int(own[word.name]) for word in words if word.number}


@pytest.mark.parametrize("design", XENSTORE)
def test_nodes(design: str) -> None:
    written = nodes(design, "n.cfg")
    assert said(written, vif_xenstore.OFFER) == VIF
    known = {word.name for word in vif_xenstore.OFFER} | {"feature-dynamic-multicast-control", "state"}
    assert {name for sender, name, _ in written if sender == BACK_ENDS} <= known
    assert [(s, v) for s, n, v in written if n == "hotplug-status"] == (
        [(HOTPLUG, "connected")] if design == "xl" else [(TOOLSTACK, ""), (BACK_ENDS, "connected")]
    )
    names = [(name, value) for _, name, value in written]
    assert names.index(("hotplug-status", "connected")) < names.index(("state", "4"))


@pytest.mark.parametrize("design", XENSTORE)
def test_nodes_of_a_disk(design: str) -> None:
    written = nodes(design, "d.cfg")
    words = vbd_xenstore.STORE_WORDS
    assert said(written, (*words.offer, *words.details)) == VBD
    who = {name: sender for sender, name, value in written if name.startswith("physical-device") and value}
    assert who["physical-device"] == (HOTPLUG if design == "xl" else BACK_ENDS)
    names = [(name, value) for _, name, value in written]
    assert (
        names.index(("state", "2")) < names.index(("physical-device", "7:5")) < names.index(("sectors", str(SECTORS)))
    )
    assert names.index(("physical-sector-size", "512")) < names.index(("state", "4"))


def fields(file: str, kind: int, words: tuple[Field, ...]) -> dict[str, object]:
    """Features by the fields of the control page, which is a page of dom0's, granted to the guest."""
    with Dom0Rig("chaos-noxs", files=NET | DISK, guests=["daytime", "splitcheck"], writable=["disk.img"]) as rig:
        domid = rig.create(file, "g")
        hv, ram = rig.host.hypervisor, rig.host.machine.ram
        (entry,) = [entry for entry in devctl.entries(hv.domains[domid]).values() if entry.type == kind]
        page = ram.read_u32(hv.domains[0].grants.entry_pa(entry.grant) + 4) * 4096
        return {word.feature: word.get(lambda at, n: ram.read(page + at, n)) for word in words}


def test_fields() -> None:
    assert {name: value for name, value in fields("n.cfg", 2, vif_noxs.OFFER).items() if name in VIF} == VIF


def test_fields_of_a_disk() -> None:
    words = vbd_noxs.PAGE_WORDS
    found = fields("d.cfg", 3, (*words.offer, *words.details))
    assert (found.pop("type"), found.pop("mode")) == (2, 2)  # a file, read and written
    assert found == VBD


@pytest.mark.parametrize("options", ["split=40", "blank", "split=1 blank"])
def test_frames_in_pieces_and_checksums_left_to_others(options: str) -> None:
    """sg and the checksums that a back end has to look after which does not refuse them: frames of several slots, sums
    left blank, from a
    guest over the XenStore to one over noxs and back."""
    files = {
        "server.cfg": config("echo", f"count=100 {options}", vifs=1, first=2),
        "client.cfg": config("echo", f"to=10.0.0.2 count=100 size=1400 {options}", vifs=1, first=3),
    }
    with Dom0Rig("chaos-xs", "chaos-noxs", files=files, guests=["echo"]) as rig:
        one = rig.create("server.cfg", "server")
        rig("design chaos-noxs")
        two = rig.create("client.cfg", "client")
        rig.later(2)
        assert "echo: 100 sent, 100 back, 0 lost, 0 wrong" in rig.said(two)
        for domid in (one, two):
            assert re.search(r"echo: \d+ frames in, \d+ out, 0 bad sums, 0 errors", rig.said(domid))
