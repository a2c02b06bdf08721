"""Each ratio that the paper has, ours beside it, and what makes the difference: counts of this very run, and a reason.

Counts are named by function: where the instructions are that one creation takes more than another, which functions grow
and by what law, how many messages and hypercalls there are, what comes of it with Xen's own work. The reasons are a
table (`pyvmm.report.reasons`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyvmm.report.classes import BOOT, DEVICES, XENSTORE
from pyvmm.report.creations import Count, Creations, Place
from pyvmm.report.figures_paper import LAST as LAST_GUEST
from pyvmm.report.figures_paper import UNIKERNEL, paper
from pyvmm.report.figures_tables import nth, ratio
from pyvmm.report.growth import fit
from pyvmm.report.reasons import CREATE_TO_BOOT, FIRST, GROWTH, LAST, PART_FIRST, PART_LAST, TO_DEVICES, Reason, reason
from pyvmm.toolstack.model import spawns

NAMED = 3  # functions named of each part
SHOWN = 0.04  # a part of less is not named
GUEST = "daytime"  # the paper's, in Figs 5 and 9


@dataclass(frozen=True)
class Difference:
    """A row: the ratio, ours, the paper's, ours / the paper's; what this run counts; why it differs; the source."""

    what: str
    here: str
    paper: str
    factor: str
    counted: str
    why: str
    source: str


def _row(
    r: Reason, what: str, ours: tuple[Count | None, Count | None], theirs: float, counted: str
) -> Difference | None:
    """A row of two counts' ratio; None where one of the counts is not known."""
    above, below = ours
    if above is None or below is None or not below.instructions:
        return None
    here = above.instructions / below.instructions
    sign = "" if above.measured and below.measured else "≈ "
    return Difference(what, sign + ratio(here, 1), ratio(theirs, 1), ratio(here, theirs), counted, r.why, r.source)


# -- what is counted


def _each(whole: float, least: int, most: int) -> str:
    """Instructions by process, of the processes that the toolstack's model has more."""
    return f"{whole / most / 1e3:,.0f} to {whole / least / 1e3:,.0f} thousand for each of {most} to {least} processes"


def _most(counts: Counter[Place], whole: float) -> str:
    """Its largest functions: "shared_find 474,838, strcmp 2,213"."""
    by_name: Counter[str] = Counter()
    for place, n in counts.items():
        by_name[place.function] += n
    large = [(name, n) for name, n in by_name.most_common(NAMED) if n > whole * SHOWN / NAMED]
    return ", ".join(f"{name} {n:,}" for name, n in large)


def _parts(counts: Counter[Place]) -> str:
    """Where instructions are: each part that matters with its largest functions."""
    whole = sum(counts.values())
    parts: dict[str, Counter[Place]] = {}
    for place, n in counts.items():
        parts.setdefault(place.part, Counter())[place] = n
    sums = sorted(((sum(c.values()), part) for part, c in parts.items()), reverse=True)
    return "; ".join(f"{n / whole:.0%} {part} ({_most(parts[part], n)})" for n, part in sums if n > whole * SHOWN)


def _less(one: Counter[Place], other: Counter[Place]) -> Counter[Place]:
    """Instructions of `one` beyond those of `other`, function by function; of fewer, less than 0."""
    left = Counter({place: n for place, n in one.items() if place.part != BOOT})
    left.subtract({place: n for place, n in other.items() if place.part != BOOT})
    return left


def _named(c: Creations, r: Reason) -> str:
    """The functions that a reason names, with all that they call: the first and the last creation's."""
    texts = []
    for name in r.counts:
        first, last = c.under[0][name], c.under[-1][name]
        if first or last:
            texts.append(
                f"{name} and what it calls: {first:,}" + (f", {nth(c.last)} {last:,}" if first != last else "")
            )
    return " " + "; ".join(texts) + "." if texts else ""


def _between(one: Creations, other: Creations, n: int, theirs: float, r: Reason) -> str:
    """What `one`'s n-th creation has more than `other`'s; of the last ones when so many were not made."""
    i = 0 if n == 1 else -1
    a, b = one.rows[i], other.rows[i]
    more = _less(one.places[i], other.places[i])
    text = f"{nth(a['n'])}: {sum(more.values()):,} more, of them {_parts(more)}."
    text += f" Messages {a['store_messages']:,}, {b['store_messages']:,};"
    text += f" hypercalls {a['hypercalls']:,}, {b['hypercalls']:,}."
    mine, shortest = (x["total"] - x["classes"][BOOT] + x["charged"] for x in (a, b))
    if a["charged"] or b["charged"]:
        text += f" With Xen's own work ({a['charged']:,}, {b['charged']:,}) it is {ratio(mine, shortest)}"
        text += f"{_lacks(mine, shortest, theirs, a['design'], b['design']) if a['n'] == n else ''}."
        text += _asked(a["charged_by"], b["charged_by"])
    return text + _named(one, r)


