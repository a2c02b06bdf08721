"""Counts where decoding depends on the code segment, on prefixes, or on an instruction being executed twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.machine import BudgetUsed, Fault, Reg, SoftInt
from pyvmm.machine.lengths import boundaries
from tests.machine.machine_guest import CODE, CS16, CS32, CS_HIGH, NX, RW, SS, STACK, US, Guest, P
from tests.machine.test_machine_basics import ENGINES
from tests.machine.test_machine_counts import OTHERS, compare


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("code", ["cd80", "4acd80", "f3cd80", "2e66cd80", "cc", "40cc", "f2cc"])
def test_length_of_a_software_interrupt(engine: str, code: str) -> None:
    """Prefixes are part of it: who refuses the interrupt must get back to the first of them."""
    raw = bytes.fromhex(code)
    vector = 3 if raw[-1] == 0xCC else 0x80
    g = Guest(engine)
    g.put("90", code, "90")
    for budget in (100, 1):  # in a block, and alone
        g.m.set(Reg.RIP, CODE)
        before = g.m.instructions
        while (e := g.m.run(budget)) == BudgetUsed():
            pass
        assert e == SoftInt(vector, len(raw))
        assert g.m.get(Reg.RIP) == CODE + 1 + len(raw)
        assert g.m.instructions - before == 2


# Code of 32 bits; what it would be in 64-bit mode has other lengths.
CODE_32: dict[str, list[str]] = {
    "into taken": ["b8ffffff7f", "40", "ce", "90", "90", "cc"],
    "into not taken": ["31c0", "40", "ce", "90", "cc"],
    "inc and pushf": ["40", "48", "9c", "58", "50", "9d", "41", "9c", "5b", "cc"],
    "rep after dec": ["b905000000", "bf00005000", "49", "f3aa", "cc"],
    "rep in cx": ["b905000100", "31ff", "67f3aa", "cc"],
    "moffs": ["a100005000", "66a300105000", "40", "a200105000", "cc"],
    "mov imm16": ["66b83412", "66057856", "6668ffff", "cc"],
    "absolute address": ["ff0500005000", "8b0d00005000", "cc"],
    "address of 16 bits": ["31c0", "90", "678b00", "cc"],
    "les": ["90", "c40500005000", "90", "cc"],
    "bound": ["31c0", "620500005000", "90", "cc"],
    "bcd": ["b812000000", "27", "37", "d40a", "d50a", "d6", "cc"],
    "pusha": ["60", "61", "06", "07", "1e", "1f", "cc"],
    "pop ss": ["16", "17", "90", "40", "cc"],
    "far jump": ["90", "ea" + (CODE + 0x10).to_bytes(4, "little").hex() + "2300"] + ["90"] * 12 + ["40", "cc"],
    "far call": ["90", "9a" + (CODE + 0x10).to_bytes(4, "little").hex() + "2300"] + ["90"] * 12 + ["58", "cc"],
    "call": ["e801000000", "cc", "40", "c3"],
    "short jump with 16 bits": ["90", "66e90100"],
    "cpuid and rdtsc": ["31c0", "40", "0fa2", "40", "0f31", "90", "cc"],
    "in": ["40", "e460", "40", "cc"],
    "fault late": ["40", "41", "a100000000", "40", "cc"],
    "own trap flag": ["9c", "810c2400010000", "9d", "40", "40", "cc"],
}  # fmt: skip


def protected(code: list[str], cs: int = CS32) -> Callable[[Guest], None]:
    """Code that runs in another code segment."""

    def prepare(g: Guest) -> None:
        g.m.load_segments(cs=cs, ss=SS)
        g.put(*code)
        if cs == CS_HIGH:
            g.map(g.cr3, 0x40000000 + CODE, g.code)
        if cs == CS16:
            g.map(g.cr3, 0x1000, g.code)
            g.map(g.cr3, 0x2000, g.data)
            g.m.set(Reg.RIP, 0x1000)

    return prepare


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("case", CODE_32)
@pytest.mark.parametrize("cs", [CS32, CS_HIGH])
def test_32_bit_code(engine: str, case: str, cs: int) -> None:
    exits, _ = compare(protected(CODE_32[case], cs), engine, 300)
    assert exits


@pytest.mark.parametrize("engine", ENGINES)
def test_into(engine: str) -> None:
    """It counts as an instruction; what stands behind it does not, and can be run after it."""
    g = Guest(engine)
    protected(CODE_32["into taken"])(g)
    assert g.m.run(100) == SoftInt(4, 1)
    assert (g.m.instructions, g.m.get(Reg.RIP)) == (3, CODE + 7)
    assert g.m.run(100) == SoftInt(3, 1)
    assert g.m.instructions == 6


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize(
    "code",
    [
        ["b81234", "40", "9c", "58", "a10020", "66a30020", "cc"],
        ["b90500", "bf0020", "49", "f3aa", "cc"],
        ["66b805000100", "8b1e0020", "8b8700208b07", "cc"],
        ["e80100", "cc", "40", "c3"],
        ["b90500", "66b900000100", "bf0020", "67e300", "41", "f3aa", "cc"],
        ["90", "9a0f102300", "cc"],
        ["90", "cd80"],
    ],
)
def test_16_bit_code(engine: str, code: list[str]) -> None:
    exits, _ = compare(protected(code, CS16), engine, 300)
    assert exits


def test_lengths_agree_with_the_disassembler_in_32_and_16_bits() -> None:
    import capstone

    samples = ["".join(c) for c in CODE_32.values()] + ["b81234", "8b1e0020c3", "66a300200000", "67f3aa", "c8010002"]
    for bits, mode in ((32, capstone.CS_MODE_32), (16, capstone.CS_MODE_16)):
        engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
        for sample in samples:
            raw = bytes.fromhex(sample)
            sizes = tuple(size for _, size, _, _ in engine.disasm_lite(raw, 0))
            known = boundaries(raw[: sum(sizes)], 0, bits)
            assert known == sizes, (bits, sample)


@pytest.mark.parametrize("engine", ENGINES)
def test_trap_flag_and_pause(engine: str) -> None:
    """The guest's own trap flag also traps after `pause`."""
    g = Guest(engine)
    g.put("9c", "810c2400010000", "9d", "90", "f390", "f390", "90", "cc")
    places = []
    while (e := g.m.run(100)) == Fault(1, None):
        places.append(g.m.get(Reg.RIP) - CODE)
    assert places == [10, 12, 14, 15]
    assert e == SoftInt(3, 1)
    assert g.m.instructions == 8


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("nops", range(3))
@pytest.mark.parametrize("distance", range(-2, 30, 4))
def test_call_whose_stack_lies_on_its_code(engine: str, nops: int, distance: int) -> None:
    """A `call` that pushes onto its own block is executed again by the engine; a call to itself runs into its code."""
    for code in ("e8fbffffff", "e80000000090", "ffd0", "ff1425 00085000".replace(" ", "")):

        def prepare(g: Guest, code: str = code) -> None:
            g.put("90" * nops, code, "90" * 16, "cc", at=0x40)
            g.m.set(Reg.RIP, CODE + 0x40)
            g.m.set(Reg.RAX, CODE + 0x40 + nops)
            g.m.ram.write_u64(g.data + 0x800, CODE + 0x40 + nops)
            g.m.set(Reg.RSP, CODE + 0x40 + distance)

        compare(prepare, engine, 40)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("nops", [0, 3])
def test_call_to_itself_with_an_ordinary_stack(engine: str, nops: int) -> None:
    """Each call retires, also where nothing on the stack may be executed."""
    for code in ("e8fbffffff", "ffd0"):

        def prepare(g: Guest, code: str = code) -> None:
            g.put("90" * nops, code)
            g.m.set(Reg.RAX, CODE + nops)
            g.map(g.cr3, STACK - 0x1000, g.stack, P | RW | US | NX)

        exits, state = compare(prepare, engine, 5000)
        assert isinstance(exits[0], Fault)
        assert state[-2] == nops + 512


@pytest.mark.parametrize("engine", OTHERS)
def test_store_that_is_a_block_of_its_own(engine: str) -> None:
    """An instruction that is alone in its block and overwrites itself."""
    for displacement in range(-12, 4):
        store = bytes.fromhex("c605") + (displacement & 0xFFFFFFFF).to_bytes(4, "little") + b"\x90"

        def prepare(g: Guest, store: bytes = store) -> None:
            g.put(b"\xeb\x0e", b"\x90" * 14, store, b"\x90" * 4, b"\xcc")

        exits, _ = compare(prepare, engine, 40)
        assert exits
