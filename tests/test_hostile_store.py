"""Whatever is written to the store, by whoever may write everything there, the host goes on and new guests work."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.backends.xenstore_socket import XenstoreSocket
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vbd, Vif
from pyvmm.xenbus.backend import Connection, Driver, Features, Site
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.words import StoreWords
from pyvmm.xenstore import Op, Packet, XsError

MIB = 1 << 20
AFTERWARDS = 50  # slices
BACK = "/local/domain/0/backend"


class Intruder:
    """A client of the socket that sends requests while the host runs (`pyvmm.outside.Outside`): `more` of them are
    made by `request()` between every two slices. A while after the last it ends the run: guests may wait for ever."""

    pause: float | None = 0

    def __init__(self, path: Path, request: Callable[[], tuple[int, bytes]], rounds: int, more: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        self._request = request
        self.rounds, self._more = rounds, more
        self._always, self._writer = os.pipe()
        os.write(self._writer, b"x")  # there is always something to do: an idle host does not wait

    def filenos(self) -> tuple[int, ...]:
        return (self._always,)

    def poll(self) -> bool:
        with suppress(BlockingIOError):
            while self._socket.recv(1 << 16):
                pass
        self.rounds -= 1
        if self.rounds >= 0:
            self._socket.sendall(b"".join(Packet(op, 1, 0, data).pack() for op, data in self._some()))
        return self.rounds < -AFTERWARDS

    def _some(self) -> Iterator[tuple[int, bytes]]:
        for _ in range(self._more):
            yield self._request()

    def close(self) -> None:
        self._socket.close()
        os.close(self._always)
        os.close(self._writer)


def write(path: str, value: bytes | str) -> tuple[int, bytes]:
    data = value.encode() if isinstance(value, str) else value
    return Op.WRITE, path.encode() + b"\0" + data


@contextmanager
def disturbed(where: Path, request: Callable[[], tuple[int, bytes]], rounds: int, more: int = 8) -> Iterator[Host]:
    """A host with a guest on which an intruder is at work while the body runs it."""
    where.mkdir(exist_ok=True)
    with Host(128 * MIB) as host:
        host_run = host.run
        with (
            closing(XenstoreSocket(host.services.xenstored, where / "xs")) as store,
            closing(Intruder(where / "xs", request, rounds, more)) as intruder,
        ):
            host.run = lambda *args, **rest: host_run(  # type: ignore[method-assign]
                *args, outside=[intruder, store] if intruder.rounds > 0 else [], **rest
            )
            yield host
            host.run = host_run  # type: ignore[method-assign]


def works(host: Host, where: Path, name: str) -> None:
    """A new guest with a disk and an interface does all that it should."""
    image = where / f"{name}.img"
    image.write_bytes(random.Random(3).randbytes(64 * 1024))
    guest = host.create(
        "blkcheck",
        name=name,
        memory=16 * MIB,
        cmdline="blk=xs",
        disks=[Vbd(str(image), "xvda")],
        vifs=[Vif(0, mac="00:16:3e:00:00:77", bridge=f"{name}-net")],
    )
    host.run(300_000_000)
    assert guest.exit == "poweroff" and " 0 failed checks" in guest.console.text, guest.console.text
    guest.destroy()


def device(path: str, **nodes: str | bytes) -> list[tuple[int, bytes]]:
    return [write(f"{path}/{name}", value) for name, value in nodes.items()]


HOSTILE = {
    "a front end that is no path": device(
        f"{BACK}/vif/1/7", **{"frontend": "not a path", "frontend-id": "1", "online": "1", "state": "1"}
    ),
    "a domain's directory that is no domain": [write("/local/domain/foo/name", "x"), write("/local/domain/99999", "")],
    "a domain that there cannot be": device(
        f"{BACK}/vbd/4000000000/51728",
        **{"frontend": "/x/y", "frontend-id": "4000000000", "params": "file", "state": "1"},
    ),
    "a file's name with a byte 0": device(
        f"{BACK}/vbd/1/51728", **{"frontend": "/x/y", "frontend-id": "1", "params": b"a\0b", "state": "1"}
    ),
    "a record of a UUID that is another domain's": [write("/local/domain/1/vm", "/local/domain/0")],
    "names that are no text": [write("/local/domain/1/vm", b"\xff\xfe"), write("/local/domain/1/name", b"\xff")],
    "a record of a device elsewhere": [write("/libxl/1/device/vbd/51712/backend", b"/local/domain/0\xff")],
    "no domain at all": [(Op.RM, b"/local/domain\0")],
    "a domain that the store forgets": [(Op.RELEASE, b"1\0")],
    "a console's port": [write("/local/domain/1/console/port", "99999999999"), (Op.RELEASE, b"1\0")],
}
REPORTED = {
    "a front end that is no path": Key("vif", 1, 7),
    "a domain that there cannot be": Key("vbd", 4000000000, 51728),
    "a file's name with a byte 0": Key("vbd", 1, 51728),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_one_write_harms_one_device_at_most(tmp_path: Path, what: str) -> None:
    requests = iter(HOSTILE[what])
    reported = [REPORTED[what]] if what in REPORTED else []
    with disturbed(tmp_path, lambda: next(requests), 1, len(HOSTILE[what])) as host:
        host.create("hello", memory=16 * MIB)
        host.run(100_000_000)
        host.toolstack.list()
        assert [report.device for report in host.services.reports] == reported
        works(host, tmp_path, "fresh")
        host.domains[0].destroy()
        assert [report.device for report in host.services.reports] == reported
        works(host, tmp_path, "other")


def test_a_refused_directory_is_a_device_once_it_is_a_new_one(tmp_path: Path) -> None:
    """It has the cause beside it and is closed; who puts it right and sets its state back has a device."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(4096))
    back = f"{BACK}/vbd/1/51728"
    with Host(128 * MIB) as host:
        host.create("hello", memory=16 * MIB)
        xs, services = host.xenstore, host.services
        for name, value in {
            "frontend": "//",
            "frontend-id": "1",
            "params": str(image),
            "mode": "r",
            "state": "1",
        }.items():
            xs.write(f"{back}/{name}", value)
        services.store_backends.check()
        assert xs.read(f"{back}/state") == b"6" and len(services.reports) == 1
        assert b"frontend is to be a directory" in xs.read("/local/domain/0/error/backend/vbd/1/51728/error")
        xs.write(f"{back}/frontend", "/local/domain/1/device/vbd/51728")
        xs.write(f"{back}/state", "5")  # as who wants it removed writes
        services.store_backends.check()
        assert xs.read(f"{back}/state") == b"6" and len(services.reports) == 1
        xs.write(f"{back}/state", "1")
        services.store_backends.check()
        assert xs.read(f"{back}/state") == b"2" and len(services.reports) == 1
        xs.write(f"{back}/state", "1")  # and anew, whatever there was
        services.store_backends.check()
        assert xs.read(f"{back}/state") == b"2" and len(services.store_backends.devices) == 1
        xs.rm(back)
        services.store_backends.check()
        assert not xs.exists("/local/domain/0/error/backend/vbd") and not services.store_backends.devices