def _asked(one: Mapping[str, Mapping[str, int]], other: Mapping[str, Mapping[str, int]]) -> str:
    """What Xen's own work is more in, by name of cost, with how often it is done in each."""
    none = {"times": 0, "instructions": 0}
    more = {name: n["instructions"] - other.get(name, none)["instructions"] for name, n in one.items()}
    large = sorted(more, key=lambda name: (-more[name], name))[:NAMED]
    named = [
        f"{name} {more[name]:,} (done {one[name]['times']:,}, {other.get(name, none)['times']:,})"
        for name in large
        if more[name] > 0
    ]
    return f" Xen's work is more in {', '.join(named)}." if named else ""


def _lacks(mine: int, shortest: int, theirs: float, one: str, other: str) -> str:
    """What would make the ratio of two counts the paper's: more in `one` alone, or in both alike."""
    alone = theirs * shortest - mine
    if alone >= 0:
        text = f"; {alone:,.0f} more in {one} alone would make it the paper's"
        least, most = (a - b for a, b in zip(spawns(one, 1, 0, 0), spawns(other, 1, 0, 0), strict=True))
        return text + (f", {_each(alone, least, most)}" if least else "")
    return f"; {-alone / (theirs - 1):,.0f} more in both alike would make it the paper's" if theirs > 1 else ""


def _growth(c: Creations, boot: bool, r: Reason, only: str | None = None) -> str:
    """What the last creation that was measured has more than the first, and by what laws its functions grow."""
    first, last = c.rows[0], c.rows[-1]
    if first is last:
        return "One creation says nothing about growth."
    more = Counter(c.places[-1])
    more.subtract(c.places[0])
    more = Counter({p: n for p, n in more.items() if (boot or p.part != BOOT) and only in (None, p.part)})
    change = sum(more.values())
    text = f"From the 1st to the {nth(last['n'])} {change:+,}: " if first["n"] == 1 else f"{change:+,}: "
    if change > 0:
        laws = []
        for place, n in more.most_common(NAMED + 2):
            laws.append(f"{place.function} ({place.part}) {n:,}, {fit(c.points(place)).law}")
        text += "; ".join(laws) + "."
    else:
        place, n = max(more.items(), key=lambda one: (one[1], one[0]))
        falls = sorted(more.items(), key=lambda one: (one[1], one[0]))[:NAMED]
        text += f"most grows {place.function}, by {n:,}; most fall "
        text += ", ".join(f"{fall.function} {less:,}" for fall, less in falls) + "."
    if only is None:
        text += f" Messages {first['store_messages']:,}, then {last['store_messages']:,}; repeated transactions "
        text += f"{sum(row['retries'] for row in c.rows)} of {sum(row['transactions'] for row in c.rows)}."
    return text + _named(c, r)


# -- the rows


def _grown(
    figure: int, design: str, title: str, c: Creations, theirs: float, boot: bool = False
) -> Iterator[Difference]:
    r = reason(figure, design, GROWTH)
    ours = c.at(LAST_GUEST, boot), c.at(1, boot)
    found = _row(r, f"{title}: {nth(LAST_GUEST)} / 1st", ours, theirs, _growth(c, boot, r))
    if found is not None:
        yield found


def differences_4(xl: Creations) -> list[Difference]:
    """Of Fig. 4: xl's daytime beside the paper's unikernel."""
    create, boot = (paper(4, UNIKERNEL, 1, what) for what in ("create", "boot"))
    both, end = paper(4, UNIKERNEL, 1, "total"), paper(4, UNIKERNEL, LAST_GUEST, "total")
    assert create and boot and both and end
    r, row = reason(4, "xl", CREATE_TO_BOOT), xl.rows[0]
    guests = Counter({place: n for place, n in xl.places[0].items() if place.part == BOOT})
    counted = f"Create: {_parts(_less(xl.places[0], Counter()))}. Boot: {_most(guests, row['classes'][BOOT])}."
    guests_own = row["messages"]["guests"]
    counted += f" Of {row['store_messages']:,} messages {guests_own:,} are the guest's own, answered in create."
    ours = xl.at(1), Count(row["classes"][BOOT], True) if row["n"] == 1 else None
    first = _row(r, "daytime: create / boot, 1st", ours, create / boot, counted)
    return [d for d in (first, *_grown(4, "xl", "daytime, both", xl, end / both, True)) if d is not None]


