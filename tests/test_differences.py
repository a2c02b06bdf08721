"""Ratios beside the paper's, each difference with counts of the run; and what is reckoned where it was not measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm import compare
from pyvmm.report import creations
from pyvmm.report.classes import BOOT, PREPARE, class_of
from pyvmm.report.creations import Count, Creations
from pyvmm.report.differences import Difference, differences_4, differences_5, differences_9, differences_10
from pyvmm.report.figures_paper import POINTS
from pyvmm.report.reasons import REASONS
from pyvmm.report.stacks import Stack

NUMBERS = (1, 2, 3, 5, 8)
TITLES = {name: facts.title for name, facts in compare.DESIGNS.items()}


def _made(design: str, guest: str) -> tuple[Creations, list[list[Stack]]]:
    found = compare.sweep(design, guest, NUMBERS, store="o")
    stacks = [list(profile.paths()) for _, profile in found]
    return Creations.of([row.to_json() for row, _ in found], stacks), stacks


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Creations, list[list[Stack]]]]:
    """daytime by each design."""
    return {design: _made(design, "daytime") for design in compare.DESIGNS}


@pytest.fixture(scope="module", autouse=True)
def far() -> Iterator[None]:
    """A thousand is reckoned from eight here: that takes seconds, and what comes of it is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(creations, "REACH", 1000)
        yield


@pytest.fixture(scope="module")
def every(made: dict[str, tuple[Creations, list[list[Stack]]]]) -> dict[str, list[Difference]]:
    """All differences, by figure."""
    all_of_them = {design: one for design, (one, _) in made.items()}
    return {
        "4": differences_4(all_of_them["xl"]),
        "5": differences_5(all_of_them["xl"]),
        "9": differences_9(all_of_them, TITLES),
        "10": differences_10(_made("lightvm", "noop")[0]),
    }


def test_each_ratio_of_the_paper_has_its_reason(every: dict[str, list[Difference]]) -> None:
    """A row for each, each with another reason, none of the reasons unused, and nothing left empty."""
    rows = [row for found in every.values() for row in found]
    assert sorted((row.why, row.source) for row in rows) == sorted((r.why, r.source) for r in REASONS)
    assert len({row.what for row in rows}) == len(rows)
    assert all(row.counted and row.why and row.source and re.search(r"\d", row.counted) for row in rows)
    growing = {p.series for p in POINTS if p.figure == 9 and p.n == 1}
    whats = {row.what for row in every["9"]}
    assert {f"{TITLES[design]}: 1000th / 1st" for design in growing} <= whats
    assert "chaos [XS+split] / LightVM, 1000th" in whats and "chaos [XS+split] / LightVM, 1st" not in whats


def test_the_ratios_are_those_of_the_counts(
    made: dict[str, tuple[Creations, list[list[Stack]]]], every: dict[str, list[Difference]]
) -> None:
    xl, shortest = (made[design][0].rows[0] for design in ("xl", "lightvm"))
    mine, least = (row["total"] - row["classes"][BOOT] for row in (xl, shortest))
    row = next(row for row in every["9"] if row.what == "xl / LightVM, 1st")
    assert float(row.here) == pytest.approx(mine / least, rel=0.01) and row.paper == "25.0"
    assert float(row.factor) == pytest.approx(mine / least / 25, rel=0.01)
    assert f"{mine - least:,} more" in row.counted and f"Messages {xl['store_messages']:,}, 0" in row.counted
    assert f"With Xen's own work ({xl['charged']:,}, {shortest['charged']:,})" in row.counted
    more = xl["charged_by"]["switch"]["instructions"] - shortest["charged_by"]["switch"]["instructions"]
    assert f"Xen's work is more in switch {more:,} (done {xl['switches']:,}, {shortest['switches']:,})" in row.counted
    lacks = 25 * (least + shortest["charged"]) - mine - xl["charged"]
    assert f"{lacks:,.0f} more in xl alone" in row.counted and "for each of 26 to 21 processes" in row.counted
    grown = next(row for row in every["9"] if row.what == "xl: 1000th / 1st")
    assert grown.here.startswith("≈ ") and "repeated transactions 0 of 25" in grown.counted


