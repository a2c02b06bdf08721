"""Debian's GRUB for Xen, a PV kernel not written here, boots to its prompt, takes commands and halts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.running import ENGINES, FAST, pyvmm

MODULES = "echo halt ls lsmmap test lsxen normal minicmd help".split()

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(
        not shutil.which("grub-mkimage") or not Path("/usr/lib/grub/x86_64-xen").is_dir(),
        reason="needs Debian's grub-common and grub-xen-bin",
    ),
]


def plain(text: str) -> str:
    """Terminal output without its escape sequences and carriage returns."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


@pytest.fixture(scope="module")
def grub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grub")
    (folder / "cfg").write_text("echo embedded configuration read\n")
    image = folder / "grub.bin"
    subprocess.run(
        ["grub-mkimage", "-O", "x86_64-xen", "-o", image, "-c", folder / "cfg", "-p", "/", *MODULES], check=True
    )
    return image


TYPED = b"echo one two three\nls\nlsmmap\nxen_ls\nhalt\n"


def test_commands_at_the_prompt(grub: Path) -> None:
    """Typed commands are answered, and `halt` powers the machine off."""
    run = pyvmm("run", grub, "--memory", "128M", stdin=TYPED)
    text = plain(run.out)
    assert run.status == 0, run.err
    assert "Welcome to GRUB!" in text
    assert "embedded configuration read" in text
    assert "grub> " in text
    assert re.search(r"\none two three\s*\n", text)
    assert re.search(r"base_addr = 0x0, length = 0x[0-9a-f]+, available RAM", text)


def test_input_from_a_pipe_repeats_to_the_bit(grub: Path, tmp_path: Path) -> None:
    """The same bytes on stdin give the same run, in 20 repetitions and on every engine.

    Without the extension three repetitions do: fourteen million instructions take Python seconds, single steps minutes.
    """
    repetitions, engines = (20, ENGINES) if FAST else (3, ())
    runs = [
        pyvmm("run", grub, stdin=TYPED, env={"PYTHONHASHSEED": str(i)}, figures=tmp_path / f"{i}")
        for i in range(repetitions)
    ]
    runs += [pyvmm("run", grub, "--engine", e, stdin=TYPED, figures=tmp_path / e) for e in engines]
    assert {run.status for run in runs} == {0}
    assert all(run.repeatable() == runs[0].repeatable() for run in runs)
