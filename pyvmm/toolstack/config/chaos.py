"""chaos's configuration files: the LightVM toolstack's JSON, as a `GuestConfig`.

Members: name, kernel, ramdisk, cmdline, memory (MiB), vcpus (a number, or {count, cpumap}), address_size,
vifs [{ip, mac, bridge}], vbds [{target, type, vdev, access}], paused, xen {pvh, dev_method}. Where dev_method is not
there, the host decides. Ours are the actions on_poweroff, on_reboot, on_crash and on_watchdog; without them a guest
that ends is destroyed, for chaos restarts nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Interface

from pyvmm.errors import ConfigError
from pyvmm.toolstack.devices import DEFAULT_BRIDGE, Device, Vbd, Vif, check_mac, vdev_number

from . import jsonsyntax
from .guest import DEFAULT_MEMORY, MIB, Action, Actions, GuestConfig, Loaded
from .settings import Settings
from .xlcfg import MAX_MIB, MAX_VCPUS

MAX_DEVICES = 15  # of each kind: what chaos's parser takes
METHODS = ("xenstore", "noxs")


def read(text: str, file: str) -> Loaded:
    """The guest of a file with this text; `file` names it in messages. `ConfigError`."""
    values, last_line = jsonsyntax.parse(text, file)
    settings = Settings(file, values, last_line)
    name = settings.text("name")
    if not name or "/" in name or not name.isprintable():
        raise settings.error("name", "a string without a slash")
    kernel = settings.text("kernel")
    if not kernel:
        raise settings.error("kernel", "the name of a file")
    memory = (settings.number("memory", 1, MAX_MIB, " of MiB") or DEFAULT_MEMORY // MIB) * MIB
    vcpus = _vcpus(settings)
    devices = _vbds(settings) + _vifs(settings)
    if settings.number("address_size", 32, 64) not in (None, 64):
        raise settings.error("address_size", "64: this host has no 32-bit guests")
    guest = GuestConfig(
        name=name,
        kernel=kernel,
        ramdisk=settings.text("ramdisk") or None,
        memory=memory,
        maxmem=memory,
        vcpus=vcpus,
        maxvcpus=vcpus,
        cmdline=settings.text("cmdline") or "",
        actions=_actions(settings),
        devices=tuple(device for device, _ in devices),
        paused=settings.flag("paused") or False,
        design=_design(settings),
        source=file,
        lines={
            **{key: value.line for key, value in values.items()},
            **{device.label: line for device, line in devices},
        },
    )
    settings.finish()
    return Loaded(guest, settings.noted())


def _vcpus(settings: Settings) -> int:
    value = settings.get("vcpus")
    if value is None or not isinstance(value.data, dict):
        return settings.number("vcpus", 1, MAX_VCPUS) or 1
    inner = settings.object("vcpus", value)
    count = inner.number("count", 1, MAX_VCPUS)
    inner.finish(("cpumap",))
    return count or 1


def _design(settings: Settings) -> str | None:
    value = settings.get("xen")
    if value is None:
        return None
    inner = settings.object("xen", value)
    if inner.flag("pvh"):
        raise inner.error("pvh", "false: this host has PV guests only")
    method = inner.choice("dev_method", METHODS)
    inner.finish()
    return method


def _actions(settings: Settings) -> Actions:
    words = [action.value for action in Action]
    found = {
        how: Action(settings.choice(f"on_{how}", words) or "destroy")
        for how in ("poweroff", "reboot", "crash", "watchdog")
    }
    return Actions(**found)


def _members(settings: Settings, key: str) -> list[Settings]:
    values = settings.list(key, "a list of objects")
    if len(values) > MAX_DEVICES:
        raise settings.error(key, f"at most {MAX_DEVICES} of them", values[MAX_DEVICES])
    return [settings.object(f"{key}[{i}]", value) for i, value in enumerate(values)]


def _vifs(settings: Settings) -> list[tuple[Device, int]]:
    found: list[tuple[Device, int]] = []
    for index, inner in enumerate(_members(settings, "vifs")):
        mac = inner.text("mac")
        try:
            address = check_mac(mac) if mac else None
        except ValueError:
            raise inner.error("mac", "a MAC address like 00:16:3e:00:00:01") from None
        bridge = inner.text("bridge") or DEFAULT_BRIDGE
        ip = inner.text("ip") or None
        try:
            IPv4Interface(ip or "0.0.0.0")
        except ValueError:
            raise inner.error("ip", "an IPv4 address like 10.0.0.2") from None
        found.append((Vif(devid=index, mac=address, bridge=bridge, ip=ip), inner.last_line))
        inner.finish()
    return found


def _vbds(settings: Settings) -> list[tuple[Device, int]]:
    found: list[tuple[Device, int]] = []
    for inner in _members(settings, "vbds"):
        target, vdev = inner.text("target"), inner.text("vdev")
        if not target:
            raise inner.error("target", "the path of an image or a block device")
        try:
            number = vdev_number(vdev or "")
        except ValueError:
            raise inner.error("vdev", "the name of a disk like xvda") from None
        if any(disk.devid == number for disk, _ in found):
            raise ConfigError(f"{inner.file}:{inner.last_line}: {inner.prefix}vdev: expected a disk of its own")
        kind = inner.choice("type", ("phy", "file"))
        access = inner.choice("access", ("r", "w"))
        backendtype = "phy" if kind == "phy" else None
        disk = Vbd(target=target, vdev=vdev or "", readonly=access == "r", backendtype=backendtype)
        found.append((disk, inner.last_line))
        inner.finish()
    return found
