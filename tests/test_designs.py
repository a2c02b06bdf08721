"""Designs of a user's own in `pyvmm compare`: in C, as an image of dom0, in Python; and what is wrong with them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyvmm import compare, images, native
from pyvmm.cli.compare import command
from pyvmm.compare import CommandError
from pyvmm.designs import Own, designs_in, load
from pyvmm.errors import PyvmmError
from pyvmm.images import build
from tests.running import ROOT, pyvmm

C = """
#include "design.h"
static int reserve(struct guest *g) { return step_reserve(g, false, false); }
static const struct phase phases[] = {
    {"reserve", reserve, undo_reserve}, {"devices", step_noxs_devices, undo_noxs_devices}, {"load", step_load, NULL},
    {"run", step_run, NULL}, {0},
};
DESIGN(own, "own-c", "a design of one file", .needs_noxs = true, .phases = phases);
static int nothing(struct guest *g) { return *(volatile int *)8 + (g == NULL); }
static const struct phase ends[] = {{"nothing", nothing, NULL}, {0}};
DESIGN(bad, "bad-c", "comes to a bad end", .phases = ends);

#define MADE {"reserve", reserve, undo_reserve}, {"load", step_load, NULL}
static int strike(struct guest *g) { return xc_domain_shutdown(g->domid, SHUTDOWN_crash); }
static int stop(struct guest *g) { return xc_domain_shutdown(g->domid, SHUTDOWN_poweroff); }
static int remove_it(struct guest *g) { return xc_domain_destroy(g->domid); }
#define RUN {"run", step_run, NULL}
static const struct phase asleep[] = {MADE, {0}}, empty[] = {{"reserve", reserve, undo_reserve}, RUN, {0}},
    struck[] = {MADE, RUN, {"strike", strike, NULL}, {0}}, stopped[] = {MADE, {"stop", stop, NULL}, {0}},
    removed[] = {MADE, RUN, {"remove", remove_it, NULL}, {0}};
DESIGN(d1, "asleep-c", "unpauses nothing", .phases = asleep);
DESIGN(d2, "empty-c", "loads nothing", .phases = empty);
DESIGN(d3, "struck-c", "crashes it", .phases = struck);
DESIGN(d4, "stopped-c", "ends it", .phases = stopped);
DESIGN(d5, "removed-c", "destroys it", .phases = removed);
"""
ENDS = {
    "asleep": r"was left paused: no row without its boot$",
    "empty": r"has not executed any instruction: no row without its boot$",
    "struck": r"crashed$",
    "stopped": r"has ended \(poweroff\), and should go on running$",
    "removed": r"is gone, and should go on running$",
}
LINKED = """
#include "design.h"
int elsewhere(struct guest *g);
static const struct phase phases[] = {{"elsewhere", elsewhere, NULL}, {0}};
DESIGN(own, "own", "is not all there", .phases = phases);
"""
PYTHON = """
from dataclasses import dataclass
from pyvmm.toolstack.xl import Xl

@dataclass
class Note:
    text: str

class Own(Xl):
    name = "own-py"

    def create(self, plan, identity):
        self.xs.write("/note", Note("one more").text)
        return super().create(plan, identity)
"""

needs_compiler = pytest.mark.skipif(not build.GUESTS.is_dir(), reason="the guests' sources are in a checkout only")


def _written(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


@pytest.fixture(scope="module")
def own_c(tmp_path_factory: pytest.TempPathFactory) -> list[Own]:
    folder = tmp_path_factory.mktemp("own")
    return load([_written(folder, "mine.c", C)], folder)


def test_our_image_has_our_designs() -> None:
    """The table in dom0's image says of each what `compare` takes it to need."""
    found = {facts.name: facts for facts in designs_in(images.path("dom0").read_bytes())}
    assert set(found) == set(compare.DESIGNS)
    for name, facts in found.items():
        ours = compare.DESIGNS[name]
        assert (facts.shells, facts.xenstore) == (ours.shells, ours.xenstore), name


