"""Negotiation over the XenStore: nodes and watches. Knows no device; a device's words are a `StoreWords`.

Each end has a directory: the front end's below its own domain's home (`device/<kind>/<devid>`), the back end's below
the serving domain's (`backend/<kind>/<domid>/<devid>`). The toolstack makes both, each pointing to the other. Each end
writes its own and watches the other's `state`. What goes with a state is written in one transaction with it.

Facts: Xen 4.17 public/io/xenbus.h, blkif.h, netif.h; the keys and their order are Linux's xen-blkback's and
xen-netback's; errors are left where Linux's xenbus_dev_error leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from pyvmm.abi import errno, xen
from pyvmm.xenbus.backend import Backend, Connection, DeviceError, Driver, Features
from pyvmm.xenbus.devices import Devices, Key, Report
from pyvmm.xenbus.resources import Resources
from pyvmm.xenbus.states import Negotiation, State
from pyvmm.xenbus.words import StoreWords, values
from pyvmm.xenstore import Client, XsError

LONGEST_VALUE = 256  # of a node that a front end wrote, in what we take of it
NEW = str(int(State.INITIALISING))  # what a toolstack writes to a new device's back end's `state`
CLOSED = str(int(State.CLOSED))
WHOLE = 4096  # what a toolstack wrote (a disk's path) is taken as it is: a request is no longer


def read_node(client: Client, path: str, most: int = LONGEST_VALUE) -> str | None:
    """A node's text, None when it is not there or not ours to read. Text beyond reason is cut off."""
    try:
        return client.read(path)[:most].decode("latin-1")
    except XsError:
        return None


def read_state(client: Client, path: str) -> State:
    """The state in a directory. No node, or one that holds no state: UNKNOWN."""
    text = read_node(client, f"{path}/state")
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) > max(State):
        return State.UNKNOWN
    return State(int(text))


def say(client: Client, path: str, nodes: Iterable[tuple[str, str]], state: State) -> None:
    """Write nodes and the state to a directory, at once. One that is gone is not made again."""
    nodes = list(nodes)

    def write(t: Client) -> None:
        if not t.exists(f"{path}/state"):
            return
        for name, text in nodes:
            t.write(f"{path}/{name}", text)
        t.write(f"{path}/state", str(int(state)))

    client.transact(write)


class StoreBack:
    """The back end's side of one device."""

    negotiation = Negotiation.XENSTORE

    def __init__(self, client: Client, words: StoreWords, key: Key, back: str, front: str) -> None:
        self.client = client
        self.words = words
        self.key = key
        self.back = back
        self.front = front
        self._error = error_path(back)
        try:
            client.watch(f"{front}/state", self.token)
        except XsError:
            raise DeviceError(f"frontend is to be a directory of the store, not {front[:60]!r}") from None

    @property
    def token(self) -> str:
        """Of the watch on the front end's state."""
        return f"front {self.key.kind} {self.key.domid} {self.key.devid}"

    def other(self) -> State:
        """See `BackChannel`."""
        return read_state(self.client, self.front)

    def enter(self, state: State, say_: Features) -> None:
        """See `BackChannel`."""
        nodes = values(say_, self.words.offer) + values(say_, self.words.details)
        with suppress(XsError):  # a full store harms this device only: it waits for ever
            say(self.client, self.back, nodes, state)

    def tell(self, say_: Features) -> None:
        """See `BackChannel`."""
        for name, text in values(say_, (*self.words.offer, *self.words.details)):
            with suppress(XsError):
                self.client.write(f"{self.back}/{name}", text)

    def published(self) -> Connection:
        """See `BackChannel`."""
        return self.words.read(lambda name: read_node(self.client, f"{self.front}/{name}"), self.key.domid)

    def report(self, cause: str) -> None:
        """See `BackChannel`."""
        write_error(self.client, self._error, cause)

    def release(self) -> None:
        """See `BackChannel`."""
        with suppress(XsError):
            self.client.unwatch(f"{self.front}/state", self.token)
        remove_upwards(self.client, self._error)


