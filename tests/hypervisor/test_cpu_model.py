"""The CPU executes what its CPUID says it has, and nothing that would show the host: an instruction whose feature bit
is clear raises #UD. Feature bits: Intel SDM volume 2 (CPUID), AMD APM volume 3 (appendix E)."""

from __future__ import annotations

import pytest

from pyvmm.hypervisor.cpuid import NATIVE, ZERO
from pyvmm.hypervisor.trace import EXCEPTION, Event
from tests.hypervisor.code_guest import DATA, NOP, CodeGuest

EAX, EBX, ECX, EDX = range(4)
L1C, L1D, L7B, L7C = (1, ECX), (1, EDX), (7, EBX), (7, ECX)
X1C, X1D = (0x80000001, ECX), (0x80000001, EDX)

# Instruction, its bytes (memory operands at RBX), the leaf's register and the bit.
TABLE: dict[str, tuple[str, tuple[int, int], int]] = {
    "xbegin": ("c7f800000000", L7B, 11), "xabort": ("c6f800", L7B, 11), "xend": ("0f01d5", L7B, 11),
    "xtest": ("0f01d6", L7B, 11), "rdrand": ("0fc7f0", L1C, 30), "rdrand, 64 bits": ("480fc7f0", L1C, 30),
    "rdseed": ("0fc7f8", L7B, 18), "rdpid": ("f30fc7f8", L7C, 22), "rdtscp": ("0f01f9", X1D, 27),
    "xgetbv": ("0f01d0", L1C, 27), "xsave": ("0fae23", L1C, 27), "xrstor": ("0fae2b", L1C, 27),
    "clflush": ("0fae3b", L1D, 19), "clflushopt": ("660fae3b", L7B, 23), "clwb": ("660fae33", L7B, 24),
    "rdfsbase": ("f3480faec0", L7B, 0), "wrgsbase": ("f3480faed8", L7B, 0), "invpcid": ("660f388203", L7B, 10),
    "popcnt": ("f30fb8c1", L1C, 23), "crc32": ("f20f38f0c1", L1C, 20), "movbe": ("0f38f003", L1C, 22),
    "adcx": ("660f38f6c1", L7B, 19), "andn": ("c4e270f2c1", L7B, 3), "pdep": ("c4e273f5c1", L7B, 8),
    "pshufb": ("660f3800c1", L1C, 9), "pblendvb": ("660f3810c1", L1C, 19), "pcmpgtq": ("660f3837c1", L1C, 20),
    "aesenc": ("660f38dcc1", L1C, 25), "pclmulqdq": ("660f3a44c100", L1C, 1), "sha1nexte": ("0f38c8c1", L7B, 29),
    "addsubpd": ("660fd0c1", L1C, 0), "lddqu": ("f20ff003", L1C, 0), "monitor": ("0f01c8", L1C, 3),
    "clac": ("0f01ca", L7B, 20), "vmcall": ("0f01c1", L1C, 5), "3dnow": ("0f0fc10d", X1D, 31),
    "cmpxchg16b": ("480fc70b", L1C, 13), "cmpxchg8b": ("0fc70b", L1D, 8), "lahf": ("9f", X1C, 0),
    "vpaddd": ("c5f5fec1", L7B, 5), "vfmadd": ("c4e27198c1", L1C, 12), "vcvtph2ps": ("c4e27913c1", L1C, 29),
    "rdpkru": ("0f01ee", L7C, 4), "movdiri": ("0f38f903", L7C, 27), "gf2p8mulb": ("660f38cfc1", L7C, 8),
    "sqrtps": ("0f51c1", L1D, 25), "sqrtpd": ("660f51c1", L1D, 26), "emms": ("0f77", L1D, 23),
    "cmov": ("0f44c1", L1D, 15),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["pure", "auto", "step"])
def test_an_instruction_without_its_feature_bit_is_undefined(engine: str) -> None:
    wrong = []
    for name, (code, (leaf, register), bit) in TABLE.items():
        has = NATIVE.get(leaf, ZERO)[register] >> bit & 1
        for before in (b"", NOP):  # at the start of a block, and inside one
            guest = CodeGuest(before + bytes.fromhex(code) + NOP * 16, engine=engine)
            raised: list[Event] = []
            guest.hv.trace.listen(raised.append)
            guest.ready()
            guest.set(rbx=DATA)
            guest.run(len(before) + 1)
            vectors = [event.values[0] for event in raised if event.kind is EXCEPTION]
            if vectors != ([] if has else [6]):
                wrong.append((name, before, has, vectors))
    assert wrong == []
