"""Paths: what is valid, and what a relative one is relative to.

Inside the store a path is a tuple of names, `()` being the root. Names are ASCII letters, digits and - _ @
(xenstore.txt); a path may be 2048 bytes long, not counting a leading /local/domain/<id>/, so that a path stays valid
when its domain gets another number, and never more than 3072. Special watch paths (@introduceDomain) are not nodes and
never come here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pyvmm.abi.xen import DOMID_FIRST_RESERVED

from .wire import ABS_PATH_MAX, XsError

Path = tuple[str, ...]

_VALID = re.compile(r"/|(?:/[A-Za-z0-9_@-]+)+", re.ASCII)
_DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]{1,5}/", re.ASCII)


def domain_path(domid: int) -> str:
    """A domain's own directory, which its relative paths start from (GET_DOMAIN_PATH)."""
    return f"/local/domain/{domid}"


def domids_of(names: Iterable[str]) -> list[int]:
    """The domains among the children of /local/domain: anybody who may write there can make a node of any name."""
    found = [int(name) for name in names if len(name) < 6 and name.isascii() and name.isdigit()]
    return sorted({domid for domid in found if domid < DOMID_FIRST_RESERVED})


def absolute(raw: bytes, base: str) -> str:
    """A path as a client sent it, made absolute. It is not validated yet; specials (@...) are left alone."""
    text = raw.decode("latin-1")
    return text if text[:1] in ("/", "@") else f"{base}/{text}"


@lru_cache(maxsize=16384)
def parse(text: str, longest: int) -> Path:
    """Validate an absolute path and split it. `longest` is the quota on its relative part. Raises XsError EINVAL."""
    if _VALID.fullmatch(text) is None:
        raise XsError("EINVAL")
    prefix = _DOMAIN_PREFIX.match(text)
    if len(text) > longest + (prefix.end() if prefix else 0) or len(text) > ABS_PATH_MAX:
        raise XsError("EINVAL")
    return () if text == "/" else tuple(text[1:].split("/"))


def text_of(path: Path) -> str:
    """The path as it is written."""
    return "/" + "/".join(path)