class Faulty:
    """A data path with a mistake in one of its methods."""

    def __init__(self, site: Site) -> None:
        self.fails = site.config

    def _do(self, what: str) -> Features:
        if self.fails == what:
            raise ZeroDivisionError(f"in\n{what}")
        return {}

    def probe(self) -> Features:
        return self._do("probe")

    def connect(self, connection: Connection) -> Features:
        return self._do("connect")

    def ports(self) -> tuple[int, ...]:
        return ()

    def serve(self) -> None:
        self._do("serve")

    def stop(self) -> None:
        self._do("stop")

    def close(self) -> None:
        self._do("close")


FAULTY = Driver(
    "faulty",
    Faulty,
    StoreWords(lambda read: read("fails"), (), (), lambda read, domid: Connection(domid), lambda connection: (), 4),
    None,
)


@pytest.mark.parametrize("fails", ["probe", "connect", "stop", "close"])
def test_a_mistake_of_ours_costs_its_device_only(fails: str, tmp_path: Path) -> None:
    """The report has its kind and its place. The others are served on."""
    with Host(128 * MIB) as host:
        host.create("hello", memory=16 * MIB)
        host.services.add_driver(FAULTY)
        xs, back, front = host.xenstore, f"{BACK}/faulty/1/0", "/local/domain/1/device/faulty/0"
        xs.write(f"{front}/state", "1")
        for name, value in {"frontend": front, "frontend-id": "1", "fails": fails, "state": "1"}.items():
            xs.write(f"{back}/{name}", value)
        host.services.store_backends.check()
        xs.write(f"{front}/state", "4")
        host.services.store_backends.check()
        xs.write(f"{front}/state", "6")
        host.services.store_backends.check()
        xs.rm(back)
        host.services.store_backends.check()
        causes = [report.cause for report in host.services.reports if report.device == Key("faulty", 1, 0)]
        assert causes and all(cause.startswith("ZeroDivisionError at test_hostile_store.py:") for cause in causes)
        assert all("\n" not in cause for cause in causes) and f"in {fails}" in causes[0]
        assert Key("faulty", 1, 0) not in host.services.store_backends.devices
        works(host, tmp_path, "fresh")


