"""What each request does: a table of operations, and their handlers.

A handler takes a `Request` and returns the reply's payload, or raises XsError. Each says what it answers; where
xenstore.txt is silent, xenstored of Xen 4.17 was the model (docs/xenstore.md lists where oxenstored differs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import paths, permissions, watches
from .control import control
from .paths import Path
from .permissions import Caller
from .transaction import Operation as NodeOperation
from .transaction import Transaction
from .view import View
from .wire import PAYLOAD_MAX, REL_PATH_MAX, Op, Packet, XsError, only_string, strings, to_int

if TYPE_CHECKING:
    from .connection import Connection
    from .store import Store

OK = b"OK\0"
DOMID_FIRST_RESERVED = DOMID_SELF = 0x7FF0


@dataclass
class Request:
    """A request being executed."""

    store: Store
    connection: Connection
    packet: Packet
    transaction: Transaction | None = None
    finish: Callable[[], None] | None = None
    """What is to be done after the reply is queued."""

    @property
    def payload(self) -> bytes:
        """What came with the request."""
        return self.packet.payload

    @property
    def caller(self) -> Caller:
        """On whose behalf it runs."""
        return self.connection.caller

    def path(self, raw: bytes) -> Path:
        """A path from the payload, absolute, valid and split. EINVAL."""
        connection = self.connection
        return paths.parse(paths.absolute(raw, connection.base), connection.path_max)

    def run(self, operation: NodeOperation, path: Path, *arguments: Any) -> Any:
        """Run an operation on the tree, in the request's transaction or at once."""
        if self.transaction is not None:
            return self.transaction.run(operation, self.caller, path, *arguments)
        store = self.store
        view = View(store.root, store.shared)
        result = operation(view, self.caller, path, *arguments)
        if view.changes:
            store.apply(view)
        return result


# --- nodes ---


def directory(request: Request) -> bytes:
    """<path>| -> <child>|*. E2BIG when the list does not fit into a message."""
    names: bytes = request.run(View.directory, request.path(only_string(request.payload)))
    return names


def directory_part(request: Request) -> bytes:
    """<path>|<offset>| -> <generation>|<child>|*: as much as fits, from a byte offset; an empty name ends the list."""
    fields = strings(request.payload)
    if len(fields) != 2:
        raise XsError("EINVAL")
    generation, names = request.run(View.directory_part, request.path(fields[0]))
    offset = to_int(fields[1]) & 0xFFFFFFFF
    start = str(generation).encode() + b"\0"
    room = PAYLOAD_MAX - len(start) - 1
    rest: bytes = names[offset:]
    if len(rest) <= room:
        return start + rest + b"\0"
    part = rest[: rest.rfind(b"\0", 0, room) + 1]
    return start + part


def read(request: Request) -> bytes:
    """<path>| -> <value|>."""
    value: bytes = request.run(View.read, request.path(only_string(request.payload)))
    return value


def write(request: Request) -> bytes:
    """<path>|<value|>: the value is everything after the path's NUL."""
    raw, nul, value = request.payload.partition(b"\0")
    if not nul:
        raise XsError("EINVAL")
    request.run(View.write, request.path(raw), value)
    return OK


def mkdir(request: Request) -> bytes:
    """<path>|."""
    request.run(View.mkdir, request.path(only_string(request.payload)))
    return OK


def rm(request: Request) -> bytes:
    """<path>|."""
    request.run(View.rm, request.path(only_string(request.payload)))
    return OK


def get_perms(request: Request) -> bytes:
    """<path>| -> <permission>|+."""
    path = request.path(only_string(request.payload))
    return permissions.format_entries(request.run(View.get_permissions, path))


