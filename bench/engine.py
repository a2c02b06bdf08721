"""Which engine a benchmark measures: told first, and refused where it is not the one that figures are given for."""

from __future__ import annotations

import os
import sys

from pyvmm.machine import Machine


def tell() -> None:
    """One line on stderr. Ends the program where the C extension is not built, unless PYVMM_PURE=1 asks for that."""
    engine = Machine(1 << 24).engine
    if engine != "fast" and os.environ.get("PYVMM_PURE") != "1":
        sys.exit(
            "the C extension is not built in this tree: run ./test --version once and use .venv/bin/python, or build "
            "it with python pyvmm/machine/_fast_build.py; PYVMM_PURE=1 measures without it"
        )
    print(f"engine: {engine}", file=sys.stderr)
