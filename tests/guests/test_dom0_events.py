"""Watch events that wait in dom0: more than its image has room for go to the heap; what is lost is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pyvmm import compare
from pyvmm.images import build

pytestmark = pytest.mark.skipif(not build.GUESTS.is_dir(), reason="the guests' sources are in a checkout only")


def dom0_with(tmp_path: Path, room: int, most: int) -> Path:
    """A dom0 whose room for events is that."""
    guests = tmp_path / "guests"
    shutil.copytree(build.GUESTS, guests)
    limits = guests / "dom0/limits.h"
    text = limits.read_text()
    for name, n in (("XENSTORE_EVENTS", room), ("XENSTORE_EVENTS_MOST", most)):
        text, found = re.subn(rf"^#define {name} .*$", f"#define {name} {n}", text, flags=re.MULTILINE)
        assert found == 1
    limits.write_text(text)
    build.build("dom0", tmp_path / "dom0", guests)
    return tmp_path / "dom0"


def test_more_than_there_was_room_for(tmp_path: Path) -> None:
    """With room for one, xl's creations send what they always send, and nobody misses anything."""
    rows = [
        [row for row, _ in compare.sweep("xl", "daytime", (1, 4), dom0=path)]
        for path in (None, dom0_with(tmp_path, 1, 65536))
    ]
    for one, other in zip(*rows, strict=True):
        assert one.messages == other.messages and one.switches == other.switches
        assert one.classes["boot"] == other.classes["boot"]
    (first, last), (grown, settled) = rows
    assert first.total < grown.total  # by what was copied
    assert last.total == settled.total  # there is room enough now


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    control = compare.Control("xl", "daytime", 1, dom0=dom0_with(tmp_path, 1, 1))
    try:
        said = control.command("create 00001.json one")
    except compare.CommandError as error:
        said = f"{error} {control._output()}"
    control.close()
    assert re.search(r"XenStore: \d+ watch events are lost: more than 1 were waiting", said), said
