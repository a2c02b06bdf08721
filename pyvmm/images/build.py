"""Builds the guest images from `guests/` with the pinned compiler: `pyvmm images build`.

There is no make: a guest is every file of `guests/kernel` and of its own folder, compiled one by one and linked in
the order of their names by `guests/kernel/kernel.ld`; functions and data that nothing refers to are left out. The
hypercall stubs and prototypes are generated from `hypercalls.list`. A guest may do without the kernel and bring its
own linker script. The compiler is the one in the `ziglang` wheel, whose output depends on nothing of the machine it
runs on, so that an image can be rebuilt and compared bit by bit.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pyvmm.images import DIRECTORY, MANIFEST, ImageRecord, Manifest

GUESTS = Path(__file__).parents[2] / "guests"
"""Where the sources are in a checkout; an installed package has images only."""

CFLAGS = (
    "-target", "x86_64-freestanding-none", "-std=c11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror",
    "-ffreestanding", "-fno-builtin", "-fno-pic", "-mcmodel=small", "-mno-red-zone",
    "-fno-stack-protector", "-fno-sanitize=undefined", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",  # so that every caller is on the stack
    "-fno-asynchronous-unwind-tables", "-fno-ident", "-ffunction-sections", "-fdata-sections",
    "-march=x86_64-x87-mmx-sse-sse2+soft_float",
)  # fmt: skip
"""No red zone and no vector registers: Xen pushes its frames right below rsp, and the handlers save integers only."""

LDFLAGS = ("-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,max-page-size=4096")


class BuildError(Exception):
    """The compiler is missing, or said no; the text is what it said."""


class Guest(NamedTuple):
    """One guest to build: its folder in `guests/`; whether it stands on the common kernel."""

    name: str
    description: str
    kernel: bool = True


ALL = (
    Guest("abicheck", "self-checking walk through the Xen PV ABI"),
    Guest("blkcheck", "writes patterns to a disk, verifies them, tries what must fail, says the disk's SHA-256"),
    Guest("crash", "comes to a bad end of the kind named on its command line"),
    Guest("daytime", "tells the time over UDP and answers pings"),
    Guest("dom0", "the control domain: a shell, five toolstack designs, back ends"),
    Guest("echo", "sends UDP datagrams back, or sends them and checks what comes back"),
    Guest("hello", "prints a greeting and facts about its domain"),
    Guest("measure", "measures what the hypervisor's own work costs, as dom0"),
    Guest("noop", "as little as can boot: says ready and blocks", kernel=False),
    Guest("splitcheck", "front end in one guest, back end in another"),
    Guest("xenstored", "the XenStore as a domain of its own, in two designs"),
)


def compiler() -> list[str]:
    """The pinned compiler's command; BuildError when the `ziglang` wheel is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError("the guests' compiler is the `ziglang` wheel, and it is not installed")
    return [sys.executable, "-m", "ziglang", "cc"]


def compiler_version() -> str:
    """Name and version of the pinned compiler, as the manifest records it."""
    return f"ziglang {importlib.metadata.version('ziglang')}"


