"""Designs of a user's own that take part in a comparison: a C file, an image of dom0, a Python file.

A C file is compiled into a dom0 of its own, with all that ours has (`guests/dom0/design.h` says what a design is). A
Python file has classes that fit `pyvmm.toolstack.design.Design`. All are known by the names that they give themselves.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pyvmm import native
from pyvmm.compare import DESIGNS, DesignFacts
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.images import build

LARGEST = 64 << 20  # bytes of a file that is looked at
ENDS = ("designs_start", "designs_end")  # of the table, in guests/kernel/kernel.ld
LONGEST = 256  # bytes of a name
DESIGN = struct.Struct("<QQ???")  # the beginning of struct design in guests/dom0/design.h
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
DIAGNOSIS = re.compile(r"^(?:ld\.lld: )?(?:.*?: )?(?:fatal )?error: .*$", re.MULTILINE)


@dataclass(frozen=True)
class Own:
    """One of them. `source`: the file that it is in, as it was named; `sha256` of what runs; `dom0`: the image that has
    it, None for a Python design."""

    facts: DesignFacts
    source: Path
    sha256: str
    dom0: Path | None

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.facts.name


def load(files: Iterable[str], work: Path) -> list[Own]:
    """The designs of these files; `work` is a directory for what is compiled. `ConfigError` or `PyvmmError`: one line
    that says which file has what wrong with it."""
    found: list[Own] = []
    for number, name in enumerate(files):
        file = Path(name)
        data = _read(file)
        if file.suffix == ".py":
            new = _python(file, data)
        elif file.suffix == ".c":
            new = _image(file, compiled(file, work / str(number)))
        else:
            new = _image(file, file)
        if not new:
            raise ConfigError(f"{file} defines no design of its own")
        taken = {*DESIGNS, *(own.name for own in found)}
        for own in new:
            if not NAME.fullmatch(own.name):
                raise ConfigError(f"{file}: {own.name!r} is no name for a design: small letters, digits and dashes")
            if own.name in taken:
                raise ConfigError(f"{file}: there is a design called {own.name} already")
            taken.add(own.name)
        found += new
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the design {file}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{file} is no design: larger than {LARGEST >> 20} MiB")
    return data


def _python(file: Path, data: bytes) -> list[Own]:
    sha = hashlib.sha256(data).hexdigest()
    names = [str(getattr(one, "name", "")) for one in native.load(file)]
    if len(set(names)) != len(names):
        raise ConfigError(f"{file}: two designs have the same name")
    return [Own(DesignFacts(name, name, False, True), file, sha, None) for name in names]


def compiled(file: Path, work: Path) -> Path:
    """Our dom0 with the design in `file`, built below `work`. `PyvmmError` with the compiler's first error."""
    if not build.GUESTS.is_dir():
        raise PyvmmError(f"{file}: dom0's sources are not here: designs in C are compiled in a checkout of pyvmm")
    guests, inside = work / "guests", f"design_{file.stem}.c"
    for folder in ("kernel", "dom0"):
        shutil.copytree(build.GUESTS / folder, guests / folder)
    if (guests / "dom0" / inside).exists():
        raise ConfigError(f"{file}: dom0 has a file of that name; call it otherwise")
    shutil.copyfile(file, guests / "dom0" / inside)
    image = work / "dom0"
    try:
        _check(guests, inside)  # before all the rest is compiled
        build.build("dom0", image, guests)
    except build.BuildError as error:
        text = str(error)
        first = DIAGNOSIS.search(text)
        said = first.group().strip() if first else text.strip().splitlines()[-1]
        said = said.replace(inside, str(file)).replace("guest/", "")
        raise PyvmmError(said if str(file) in said else f"{file}: {said}") from None
    return image


def _check(guests: Path, inside: str) -> None:
    """`BuildError` when the design's own file does not compile."""
    calls = build.parse_hypercalls((guests / "kernel" / "hypercalls.list").read_text())
    with tempfile.TemporaryDirectory() as generated:
        (Path(generated) / "hypercalls.h").write_text(build.generate(calls)[1])
        folders = ["-I../kernel", "-I.", f"-I{generated}"]
        command = [*build.compiler(), *build.CFLAGS, *folders, "-c", inside, "-o", f"{generated}/object"]
        done = subprocess.run(command, cwd=guests / "dom0", capture_output=True, text=True)
    if done.returncode:
        raise build.BuildError(f"{done.stdout}{done.stderr}")


def _image(source: Path, image: Path) -> list[Own]:
    """The designs that an image of dom0 has besides ours."""
    data = image.read_bytes()
    try:
        every = designs_in(data)
    except (ELFError, struct.error, UnicodeDecodeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{source} is no image of dom0 that could be read" + (f": {said}" if said else "")) from None
    names = [facts.name for facts in every]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{source}: there is a design called {twice[0]} already")
    sha = hashlib.sha256(data).hexdigest()
    return [Own(facts, source, sha, image) for facts in every if facts.name not in DESIGNS]


def designs_in(image: bytes) -> list[DesignFacts]:
    """The designs in the table of a dom0's image, by its symbols; none when it has no such table. `ELFError`,
    `ValueError` for what is no such file."""
    elf = ELFFile(io.BytesIO(image))
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return []
    ends = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols() if symbol.name in ENDS}
    if set(ends) != set(ENDS):
        return []
    start, end = (ends[name] for name in ENDS)
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]

    def read(address: int, size: int) -> bytes:
        for segment in loads:
            offset = address - segment["p_vaddr"]
            if offset >= 0 and offset + size <= segment["p_filesz"]:
                at = segment["p_offset"] + offset
                return image[at : at + size]
        raise ValueError(f"it points to {address:#x}, where it has nothing")

    def text(address: int) -> str:
        length = 0
        while length < LONGEST and read(address + length, 1) != b"\0":
            length += 1
        return read(address, length).decode()

    found = []
    for at in range(start, end, 8):
        (design,) = struct.unpack("<Q", read(at, 8))
        name, _, xenstore, _, shells = DESIGN.unpack(read(design, DESIGN.size))
        found.append(DesignFacts(text(name), text(name), shells, xenstore))
    return found


__all__ = ["Own", "compiled", "designs_in", "load"]
