"""The tour in docs/design.md is what the modules say of themselves. `python -m tests.test_docs` writes it again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.running import ROOT

PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- tour: begin -->", "<!-- tour: end -->"
ORDER = ("machine", "abi", "hypervisor", "xenstore", "xenbus", "backends", "toolstack", "images", "report", "cli")


def first_sentence(file: Path) -> str:
    """What a module is, from its docstring: the first sentence or line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0].rstrip(".:")


def tour() -> str:
    """The tour: a list a package, a line a module."""
    root = ROOT / "pyvmm"
    packages = sorted((p for p in root.rglob("__init__.py")), key=lambda p: p.parts)
    known = [p.parent.relative_to(root) for p in packages]
    known.sort(key=lambda p: ([-1] if not p.parts else [ORDER.index(p.parts[0])], p.parts))
    lines = []
    for package in known:
        folder = root / package
        lines.append(f"\n**`pyvmm/{package}/`** {first_sentence(folder / '__init__.py')}.\n".replace("/./", "/"))
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                lines.append(f"- `{file.name}`: {first_sentence(file)}")
    return "\n".join(lines).strip() + "\n"


def test_tour_is_true() -> None:
    """No module is missing, none is described by words that are not its own."""
    text = PAGE.read_text(encoding="utf-8")
    written = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() + "\n"
    assert written == tour(), "write it again: python -m tests.test_docs"


def test_links_lead_somewhere() -> None:
    """Every relative link in README and docs is a file of this repository."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if BEGIN not in page:
        page += f"\n## Tour, file by file\nWhat each module says of itself.\n\n{BEGIN}\n{END}\n"
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{tour()}{END}{rest.split(END)[1]}", encoding="utf-8")
