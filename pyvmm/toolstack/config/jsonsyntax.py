"""JSON (RFC 8259) to values that know their lines; Python's own parser forgets them."""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder

from pyvmm.errors import ConfigError, cut
from pyvmm.toolstack.devices import MOST_DIGITS

from .settings import Value

SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
WORD = re.compile(r"[A-Za-z]+")
WORDS = {"true": True, "false": False, "null": None}
DECODER = JSONDecoder()  # for strings
MAX_DEPTH = 32


def parse(text: str, file: str) -> tuple[dict[str, Value], int]:
    """The members of the file's one object, and the last line's number. `ConfigError`."""
    return _Parser(text, file).document()


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0

    def document(self) -> tuple[dict[str, Value], int]:
        self._skip()
        if self._peek() != "{":
            raise self._fail("an object in { }")
        members = self._object(0).data
        self._skip()
        if self.at < len(self.text):
            raise self._fail("the end of the file")
        assert isinstance(members, dict)
        return members, self._line()

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self) -> None:
        m = SPACE.match(self.text, self.at)
        assert m is not None
        self.at = m.end()

    def _fail(self, expected: str) -> ConfigError:
        shown = repr(self._peek()) if self.at < len(self.text) else "the end of the file"
        return ConfigError(f"{self.file}:{self._line()}: expected {expected}, not {shown}")

    def _value(self, depth: int) -> Value:
        line, char = self._line(), self._peek()
        if char in ("{", "[") and depth >= MAX_DEPTH:
            raise self._fail("less nesting")
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._list(depth)
        if char == '"':
            return Value(self._string(), line)
        if m := NUMBER.match(self.text, self.at):
            self.at = m.end()
            return Value(float(m[0]) if m[1] or m[2] else int(m[0][: MOST_DIGITS + 2]), line)
        m = WORD.match(self.text, self.at)
        if m and m[0] in WORDS:
            self.at = m.end()
            return Value(WORDS[m[0]], line)
        raise self._fail("a value")

    def _string(self) -> str:
        try:
            text, self.at = DECODER.raw_decode(self.text, self.at)
        except JSONDecodeError as error:
            raise ConfigError(f"{self.file}:{error.lineno}: expected a JSON string ({error.msg})") from None
        assert isinstance(text, str)
        if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"{self.file}:{self._line()}: expected a string without \\u0000 and lone surrogates")
        return text

    def _object(self, depth: int) -> Value:
        line = self._line()
        members: dict[str, Value] = {}
        self.at += 1
        self._skip()
        while self._peek() != "}":
            if self._peek() != '"':
                raise self._fail("a name in double quotes")
            start = self._line()
            name = self._string()
            if name in members:
                raise ConfigError(f"{self.file}:{start}: expected {cut(name)} once, it is there twice")
            self._skip()
            if self._peek() != ":":
                raise self._fail(f": after {cut(name)}")
            self.at += 1
            self._skip()
            members[name] = self._value(depth + 1)
            self._comma("}")
        self.at += 1
        return Value(members, line)

    def _list(self, depth: int) -> Value:
        line = self._line()
        found: list[Value] = []
        self.at += 1
        self._skip()
        while self._peek() != "]":
            found.append(self._value(depth + 1))
            self._comma("]")
        self.at += 1
        return Value(found, line)

    def _comma(self, end: str) -> None:
        self._skip()
        if self._peek() == ",":
            self.at += 1
            self._skip()
            if self._peek() == end:
                raise self._fail("a value after the comma")
        elif self._peek() != end:
            raise self._fail(f", or {end}")
