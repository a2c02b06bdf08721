"""Laws of growth, and who grows: exact counts in, the right law out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.report.classes import prepares
from pyvmm.report.growth import fit, growth, ordinal
from pyvmm.report.stacks import Stack, folded, pack, unpack

NUMBERS = (1, 2, 5, 10, 20, 50, 100)


@given(st.integers(0, 10**7), st.integers(1, 10**5))
def test_a_line_is_found_exactly(a: int, b: int) -> None:
    a = min(a, 50 * 100 * b)  # so that it changes by more than 1 %
    found = fit([(n, a + b * n) for n in NUMBERS])
    assert found.law == "linear" and found.residual == 0
    assert dict(found.terms) == {"": a, "n": b}


@given(st.integers(0, 10**5), st.integers(0, 10), st.integers(1, 100))
def test_a_square_is_no_line(a: int, b: int, c: int) -> None:
    found = fit([(n, a + b * n + c * n * n) for n in NUMBERS])
    if found.law == "constant":
        assert 100 * c * 100 <= a + b * 100 + c * 10_000
        return
    assert found.law == "quadratic" and found.residual == 0
    assert dict(found.terms) == {"": a, "n": b, "n²": c}


@given(st.integers(1, 10**5), st.integers(100, 10**5))
def test_a_logarithm(a: int, b: int) -> None:
    a = min(a, 500 * b)  # so that it changes by more than 1 %
    points = [(n, a + round(b * math.log2(n))) for n in NUMBERS]
    found = fit(points)
    assert found.law == "logarithmic" and found.residual < 0.01
    assert dict(found.terms)["log2 n"] == pytest.approx(b, rel=0.01)


@pytest.mark.parametrize(
    ("counts", "law"),
    [
        ((500,) * 7, "constant"),
        ((0,) * 7, "constant"),
        ((1000, 1003, 1001, 1000, 1009, 1000, 1004), "constant"),
        ((1500, 1000, 1001, 1000, 1000, 1000, 1000), "first only"),
        ((10, 5000, 10, 4000, 10, 3000, 10), "irregular"),
        ((700, 699, 696, 691, 681, 651, 601), "linear"),
    ],
)
def test_what_is_no_growth(counts: tuple[int, ...], law: str) -> None:
    assert fit(list(zip(NUMBERS, counts, strict=True))).law == law


def test_few_points() -> None:
    """One says nothing, two say only that there is a change; three can contradict a line."""
    assert fit([(7, 100)]).law == "constant"
    assert str(fit([(1, 103), (100, 400)])) == "100 + 3 n"
    assert fit([(1, 1), (10, 100), (100, 10_000)]).law != "quadratic"  # three terms through three points prove nothing
    assert fit([(1, 10), (10, 21), (100, 29)]).law == "logarithmic"


def _row(n: int, total: int, messages: int) -> dict[str, Any]:
    counts = {"transactions": 1, "hypercalls": 5, "events": 6, "switches": 7, "charged": 9 * n}
    classes = {"load": 100, "toolstack": total - 100}
    return {
        "design": "own",
        "guest": "noop",
        "n": n,
        "total": total,
        "classes": classes,
        "store_messages": messages,
        **counts,
    }


def test_who_grows() -> None:
    """Two functions of one name in two files are two; who calls the growing one is named; shells' part is left out."""
    rows, stacks = [], []
    for n in NUMBERS:
        found: list[Stack] = [
            (f"d{n}", "guest", (("main", "main.c"),), 100),
            ("dom0", "dom0", (("create", "design.c"), ("names", "xl.c"), ("compare", "string.c")), 7 * n),
            ("dom0", "dom0", (("create", "design.c"), ("compare", "string.c")), 50),
            ("dom0", "dom0", (("create", "design.c"), ("compare", "xl.c")), n),
            ("dom0", "dom0", (("pool_refill", "pool.c"), ("compare", "string.c")), 1000 * n),
        ]
        rows.append(_row(n, 150 + 8 * n, 100 + 3 * n))
        stacks.append(found)
    found_growth = growth(rows, stacks, prepares)
    assert found_growth.fit.law == "linear" and str(found_growth.fit) == "150 + 8 n"
    ((name, _, law, part),) = found_growth.classes
    assert (name, str(law), part) == ("toolstack", "50 + 8 n", 1)
    first, second = found_growth.functions
    assert (first.role, first.file, first.function, first.caller) == ("dom0", "string.c", "compare", "names")
    assert str(first.fit) == "50 + 7 n" and first.part == 7 / 8 and first.growth == 7 * 99
    assert (second.file, second.part) == ("xl.c", 1 / 8)
    assert found_growth.top(1) == [first] and found_growth.top(9, 0.2) == [first]
    assert str({name: f for name, _, f in found_growth.crossings}["store_messages"]) == "100 + 3 n"
    assert str({name: f for name, _, f in found_growth.crossings}["charged_instructions"]) == "0 + 9 n"
    assert "linear, 150 + 8 n" in found_growth.sentence()
    assert found_growth.to_json()["functions"][0]["law"] == "linear"
    two = growth(rows[:2], stacks[:2], prepares).to_json()
    assert len(rows) > 2 and {two["total"]["law"], two["functions"][0]["law"], two["total"]["residual"]} == {None}


def test_nothing_grows() -> None:
    stacks: list[list[Stack]] = [[("d1", "guest", (("main", "main.c"),), 100_000 + n)] for n in (1, 100)]
    rows = [_row(1, 100_001, 0), _row(100, 100_100, 0)]
    assert growth(rows, stacks, prepares).sentence().endswith("(+0.10%): nothing grows over 1 %")
    assert growth(rows[:1], stacks[:1], prepares).sentence() == "own: one creation says nothing about growth"


def test_a_part_may_grow_where_the_whole_does_not() -> None:
    stacks: list[list[Stack]] = [
        [("dom0", "dom0", (("up", "a.c"),), 1000 * n), ("dom0", "dom0", (("down", "a.c"),), 100_000 - 1000 * n)]
        for n in (1, 50)
    ]
    said = growth([_row(1, 100_000, 0), _row(50, 100_000, 0)], stacks, prepares).sentence()
    assert said.endswith("no growth over 1 % as a whole, though up grows by 49,000")


def test_stacks_as_plain_data() -> None:
    stacks: list[Stack] = [
        ("dom0", "dom0", (("a", "a.c"), ("b", "b.c")), 3),
        ("d1", "guest", (("a", "other.c"),), 4),
        ("dom0", "dom0", (("a", "a.c"),), 5),
    ]
    assert list(unpack(pack(stacks))) == stacks
    assert folded(stacks) == "d1;a 4\ndom0;a 5\ndom0;a;b 3\n"


def test_ordinals() -> None:
    assert [f"{n}{ordinal(n)}" for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1000)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th 1000th".split()
    )