@needs_compiler
def test_a_design_in_c(own_c: list[Own], tmp_path: Path) -> None:
    """It does what chaos-noxs does, in a file of its own: the same guest, the same classes but for what is its own. The
    image it is in can be named in its place."""
    assert {one.name for one in own_c} == {"own-c", "bad-c", *(f"{name}-c" for name in ENDS)}
    own = next(one for one in own_c if one.name == "own-c")
    assert not own.facts.xenstore and not own.facts.shells and own.dom0 is not None
    image = tmp_path / "prebuilt"
    shutil.copy(own.dom0, image)
    shutil.copy(own.dom0.with_name("dom0.functions"), tmp_path / "prebuilt.functions")
    (again,) = (one for one in load([str(image)], tmp_path) if one.name == "own-c")
    assert again.sha256 == own.sha256 and again.facts == own.facts
    rows = {}
    for one in (own, again):
        rows[one.dom0] = compare.sweep("own-c", "noop", (1, 2), dom0=one.dom0, own=one.facts)
    (first, second), (same, _) = rows.values()
    assert first[0] == same[0]
    (ours,) = compare.sweep("chaos-noxs", "noop", (2,))
    row, profile = second
    assert (row.classes["load"], row.classes["boot"]) == (ours[0].classes["load"], ours[0].classes["boot"])
    assert row.hypercalls == ours[0].hypercalls and row.store_messages == 0
    files = {file: name for _, _, path, _ in profile.paths() for name, file in path}
    assert "design_mine.c" in files and files["design_mine.c"] == "reserve"


@needs_compiler
def test_a_design_in_c_that_crashes_is_one_line(own_c: list[Own]) -> None:
    bad = next(one for one in own_c if one.name == "bad-c")
    with pytest.raises(CommandError, match=r"^bad-c: dom0 ended") as caught:
        compare.sweep("bad-c", "noop", (1,), dom0=bad.dom0, own=bad.facts)
    assert "\n" not in str(caught.value)
    assert re.search(r": trap 14 .* cr2 8: panic: nobody expected this trap$", str(caught.value))  # as dom0 told it


@needs_compiler
@pytest.mark.parametrize("name", ENDS)
def test_a_guest_that_does_not_run_is_no_row(own_c: list[Own], name: str) -> None:
    """Whether its creation is measured or one of those before."""
    own = next(one for one in own_c if one.name == f"{name}-c")
    for wanted in ((1,), (2,)):
        with pytest.raises(CommandError, match=rf"^{name}-c: guest 1, domain 1, {ENDS[name]}"):
            compare.sweep(own.name, "noop", wanted, dom0=own.dom0, own=own.facts)


def test_a_guest_before_that_does_not_run_any_more() -> None:
    """The n-th guest is to meet n - 1 others: they are looked at when it is measured."""
    control = compare.Control("chaos-noxs", "noop", 3)
    control.create(1)
    control.create(2)
    control.command("destroy noop00001")
    with pytest.raises(CommandError, match=r"^chaos-noxs: guest 1, domain 1, is gone, and should go on running$"):
        control.measure(3)


def test_a_crash_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """xl's design has taken the guest away before the window ends: it is known all the same."""

    class Panics(compare.GuestFacts):
        def config(self, number: int) -> bytes:
            return json.dumps({**json.loads(super().config(number)), "cmdline": "way=panic"}).encode()

    monkeypatch.setitem(compare.GUESTS, "crash", Panics("crash", 8, False))
    for design in ("xl", "chaos-noxs"):
        with pytest.raises(
            CommandError, match=rf"^{design}: guest 1, domain \d, crashed: the guest's kernel shut itself"
        ) as caught:
            compare.sweep(design, "crash", (1,))
        assert "\n" not in str(caught.value)
    with pytest.raises(CommandError, match=r"^xl: guest 1, domain \d, is gone, and should go on running$"):
        compare.sweep("xl", "crash", (2,))


def test_a_design_in_python(tmp_path: Path) -> None:
    """No instruction of its own is executed; its guest's, and all crossings, are counted, the same every time."""
    file = _written(tmp_path, "own.py", PYTHON)
    (own,) = load([file], tmp_path)
    assert own.name == "own-py" and own.dom0 is None
    found = native.measure("own-py", Path(file), "daytime", (1, 3))
    for (row, paths, prepared), n in zip(found, (1, 3), strict=True):
        assert row["native"] and row["n"] == n and not prepared["stacks"] and row["prepare"] == 0
        assert row["total"] == row["classes"]["boot"] > 10_000
        assert sum(row["classes"].values()) == row["total"] == sum(stack[-1] for stack in paths["stacks"])
        assert row["messages"]["toolstack"] > 100 and row["messages"]["guests"] > 10
        assert row["store_messages"] == sum(row["messages"].values())
        assert row["hypercalls"] > 100 and row["events"] > 10 and row["switches"] > 10
    assert native.measure("own-py", Path(file), "daytime", (1, 3)) == found
    plain = tmp_path / "plain.py"
    plain.write_text(PYTHON.replace('        self.xs.write("/note", Note("one more").text)\n', ""))
    (row, _, _), _ = native.measure("own-py", plain, "daytime", (1, 3))
    assert row["messages"]["toolstack"] == found[0][0]["messages"]["toolstack"] - 1


