"""Quotas: what an unprivileged domain may use up.

The numbers, names and descriptions are those of Xen 4.17's xenstored (`xenstore-control quota`); CONTROL can print and
change them. Domain 0 and socket clients have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from .wire import REL_PATH_MAX


def _limit(default: int, name: str, description: str) -> int:
    limit: int = field(default=default, metadata={"name": name, "description": description})
    return limit


@dataclass
class Limits:
    """The limits in force. Bytes or counts, a domain unless it says otherwise."""

    nodes: int = _limit(1000, "nodes", "Nodes per domain")
    watches: int = _limit(128, "watches", "Watches per domain")
    transactions: int = _limit(10, "transactions", "Transactions per domain")
    outstanding: int = _limit(20, "outstanding", "Outstanding requests per domain")
    transaction_nodes: int = _limit(1024, "transaction-nodes", "Max. number of accessed nodes per transaction")
    memory: int = _limit(2560 * 1024, "memory", "Total Xenstore memory per domain (error level)")
    node_size: int = _limit(2048, "node-size", "Max. size of a node")
    path_max: int = _limit(REL_PATH_MAX, "path-max", "Max. length of a node path")
    permissions: int = _limit(5, "permissions", "Max. number of permissions per node")

    def describe(self) -> str:
        """The table CONTROL quota answers with."""
        lines = (
            f"{item.metadata['name']:<17}: {getattr(self, item.name):8} {item.metadata['description']}\n"
            for item in fields(self)
        )
        return "Quota settings:\n" + "".join(lines)

    def set(self, name: str, value: int) -> bool:
        """Change a limit by its CONTROL name; False when there is none of that name."""
        for item in fields(self):
            if item.metadata["name"] == name:
                setattr(self, item.name, value)
                return True
        return False


class Ledger:
    """How many nodes each domain owns."""

    def __init__(self) -> None:
        self._owned: dict[int, int] = {}

    def owned(self, domid: int) -> int:
        """Nodes owned by a domain."""
        return self._owned.get(domid, 0)

    def add(self, changes: Mapping[int, int]) -> None:
        """Apply differences."""
        for domid, count in changes.items():
            total = self._owned.get(domid, 0) + count
            if total:
                self._owned[domid] = total
            else:
                self._owned.pop(domid, None)

    @property
    def totals(self) -> Mapping[int, int]:
        """A read-only picture: domid to count, owners of nothing left out."""
        return MappingProxyType(self._owned)
