"""What a guest's devices are asked to be: one record a device, whoever asks (a configuration file, Python code) and
however its two ends will find each other (XenStore, noxs). No record holds what only a running host knows.

A `ValueError` raised here says what was expected: the reader of a file adds where.
Facts: xl-disk-configuration(5), xl-network-configuration(5), xen-vbd-interface(7) of Xen 4.17.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from typing import ClassVar

from pyvmm.errors import cut

XEN_OUI = "00:16:3e"
DEFAULT_BRIDGE = "xenbr0"
DEFAULT_MTU = 1500

EXTENDED = 1 << 28
MOST_DIGITS = 40  # of a number that is looked at; no number of a device has as many
PREFIXES = {  # name of a disk: (major number, bits of the number of the partition, first disk, number of disks)
    "xvd": ((202, 4, 0, 16),),
    "sd": ((8, 4, 0, 16),),
    "hd": ((3, 6, 0, 2), (22, 6, 2, 2)),
}


@dataclass(frozen=True)
class Vif:
    """A network interface. `mac` None: derived from the domain's UUID. `rate`: as written, None for no limit."""

    kind: ClassVar[str] = "vif"
    devid: int
    mac: str | None = None
    bridge: str = DEFAULT_BRIDGE
    ip: str | None = None
    script: str = "vif-bridge"
    vifname: str | None = None
    mtu: int | None = None
    rate: str | None = None
    backend: str = "0"
    trusted: bool = True

    @property
    def label(self) -> str:
        """What to call it to a person."""
        return f"vif {self.devid}"

    def address(self, identity: uuid.UUID) -> str:
        """Its MAC address in the domain with this UUID: six groups of two lower-case hexadecimal digits."""
        if self.mac is not None:
            return self.mac
        tail = hashlib.blake2b(identity.bytes + self.devid.to_bytes(4, "little"), digest_size=3).digest()
        return ":".join([XEN_OUI, f"{tail[0] & 0x7F:02x}", f"{tail[1]:02x}", f"{tail[2]:02x}"])


@dataclass(frozen=True)
class Vbd:
    """A disk. `target` is a path of the host, "" for an empty CD drive; `vdev` the name the guest's user knows."""

    kind: ClassVar[str] = "vbd"
    target: str
    vdev: str
    format: str = "raw"
    readonly: bool = False
    cdrom: bool = False
    discard: bool = True
    script: str | None = None
    backendtype: str | None = None
    backend: str = "0"
    trusted: bool = True

    @property
    def label(self) -> str:
        """What to call it to a person."""
        return f"disk {self.vdev}"

    @property
    def devid(self) -> int:
        """The number of `vdev` in the guest's directory. `ValueError` when it names no disk."""
        return vdev_number(self.vdev)


Device = Vif | Vbd


TEXT_MAX = 2048  # bytes of a name or path that is written to the store: a node holds no more


def check_device(device: Device) -> None:
    """`ValueError` for a device that no back end here can serve as it is asked to be."""
    if isinstance(device, Vbd) and device.format not in ("", "raw"):
        raise ValueError(f"a raw image, not {cut(device.format)}: only raw images are served")
    for name, value in vars(device).items():
        if isinstance(value, str) and len(os.fsencode(value)) > TEXT_MAX:
            raise ValueError(f"a {name} of at most {TEXT_MAX} bytes")


def vdev_number(vdev: str) -> int:
    """xen-vbd-interface(7)'s number for a name (xvda, xvdb3, sda1, hdc, d5p2) or a number as text. `ValueError`."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", vdev):
        if re.fullmatch(r"0[0-9]*[89][0-9]*", vdev) or len(vdev) > MOST_DIGITS:
            raise ValueError(f"a number of a disk, not {cut(vdev)}")
        number = int(vdev, 8 if re.fullmatch(r"0[0-7]+", vdev) else 0)
        if number >= 2 << 28:
            raise ValueError(f"a number of a disk, not {vdev}")
        return number
    if m := re.fullmatch(r"d([0-9]{1,12})(?:p([0-9]{1,12}))?", vdev):
        prefix, disk, partition = "xvd", int(m[1]), int(m[2] or 0)
    elif m := re.fullmatch(r"(xvd|sd|hd)([a-z]{1,4})([0-9]{0,12})", vdev):
        prefix, disk, partition = m[1], _letters(m[2]), int(m[3] or 0)
    else:
        raise ValueError(f"the name of a disk like xvda, not {cut(vdev)}")
    for major, bits, first, count in PREFIXES[prefix]:
        if first <= disk < first + count and partition < 1 << bits:
            return major << 8 | (disk - first) << bits | partition
    if prefix == "xvd" and disk < 1 << 20 and partition < 256:
        return EXTENDED | disk << 8 | partition
    raise ValueError(f"a disk that there is a number for, not {vdev}")


def _letters(text: str) -> int:
    """a is 0, z is 25, aa is 26."""
    number = 0
    for letter in text:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def check_mac(text: str) -> str:
    """The address in lower case. `ValueError` when it is none."""
    if not re.fullmatch(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}", text):
        raise ValueError(f"a MAC address like 00:16:3e:00:00:01, not {cut(text)}")
    octets = [int(octet, 16) for octet in text.split(":")]
    if octets[0] & 1:
        raise ValueError(f"a MAC address of one station, not the multicast address {text}")
    return ":".join(f"{octet:02x}" for octet in octets)


__all__ = ["Device", "Vbd", "Vif", "check_device", "check_mac", "vdev_number"]