def test_it_takes_part(tmp_path: Path) -> None:
    file, rows = _written(tmp_path, "own.py", PYTHON), tmp_path / "rows.json"
    arguments = ["--designs", "lightvm", "--design", file, "--guest", "noop", "-n", "2"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "own-py: dom0 is Python" in result.output
    result = CliRunner().invoke(command, [*arguments, "--json", str(rows)], catch_exceptions=False)
    found = json.loads(rows.read_text())
    assert [row["design"] for row in found] == ["lightvm", "own-py"] and found[1]["native"] and "native" not in found[0]


def test_what_a_python_design_prints_is_no_row(tmp_path: Path) -> None:
    """It goes to stderr: of its module, its methods, and processes that it starts."""
    text = f"""
import os, sys
print("one", file=sys.__stdout__)
os.system("echo two")
{PYTHON}
        print("three")
"""
    text = text.replace("return super().create(plan, identity)", "os.system('echo four')").replace(
        'print("three")', 'print("three")\n        return super().create(plan, identity)'
    )
    run = pyvmm(
        "compare", "--designs", "own-py", "--design", _written(tmp_path, "own.py", text), "--json", "-", "-n", "1"
    )
    assert run.status == 0 and [row["design"] for row in json.loads(run.out)] == ["own-py"]
    assert {"one", "two", "three", "four"} <= set(run.err.split())


@needs_compiler
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (C.replace("step_load", "step_lod"), r"x\.c:5:\d+: error: use of undeclared identifier 'step_lod'"),
        (C.replace("*g) { return step_r", "*g) { int unused; return step_r"), r"x\.c:3:\d+: error: unused variable"),
        (LINKED, r"x\.c: ld\.lld: error: undefined symbol: elsewhere"),
    ],
)
def test_what_does_not_compile(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PyvmmError, match=said) as caught:
        load([_written(tmp_path, "x.c", text)], tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / "x.c") in str(caught.value)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _written(tmp_path, "x.c", C)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PyvmmError, match=r"x\.c: the guests' compiler is the `ziglang` wheel, and it is not installed"):
        load([file], tmp_path)
    monkeypatch.setattr(build, "GUESTS", tmp_path / "nowhere")
    with pytest.raises(PyvmmError, match="designs in C are compiled in a checkout"):
        load([file], tmp_path)


