"""What README.md shows is what happens."""

import doctest
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_demo_prints_what_the_readme_shows() -> None:
    """To the digit: counts are the same everywhere. After a change of the guest, paste the new output."""
    shown = re.search(r"<!-- output of ./demo -->\n```\n(.*?)```\n", README.read_text(), re.DOTALL)
    assert shown is not None
    result = subprocess.run([ROOT / "demo"], capture_output=True, text=True, check=True)
    assert result.stdout == shown[1]


def test_python_example() -> None:
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert (failed, tried) == (0, 6)


def test_files_it_names_exist() -> None:
    names = re.findall(r"\]\(([^)#:]+)\)|`((?:pyvmm|guests|tests|bench|\.ci)/[\w./]*)`", README.read_text())
    paths = [link or path for link, path in names]
    assert len(paths) > 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
