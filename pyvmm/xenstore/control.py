"""CONTROL: the commands of xenstore-control that make sense here.

check, log, memreport, print, quota, quota-soft and help, as Xen 4.17's xenstored; live-update and everything that names
a file of the daemon's host get EINVAL, as does any command that is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .wire import XsError, strings, to_int

if TYPE_CHECKING:
    from .operations import Request
    from .store import Store

OK = b"OK\0"


def control(request: Request) -> bytes:
    """<command>|[<parameter>|]* -> the command's own answer."""
    fields = strings(request.payload)
    if not fields or fields[0] not in COMMANDS:
        raise XsError("EINVAL")
    return COMMANDS[fields[0]].run(request.store, fields[1:])


def _check(store: Store, parameters: list[bytes]) -> bytes:
    _expect(parameters, 0)
    for problem in store.check():
        store.effects.log(f"check: {problem}")
    return OK


def _log(store: Store, parameters: list[bytes]) -> bytes:
    if parameters not in ([b"on"], [b"off"]):
        raise XsError("EINVAL")
    store.observing = parameters == [b"on"]
    return OK


def _memreport(store: Store, parameters: list[bytes]) -> bytes:
    _expect(parameters, 0)
    store.effects.log(str(store.statistics()))
    return OK


def _print(store: Store, parameters: list[bytes]) -> bytes:
    _expect(parameters, 1)
    store.effects.log(parameters[0].decode("latin-1"))
    return OK


def _quota(store: Store, parameters: list[bytes]) -> bytes:
    if not parameters:
        return store.limits.describe().encode() + b"\0"
    if parameters[0] == b"set":
        _expect(parameters, 3)
        value = to_int(parameters[2])
        if value < 1 or not store.limits.set(parameters[1].decode("latin-1"), value):
            raise XsError("EINVAL")
        return OK
    _expect(parameters, 1)
    return store.describe_domain(to_int(parameters[0]) & 0xFFFFFFFF).encode() + b"\0"


def _quota_soft(store: Store, parameters: list[bytes]) -> bytes:
    """There is no soft quota here: the list is empty and none can be set."""
    _expect(parameters, 0)
    return b"Quota settings:\n\0"


def _help(store: Store, parameters: list[bytes]) -> bytes:
    _expect(parameters, 0)
    return b"".join(name + b"\t" + command.parameters.encode() + b"\n" for name, command in COMMANDS.items()) + b"\0"


def _expect(parameters: list[bytes], count: int) -> None:
    if len(parameters) != count:
        raise XsError("EINVAL")


class Command(NamedTuple):
    """A control command and its parameters as help prints them."""

    run: Callable[[Store, list[bytes]], bytes]
    parameters: str


COMMANDS: dict[bytes, Command] = {
    b"check": Command(_check, ""),
    b"log": Command(_log, "on|off"),
    b"memreport": Command(_memreport, ""),
    b"print": Command(_print, "<string>"),
    b"quota": Command(_quota, "[set <name> <val>|<domid>]"),
    b"quota-soft": Command(_quota_soft, ""),
    b"help": Command(_help, ""),
}
