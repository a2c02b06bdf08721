"""What a file may say that no host of this kind can do: found when it is read, so that file and line can be told."""

from __future__ import annotations

import os

from pyvmm.abi import xen
from pyvmm.errors import ConfigError
from pyvmm.toolstack.devices import TEXT_MAX, check_device

from .guest import GuestConfig

CMDLINE_MAX: int = xen.start_info.cmd_line.size - 1


def check(guest: GuestConfig) -> None:
    """`ConfigError` for what cannot be had."""
    size = len(os.fsencode(guest.cmdline))
    if size > CMDLINE_MAX:
        raise ConfigError(
            f"{guest.where('cmdline')}: the command line: expected at most {CMDLINE_MAX} bytes, not {size}"
        )
    for key, text in (("name", guest.name), ("kernel", guest.kernel), ("ramdisk", guest.ramdisk or "")):
        if len(os.fsencode(text)) > TEXT_MAX:
            raise ConfigError(f"{guest.where(key)}: {key}: expected at most {TEXT_MAX} bytes")
    for device in guest.devices:
        try:
            check_device(device)
        except ValueError as error:
            raise ConfigError(f"{guest.where(device.label)}: {device.label}: expected {error}") from None


__all__ = ["check"]
