"""Sizes and counts as people write them: 64M, 1G, 4096, 2e9."""

from __future__ import annotations

import re
from fractions import Fraction

import click

LIMIT = 1 << 60  # bytes
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Size(click.ParamType[int]):
    """A memory size in bytes: a number and an optional K, M, G or T (powers of 1024; B or iB may follow)."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes; a usage error says what was expected."""
        if isinstance(value, int):
            return value
        m = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if not m:
            self.fail(f"{value!r} is not a size; write bytes, or a number with K, M or G, for example 64M", param, ctx)
        size = int(Fraction(m[1]) * UNITS[m[2]])
        if size >= LIMIT:
            self.fail(f"{str(value)[:40]!r} is more memory than any machine has", param, ctx)
        return size


class Count(click.ParamType[int]):
    """A whole number of instructions; 1e9 and 1_000_000 are accepted."""

    name = "N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error says what was expected."""
        text = str(value).replace("_", "")
        if re.fullmatch(r"\d+", text):
            return int(text)
        m = re.fullmatch(r"(\d+)e(\d{1,2})", text)
        if not m:
            self.fail(f"{value!r} is not a whole number; write for example 1000000 or 1e9", param, ctx)
        return int(m[1]) * int(10 ** int(m[2]))
