"""The option -n of commands that make one guest after the other: which of them are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

MOST = 8000


def parse(text: str) -> tuple[int, ...]:
    """Numbers with commas between, sorted, each once. `BadParameter`."""
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers like 1,10,100") from None
    if not 1 <= found[0] <= found[-1] <= MOST:
        raise click.BadParameter(f"creations are numbered from 1 to {MOST}")
    return tuple(found)


CURVE = "1,2,5,10,20,50,100"  # enough points to tell one law from another


def numbers_option(default: str, help: str) -> Callable[[Any], Any]:
    """The option, as a decorator."""

    def called(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
        return parse(text)

    return click.option("-n", "numbers", default=default, show_default=True, callback=called, help=help)


__all__ = ["CURVE", "MOST", "numbers_option", "parse"]
