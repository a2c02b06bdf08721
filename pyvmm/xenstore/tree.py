"""The tree: immutable nodes, shared between versions.

A change copies the nodes from the root to the changed one and nothing else, so that keeping a whole version, which is
what starting a transaction does, means keeping its root. Nodes are never changed after they are made. Everything here
is iterative: a valid path can have a thousand levels.
"""

from __future__ import annotations

from collections.abc import Iterator

from .paths import Path
from .permissions import Permissions


class Node:
    """One node. `children` keeps the order in which they were made; `generation` is that of the last change to the node
    itself (value, permissions, list of children); `names_size` is the length of its children's names with their
    NULs."""

    __slots__ = ("children", "generation", "names_size", "permissions", "value")

    def __init__(
        self, value: bytes, permissions: Permissions, children: dict[str, Node], generation: int, names_size: int
    ) -> None:
        self.value = value
        self.permissions = permissions
        self.children = children
        self.generation = generation
        self.names_size = names_size

    @property
    def owner(self) -> int:
        """The owner's domid."""
        return self.permissions[0].domid

    @property
    def size(self) -> int:
        """Bytes this node counts for against the node-size quota: xenstored's record, a 24-byte header, 8 bytes a
        permission entry, the value and the children's names."""
        return 24 + 8 * len(self.permissions) + len(self.value) + self.names_size

    def with_value(self, value: bytes, generation: int) -> Node:
        """The node with another value."""
        return Node(value, self.permissions, self.children, generation, self.names_size)

    def with_permissions(self, permissions: Permissions, generation: int) -> Node:
        """The node with other permissions."""
        return Node(self.value, permissions, self.children, generation, self.names_size)

    def with_child(self, name: str, child: Node, generation: int) -> Node:
        """The node with a child more, at the end of the list."""
        children = dict(self.children)
        children[name] = child
        return Node(self.value, self.permissions, children, generation, self.names_size + len(name) + 1)

    def without_child(self, name: str, generation: int) -> Node:
        """The node with a child less."""
        children = dict(self.children)
        del children[name]
        return Node(self.value, self.permissions, children, generation, self.names_size - len(name) - 1)


NO_CHILDREN: dict[str, Node] = {}


def new_node(value: bytes, permissions: Permissions, generation: int) -> Node:
    """A node without children."""
    return Node(value, permissions, NO_CHILDREN, generation, 0)


def lookup(root: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    node: Node | None = root
    for name in path:
        node = node.children.get(name)  # type: ignore[union-attr]
        if node is None:
            return None
    return node


def nearest(root: Node, path: Path) -> tuple[Node, int]:
    """The deepest node that exists on a path, and how many names of the path lead to it."""
    node = root
    for depth, name in enumerate(path):
        child = node.children.get(name)
        if child is None:
            return node, depth
        node = child
    return node, len(path)


def replace(root: Node, path: Path, node: Node) -> Node:
    """A root that has `node` in place of the existing one at `path`."""
    spine = []
    here = root
    for name in path:
        spine.append(here)
        here = here.children[name]
    for parent, name in zip(reversed(spine), reversed(path), strict=True):
        children = dict(parent.children)
        children[name] = node
        node = Node(parent.value, parent.permissions, children, parent.generation, parent.names_size)
    return node


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node of a subtree with its path, parents before children, children in their order."""
    stack = [(path, node)]
    while stack:
        here, current = stack.pop()
        yield here, current
        stack.extend(((*here, name), child) for name, child in reversed(current.children.items()))
