"""Exact counts: every engine against single-stepping, on the cases where counting by blocks could go wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.machine import BudgetUsed, Exit, Fault, Machine, Reg, SoftInt, Syscall
from tests.machine.machine_guest import CODE, DATA, RW, STACK, US, Guest, P
from tests.machine.test_machine_basics import ENGINES

Answer = tuple[int, int, int, int] | None
OTHERS = [e for e in ENGINES if e != "step"]


def finish(g: Guest, limit: int = 5000, slices: int | None = None) -> list[Exit]:
    """Runs to the first exit that is not the end of a slice."""
    exits: list[Exit] = []
    while limit > 0:
        n = min(limit, slices or limit)
        e = g.m.run(n)
        limit -= n
        if e != BudgetUsed():
            exits.append(e)
            break
    return exits


def compare(prepare: Callable[[Guest], object], engine: str, limit: int = 5000) -> tuple[list[Exit], tuple[int, ...]]:
    """Runs the same guest on `engine`, whole and in slices, and on the stepper; all must agree."""
    results = []
    for name, slices in (("step", None), (engine, None), (engine, 1), (engine, 7), ("step", 3)):
        g = Guest(name)
        prepare(g)
        exits = finish(g, limit, slices)
        results.append((exits, g.state(), g.m.ram.read(g.data, 8192), g.m.ram.read(g.stack, 4096)))
    for r in results[1:]:
        assert r[:2] == results[0][:2]
        assert r[2:] == results[0][2:]
    return results[0][0], results[0][1]


CASES: dict[str, list[str]] = {
    "rep stosb": ["bf00005000", "b964000000", "b055", "f3aa", "90", "cc"],
    "rep stosq twice": ["bf00005000", "b910000000", "f348ab", "b903000000", "f348ab", "cc"],
    "rep with zero": ["31c9", "f3aa", "f3a4", "90", "cc"],
    "rep movsb": ["be00005000", "bf00085000", "b920000000", "f3a4", "cc"],
    "rep lodsb": ["be00005000", "b920000000", "f3ac", "cc"],
    "repne scasb early": ["c6050000100000", "bf00005000", "b920000000", "b001", "c604250500500001", "f2ae", "cc"],
    "repne scasb last": ["bf00005000", "b906000000", "b001", "c604250500500001", "f2ae", "cc"],
    "repne scasb one": ["bf00005000", "b901000000", "b001", "f2ae", "cc"],
    "repne scasb zero": ["bf00005000", "31c9", "b001", "f2ae", "cc"],
    "repe cmpsb": ["be00005000", "bf00105000", "b910000000", "c604250410500009", "f3a6", "cc"],
    "addr32 rep": ["48b90500000001000000", "bf00005000", "67f3aa", "cc"],
    "jump to rep": ["bf00005000", "b905000000", "eb00", "f3aa", "83c301", "83fb03", "b905000000", "75f4", "cc"],
    "rep faults in the middle": ["bfe01f5000", "b964000000", "f3aa", "cc"],
    "scas faults in the middle": ["bfe01f5000", "b964000000", "b001", "f2ae", "cc"],
    "fault first": ["488b0425000000 00".replace(" ", ""), "cc"],
    "fault late": ["90", "90", "ffc0", "488b042500000000", "90", "90", "cc"],
    "push fault": ["bc00005000", "50", "90", "50", "cc"],
    "ud2": ["90", "0f0b", "90"],
    "divide": ["31c9", "90", "f7f1", "90"],
    "in": ["90", "e460", "90", "cc"],
    "out dx": ["90", "90", "ee", "90", "cc"],
    "ins": ["90", "6c", "90", "cc"],
    "hlt": ["90", "f4", "90"],
    "cli": ["90", "fa", "90"],
    "int 0x80": ["90", "cd80", "90"],
    "int 14": ["90", "cd0e", "90"],
    "jump to self with budget": ["90", "ebfe"],
    "call ret": ["b90a000000", "e802000000", "eb03", "ffc3", "c3", "ffc9", "75f3", "cc"],
    "pushf popf": ["9c", "58", "50", "9d", "9c", "5b", "cc"],
    "rdtsc": ["90", "0f31", "4889c3", "90", "0f31", "cc"],
    "rdtsc with prefixes": ["ffc0", "0f31", "4889c3", "660f31", "01d8", "480f31", "f30f31", "01c3", "cc"],
    "rdtsc before a fault": ["ffc0", "0f31", "ffc3", "488b042500000000", "0f31", "cc"],
    "rdtsc before a repeated one": ["bf00005000", "b904000000", "0f31", "f3aa", "0f31", "cc"],
    "rdtsc that is written over": ["0f31", "89c3", "66c7050000000090 90".replace(" ", ""), "0f31", "0f31", "cc"],
    "registers only, whatever ModRM says": ["0f5005", "0f7215 01".replace(" ", ""), "f20fd605", "0f31", "ffc0", "cc"],
    "VEX cut off": ["ffc0", "488b042500000000", "ffc0", "f3c4e2"],
    "cpuid": ["31c0", "0fa2", "90", "cc"],
    "own trap flag": ["9c", "810c2400010000", "9d", "90", "90", "cc"],
    "wild jump": ["90", "48b80000000000100000", "ffe0"],
    "non-canonical jump": ["90", "48b80000000000f00000", "ffe0"],
    "sse": ["0f28042500005000", "0f58c0", "f20f2ac1", "0f29042510005000", "cc"],
    "lock without memory": ["90", "f0ffc0", "90"],
    "far too long": ["90", "66" * 15 + "90"],
    "mov ss": ["b82b000000", "8ed0", "90", "90", "cc"],
    "bad segment": ["b803100000", "8ed8", "cc"],
}  # fmt: skip


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("case", CASES)
def test_case(case: str, engine: str) -> None:
    exits, state = compare(lambda g: g.put(*CASES[case]), engine, 300)
    if "budget" not in case:
        assert exits and state


def test_rep_counts() -> None:
    """What the counters must be, by the rule and not by comparison."""
    for engine in ENGINES:
        g = Guest(engine)
        g.put("bf00005000", "b964000000", "b055", "f3aa", "90", "cc")
        assert g.m.run(100) == SoftInt(3, 1)
        assert (g.m.instructions, g.m.rep_iterations) == (6, 100)
        g = Guest(engine)
        g.put("bf00005000", "b906000000", "b001", "c604250500500001", "f2ae", "cc")
        assert g.m.run(100) == SoftInt(3, 1)
        assert (g.m.instructions, g.m.rep_iterations) == (6, 6)
        g = Guest(engine)
        g.put("bfe01f5000", "b964000000", "f3aa", "cc")
        assert g.m.run(100) == Fault(14, 6, 0x502000)
        assert (g.m.instructions, g.m.rep_iterations, g.m.get(Reg.RCX)) == (2, 32, 68)


@pytest.mark.parametrize("engine", OTHERS)
def test_rep_resumes_after_its_fault(engine: str) -> None:
    results = []
    for name in ("step", engine):
        g = Guest(name)
        g.put("bfe01f5000", "b964000000", "f3aa", "90", "cc")
        assert g.m.run(100) == Fault(14, 6, 0x502000)
        g.map(g.cr3, 0x502000, g.frame())
        assert g.m.run(100) == SoftInt(3, 1)
        results.append(g.state())
        assert (g.m.instructions, g.m.rep_iterations) == (5, 100)
    assert results[0] == results[1]


@pytest.mark.parametrize("engine", OTHERS)
def test_fetch_across_an_unmapped_page(engine: str) -> None:
    """The engine translates ahead into the missing page; the fault belongs to the instruction that needs it."""

    def prepare(g: Guest) -> None:
        g.m.write_pte(g.m.translate(CODE + 0x1000) and _pte(g, CODE + 0x1000), 0)
        g.put("90" * 5, "ffc0", "48b8", at=0xFF7)  # the last instruction lacks its last bytes
        g.m.set(Reg.RIP, CODE + 0xFF7)

    exits, state = compare(prepare, engine)
    assert exits == [Fault(14, 0x14, CODE + 0x1000)]
    assert state[-2] == 6 and state[10] == CODE + 0xFFE


def _pte(g: Guest, va: int) -> int:
    table = g.cr3
    for shift in (39, 30, 21):
        table = g.m.ram.read_u64(table + 8 * (va >> shift & 511)) & 0xFFFFFFFFFF000
    return table + 8 * (va >> 12 & 511)


@pytest.mark.parametrize("engine", OTHERS)
def test_guest_modifies_code_behind_it(engine: str) -> None:
    """A loop patches one of its own later blocks each time round."""
    # 1: mov %bl,(1f) ; jmp 2f ; 2: nop nop ; ... toggles a nop into inc %eax (ffc0) and back
    code = [
        "b906000000",  # mov $6,%ecx
        "66c705 1200 0000 ffc0".replace(" ", ""),  # L: movw $0xc0ff, T(%rip)
        "f6c101",  # test $1,%cl
        "7509",  # jne +9
        "66c705 0400 0000 6690".replace(" ", ""),  # movw $0x9066, T(%rip)
        "eb02", "0f1f", "6690",  # jmp T; pad; T: patched
        "ffc9", "75dd", "cc",
    ]  # fmt: skip
    raw = bytes.fromhex("".join(code))
    target = raw.index(bytes.fromhex("6690ffc9"))
    first, second = 5, 5 + 9 + 3 + 2
    patched = bytearray(raw)
    patched[first + 3 : first + 7] = (target - (first + 9)).to_bytes(4, "little")
    patched[second + 3 : second + 7] = (target - (second + 9)).to_bytes(4, "little")
    jump = second + 9
    patched[jump + 1] = target - (jump + 2)
    patched[target + 5] = (first - (target + 6)) & 0xFF
    exits, state = compare(lambda g: g.put(bytes(patched)), engine)
    assert exits == [SoftInt(3, 1)]
    assert state[0] == 3  # eax


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("distance", range(0, 24))
def test_guest_modifies_the_block_it_is_in(engine: str, distance: int) -> None:
    """A store into the executing block, before, at and after itself; the block changes its number of instructions."""
    for value in ("90909090", "66666690", "ffc0ffc3"):
        code = ["bb01000000", "90", "90", f"c705{(distance - 12) & 0xFFFFFFFF:08x}"]
        raw = bytearray(bytes.fromhex("".join(code[:3])))
        at = len(raw)
        raw += bytes.fromhex("c705") + (distance - (at + 10)).to_bytes(4, "little", signed=True) + bytes.fromhex(value)
        raw += bytes.fromhex("90909090ffc0ffc0ffc0cc") + b"\x90" * 16 + b"\xcc"
        exits, _ = compare(lambda g, raw=raw: g.put(bytes(raw)), engine, 200)  # type: ignore[misc]
        assert exits


@pytest.mark.parametrize("engine", ENGINES)
def test_host_writes_are_seen(engine: str) -> None:
    """The host changes code that was executed, by every kind of write."""
    g = Guest(engine)
    ram = g.m.ram
    inc, add2 = bytes.fromhex("ffc090cc"), bytes.fromhex("83c002cc")

    def copied(b: bytes) -> None:
        ram.write(g.data, b)
        ram.copy(g.code, g.data, 4)

    def bytewise(b: bytes) -> None:
        for i, x in enumerate(b):
            ram.write_u8(g.code + i, x)

    def halfwise(b: bytes) -> None:
        for i in (0, 2):
            ram.write_u16(g.code + i, int.from_bytes(b[i : i + 2], "little"))

    def filled(b: bytes) -> None:
        ram.fill(g.code, 4, 0xCC)
        ram.write(g.code, b)

    writes: list[Callable[[bytes], object]] = [
        lambda b: ram.write(g.code, b),
        lambda b: ram.write_u32(g.code, int.from_bytes(b, "little")),
        copied,
        bytewise,
        halfwise,
        lambda b: ram.write_u64(g.code, int.from_bytes(b, "little")),
        filled,
    ]
    for write in writes:
        for code, eax, n in ((inc, 1, 3), (add2, 2, 2), (inc, 1, 3)):
            write(code)
            before = g.m.instructions
            g.m.set(Reg.RAX, 0)
            g.m.set(Reg.RIP, CODE)
            assert g.m.run(100) == SoftInt(3, 1)
            assert g.m.get(Reg.RAX) == eax
            assert g.m.instructions - before == n


@pytest.mark.parametrize("engine", ENGINES)
def test_host_writes_in_a_callback_are_seen(engine: str) -> None:
    g = Guest(engine)
    g.put("bb03000000", "0f05", "ffc0", "90", "ffcb", "75f7", "cc")
    turn = 0

    def handler(*args: int) -> int:
        nonlocal turn
        turn += 1
        g.m.ram.write(g.code + 7, bytes.fromhex("83c00a" if turn == 2 else "ffc090"))
        return 100 * turn

    g.m.on_syscall = handler
    seen = []
    for _ in range(14):
        g.m.run(1)
        seen.append(g.m.get(Reg.RAX))
    whole = Guest(engine)
    turn = 0
    whole.m.on_syscall = lambda *a: handler(*a)
    g2, g = g, whole
    g.put("bb03000000", "0f05", "ffc0", "90", "ffcb", "75f7", "cc")
    assert g.m.run(100) == SoftInt(3, 1)
    assert g.m.get(Reg.RAX) == 301
    assert g.m.instructions == 1 + 5 + 4 + 5 + 1
    assert max(seen) == 301 and 210 in seen and g2.m.instructions == 14


@pytest.mark.parametrize("engine", ENGINES)
def test_two_spaces_with_different_code_at_one_address(engine: str) -> None:
    """Same linear address, same size, another number of instructions."""
    g = Guest(engine)
    m = g.m
    other_code = g.frame()
    m.ram.write(g.code, bytes.fromhex("90909090ebfa"))
    m.ram.write(other_code, bytes.fromhex("0f1f4000ebfa"))
    other = g.space(other_code)
    a, b = m.current, m.new_context()
    m.switch(b)
    g.use(other)
    for _ in range(5):
        for context, per_loop in ((a, 5), (b, 2)):
            m.switch(context)
            m.set(Reg.RIP, CODE)
            before = m.instructions
            assert m.run(per_loop * 10) == BudgetUsed()
            assert m.instructions - before == per_loop * 10
            assert m.get(Reg.RIP) == CODE


@pytest.mark.parametrize("engine", ENGINES)
def test_code_page_remapped(engine: str) -> None:
    """A page-table entry changes between runs, and inside a callback."""
    g = Guest(engine)
    m = g.m
    one, two = g.frame(), g.frame()
    m.ram.write(one, bytes.fromhex("0f0590909090cc"))
    m.ram.write(two, bytes.fromhex("0f050f1f4000cc"))
    pte = _pte(g, CODE)
    frames = [one, two]

    def handler(*args: int) -> int:
        if args[0]:
            m.write_pte(pte, frames[1] | P | RW | US)
        return 0

    m.on_syscall = handler
    for swap in (0, 1, 0, 1, 1, 0):
        m.write_pte(pte, one | P | RW | US)
        m.set(Reg.RIP, CODE)
        m.set(Reg.RAX, swap)
        before = m.instructions
        assert m.run(100) == SoftInt(3, 1)
        assert m.instructions - before == (3 if swap else 6)


def test_alias_write() -> None:
    """Code changed by the guest through another linear address."""
    for engine in OTHERS:

        def prepare(g: Guest) -> None:
            g.map(g.cr3, DATA + 0x3000, g.code)
            g.put("b903000000", "ffc0", "6690", "c704250530500083c00590", "ffc9", "75ed", "cc")

        exits, state = compare(prepare, engine)
        assert exits == [SoftInt(3, 1)]
        assert state[0] == 1 + 5 + 5


def test_giant_rep_is_interrupted() -> None:
    for engine in [e for e in ENGINES if e == "fast"]:
        g = Guest(engine)
        g.put("48c7c1ffffffff", "be00005000", "67f3ac", "cc")
        # A 32-bit address counter wraps over 4 GiB; here it faults at the end of the data pages instead.
        assert g.m.run(100) == Fault(14, 4, DATA + 0x2000)
        assert g.m.rep_iterations == 0x2000


def test_time(tmp_path: object) -> None:
    for engine in ENGINES:
        g = Guest(engine)
        m = g.m
        g.put("90", "0f31", "4889c3", "0f31", "cc")
        m.charge(1000)
        m.skip_to(5000)
        assert m.now == 5000
        assert m.run(100) == SoftInt(3, 1)
        assert (m.get(Reg.RBX), m.get(Reg.RAX), m.get(Reg.RDX)) == (5001, 5003, 0)
        assert m.now == 5000 + m.instructions


def test_cpuid_callback() -> None:
    for engine in ENGINES:
        g = Guest(engine)
        seen: list[tuple[int, ...]] = []

        def cpuid(leaf: int, subleaf: int, g: Guest = g, seen: list[tuple[int, ...]] = seen) -> Answer:
            seen.append((leaf, subleaf, g.m.instructions))
            return (1, 2, 3, 4) if leaf == 7 else None

        g.m.on_cpuid = cpuid
        g.put("90", "b807000000", "b909000000", "0fa2", "90", "cc")
        assert g.m.run(100) == SoftInt(3, 1)
        assert seen == [(7, 9, 3)]
        assert g.m.get_many([Reg.RAX, Reg.RBX, Reg.RCX, Reg.RDX]) == [1, 2, 3, 4]
        assert g.m.instructions == 6


def test_declined_syscall_keeps_registers() -> None:
    for engine in ENGINES:
        g = Guest(engine)
        g.m.on_syscall = lambda *a: None
        g.put("b911000000", "41bb22000000", "0f05", "cc")
        for n in (100, 1):
            g.m.set(Reg.RIP, CODE)
            while (e := g.m.run(n)) == BudgetUsed():
                pass
            assert e == Syscall()
            assert g.m.get_many([Reg.RCX, Reg.R11, Reg.RIP]) == [0x11, 0x22, CODE + 13]


def test_stack_constant() -> None:
    assert STACK > DATA and isinstance(Machine, type)


@pytest.mark.parametrize("engine", ENGINES)
def test_rdtsc_counts_what_came_before(engine: str) -> None:
    """Wherever it is in its block, and wherever a budget ends; with what was charged."""
    for before in range(5):
        for first in range(1, 9):
            g = Guest(engine)
            g.put(*["90"] * before, "0f31", "4889c3", "90", "0f31", "90", "cc")
            g.m.charge(1000)
            exits = [g.m.run(first)]
            while exits[-1] == BudgetUsed():
                exits.append(g.m.run(2))
            assert exits[-1] == SoftInt(3, 1) and g.m.instructions == before + 6
            assert (g.m.get(Reg.RBX), g.m.get(Reg.RAX)) == (1000 + before, 1000 + before + 3)
