"""Every number, size, offset and signedness in `pyvmm.abi` against the headers of Debian's libxen-dev.

A C program is generated that prints what the compiler makes of the real headers; nothing in it is a number of ours.
"""

from __future__ import annotations

import pkgutil
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import pyvmm.abi
from pyvmm.abi import errno, layout
from pyvmm.abi.io import xs_wire
from pyvmm.abi.layout import Array, Scalar, Struct, Union

pytestmark = pytest.mark.debian("libxen-dev", "gcc")

# LightVM's interface, in no Debian header: tests/abi/test_devctl.py compares it with the numbers that were published.
NOT_IN_HEADERS = {"pyvmm.abi.devctl", "pyvmm.abi.layout"}

CORE = "xen event_channel grant_table sched memory vcpu version features callback physdev platform domctl sysctl"
MORE = "elfnote nmi argo errno arch-x86/hvm/start_info arch-x86/cpuid"
IO = "io/ring io/console io/xs_wire io/xenbus io/protocols io/netif io/blkif"
HEADERS = [f"xen/{name}.h" for name in f"{CORE} {MORE} {IO}".split()]

PREAMBLE = """
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <errno.h>
#define __XEN_TOOLS__ 1
#define __XEN_INTERFACE_VERSION__ 0x00041100
"""

HELPERS = """
struct nothing {};
DEFINE_RING_TYPES(any, struct nothing, struct nothing);
#define NUMBER(key, value) printf("%s %lld\\n", key, (long long)(value));
#define TEXT(key, value) printf("%s %s\\n", key, value);
#define SIZE(key, type) printf("%s %zu\\n", key, sizeof(type));
#define MEMBER(key, type, path) printf("%s %zu+%zu\\n", key, offsetof(type, path), sizeof(((type *)0)->path));
#define SIGNED(key, type, path) printf("%s %d\\n", key, (__typeof__(((type *)0)->path))-1 < 0);
int main(void) {
"""


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(pyvmm.abi.__path__, "pyvmm.abi."):
        if not info.ispkg and info.name not in NOT_IN_HEADERS:
            yield import_module(info.name)


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """What the module itself declares: numbers, strings, structures."""
    for name, value in vars(module).items():
        if not name.startswith("__") and type(value) in (int, str, Struct, Union):
            yield name, value


def constant_in_c(module: ModuleType, name: str) -> str:
    if module.__name__ == "pyvmm.abi.errno":
        return f"XEN_{name}"
    if name.startswith("HYPERVISOR_") and not name.startswith("HYPERVISOR_VIRT"):
        return f"__{name}"
    return name


def type_in_c(name: str, value: Struct | Union) -> str:
    if name == "sring":
        return "struct any_sring"
    if name == "xen_uuid_t":
        return name
    return f"{'struct' if isinstance(value, Struct) else 'union'} {name}"


