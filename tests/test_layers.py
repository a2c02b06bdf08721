"""The layers of docs/design.md: imports point down only."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_imports_point_down() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    """The contract is alive: a copy in which the machine imports the abi does not pass."""
    for path in [".importlinter", *(str(p.relative_to(ROOT)) for p in (ROOT / "pyvmm").rglob("*.py"))]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    with (tmp_path / "pyvmm/machine/cpu.py").open("a") as file:
        file.write("\nimport pyvmm.abi.xen\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert "pyvmm.machine.cpu -> pyvmm.abi.xen" in result.stdout