def set_perms(request: Request) -> bytes:
    """<path>|<permission>|+: also for the two special watches. ENOENT for an owner that is no domain."""
    fields = strings(request.payload)
    store = request.store
    if len(fields) < 2:
        raise XsError("EINVAL")
    if not request.caller.privileged and len(fields) - 1 > store.limits.permissions:
        raise XsError("ENOSPC")
    entries = permissions.parse(fields[1:], store.incarnation_if_exists)
    if entries[0].incarnation == permissions.NEVER:
        raise XsError("ENOENT")
    if fields[0].startswith(b"@"):
        name = fields[0].decode("latin-1")
        if name not in store.special_permissions:
            raise XsError("EINVAL")
        if not permissions.access(store.special_permissions[name], request.caller) & permissions.OWNER:
            raise XsError("EACCES")
        store.special_permissions[name] = entries
        return OK
    path = request.path(fields[0])
    request.run(View.set_permissions, path, entries)
    if request.transaction is not None:
        request.transaction.note_owner(entries)
    return OK


# --- watches ---


def watch(request: Request) -> bytes:
    """<wpath>|<token>|[<depth>|]: EEXIST for the same twice, E2BIG over the quota. It fires once at once."""
    fields = strings(request.payload)
    connection, store = request.connection, request.store
    if len(fields) not in ((2, 3) if store.settings.watch_depth else (2,)):
        raise XsError("EINVAL")
    depth = None
    if len(fields) == 3:
        if not fields[2].isdigit():
            raise XsError("EINVAL")
        depth = to_int(fields[2])
    text, path = _watched(request, fields[0])
    if path is None and depth not in (None, 1):
        raise XsError("EINVAL")
    key = (text, fields[1])
    if key in connection.watches:
        raise XsError("EEXIST")
    if not request.caller.privileged and len(connection.watches) > store.limits.watches:
        raise XsError("E2BIG")
    base = "" if fields[0][:1] in (b"/", b"@") else connection.base
    made = watches.Watch(connection, store.next_watch(), text, path, fields[1], base, depth)
    connection.watches[key] = made
    store.watches.add(made)
    request.finish = lambda: connection.event(made.shown(text), made.token)
    return OK


def unwatch(request: Request) -> bytes:
    """<wpath>|<token>|. ENOENT when there is none."""
    fields = strings(request.payload)
    if len(fields) != 2:
        raise XsError("EINVAL")
    connection = request.connection
    gone = connection.watches.pop((paths.absolute(fields[0], connection.base), fields[1]), None)
    if gone is None:
        raise XsError("ENOENT")
    request.store.watches.remove(gone)
    return OK


def _watched(request: Request, raw: bytes) -> tuple[str, Path | None]:
    text = paths.absolute(raw, request.connection.base)
    if text.startswith("@"):
        if len(text) > REL_PATH_MAX or not text.isascii():
            raise XsError("EINVAL")
        return text, None
    return text, paths.parse(text, request.connection.path_max)


def reset_watches(request: Request) -> bytes:
    """| : drops the caller's watches and transactions."""
    request.connection.forget()
    return OK


# --- transactions ---


def transaction_start(request: Request) -> bytes:
    """| -> <tx_id>|. EBUSY inside of a transaction, ENOSPC over the quota."""
    if request.transaction is not None:
        raise XsError("EBUSY")
    return str(request.connection.start_transaction().number).encode() + b"\0"


def transaction_end(request: Request) -> bytes:
    """T| or F|. EAGAIN when others' changes conflict, ENOENT outside of a transaction. Whatever the answer but EINVAL,
    the transaction is over."""
    verdict = only_string(request.payload)
    if verdict not in (b"T", b"F"):
        raise XsError("EINVAL")
    transaction = request.transaction
    if transaction is None:
        raise XsError("ENOENT")
    del request.connection.transactions[transaction.number]
    if verdict == b"T":
        store = request.store
        view = transaction.commit(store.root, store.settings.conflict, request.caller, store.incarnation)
        if view.changes:
            store.apply(view)
    return OK


# --- domains ---


def _one_domid(request: Request) -> int:
    return to_int(only_string(request.payload)) & 0xFFFFFFFF


