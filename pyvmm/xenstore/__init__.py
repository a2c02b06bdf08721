"""XenStore: the small hierarchical database through which domains and tools find each other.

The core does no input or output. A `Store` holds an immutable tree; `Connection`s take bytes in and give bytes out;
what has to happen outside (mapping a ring, binding a port) goes through `Effects`. Transports sit around it: `ring`
(the shared page of a domain), `inprocess` (a client for Python code). Protocol: Xen 4.17, docs/misc/xenstore.txt; what
it leaves open is settled in docs/xenstore.md.

    store = Store()
    connection = store.connect_privileged()
    client = Client(connection)
    client.write("/local/domain/1/name", b"guest")

One request goes this way: transport -> Connection.receive -> wire.Parser -> Store.execute -> operations.OPERATIONS -> a
method of view.View (at once, or in a transaction.Transaction) -> Store.apply -> watches.WatchTable -> Connection.send
of all concerned.
"""

from .connection import Connection
from .effects import Effects, NoEffects
from .inprocess import Client, Event
from .paths import domids_of
from .quota import Limits
from .ring import GuestRing, Ring
from .store import Observer, Settings, Statistics, Store
from .transaction import ConflictRule
from .wire import Op, Packet, Parser, ProtocolError, XsError

__all__ = [
    "Client",
    "ConflictRule",
    "Connection",
    "Effects",
    "Event",
    "GuestRing",
    "Limits",
    "NoEffects",
    "Observer",
    "Op",
    "Packet",
    "Parser",
    "ProtocolError",
    "Ring",
    "Settings",
    "Statistics",
    "Store",
    "XsError",
    "domids_of",
]
