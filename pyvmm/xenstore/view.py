"""Reading and changing one version of the tree, with permissions and quotas.

A `View` is somebody's private continuation of a version: it starts at a root, and every operation that succeeds moves
its root on and notes what changed; one that fails leaves it alone. A request outside of transactions has a view of its
own that is applied at once; a transaction keeps one until it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from . import permissions as perms
from .paths import Path
from .permissions import Caller, Permissions
from .quota import Ledger, Limits
from .tree import Node, lookup, nearest, new_node, replace, walk
from .wire import XsError

ABSENT = -1
"""The generation of a node that does not exist."""


class Kind(Enum):
    """What happened to a node."""

    WRITTEN = 1
    REMOVED = 2
    PERMISSIONS = 3


class Change(NamedTuple):
    """One change, for the watches."""

    path: Path
    kind: Kind


@dataclass
class Shared:
    """What all views of a store have in common."""

    ledger: Ledger
    limits: Limits
    generation: int = 0

    def next_generation(self) -> int:
        """A number no node has had: counts from 1, never repeats."""
        self.generation += 1
        return self.generation


class View:
    """A version being changed. Operations raise XsError and are then without effect."""

    __slots__ = ("changes", "owned", "root", "seen", "shared")

    def __init__(self, root: Node, shared: Shared, seen: dict[Path, int] | None = None) -> None:
        self.root = root
        self.shared = shared
        self.changes: list[Change] = []
        self.owned: dict[int, int] = {}
        self.seen = seen
        """Generation of each node when the view first touched it; None when nobody asks."""

    # --- reading ---

    def read(self, caller: Caller, path: Path) -> bytes:
        """The value. ENOENT, EACCES."""
        return self._get(caller, path, perms.READ).value

    def directory(self, caller: Caller, path: Path) -> bytes:
        """The children's names, each with a NUL, oldest first. ENOENT, EACCES."""
        return _names(self._get(caller, path, perms.READ))

    def directory_part(self, caller: Caller, path: Path) -> tuple[int, bytes]:
        """The node's generation and its children's names. ENOENT, EACCES."""
        node = self._get(caller, path, perms.READ)
        return node.generation, _names(node)

    def get_permissions(self, caller: Caller, path: Path) -> Permissions:
        """The entries, the owner's first. ENOENT, EACCES."""
        return self._get(caller, path, perms.READ).permissions

    # --- changing ---

    def write(self, caller: Caller, path: Path, value: bytes) -> None:
        """Set the value, creating the node and missing parents. EACCES, ENOSPC (node too large, too many nodes)."""
        node = self._find(path)
        if node is None:
            self._may_create(caller, path)
            self._create(caller, path, value)
            return
        if not perms.access(node.permissions, caller) & perms.WRITE:
            raise XsError("EACCES")
        node = node.with_value(value, self.shared.next_generation())
        self._check_size(caller, node)
        self.root = replace(self.root, path, node)
        self.changes.append(Change(path, Kind.WRITTEN))

    def mkdir(self, caller: Caller, path: Path) -> None:
        """Make sure the node exists; one that does is left alone, and nobody is told. EACCES, ENOSPC."""
        node = self._find(path)
        if node is None:
            self._may_create(caller, path)
            self._create(caller, path, b"")
        elif not perms.access(node.permissions, caller) & perms.WRITE:
            raise XsError("EACCES")

    def rm(self, caller: Caller, path: Path) -> None:
        """Remove the node with all below it, whoever owns that. No error when only the node itself is missing; ENOENT
        when its parent is, EACCES, EINVAL for the root."""
        node = self._find(path)
        if node is None:
            self._may_create(caller, path)
            if lookup(self.root, path[:-1]) is None:
                raise XsError("ENOENT")
            return
        if not perms.access(node.permissions, caller) & perms.WRITE:
            raise XsError("EACCES")
        if not path:
            raise XsError("EINVAL")
        parent_path = path[:-1]
        parent = self._find(parent_path)
        assert parent is not None
        parent = parent.without_child(path[-1], self.shared.next_generation())
        self.root = replace(self.root, parent_path, parent)
        for _, gone in walk(node):
            self._own(gone.owner, -1)
        self.changes.append(Change(path, Kind.REMOVED))

    def set_permissions(self, caller: Caller, path: Path, permissions: Permissions) -> None:
        """Replace the entries. Only the owner and the privileged may (EACCES), only the latter give the node away
        (EPERM)."""
        node = self._get(caller, path, perms.WRITE | perms.OWNER)
        if not caller.privileged and permissions[0].domid != node.owner:
            raise XsError("EPERM")
        changed = node.with_permissions(permissions, self.shared.next_generation())
        self._check_size(caller, changed)
        self.root = replace(self.root, path, changed)
        self._own(node.owner, -1)
        self._own(changed.owner, 1)
        self.changes.append(Change(path, Kind.PERMISSIONS))

    # --- helpers ---

    def _find(self, path: Path) -> Node | None:
        node = lookup(self.root, path)
        if self.seen is not None and path not in self.seen:
            self.seen[path] = ABSENT if node is None else node.generation
        return node

    def _get(self, caller: Caller, path: Path, need: int) -> Node:
        node = self._find(path)
        if node is None:
            raise XsError(self._why_missing(caller, path, need))
        if perms.access(node.permissions, caller) & need != need:
            raise XsError("EACCES")
        return node

    def _why_missing(self, caller: Caller, path: Path, need: int) -> str:
        """ENOENT, but EACCES where the nearest node above does not let the caller know (XSA-115)."""
        node, depth = nearest(self.root, path)
        if self.seen is not None:
            for length in range(depth, len(path)):
                self.seen.setdefault(path[:length], node.generation if length == depth else ABSENT)
        return "ENOENT" if perms.access(node.permissions, caller) & need else "EACCES"

    def _may_create(self, caller: Caller, path: Path) -> None:
        if self._why_missing(caller, path, perms.WRITE) != "ENOENT":
            raise XsError("EACCES")

    def _create(self, caller: Caller, path: Path, value: bytes) -> None:
        """Make a missing node and its missing parents. They inherit the permissions of the node above; an unprivileged
        domain owns what it makes."""
        above, depth = nearest(self.root, path)
        inherited = above.permissions
        if not caller.privileged:
            inherited = (inherited[0]._replace(domid=caller.domid, incarnation=caller.incarnation), *inherited[1:])
            limits = self.shared.limits
            owned = self.shared.ledger.owned(caller.domid) + self.owned.get(caller.domid, 0)
            if owned + len(path) - depth > limits.nodes:
                raise XsError("ENOSPC")
        generation = self.shared.next_generation()
        node = new_node(value, inherited, generation)
        self._check_size(caller, node)
        for name in reversed(path[depth + 1 :]):
            node = new_node(b"", inherited, generation).with_child(name, node, generation)
            self._check_size(caller, node)
        above = above.with_child(path[depth], node, generation)
        self._check_size(caller, above)
        self.root = replace(self.root, path[:depth], above)
        self._own(inherited[0].domid, len(path) - depth)
        self.changes.append(Change(path, Kind.WRITTEN))

    def _check_size(self, caller: Caller, node: Node) -> None:
        if not caller.privileged and node.size >= self.shared.limits.node_size:
            raise XsError("ENOSPC")

    def _own(self, domid: int, count: int) -> None:
        self.owned[domid] = self.owned.get(domid, 0) + count


def _names(node: Node) -> bytes:
    return "".join([name + "\0" for name in node.children]).encode("ascii")