def parse_hypercalls(text: str) -> list[tuple[int, str, str]]:
    """(number, name, C parameters) of each line of `hypercalls.list`."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            number, name, parameters = line.split(None, 2)
            found.append((int(number), name, parameters))
    return found


def generate(calls: Sequence[tuple[int, str, str]]) -> tuple[str, str]:
    """The stubs (assembly) and prototypes (a header) of the hypercalls."""
    stubs, header = [".text"], ["/* Generated from hypercalls.list. */", "#pragma once", '#include "xen.h"']
    for number, name, parameters in calls:
        stubs += [
            f".globl hypercall_{name}",
            f"hypercall_{name}:",
            "mov %rcx, %r10",
            f"jmp hypercall_page + {number * 32}",
        ]
        header.append(f"s64 hypercall_{name}({parameters});")
        header.append(f"#define HYPERVISOR_{name} {number}UL")
    stubs.append('.section .note.GNU-stack, "", @progbits')
    return "\n".join(stubs) + "\n", "\n".join(header) + "\n"


def _on_kernel(name: str) -> bool:
    return all(guest.kernel for guest in ALL if guest.name == name)


def source_files(name: str, guests: Path = GUESTS) -> list[Path]:
    """Every file that goes into guest `name`, sorted by path."""
    own = guests / name
    folders = (guests / "kernel", own) if _on_kernel(name) else (own,)
    return sorted(p for folder in folders for p in folder.iterdir() if p.suffix in (".c", ".h", ".S", ".ld", ".list"))


def sources_hash(name: str, guests: Path = GUESTS) -> str:
    """One sha256 over names and contents of guest `name`'s sources."""
    digest = hashlib.sha256()
    for file in source_files(name, guests):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(guests).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _run(command: Sequence[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def build(name: str, output: Path, guests: Path = GUESTS, cc: Sequence[str] | None = None) -> None:
    """Builds guest `name` into the file `output`.

    `cc` is a compiler of the user's own, called as the pinned one is (clang's options); results with such an image
    are not comparable with those of the shipped one. BuildError with the compiler's words when it fails.
    """
    command = list(cc) if cc is not None else compiler()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for file in source_files(name, guests):  # a private, flat copy: no path of this machine reaches the image
            folder = work / ("kernel" if file.parent.name == "kernel" else "guest")
            folder.mkdir(exist_ok=True)
            shutil.copy(file, folder / file.name)
        if _on_kernel(name):
            stubs, header = generate(parse_hypercalls((work / "kernel/hypercalls.list").read_text()))
            (work / "kernel/hypercalls.S").write_text(stubs)
            (work / "kernel/hypercalls.h").write_text(header)
        script = work / ("kernel/kernel.ld" if _on_kernel(name) else f"guest/{name}.ld")
        sources = sorted(p.relative_to(work) for p in work.rglob("*") if p.suffix in (".c", ".S"))
        objects = [str(s).replace("/", "_") + ".o" for s in sources]
        jobs = [
            [*command, *CFLAGS, "-Ikernel", "-Iguest", "-c", str(source), "-o", object_]
            for source, object_ in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: _run(job, work), jobs))
        link = [*command, "-target", "x86_64-freestanding-none", *LDFLAGS, "-T", str(script)]
        _run([*link, "-o", "image", *objects], work)
        shutil.copyfile(work / "image", output)
        if _on_kernel(name):
            lines = [f"{s} {' '.join(_functions(work / o))}\n" for s, o in zip(sources, objects, strict=True)]
            output.with_name(f"{output.name}.functions").write_text("".join(lines))


def _functions(object_: Path) -> list[str]:
    """The global functions that an object file defines. (The image's symbol table has the files of local ones only.)"""
    with object_.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        return sorted(
            s.name
            for s in (table.iter_symbols() if isinstance(table, SymbolTableSection) else ())
            if s["st_info"]["bind"] == "STB_GLOBAL"
            and s["st_shndx"] != "SHN_UNDEF"
            and s["st_info"]["type"] != "STT_OBJECT"
        )


def record(guest: Guest, file: Path, guests: Path = GUESTS) -> ImageRecord:
    """The manifest's entry for an image just built."""
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    return ImageRecord(
        file=file.name, description=guest.description, sha256=sha, sources=sources_hash(guest.name, guests)
    )


def build_all(directory: Path = DIRECTORY, guests: Path = GUESTS, only: Sequence[str] = ()) -> Manifest:
    """Builds all guests (or `only` the named) into `directory` and writes its manifest."""
    file = directory / MANIFEST.name
    images: dict[str, ImageRecord] = json.loads(file.read_text())["images"] if file.exists() else {}
    for guest in ALL:
        if not only or guest.name in only:
            build(guest.name, directory / guest.name, guests)
            images[guest.name] = record(guest, directory / guest.name, guests)
    result = Manifest(
        compiler=compiler_version(), flags=" ".join((*CFLAGS, *LDFLAGS)), images=dict(sorted(images.items()))
    )
    file.write_text(json.dumps(result, indent=2) + "\n")
    return result


def main(arguments: Sequence[str]) -> int:
    """`python -m pyvmm.images.build [NAME...]`: rebuild the shipped images."""
    known = {guest.name for guest in ALL}
    if unknown := [a for a in arguments if a not in known]:
        print(f"no such guest: {' '.join(unknown)}; there are: {' '.join(sorted(known))}", file=sys.stderr)
        return 2
    try:
        result = build_all(only=arguments)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for name, image in result["images"].items():
        print(f"{name}: {image['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
