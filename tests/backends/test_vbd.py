"""Block devices over both negotiations, with a front end in Python: data, errors, life cycle; nothing is left."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm.abi.io import blkif as abi
from pyvmm.backends.blkfront import Blkfront
from pyvmm.backends.disk import DiskError, RawDisk
from pyvmm.backends.vbd import MAX_INDIRECT_SEGMENTS, Vbd, VbdConfig
from pyvmm.backends.vbd_xenstore import VBD
from pyvmm.hypervisor import lifecycle
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.frontend import Frontend
from pyvmm.xenbus.noxs import BE_STATE, FE_STATE, PageFront
from pyvmm.xenbus.resources import Page
from pyvmm.xenbus.states import Negotiation, State
from pyvmm.xenbus.xenstore import StoreBackends
from tests.xenbus.rig import Rig

SECTORS = 2048
OKAY, ERROR, UNSUPPORTED = abi.BLKIF_RSP_OKAY, abi.BLKIF_RSP_ERROR, abi.BLKIF_RSP_EOPNOTSUPP
READ, WRITE, FLUSH, DISCARD = abi.BLKIF_OP_READ, abi.BLKIF_OP_WRITE, abi.BLKIF_OP_FLUSH_DISKCACHE, abi.BLKIF_OP_DISCARD
DEVID = 51712


class Disk:
    """A guest's disk, connected."""

    def __init__(self, image: Path, negotiation: Negotiation, *, mode: str = "w", order: int = 0, discard: bool = True):
        self.image = image
        self.rig = Rig(VBD)
        self.negotiation = negotiation
        self.mode = mode
        self.discard = discard
        _ = self.rig.page  # once and for all: it holds a port and a mapping
        self.before = self.rig.held()
        self.path = Blkfront(self.rig.guest.resources, order)
        self.front = self.attach()
        self.ids = 0

    def attach(self) -> Frontend:
        rig = self.rig
        if self.negotiation is Negotiation.XENSTORE:
            rig.add_to_store(
                "vbd",
                DEVID,
                params=str(self.image),
                mode=self.mode,
                **{"device-type": "disk", "discard-enable": str(int(self.discard))},
            )
            rig.settle()
            front = rig.store_front(VBD, DEVID, self.path)
        else:
            config = VbdConfig(str(self.image), readonly=self.mode == "r", discard=self.discard)
            rig.over_page.create("vbd", 1, DEVID, config)
            front = rig.page_front(VBD, DEVID, self.path)
        rig.settle()
        return front

    @property
    def vbd(self) -> Vbd:
        devices = self.rig.over_store if self.negotiation is Negotiation.XENSTORE else self.rig.over_page
        path = devices.devices[Key("vbd", 1, DEVID)].path
        assert isinstance(path, Vbd)
        return path

    def page(self, data: bytes = b"", readonly: bool = False) -> tuple[int, Page]:
        """A page of the guest, granted to the back end."""
        resources = self.rig.guest.resources
        page = resources.page()
        self.rig.guest.api.write(page.va, data.ljust(4096, b"\0"))
        return resources.grant(0, page, readonly=readonly), page

    def ask(self, operation: int, sector: int, segments: list[tuple[int, int, int]] | None = None) -> int:
        """One request; its status."""
        self.ids += 1
        self.path.submit(operation, self.ids, sector, segments or [])
        self.path.push()
        self.rig.settle()
        return self.path.answers.pop(self.ids)

    def raw(self, request: bytes) -> int:
        """One request as bytes (its id is 77)."""
        self.path.put(request)
        self.path.push()
        self.rig.settle()
        return self.path.answers.pop(77)

    def remove(self) -> None:
        """The toolstack takes the device away, politely."""
        rig = self.rig
        if self.negotiation is Negotiation.XENSTORE:
            back = f"/local/domain/0/backend/vbd/1/{DEVID}"
            rig.tools.write(f"{back}/online", "0")
            rig.tools.write(f"{back}/state", "5")
            rig.settle()
            assert rig.tools.read(f"{back}/state") == b"6"
            rig.tools.rm("/local/domain/0/backend")
            rig.tools.rm("/local/domain/1")
            if rig.tools.exists("/local/domain"):
                rig.tools.rm("/local/domain")
            rig.settle()
        else:
            rig.over_page.remove("vbd", 1, DEVID)
            rig.settle()
        assert self.front.state is State.CLOSED
        self.front.channel.release()
        rig.fronts.clear()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(SECTORS * 512))
    return path


