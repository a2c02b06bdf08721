"""What xl of the real Xen sends to the real xenstored for one guest, beside the list of messages that our xl is held
to: every difference is in docs/messages.md, and nothing else is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyvmm import images
from pyvmm.toolstack.messages import Shape, creation

from . import xen

DOC = Path(__file__).parents[2] / "docs/messages.md"
LINE = re.compile(r"IN (0x\w+) \d+ [\d:]+ (\w+) \((.*)\)")
CONSOLE = re.compile(r"/local/domain/\d+/console dom\d+ $")
Difference = tuple[str, str]  # "+" or "-", "OP node"

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.debian("qemu-system-x86", "xen-hypervisor-4.17-amd64", "xen-utils-4.17"),
    pytest.mark.slow,
]


def documented() -> set[Difference]:
    """The rows of the table."""
    text = DOC.read_text().partition("<!-- difference to xl 4.17 -->")[2]
    rows = re.findall(r"^\| ([+-]) \| ([^|]+) \|", text, re.MULTILINE)
    return {(sign, message) for sign, messages in rows for message in messages.strip().split(", ")}


def of_xl(trace: Sequence[str]) -> list[tuple[str, str]]:
    """What the connection sent that began the first transaction: operation and first argument."""
    rows = [match.groups() for line in trace if (match := LINE.fullmatch(line))]
    xl = next(connection for connection, op, _ in rows if op == "TRANSACTION_START")
    return [
        (op, "" if op.startswith("TRANS") else words.split(" ")[0])
        for connection, op, words in rows
        if connection == xl
    ]


def differences(trace: Sequence[str], vif: bool) -> set[Difference]:
    """Those between a real creation and the list."""
    theirs = of_xl(trace)
    domid = int(next(path for op, path in theirs if op == "GET_DOMAIN_PATH"))
    uuid = next(path.split("/")[2] for _, path in theirs if path.startswith("/vm/"))
    names = [re.fullmatch(r"/local/domain/(\d+)/name", path) for op, path in theirs if op == "READ"]
    domains = sorted({int(name[1]) for name in names if name})
    back = f"/local/domain/0/backend/vif/{domid}/0"
    reads = theirs.count(("READ", f"{back}/state"))
    shape = Shape(domid, uuid, vifs=int(vif), domains=domains, cmdline=False, reads=reads)
    ours = [(message.op, message.path) for message in creation("xl", shape)]
    places = (
        (f"/local/domain/{domid}/device/vif/0", "F"), (back, "B"), (f"/libxl/{domid}/device/vif/0", "P"),
        (f"/local/domain/{domid}", "H"), (f"/libxl/{domid}", "L"), (f"/vm/{uuid}", "V"),
    )  # fmt: skip

    def plain(message: tuple[str, str]) -> str:
        op, path = message
        for place, letter in places:
            if path == place or path.startswith(f"{place}/"):
                path = letter + path.removeprefix(place)
        return f"{op} {'D' if path == str(domid) else path}"

    found: set[Difference] = set()
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            found |= {("-", plain(message)) for message in ours[a:b] if message[0] != "SET_PERMS"}
            found |= {("+", plain(message)) for message in theirs[c:d] if message[0] != "SET_PERMS"}
    for other in domains:  # one that is on its way out is asked about as dom0 is
        if other not in (0, domid):
            found -= {("-", f"GET_DOMAIN_PATH {other}"), ("-", f"READ /local/domain/{other}/target")}
            found -= {("+", f"READ /local/domain/{other}/name")}
    return found


def traces() -> Sequence[xen.Outcome]:
    """A guest without and one with a vif."""
    image = images.path("hello")
    return xen.domu(xen.Guest(image, memory=16, trace=True), xen.Guest(image, memory=16, vif=True, trace=True))


def test_xl_sends_what_the_list_has() -> None:
    try:
        plain, with_vif = traces()
    except xen.Missing as missing:
        pytest.skip(f"not here: {missing}")
    assert plain.lines[-1] == with_vif.lines[-1] == "Goodbye."
    found = differences(plain.store, False) | differences(with_vif.store, True)
    assert len(of_xl(plain.store)) > 110 and len(of_xl(with_vif.store)) > 180
    assert found == documented()


def test_the_console_daemon_reads_its_directory_at_every_event() -> None:
    """xenconsoled of 4.17 on the real Xen: a watch, and looks that end at the first node that is not there; only the
    one that finds the ring goes on to the limit and the terminal. So ours does (tests/test_store_messages.py)."""
    try:
        plain, _ = traces()
    except xen.Missing as missing:
        pytest.skip(f"not here: {missing}")
    rows = [match.groups() for line in plain.store if (match := LINE.fullmatch(line))]
    daemon, domid = next((row[0], row[2].split()[1].removeprefix("dom")) for row in rows if CONSOLE.match(row[2]))
    sent = [(op, words.split()[0]) for connection, op, words in rows if connection == daemon]
    home = f"/local/domain/{domid}/console"
    letters = {("WATCH", home): "W", ("WRITE", f"{home}/tty"): "T"}
    letters |= {("READ", f"{home}/{node}"): node[0] for node in ("ring-ref", "port", "limit")}
    letters[("READ", f"{home}/type")] = "t"
    assert ("GET_DOMAIN_PATH", domid) in sent
    # the trace begins and ends with `xl create`, maybe in the middle of a look
    assert re.fullmatch("Wr+ptlT(rpt)*r?p?", "".join(letters.get(message, "") for message in sent))
