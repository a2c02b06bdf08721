"""The registers a user of the machine may name, and where they live in Unicorn."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from unicorn import x86_const as uc


class Reg(IntEnum):
    """A register. The values are Unicorn's numbers, so that no translation is needed on the way down."""

    RAX = uc.UC_X86_REG_RAX
    RBX = uc.UC_X86_REG_RBX
    RCX = uc.UC_X86_REG_RCX
    RDX = uc.UC_X86_REG_RDX
    RSI = uc.UC_X86_REG_RSI
    RDI = uc.UC_X86_REG_RDI
    RBP = uc.UC_X86_REG_RBP
    RSP = uc.UC_X86_REG_RSP
    R8 = uc.UC_X86_REG_R8
    R9 = uc.UC_X86_REG_R9
    R10 = uc.UC_X86_REG_R10
    R11 = uc.UC_X86_REG_R11
    R12 = uc.UC_X86_REG_R12
    R13 = uc.UC_X86_REG_R13
    R14 = uc.UC_X86_REG_R14
    R15 = uc.UC_X86_REG_R15
    RIP = uc.UC_X86_REG_RIP
    RFLAGS = uc.UC_X86_REG_RFLAGS
    CS = uc.UC_X86_REG_CS
    SS = uc.UC_X86_REG_SS
    DS = uc.UC_X86_REG_DS
    ES = uc.UC_X86_REG_ES
    FS = uc.UC_X86_REG_FS
    GS = uc.UC_X86_REG_GS
    FS_BASE = uc.UC_X86_REG_FS_BASE
    GS_BASE = uc.UC_X86_REG_GS_BASE
    CR2 = uc.UC_X86_REG_CR2


# The same as plain numbers, for code that runs at every exit: to look up a member of an enum costs as much as reading
# the
# register.
RAX: Final = int(Reg.RAX)
RBX: Final = int(Reg.RBX)
RCX: Final = int(Reg.RCX)
RDX: Final = int(Reg.RDX)
RSI: Final = int(Reg.RSI)
RDI: Final = int(Reg.RDI)
RBP: Final = int(Reg.RBP)
RSP: Final = int(Reg.RSP)
R8: Final = int(Reg.R8)
R10: Final = int(Reg.R10)
R11: Final = int(Reg.R11)
RIP: Final = int(Reg.RIP)
RFLAGS: Final = int(Reg.RFLAGS)
CR2: Final = int(Reg.CR2)
CS: Final = int(Reg.CS)
SS: Final = int(Reg.SS)

#: Registers that only `Machine.load_segments` may change.
SELECTORS: Final = frozenset({Reg.CS, Reg.SS, Reg.DS, Reg.ES, Reg.FS, Reg.GS})

# RFLAGS bits (Intel SDM volume 1, 3.4.3).
FLAG_TF: Final = 1 << 8
FLAG_IF: Final = 1 << 9
FLAG_FIXED: Final = 1 << 1

# The state in which every vCPU runs (Intel SDM volume 3, 2.5 and 2.2.1).
CR0: Final = 0x80050033  # PG AM WP NE ET MP PE: what Xen shows its guests
CR4_TSD: Final = 1 << 2
CR4: Final = 0x620 | CR4_TSD  # PAE, OSFXSR, OSXMMEXCPT; rdtsc must not show the host's time
MSR_EFER: Final = 0xC0000080
EFER: Final = 0xD01  # SCE LME LMA NXE

#: Order of a 64-bit CPU's general registers in the encoding, which is also Unicorn's order in its CPU structure.
ENCODING_ORDER: Final = (
    Reg.RAX, Reg.RCX, Reg.RDX, Reg.RBX, Reg.RSP, Reg.RBP, Reg.RSI, Reg.RDI,
    Reg.R8, Reg.R9, Reg.R10, Reg.R11, Reg.R12, Reg.R13, Reg.R14, Reg.R15,
)  # fmt: skip