XL = "from pyvmm.toolstack.xl import Xl\nclass A(Xl):\n    name = 'a'\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.py", "def x(:", r"x\.py:1: invalid syntax$"),
        ("x.py", "\nimport nothing_such", r"x\.py:2: ModuleNotFoundError: No module named 'nothing_such'$"),
        ("x.py", "\nraise SystemExit('enough')", r"x\.py:2: SystemExit: enough$"),
        ("x.py", "x = 1", r"x\.py defines no design of its own$"),
        ("x.py", "class A:\n    name = 'a'\n    def create(self): pass\n", r"x\.py: the design A has no prepare"),
        ("x.py", XL.replace("'a'", "'xl'"), r"x\.py: there is a design called xl already$"),
        ("x.py", XL.replace("'a'", "'A b'"), r"x\.py: 'A b' is no name for a design"),
        ("x.py", XL + "class B(A):\n    pass\n", r"x\.py: two designs have the same name$"),
        ("x", "hello", r"x is no image of dom0 that could be read"),
    ],
)
def test_what_is_no_design(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(PyvmmError, match=said) as caught:
        load([_written(tmp_path, name, text)], tmp_path)
    assert "\n" not in str(caught.value)


def test_images_that_have_none(tmp_path: Path) -> None:
    for name in ("hello", "noop", "dom0"):
        with pytest.raises(PyvmmError, match="defines no design of its own"):
            load([str(images.path(name))], tmp_path)
    whole = images.path("dom0").read_bytes()
    for length in (0, 3, 64, 5000, len(whole) - 64):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(PyvmmError, match=r"cut is no image of dom0 that could be read|no design of its own"):
            load([str(tmp_path / "cut")], tmp_path)
    for missing in (tmp_path / "missing.c", tmp_path):
        with pytest.raises(PyvmmError, match="cannot read the design"):
            load([str(missing)], tmp_path)


PREPARE = """
    def prepare(self, config):
        from dataclasses import replace
        from pyvmm import images
        return super().prepare(replace(config, {}))
"""
CRASHING = "image=images.path('crash').read_bytes(), cmdline='way=panic'"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    def create(self, plan, identity):\n        return {}['x']\n", r"^a: .*x\.py:5: KeyError: 'x'$"),
        ("    def __init__(self):\n        pass\n", r"^a: .*x\.py:1: TypeError: .*takes 1 positional argument"),
        (
            "    def create(self, plan, identity):\n        raise SystemExit\n",
            r"x\.py:5: SystemExit: no more is known$",
        ),
        ("    def __init__(self, *a):\n        import sys; sys.exit(3)\n", r"^a: .*x\.py:5: SystemExit: 3$"),
        (
            "    def create(self, plan, identity):\n        pass\n",
            r"^a: a: its create gave None: expected what was built",
        ),
        (PREPARE.format("paused=True"), r"^a: guest 1, domain 1, was left paused: no row without its boot$"),
        (PREPARE.format(CRASHING), r"^a: guest 1, domain 1, crashed: the guest's kernel shut itself down"),
    ],
)
def test_a_python_design_that_fails_is_one_line(tmp_path: Path, body: str, said: str) -> None:
    file = _written(tmp_path, "x.py", XL + body)
    with pytest.raises(CommandError, match=said):
        native.measure("a", Path(file), "noop", (1,))


@needs_compiler
def test_the_documentations_examples(tmp_path: Path) -> None:
    """Both designs in docs/compare.md are designs, as they stand there."""
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    c, python = (text.split(f"```{language}\n")[1].split("```")[0] for language in ("c", "python"))
    found = load([_written(tmp_path, "mine.c", c), _written(tmp_path, "mine.py", python)], tmp_path)
    assert [own.name for own in found] == ["mine", "announced"]
    (row, _) = compare.sweep("mine", "noop", (1,), dom0=found[0].dom0, own=found[0].facts)[0]
    assert row.total > 10_000
    ((made, _, _),) = native.measure("announced", found[1].source, "noop", (2,))
    assert made["store_messages"] > 50


@needs_compiler
def test_a_change_in_one_function_changes_only_what_it_should(tmp_path: Path) -> None:
    """A loop of a hundred rounds in a function of chaos over the XenStore, and a text that moves all others to other
    places: its class grows by that, in those creations alone; no other function takes more or less, in any design."""
    guests = tmp_path / "guests"
    shutil.copytree(build.GUESTS, guests)
    file = guests / "dom0/chaos_xs.c"
    first = "static int introduced(struct guest *g)\n{\n"
    loop = "    for (volatile int i = 0; i < 100; i++)\n        ;\n"
    words = '    if (g->domid > 30000)\n        return guest_fail(g, -EINVAL, "one more");\n'
    changed = file.read_text().replace(first, first + loop + words)
    assert changed != file.read_text()
    file.write_text(changed)
    build.build("dom0", tmp_path / "dom0", guests)
    for design in compare.DESIGNS:
        (before, profile), (after, other) = (
            compare.sweep(design, "noop", (2,), dom0=path)[0] for path in (images.path("dom0"), tmp_path / "dom0")
        )
        more = {name: n - before.classes[name] for name, n in after.classes.items() if n != before.classes[name]}
        if design.startswith("chaos-xs"):
            assert set(more) == {"toolstack"} and 300 < more["toolstack"] < 1000
            assert after.total - before.total == more["toolstack"]
        else:
            assert not more and after.total == before.total
        counts, others = profile.functions(), other.functions()
        moved = {function for key in counts | others if counts[key] != others[key] for function in key[2:]}
        assert moved == ({"introduced"} if design.startswith("chaos-xs") else set())
        same = ("messages", "transactions", "hypercalls", "events", "switches")
        assert [getattr(before, name) for name in same] == [getattr(after, name) for name in same]
