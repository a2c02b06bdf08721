"""Devices in the XenStore: the two directories through which a front and a back end meet, and libxl's record of them.

What there is to say of a kind of device is a function here, from its record to the entries of its two directories;
writing and removing are the same for all. Facts: Xen 4.17's tools/libs/light
(libxl__device_generic_add, libxl__device_disk_add, libxl__nic's set_xenstore), xen/include/public/io/{netif,blkif}.h.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pyvmm.abi.io import protocols, xenbus
from pyvmm.toolstack.build import Built
from pyvmm.toolstack.devices import Device, Vbd, Vif
from pyvmm.xenstore import Client, XsError

INITIALISING = str(xenbus.XenbusStateInitialising)
HOME = re.compile(r"/local/domain/[0-9]{1,5}")
SCRIPTS = "/etc/xen/scripts"


@dataclass(frozen=True)
class DeviceNodes:
    """What the store is to hold of one device, beside the two paths that lead from one end to the other."""

    kind: str
    domid: int
    devid: int
    backend_domid: int
    frontend: Mapping[str, str]
    backend: Mapping[str, str]

    @property
    def frontend_path(self) -> str:
        """The guest's directory of it."""
        return f"/local/domain/{self.domid}/device/{self.kind}/{self.devid}"

    @property
    def backend_path(self) -> str:
        """The back end's."""
        return f"/local/domain/{self.backend_domid}/backend/{self.kind}/{self.domid}/{self.devid}"

    @property
    def private_path(self) -> str:
        """The toolstack's own."""
        return f"/libxl/{self.domid}/device/{self.kind}/{self.devid}"


def _vif(vif: Vif, built: Built) -> tuple[dict[str, str], dict[str, str]]:
    mac = vif.address(built.uuid)
    front = {"state": INITIALISING, "handle": str(vif.devid), "mac": mac}
    back = {
        "frontend-id": str(built.domid),
        "online": "1",
        "state": INITIALISING,
        "script": vif.script if "/" in vif.script else f"{SCRIPTS}/{vif.script}",
        "mac": mac,
        "bridge": vif.bridge,
        "handle": str(vif.devid),
        "type": "vif",
    }
    if vif.ip is not None:
        back["ip"] = vif.ip
    if vif.vifname is not None:
        back["vifname"] = vif.vifname
    if vif.rate is not None:
        back["rate"] = vif.rate
    if vif.mtu is not None:
        front["mtu"] = back["mtu"] = str(vif.mtu)
    if not vif.trusted:
        front["trusted"] = "0"
    return front, back


def _vbd(vbd: Vbd, built: Built) -> tuple[dict[str, str], dict[str, str]]:
    kind = "cdrom" if vbd.cdrom else "disk"
    front = {
        "state": INITIALISING,
        "virtual-device": str(vbd.devid),
        "device-type": kind,
        "protocol": protocols.XEN_IO_PROTO_ABI_X86_64,
    }
    back = {
        "frontend-id": str(built.domid),
        "params": vbd.target,
        "script": f"{SCRIPTS}/{vbd.script or 'block'}",
        "online": "1",
        "removable": "1" if vbd.cdrom else "0",
        "bootable": "1",
        "state": INITIALISING,
        "dev": vbd.vdev,
        "type": "phy" if vbd.format == "raw" else "qdisk",
        "mode": "r" if vbd.readonly else "w",
        "device-type": kind,
        "discard-enable": "1" if vbd.discard else "0",
    }
    if not vbd.trusted:
        front["trusted"] = "0"
    return front, back


def nodes_of(device: Device, built: Built, backend_domid: int) -> DeviceNodes:
    """What the store is to hold of a device of the domain `built`, served by that domain."""
    front, back = _vif(device, built) if isinstance(device, Vif) else _vbd(device, built)
    front = {"backend-id": str(backend_domid), **front}
    return DeviceNodes(device.kind, built.domid, device.devid, backend_domid, front, back)


def write_device(xs: Client, nodes: DeviceNodes) -> None:
    """Write both directories and the toolstack's record, in one transaction: each end may start at any moment."""
    front, back, private = nodes.frontend_path, nodes.backend_path, nodes.private_path
    own, other = nodes.domid, nodes.backend_domid

    def make(t: Client) -> None:
        for path, permissions in (
            (front, [f"n{own}", f"r{other}"]),
            (back, [f"n{other}", f"r{own}"]),
            (private, ["n0"]),
        ):
            if t.exists(path):
                t.rm(path)
            t.mkdir(path)
            t.set_permissions(path, permissions)
        for path, entries in (
            (private, {"frontend": front, "backend": back, **nodes.backend}),
            (front, {"backend": back, **nodes.frontend}),
            (back, {"frontend": front, **nodes.backend}),
        ):
            for key, value in entries.items():
                t.write(f"{path}/{key}", value)

    xs.transact(make)


def remove_device(xs: Client, domid: int, kind: str, devid: int) -> None:
    """Remove one device that both ends have closed: its two directories and the toolstack's record."""
    private = f"/libxl/{domid}/device/{kind}/{devid}"
    front = f"/local/domain/{domid}/device/{kind}/{devid}"
    with suppress(XsError):
        _remove_upwards(xs, front)
    with suppress(XsError):
        _remove_upwards(xs, _backend_path(xs, domid, kind, str(devid)))
    with suppress(XsError):
        _remove_upwards(xs, private)


def _backend_path(xs: Client, domid: int, kind: str, devid: str) -> str:
    """The back end's directory of a device, by the toolstack's record of it. `XsError`: the record is none."""
    path = xs.read(f"/libxl/{domid}/device/{kind}/{devid}/backend").decode("latin-1")
    home, backend, device = path.partition("/backend/")
    if not HOME.fullmatch(home) or not backend or device != f"{kind}/{domid}/{devid}":
        raise XsError("EINVAL")
    return path


def _remove_upwards(xs: Client, path: str) -> None:
    """Remove a directory, and those above it that this leaves empty, up to `device` or the domain's home."""
    home = "/".join(path.split("/")[:4])
    xs.rm(path)
    while (path := path.rpartition("/")[0]) not in (home, f"{home}/device") and not children(xs, path):
        xs.rm(path)


def remove_devices(xs: Client, domid: int) -> None:
    """Remove the back ends' directories of all devices that the toolstack has recorded of this domain. The domain's
    own go with its home."""
    home = f"/libxl/{domid}/device"
    for kind in children(xs, home):
        for devid in children(xs, f"{home}/{kind}"):
            with suppress(XsError):
                path = _backend_path(xs, domid, kind, devid)
                xs.rm(path)
                top = "/".join(path.split("/")[:4])  # the back end domain's home
                while (path := path.rpartition("/")[0]) != top and not children(xs, path):
                    xs.rm(path)  # what the last device leaves empty goes, too


def children(xs: Client, path: str) -> list[str]:
    """The names below a node; none when it is not there."""
    try:
        return xs.ls(path)
    except XsError:
        return []
