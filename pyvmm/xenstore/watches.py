"""Watches: who hears of which change.

Watches on nodes hang in a trie by path, so that a change costs its own depth and not the number of watches; those on
special events (@introduceDomain, @releaseDomain) are found by name. What this module returns is in the order in which
the events are sent: by connection, then by age of the watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .paths import Path
from .tree import Node

if TYPE_CHECKING:
    from .connection import Connection

INTRODUCE_DOMAIN = "@introduceDomain"
RELEASE_DOMAIN = "@releaseDomain"


class Watch(NamedTuple):
    """One watch of a connection."""

    connection: Connection
    number: int
    """Counts all watches ever set in the store."""
    text: str
    """What is watched: an absolute path, or @something."""
    path: Path | None
    """The path split; None for a special."""
    token: bytes
    base: str
    """"/local/domain/<id>" when the client gave a relative path, else "": what its events leave out."""
    depth: int | None
    """How many levels below the watched node matter; None for all."""

    def shown(self, text: str) -> bytes:
        """An event's path as this client is told it."""
        if self.base:
            text = text[len(self.base) :].removeprefix("/")
        return text.encode("ascii")


class _Branch:
    __slots__ = ("branches", "watches")

    def __init__(self) -> None:
        self.branches: dict[str, _Branch] = {}
        self.watches: list[Watch] = []


def _age(watch: Watch) -> tuple[int, int]:
    return watch.connection.number, watch.number


class WatchTable:
    """All watches of a store."""

    def __init__(self) -> None:
        self._trunk = _Branch()
        self._specials: dict[str, list[Watch]] = {}
        self.count = 0

    def add(self, watch: Watch) -> None:
        """Put a watch in."""
        self._home(watch).append(watch)
        self.count += 1

    def remove(self, watch: Watch) -> None:
        """Take one out; branches that hold nothing more go with it."""
        self._home(watch).remove(watch)
        self.count -= 1
        if watch.path is None:
            if not self._specials[watch.text]:
                del self._specials[watch.text]
            return
        line = [self._trunk]
        for name in watch.path:
            line.append(line[-1].branches[name])
        for name in reversed(watch.path):
            branch = line.pop()
            if branch.watches or branch.branches:
                break
            del line[-1].branches[name]

    def _home(self, watch: Watch) -> list[Watch]:
        if watch.path is None:
            return self._specials.setdefault(watch.text, [])
        branch = self._trunk
        for name in watch.path:
            if name not in branch.branches:
                branch.branches[name] = _Branch()
            branch = branch.branches[name]
        return branch.watches

    def matching(self, path: Path) -> list[Watch]:
        """The watches that a change of this node concerns: on it, and above it as far as their depth goes."""
        found = []
        branch: _Branch | None = self._trunk
        below = len(path)
        for name in (*path, ""):
            assert branch is not None
            for watch in branch.watches:
                if watch.depth is None or below <= watch.depth:
                    found.append(watch)
            below -= 1
            branch = branch.branches.get(name)
            if branch is None:
                break
        if len(found) > 1:
            found.sort(key=_age)
        return found

    def lost(self, top: Path, removed: Node) -> Iterator[tuple[Path, Node, Node, list[Watch]]]:
        """For a removed subtree: path, node, its parent and the watches exactly there, for each node below the top one
        that somebody watches; children before parents, as xenstored removes them."""
        branch: _Branch | None = self._trunk
        for name in top:
            branch = branch.branches.get(name) if branch else None
        if branch is None or not branch.branches:
            return
        order = []
        stack = [(top, removed, branch)]
        while stack:
            path, parent, branch = stack.pop()
            if len(branch.branches) < len(parent.children):
                names = [name for name in branch.branches if name in parent.children]
            else:
                names = [name for name in parent.children if name in branch.branches]
            for name in names:
                node, below = parent.children[name], branch.branches[name]
                order.append(((*path, name), node, parent, sorted(below.watches, key=_age)))
                stack.append(((*path, name), node, below))
        yield from reversed(order)

    def special(self, name: str, domid: int) -> list[tuple[Watch, str]]:
        """The watches a special event concerns, each with the path to report: with the domid for depth 1 and for a
        watch on @releaseDomain/<domid>."""
        exact = f"{name}/{domid}"
        found = [(watch, exact if watch.depth == 1 else name) for watch in self._specials.get(name, ())]
        if name == RELEASE_DOMAIN:
            found += [(watch, exact) for watch in self._specials.get(exact, ())]
        found.sort(key=lambda item: _age(item[0]))
        return found