def differences_5(xl: Creations) -> list[Difference]:
    """Of Fig. 5: the two classes that the paper has numbers of, beside each other and beside Fig. 9's whole."""
    last = LAST_GUEST
    store, devices, devices_1 = (
        paper(5, "xl", last, XENSTORE),
        paper(5, "xl", last, DEVICES),
        paper(5, "xl", 1, DEVICES),
    )
    whole_1, whole = paper(9, "xl", 1, "create"), paper(9, "xl", last, "create")
    assert store and devices and devices_1 and whole_1 and whole
    first, end = xl.part(DEVICES, 1), xl.part(DEVICES, last)
    kept = xl.part(XENSTORE, last)
    rows: list[Difference | None] = []
    r = reason(5, DEVICES, PART_FIRST)
    own = Counter({place: n for place, n in xl.places[0].items() if place.part == DEVICES})
    counted = f"{DEVICES}: {_most(own, sum(own.values()))}.{_named(xl, r)}"
    rows.append(_row(r, "devices / create, 1st", (first, xl.at(1)), devices_1 / whole_1, counted))
    r = reason(5, DEVICES, GROWTH)
    counted = _growth(xl, False, r, DEVICES)
    rows.append(_row(r, f"devices: {nth(last)} / 1st", (end, first), devices / devices_1, counted))
    r = reason(5, XENSTORE, PART_LAST)
    counted = f"{nth(xl.last)}: {_parts(_less(xl.places[-1], Counter()))}."
    rows.append(_row(r, f"xenstore / create, {nth(last)}", (kept, xl.at(last)), store / whole, counted))
    r = reason(5, XENSTORE, TO_DEVICES)
    counted = ""
    if kept is not None and end is not None:
        least, most = (n - others for n, others in zip(spawns("xl", 1, 0, 0), spawns("xl", 0, 0, 0), strict=True))
        lacks = kept.instructions / (store / devices) - end.instructions
        counted = f"{lacks:,.0f} more in devices would make it the paper's, {_each(lacks, least, most)}."
    rows.append(_row(r, f"xenstore / devices, {nth(last)}", (kept, end), store / devices, counted))
    return [row for row in rows if row is not None]


def differences_9(every: Mapping[str, Creations], titles: Mapping[str, str]) -> list[Difference]:
    """Of Fig. 9: the growth of each design, and how many times LightVM's its creation is."""
    rows: list[Difference | None] = []
    shortest, base_1, base = (
        every["lightvm"],
        paper(9, "lightvm", 1, "create"),
        paper(9, "lightvm", LAST_GUEST, "create"),
    )
    assert base_1 and base
    for design, c in every.items():
        first, last = paper(9, design, 1, "create"), paper(9, design, LAST_GUEST, "create")
        if first is not None and last is not None:
            rows += _grown(9, design, titles[design], c, last / first)
        for measure, n, own, other in ((FIRST, 1, first, base_1), (LAST, LAST_GUEST, last, base)):
            if design == "lightvm" or own is None:
                continue
            r = reason(9, design, measure)
            counted = _between(c, shortest, n, own / other, r)
            ours = c.at(n), shortest.at(n)
            rows.append(_row(r, f"{titles[design]} / {titles['lightvm']}, {nth(n)}", ours, own / other, counted))
    return [row for row in rows if row is not None]


def differences_10(many: Creations) -> list[Difference]:
    """Of Fig. 10: LightVM's growth, to the last that was made."""
    begin, end = paper(10, "lightvm", 1, "total"), paper(10, "lightvm", 8000, "total")
    assert begin and end
    r = reason(10, "lightvm", GROWTH)
    ours = many.at(many.last, True), many.at(1, True)
    what = f"LightVM: {nth(many.last)} / 1st; the paper's {nth(8000)}"
    row = _row(r, what, ours, end / begin, _growth(many, True, r))
    return [] if row is None or many.last == 1 else [row]


__all__ = ["GUEST", "Difference", "differences_4", "differences_5", "differences_9", "differences_10"]
