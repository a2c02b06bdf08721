"""Guests' configuration files: xl's syntax and chaos's JSON, told apart by their first character.

    loaded = load("guest.cfg")
    loaded.guest.name, loaded.warnings

A mistake is a `ConfigError` of one line: file, line, what was expected. See docs/toolstack.md for what is understood.
"""

from __future__ import annotations

from pathlib import Path

from pyvmm.errors import ConfigError

from . import chaos, xlcfg
from .guest import Action, Actions, GuestConfig, Loaded
from .limits import check

MAX_SIZE = 1 << 20  # bytes: a configuration is a page of text; a disk image given by mistake is not read


def load(path: str | Path) -> Loaded:
    """Read a file. `ConfigError`: it cannot be read, or says what makes no guest."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{path}:1: expected a configuration, not a file of more than {MAX_SIZE} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected UTF-8 text, not the byte 0x{data[error.start]:02x}") from None
    return read(text, str(path))


def read(text: str, file: str) -> Loaded:
    """The same for a text; `file` is what messages call it."""
    loaded = parse(text, file)
    check(loaded.guest)
    return loaded


def parse(text: str, file: str) -> Loaded:
    """What a text says, whether it can be had on this host or not. `ConfigError`."""
    if text.lstrip()[:1] == "{":
        return chaos.read(text, file)
    return xlcfg.read(text, file)


__all__ = ["Action", "Actions", "GuestConfig", "Loaded", "load", "parse", "read"]