@pytest.fixture(params=list(Negotiation), ids=[n.value for n in Negotiation])
def negotiation(request: pytest.FixtureRequest) -> Negotiation:
    found: Negotiation = request.param
    return found


@pytest.fixture
def disk(image: Path, negotiation: Negotiation) -> Disk:
    return Disk(image, negotiation)


def test_it_connects_and_tells_what_it_is(disk: Disk) -> None:
    assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)
    details = disk.path.details
    assert (details["sectors"], details["sector_size"], details["info"]) == (SECTORS, 512, 0)
    assert details["flush"] and details["discard"] and details["barrier"] and not details["persistent"]
    assert details["max_indirect_segments"] == 256
    assert disk.front.reports == [] == disk.rig.reports


def test_read_and_write(disk: Disk) -> None:
    ref, page = disk.page()
    assert disk.ask(READ, 5, [(ref, 0, 7)]) == OKAY
    before = disk.image.read_bytes()
    assert disk.rig.guest.api.read(page.va, 4096) == before[5 * 512 : 13 * 512]
    disk.rig.guest.api.write(page.va, bytes(range(256)) * 16)
    assert disk.ask(WRITE, 100, [(ref, 2, 3), (ref, 7, 7)]) == OKAY
    data = (bytes(range(256)) * 16)[2 * 512 : 4 * 512] + (bytes(range(256)) * 16)[7 * 512 :]
    assert disk.image.read_bytes() == before[: 100 * 512] + data + before[103 * 512 :]


def test_random_requests_agree_with_a_model(disk: Disk) -> None:
    """Many requests a batch, several segments each; the image is what a model of it says, and so is its SHA-256."""
    rng = random.Random(2)
    model = bytearray(disk.image.read_bytes())
    pages = [disk.page() for _ in range(11)]
    for batch in range(6):
        reads: list[tuple[int, int, int, Page]] = []
        for i in range(rng.randrange(1, 12)):
            ref, page = pages[i % 11]
            first = rng.randrange(8)
            last = rng.randrange(first, 8)
            sector = rng.randrange(SECTORS - 8)
            size = (last - first + 1) * 512
            if rng.random() < 0.5:
                data = rng.randbytes(4096)
                disk.rig.guest.api.write(page.va, data)
                model[sector * 512 : sector * 512 + size] = data[first * 512 : (last + 1) * 512]
                disk.path.submit(WRITE, batch << 8 | i, sector, [(ref, first, last)])
            else:
                reads.append((sector, first, size, page))
                disk.path.submit(READ, batch << 8 | i, sector, [(ref, first, last)])
        disk.path.push()
        disk.rig.settle()
        for sector, first, size, page in reads[-1:]:
            got = disk.rig.guest.api.read(page.va + first * 512, size)
            assert got == model[sector * 512 : sector * 512 + size]
    assert set(disk.path.answers.values()) == {OKAY}
    assert hashlib.sha256(disk.image.read_bytes()).digest() == hashlib.sha256(model).digest()


