"""Flame graphs, figures and their page: true to the counts, the same bytes every time, nothing from outside."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from pyvmm import compare
from pyvmm.cli.compare import command as compare_command
from pyvmm.cli.figures import command
from pyvmm.cli.sweeps import Kept, Measured, Sweep, run
from pyvmm.report import figures, figures_tables
from pyvmm.report.creations import Creations
from pyvmm.report.figures_paper import POINTS, UNIKERNEL, curve, paper
from pyvmm.report.flame import NARROW, SIDE, WIDTH, difference, flame
from pyvmm.report.stacks import Stack, unpack

SVG = "{http://www.w3.org/2000/svg}"

BEFORE: list[Stack] = [
    ("dom0", "dom0", (("run", "main.c"), ("config_parse", "config.c")), 300),
    ("dom0", "dom0", (("run", "main.c"),), 100),
    ("d7", "guest", (("_start", "entry.S"), ("a<b>&c", "x.c")), 600),
]
AFTER: list[Stack] = [
    ("dom0", "dom0", (("run", "main.c"), ("config_parse", "config.c")), 900),
    ("d9", "guest", (("_start", "entry.S"),), 600),
]


def _frames(svg: str) -> dict[str, tuple[float, float, float]]:
    """Of each frame by its title: left side, top, width."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is not None and rect is not None:
            found[str(title.text)] = tuple(float(rect.attrib[name]) for name in ("x", "y", "width"))
    return found  # type: ignore[return-value]


def test_a_flame_graph_is_as_wide_as_the_counts() -> None:
    frames = _frames(flame("one", BEFORE))
    all_of_it = frames["all: 1,000 instructions, 100.00%"]
    assert all_of_it[0] == SIDE and all_of_it[2] == WIDTH - 2 * SIDE
    whole = all_of_it[2]
    assert frames["config_parse (config.c), config: 300 instructions, 30.00%"][2] == pytest.approx(0.3 * whole)
    assert frames["run (main.c), toolstack: 400 instructions, 40.00%"][2] == pytest.approx(0.4 * whole)
    guest = frames["the guest, boot: 600 instructions, 60.00%"]
    escaped = frames["a<b>&c (x.c), boot: 600 instructions, 60.00%"]
    assert guest[0] == escaped[0] and guest[2] == escaped[2] == pytest.approx(0.6 * whole)
    assert escaped[1] < guest[1] < all_of_it[1]  # callees above


def test_a_difference_has_the_frames_of_both() -> None:
    svg = difference("both", "one", BEFORE, "two", AFTER)
    frames = _frames(svg)
    assert "config_parse (config.c), config: one 300, two 900: +600" in frames
    assert "a<b>&c (x.c), boot: one 600, two 0: -600" in frames
    assert "all: one 1,000, two 1,500: +500" in frames
    at = frames["config_parse (config.c), config: one 300, two 900: +600"]
    assert at[2] == pytest.approx(900 / (900 + 100 + 600 + 600) * (WIDTH - 2 * SIDE), abs=0.1)


@pytest.fixture(scope="module")
def measured() -> dict[str, list[Measured]]:
    """Creations 1 and 3 of noop by each design."""
    return {
        design: [Measured(*pair) for pair in compare.measure(design, "noop", (1, 3), store="o")]
        for design in compare.DESIGNS
    }


def _creations(measured: dict[str, list[Measured]]) -> dict[str, Creations]:
    return {d: Creations.of([one.row for one in m], [unpack(one.paths) for one in m]) for d, m in measured.items()}


def test_real_creations_as_flame_graphs(measured: dict[str, list[Measured]]) -> None:
    """Frames on top of another are together no wider than it; what is left out is too narrow to be seen."""
    for one in (every[-1] for every in measured.values()):
        svg = flame("x", unpack(one.paths))
        assert svg == flame("x", unpack(one.paths))
        assert "<script" not in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "")
        frames = sorted(_frames(svg).values(), key=lambda f: (f[1], f[0]))
        assert all(width >= NARROW - 0.05 for _, _, width in frames)
        for (x, y, width), (next_x, next_y, _) in pairwise(frames):
            assert y != next_y or x + width <= next_x + 0.15, "no overlap within a level"


