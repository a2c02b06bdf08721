"""Random programs: all engines must agree on every exit, register, byte and count, whole and in slices."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.machine import BudgetUsed, Fault, Reg
from pyvmm.machine.lengths import length
from tests.machine.machine_guest import CODE, DATA, STACK, Guest
from tests.machine.test_machine_basics import ENGINES

# Nothing whose flags the manual leaves undefined and the engine computes by what it knows of the flags before, which
# depends on where blocks begin (bt, shld): they differ between stepping and blocks, not between the engines that use
# blocks.
FRAGMENTS = [
    "90", "ffc0", "48ffc3", "01d8", "4829c8", "0fafc3", "31d2", "48c1e005", "0fb6c0", "f7d0", "9c58", "509d", "50",
    "58", "5b",
    "4889042500005000", "488b0c2510005000", "66c704250805500012 34", "87042520005000", "f0ff0425 28005000",
    "c6042530005000f3",
    "f3aa", "f348ab", "f3a4", "f2ae", "f3a6", "f3ac", "aa", "a4", "b904000000", "31c9", "bf00045000", "be00055000",
    "7402", "7503", "7200", "e800000000", "eb00", "eb01", "e2fe", "e302", "0f31", "0fa2", "0f05", "f1", "cd80", "cc",
    "f4",
    "e460", "ee", "0f0b", "f7f1", "8ed8", "8ed0", "48cf", "c3", "ffe0", "d9e8", "dec1", "0f58c1", "660fefc0",
    "f20f2ac0",
    "0f28042500005000", "dfdd", "66e90000", "668504", "c8100000", "c9", "488d1c0b", "0f44c3", "f00fb10d00000000",
    "c7050000000090909090", "c605f8ffffff90", "c60500000000c3", "66c705020000006690", "48893d00000000",
    "8005f0ffffff01", "67f3aa",
    "c5f877", "c4e27918c0", "62f17c48", "60", "d6", "0f04", "0fb9c0", "660f3a0fc105", "0f0f c1b4", "0fc7f0", "8fe978",
    "e3fe", "75ee", "74e0", "ebe5", "48b8000050000000000048 8900", "48a10000500000000000", "68ffffff7f", "6a01",
    "0fc8", "f390",
]  # fmt: skip
FRAGMENTS = [f.replace(" ", "") for f in FRAGMENTS]


def trace(engine: str, program: bytes, slices: list[int], seed: int) -> tuple[object, ...]:
    """Runs a program, skipping over what stops it, and gives all that can be seen."""
    g = Guest(engine, memory=2 << 20)
    m = g.m
    g.put(program)
    m.ram.write(g.data, random.Random(seed).randbytes(8192))
    m.on_syscall = lambda *a: (sum(a) * 3 + m.instructions) & 0xFFFF if a[0] & 1 else None
    m.set(Reg.RCX, 3)
    m.set(Reg.RDI, DATA + 0x40)
    m.set(Reg.RSI, DATA + 0x80)
    log: list[object] = []
    budget = 160
    turn = 0
    while budget > 0:
        n = min(budget, slices[turn % len(slices)]) if slices else budget
        turn += 1
        before = m.instructions
        e = m.run(n)
        budget -= m.instructions - before
        if e == BudgetUsed():
            assert m.instructions - before == n
            continue
        log.append((e, g.state(), m.get(Reg.CR2)))
        if isinstance(e, Fault):
            rip = m.get(Reg.RIP)
            if not CODE <= rip < CODE + 0x1000:
                break
            m.set(Reg.RIP, rip + length(m.ram.read(m.translate(rip), 15)))
            m.set(Reg.RCX, 2)
            m.set(Reg.RDI, DATA + 0x40)
            m.set(Reg.RSI, DATA + 0x80)
            m.set(Reg.RSP, STACK - 0x100)
            budget -= 1
            if len(log) > 12:
                break
    return (log, g.state(), m.get_fpu(), m.ram.read(g.data, 8192), m.ram.read(g.code, 4096), m.ram.read(g.stack, 4096))


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "step"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=24),
    slices=st.lists(st.integers(1, 9), max_size=3),
    seed=st.integers(0, 3),
)
def test_engines_agree(engine: str, parts: list[str], slices: list[int], seed: int) -> None:
    program = bytes.fromhex("".join(parts)) + b"\xcc"
    expected = trace("step", program, [], seed)
    assert trace(engine, program, [], seed) == expected
    if slices:
        assert trace(engine, program, slices, seed) == expected


def test_lengths_agree_with_the_disassembler() -> None:
    """On all bytes that capstone takes for an instruction, except where the engine is known to differ."""
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    rng = random.Random(2)
    checked = 0
    for _ in range(30_000):
        opcode = bytes([rng.randrange(256)]) if rng.random() < 0.5 else bytes([0x0F, rng.randrange(256)])
        prefix = rng.choice([b"", b"", b"\xf3", b"\x66", b"\x48", b"\x41", b"\x66\x48", b"\x67"])
        raw = (prefix + opcode + rng.randbytes(14))[:15]
        decoded = next(engine.disasm_lite(raw, 0, 1), None)
        if (
            decoded is None
            or decoded[2].startswith(("ud", "v", "k", "xop", "ret"))
            or opcode[0] in (0xC4, 0xC5, 0x62, 0x8F)
        ):
            continue
        near_branch = opcode[0] in (0xE8, 0xE9) or (opcode[0] == 0x0F and raw[len(prefix) + 1] & 0xF0 == 0x80)
        doubtful = opcode[0] & 0xF0 == 0x40 or opcode[0] in (
            0x26,
            0x2E,
            0x36,
            0x3E,
            0x64,
            0x65,
            0x66,
            0x67,
            0xF0,
            0xF2,
            0xF3,
        )
        if (b"\x66" in prefix and (near_branch or raw[len(prefix) : len(prefix) + 2] == b"\x0f\x78")) or doubtful:
            continue
        checked += 1
        assert length(raw) == decoded[1], (raw.hex(), decoded)
    assert checked > 15_000