def error_path(back: str) -> str:
    """The directory in which causes of failures are left of the device with this back end's directory."""
    home, _, device = back.partition("/backend/")
    return f"{home}/error/backend/{device}"


def write_error(client: Client, path: str, cause: str) -> None:
    """Leave a cause in such a directory, where people look for it."""
    with suppress(XsError):
        client.write(f"{path}/error", f"{errno.EINVAL} {cause}".encode(errors="backslashreplace")[:LONGEST_VALUE])


def remove_upwards(client: Client, path: str) -> None:
    """Remove a directory, and those above it that this leaves empty, up to a domain's home."""
    with suppress(XsError):
        client.rm(path)
        while (path := path.rpartition("/")[0]).count("/") > 3:
            if not client.exists(path) or client.ls(path):
                break
            client.rm(path)


class StoreBackends(Devices):
    """Serves all devices of some kinds that the toolstack enters below our `backend` directory."""

    def __init__(
        self,
        resources: Resources,
        client: Client,
        drivers: Iterable[Driver],
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        super().__init__(resources, on_report)
        self.client = client
        self.on_closed: Callable[[Key], None] = lambda key: None  # a removal is through: the toolstack's turn
        self.refused: set[Key] = set()  # directories that made no device; not tried again before they are new
        self.home = f"/local/domain/{resources.api.domid}/backend"
        self.drivers = {driver.kind: driver for driver in drivers if driver.store is not None}
        for kind in self.drivers:
            client.watch(f"{self.home}/{kind}", "backend")

    def add_driver(self, driver: Driver) -> None:
        """Serve one more kind of devices."""
        self.drivers[driver.kind] = driver
        self.client.watch(f"{self.home}/{driver.kind}", "backend")

    # -- what the store tells

    def check(self) -> None:
        """Do what the watch events that have come ask for."""
        while events := self.client.events():
            concerned: dict[Key, None] = {}
            for event in events:
                if event.token == "backend":
                    for key in self._keys(event.path):
                        concerned[key] = None
                else:
                    kind, domid, devid = event.token.split()[1:]
                    concerned[Key(kind, int(domid), int(devid))] = None
            for key in concerned:
                self.guarded(key, self.look)

    def _keys(self, path: str) -> list[Key]:
        """The devices that a change at `path` below our directory may concern."""
        parts = path.removeprefix(f"{self.home}/").split("/")
        if len(parts) >= 3:
            key = _key(*parts[:3])
            return [key] if key else []
        prefix = "/".join([self.home, *parts])
        found = [key for key in self.devices if f"{self.path(key)}/".startswith(f"{prefix}/")]
        return found + [key for key in self._below(parts) if key not in found]

    def _below(self, parts: list[str]) -> Iterable[Key]:
        domids = parts[1:2] or self._ls(f"{self.home}/{parts[0]}")
        for domid in domids:
            for devid in self._ls(f"{self.home}/{parts[0]}/{domid}"):
                key = _key(parts[0], domid, devid)
                if key:
                    yield key

    def _ls(self, path: str) -> list[str]:
        try:
            return self.client.ls(path)
        except XsError:
            return []

    def path(self, key: Key) -> str:
        """The back end's directory of a device."""
        return f"{self.home}/{key.kind}/{key.domid}/{key.devid}"

    def look(self, key: Key) -> None:
        """Bring one device up to date: it may be new, to be removed, or gone; or its front end has moved."""
        back = self.path(key)
        state = read_node(self.client, f"{back}/state")
        if state is None:
            self.drop(key)
            return
        is_new = state == NEW
        if key in self.refused and not is_new:
            if state != CLOSED:  # whoever wants it removed waits for that
                say(self.client, back, (), State.CLOSED)
            return
        self.refused.discard(key)
        if is_new and key in self.devices and self.devices[key].state is not State.INITIALISING:
            self.drop(key)  # the toolstack has made the directories again
        backend = self.devices.get(key) or self._found(key, back)
        if backend is None:
            return
        if read_node(self.client, f"{back}/online") == "0":
            backend.remove()
        backend.run()
        if backend.closed_for_good:
            self.drop(key)
            self.on_closed(key)

    def _found(self, key: Key, back: str) -> Backend | None:
        driver = self.drivers.get(key.kind)
        front = read_node(self.client, f"{back}/frontend")
        if driver is None or not front or read_node(self.client, f"{back}/frontend-id") != str(key.domid):
            return None
        if read_node(self.client, f"{back}/online") == "0" and read_state(self.client, back) is State.CLOSED:
            return None  # removed already; the toolstack will take its directory away
        assert driver.store is not None
        if key.domid >= xen.DOMID_FIRST_RESERVED:
            raise DeviceError(f"there can be no domain {key.domid}")
        config = driver.store.config(lambda name: read_node(self.client, f"{back}/{name}", WHOLE))
        channel = StoreBack(self.client, driver.store, key, back, front)
        return self.make(key, driver, channel, config, State.INITIALISING)

    def drop(self, key: Key) -> None:
        """See `Devices`; a new directory of that name is a new device."""
        if key in self.refused:
            self.refused.discard(key)
            remove_upwards(self.client, error_path(self.path(key)))
        super().drop(key)

    def _forget(self, key: Key) -> None:
        """See `Devices`. The directory stays as it is, closed, with the cause beside it, until it is new."""
        super()._forget(key)
        self.refused.add(key)
        back = self.path(key)
        write_error(self.client, error_path(back), self.reports[-1].cause)
        with suppress(XsError):
            say(self.client, back, (), State.CLOSED)

    # -- the task

    def _due(self) -> bool:
        return self.client.connection.wants_write or self.api.fired(*self.data_ports())

    async def run(self) -> None:
        """The task that serves them."""
        while True:
            self.serve()
            self.check()
            await self.api.wait_until(self._due)

    def close(self) -> None:
        """See `Devices`; the watches go, too."""
        super().close()
        for kind in self.drivers:
            with suppress(XsError):
                self.client.unwatch(f"{self.home}/{kind}", "backend")


def _key(kind: str, domid: str, devid: str) -> Key | None:
    if all(part.isascii() and part.isdigit() and len(part) < 11 for part in (domid, devid)):
        key = Key(kind, int(domid), int(devid))
        if (str(key.domid), str(key.devid)) == (domid, devid):  # no device is called 007
            return key
    return None


class StoreFront:
    """The front end's side of one device, for `frontend.Frontend`. `client` is a client of the guest's."""

    negotiation = Negotiation.XENSTORE

    def __init__(self, client: Client, words: StoreWords, front: str) -> None:
        self.client = client
        self.words = words
        self.front = front
        back = read_node(client, f"{front}/backend")
        backend_id = read_node(client, f"{front}/backend-id")
        if not back or not backend_id or not backend_id.isdigit():
            raise DeviceError(f"{front} names no back end")
        self.back = back
        self.backend_domid = int(backend_id)
        self.published_state = State(words.published)
        client.watch(f"{back}/state", front)

    def other(self) -> State:
        """See `FrontChannel`."""
        return read_state(self.client, self.back)

    def enter(self, state: State, connection: Connection | None = None) -> None:
        """See `FrontChannel`."""
        say(self.client, self.front, self.words.write(connection) if connection is not None else (), state)

    def hear(self) -> Features:
        """See `FrontChannel`."""
        found: dict[str, int | str | bytes] = {}
        for word in (*self.words.offer, *self.words.details):
            text = read_node(self.client, f"{self.back}/{word.name}")
            if text is not None:
                found[word.feature] = word.value(text)
        return found

    def release(self) -> None:
        """See `FrontChannel`."""
        with suppress(XsError):
            self.client.unwatch(f"{self.back}/state", self.front)


__all__ = ["StoreBack", "StoreBackends", "StoreFront", "read_node", "read_state"]
