"""The clock with a battery: what its registers say, on virtual time, and whose it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.host import Host
from pyvmm.hypervisor import cmos, portio
from pyvmm.hypervisor.cmos import Cmos
from pyvmm.hypervisor.domain import Domain

START = int(datetime(2023, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())
SECOND = cmos.SECOND


def said(clock: Cmos, now: int) -> str:
    """The time as its registers have it."""
    n = {index: f"{clock.read(index, now):02x}" for index in cmos.TIME}
    date = f"{n[cmos.CENTURY]}{n[cmos.YEAR]}-{n[cmos.MONTH]}-{n[cmos.DAY]}"
    return f"{date} {n[cmos.HOURS]}:{n[cmos.MINUTES]}:{n[cmos.SECONDS]} {int(n[cmos.WEEKDAY])}"


def test_it_counts_in_decimal() -> None:
    clock = Cmos(START)
    assert said(clock, 0) == said(clock, SECOND - 1) == "2023-12-31 23:59:58 1"  # a Sunday
    assert said(clock, 2 * SECOND) == "2024-01-01 00:00:00 2"
    assert clock.read(cmos.STATUS_B, 0) == cmos.HOURS_24
    assert clock.read(cmos.STATUS_C, 0) == 0 and clock.read(cmos.STATUS_D, 0) == cmos.VALID


def test_it_says_when_it_is_about_to_change() -> None:
    clock = Cmos(START)
    at = [0, SECOND - cmos.UPDATE_TIME - 1, SECOND - cmos.UPDATE_TIME, SECOND - 1, SECOND]
    assert [clock.read(cmos.STATUS_A, now) >> 7 for now in at] == [0, 0, 1, 1, 0]


def test_it_is_set_while_it_is_held() -> None:
    clock = Cmos(START)
    clock.write(cmos.STATUS_B, cmos.SET, 5 * SECOND)
    for index, value in ((cmos.SECONDS, 0x30), (cmos.MINUTES, 0x45), (cmos.DAY, 0x29), (cmos.MONTH, 0x02)):
        clock.write(index, value, 6 * SECOND)
    assert said(clock, 100 * SECOND) == "2024-02-29 00:45:30 2"  # nothing moves
    assert not clock.read(cmos.STATUS_A, 2 * SECOND - 1) & cmos.UPDATING
    clock.write(cmos.STATUS_B, cmos.HOURS_24, 200 * SECOND)
    assert said(clock, 231 * SECOND) == "2024-02-29 00:46:01 5"


def test_a_day_that_there_is_not_changes_nothing() -> None:
    clock = Cmos(START)
    clock.write(cmos.DAY, 0x30, 0)
    assert said(clock, 0) == "2023-12-30 23:59:58 7"
    clock.write(cmos.MONTH, 0x02, 0)
    assert said(clock, 0) == "2023-12-30 23:59:58 7"


@pytest.mark.parametrize("hour", range(24))
@pytest.mark.parametrize("mode", [0, cmos.BINARY, cmos.HOURS_24, cmos.BINARY | cmos.HOURS_24])
def test_it_counts_as_it_is_told(hour: int, mode: int) -> None:
    clock = Cmos(START - START % 86400 + hour * 3600 + 45 * 60)
    clock.write(cmos.STATUS_B, mode, 0)
    shown = hour if mode & cmos.HOURS_24 else 12 if hour % 12 == 0 else hour % 12
    byte = shown if mode & cmos.BINARY else int(str(shown), 16)
    byte |= cmos.AFTERNOON if hour >= 12 and not mode & cmos.HOURS_24 else 0
    assert clock.read(cmos.HOURS, 0) == byte and clock.read(cmos.STATUS_B, 0) == mode
    assert clock.read(cmos.MINUTES, 0) == (45 if mode & cmos.BINARY else 0x45)
    clock.write(cmos.HOURS, byte, 0)  # what was read can be written
    clock.write(cmos.STATUS_B, cmos.HOURS_24, 0)
    assert said(clock, 0).split()[1] == f"{hour:02}:45:00"


def test_it_outlives_all_calendars() -> None:
    clock = Cmos(START)
    for index, value in ((cmos.CENTURY, 0x99), (cmos.YEAR, 0x99)):
        clock.write(index, value, 0)
    before = said(clock, 0)
    assert len(said(clock, 10 * SECOND)) == len(said(clock, 1 << 62)) == len(before)
    clock.write(cmos.SECONDS, 0x1A, 1 << 62)  # no decimal digit: nothing changes
    assert said(clock, 10 * SECOND).split()[1] == "00:00:08"


REGISTERS = st.sampled_from([*sorted(cmos.TIME), cmos.STATUS_A, cmos.STATUS_B]) | st.integers(0, 127)
BYTES = st.sampled_from([0, 0x12, 0x31, 0x59, 0x80, 0x99]) | st.integers(0, 255)


@given(st.lists(st.tuples(REGISTERS, BYTES, st.integers(0, 1 << 62))))
def test_whatever_is_written(writes: list[tuple[int, int, int]]) -> None:
    clock = Cmos(START)
    for index, value, now in writes:
        clock.write(index, value, now)
        assert all(0 <= clock.read(at, now) <= 255 for at in range(cmos.SIZE))


@pytest.mark.parametrize("privileged", [True, False])
def test_the_ports(privileged: bool) -> None:
    """The index is each domain's own; the clock belongs to who was given its ports. Wider accesses are bytes."""
    host = Host(memory=64 << 20)
    domain = Domain(host.hypervisor, 5, name="d5", privileged=privileged)
    if privileged:
        domain.ioports.add(0, 0xFFFF)
    portio.write(domain, 0x70, 1, 0x80 | cmos.STATUS_D)  # the top bit masks NMIs
    assert portio.read(domain, 0x70, 1) == 0x80 | cmos.STATUS_D
    assert portio.read(domain, 0x71, 1) == (cmos.VALID if privileged else 0xFF)
    assert portio.read(domain, 0x70, 2) == (0x808D if privileged else 0xFF8D)
    portio.write(domain, 0x70, 2, 0x5A40)
    assert portio.read(domain, 0x71, 1) == (0x5A if privileged else 0xFF)
    assert portio.read(domain, 0x6F, 4) == (0xFF5A40FF if privileged else 0xFFFF40FF)
    host.close()