def test_figures_are_the_same_bytes(measured: dict[str, list[Measured]]) -> None:
    rows: Any = {(design, "noop"): [one.row for one in every] for design, every in measured.items()}
    titles = {name: facts.title for name, facts in compare.DESIGNS.items()}
    for draw in (
        lambda: figures.figure_4(rows),
        lambda: figures.figure_5(rows["xl", "noop"]),
        lambda: figures.figure_9(rows, "noop", titles),
        lambda: figures.figure_10(rows["lightvm", "noop"]),
    ):
        svg = draw()
        assert svg == draw() and ElementTree.fromstring(svg).tag == f"{SVG}svg"


def test_ratios_stand_beside_the_papers(measured: dict[str, list[Measured]]) -> None:
    rows: Any = {(design, "noop"): [one.row for one in every] for design, every in measured.items()}
    titles = {name: facts.title for name, facts in compare.DESIGNS.items()}
    every = _creations(measured)
    table = figures_tables.table_9(every, titles)
    lines = {line[0]: dict(zip(table.heads[1:], line[1:], strict=True)) for line in table.rows}
    made = {d: [r["total"] - r["classes"]["boot"] for r in rows[d, "noop"]] for d in titles}
    assert lines["xl"]["create, 1st"] == f"{made['xl'][0]:,}"
    assert lines["xl"]["× LightVM, 3rd"] == figures_tables.ratio(made["xl"][1], made["lightvm"][1])  # noqa: RUF001
    assert (
        lines["xl"]["paper's, 1000th / 1st"] == "10.0" and lines["xl"]["paper's, 1000th"] == "244"
    )  # 1000 ms to 4.1 ms
    assert lines["chaos [XS+split]"]["paper's, 1st"] == "–"  # noqa: RUF001
    assert lines["LightVM"]["× LightVM, 1st"] == "1.00"  # noqa: RUF001
    for row in rows["xl", "noop"]:
        assert row["charged"] > 0
    both = [
        made["xl"][1] + rows["xl", "noop"][1]["charged"],
        made["lightvm"][1] + rows["lightvm", "noop"][1]["charged"],
    ]
    assert lines["xl, with charged"]["create, 3rd"] == f"{both[0]:,}"
    assert lines["xl, with charged"]["× LightVM, 3rd"] == figures_tables.ratio(*both)  # noqa: RUF001
    assert (
        lines["xl, with charged"]["paper's, 1000th / 1st"] == figures_tables.NONE
    )  # ours is not known at the paper's n
    free = {d: replace(c, rows=[{**row, "charged": 0} for row in c.rows]) for d, c in every.items()}
    assert len(figures_tables.table_9(free, titles).rows) == len(titles)
    charged = replace(every["xl"], rows=[{**row, "charged": 1234} for row in every["xl"].rows])
    assert any("1,234" in line for line in figures_tables.table_5(charged).rows)
    assert figures_tables.order_9(every, titles).startswith(
        "From the most to the least, at the 3rd creation: xl, chaos [XS],"
    )


def test_the_papers_numbers() -> None:
    assert paper(4, UNIKERNEL, 1, "total") == 83 and curve(4, UNIKERNEL, "total") == [(1, 83), (1000, 700)]
    assert paper(9, "chaos-xs-split", 1, "create") is None
    assert {p.figure for p in POINTS} == {4, 5, 9, 10} and all(p.source.startswith("paper, Fig. ") for p in POINTS)
    assert len({(p.figure, p.series, p.n, p.what) for p in POINTS}) == len(POINTS)


def test_the_page(tmp_path: Path) -> None:
    out, again, kept = tmp_path / "out", tmp_path / "again", tmp_path / "kept"
    arguments = ["--guest", "noop", "-n", "1,2", "--many", "5", "--resume", str(kept)]
    for where in (out, again):
        result = CliRunner().invoke(command, [*arguments, "--out", str(where)], catch_exceptions=False)
        assert result.exit_code == 0 and "lightvm: " in result.output
    names = sorted(file.name for file in out.iterdir())
    assert {"index.html", "figures.json", "figure-4.svg", "flame-xl.svg", "flame-chaos-noxs-to-lightvm.svg"} <= set(
        names
    )
    assert len(list(kept.iterdir())) == len(compare.DESIGNS) + 2  # of them xl's daytime, and noop twice by lightvm
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name
    html = (out / "index.html").read_text(encoding="utf-8")
    links = set(re.findall(r'(?:href|src)="([^"]*)"', html))
    assert all(link.startswith("#") for link in links) and "<script" not in html and "url(http" not in html
    data = json.loads((out / "figures.json").read_text())
    for row in data["rows"]:
        assert f'<td class="n">{row["total"]:,}</td>' in html
    assert {g["design"] for g in data["growth"]} == set(compare.DESIGNS)
    assert data["differences"]["figure-4"] and data["differences"]["figure-9"] == []
    assert "no difference to noop is explained" in html


