"""The strings in xl's disk and vif lists: xl-disk-configuration(5) and xl-network-configuration(5) of Xen 4.17.

`parse_disk` and `parse_vif` raise `ValueError` with what was expected; the caller knows file and line.
"""

from __future__ import annotations

import re

from pyvmm.errors import cut
from pyvmm.toolstack.devices import DEFAULT_BRIDGE, Vbd, Vif, check_mac, vdev_number

FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed")
ACCESS = {"ro": True, "r": True, "rw": False, "w": False}  # is it read-only?
BACKEND_TYPES = ("phy", "tap", "qdisk", "standalone")
POSITIONS = ("target", "format", "vdev", "access")
DISK_KEYS = (*POSITIONS, "devtype", "backend", "backendtype", "script", "specification")
DISK_FLAGS = {  # flag: (key, value)
    "cdrom": ("devtype", "cdrom"),
    "discard": ("discard", "1"),
    "no-discard": ("discard", ""),
    "trusted": ("trusted", "1"),
    "untrusted": ("trusted", ""),
    "direct-io-safe": ("direct-io-safe", "1"),
}
# Deprecated: what is before the path names a format, or the daemon that once served it.
OLD_PREFIX = re.compile(r"(raw|qcow2?|vhd|qed|phy|file|aio|tap2?|tapdisk):")
VIF_KEYS = ("mac", "bridge", "ip", "script", "vifname", "mtu", "rate", "backend", "devid")
VIF_OTHERS = ("model", "type", "gatewaydev", "netdev", "accel", "queues")  # of emulated cards, or of Linux's scripts
RATE = re.compile(r"[0-9]{1,20}(?:GB|MB|KB|B|Gb|Mb|Kb|b)/s(?:@[0-9]{1,20}(?:ms|us|s)?)?")


def parse_disk(text: str) -> Vbd:
    """One DISKSPEC."""
    found: dict[str, str] = {}
    position = 0
    rest = text.lstrip()
    while rest:
        if rest.startswith("target="):  # takes all that follows, commas too
            if found.get("target"):
                raise ValueError("target once")
            found["target"] = rest.removeprefix("target=")
            break
        part, _, rest = rest.partition(",")
        rest = rest.lstrip()
        key, equals, value = part.partition("=")
        key = key.strip()
        if equals and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key):
            if key not in DISK_KEYS:
                raise ValueError(f"one of {', '.join(DISK_KEYS)}, not {cut(key)}")
            _set(found, key, value.strip())
        elif part.strip() in DISK_FLAGS:
            _set(found, *DISK_FLAGS[part.strip()])
        else:
            while position < len(POSITIONS) and POSITIONS[position] in found:
                position += 1
            if position == len(POSITIONS):
                raise ValueError(
                    f"no more than {len(POSITIONS)} positional parameters, not {cut(part.strip())!r} after them"
                )
            value = part.strip()
            if POSITIONS[position] == "target" and (m := OLD_PREFIX.match(value)):
                value = value[m.end() :]
                found.setdefault("format", m[1] if m[1] in FORMATS else "raw")  # that form has no place for a format
            _set(found, POSITIONS[position], value)
    return _disk(found)


def _set(found: dict[str, str], key: str, value: str) -> None:
    if found.get(key):
        raise ValueError(f"{key} once")
    found[key] = value


def _disk(found: dict[str, str]) -> Vbd:
    target, vdev = found.get("target", ""), found.get("vdev", "")
    if vdev.endswith(":cdrom"):  # deprecated
        vdev, found["devtype"] = vdev.removesuffix(":cdrom"), "cdrom"
    if not vdev:
        raise ValueError("a vdev, for example xvda")
    vdev_number(vdev)
    cdrom = _one_of(found, "devtype", ("", "cdrom", "disk")) == "cdrom"
    access = _one_of(found, "access", ("", *ACCESS)) or ("r" if cdrom else "rw")
    if not target and not cdrom:
        raise ValueError("a target: only a cdrom may be empty")
    _one_of(found, "specification", ("", "xen"))
    return Vbd(
        target=target if not target or target.startswith("/") or found.get("script") else f"/dev/{target}",
        vdev=vdev,
        format=_one_of(found, "format", ("", *FORMATS)) or "raw",
        readonly=ACCESS[access],
        cdrom=cdrom,
        discard=found.get("discard", "1") != "",
        script=found.get("script") or None,
        backendtype=_one_of(found, "backendtype", ("", *BACKEND_TYPES)) or None,
        backend=found.get("backend") or "0",
        trusted=found.get("trusted", "1") != "",
    )


def _one_of(found: dict[str, str], key: str, words: tuple[str, ...]) -> str:
    value = found.get(key, "")
    if value not in words:
        raise ValueError(f"{key} {', '.join(word for word in words if word)}, not {cut(value)}")
    return value


def parse_vif(text: str, index: int) -> Vif:
    """One vifspec, at this place of the list."""
    found: dict[str, str] = {}
    trusted = True
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        key, value = key.strip(), value.strip()
        if not key and not equals:
            continue
        if not equals and key in ("trusted", "untrusted"):
            trusted = key == "trusted"
        elif equals and key in VIF_KEYS:
            _set(found, key, value)
        elif not equals or key not in VIF_OTHERS:
            raise ValueError(f"one of {', '.join(VIF_KEYS)} with a value, not {cut(part.strip())}")
    rate = found.get("rate")
    if rate is not None and not RATE.fullmatch(rate):
        raise ValueError(f"a rate like 10Mb/s or 1MB/s@20ms, not {cut(rate)}")
    mtu = found.get("mtu")
    return Vif(
        devid=_whole(found["devid"], "a devid", 0, 0xFFFF) if "devid" in found else index,
        mac=check_mac(found["mac"]) if found.get("mac") else None,
        bridge=found.get("bridge") or DEFAULT_BRIDGE,
        ip=found.get("ip") or None,
        script=found.get("script") or "vif-bridge",
        vifname=found.get("vifname") or None,
        mtu=_whole(mtu, "an mtu", 68, 65535) if mtu is not None else None,
        rate=rate,
        backend=found.get("backend") or "0",
        trusted=trusted,
    )


def _whole(text: str, what: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not low <= int(text) <= high:
        raise ValueError(f"{what} from {low} to {high}, not {cut(text)}")
    return int(text)
