"""Who may do what with a node.

A node has a list of entries. The first names the owner, who may do everything, and what everybody not named may do; the
others each name one domain. Domain 0 and the tools (socket clients) may do everything. A domain with a target
(SET_TARGET: a device model) has its target's rights as well.

An entry is bound to the incarnation of its domain: when a domain dies and its number is given to another, the newcomer
inherits nothing (what Xen 4.17 reaches by comparing generation counts).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .wire import XsError

NONE, READ, WRITE, OWNER = 0, 1, 2, 4

LETTERS = {"n": NONE, "r": READ, "w": WRITE, "b": READ | WRITE}
_LETTER_OF = {access: letter for letter, access in LETTERS.items()}
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")

NEVER = -1
"""The incarnation of a domain that did not exist when the entry was made: the entry is shown but never applies."""


class Entry(NamedTuple):
    """What one domain may do; `incarnation` says which bearer of the number is meant."""

    domid: int
    access: int
    incarnation: int


Permissions = tuple[Entry, ...]


class Caller(NamedTuple):
    """On whose behalf a request runs. `target` is -1 for none."""

    domid: int
    privileged: bool
    incarnation: int = 0
    target: int = -1
    target_incarnation: int = 0


TOOLS = Caller(0, True)
"""The store itself and its privileged clients."""

DEFAULT: Permissions = (Entry(0, NONE, 0),)
"""Owner domain 0, nothing for others: the first nodes and the special watches."""


def access(permissions: Permissions, caller: Caller) -> int:
    """What the caller may do: READ, WRITE and OWNER bits."""
    owner = permissions[0]
    if caller.privileged or owner.domid == caller.domid or owner.domid == caller.target:
        return READ | WRITE | OWNER
    for entry in permissions[1:]:
        if (entry.domid == caller.domid and entry.incarnation == caller.incarnation) or (
            entry.domid == caller.target and entry.incarnation == caller.target_incarnation
        ):
            return entry.access
    return owner.access


def parse(fields: Sequence[bytes], incarnation: Callable[[int], int]) -> Permissions:
    """Read "<letter><domid>" strings, the owner's first. Raises XsError EINVAL. Numbers are C's (0x and octal too)."""
    entries = []
    for field in fields:
        letter = field[:1].decode("latin-1")
        if letter not in LETTERS or _NUMBER.fullmatch(field, 1) is None:
            raise XsError("EINVAL")
        domid = _strtol(field[1:]) & 0xFFFFFFFF
        entries.append(Entry(domid, LETTERS[letter], incarnation(domid)))
    if not entries:
        raise XsError("EINVAL")
    return tuple(entries)


def _strtol(text: bytes) -> int:
    text = text.strip()
    sign = -1 if text[:1] == b"-" else 1
    digits = text.lstrip(b"+-").lower()
    if digits.startswith(b"0x"):
        return sign * int(digits[2:], 16)
    if digits.startswith(b"0") and all(48 <= c <= 55 for c in digits):
        return sign * int(digits, 8)
    if digits.startswith(b"0"):
        raise XsError("EINVAL")  # strtol stops at the 8 or 9 of a false octal number
    return sign * int(digits)


def signed(domid: int) -> int:
    """The number as GET_PERMS prints it (C's %i)."""
    return domid - 0x100000000 if domid >= 0x80000000 else domid


def format_entries(permissions: Permissions) -> bytes:
    """The strings of a GET_PERMS reply, each with its NUL."""
    return b"".join(f"{_LETTER_OF[entry.access]}{signed(entry.domid)}".encode() + b"\0" for entry in permissions)
