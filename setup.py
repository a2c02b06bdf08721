"""The C extension: built where there is a compiler, left out where there is none or where PYVMM_PURE=1 asks for that.

Without it the machine runs on the pure Python path, with the same results and more slowly. Everything else is in
pyproject.toml.
"""

import os
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext


class OptionalExtension(build_ext):
    """Goes on when an extension cannot be compiled."""

    def finalize_options(self) -> None:
        super().finalize_options()
        for extension in self.extensions or []:
            extension.optional = True


BUILDER = "pyvmm/machine/_fast_build.py"
options: dict[str, Any] = {}
if os.environ.get("PYVMM_PURE", "") in ("", "0") and (Path(__file__).parent / BUILDER).exists():
    options["cffi_modules"] = [f"{BUILDER}:ffi"]
    options["cmdclass"] = {"build_ext": OptionalExtension}
    # The extension keeps to the stable ABI: one wheel serves every later Python.
    options["options"] = {"bdist_wheel": {"py_limited_api": "cp311"}}

setup(**options)
