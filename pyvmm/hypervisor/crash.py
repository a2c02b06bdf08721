"""The report on a crashed domain: what a person needs to find out why.

Cause, registers, the code around RIP, a symbolised backtrace, the stack, how the fault's address was translated, the
last events. Where the domain's image had symbols, `Domain.symbols` resolves addresses. Reading a broken guest must
never fail: what is unreadable is said to be.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pyvmm.errors import ImageError
from pyvmm.hypervisor import trace
from pyvmm.hypervisor.bounce import is_guest_address
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.unpack import unwrap
from pyvmm.machine import Reg
from pyvmm.machine.decode import disassemble

if TYPE_CHECKING:
    from pyvmm.hypervisor.vcpu import VCpu

WORD, PAGE = 8, 4096
STACK_WORDS = 32  # shown as they are
SCAN_WORDS = 512  # looked through for return addresses when the frame-pointer chain ends early
MAX_FRAMES = 24
BEFORE, AFTER = 24, 32  # bytes of code around RIP
U64 = (1 << 64) - 1

ROWS: tuple[tuple[Reg, ...], ...] = (
    (Reg.RAX, Reg.RBX, Reg.RCX),
    (Reg.RDX, Reg.RSI, Reg.RDI),
    (Reg.RBP, Reg.RSP, Reg.R8),
    (Reg.R9, Reg.R10, Reg.R11),
    (Reg.R12, Reg.R13, Reg.R14),
    (Reg.R15, Reg.FS_BASE, Reg.GS_BASE),
)
SELECTORS = (Reg.CS, Reg.SS, Reg.DS, Reg.ES, Reg.FS, Reg.GS)
LEVELS = ((4, 39), (3, 30), (2, 21), (1, 12))
PTE_FLAGS = ((1, "P"), (2, "RW"), (4, "US"), (32, "A"), (64, "D"), (128, "PS"), (1 << 63, "NX"))


class Symbols:
    """Names of a guest's functions by address. Symbols of size 0 reach to the next one."""

    def __init__(self, symbols: Iterable[tuple[int, int, str]]) -> None:
        self._symbols = sorted(symbols)
        self._starts = [address for address, _, _ in self._symbols]

    @classmethod
    def of_elf(cls, data: bytes) -> Symbols:
        """The functions in a kernel file's symbol table (compressed or not), read when a name is first asked for; none
        if there is no table.
        """
        return _ElfSymbols(data)

    def __len__(self) -> int:
        return len(self._symbols)

    def name(self, address: int) -> str | None:
        """``function+0x12`` for an address inside a symbol, else None."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        start, size, name = self._symbols[at]
        offset = address - start
        if size and offset >= size:
            return None
        return f"{name}+{offset:#x}" if offset else name


class _ElfSymbols(Symbols):
    """Those of an ELF file; a run that does not crash never looks at them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(())
        self._data: bytes | None = data

    def name(self, address: int) -> str | None:
        """See `Symbols.name`."""
        if self._data is not None:
            data, self._data = self._data, None
            super().__init__(_functions(data))
        return super().name(address)


def _functions(data: bytes) -> list[tuple[int, int, str]]:
    """(address, size, name) of an ELF file's functions and labels in code. A damaged table has none."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found = []
    try:
        table = ELFFile(io.BytesIO(unwrap(data, "kernel"))).get_section_by_name(".symtab")
        for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and isinstance(symbol["st_shndx"], int):
                found.append((symbol["st_value"], symbol["st_size"], symbol.name))
    except (ImageError, ELFError, ConstructError, ValueError, KeyError, AttributeError, UnicodeDecodeError):
        return []
    return [entry for entry in found if entry[2]]


class Recent:
    """Keeps the last `size` events of each domain, for the report. It listens as soon as it is made."""

    def __init__(self, bus: trace.Bus, size: int = 24) -> None:
        self._size = size
        self._events: dict[int, deque[trace.Event]] = {}
        self.stop = bus.listen(self._take)

    def _take(self, event: trace.Event) -> None:
        events = self._events.get(event.domid)
        if events is None:
            events = self._events[event.domid] = deque(maxlen=self._size)
        events.append(event)

    def of(self, domid: int) -> list[trace.Event]:
        """The domain's last events, oldest first."""
        return list(self._events.get(domid, ()))


def crash_report(v: VCpu, cause: str) -> str:
    """The report on `v`'s domain, several lines of text. `cause` is the first."""
    lines = [cause, f"Domain {v.domain.domid} ({v.domain.name!r}) vcpu#{v.vcpu_id} crashed at {v.hv.machine.now} ns"]
    if v.context is None or v.hv.machine.current is not v.context:
        return "\n".join(lines)
    for section in (_registers, _code, _backtrace, _stack, _page_walk, _last_events):
        lines += section(v)
    return "\n".join(lines)


def _symbol(v: VCpu, address: int) -> str:
    symbols = v.domain.symbols
    name = symbols.name(address) if symbols is not None else None
    return f" {name}" if name else ""


def _read(v: VCpu, address: int, n: int) -> bytes:
    """Up to `n` bytes, as far as they are readable."""
    out = b""
    while n > 0 and is_guest_address(address):
        size = min(n, PAGE - address % PAGE)
        try:
            out += v.copy_in(address, size)
        except XenError:
            break
        address, n = address + size, n - size
    return out


