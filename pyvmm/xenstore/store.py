"""The store: the tree everybody sees, its clients, and the dispatcher of their requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import permissions as perms
from .connection import Connection
from .effects import Effects, NoEffects
from .operations import OPERATIONS, Request
from .paths import Path, domain_path, text_of
from .permissions import DEFAULT, NEVER, TOOLS, Permissions
from .quota import Ledger, Limits
from .transaction import ConflictRule
from .tree import Node, lookup, new_node, walk
from .view import Change, Kind, Shared, View
from .watches import INTRODUCE_DOMAIN, RELEASE_DOMAIN, Watch, WatchTable
from .wire import PAYLOAD_MAX, Op, Packet, XsError

Observer = Callable[[str, int, int, str, str], None]
"""f(operation, domid, tx_id, first string of the payload, "OK" or the error's name), called once a request."""


@dataclass
class Settings:
    """How a store behaves where there is a choice."""

    limits: Limits = field(default_factory=Limits)
    conflict: ConflictRule = ConflictRule.REPLAY
    watch_depth: bool = True
    """WATCH takes a depth (in the protocol document of 4.17; its two daemons do not know it yet)."""


@dataclass
class Domain:
    """An introduced domain."""

    connection: Connection
    shut_down: bool = False
    """@releaseDomain was fired for its shutdown already."""


@dataclass(frozen=True)
class Statistics:
    """A picture of what the store holds."""

    nodes: int
    owned: Mapping[int, int]
    """Nodes by owner."""
    watches: int
    transactions: int
    connections: int
    domains: int
    requests: int
    generation: int


class Store:
    """A XenStore without transport.

    `effects` is how it reaches the world, `observer` sees every request. It starts with "/", "/local", "/tool" and
    "/tool/xenstored", owned by domain 0.
    """

    def __init__(
        self, effects: Effects | None = None, settings: Settings | None = None, observer: Observer | None = None
    ) -> None:
        self.effects: Effects = effects or NoEffects()
        self.settings = settings or Settings()
        self.observer = observer
        self.observing = True
        """Switched by CONTROL log."""
        self.shared = Shared(Ledger(), self.settings.limits)
        self.root = new_node(b"", DEFAULT, self.shared.next_generation())
        self.shared.ledger.add({0: 1})
        self.watches = WatchTable()
        self.connections: dict[int, Connection] = {}
        self.domains: dict[int, Domain] = {}
        self.special_permissions: dict[str, Permissions] = {INTRODUCE_DOMAIN: DEFAULT, RELEASE_DOMAIN: DEFAULT}
        self.requests = 0
        self._incarnations: dict[int, int] = {}
        self._connections_made = 0
        self._watches_made = 0
        view = View(self.root, self.shared)
        for path in (("local",), ("tool", "xenstored")):
            view.mkdir(TOOLS, path)
        self.apply(view)

    # --- clients ---

    def connect_domain(self, domid: int) -> Connection:
        """A connection for a domain that reaches the store through its ring. Domain 0 is privileged."""
        return self._connect(domid, domid == 0)

    def connect_privileged(self) -> Connection:
        """A connection for a tool in domain 0 (a socket client, or Python code)."""
        return self._connect(0, True)

    def _connect(self, domid: int, privileged: bool) -> Connection:
        self._connections_made += 1
        connection = Connection(self, self._connections_made, domid, privileged)
        self.connections[connection.number] = connection
        return connection

    def disconnected(self, connection: Connection) -> None:
        """A connection has closed itself.  (Connection calls this.)"""
        del self.connections[connection.number]

    # --- domains ---

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """INTRODUCE, also for a host that starts a domain itself. Raises what the effect raises."""
        domain = self.domains.get(domid)
        if domain is not None:
            domain.connection.reset()
            self.effects.introduce(domain.connection, gfn, port)
            return
        connection = self.connect_domain(domid)
        try:
            self.effects.introduce(connection, gfn, port)
        except XsError:
            connection.close()
            raise
        self.domains[domid] = Domain(connection)
        self._fire_special(INTRODUCE_DOMAIN, domid)

    def domain_shutdown(self, domid: int) -> None:
        """The host saw an introduced domain shut down or crash: @releaseDomain, once until RESUME."""
        domain = self.domains.get(domid)
        if domain is not None and not domain.shut_down:
            domain.shut_down = True
            self._fire_special(RELEASE_DOMAIN, domid)

    def domain_released(self, domid: int) -> None:
        """A domain is gone (destroyed, or RELEASE): its connection, watches, transactions and the nodes it owns go too,
        and its number loses all permissions. @releaseDomain if it was introduced."""
        domain = self.domains.pop(domid, None)
        self._remove_nodes_of(domid)
        self._incarnations[domid] = self.incarnation(domid) + 1
        for name, entries in self.special_permissions.items():
            owner = entries[0]._replace(domid=0) if entries[0].domid == domid else entries[0]
            self.special_permissions[name] = (owner, *(entry for entry in entries[1:] if entry.domid != domid))
        for connection in self.connections.values():
            if connection.caller.target == domid:
                connection.caller = connection.caller._replace(target=-1)
        if domain is not None:
            domain.connection.close()
            self.effects.release(domid)
            self._fire_special(RELEASE_DOMAIN, domid)

    def incarnation(self, domid: int) -> int:
        """Which bearer of this number is alive: counts how many were released."""
        return self._incarnations.get(domid, 0)

    def incarnation_if_exists(self, domid: int) -> int:
        """The same, or permissions.NEVER when the hypervisor knows no such domain."""
        exists = domid == 0 or domid in self.domains or self.effects.domain_exists(domid)
        return self.incarnation(domid) if exists else NEVER

    def _remove_nodes_of(self, domid: int) -> None:
        """Remove what a dead domain owns with everything below. Its home is searched first: mostly there is nothing
        elsewhere."""
        for start in (paths_of_home(domid), ()):
            top = lookup(self.root, start)
            if top is None or not self.shared.ledger.owned(domid):
                continue
            owned: list[Path] = []
            for path, node in walk(top, start):
                if node.owner == domid and path and not (owned and path[: len(owned[-1])] == owned[-1]):
                    owned.append(path)
            for path in owned:
                view = View(self.root, self.shared)
                view.rm(TOOLS, path)
                self.apply(view)
        if self.root.owner == domid:
            view = View(self.root, self.shared)
            view.set_permissions(TOOLS, (), DEFAULT)
            self.apply(view)

    # --- requests ---

    def execute(self, connection: Connection, packet: Packet) -> None:
        """Execute one request and queue its reply. Never raises, whatever the packet."""
        self.requests += 1
        request = Request(self, connection, packet)
        kind = packet.type
        outcome = "OK"
        try:
            operation = OPERATIONS.get(kind)
            if operation is None:
                raise XsError("ENOSYS")
            if operation.privileged and not connection.caller.privileged:
                raise XsError("EACCES")
            if packet.tx_id and not operation.ignores_transaction:
                request.transaction = connection.transactions.get(packet.tx_id)
                if request.transaction is None:
                    raise XsError("ENOENT")
            payload = operation.handler(request)
            if len(payload) > PAYLOAD_MAX:
                raise XsError("E2BIG")
        except XsError as error:
            outcome = error.name
            kind, payload = Op.ERROR, error.name.encode() + b"\0"
        connection.reply(Packet(kind, packet.req_id, packet.tx_id, payload))
        if request.finish is not None:
            request.finish()
        if self.observer is not None and self.observing:
            name = Op(packet.type).name if packet.type in OPERATIONS else str(packet.type)
            first = packet.payload.split(b"\0", 1)[0].decode("latin-1")
            self.observer(name, connection.domid, packet.tx_id, first, outcome)

    def next_watch(self) -> int:
        """A number for a new watch."""
        self._watches_made += 1
        return self._watches_made

    # --- changes ---

    def apply(self, view: View) -> None:
        """Make a view's root the store's, and tell those who watch."""
        before, self.root = self.root, view.root
        self.shared.ledger.add(view.owned)
        if self.watches.count:
            for change in view.changes:
                self._fire(change, before)

    def _fire(self, change: Change, before: Node) -> None:
        """Send the events of one change to the watchers that may read the node or its parent: as they were if it was
        removed, as they are if it was written, either if its permissions changed. A node that a transaction made and
        removed again concerns nobody."""
        path = change.path
        old, new = lookup(before, path), lookup(self.root, path)
        asked: list[Permissions] = []
        if old is not None and (new is None or change.kind is not Kind.WRITTEN):
            asked += _around(before, path, old)
        if new is not None and (old is None or change.kind is not Kind.REMOVED):
            asked += _around(self.root, path, new)
        if change.kind is Kind.REMOVED and old is not None:
            for lost, node, parent, concerned in self.watches.lost(path, old):
                self._tell(concerned, text_of(lost), [node.permissions, parent.permissions])
        concerned = self.watches.matching(path)
        if concerned:
            self._tell(concerned, text_of(path), asked)

    @staticmethod
    def _tell(concerned: list[Watch], text: str, asked: list[Permissions]) -> None:
        for watch in concerned:
            caller = watch.connection.caller
            if any(perms.access(entries, caller) & perms.READ for entries in asked):
                watch.connection.event(watch.shown(text), watch.token)

    def _fire_special(self, name: str, domid: int) -> None:
        entries = self.special_permissions[name]
        for watch, text in self.watches.special(name, domid):
            if perms.access(entries, watch.connection.caller) & perms.READ:
                watch.connection.event(text.encode("ascii"), watch.token)

    # --- looking in from outside ---

    @property
    def limits(self) -> Limits:
        """The quotas in force."""
        return self.shared.limits

    def nodes(self) -> dict[str, tuple[bytes, Permissions]]:
        """The whole tree: path to value and permissions, in tree order."""
        return {text_of(path): (node.value, node.permissions) for path, node in walk(self.root)}

    def statistics(self) -> Statistics:
        """What the store holds now."""
        owned = dict(sorted(self.shared.ledger.totals.items()))
        return Statistics(
            nodes=sum(owned.values()),
            owned=owned,
            watches=self.watches.count,
            transactions=sum(len(connection.transactions) for connection in self.connections.values()),
            connections=len(self.connections),
            domains=len(self.domains),
            requests=self.requests,
            generation=self.shared.generation,
        )

    def describe_domain(self, domid: int) -> str:
        """What CONTROL quota <domid> answers. ENOENT for a domain that is not introduced."""
        if domid in self.domains:
            connections = [self.domains[domid].connection]
        elif domid == 0:
            connections = [connection for connection in self.connections.values() if connection.domid == 0]
        else:
            raise XsError("ENOENT")
        rows = (
            ("nodes", self.shared.ledger.owned(domid)),
            ("watches", sum(len(connection.watches) for connection in connections)),
            ("transactions", sum(len(connection.transactions) for connection in connections)),
            ("outstanding", sum(connection.unsent_replies for connection in connections)),
            ("memory", sum(connection.unsent_bytes for connection in connections)),
        )
        return f"Domain {domid}:\n" + "".join(f"{name:<16}: {value:8}\n" for name, value in rows)

    def check(self) -> list[str]:
        """What is inconsistent inside the store; an empty list when nothing is."""
        problems = []
        counted: dict[int, int] = {}
        for path, node in walk(self.root):
            counted[node.owner] = counted.get(node.owner, 0) + 1
            if node.names_size != sum(len(name) + 1 for name in node.children):
                problems.append(f"{text_of(path)}: size of the children's names is wrong")
        if counted != dict(self.shared.ledger.totals):
            problems.append(f"owned nodes: counted {counted}, accounted {dict(self.shared.ledger.totals)}")
        if self.watches.count != sum(len(connection.watches) for connection in self.connections.values()):
            problems.append("watches in the table are not those of the connections")
        for domid, domain in self.domains.items():
            if self.connections.get(domain.connection.number) is not domain.connection:
                problems.append(f"domain {domid} has a connection that is closed")
        return problems


def _around(root: Node, path: Path, node: Node) -> list[Permissions]:
    """The permissions of a node and of its parent."""
    parent = lookup(root, path[:-1])
    return [node.permissions] if parent is None else [node.permissions, parent.permissions]


def paths_of_home(domid: int) -> Path:
    """The path of a domain's own directory."""
    return tuple(domain_path(domid)[1:].split("/"))


__all__ = ["Domain", "Node", "Observer", "Settings", "Statistics", "Store"]
