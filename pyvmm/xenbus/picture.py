"""Draws the tables of states and of messages: `python -m pyvmm.xenbus.picture docs/xenbus.md` renews them there.

For each end a Mermaid diagram (GitHub draws it) and the rows in words; then the pairs of states that the two ends can
be in together."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pyvmm.xenbus import messages
from pyvmm.xenbus.states import ANY, TABLE, Action, End, Negotiation, Row, State, reachable

BEGIN, FINISH = "<!-- states: begin -->", "<!-- states: end -->"
MESSAGES_BEGIN, MESSAGES_FINISH = "<!-- messages: begin -->", "<!-- messages: end -->"
TITLES = {End.BACK: "back end", End.FRONT: "front end"}
NAMES = {Negotiation.XENSTORE: "XenStore", Negotiation.NOXS: "noxs"}
DEVICES = (  # device, negotiation, the state its front end enters with its rings, its first state
    ("vbd", Negotiation.XENSTORE, State.INITIALISED, State.INITIALISING),
    ("vif", Negotiation.XENSTORE, State.CONNECTED, State.INITIALISING),
    ("vbd, sysctl", Negotiation.NOXS, State.CONNECTED, State.INITIALISING),
    ("vif", Negotiation.NOXS, State.CONNECTED, State.UNKNOWN),
)


def _names(states: Iterable[State]) -> str:
    return "any" if frozenset(states) == ANY else ", ".join(state.text for state in sorted(states))


def diagram(end: End) -> str:
    """One end's transitions; an arrow's text is why, and what the other end is seen as."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        if row.end is end:
            for own in sorted(row.own):
                if len(row.own) < len(State):
                    arrows.setdefault((own, row.to), []).append(_arrow(row))
    lines = ["```mermaid", "stateDiagram-v2"]
    for (own, to), texts in sorted(arrows.items()):
        lines += [f"    {own.text} --> {to.text}: {'; '.join(dict.fromkeys(texts))}"]
    return "\n".join([*lines, "```"])


def _arrow(row: Row) -> str:
    why = {"SEEN": "sees", "OPEN": "to be used", "CLOSE": "to be given up", "FAILED": "failed"}.get(row.why.name)
    if why is None:
        return "toolstack"
    if row.why.name == "SEEN":
        return f"{why} {_names(row.other)}"
    return why if row.other == ANY else f"{why} at {_names(row.other)}"


def words(end: End) -> str:
    """The rows, as a table."""
    lines = ["| own | other | why | does | enters | |", "|---|---|---|---|---|---|"]
    for row in TABLE:
        if row.end is end:
            where = "" if len(row.negotiations) == 2 else f" ({', '.join(NAMES[n] for n in row.negotiations)})"
            does = "" if row.action is Action.NOTHING else row.action.name.lower()
            lines.append(
                f"| {_names(row.own)} | {_names(row.other)} | {row.why.name.lower()} | {does} | {row.to.text} "
                f"| {row.meaning}{where} |"
            )
    return "\n".join(lines)


def pairs() -> str:
    """Which states both can be in at the same time: o where they can, front ends down, back ends across."""
    blocks = []
    for device, negotiation, published, first in DEVICES:
        allowed = reachable(negotiation, published, first)
        columns = sorted({back for _, back in allowed})
        lines = [
            f"{device} over {NAMES[negotiation]}: {len(allowed)} pairs",
            "",
            f"| front \\ back | {' | '.join(state.text for state in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for front in sorted({front for front, _ in allowed}):
            lines.append(
                f"| {front.text} | {' | '.join('o' if (front, back) in allowed else '' for back in columns)} |"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def text() -> str:
    """All that stands between the markers."""
    actions = "\n".join(f"- *{action.name.lower()}*: {action.value}" for action in Action if action.name != "NOTHING")
    parts = [BEGIN]
    for end in (End.BACK, End.FRONT):
        parts += [f"### The {TITLES[end]}", diagram(end), words(end)]
    parts += ["What the actions are:", actions, "### Pairs", pairs(), FINISH]
    return "\n\n".join(parts)


def renew(page: str) -> str:
    """The page with what is between the markers renewed. `ValueError` when it has no markers."""
    page = _between(page, BEGIN, FINISH, text())
    return _between(
        page, MESSAGES_BEGIN, MESSAGES_FINISH, f"{MESSAGES_BEGIN}\n\n{messages.table()}\n\n{MESSAGES_FINISH}"
    )


def _between(page: str, begin: str, finish: str, new: str) -> str:
    return page[: page.index(begin)] + new + page[page.index(finish) + len(finish) :]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renew(target.read_text()))
