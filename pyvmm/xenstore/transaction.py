"""Transactions: a private view, and what decides whether it may become everybody's.

Starting one keeps the root of the moment. Its operations run on a view of their own; each is noted with its outcome.
When it ends and nobody changed the store meanwhile, its root simply becomes the store's. Otherwise a conflict rule
decides between merging, which is running the noted operations again on the store as it is now, and EAGAIN:

REPLAY  merge when every operation has the same outcome there, replies included (what oxenstored comes to). The default.
PATHS   merge when no node that the transaction touched has changed since (what Xen 4.17's xenstored does).
GLOBAL  never merge: any change since the start is a conflict (the letter of xenstore.txt; xenstored before 4.9).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from .paths import Path
from .permissions import NEVER, Caller, Permissions
from .tree import Node, lookup
from .view import ABSENT, Shared, View
from .wire import XsError

Operation = Callable[..., Any]
"""A method of View: f(view, caller, path, *arguments)."""


class Done(NamedTuple):
    """An operation that was run in the transaction; `outcome` is what it returned, or the name of its error."""

    operation: Operation
    caller: Caller
    path: Path
    arguments: tuple[Any, ...]
    outcome: Any


class ConflictRule(Enum):
    """When a transaction that others overtook may still be merged."""

    REPLAY = "replay"
    PATHS = "paths"
    GLOBAL = "global"


class Transaction:
    """A transaction that has been started and not ended."""

    def __init__(self, number: int, root: Node, shared: Shared, caller: Caller) -> None:
        self.number = number
        """Its tx_id, counted from 1 on each connection."""
        self.base = root
        self.view = View(root, shared, seen={})
        self.caller = caller
        self.done: list[Done] = []
        self.failed = False
        """It went over its quota: it can only be given up, committing it gets ENOMEM."""
        self._named: dict[int, int] = {}

    def run(self, operation: Operation, caller: Caller, path: Path, *arguments: Any) -> Any:
        """Run an operation in the transaction. ENOSPC when an unprivileged domain has done too many."""
        if not caller.privileged and len(self.done) >= self.view.shared.limits.transaction_nodes:
            self.failed = True
            raise XsError("ENOSPC")
        try:
            outcome = operation(self.view, caller, path, *arguments)
        except XsError as error:
            self.done.append(Done(operation, caller, path, arguments, error.name))
            raise
        self.done.append(Done(operation, caller, path, arguments, outcome))
        return outcome

    def note_owner(self, permissions: Permissions) -> None:
        """Remember for whom SET_PERMS made a node, so that a node is not committed for a domain that has died."""
        self._named[permissions[0].domid] = permissions[0].incarnation

    def commit(self, root: Node, rule: ConflictRule, caller: Caller, incarnation: Callable[[int], int]) -> View:
        """The view that becomes the store's new version, given the store's root now. EAGAIN on a conflict; ENOMEM.
        `caller`: as he is now, for his target may be another one."""
        if self.failed:
            raise XsError("ENOMEM")
        if any(incarnation(domid) != then for domid, then in self._named.items() if then != NEVER):
            raise XsError("EAGAIN")
        if root is self.base:
            return self.view
        return _RULES[rule](self, root, caller)

    def _again(self, root: Node, judged: Caller | None) -> View:
        """Everything once more. `judged`: by this caller's rights, and each must have its outcome again."""
        view = View(root, self.view.shared)
        for operation, caller, path, arguments, before in self.done:
            try:
                outcome = operation(view, judged or caller, path, *arguments)
            except XsError as error:
                outcome = error.name
            if judged and outcome != before:
                raise XsError("EAGAIN")
        return view


def _replay(transaction: Transaction, root: Node, caller: Caller) -> View:
    return transaction._again(root, caller)


def _paths(transaction: Transaction, root: Node, caller: Caller) -> View:
    for path, generation in (transaction.view.seen or {}).items():
        node = lookup(root, path)
        if (ABSENT if node is None else node.generation) != generation:
            raise XsError("EAGAIN")
    return transaction._again(root, None)


def _global(transaction: Transaction, root: Node, caller: Caller) -> View:
    raise XsError("EAGAIN")


_RULES: dict[ConflictRule, Callable[[Transaction, Node, Caller], View]] = {
    ConflictRule.REPLAY: _replay,
    ConflictRule.PATHS: _paths,
    ConflictRule.GLOBAL: _global,
}
