"""Which function, of which source file, an address of a guest's kernel belongs to.

An image's symbol table names the files of its local functions; for the global ones there is the list that the builder
writes beside the image (`NAME.functions`: a file and its functions, a line each). Without a table everything is "?".
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

EXECUTABLE = 4  # SHF_EXECINSTR
UNKNOWN = "?"


@dataclass(frozen=True)
class Functions:
    """An image's functions by address. Index 0 is "?": whatever lies before the first."""

    starts: npt.NDArray[np.uint64]
    names: tuple[str, ...]
    files: tuple[str, ...]

    def find(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The index of the function that each address lies in."""
        return np.searchsorted(self.starts, addresses, side="right") - 1

    def of(self, addresses: Iterable[int]) -> list[tuple[str, str]]:
        """The function and file that each address lies in."""
        found = self.find(np.array(list(addresses), np.uint64)).tolist()
        return [(self.names[i], self.files[i]) for i in found]


def _file_lists(path: Path) -> dict[str, str]:
    beside = path.with_name(f"{path.name}.functions")
    if not beside.exists():
        return {}
    lines = (line.split() for line in beside.read_text(encoding="utf-8").splitlines())
    return {name: Path(words[0]).name for words in lines if words for name in words[1:]}


def functions_of(path: Path) -> Functions:
    """The functions of the kernel file `path`; only "?" when it is no ELF file or has no symbols."""
    known = _file_lists(path)
    found: dict[int, tuple[str, str]] = {0: (UNKNOWN, UNKNOWN)}
    try:
        elf = ELFFile(io.BytesIO(path.read_bytes()))
        table = elf.get_section_by_name(".symtab")
        sections = list(elf.iter_sections())
    except ELFError:
        table = None
    file = UNKNOWN
    for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
        kind, section = symbol["st_info"]["type"], symbol["st_shndx"]
        if kind == "STT_FILE":
            file = symbol.name
        elif isinstance(section, int) and kind in ("STT_FUNC", "STT_NOTYPE") and symbol.name:
            if not sections[section]["sh_flags"] & EXECUTABLE:
                continue
            local = symbol["st_info"]["bind"] == "STB_LOCAL"
            entry = (symbol.name, file if local else known.get(symbol.name, UNKNOWN))
            if not local or symbol["st_value"] not in found:
                found[symbol["st_value"]] = entry
    starts = sorted(found)
    return Functions(
        np.array(starts, np.uint64), tuple(found[s][0] for s in starts), tuple(found[s][1] for s in starts)
    )