def test_flush_is_an_fsync(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return call

    monkeypatch.setattr(os, "pwrite", noted("write", os.pwrite))
    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    ref, _ = disk.page(b"x" * 4096)
    assert disk.ask(WRITE, 0, [(ref, 0, 0)]) == OKAY
    assert disk.ask(FLUSH, 0) == OKAY
    assert disk.ask(abi.BLKIF_OP_WRITE_BARRIER, 0, [(ref, 0, 0)]) == OKAY
    assert calls == ["write", "fsync", "fsync", "write", "fsync"]
    assert disk.ask(abi.BLKIF_OP_WRITE_BARRIER, 0) == OKAY  # without data it is a flush (Linux's blkback: REQ_PREFLUSH)
    assert set(calls[5:]) == {"fsync"}


def test_discard(disk: Disk) -> None:
    before = disk.image.read_bytes()
    request = abi.blkif_request_discard.pack(operation=DISCARD, id=77, sector_number=16, nr_sectors=16)
    assert disk.raw(request) == OKAY
    assert disk.image.read_bytes() == before[: 16 * 512] + bytes(16 * 512) + before[32 * 512 :]
    beyond = abi.blkif_request_discard.pack(operation=DISCARD, id=77, sector_number=SECTORS - 1, nr_sectors=2)
    assert disk.raw(beyond) == ERROR
    wrapping = abi.blkif_request_discard.pack(operation=DISCARD, id=77, sector_number=2**64 - 1, nr_sectors=2)
    assert disk.raw(wrapping) == ERROR


def test_no_discard_where_it_is_not_offered(image: Path, negotiation: Negotiation) -> None:
    disk = Disk(image, negotiation, discard=False)
    assert not disk.path.details.get("discard")
    assert disk.raw(abi.blkif_request_discard.pack(operation=DISCARD, id=77, nr_sectors=1)) == UNSUPPORTED


def indirect(disk: Disk, count: int, refs: list[int], sector: int = 0, operation: int = READ, pages: int = 1) -> int:
    segments = b"".join(
        abi.blkif_request_segment.pack(gref=refs[i % len(refs)], first_sect=i % 8, last_sect=i % 8)
        for i in range(min(count, 512))
    )
    ref, page = disk.page(segments, readonly=True)
    request = abi.blkif_request_indirect.pack(
        operation=abi.BLKIF_OP_INDIRECT,
        indirect_op=operation,
        nr_segments=count,
        id=77,
        sector_number=sector,
        indirect_grefs=[ref] * pages + [0] * (8 - pages),
    )
    status = disk.raw(request)
    disk.rig.guest.resources.revoke_and_free(ref, page)
    return status


def test_indirect_descriptors(disk: Disk) -> None:
    before = disk.image.read_bytes()
    ref, page = disk.page()
    assert indirect(disk, 8, [ref], sector=40) == OKAY
    assert disk.rig.guest.api.read(page.va, 4096) == before[40 * 512 : 48 * 512]
    disk.rig.guest.api.write(page.va, b"#" * 4096)
    assert indirect(disk, 256, [ref], sector=64, operation=WRITE) == OKAY
    assert disk.image.read_bytes() == before[: 64 * 512] + b"#" * 256 * 512 + before[320 * 512 :]
    for count, operation in ((0, READ), (MAX_INDIRECT_SEGMENTS + 1, READ), (65535, READ), (8, DISCARD), (8, 6)):
        assert indirect(disk, count, [ref], operation=operation) == ERROR
    assert indirect(disk, 8, [ref, 4000]) == ERROR
    assert indirect(disk, 8, [ref], sector=SECTORS - 7) == ERROR
    assert disk.rig.reports == []


def test_requests_that_cannot_be_served_are_answered_so(disk: Disk) -> None:
    before = disk.image.read_bytes()
    ref, _ = disk.page(b"!" * 4096)
    readonly, _ = disk.page(readonly=True)
    revoked, page3 = disk.page()
    disk.rig.guest.resources.revoke_and_free(revoked, page3)
    other = disk.rig.guest.resources.grant(2, disk.rig.guest.resources.page())
    bad = [
        (READ, SECTORS - 7, [(ref, 0, 7)]),
        (WRITE, SECTORS, [(ref, 0, 0)]),
        (WRITE, 2**64 - 1, [(ref, 0, 7)]),
        (READ, 0, [(ref, 3, 2)]),
        (READ, 0, [(ref, 0, 8)]),
        (READ, 0, [(ref, 0, 255)]),
        (READ, 0, []),
        (WRITE, 0, []),
        (READ, 0, [(readonly, 0, 7)]),
        (READ, 0, [(revoked, 0, 7)]),
        (WRITE, 0, [(ref, 0, 7), (revoked, 0, 7)]),
        (WRITE, 0, [(other, 0, 7)]),
        (WRITE, 0, [(0xFFFF_FFFF, 0, 7)]),
    ]
    for operation, sector, segments in bad:
        assert disk.ask(operation, sector, segments) == ERROR, (operation, sector, segments)
    for operation in (4, 7, 200):
        assert disk.ask(operation, 0, [(ref, 0, 0)]) == UNSUPPORTED
    many = bytearray(abi.blkif_request.size)
    many[0], many[1], many[8] = READ, 12, 77
    assert disk.raw(bytes(many)) == ERROR
    assert disk.image.read_bytes() == before
    assert disk.ask(READ, 0, [(ref, 0, 7)]) == OKAY  # and it goes on
    assert disk.rig.reports == []
    assert disk.vbd.counters.errors == len(bad) + 4


def test_a_read_only_disk(image: Path, negotiation: Negotiation) -> None:
    disk, before = Disk(image, negotiation, mode="r"), image.read_bytes()
    assert disk.path.details["info"] == abi.VDISK_READONLY
    ref, _ = disk.page()
    assert disk.ask(READ, 0, [(ref, 0, 7)]) == OKAY
    assert disk.ask(WRITE, 0, [(ref, 0, 7)]) == ERROR == disk.ask(FLUSH, 0)
    assert disk.raw(abi.blkif_request_discard.pack(operation=DISCARD, id=77, nr_sectors=1)) in (ERROR, UNSUPPORTED)
    assert image.read_bytes() == before


def test_a_ring_of_several_pages(image: Path, negotiation: Negotiation) -> None:
    disk = Disk(image, negotiation, order=2)
    assert disk.path.ring is not None and disk.path.ring.size == 128
    ref, _ = disk.page()
    for i in range(300):
        assert disk.ask(READ, i, [(ref, 0, 0)]) == OKAY


def test_events_are_sent_only_when_wanted(disk: Disk) -> None:
    """A back end that works through a batch is notified once, and notifies once."""
    ref, _ = disk.page()
    sent = [disk.rig.dom0.domain.counters.events_sent, disk.rig.guest.domain.counters.events_sent]
    notified = []
    for i in range(10):
        disk.path.submit(READ, i, i, [(ref, 0, 0)])
        notified.append(disk.path.push())
    assert notified == [True] + [False] * 9
    disk.rig.settle()
    assert len(disk.path.answers) == 10
    now = [disk.rig.dom0.domain.counters.events_sent, disk.rig.guest.domain.counters.events_sent]
    assert [after - before for before, after in zip(sent, now, strict=True)] == [1, 1]


@pytest.mark.parametrize("index", [33, 1000, 0x8000_0000, 0xFFFF_FFFF])
def test_a_request_index_that_runs_away_closes_the_device_once(disk: Disk, index: int) -> None:
    assert disk.path.ring is not None
    disk.path.ring._set(0, index)
    disk.rig.guest.xc.notify(disk.path.port)
    disk.rig.settle()
    assert [report.device for report in disk.rig.reports] == [Key("vbd", 1, DEVID)]
    assert "index" in disk.rig.reports[0].cause
    assert disk.front.state is State.CLOSED
    assert disk.rig.dom0.domain.grants.maptrack == {}
    # The guest may try again, better.
    disk.front.open()
    disk.rig.settle()
    ref, _ = disk.page()
    assert disk.ask(READ, 0, [(ref, 0, 0)]) == OKAY
    assert len(disk.rig.reports) == 1


def test_close_and_begin_again(disk: Disk) -> None:
    for _ in range(3):
        disk.front.close()
        disk.rig.settle()
        assert disk.rig.states(disk.front) == (State.CLOSED, State.CLOSED)
        assert disk.rig.guest.domain.grants.active == {}
        disk.front.open()
        disk.rig.settle()
        assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)
    ref, _ = disk.page()
    assert disk.ask(READ, 0, [(ref, 0, 0)]) == OKAY


