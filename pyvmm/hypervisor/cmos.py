"""The PC's clock with a battery, and its memory (MC146818): what a kernel that is dom0 reads the time from.

It runs on virtual time, and interrupts nobody. While SET in status B holds it, the time's registers keep what is
written; it goes on from there. The day of the week is that of the date, whatever is written.

Sources: Motorola's MC146818A data sheet (registers 0 to 13), the PC's use of byte 0x32 for the century.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

SIZE = 128  # bytes
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
STATUS_A, STATUS_B, STATUS_C, STATUS_D = 10, 11, 12, 13
CENTURY = 0x32
TIME = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))
UPDATING = 0x80  # in status A
UPDATE_TIME = 244_000  # nanoseconds, before a second begins
SET, BINARY, HOURS_24 = 0x80, 0x04, 0x02  # in status B
AFTERNOON = 0x80  # in the hours, where they count to 12
DIVIDER = 0x26  # status A: 32768 Hz, 1024 Hz
VALID = 0x80  # status D: the battery is good
SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_AGE = 24 * 146_097 * 86_400  # seconds of 9600 years, whose calendar then begins again


class Cmos:
    """One clock; `seconds`: UTC at virtual time 0. Times are virtual nanoseconds."""

    def __init__(self, seconds: int) -> None:
        self._start = seconds
        self._bytes = bytearray(SIZE)
        self._bytes[STATUS_A], self._bytes[STATUS_B] = DIVIDER, HOURS_24

    def read(self, index: int, now: int) -> int:
        """The byte at `index`, below `SIZE`."""
        if index in TIME and not self._held:
            return self._time(now)[index]
        if index == STATUS_A:
            updating = not self._held and now % SECOND >= SECOND - UPDATE_TIME
            return self._bytes[STATUS_A] | (UPDATING if updating else 0)
        return VALID if index == STATUS_D else self._bytes[index]

    def write(self, index: int, value: int, now: int) -> None:
        """Put a byte at `index`. A date that there is not changes nothing."""
        if index in (STATUS_C, STATUS_D):
            return
        if not self._held and (index in TIME or (index == STATUS_B and value & SET)):
            for at, byte in self._time(now).items():
                self._bytes[at] = byte
        running = not self._held
        if index == STATUS_A:
            value &= ~UPDATING
        self._bytes[index] = value
        if (index == STATUS_B and not running and not self._held) or (index in TIME and running):
            self._go_on(now)

    @property
    def _held(self) -> bool:
        return bool(self._bytes[STATUS_B] & SET)

    def _byte(self, n: int) -> int:
        return n if self._bytes[STATUS_B] & BINARY else n // 10 << 4 | n % 10

    def _number(self, byte: int) -> int:
        if self._bytes[STATUS_B] & BINARY:
            return byte
        if byte & 15 > 9 or byte >> 4 > 9:
            raise ValueError("no decimal digit")
        return (byte >> 4) * 10 + (byte & 15)

    def _hour(self, byte: int) -> int:
        if self._bytes[STATUS_B] & HOURS_24:
            return self._number(byte)
        hour = self._number(byte & ~AFTERNOON)
        if not 1 <= hour <= 12:
            raise ValueError("no hour")
        return hour % 12 + (12 if byte & AFTERNOON else 0)

    def _time(self, now: int) -> dict[int, int]:
        seconds = (self._start + now // SECOND - _FIRST) % _AGE + _FIRST
        t = _EPOCH + timedelta(seconds=seconds)
        parts = {SECONDS: t.second, MINUTES: t.minute, HOURS: t.hour, WEEKDAY: t.isoweekday() % 7 + 1}
        parts |= {DAY: t.day, MONTH: t.month, YEAR: t.year % 100, CENTURY: t.year // 100}
        found = {index: self._byte(n) for index, n in parts.items()}
        if not self._bytes[STATUS_B] & HOURS_24:
            found[HOURS] = self._byte((t.hour + 11) % 12 + 1) | (AFTERNOON if t.hour >= 12 else 0)
        return found

    def _go_on(self, now: int) -> None:
        try:
            n = {index: self._number(self._bytes[index]) for index in TIME - {WEEKDAY, HOURS}}
            year, hour = n[CENTURY] * 100 + n[YEAR], self._hour(self._bytes[HOURS])
            t = datetime(year, n[MONTH], n[DAY], hour, n[MINUTES], n[SECONDS], tzinfo=UTC)
        except ValueError:
            return
        self._start = int((t - _EPOCH).total_seconds()) - now // SECOND
