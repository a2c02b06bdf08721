"""The sysctl pseudo-device in its noxs control page: `abi.devctl.sysctl_ctrl_page`."""

from __future__ import annotations

from collections.abc import Iterable

from pyvmm.abi import devctl as abi
from pyvmm.abi.io import xenbus
from pyvmm.backends.sysctl import FRONT_FEATURES, REASONS, Sysctl
from pyvmm.xenbus.backend import Connection, DeviceError, Driver
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.noxs import PageBackends
from pyvmm.xenbus.words import Field, PageWords, ReadPage

_PAGE = abi.sysctl_ctrl_page
KIND = "sysctl"


def read_connection(read: ReadPage, domid: int) -> Connection:
    """What the guest says it can do."""
    bits = read(_PAGE.fe_feat.offset, 1)[0]
    features = {name: int(bool(bits & getattr(abi, f"SYSCTL_FE_{name}"))) for name in FRONT_FEATURES}
    return Connection(domid, features=features)


def write_connection(connection: Connection) -> Iterable[tuple[int, bytes]]:
    """The front end's word for what it can do; the command is cleared, as LightVM's front end does."""
    bits = sum(getattr(abi, f"SYSCTL_FE_{name}") for name in FRONT_FEATURES if connection.features.get(name))
    yield _PAGE.fe_feat.offset, bytes([bits, 0])


PAGE_WORDS = PageWords(
    type=abi.noxs_dev_sysctl,
    size=_PAGE.size,
    fe_state=xenbus.XenbusStateInitialising,
    offer=tuple(Field(reason, _PAGE.command.offset, 1, getattr(abi, f"SYSCTL_CMD_{reason}")) for reason in REASONS),
    details=(),
    read=read_connection,
    write=write_connection,
)

SYSCTL = Driver(KIND, Sysctl, None, PAGE_WORDS)
"""The pseudo-device; over the XenStore there is none."""


def create(backends: PageBackends, domid: int) -> None:
    """Give a domain its sysctl device (number 0)."""
    backends.create(KIND, domid, 0, None)


def ask(backends: PageBackends, domid: int, reason: str) -> None:
    """Ask a guest to do `reason`; one that does not listen yet is told when it does. `DeviceError`: it has no such
    device."""
    backend = backends.devices.get(Key(KIND, domid, 0))
    if backend is None:
        raise DeviceError(f"d{domid} has no sysctl device")
    assert isinstance(backend.path, Sysctl)
    backend.tell(backend.path.ask(reason))


__all__ = ["KIND", "PAGE_WORDS", "SYSCTL", "ask", "create"]