def test_hot_remove_leaves_nothing_and_hot_add_works_again(disk: Disk) -> None:
    disk.remove()
    disk.rig.dom0.resources.close()
    assert disk.rig.held() == disk.before
    assert disk.rig.page.scan() == []
    disk.path = Blkfront(disk.rig.guest.resources)
    disk.front = disk.attach()
    assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)


def test_the_front_ends_domain_vanishes(disk: Disk) -> None:
    """Without a word, with requests in the ring: what it had comes back, the image is free for others."""
    ref, _ = disk.page()
    disk.path.submit(READ, 1, 0, [(ref, 0, 0)])
    disk.path.push()
    rig = disk.rig
    if disk.negotiation is Negotiation.XENSTORE:
        rig.tools.rm("/local/domain/0/backend")
        rig.over_store.check()
    else:
        rig.over_page.drop_domain(1)
    free = rig.hv.frames.free_count
    lifecycle.destroy_domain(rig.guest.domain)
    rig.dom0.resources.close()
    assert 1 not in rig.hv.domains
    assert rig.hv.frames.free_count > free
    assert rig.dom0.domain.grants.maptrack == {} == rig.dom0.domain.grants.active
    assert rig.dom0.resources.lingering == []
    rig.hv.frames.check()
    RawDisk(disk.image).close()


