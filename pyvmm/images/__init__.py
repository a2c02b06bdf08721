"""The guest images that ship with pyvmm: their names, their files, and what they were built from.

The sources are in `guests/`, the builder is `pyvmm.images.build`, and `manifest.json` beside the images holds each
image's sha256, the compiler, its flags and a hash of the sources, so that a test can rebuild and compare.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, cast

DIRECTORY = Path(__file__).parent
MANIFEST = DIRECTORY / "manifest.json"


class ImageRecord(TypedDict):
    """What the manifest says of one image."""

    file: str
    description: str
    sha256: str
    sources: str


class Manifest(TypedDict):
    """The manifest: one compiler and one set of flags for all images."""

    compiler: str
    flags: str
    images: dict[str, ImageRecord]


def manifest() -> Manifest:
    """The manifest of the shipped images."""
    return cast(Manifest, json.loads(MANIFEST.read_text(encoding="utf-8")))


def names() -> list[str]:
    """Names of the shipped images, sorted."""
    return sorted(manifest()["images"])


def path(name: str) -> Path:
    """The file of the shipped image `name`; KeyError when there is none of that name."""
    return DIRECTORY / manifest()["images"][name]["file"]