def _words(v: VCpu, address: int, count: int) -> list[int]:
    data = _read(v, address, count * WORD)
    return [int.from_bytes(data[i : i + WORD], "little") for i in range(0, len(data) - WORD + 1, WORD)]


def _registers(v: VCpu) -> Iterator[str]:
    get = v.hv.machine.get
    mode = "user" if v.user_mode else "kernel"
    rip = get(Reg.RIP)
    yield f"RIP:    {get(Reg.CS):04x}:[<{rip:016x}>]{_symbol(v, rip)}"
    yield f"RFLAGS: {get(Reg.RFLAGS):016x}   MODE: pv guest {mode} (d{v.domain.domid}v{v.vcpu_id})"
    for row in ROWS:
        yield "   ".join(f"{reg.name.lower():>7}: {get(reg):016x}" for reg in row)
    yield "   ".join(f"{reg.name.lower()}: {get(reg):04x}" for reg in SELECTORS)
    yield f"    cr2: {v.ctrlreg[2]:016x}       cr3: {(v.l4_user if v.user_mode else v.l4_kernel) << 12:016x}"


def _code(v: VCpu) -> Iterator[str]:
    rip = v.hv.machine.get(Reg.RIP)
    yield "Code:"
    after = _read(v, rip, AFTER)
    if not after:
        yield f"  {rip:016x}: not readable"
        return
    start, before = rip, b""
    # Go back as far as the bytes decode to instructions that end exactly at RIP.
    for distance in range(min(BEFORE, rip), 0, -1):
        code = _read(v, rip - distance, distance)
        if len(code) == distance and sum(i.size for i in disassemble(code, rip - distance)) == distance:
            start, before = rip - distance, code
            break
    for insn in disassemble(before + after, start):
        mark = "=>" if insn.address == rip else "  "
        yield f"{mark}{insn.address:016x}: {insn.code.hex():<22} {insn}"
    if not disassemble(after, rip, 1):
        yield f"=>{rip:016x}: {after[:8].hex():<22} (not an instruction)"


def _backtrace(v: VCpu) -> Iterator[str]:
    """Return addresses: the chain of frame pointers; where it breaks off at once, what looks like one on the stack."""
    rip, rsp, rbp = v.hv.machine.get_many((Reg.RIP, Reg.RSP, Reg.RBP))
    yield "Backtrace:"
    yield f"   [<{rip:016x}>]{_symbol(v, rip)}"
    frames, last = 0, rsp - 1 if _read(v, rsp, WORD) else 0  # without a stack, RBP may still be good
    while frames < MAX_FRAMES and rbp > last and rbp % WORD == 0:
        pair = _words(v, rbp, 2)
        if len(pair) < 2 or not pair[1]:
            break
        yield f"   [<{pair[1]:016x}>]{_symbol(v, pair[1])}"
        frames, last, rbp = frames + 1, rbp, pair[0]
    if frames:
        return
    for word in _words(v, rsp, SCAN_WORDS):
        if frames < MAX_FRAMES and _looks_like_return(v, word):
            yield f" ? [<{word:016x}>]{_symbol(v, word)}"
            frames += 1


def _looks_like_return(v: VCpu, address: int) -> bool:
    """`address` is inside a function and follows a call; without symbols, only the latter counts."""
    if v.domain.symbols is not None and v.domain.symbols.name(address) is None:
        return False
    before = _read(v, address - 7, 7) if 7 < address < U64 - 16 else b""
    if len(before) < 7:
        return False
    for distance in (5, 2, 3, 6, 7):
        code = before[7 - distance :]
        insns = disassemble(code, address - distance, 1)
        if insns and insns[0].size == distance and insns[0].mnemonic == "call":
            return True
    return False


def _stack(v: VCpu) -> Iterator[str]:
    rsp = v.hv.machine.get(Reg.RSP)
    yield f"Guest stack from rsp={rsp:016x}:"
    words = _words(v, rsp, STACK_WORDS)
    if not words:
        yield "   not readable"
    for i in range(0, len(words), 4):
        yield "   " + " ".join(f"{word:016x}" for word in words[i : i + 4])


def _page_walk(v: VCpu) -> Iterator[str]:
    """How the last page fault's address is translated."""
    address = v.ctrlreg[2]
    if not address:
        return
    ram = v.hv.machine.ram
    table = v.l4_user if v.user_mode else v.l4_kernel
    yield f"Pagetable walk from {address:016x}:"
    for level, shift in LEVELS:
        index = address >> shift & 511
        pa = (table << 12) + index * WORD
        if pa + WORD > ram.size:
            yield f"   L{level}[{index:#05x}]: outside memory"
            return
        entry = ram.read_u64(pa)
        flags = " ".join(name for bit, name in PTE_FLAGS if entry & bit)
        yield f"   L{level}[{index:#05x}] = {entry:016x} {flags}".rstrip()
        if not entry & 1 or (entry & 128 and level in (2, 3)):
            return
        table = entry >> 12 & 0xFFFFFFFFFF


def _last_events(v: VCpu) -> Iterator[str]:
    recent = v.hv.recent
    events = recent.of(v.domain.domid) if recent is not None else []
    if events:
        yield "Last events:"
        yield from (f"   {event}" for event in events)