def test_designs_of_ones_own_are_drawn_when_they_execute_something(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from pyvmm.toolstack.xl import Xl\nclass A(Xl):\n    name = 'a'\n")
    result = CliRunner().invoke(command, ["--design", str(file), "--out", str(tmp_path / "out")])
    assert "a is Python: there are no instructions of it to draw" in str(result.exception)


def test_a_design_that_the_paper_does_not_have(measured: dict[str, list[Measured]]) -> None:
    """It has its line, its rows, and dashes where the paper's numbers would be."""
    rows: Any = {(design, "noop"): [one.row for one in every] for design, every in measured.items()}
    rows["mine", "noop"] = rows["chaos-noxs", "noop"]
    titles = {**{name: facts.title for name, facts in compare.DESIGNS.items()}, "mine": "mine"}
    assert figures.figure_9(rows, "noop", titles) != figures.figure_9(rows, "noop", dict(list(titles.items())[:-1]))
    every = _creations(measured)
    every["mine"] = every["chaos-noxs"]
    table = figures_tables.table_9(every, titles)
    line = dict(zip(table.heads, next(line for line in table.rows if line[0] == "mine"), strict=True))
    unknown = {head for head, text in line.items() if text == figures_tables.NONE}
    assert unknown >= {"paper's, 1st", "paper's, 1000th / 1st", "paper's, 1000th"}
    assert "mine" not in figures_tables.order_9(every, titles)


def test_any_executor_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of threads, too, and a worker that cannot write down how far it is; an error of a sweep is the run's."""
    sweeps = [Sweep(design, "noop", (1, 2)) for design in ("chaos-noxs", "lightvm")]
    with ThreadPoolExecutor(1) as pool:
        found = run(pool, sweeps, Kept(None))
    assert list(found) == sweeps and [one.row["n"] for one in found[sweeps[1]]] == [1, 2]
    said = capsys.readouterr().err
    assert "chaos-noxs-noop: 2 guests made (1 of 2)" in said and "lightvm-noop: 2 guests made (2 of 2)" in said
    assert sweeps[1].run(str(tmp_path / "not" / "there")) == found[sweeps[1]]
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError):
        run(pool, [Sweep("no-such", "noop", (1,))], Kept(None))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "0"], "creations are numbered from 1"),
        (["--many", "9000"], "8000"),
        (["--out", "/dev/null/x"], "cannot make the output directory"),
        (["--guest", "windows"], "no guest windows"),
    ],
)
def test_bad_input(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0 and said in result.output + str(result.exception)


def test_compare_shows_growth_and_flames(tmp_path: Path) -> None:
    arguments = ["--designs", "xl,lightvm", "--guest", "noop", "--store", "o", "-n", "2,3,4,5", "--growth"]
    flames = tmp_path / "flames"
    result = CliRunner().invoke(compare_command, [*arguments, "--flame", str(flames)], catch_exceptions=False)
    assert result.exit_code == 0
    assert re.search(r"number of store messages +linear +\d+ \+ 3 n +0\.0%", result.output)
    assert re.search(
        r"^xl: the 5th creation takes [\d,]+, the 2nd [\d,]+ \(\+.*%\): \w+, ", result.output, re.MULTILINE
    )
    assert re.search(r"^lightvm: .*: nothing grows over 1 %$", result.output, re.MULTILINE)
    names = {"flame-xl-noop-5.svg", "flame-lightvm-noop-5.svg", "flame-xl-to-lightvm-noop-5.svg"}
    assert {file.name for file in flames.iterdir()} == names
