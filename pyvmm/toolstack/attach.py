"""Devices of a domain that exists: how each is added and removed, by either negotiation, also while the guest runs.

Over the XenStore a device is two directories (`xl_devices`), and removing it is what libxl does: `online` and `state`
of the back end are set, and when the back end has closed, both directories go. Over noxs it is a control page that the
back end makes, and an entry in the guest's device page.
"""

from __future__ import annotations

from pyvmm.abi.io import xenbus
from pyvmm.backends import sysctl_noxs
from pyvmm.backends.vbd import VbdConfig
from pyvmm.backends.vif import VifConfig
from pyvmm.errors import ConfigError, cut
from pyvmm.toolstack.build import Built
from pyvmm.toolstack.devices import Device, Vbd
from pyvmm.toolstack.libxc import HypercallError
from pyvmm.toolstack.xl_devices import nodes_of, remove_device, write_device
from pyvmm.xenbus.backend import DeviceError
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.noxs import PageBackends
from pyvmm.xenbus.xenstore import StoreBackends
from pyvmm.xenstore import Client

NEGOTIATIONS = ("xenstore", "noxs")
OURS = ("0", "Domain-0")  # what our domain is called as a device's back end


def page_config(device: Device, built: Built) -> VbdConfig | VifConfig:
    """What a back end that makes a control page is told of a device; the XenStore's back ends read it from nodes."""
    if isinstance(device, Vbd):
        return VbdConfig(
            path=device.target,
            readonly=device.readonly,
            cdrom=device.cdrom,
            removable=device.cdrom,
            discard=device.discard,
        )
    mac = device.address(built.uuid)
    config = VifConfig(mac, bridge=device.bridge, ip=device.ip, name=device.vifname, handle=device.devid)
    return config if device.mtu is None else VifConfig(**{**vars(config), "mtu": device.mtu})


class Attach:
    """Adds and removes devices of the domains of one control domain."""

    def __init__(self, xs: Client, stores: StoreBackends, pages: PageBackends) -> None:
        self.xs = xs
        self.stores = stores
        self.pages = pages
        stores.on_closed = self._closed

    def add(self, built: Built, device: Device, negotiation: str) -> None:
        """Add a device. `ConfigError`: there is one with its number, or its back end cannot have it."""
        key = Key(device.kind, built.domid, device.devid)
        if device.backend not in OURS:
            raise ConfigError(
                f"{device.label}: expected domain 0 to serve it, not {cut(device.backend)}", about=device.label
            )
        if key in self.stores.devices or key in self.pages.devices:
            raise ConfigError(f"d{built.domid} has a {device.kind} {device.devid} already")
        if negotiation == "xenstore":
            write_device(self.xs, nodes_of(device, built, self.stores.api.domid))
            return
        try:
            self.pages.create(device.kind, built.domid, device.devid, page_config(device, built))
        except (DeviceError, HypercallError) as error:
            raise ConfigError(f"{device.label}: {error}", about=device.label) from None

    def add_sysctl(self, domid: int) -> None:
        """Give a domain that has its devices over noxs what stops it. `ConfigError`."""
        try:
            sysctl_noxs.create(self.pages, domid)
        except (DeviceError, HypercallError) as error:
            raise ConfigError(f"d{domid}: {error}") from None

    def remove(self, domid: int, kind: str, devid: int, *, force: bool = False) -> None:
        """Ask for a device to be closed; it goes when both ends have. `force`: it goes now, whatever the guest does.
        `ConfigError`: there is none."""
        key = Key(kind, domid, devid)
        if key in self.pages.devices:
            (self.pages.destroy if force else self.pages.remove)(kind, domid, devid)
        elif key in self.stores.refused or (key in self.stores.devices and force):
            self.stores.drop(key)
            self._closed(key)
        elif key in self.stores.devices:
            path = self.stores.path(key)

            def close(t: Client) -> None:
                t.write(f"{path}/online", "0")
                t.write(f"{path}/state", str(xenbus.XenbusStateClosing))

            self.xs.transact(close)
        else:
            raise ConfigError(f"d{domid} has no {kind} {devid}")

    def _closed(self, key: Key) -> None:
        remove_device(self.xs, key.domid, key.kind, key.devid)

    def ask(self, domid: int, reason: str) -> bool:
        """Ask a guest with a sysctl device to do `reason`; false when it has none."""
        try:
            sysctl_noxs.ask(self.pages, domid, reason)
        except DeviceError:
            return False
        return True


__all__ = ["NEGOTIATIONS", "Attach", "page_config"]
