"""What loading a selector does, remembered.

A loaded segment register is a function of the selector and of the descriptor that it names (Intel SDM volume 3, 3.4.3:
the hidden part). So what the firmware once got for a pair is put into the registers without running it, as long as the
table still holds that descriptor. Descriptors not yet accessed are left to the firmware: loading one writes to
the table (3.4.5.1). Refusals are not remembered.
"""

from __future__ import annotations

from typing import Final

from pyvmm.machine.cpu import ENV_GDT, ENV_HFLAGS, ENV_SEGMENTS, SEGMENT_ORDER, SEGMENT_SIZE, SavedCpu
from pyvmm.machine.exits import PageFault
from pyvmm.machine.paging import walk
from pyvmm.machine.ram import Ram

_ENV_LDT: Final = ENV_SEGMENTS + 6 * SEGMENT_SIZE
_ACCESSED: Final = 1 << 40
_TABLE_INDICATOR: Final = 4
_HFLAGS_ADDSEG: Final = 1 << 6
_HFLAGS_TS: Final = 8  # in the second byte (cpu.h: HF_TS_SHIFT is 11)
_MASK64: Final = (1 << 64) - 1
_MOST: Final = 4096  # pairs remembered

#: Where each segment register is in the CPU structure.
AT: Final = {name: ENV_SEGMENTS + SEGMENT_SIZE * i for i, name in enumerate(SEGMENT_ORDER)}


def selector(state: SavedCpu, name: str) -> int:
    """The selector in a segment register."""
    return int.from_bytes(state.data[AT[name] : AT[name] + 2], "little")


def move(to: SavedCpu, source: SavedCpu, names: list[str]) -> None:
    """Copies loaded segment registers, and what the CPU structure derives from CS and SS."""
    for name in names:
        at = AT[name]
        to.data[at : at + SEGMENT_SIZE] = source.data[at : at + SEGMENT_SIZE]
    if "cs" in names:
        _put_hflags(to, bytes(source.data[ENV_HFLAGS : ENV_HFLAGS + 4]))
    _settle(to)


def _put_hflags(state: SavedCpu, hflags: bytes) -> None:
    task_switched = state.data[ENV_HFLAGS + 1] & _HFLAGS_TS
    state.data[ENV_HFLAGS : ENV_HFLAGS + 4] = hflags
    state.data[ENV_HFLAGS + 1] |= task_switched


def _settle(state: SavedCpu) -> None:
    """Whether the bases of DS, ES and SS count (cpu.h: HF_ADDSEG): outside 64-bit code, unless all are 0."""
    bits = state.code_segment()[0]
    if bits != 64:
        based = bits == 16 or any(state.u64(AT[name] + 8) for name in ("ds", "es", "ss"))
        low = state.data[ENV_HFLAGS] & ~_HFLAGS_ADDSEG
        state.data[ENV_HFLAGS] = low | _HFLAGS_ADDSEG if based else low


class Segments:
    """The memory of what selectors gave."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._data: dict[tuple[int, int], bytes] = {}
        self._code: dict[tuple[int, int, int, int], tuple[bytes, bytes, bytes]] = {}

    def _descriptor(self, state: SavedCpu, cr3: int, selector: int) -> int | None:
        """The descriptor that a selector names; 0 for a null one; None if it must be left to the CPU."""
        if not selector & 0xFFFC:
            return 0
        table = _ENV_LDT if selector & _TABLE_INDICATOR else ENV_GDT
        offset = selector & 0xFFF8
        base = state.u64(table + 8)
        if offset + 7 > state.i32(table + 16) or base & 7:
            return None
        try:
            value = self._ram.read_u64(walk(self._ram.u64, cr3, base + offset & _MASK64, False, False, False))
        except PageFault:
            return None
        return value if value & _ACCESSED else None

    def load(self, state: SavedCpu, cr3: int, data: dict[str, int], code: tuple[int, int] | None) -> bool:
        """Puts data selectors, and CS and SS, into `state`. False: not all are remembered, and nothing was done."""
        found: list[tuple[str, bytes]] = []
        for name, number in data.items():
            descriptor = self._descriptor(state, cr3, number)
            blob = None if descriptor is None else self._data.get((number, descriptor))
            if blob is None:
                return False
            found.append((name, blob))
        if code is not None:
            cs, ss = (self._descriptor(state, cr3, number) for number in code)
            pair = None if cs is None or ss is None else self._code.get((*code, cs, ss))
            if pair is None:
                return False
            found += [("cs", pair[0]), ("ss", pair[1])]
            _put_hflags(state, pair[2])
        for name, blob in found:
            state.data[AT[name] : AT[name] + SEGMENT_SIZE] = blob
        _settle(state)
        return True

    def remember(self, state: SavedCpu, cr3: int, data: dict[str, int], code: tuple[int, int] | None) -> None:
        """`state` has just had these loaded by the CPU."""
        if len(self._data) + len(self._code) > _MOST:
            self._data.clear()
            self._code.clear()

        def blob(name: str) -> bytes:
            return bytes(state.data[AT[name] : AT[name] + SEGMENT_SIZE])

        for name, number in data.items():
            descriptor = self._descriptor(state, cr3, number)
            if descriptor is not None:
                self._data[number, descriptor] = blob(name)
        if code is not None:
            cs, ss = (self._descriptor(state, cr3, number) for number in code)
            if cs is not None and ss is not None:
                hflags = bytes(state.data[ENV_HFLAGS : ENV_HFLAGS + 4])
                self._code[(*code, cs, ss)] = blob("cs"), blob("ss"), hflags
