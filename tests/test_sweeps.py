"""Sweeps that are kept (`--resume`): taken when all that they depend on is the same, and measured again when not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm import compare, images
from pyvmm.cli.sweeps import Kept, Measured, Sweep
from pyvmm.compare import DesignFacts
from pyvmm.designs import Own

LIMIT = 60  # seconds
SWEEP = Sweep("lightvm", "noop", (1,))
FOUND = [Measured({"n": 1}, {"frames": [], "stacks": []}, {"frames": [], "stacks": []})]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's files that provenance looks at in place of the real ones."""
    copy = tmp_path / "pyvmm"
    shutil.copytree(Path(compare.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    monkeypatch.setattr(compare, "__file__", str(copy / "compare.py"))
    return copy


def test_kept_and_taken(tmp_path: Path) -> None:
    """What was cut off, or is no such file, is measured again."""
    kept = Kept(str(tmp_path))
    assert kept.load(SWEEP) is None
    kept.save(SWEEP, FOUND)
    assert kept.load(SWEEP) == Kept(str(tmp_path)).load(SWEEP) == FOUND
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("lightvm-noop-1-")
    for text in ("", "{", "[]", "{}", '{"run": {}, "creations": []}'):
        file.write_text(text)
        assert kept.load(SWEEP) is None


def test_runs_with_other_options_are_kept_beside_each_other(tmp_path: Path) -> None:
    kept = Kept(str(tmp_path))
    others = [
        replace(SWEEP, **change)
        for change in ({"seed": 1}, {"store": "o"}, {"numbers": (1, 2)}, {"guest": "daytime"}, {"engine": "pure"})
    ]
    others += [replace(SWEEP, numbers=(2,)), replace(SWEEP, design="xl")]
    for number, sweep in enumerate([SWEEP, *others]):
        assert kept.load(sweep) is None
        kept.save(sweep, [Measured({"n": n, "total": number}, {}, {}) for n in sweep.numbers])
    again = Kept(str(tmp_path))
    for number, sweep in enumerate([SWEEP, *others]):
        assert again.load(sweep) == [Measured({"n": n, "total": number}, {}, {}) for n in sweep.numbers]


def test_a_file_without_all_its_creations_is_measured_again(tmp_path: Path) -> None:
    kept = Kept(str(tmp_path))
    kept.save(SWEEP, FOUND)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "creations": []}))
    assert kept.load(SWEEP) is None


def test_a_file_that_has_the_name_and_is_of_something_else(tmp_path: Path) -> None:
    """The name is a digest of what the file says that it depends on; both are looked at."""
    kept = Kept(str(tmp_path))
    kept.save(SWEEP, FOUND)
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    content["run"]["seed"] = 7
    file.write_text(json.dumps(content))
    assert kept.load(SWEEP) is None


@pytest.mark.parametrize(
    "name",
    [
        "hypervisor/costs.py",
        "report/classes.py",
        "hypervisor/event_channel.py",
        "native.py",
        "machine/firmware.bin",
        "images/dom0.functions",
    ],
)
def test_another_program(tmp_path: Path, package: Path, name: str) -> None:
    """One more byte in the cost table, the table of classes, any code, the firmware, the files of dom0's functions."""
    kept = tmp_path / "kept"
    Kept(str(kept)).save(SWEEP, FOUND)
    file = package / name
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    assert Kept(str(kept)).load(SWEEP) is None
    file.write_bytes(before)
    assert Kept(str(kept)).load(SWEEP) == FOUND


def test_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files themselves count, whatever the manifest says; only those that run."""
    kept, copy = tmp_path / "kept", tmp_path / "images"
    shutil.copytree(images.DIRECTORY, copy)
    Kept(str(kept)).save(SWEEP, FOUND)
    monkeypatch.setattr(images, "DIRECTORY", copy)
    (copy / "echo").write_bytes(b"another")
    assert Kept(str(kept)).load(SWEEP) == FOUND
    for name in ("dom0", "xenstored", "noop"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b"\n")
        assert Kept(str(kept)).load(SWEEP) is None
        (copy / name).write_bytes(before)
    assert Kept(str(kept)).load(SWEEP) == FOUND


def test_changed_while_it_was_measured(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows which of the two programs it is of: it is not kept, and that is said."""
    kept = Kept(str(tmp_path / "kept"))
    assert kept.load(SWEEP) is None
    with (package / "hypervisor/costs.py").open("a") as file:
        file.write("\n")
    kept.save(SWEEP, FOUND)
    assert list((tmp_path / "kept").iterdir()) == []
    assert capsys.readouterr().err == "pyvmm: lightvm-noop is not kept: pyvmm was changed while it was measured\n"


def test_designs_of_ones_own(tmp_path: Path) -> None:
    """An image with its list of functions; a Python design is never kept, since what it imports is not known."""
    image, functions = tmp_path / "dom0", tmp_path / "dom0.functions"
    functions.write_text("a.c f")
    facts = DesignFacts("own", "own", False, False)
    own = replace(SWEEP, design="own", own=Own(facts, Path("own.c"), "1234", image))
    where = tmp_path / "kept"
    Kept(str(where)).save(own, FOUND)
    assert Kept(str(where)).load(own) == FOUND
    functions.write_text("b.c f")
    assert Kept(str(where)).load(own) is None
    assert Kept(str(where)).load(replace(own, own=Own(facts, Path("own.c"), "5678", image))) is None
    python = replace(own, own=Own(facts, Path("own.py"), "1234", None))
    Kept(str(where)).save(python, FOUND)
    assert Kept(str(where)).load(python) is None and len(list(where.iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_stays_behind(number: signal.Signals) -> None:
    """One of two workers has nothing to do any more when the command ends, by Ctrl-C (to the process group) or by a
    signal for it alone: both end, and no traceback is theirs."""
    words = [sys.executable, "-m", "pyvmm", "compare", "--designs", "lightvm,xl", "--guest", "noop", "-n", "1,250"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        while "(1 of 2)" not in (line := process.stderr.readline()):
            assert line.startswith("pyvmm: "), line
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        assert len(workers) == 2
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        try:
            _, said = process.communicate(timeout=LIMIT)  # at its end nobody has its stderr any more
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert said.strip() == ("pyvmm: interrupted" if number == signal.SIGINT else "")
    assert process.returncode == (130 if number == signal.SIGINT else -number)