# --- anything ---

DOMIDS = ("0", "1", "2", "3", "7", "32752", "70000", "4000000000", "007", "foo", "-1")
DEVIDS = ("0", "7", "51712", "51728", "4294967296", "x", "00")
KINDS = ("vif", "vbd", "console", "other")
NAMES = (
    "frontend frontend-id backend backend-id state online params mode device-type removable discard-enable handle mac "
    "bridge ip mtu vifname rate ring-ref ring-page-order ring-ref0 event-channel protocol tx-ring-ref rx-ring-ref "
    "request-rx-copy multi-queue-num-queues hotplug-status"
).split()


def path_of(draw: st.DrawFn) -> str:
    domid, kind, devid = (draw(st.sampled_from(one)) for one in (DOMIDS, KINDS, DEVIDS))
    name = draw(st.sampled_from(NAMES))
    return draw(
        st.sampled_from(
            [
                f"{BACK}/{kind}/{domid}/{devid}/{name}",
                f"{BACK}/{kind}/{domid}/{devid}",
                f"{BACK}/{kind}/{domid}",
                f"{BACK}/{kind}",
                f"/local/domain/{domid}/device/{kind}/{devid}/{name}",
                f"/local/domain/{domid}/console/port",
                f"/local/domain/{domid}/console/ring-ref",
                f"/local/domain/{domid}/name",
                f"/local/domain/{domid}/vm",
                f"/local/domain/{domid}",
                f"/libxl/{domid}/device/{kind}/{devid}/{draw(st.sampled_from(['backend', 'frontend']))}",
                "/local/domain",
                "/libxl",
            ]
        )
    )


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """What an intruder sends at once: mostly writes, and often whole devices."""
    path = path_of(draw)
    values = st.one_of(
        st.sampled_from(["0", "1", "2", "3", "4", "5", "6", "99", "-1", "9" * 30, "/x/y", "not a path", "/", "", "w"]),
        st.builds(lambda: path_of(draw)),
        st.binary(max_size=12),
        st.just(b"9" * 3000),
    )
    what = draw(st.integers(0, 9))
    if what == 0:
        return [(draw(st.sampled_from([Op.RM, Op.MKDIR])), path.encode() + b"\0")]
    if what == 1:
        kind = draw(st.sampled_from([Op.RELEASE, Op.RESUME, Op.INTRODUCE]))
        return [(kind, b"\0".join([draw(st.sampled_from(DOMIDS)).encode(), b"1", b"1", b""]))]
    if what < 5:
        domid, kind, devid = (draw(st.sampled_from(one)) for one in (DOMIDS, KINDS, DEVIDS))
        nodes: dict[str, str | bytes] = {"frontend": f"/local/domain/{domid}/device/{kind}/{devid}"}
        nodes |= {"frontend-id": domid, "params": "/dev/null", "mac": "00:16:3e:00:00:01"}
        nodes |= {draw(st.sampled_from(NAMES)): draw(values) for _ in range(draw(st.integers(0, 3)))}
        return device(f"{BACK}/{kind}/{domid}/{devid}", **nodes, **({} if "state" in nodes else {"state": "1"}))
    return [write(path, draw(values))]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(requests(), min_size=100, max_size=100))
def test_nothing_in_the_store_ends_the_host(
    tmp_path_factory: pytest.TempPathFactory, sent: list[list[tuple[int, bytes]]]
) -> None:
    where = tmp_path_factory.mktemp("hostile")
    queue = [request for some in sent for request in some]
    with disturbed(where, lambda: queue.pop() if queue else (Op.READ, b"/\0"), 40, 8) as host:
        image = where / "disk"
        image.write_bytes(bytes(64 * 1024))
        for n in range(3):
            guest = host.create(
                "blkcheck", memory=16 * MIB, cmdline="blk=xs", disks=[Vbd(str(image), f"xvd{'abc'[n]}", readonly=True)]
            )
            host.run(20_000_000)
            host.toolstack.list()
            if n < 2:
                guest.destroy()
        while queue:
            op, data = queue.pop()
            with suppress(XsError):
                host.xenstore.call(op, data)
            host.services.store_backends.check()
            host.services.consoled.check_domains()
        works(host, where, "fresh")
        assert not [report for report in host.services.reports if "Error at" in report.cause]
        assert not host.services.xenstored.store.check()