def checks(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """(key, what we say, the C statement that prints the key and what the header says)."""
    for name, value in public(module):
        if isinstance(value, str):
            yield name, value, f'TEXT("{name}", {constant_in_c(module, name)})'
        elif isinstance(value, int):
            signed = value - (1 << 64) if value >> 63 == 1 else value
            yield name, str(signed), f'NUMBER("{name}", {constant_in_c(module, name)})'
        elif isinstance(value, Struct | Union):
            yield from type_checks(name, value, type_in_c(name, value))


def type_checks(name: str, value: Struct | Union, c: str) -> Iterator[tuple[str, str, str]]:
    yield name, str(value.size), f'SIZE("{name}", {c})'
    for path, type_, offset in layout.walk(value):
        member = ".".join(part.rstrip("_") for part in path.split("."))
        key = f"{name}.{member}"
        if isinstance(type_, Array) and type_.count == 0:  # a flexible array member has no size
            yield key, str(offset), f'NUMBER("{key}", offsetof({c}, {member}))'
            continue
        yield key, f"{offset}+{type_.size}", f'MEMBER("{key}", {c}, {member})'
        element = type_
        while isinstance(element, Array):
            element, member = element.element, f"{member}[0]"
        if isinstance(element, Scalar) and element not in (layout.handle, layout.char):
            yield f"{key}:", str(int(element.name.startswith("s"))), f'SIGNED("{key}:", {c}, {member})'


def headers_say(statements: list[str], directory: Path) -> dict[str, str]:
    """Compiles and runs the statements; key to what the headers say."""
    source = directory / "check.c"
    includes = "".join(f"#include <{header}>\n" for header in HEADERS)
    source.write_text(PREAMBLE + includes + HELPERS + "\n".join(statements) + "\nreturn 0;\n}\n")
    program = directory / "check"
    built = subprocess.run(["gcc", "-w", "-O0", "-o", program, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[:4000]
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in output.splitlines())


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.__name__.removeprefix("pyvmm.abi."))
def test_equals_the_headers(module: ModuleType, tmp_path: Path) -> None:
    ours = {key: (value, statement) for key, value, statement in checks(module)}
    theirs = headers_say([statement for _, statement in ours.values()], tmp_path)
    assert theirs.keys() == ours.keys()
    assert {key: (value, theirs[key]) for key, (value, _) in ours.items() if theirs[key] != value} == {}
    declared = {name for name, _ in public(module)}
    assert declared <= theirs.keys()
    assert len(declared) > 0


def test_a_wrong_table_is_noticed(tmp_path: Path) -> None:
    """The comparison is alive: one member too small, one of the wrong sign, one moved."""
    wrong = Struct("evtchn_status", ("dom", layout.s16), ("port", layout.u16), ("status", layout.u32))
    ours = {key: (value, statement) for key, value, statement in type_checks("x", wrong, "struct evtchn_status")}
    theirs = headers_say([statement for _, statement in ours.values()], tmp_path)
    differing = {key for key, (value, _) in ours.items() if theirs[key] != value}
    assert differing == {"x", "x.dom:", "x.port", "x.status"}


def test_xenstore_errors(tmp_path: Path) -> None:
    loop = "for (size_t i = 0; i < sizeof(xsd_errors) / sizeof(*xsd_errors); i++)"
    theirs = headers_say([loop + " NUMBER(xsd_errors[i].errstring, xsd_errors[i].errnum)"], tmp_path)
    assert tuple(theirs) == xs_wire.XSD_ERRORS
    assert {name: int(number) for name, number in theirs.items()} == {name: getattr(errno, name) for name in theirs}


# What the headers define and we leave out on purpose. Anything else must be in the module that is called as the header.
OMITTED = {
    "xen": "xen_",  # aliases of members and types
    "event_channel": "",
    "grant_table": "GNTTABOP_error_msgs",
    "sched": "",
    "vcpu": "",
    "version": "",
    "features": "",
    "callback": "",
    "physdev": "",
    "elfnote": "",
    "memory": "XENMEM_(sharing_op_|SHARING_OP|FORK|paging_op_|access_op_)",
}


@pytest.mark.parametrize("name", OMITTED)
def test_nothing_is_left_out(name: str) -> None:
    """Every integer macro of the guest-facing headers is declared; bit numbers (`_GTF_reading`) are not."""
    text = PREAMBLE + f"#include <xen/{name}.h>\n"
    command = ["gcc", "-E", "-dD", "-x", "c", "-"]
    output = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    here, found = False, set()
    for line in output.splitlines():
        if marker := re.match(r'# \d+ "([^"]+)"', line):
            here = marker[1].endswith(f"/xen/{name}.h")
        elif here and (macro := re.match(r"#define (\w+) +(\S.*)", line)):
            found.add(macro[1])
    module = import_module(f"pyvmm.abi.{name}")
    declared = {constant_in_c(module, key) for key, value in public(module) if isinstance(value, int)}
    pattern = re.compile(rf"_[A-Z]|__XEN|DEFINE_|XEN_GUEST|{OMITTED[name] or '$^'}")
    missing = {macro for macro in found - declared if not pattern.match(macro) and not macro.endswith("_t")}
    assert len(found) > 5
    assert missing == set()