def _introduced(request: Request) -> int:
    domid = _one_domid(request)
    if not domid:
        raise XsError("EINVAL")
    if domid not in request.store.domains:
        raise XsError("ENOENT")
    return domid


def introduce(request: Request) -> bytes:
    """<domid>|<gfn>|<evtchn>|: starts serving a domain, or serves it afresh. EINVAL for a number that is no
    domain's."""
    fields = strings(request.payload)
    if len(fields) < 3:
        raise XsError("EINVAL")
    domid, gfn, port = (to_int(field) for field in fields[:3])
    if port <= 0 or not 0 < domid < DOMID_FIRST_RESERVED:
        raise XsError("EINVAL")
    request.store.introduce(domid, gfn, port)
    return OK


def release(request: Request) -> bytes:
    """<domid>|: stops serving it. ENOENT when it was not introduced, EINVAL for domain 0."""
    request.store.domain_released(_introduced(request))
    return OK


def resume(request: Request) -> bytes:
    """<domid>|: its next shutdown will fire @releaseDomain again."""
    domid = _introduced(request)
    request.store.domains[domid].shut_down = False
    request.store.effects.resume(domid)
    return OK


def get_domain_path(request: Request) -> bytes:
    """<domid>| -> <path>|."""
    return paths.domain_path(_one_domid(request)).encode() + b"\0"


def is_domain_introduced(request: Request) -> bytes:
    """<domid>| -> T| or F|."""
    domid = _one_domid(request)
    return b"T\0" if domid in (0, DOMID_SELF) or domid in request.store.domains else b"F\0"


def set_target(request: Request) -> bytes:
    """<domid>|<tdomid>|: the first gets the second's rights beside its own. ENOENT unless both are introduced."""
    fields = strings(request.payload)
    if len(fields) < 2:
        raise XsError("EINVAL")
    domid, target = (to_int(field) & 0xFFFFFFFF for field in fields[:2])
    domains = request.store.domains
    if domid not in domains or target not in domains:
        raise XsError("ENOENT")
    connection = domains[domid].connection
    connection.caller = connection.caller._replace(target=target, target_incarnation=request.store.incarnation(target))
    return OK


# --- the table ---


@dataclass(frozen=True)
class Operation:
    """One row: the handler, and what is checked before it is called."""

    handler: Callable[[Request], bytes]
    privileged: bool = False
    """For domain 0 and the tools only; EACCES to others."""
    ignores_transaction: bool = False
    """The tx_id is not looked at; otherwise one that is no transaction of the caller's gets ENOENT."""


OPERATIONS: dict[int, Operation] = {
    Op.CONTROL: Operation(control, privileged=True),
    Op.DIRECTORY: Operation(directory),
    Op.READ: Operation(read),
    Op.GET_PERMS: Operation(get_perms),
    Op.WATCH: Operation(watch, ignores_transaction=True),
    Op.UNWATCH: Operation(unwatch, ignores_transaction=True),
    Op.TRANSACTION_START: Operation(transaction_start),
    Op.TRANSACTION_END: Operation(transaction_end),
    Op.INTRODUCE: Operation(introduce, privileged=True),
    Op.RELEASE: Operation(release, privileged=True),
    Op.GET_DOMAIN_PATH: Operation(get_domain_path),
    Op.WRITE: Operation(write),
    Op.MKDIR: Operation(mkdir),
    Op.RM: Operation(rm),
    Op.SET_PERMS: Operation(set_perms),
    Op.IS_DOMAIN_INTRODUCED: Operation(is_domain_introduced, privileged=True),
    Op.RESUME: Operation(resume, privileged=True),
    Op.SET_TARGET: Operation(set_target, privileged=True),
    Op.RESET_WATCHES: Operation(reset_watches),
    Op.DIRECTORY_PART: Operation(directory_part),
}
"""Requests by type; any other type gets ENOSYS."""
