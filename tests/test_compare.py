"""`pyvmm compare`: dom0's designs as x86 code, every instruction accounted for."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pyvmm import compare, images
from pyvmm.archive import newc
from pyvmm.cli.compare import command
from pyvmm.errors import ConfigError
from pyvmm.report.classes import BOOT, CLASSES, PREPARE, prepares
from pyvmm.report.symbols import functions_of
from tests.running import pyvmm

CLASSED = [name for name in CLASSES if name != PREPARE]


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], list[tuple[compare.Row, str]]]:
    """Creations 1, 2 and 12 of each design and guest."""
    return {
        (design, guest): [(row, profile.folded()) for row, profile in compare.sweep(design, guest, (1, 2, 12))]
        for design in compare.DESIGNS
        for guest in ("noop", "daytime")
    }


def test_classes_add_up(rows: dict[tuple[str, str], list[tuple[compare.Row, str]]]) -> None:
    """Every instruction of a window is in one class, and in one call path; the store is used or not."""
    for (design, guest), found in rows.items():
        for row, folded in found:
            assert sum(row.classes.values()) == row.total
            lines = [line for line in folded.splitlines() if "pool_refill" not in line]  # that is for later guests
            assert sum(int(line.rpartition(" ")[2]) for line in lines) == row.total
            assert list(row.classes) == CLASSED
            stored = compare.DESIGNS[design].xenstore
            if guest == "noop":  # it says "ready" where it has a console, and polls
                assert row.classes["boot"] == (25 if stored else 7)
            assert row.classes["boot"] > 0
            shells = compare.DESIGNS[design].shells  # which were asked for before
            for name in ("config", "load", "toolstack", *([] if shells else ["hypervisor"])):
                assert row.classes[name] > 1000, (design, guest, name)
            assert row.classes["devices"] > 1500 or guest == "noop"
            assert (row.store_messages > 0) == (row.classes["xenstore"] > 0) == stored


def test_a_creation_does_not_depend_on_how_many_follow(
    rows: dict[tuple[str, str], list[tuple[compare.Row, str]]],
) -> None:
    for design in ("xl", "chaos-xs-split"):
        assert compare.sweep(design, "daytime", (2,))[0][0] == rows[design, "daytime"][1][0]


def test_noxs_does_not_grow(rows: dict[tuple[str, str], list[tuple[compare.Row, str]]]) -> None:
    for (design, _), found in rows.items():
        if compare.DESIGNS[design].xenstore:
            continue
        second, twelfth = found[1][0], found[2][0]
        assert abs(twelfth.total - second.total) < second.total / 100
        assert twelfth.hypercalls == second.hypercalls and twelfth.switches == second.switches


def test_what_grows_with_the_store(rows: dict[tuple[str, str], list[tuple[compare.Row, str]]]) -> None:
    """xl asks for the names of all domains: three messages more for each that is there (the reference's 3N); chaos does
    not. The store's work grows for both: it copies itself for each transaction."""
    for guest in ("noop", "daytime"):
        xl, chaos = ([row for row, _ in rows[design, guest]] for design in ("xl", "chaos-xs"))
        assert xl[2].store_messages - xl[1].store_messages == 3 * 10
        assert chaos[2].store_messages == chaos[1].store_messages < xl[1].store_messages
        for found in (xl, chaos):
            assert found[2].classes["xenstore"] > 1.04 * found[1].classes["xenstore"]
            assert found[2].transactions == found[1].transactions > 0 == found[2].retries


@pytest.mark.parametrize("design", ["chaos-xs-split", "lightvm"])
@pytest.mark.parametrize("store", ["c", "o"])
def test_what_is_prepared_has_its_stacks(design: str, store: str) -> None:
    """A window ends before its pool is filled up: all that is in it for later guests is the alarm for that. With what
    is done after it, that is the column `prepare`, to the instruction."""
    for n, (row, profile, prepared) in zip(
        (1, 2, 9), compare.creations(design, "daytime", (1, 2, 9), store=store), strict=True
    ):
        inside = [stack for stack in profile.paths() if prepares(stack)]
        alarm = sum(stack[-1] for stack in inside)
        assert row.n == n and profile.total == row.total + alarm and 0 < alarm < 500
        assert row.prepare == alarm + prepared.total
        names = {name for _, _, path, _ in prepared.paths() for name, _ in path}
        assert "pool_fill_one" in names and ("xenstored" in prepared.domains()) == (design == "chaos-xs-split")
        assert not any(name == "pool_fill_one" for _, _, path, _ in inside for name, _ in path)


def test_shells_take_work_off_the_path(rows: dict[tuple[str, str], list[tuple[compare.Row, str]]]) -> None:
    """What is prepared is the domain, its memory and its devices; it costs about what it saves."""
    for guest in ("noop", "daytime"):
        plain, shell = rows["chaos-noxs", guest][1][0], rows["lightvm", guest][1][0]
        assert shell.total < plain.total and plain.prepare == 0 < shell.prepare
        assert shell.classes["boot"] == plain.classes["boot"]
        assert shell.hypercalls < plain.hypercalls


def test_two_runs_and_two_engines_agree() -> None:
    (first, paths), (again, _) = (compare.sweep("lightvm", "noop", (2,))[0] for _ in range(2))
    assert first == again
    (pure, pure_paths) = compare.sweep("lightvm", "noop", (2,), engine="pure")[0]
    assert pure == first and pure_paths.folded() == paths.folded()


def test_a_guest_that_is_gone_again_has_its_instructions() -> None:
    """hello says what it has to say and powers off; its design has taken it away before the window ends."""
    for design in ("chaos-noxs", "xl"):
        (row, profile) = compare.sweep(design, "hello", (1,))[0]
        guests = {path[0][0] for _, role, path, _ in profile.paths() if role == "guest"}
        assert row.classes["boot"] > 10_000 and guests == {"_start"}, design


def test_a_window_costs_the_same_unmeasured() -> None:
    """The counter says the same whether the blocks are logged or not."""
    totals = []
    for wanted in ((1, 2, 3), (3,)):
        (row, _) = compare.sweep("chaos-noxs", "noop", wanted)[-1]
        totals.append((row.total, row.digest))
    assert totals[0] == totals[1]


def test_call_paths_go_through_the_design() -> None:
    """The loader's work is found beneath the shell's command, in dom0's main thread."""
    (_, profile) = compare.sweep("chaos-noxs", "daytime", (1,))[0]
    paths = {tuple(name for name, _ in path) for domain, _, path, _ in profile.paths() if domain == "dom0"}
    assert any(path[-1] == "dom_kernel" and "shell_run" in path and "create" in path for path in paths)
    assert any(
        path[0] == "work" and path[-1] == "vif_connect" and "shell_run" not in path for path in paths
    )  # its own thread
    classes = profile.classes()
    assert classes[BOOT] == sum(n for domain, n in profile.domains().items() if domain != "dom0")


def test_functions_have_files() -> None:
    """Of dom0's functions, local or global, each is in the file that defines it."""
    functions = functions_of(images.path("dom0"))
    where = dict(zip(functions.names, functions.files, strict=True))
    assert where["dom_boot"] == "build.c" and where["thread_yield"] == "thread.c"
    assert where["back_bind"] == "back.c" and where["vif_connect"] == "back_vif.c"
    assert [name for name, file in where.items() if file == "?" and name != "?"] == []


def test_the_command(tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = [
        "--guest",
        "noop",
        "-n",
        "1,3",
        "--resume",
        str(tmp_path / "kept"),
        "--profile",
        str(tmp_path / "paths"),
    ]
    file = tmp_path / "rows.json"
    result = runner.invoke(command, [*arguments, "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0 and "chaos-noxs" in result.output
    found = json.loads(file.read_text())
    sums = {
        profile.name: sum(int(line.split()[-1]) for line in profile.read_text().splitlines())
        for profile in (tmp_path / "paths").iterdir()
    }
    kinds = (("", "total"), (".prepare", "prepare"))  # each file's sum is its column's number, exactly
    assert sums == {
        f"{row['design']}-noop-{row['n']}{kind}.folded": row[column]
        for row in found
        for kind, column in kinds
        if row[column]
    }
    assert sum("prepare" in name for name in sums) == 2 * 2  # numbers, designs that have shells
    assert [(row["design"], row["n"]) for row in found] == [(d, n) for d in compare.DESIGNS for n in (1, 3)]
    wanted = (
        "design guest n total classes charged store_messages transactions retries hypercalls events switches digest"
    )
    assert set(wanted.split()) <= set(found[0])
    (kept,) = (tmp_path / "kept").glob("lightvm-noop-3-*.json")
    content = json.loads(kept.read_text())
    content["creations"][0]["row"]["total"] = 12345  # what is kept is taken from there
    kept.write_text(json.dumps(content))
    result = runner.invoke(command, arguments[:-2], catch_exceptions=False)
    assert "12,345" in result.output


@pytest.mark.parametrize("arguments", [["-n", "0"], ["-n", "x"], ["-n", "8001"]])
def test_bad_numbers(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_growth_is_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the rows, as in figures.json; that two creations say nothing is told on stderr then."""
    arguments = ["--designs", "xl", "--guest", "noop", "--growth", "--json", "-"]
    for numbers, told in (("1,2,3", False), ("1,2", True)):
        result = CliRunner().invoke(command, [*arguments, "-n", numbers], catch_exceptions=False)
        data = json.loads(result.stdout)
        assert [row["n"] for row in data["rows"]] == [int(n) for n in numbers.split(",")]
        (found,) = data["growth"]
        assert found["total"]["points"] == [[row["n"], row["total"]] for row in data["rows"]]
        assert ("contradict no law" in result.stderr) == told
        assert (found["total"]["law"] is None) == told


def test_two_creations_say_no_law() -> None:
    arguments = ["--designs", "xl", "--guest", "noop", "--growth", "-n"]
    two, three = (CliRunner().invoke(command, [*arguments, n], catch_exceptions=False).stdout for n in ("1,3", "1,2,3"))
    assert "two creations: a line goes through any two counts and they contradict no law" in two
    assert not any(law in two for law in ("linear", "logarithmic", "quadratic", "off by 0"))
    assert "contradict no law" not in three and "linear" in three


@pytest.mark.parametrize("designs", ["", ",", "xl,"])
def test_no_names_of_designs(designs: str) -> None:
    """Not all of them."""
    result = CliRunner().invoke(command, ["--designs", designs])
    assert str(result.exception) == f"--designs {designs!r}: expected names with commas between, such as xl,lightvm"


def test_bad_names() -> None:
    with pytest.raises(ConfigError, match="no design xm"):
        compare.check(["xm"], "noop")
    with pytest.raises(ConfigError, match="no guest windows"):
        compare.check(["lightvm"], "windows")


def test_dom0s_errors_are_one_line() -> None:
    control = compare.Control("chaos-noxs", "noop", 1)
    with pytest.raises(compare.CommandError, match=r"no file nothing\.json") as caught:
        control.command("create nothing.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(compare.CommandError, match="no command"):
        control.command("frobnicate")
    control.create(1)
    control.close()


def test_everything_comes_back() -> None:
    """Guests made and destroyed in turn leave the host's and dom0's memory as it was."""
    for design in compare.DESIGNS:
        control = compare.Control(design, "daytime", 3)
        control.command("pool 00001.json 0") if control.shells else None
        before = []
        for _ in range(3):
            control.command("create 00001.json one")
            control.command("create 00002.json two")
            control.command("destroy one")
            control.command("destroy two")
            before.append(
                (control.command("memory"), control.host.hypervisor.frames.free_count, control.command("list"))
            )
        assert before[1] == before[2], design
        control.close()


def test_an_archive() -> None:
    data = newc({"a": b"12345", "b/c": b""})
    assert data.startswith(b"070701") and data.count(b"070701") == 3 and len(data) % 4 == 0
    assert b"TRAILER!!!" in data


def test_charged_is_apart(tmp_path: Path) -> None:
    """What Xen's own work costs stands beside what is executed: a column that can be left out, never part of a sum."""
    shown = {}
    for option in ("--charged", "--no-charged"):
        result = CliRunner().invoke(
            command, ["--designs", "chaos-noxs", "--guest", "noop", "-n", "1", option, "--resume", str(tmp_path)]
        )
        assert result.exit_code == 0
        shown[option] = result.stdout.splitlines()[1].split()
    assert set(shown["--charged"]) - set(shown["--no-charged"]) == {"charged"}
    (row, _) = compare.sweep("chaos-noxs", "daytime", (1,))[0]
    assert row.charged > row.total == sum(row.classes.values())
    assert sum(one.instructions for one in row.charged_by.values()) == row.charged
    times = {name: one.times for name, one in row.charged_by.items()}
    assert (times["switch"], times["event_channel_op.send"]) == (row.switches, row.events)
    assert times["domctl.createdomain"] == 1


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_no_number_is_ever_shortened(tmp_path: Path, columns: int) -> None:
    """On a terminal that is too narrow lines run over; nothing in them changes."""
    options = ["compare", "--designs", "xl,lightvm", "--guest", "noop", "-n", "1,2,3", "--growth", "--hypercalls"]
    options += ["--resume", str(tmp_path)]
    piped = pyvmm(*options)
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    size = {"COLUMNS": str(columns), "LINES": "25", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pyvmm", *options],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **size},
    )
    os.close(terminal)
    shown = bytearray()
    with contextlib.suppress(OSError):  # how a terminal says that nobody has its other end any more
        while piece := os.read(master, 65536):
            shown += piece
    assert process.wait() == piped.status == 0
    assert shown.decode().replace("\r", "") == piped.out and "…" not in piped.out


def test_what_xen_was_asked_for(tmp_path: Path) -> None:
    """`--hypercalls`: of each design's last creation, the kinds of work by name, and all of them as in the row."""
    options = ["--designs", "chaos-noxs,lightvm", "--guest", "noop", "-n", "1,2", "--resume", str(tmp_path)]
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(command, [*options, "--hypercalls", "--json", str(file)], catch_exceptions=False)
    last = [row["charged_by"] for row in json.loads(file.read_text()) if row["n"] == 2]
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    sums = [[sum(one[what] for one in by.values()) for what in ("times", "instructions")] for by in last]
    assert lines["all"] == [f"{n:,}" for one in sums for n in one]
    assert lines["domctl.createdomain"][0] == "1" and len(lines["domctl.createdomain"]) == 2  # a shell is there
    shown = [line for line in lines.values() if len(line) == 4 and line[0].replace(",", "").isdigit()]
    assert len(shown) > 5
    result = CliRunner().invoke(command, [*options, "--hypercalls", "--no-charged"], catch_exceptions=False)
    (all_of,) = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("all ")]
    assert all_of == [f"{times:,}" for times, _ in sums]


def test_a_creation_that_did_not_happen_is_no_row() -> None:
    """dom0 answers nothing any more: nobody can run, and that is no guest."""
    control = compare.Control("chaos-noxs", "noop", 1)
    control.command = lambda line: ""  # type: ignore[method-assign]
    with pytest.raises(compare.CommandError, match="guest 1 was not made; dom0 said: nothing"):
        control.measure(1)
    control.close()


@pytest.mark.parametrize("engine", ["fast", "pure"])
def test_a_log_in_many_parts_is_the_same_profile(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long window's log of blocks is handed on before it ends, in the middle of functions and of time slices."""

    def paths() -> list[Any]:
        control = compare.Control("chaos-xs", "noop", 1, engine=engine)
        found = list(control.measure(1)[1].paths())
        control.close()
        return found

    if engine == "fast":
        pytest.importorskip("pyvmm.machine.fast")
        whole = paths()
        monkeypatch.setattr("pyvmm.machine.fast.LOG_MOST", 100)
    else:
        whole = paths()
        monkeypatch.setattr("pyvmm.machine.pure.LOG_MOST", 100)
    monkeypatch.setattr("pyvmm.machine.machine.LOG_PART", 700)
    assert paths() == whole
