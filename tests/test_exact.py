"""Counts are exact and runs repeat to the bit: between engines, repetitions, hash seeds and address-space layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.running import ENGINES, FAST, pyvmm

GUESTS = {
    "hello": ("run", "hello"),
    "hello-dom0": ("run", "--dom0", "hello"),
    "abicheck": ("run", "abicheck"),
    "abicheck-dom0": ("run", "--dom0", "abicheck"),
}


@pytest.mark.parametrize("guest", GUESTS)
def test_engines_agree_with_single_stepping(guest: str, tmp_path: Path) -> None:
    """The fast engine (where it is built), the pure one and single-stepping give the same figures and events."""
    if not FAST and guest.startswith("abicheck"):
        pytest.skip("single-stepping nine million instructions in Python takes minutes; hello is compared")
    runs = {e: pyvmm(*GUESTS[guest], "--engine", e, figures=tmp_path / f"{e}.json") for e in ENGINES}
    assert {r.status for r in runs.values()} == {0}, {e: r.err for e, r in runs.items()}
    for run in runs.values():
        assert run.repeatable() == runs["step"].repeatable()
        assert run.out == runs["step"].out
    assert runs["step"].figures["domains"][-1]["instructions"] > 1000


@pytest.mark.parametrize("guest", ["hello", "abicheck"])
def test_twenty_repetitions_are_one(guest: str, tmp_path: Path) -> None:
    """Twenty runs, with hash seeds and the address-space layout varied, differ in nothing."""
    unrandomised = ("setarch", "-R") if shutil.which("setarch") else ()
    seen = []
    for i in range(20):
        run = pyvmm(
            "run",
            guest,
            env={"PYTHONHASHSEED": str(i * 7919)},
            prefix=unrandomised if i % 2 else (),
            figures=tmp_path / f"{i}.json",
        )
        assert run.status == 0, run.err
        seen.append((run.repeatable(), run.out))
    assert all(run == seen[0] for run in seen)


def test_budget_stops_at_exactly_that_instruction(tmp_path: Path) -> None:
    """--max-instructions N retires N, exits with 5, and the same N gives the same digest on every engine."""
    for limit in (1, 777, 20_011):
        runs = [
            pyvmm(
                "run", "hello", "--max-instructions", str(limit), "--engine", e, figures=tmp_path / f"{e}{limit}.json"
            )
            for e in ENGINES
        ]
        assert {r.status for r in runs} == {5}
        assert {sum(d["instructions"] for d in r.figures["domains"]) for r in runs} == {limit}
        assert len({r.figures["digest"] for r in runs}) == 1
