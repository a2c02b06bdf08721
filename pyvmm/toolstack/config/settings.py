"""Settings of a file with the lines they stand on, and reading them as what they should be.

Both syntaxes come to a tree of `Value`s. A `Settings` hands out what its reader asks for; a value of the wrong kind is
a `ConfigError` with the file, the line and what was expected; what nobody asked for can be listed at the end.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from pyvmm.errors import ConfigError, cut, one_line
from pyvmm.toolstack.devices import MOST_DIGITS


class Value(NamedTuple):
    """A value and its line. xl's numbers are text, as they were written; JSON's have their own types."""

    data: str | int | float | bool | list[Value] | dict[str, Value] | None
    line: int
    quoted: bool = True
    """False for xl's bare numbers."""


def describe(value: Value) -> str:
    """A value in an error message."""
    data = value.data
    if isinstance(data, list):
        return "a list"
    if isinstance(data, dict):
        return "an object"
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    if isinstance(data, str) and value.quoted:
        return f'"{data if len(data) <= 40 else data[:37] + "..."}"'
    return cut(str(data))


def to_number(text: str) -> int | None:
    """C's strtoul with base 0: decimal, 0x hexadecimal, 0 octal; None when it is no number, or
    one so long that nothing can be meant by it."""
    if len(text) > MOST_DIGITS:
        return None
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    if re.fullmatch(r"0[0-7]*", text):
        return int(text, 8)
    return int(text) if re.fullmatch(r"[1-9][0-9]*", text) else None


class Settings:
    """The keys of one file, or of an object in it (`prefix` is then what leads to it)."""

    def __init__(self, file: str, values: dict[str, Value], last_line: int, prefix: str = "") -> None:
        self.file = file
        self.values = values
        self.last_line = last_line
        self.prefix = prefix
        self.warnings: list[tuple[int, str]] = []
        self._asked: set[str] = set()

    def error(self, key: str, expected: str, value: Value | None = None) -> ConfigError:
        """The error to raise: `key` is not what was `expected`."""
        value = self.values.get(key) if value is None else value
        if value is None:
            return ConfigError(f"{self.file}:{self.last_line}: {self.prefix}{key} is missing: expected {expected}")
        return ConfigError(f"{self.file}:{value.line}: {self.prefix}{key}: expected {expected}, not {describe(value)}")

    def warn(self, key: str, text: str) -> None:
        """Note something about a key that is no mistake."""
        line = self.values[key].line
        self.warnings.append((line, f"{self.file}:{line}: {self.prefix}{one_line(cut(key))}: {text}"))

    def noted(self) -> tuple[str, ...]:
        """All warnings, by line."""
        return tuple(text for _, text in sorted(self.warnings, key=lambda warning: warning[0]))

    def get(self, key: str) -> Value | None:
        """The raw value; None when the key is not there, or null."""
        self._asked.add(key)
        value = self.values.get(key)
        return None if value is None or value.data is None else value

    def text(self, key: str, expected: str = "a string") -> str | None:
        """A string, or a number as it was written."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value.data, int | float) and not isinstance(value.data, bool):
            if len(str(value.data)) > MOST_DIGITS:
                raise self.error(key, expected)
            return str(value.data)
        if not isinstance(value.data, str):
            raise self.error(key, expected)
        return value.data

    def number(self, key: str, low: int, high: int, unit: str = "") -> int | None:
        """A whole number in these bounds; in xl's syntax it may stand in quotes."""
        value = self.get(key)
        if value is None:
            return None
        expected = f"a whole number{unit} from {low} to {high}"
        found = to_number(value.data.strip()) if isinstance(value.data, str) else value.data
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
            raise self.error(key, expected)
        return found

    def flag(self, key: str) -> bool | None:
        """A boolean: true and false, or a number that is 0 or not."""
        value = self.get(key)
        if value is None or isinstance(value.data, bool):
            return None if value is None else bool(value.data)
        found = to_number(value.data) if isinstance(value.data, str) else value.data
        if not isinstance(found, int):
            raise self.error(key, "0 or 1")
        return found != 0

    def list(self, key: str, expected: str) -> list[Value]:
        """A list's values; empty when the key is not there."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value.data, list):
            raise self.error(key, expected)
        return value.data

    def choice(self, key: str, words: Iterable[str]) -> str | None:
        """One of some words."""
        value = self.get(key)
        if value is None:
            return None
        words = list(words)
        if value.data not in words:
            raise self.error(key, " or ".join([", ".join(f'"{word}"' for word in words[:-1]), f'"{words[-1]}"']))
        return str(value.data)

    def object(self, key: str, value: Value) -> Settings:
        """Settings of an object below `key`."""
        if not isinstance(value.data, dict):
            raise self.error(key, "an object", value)
        inner = Settings(self.file, value.data, value.line, f"{self.prefix}{key}.")
        inner.warnings = self.warnings
        return inner

    def finish(self, known: Iterable[str] = ()) -> None:
        """Warn of the keys nobody asked for: those in `known` have no effect here, others are not known at all."""
        meaningless = set(known)
        for key in self.values:
            if key in self._asked:
                continue
            if key in meaningless:
                self.warn(key, "has no effect on this host")
                continue
            close = difflib.get_close_matches(key, sorted(self._asked | meaningless), 1)
            self.warn(key, "is not known, and is ignored" + (f"; is {close[0]} meant?" if close else ""))