def test_functions_are_those_of_the_profile(
    made: dict[str, tuple[Creations, list[list[Stack]]]], every: dict[str, list[Difference]]
) -> None:
    """The counts named are sums over the call paths; what a reason names is called by its design."""
    _, stacks = made["chaos-xs"]
    found: Counter[str] = Counter()
    under = [0, 0]
    for i, one in ((0, stacks[0]), (1, stacks[-1])):
        for _, role, path, n in one:
            if role == "xenstored" and not i:
                found[path[-1][0]] += n
            if role == "dom0" and any(name == "domains_event" for name, _ in path):
                under[i] += n
    name, most = found.most_common(1)[0]
    row = next(row for row in every["9"] if row.what == "chaos [XS] / LightVM, 1st")
    assert f"the XenStore's domain ({name} {most:,}" in row.counted  # LightVM has none
    row = next(row for row in every["9"] if row.what == "chaos [XS]: 1000th / 1st")
    assert f"domains_event and what it calls: {under[0]:,}, 8th {under[1]:,}" in row.counted
    rows = {row.why: row for found in every.values() for row in found}
    for r in REASONS:
        assert all(f"{name} and what it calls" in rows[r.why].counted for name in r.counts), r


def test_creations_add_up(made: dict[str, tuple[Creations, list[list[Stack]]]]) -> None:
    for design, (one, stacks) in made.items():
        for row, places, every in zip(one.rows, one.places, stacks, strict=True):
            assert sum(places.values()) == row["total"], design
            for name, count in row["classes"].items():
                found = one.part(name, row["n"])
                assert found is not None and found.measured and found.instructions == count
            prepared = sum(n for _, role, path, n in every if class_of(role, path) == PREPARE)
            assert sum(n for *_, n in every) - prepared == row["total"]


def _by_law(law: Any, numbers: tuple[int, ...], most: int = 1) -> Creations:
    """Creations of one function, whose count is `law(n)`."""
    rows = [{"n": n, "total": law(n) + most, "classes": {BOOT: most, "xenstore": law(n)}} for n in numbers]
    path = (("main", "main.c"), ("find", "db.c"))
    stacks: list[list[Stack]] = [
        [("d1", "guest", (("_start", "start.S"),), most), ("xenstored", "xenstored", path, law(n))] for n in numbers
    ]
    return Creations.of(rows, stacks)


def test_a_later_creation_is_reckoned_by_the_laws_of_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (1, 2, 5, 10, 20, 50, 100)
    line = _by_law(lambda n: 1000 + 30 * n, numbers)
    assert line.at(100) == Count(4000, True) and line.at(100, boot=True) == Count(4001, True)
    reckoned = line.at(1000)
    assert reckoned is not None and not reckoned.measured and reckoned.instructions == pytest.approx(31_000)
    assert str(line.at(1000)) == "≈ 31,000" and str(line.at(50)) == "2,500"
    store = line.part("xenstore", 1000)
    assert store is not None and store.instructions == pytest.approx(31_000)
    square = _by_law(lambda n: 500 + 7 * n * n, numbers).at(1000)
    assert square is not None and square.instructions == pytest.approx(7_000_500)
    falling = _by_law(lambda n: 9000 - 8 * n, numbers).at(1000)
    assert falling == Count(8200, False)  # it does not go on to fall
    jumping = _by_law(lambda n: 5000 + 900 * (n == 100), numbers).at(1000)
    assert jumping == Count(5900, False)  # as when a heap takes more pages: that is no square
    assert line.at(30) is None  # between what was measured: nobody knows
    assert _by_law(lambda n: n, (1, 2, 3)).at(1000) is None  # too few to know a law
    monkeypatch.setattr(creations, "REACH", 10)
    assert line.at(1000) is not None and line.at(1001) is None
