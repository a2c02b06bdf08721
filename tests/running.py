"""Runs of the command, as a person would make them, for tests."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAST = importlib.util.find_spec("pyvmm.machine._fast") is not None
"""The C extension is built."""
ENGINES = ("fast", "pure", "step") if FAST else ("pure", "step")
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """What a run of the command printed, how it ended, and its figures (when asked for with `figures=True`)."""

    status: int
    out: str
    err: str
    figures: dict[str, Any]

    def domain(self, name: str) -> dict[str, Any]:
        """The figures of the domain called `name`."""
        (found,) = [d for d in self.figures["domains"] if d["name"] == name]
        return dict(found)

    def repeatable(self) -> dict[str, Any]:
        """All that must be the same in every repetition: the figures without the host's seconds."""
        return {k: v for k, v in self.figures.items() if k not in ("host_seconds", "engine")}


def pyvmm(
    *args: str | Path,
    stdin: bytes | None = None,
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    figures: Path | None = None,
    timeout: float = 300,
) -> Run:
    """Run ``python -m pyvmm ARGS`` in a process of its own; with `figures`, also ``--json`` to that file."""
    command = [*prefix, sys.executable, "-m", "pyvmm", *map(str, args)]
    if figures is not None:
        command += ["--json", str(figures)]
    done = subprocess.run(
        command,
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    text = json.loads(figures.read_text()) if figures is not None and figures.exists() else {}
    return Run(done.returncode, done.stdout.decode("latin1"), done.stderr.decode("latin1"), text)