def test_the_back_end_dies_and_comes_back(image: Path) -> None:
    """A back end is killed and started anew; the front end, which has noticed nothing, gets its answers from it."""
    disk = Disk(image, Negotiation.XENSTORE)
    ref, page = disk.page()
    assert disk.ask(READ, 0, [(ref, 0, 0)]) == OKAY
    disk.rig.over_store.close()
    assert disk.rig.dom0.domain.grants.maptrack == {}
    disk.path.submit(READ, 50, 9, [(ref, 0, 7)])
    disk.path.push()
    disk.rig.over_store = StoreBackends(disk.rig.dom0.resources, disk.rig.over_store.client, [VBD])
    disk.rig.settle()
    for backend in disk.rig.over_store.devices.values():
        backend.serve()  # as the event at binding makes it do
    disk.rig.settle()
    assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)
    assert disk.path.answers[50] == OKAY
    assert disk.rig.guest.api.read(page.va, 4096) == image.read_bytes()[9 * 512 : 17 * 512]


@pytest.mark.parametrize("negotiation", list(Negotiation))
def test_a_disk_that_cannot_be_had(tmp_path: Path, negotiation: Negotiation) -> None:
    rig = Rig(VBD)
    _ = rig.page
    rig.over_store.check()
    if negotiation is Negotiation.NOXS:
        before = rig.held()
        with pytest.raises(Exception, match="No such file"):
            rig.over_page.create("vbd", 1, DEVID, VbdConfig(str(tmp_path / "none")))
        assert rig.held() == before
    else:
        rig.add_to_store("vbd", DEVID, params=str(tmp_path / "none"), mode="w")
        rig.settle()
        assert len(rig.reports) == 1
        error = rig.tools.read(f"/local/domain/0/error/backend/vbd/1/{DEVID}/error")
        assert b"No such file" in error


def test_an_image_has_one_writer_or_many_readers(image: Path) -> None:
    reader, another = RawDisk(image, readonly=True), RawDisk(image, readonly=True)
    with pytest.raises(DiskError, match="in use"):
        RawDisk(image)
    reader.close()
    another.close()
    writer = RawDisk(image)
    with pytest.raises(DiskError, match="in use"):
        RawDisk(image, readonly=True)
    writer.close()


