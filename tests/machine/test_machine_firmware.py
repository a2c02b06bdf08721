"""The committed firmware is what its source assembles to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.machine import firmware

SOURCE = Path(__file__).resolve().parents[2] / "firmware" / "entry.S"


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("objcopy")), reason="GNU as and objcopy are not installed")
def test_firmware_is_reproducible(tmp_path: Path) -> None:
    subprocess.run(["as", "--64", "-o", tmp_path / "entry.o", SOURCE], check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", tmp_path / "entry.o", tmp_path / "firmware.bin"], check=True
    )
    built = (tmp_path / "firmware.bin").read_bytes()
    assert firmware.page().startswith(built)
    assert set(firmware.page()[len(built) :]) == {0xCC}


def test_entry_points() -> None:
    page = firmware.page()
    for name, code in {"ds": "8ed8cc", "es": "8ec0cc", "fs": "8ee0cc", "gs": "8ee8cc"}.items():
        assert page[firmware.ENTRY[name] :].startswith(bytes.fromhex(code))
    assert page[firmware.ENTRY_IRETQ :].startswith(bytes.fromhex("48cf"))
