"""The syntax of xl's configuration files: text in, a table of values with their lines out.

    file     = { [ setting ] ( newline | ";" ) }
    setting  = KEY ( "=" | "+=" ) value
    value    = STRING | NUMBER | "[" [ value { "," value } [ "," ] ] "]"

Inside of brackets newlines do not count; # begins a comment; the last setting of a key wins; += appends to a list, or
to a string. Facts: xl.cfg(5) of Xen 4.17 and the behaviour of libxlutil's parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.errors import ConfigError, cut

from .settings import Value

TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<end>[\n;])
      | (?P<key>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<sign>\+=|[=\[\],])""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)")
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
MAX_DEPTH = 32  # of lists in lists


class Token(NamedTuple):
    """A piece of the file: its kind (a group of `TOKEN`, or "eof"), text and line."""

    kind: str
    text: str
    line: int

    @property
    def shown(self) -> str:
        """The piece in an error message."""
        if self.kind == "eof":
            return "the end of the file"
        return {"\n": "the end of the line"}.get(self.text, cut(self.text))


def parse(text: str, file: str) -> tuple[dict[str, Value], int]:
    """The settings by key, in the order in which the keys appear first, and the last line's number. `ConfigError`."""
    return _Parser(text, file).settings()


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._tokens = self._cut(text)
        self.token = next(self._tokens)

    def _cut(self, text: str) -> Iterator[Token]:
        line, at = 1, 0
        while at < len(text):
            m = TOKEN.match(text, at)
            if m is None:
                what = "a string that ends on its line" if text[at] in "\"'" else "a setting"
                raise ConfigError(f"{self.file}:{line}: expected {what}, not {text[at]!r}")
            at = m.end()
            kind = str(m.lastgroup)
            if kind == "number" and not re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", m[0]):
                raise ConfigError(f"{self.file}:{line}: expected a number or a string in quotes, not {cut(m[0])}")
            if kind != "space":
                yield Token(kind, m[0], line)
            line += m[0].count("\n")
        while True:
            yield Token("eof", "", line)

    def _fail(self, expected: str) -> ConfigError:
        return ConfigError(f"{self.file}:{self.token.line}: expected {expected}, not {self.token.shown}")

    def _next(self) -> Token:
        found, self.token = self.token, next(self._tokens)
        return found

    def settings(self) -> tuple[dict[str, Value], int]:
        values: dict[str, Value] = {}
        while self.token.kind != "eof":
            if self.token.kind == "end":
                self._next()
                continue
            if self.token.kind != "key":
                raise self._fail("the name of a setting")
            key = self._next()
            if self.token.text not in ("=", "+="):
                raise self._fail(f"= or += after {cut(key.text)}")
            append = self._next().text == "+="
            value = self._value(key.line, 0)
            if self.token.kind not in ("end", "eof"):
                raise self._fail("a new line or ; after a setting")
            if append and key.text in values:
                value = self._joined(key, values[key.text], value)
            values[key.text] = value
        return values, self.token.line

    def _joined(self, key: Token, old: Value, new: Value) -> Value:
        if isinstance(old.data, list) and isinstance(new.data, list):
            return Value(old.data + new.data, key.line)
        if isinstance(old.data, str) and isinstance(new.data, str):
            return Value(old.data + new.data, key.line)
        raise ConfigError(f"{self.file}:{key.line}: {key.text}: expected += with two lists or two strings")

    def _value(self, line: int, depth: int) -> Value:
        token = self.token
        if token.kind == "string":
            self._next()
            return Value(self._unquoted(token), line)
        if token.kind == "number":
            self._next()
            return Value(token.text, line, quoted=False)
        if token.text == "[" and depth < MAX_DEPTH:
            return self._list(depth)
        raise self._fail("a string in quotes, a number, or a list in [ ]" if depth < MAX_DEPTH else "less nesting")

    def _list(self, depth: int) -> Value:
        first = self._next()
        found: list[Value] = []
        while True:
            self._skip_lines()
            if self.token.text == "]" and self.token.kind == "sign":
                break
            if found and self.token.kind == "eof":
                raise self._fail(f"] for the [ of line {first.line}")
            found.append(self._value(self.token.line, depth + 1))
            self._skip_lines()
            if self.token.text == "," and self.token.kind == "sign":
                self._next()
            elif self.token.text != "]" or self.token.kind != "sign":
                raise self._fail(f", or ] in the list of line {first.line}")
        self._next()
        return Value(found, first.line)

    def _skip_lines(self) -> None:
        while self.token.text == "\n":
            self._next()

    def _unquoted(self, token: Token) -> str:
        def replace(m: re.Match[str]) -> str:
            code = m[1]
            if len(code) == 3:
                return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8) & 0xFF)
            if code not in ESCAPES:
                raise ConfigError(f"{self.file}:{token.line}: expected a known escape in the string, not \\{code}")
            return ESCAPES[code]

        text = ESCAPE.sub(replace, token.text[1:-1])
        if "\0" in text:
            raise ConfigError(f"{self.file}:{token.line}: expected a string without the byte 0")
        return text