@pytest.mark.parametrize("readonly", [True, False])
def test_only_files_and_block_devices_are_disks(tmp_path: Path, readonly: bool) -> None:
    """Nothing else is read, or waited for."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, "/dev/zero", "/dev/tty", tmp_path / "a\0b"):
            with pytest.raises(DiskError) as caught:
                RawDisk(path, readonly=readonly)
            assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DiskError, match="neither a regular file nor a block device"):
        RawDisk("/dev/zero", readonly=readonly)


@pytest.mark.parametrize("name", ["d" * 200 + "/" + "e" * 200, "\u00e9\u4e2d", "\udcff"])
def test_a_disk_may_have_any_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(4096))
    rig = Rig(VBD)
    rig.add_to_store("vbd", DEVID, params=str(path), mode="r")
    rig.settle()
    (backend,) = rig.over_store.devices.values()
    assert rig.reports == [] and backend.state is State.INIT_WAIT


BAD_NODES = {
    "ring-ref": ["", "x", "-1", "99999999999", "4096", "3"],
    "event-channel": ["", "0", "1023", "4000000000"],
    "protocol": ["x86_32-abi", "arm-abi", "?" * 300],
    "ring-page-order": ["5", "1", "x"],
    "multi-queue-num-queues": ["2", "0"],
}


@pytest.mark.parametrize("node", BAD_NODES)
def test_nodes_that_cannot_be(image: Path, node: str) -> None:
    """Whatever a front end publishes: one report, closed, nothing held; and a good front end can follow."""
    for text in BAD_NODES[node]:
        disk = Disk(image, Negotiation.XENSTORE)
        disk.front.close()
        disk.rig.settle()
        front = f"/local/domain/1/device/vbd/{DEVID}"
        client = disk.rig.client
        client.write(f"{front}/state", "1")
        disk.rig.over_store.check()
        good = {"ring-ref": "8", "event-channel": "1", "protocol": "x86_64-abi"}
        for key, value in {**good, node: text, "state": "4"}.items():
            client.write(f"{front}/{key}", value)
        disk.rig.over_store.check()
        assert len(disk.rig.reports) == 1, (node, text)
        assert disk.rig.dom0.domain.grants.maptrack == {}
        client.write(f"{front}/state", "6")
        disk.rig.over_store.check()
        for key in BAD_NODES:
            if client.exists(f"{front}/{key}"):
                client.rm(f"{front}/{key}")
        disk.front.open()
        disk.rig.settle()
        assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)
        disk.rig.over_store.close()


BLKBACK = """
feature-max-indirect-segments multi-queue-max-queues max-ring-page-order hotplug-status state
feature-flush-cache discard-granularity discard-alignment discard-secure feature-discard feature-barrier
feature-persistent sectors info sector-size physical-sector-size state
""".split()


def test_nodes_and_their_order_are_blkbacks(image: Path) -> None:
    """What the back end writes, in order; hotplug-status is the hotplug script's, whose work ours does itself. The
    front end's handshake is three nodes and two states; the toolstack's is not counted."""
    rig = Rig(VBD)
    written: dict[int, list[str]] = {0: [], 1: []}

    def observe(operation: str, domid: int, tx: int, path: str, outcome: str) -> None:
        if operation.lower() == "write" and outcome == "OK":
            written[domid].append(path.rpartition("/")[2])

    rig.add_to_store("vbd", DEVID, params=str(image), mode="w", **{"device-type": "disk"})
    rig.store.observer = observe
    rig.settle()
    rig.store_front(VBD, DEVID, Blkfront(rig.guest.resources))
    rig.settle()
    assert written[0] == BLKBACK
    assert written[1] == ["ring-ref", "event-channel", "protocol", "state", "state"]


BAD_WORDS = {  # offset in the control page: what cannot be there
    156 + 8: (2, 0xFFFF_FFFF),  # num_rings
    168: (5, 1, 0xFFFF_FFFF),  # ring_page_order (1: the second page is not granted)
    172: (0, 1023, 0xFFFF_FFFF),  # event channel
    176: (0, 4000, 0xFFFF_FFFF),  # ring reference
    89: (0x20202020,),  # protocol
}


@pytest.mark.parametrize("offset", BAD_WORDS)
def test_words_that_cannot_be(image: Path, offset: int) -> None:
    """The same over noxs: the front end's words, and states that are none."""
    for value in BAD_WORDS[offset]:
        disk = Disk(image, Negotiation.NOXS)
        disk.front.close()
        disk.rig.settle()
        channel = disk.front.channel
        assert isinstance(channel, PageFront)
        disk.front.open()
        disk.front.step()  # Initialising
        disk.rig.over_page.check()
        _ = disk.rig.dom0.take_events()
        disk.rig.over_page.check()
        connection = disk.path.publish(0, channel.hear())
        for at, data in channel.words.write(connection):
            channel.page.write(at, data)
        channel.page.set_word(offset, value)
        channel.page.set_word(BE_STATE, 0x1234_5678)  # the back end's own state is not there
        channel.enter(State.CONNECTED)
        disk.rig.dom0.take_events()
        disk.rig.over_page.check()
        assert len(disk.rig.reports) == 1, (offset, value)
        assert disk.rig.dom0.domain.grants.maptrack == {}
        disk.path.release()
        channel.enter(State.CLOSED)
        disk.rig.dom0.take_events()
        disk.rig.over_page.check()
        for state in (0x7FFF_FFFF, 9, 7):
            channel.page.set_word(FE_STATE, state)
            disk.rig.guest.xc.notify(channel.port)
            disk.rig.dom0.take_events()
            disk.rig.over_page.check()
        disk.front.state = State.CLOSED
        disk.front.open()
        disk.rig.settle()
        assert disk.rig.states(disk.front) == (State.CONNECTED, State.CONNECTED)
        assert len(disk.rig.reports) == 1
        disk.rig.over_page.close()
